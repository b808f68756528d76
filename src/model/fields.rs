//! The sealed columns, one type each. Adding one is adding a line here; changing TABLE or COLUMN of one makes what is stored unreadable.

use crate::crypto::Field;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

/// A person's name, as it is sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonName {
    /// Family name.
    pub family: Option<String>,
    /// Given names, first one first.
    pub given: Vec<String>,
    /// The whole name, as it is to be shown.
    pub text: String,
}

/// Redacted: a name does not get into a log by accident.
impl std::fmt::Debug for PersonName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PersonName(redacted)")
    }
}

macro_rules! field {
    ($(#[$doc:meta])* $name:ident, $plain:ty, $table:literal, $column:literal, $encode:path, $decode:path) => {
        $(#[$doc])*
        pub struct $name;

        impl Field for $name {
            type Plain = $plain;
            const TABLE: &'static str = $table;
            const COLUMN: &'static str = $column;
            fn encode(plain: &$plain) -> Zeroizing<Vec<u8>> {
                $encode(plain)
            }
            fn decode(bytes: &[u8]) -> Option<$plain> {
                $decode(bytes)
            }
        }
    };
}

field!(/** A patient's name. */ PatientName, PersonName, "patients", "name_sealed", name_bytes, name);
field!(/** A patient's birth date: YYYY, YYYY-MM or YYYY-MM-DD. */ PatientBirthDate, String, "patients", "birth_date_sealed", text_bytes, text);
field!(/** A patient's telephone, e-mail and address. */ PatientContact, Value, "patients", "contact_sealed", json_bytes, json);
field!(/** What else the source said of a patient. */ PatientSource, Value, "patients", "source_sealed", json_bytes, json);
field!(/** What else the source said of an encounter. */ EncounterSource, Value, "encounters", "source_sealed", json_bytes, json);
field!(/** What else the source said of a note. */ NoteSource, Value, "clinical_notes", "source_sealed", json_bytes, json);
field!(/** Value of a patient's identifier. */ IdentifierValue, String, "patient_identifiers", "value_sealed", text_bytes, text);
field!(/** Why a patient was seen. */ EncounterReason, String, "encounters", "reason_sealed", text_bytes, text);
field!(/** Why a visit did not happen. */ EncounterCancelReason, String, "encounters", "cancel_reason_sealed", text_bytes, text);
field!(/** Salt under the hash of a signature, as hex. */ SignatureSalt, String, "note_signatures", "salt_sealed", text_bytes, text);
field!(/** Title of a version of a note. */ NoteTitle, String, "note_versions", "title_sealed", text_bytes, text);
field!(/** Text of a version of a note. */ NoteBody, String, "note_versions", "body_sealed", text_bytes, text);
field!(/** Search words and reasons in the audit log. */ AuditDetail, Value, "audit_log", "detail_sealed", json_bytes, json);

fn text_bytes(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

fn json_bytes(value: &Value) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(value.to_string().into_bytes())
}

fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

fn name_bytes(name: &PersonName) -> Zeroizing<Vec<u8>> {
    json_bytes(&serde_json::json!({ "family": name.family, "given": name.given, "text": name.text }))
}

fn name(bytes: &[u8]) -> Option<PersonName> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_comes_back() {
        let wei = PersonName {
            family: Some("O'Brien \"Bo\"".into()),
            given: vec!["伟".into(), String::new()],
            text: "\u{0}\\".into(),
        };
        assert!(PatientName::decode(&PatientName::encode(&wei)) == Some(wei));
        let source = serde_json::json!({ "a": [1, null, "\u{1F600}"], "b": 0.1 });
        assert_eq!(NoteSource::decode(&NoteSource::encode(&source)), Some(source));
        assert_eq!(NoteBody::decode(&NoteBody::encode(&"é\r\n".to_owned())).as_deref(), Some("é\r\n"));
        assert_eq!(NoteBody::decode(&[0xff]), None);
        assert!(PatientName::decode(b"{}").is_none());
    }
}
