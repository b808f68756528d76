//! Notes as imported, and the rules that documents and reports share. `document.rs` reads a `DocumentReference` and
//! `report.rs` a `DiagnosticReport`.

use super::author::Author;
use super::date::{DateBound, parse_instant};
use super::element::{CodeableConcept, LOINC, Meta, SourceElements, code_like, non_blank};
use super::{FhirError, ImportedResource, ResourceKind, SourceRef};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// The type of documents that have no LOINC code.
const DEFAULT_TYPE: (&str, &str) = ("34109-9", "Note");

/// A note as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedNote {
    /// `DocumentReference/<id>` or `DiagnosticReport/<id>` in the source.
    pub key: String,
    /// The patient whom the note is about.
    pub patient: SourceRef,
    /// The first encounter that the source names. The keys of the others are in the source elements.
    pub encounter: Option<SourceRef>,
    /// The author, if the source names one who is or may be staff.
    pub author: Option<Author>,
    /// The LOINC document type.
    pub kind: NoteType,
    /// The status that Cordon derives from the source's.
    pub status: NoteStatus,
    /// The status of the source, if it has the form of a code.
    pub source_status: Option<String>,
    /// When the note was written; `None` if the source has no date that says so.
    pub authored_at: Option<DateTime<Utc>>,
    /// The title, if the source has one.
    pub title: Option<String>,
    /// The plain text of the note; never blank.
    pub body: String,
    /// Elements of the source that have no column of their own.
    pub source: SourceElements,
}

/// A LOINC document type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct NoteType {
    /// The LOINC code, such as `34117-2`.
    pub code: String,
    /// The name for people, such as `History and physical note`, or the code if the source gives no name.
    pub display: String,
}

/// The status that a note gets when it is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NoteStatus {
    /// The note is final.
    Signed,
    /// The note was changed after it was final.
    Amended,
    /// The note was entered in error; its text is not shown.
    Retracted,
    /// The note is not final; it is shown without the claim that it is signed.
    Uncosigned,
}

impl NoteStatus {
    /// Returns the name that the database and the API use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signed => "SIGNED",
            Self::Amended => "AMENDED",
            Self::Retracted => "RETRACTED",
            Self::Uncosigned => "UNCOSIGNED",
        }
    }
}

impl ImportedResource for ImportedNote {
    const KIND: ResourceKind = ResourceKind::DocumentReference;

    fn key(&self) -> &str {
        &self.key
    }
}

impl ImportedNote {
    /// Adds the version of the source and the categories to the source elements.
    pub(super) fn with_meta_and_category(mut self, meta: Option<Meta>, category: Option<Value>) -> Self {
        self.source.version = SourceElements::new(None, meta).version;
        self.source = self.source.keep("category", category);
        self
    }
}

/// Returns the first LOINC code of the concepts. The original concepts are in the source elements.
pub(super) fn note_type<'t>(concepts: impl Iterator<Item = &'t CodeableConcept<'t>>) -> NoteType {
    for concept in concepts {
        for coding in concept.coding.iter().filter(|coding| non_blank(&coding.system) == Some(LOINC)) {
            if let Some(code) = code_like(non_blank(&coding.code)) {
                let display = non_blank(&coding.display).unwrap_or(&code).to_owned();
                return NoteType { code, display };
            }
        }
    }
    let (code, display) = DEFAULT_TYPE;
    NoteType { code: code.into(), display: display.into() }
}

/// Returns the date that the resource gives, or else the time at which its server last updated it.
pub(super) fn authored_at(date: Option<&str>, meta: Option<&Meta>) -> Result<Option<DateTime<Utc>>, FhirError> {
    let last_updated = || meta.and_then(|meta| parse_instant(meta.last_updated.as_deref()?, DateBound::First).ok());
    match date {
        Some(text) => parse_instant(text, DateBound::First).map(Some),
        None => Ok(last_updated()),
    }
}
