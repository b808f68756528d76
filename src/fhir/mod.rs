//! FHIR R4 read into plain structs: what a resource says, in Cordon's words.
//! Pure: text in, structs out. Knows no database, no tenant and no file; what cannot be read is a [`Defect`], which never carries content.
//! References stay references (`SourceRef`): who they mean is found out by the importer, which has seen the whole input.

mod attachment;
mod bundle;
mod date;
mod element;
mod encounter;
mod note;
mod patient;
mod practitioner;
mod reference;
mod report;

pub use bundle::{Entry, Method};
pub use element::{Identifier, Provenance};
pub use encounter::{EncounterStatus, ImportedEncounter};
pub use note::{Author, ImportedNote, NoteStatus, NoteType, Standing};
pub use patient::{HumanName, ImportedPatient, PatientIdentifier, Sex};
pub use practitioner::ImportedPractitioner;
pub use reference::{Aliases, Place, SourceRef};

use element::Text;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Why a resource was not read. Stable codes; never a value of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Defect {
    /// Not JSON, cut short, or text that is no Unicode (half a surrogate pair).
    #[error("malformed_json")]
    MalformedJson,
    /// Bytes that are not UTF-8.
    #[error("invalid_utf8")]
    InvalidUtf8,
    /// JSON, but not a FHIR resource.
    #[error("not_fhir")]
    NotFhir,
    /// A FHIR resource with an element of the wrong kind.
    #[error("invalid_resource")]
    InvalidResource,
    /// Neither an id nor a `fullUrl`: a second import could not know it again.
    #[error("no_id")]
    NoId,
    /// An id that could not be referred to.
    #[error("invalid_id")]
    InvalidId,
    /// Nobody it is about.
    #[error("no_subject")]
    NoSubject,
    /// About a group, a device or a place.
    #[error("subject_not_patient")]
    SubjectNotPatient,
    /// A date that is not in the calendar, or not written as FHIR writes dates.
    #[error("invalid_date")]
    InvalidDate,
    /// U+0000 in a text: no database can be trusted with it.
    #[error("nul_character")]
    NulCharacter,
    /// A note without a word.
    #[error("empty_note")]
    EmptyNote,
    /// `data` that is not base64.
    #[error("bad_base64")]
    BadBase64,
    /// Text that is not in the charset it names, or not UTF-8 where it names none.
    #[error("not_utf8")]
    NotUtf8,
    /// A charset other than UTF-8, ASCII, Latin-1 and Windows-1252.
    #[error("unsupported_charset")]
    UnsupportedCharset,
    /// The text lies elsewhere; nothing is fetched during an import.
    #[error("attachment_by_reference")]
    AttachmentByReference,
    /// A PDF, an image, an XML document: no text to show.
    #[error("attachment_not_text")]
    AttachmentNotText,
}

impl Defect {
    /// The code that stands in the file of rejects.
    pub fn code(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotFhir => "not_fhir",
            Self::InvalidResource => "invalid_resource",
            Self::NoId => "no_id",
            Self::InvalidId => "invalid_id",
            Self::NoSubject => "no_subject",
            Self::SubjectNotPatient => "subject_not_patient",
            Self::InvalidDate => "invalid_date",
            Self::NulCharacter => "nul_character",
            Self::EmptyNote => "empty_note",
            Self::BadBase64 => "bad_base64",
            Self::NotUtf8 => "not_utf8",
            Self::UnsupportedCharset => "unsupported_charset",
            Self::AttachmentByReference => "attachment_by_reference",
            Self::AttachmentNotText => "attachment_not_text",
        }
    }
}

impl From<serde_json::Error> for Defect {
    fn from(error: serde_json::Error) -> Self {
        if error.is_data() { Self::InvalidResource } else { Self::MalformedJson }
    }
}

/// The types that are read; every other one is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// `Practitioner`.
    Practitioner,
    /// `Patient`.
    Patient,
    /// `Encounter`.
    Encounter,
    /// `DocumentReference`.
    DocumentReference,
    /// `DiagnosticReport`.
    DiagnosticReport,
}

impl ResourceKind {
    /// By the name FHIR gives the type.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "Practitioner" => Some(Self::Practitioner),
            "Patient" => Some(Self::Patient),
            "Encounter" => Some(Self::Encounter),
            "DocumentReference" => Some(Self::DocumentReference),
            "DiagnosticReport" => Some(Self::DiagnosticReport),
            _ => None,
        }
    }

    /// The name FHIR gives the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Practitioner => "Practitioner",
            Self::Patient => "Patient",
            Self::Encounter => "Encounter",
            Self::DocumentReference => "DocumentReference",
            Self::DiagnosticReport => "DiagnosticReport",
        }
    }
}

/// What is seen of a resource without reading it: that it is whole, its type and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// `resourceType`.
    pub type_name: String,
    /// `id`.
    pub id: Option<String>,
    /// A report that carries its text with it (`presentedForm`).
    pub presented: bool,
}

/// Checks that `text` is one whole FHIR resource and tells which.
pub fn glance(text: &str) -> Result<Glance, Defect> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Resource<'a> {
        #[serde(borrow)]
        resource_type: Option<Text<'a>>,
        #[serde(borrow)]
        id: Option<Text<'a>>,
        presented_form: Option<IgnoredAny>,
    }
    // An array would be read as the fields of the struct, in order.
    if !text.trim_start().starts_with('{') {
        return Err(Defect::NotFhir);
    }
    let resource: Resource = serde_json::from_str(text)?;
    let type_name = resource.resource_type.ok_or(Defect::NotFhir)?.0.into_owned();
    let plausible = type_name.len() <= 64 && type_name.starts_with(|c: char| c.is_ascii_uppercase());
    if !plausible || !type_name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Defect::NotFhir);
    }
    Ok(Glance { type_name, id: resource.id.map(|id| id.0.into_owned()), presented: resource.presented_form.is_some() })
}

/// The name of a resource's type, from its first bytes where they tell: nearly every file writes `resourceType` first.
/// Does not look at the rest, which may be anything.
pub fn type_name(text: &str) -> Option<Cow<'_, str>> {
    match leading_type(text) {
        Some(name) => Some(Cow::Borrowed(name)),
        None => glance(text).ok().map(|seen| Cow::Owned(seen.type_name)),
    }
}

fn leading_type(text: &str) -> Option<&str> {
    let rest = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"resourceType\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    rest.split_once('"').map(|(name, _)| name)
}

/// Reads one resource, refusing U+0000 wherever it stands.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Defect> {
    let resource = serde_json::from_str(text)?;
    if escapes_nul(text) { Err(Defect::NulCharacter) } else { Ok(resource) }
}

/// Whether a JSON text spells `\u0000`, and not an escaped backslash before the letters `u0000`.
fn escapes_nul(text: &str) -> bool {
    text.match_indices("\\u0000").any(|(at, _)| {
        let before = text.as_bytes().get(..at).unwrap_or_default();
        before.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 0
    })
}

/// What a change is told by: the same content gives the same bytes, whenever and by whomever it was exported.
fn fingerprint(content: &impl Serialize) -> Result<Vec<u8>, Defect> {
    serde_json::to_vec(content).map_err(Defect::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_needs_the_whole_resource() {
        let seen = glance(r#"{"id":"a","resourceType":"Patient","name":[{}]}"#).unwrap();
        assert_eq!(seen, Glance { type_name: "Patient".into(), id: Some("a".into()), presented: false });
        assert!(glance(r#"{"resourceType":"DiagnosticReport","presentedForm":[]}"#).unwrap().presented);
        assert_eq!(glance(r#"{"resourceType":"Patient","id":"a""#), Err(Defect::MalformedJson));
        assert_eq!(glance(r#"{"level":"info"}"#), Err(Defect::NotFhir));
        assert_eq!(glance(r#"{"resourceType":"not a type"}"#), Err(Defect::NotFhir));
        assert_eq!(glance(r#"["Patient","a",null]"#), Err(Defect::NotFhir));
        assert_eq!(glance(r#"{"resourceType":7}"#), Err(Defect::InvalidResource));
        assert_eq!(glance(r#"{"resourceType":"Patient","id":"\ud800"}"#), Err(Defect::MalformedJson));
    }

    #[test]
    fn the_type_is_found_wherever_it_stands() {
        assert_eq!(type_name(r#" { "resourceType" : "Encounter", "x"#).as_deref(), Some("Encounter"));
        assert_eq!(type_name(r#"{"id":"a","resourceType":"Patient"}"#).as_deref(), Some("Patient"));
        assert_eq!(type_name("no JSON"), None);
        assert_eq!(ResourceKind::named("Observation"), None);
    }

    #[test]
    fn nul_is_told_from_the_letters_that_spell_it() {
        assert!(escapes_nul(r#""a\u0000b""#));
        assert!(escapes_nul(r#""a\\\u0000b""#));
        assert!(!escapes_nul(r#""a\\u0000b""#));
    }

    #[test]
    fn codes_and_their_texts_agree() {
        for defect in [Defect::MalformedJson, Defect::NoId, Defect::AttachmentByReference, Defect::SubjectNotPatient] {
            assert_eq!(defect.code(), defect.to_string());
        }
    }
}
