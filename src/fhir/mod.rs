//! Reads FHIR R4 resources into plain structs that use Cordon's terms.
//!
//! The module is pure: it takes text and returns structs, and it knows no database, no tenant and no file. A resource
//! that cannot be read is a [`FhirError`], which never carries content. References are not followed (see
//! [`SourceRef`]): the importer resolves them, because it has seen the whole input.

mod attachment;
mod author;
mod bundle;
mod date;
mod document;
mod element;
mod encounter;
mod name;
mod note;
mod patient;
mod practitioner;
mod reference;
mod report;

pub use author::{Author, StaffStatus};
pub use bundle::{BundleEntry, EntryMethod};
pub use element::{Identifier, SourceElements};
pub use encounter::{EncounterStatus, ImportedEncounter};
pub use name::HumanName;
pub use note::{ImportedNote, NoteStatus, NoteType};
pub use patient::{ImportedPatient, PatientIdentifier, Sex};
pub use practitioner::ImportedPractitioner;
pub use reference::{Aliases, ReferenceContext, SourceRef};

use element::JsonStr;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Why a resource could not be read. The codes are stable, and no variant carries a value of the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FhirError {
    /// The text is not JSON, is cut short, or contains half of a surrogate pair.
    #[error("malformed_json")]
    MalformedJson,
    /// The bytes are not UTF-8.
    #[error("invalid_utf8")]
    InvalidUtf8,
    /// The text is JSON but not a FHIR resource.
    #[error("not_fhir")]
    NotFhir,
    /// An element of the resource has the wrong JSON type.
    #[error("invalid_resource")]
    InvalidResource,
    /// The resource has neither an id nor a `fullUrl`, so that a second import could not recognise it.
    #[error("no_id")]
    NoId,
    /// The id is empty, too long, or contains characters that a reference cannot hold.
    #[error("invalid_id")]
    InvalidId,
    /// The resource refers to no subject.
    #[error("no_subject")]
    NoSubject,
    /// The subject is a group, a device or a location.
    #[error("subject_not_patient")]
    SubjectNotPatient,
    /// A date does not exist in the calendar or is not in one of FHIR's formats.
    #[error("invalid_date")]
    InvalidDate,
    /// A text contains U+0000, which PostgreSQL cannot store.
    #[error("nul_character")]
    NulCharacter,
    /// The text of the note is empty or blank.
    #[error("empty_note")]
    EmptyNote,
    /// The `data` of an attachment is not base64.
    #[error("bad_base64")]
    BadBase64,
    /// The text is not in the charset that it declares, or not UTF-8 where it declares none.
    #[error("not_utf8")]
    NotUtf8,
    /// The charset is not UTF-8, ASCII, Latin-1 or Windows-1252.
    #[error("unsupported_charset")]
    UnsupportedCharset,
    /// The text is at another address. An import fetches nothing.
    #[error("attachment_by_reference")]
    AttachmentByReference,
    /// The attachment is a PDF, an image or an XML document and has no text to show.
    #[error("attachment_not_text")]
    AttachmentNotText,
}

impl FhirError {
    /// Returns the code that the file of rejects shows.
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

impl From<serde_json::Error> for FhirError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_data() { Self::InvalidResource } else { Self::MalformedJson }
    }
}

/// The resource types that an import reads. It skips all others.
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
    /// Returns the kind with this `resourceType`, or `None` for types that are not read.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "Practitioner" => Some(Self::Practitioner),
            "Patient" => Some(Self::Patient),
            "Encounter" => Some(Self::Encounter),
            "DocumentReference" => Some(Self::DocumentReference),
            "DiagnosticReport" => Some(Self::DiagnosticReport),
            _ => None,
        }
    }

    /// Returns the `resourceType`.
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

/// A mapped resource that the importer can store.
pub trait ImportedResource: Serialize {
    /// The kind that the resource is counted as. Notes from reports count as documents.
    const KIND: ResourceKind;

    /// Returns type and id of the resource in its source, such as `Patient/abc`.
    fn key(&self) -> &str;

    /// Returns bytes that are equal for equal content, regardless of when and by whom the resource was exported.
    fn fingerprint(&self) -> Result<Vec<u8>, FhirError> {
        serde_json::to_vec(self).map_err(FhirError::from)
    }
}

/// The properties of a resource that can be read before its content is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceHeader {
    /// The `resourceType`, which may be any type of FHIR.
    pub type_name: String,
    /// The `id` as the source gives it; it is not checked.
    pub id: Option<String>,
    /// Whether the resource has a `presentedForm`, in which a report carries its text.
    pub has_presented_form: bool,
}

/// Checks that `text` is one complete FHIR resource and returns its type and id.
pub fn read_header(text: &str) -> Result<ResourceHeader, FhirError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Resource<'a> {
        #[serde(borrow)]
        resource_type: Option<JsonStr<'a>>,
        #[serde(borrow)]
        id: Option<JsonStr<'a>>,
        presented_form: Option<IgnoredAny>,
    }
    // serde would read an array as the fields of the struct, in order.
    if !text.trim_start().starts_with('{') {
        return Err(FhirError::NotFhir);
    }
    let resource: Resource = serde_json::from_str(text)?;
    let type_name = resource.resource_type.ok_or(FhirError::NotFhir)?.0.into_owned();
    let begins_like_a_type = type_name.len() <= 64 && type_name.starts_with(|c: char| c.is_ascii_uppercase());
    if !begins_like_a_type || !type_name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(FhirError::NotFhir);
    }
    Ok(ResourceHeader {
        type_name,
        id: resource.id.map(|id| id.0.into_owned()),
        has_presented_form: resource.presented_form.is_some(),
    })
}

/// Returns the type of a resource. If `resourceType` comes first, as it does in nearly every file, only the first bytes
/// are read and the rest of the text is not checked.
pub fn type_name(text: &str) -> Option<Cow<'_, str>> {
    match leading_type(text) {
        Some(name) => Some(Cow::Borrowed(name)),
        None => read_header(text).ok().map(|header| Cow::Owned(header.type_name)),
    }
}

fn leading_type(text: &str) -> Option<&str> {
    let rest = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix("\"resourceType\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    rest.split_once('"').map(|(name, _)| name)
}

/// Deserialises one resource and refuses U+0000 in any of its texts.
fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, FhirError> {
    let resource = serde_json::from_str(text)?;
    if escapes_nul(text) { Err(FhirError::NulCharacter) } else { Ok(resource) }
}

/// Returns whether a JSON text contains the escape `\u0000`. An escaped backslash before the letters `u0000` is not
/// one.
fn escapes_nul(text: &str) -> bool {
    text.match_indices("\\u0000").any(|(at, _)| {
        let before = text.as_bytes().get(..at).unwrap_or_default();
        before.iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_from_a_complete_resource_only() {
        let header = read_header(r#"{"id":"a","resourceType":"Patient","name":[{}]}"#).unwrap();
        assert_eq!(
            header,
            ResourceHeader { type_name: "Patient".into(), id: Some("a".into()), has_presented_form: false }
        );
        assert!(read_header(r#"{"resourceType":"DiagnosticReport","presentedForm":[]}"#).unwrap().has_presented_form);
        assert_eq!(read_header(r#"{"resourceType":"Patient","id":"a""#), Err(FhirError::MalformedJson));
        assert_eq!(read_header(r#"{"level":"info"}"#), Err(FhirError::NotFhir));
        assert_eq!(read_header(r#"{"resourceType":"not a type"}"#), Err(FhirError::NotFhir));
        assert_eq!(read_header(r#"["Patient","a",null]"#), Err(FhirError::NotFhir));
        assert_eq!(read_header(r#"{"resourceType":7}"#), Err(FhirError::InvalidResource));
        assert_eq!(read_header(r#"{"resourceType":"Patient","id":"\ud800"}"#), Err(FhirError::MalformedJson));
    }

    #[test]
    fn the_type_is_found_at_any_position() {
        assert_eq!(type_name(r#" { "resourceType" : "Encounter", "x"#).as_deref(), Some("Encounter"));
        assert_eq!(type_name(r#"{"id":"a","resourceType":"Patient"}"#).as_deref(), Some("Patient"));
        assert_eq!(type_name("no JSON"), None);
        assert_eq!(ResourceKind::from_name("Observation"), None);
    }

    #[test]
    fn an_escaped_nul_is_distinguished_from_an_escaped_backslash() {
        assert!(escapes_nul(r#""a\u0000b""#));
        assert!(escapes_nul(r#""a\\\u0000b""#));
        assert!(!escapes_nul(r#""a\\u0000b""#));
    }

    #[test]
    fn code_and_display_text_are_equal() {
        for error in
            [FhirError::MalformedJson, FhirError::NoId, FhirError::AttachmentByReference, FhirError::SubjectNotPatient]
        {
            assert_eq!(error.code(), error.to_string());
        }
    }
}
