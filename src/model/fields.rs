//! The sealed columns, one type each. A new one is one line here. TABLE and COLUMN are part of what authenticates a
//! stored value: changing either makes stored values unreadable.

use crate::crypto::Field;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

/// A person's name in the form in which it is sealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonName {
    /// Family name.
    pub family: Option<String>,
    /// Given names in their order.
    pub given: Vec<String>,
    /// The whole name as it is displayed.
    pub text: String,
}

/// Prints no name, so that none gets into a log by accident.
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
field!(
    /** A patient's birth date: YYYY, YYYY-MM or YYYY-MM-DD. */
    PatientBirthDate, String, "patients", "birth_date_sealed", text_bytes, text
);
field!(
    /** A patient's telephone, e-mail and address. */
    PatientContact, Value, "patients", "contact_sealed", json_bytes, json
);
field!(
    /** The rest of the source's Patient resource. */
    PatientSource, Value, "patients", "source_sealed", json_bytes, json
);
field!(
    /** The rest of the source's Encounter resource. */
    EncounterSource, Value, "encounters", "source_sealed", json_bytes, json
);
field!(
    /** The rest of the source's note resource. */
    NoteSource, Value, "clinical_notes", "source_sealed", json_bytes, json
);
field!(
    /** The value of a patient's identifier. */
    IdentifierValue, String, "patient_identifiers", "value_sealed", text_bytes, text
);
field!(/** The reason for an encounter. */ EncounterReason, String, "encounters", "reason_sealed", text_bytes, text);
field!(
    /** The reason for the cancellation of an encounter. */
    EncounterCancelReason, String, "encounters", "cancel_reason_sealed", text_bytes, text
);
field!(
    /** The salt of a signature's hash, in hexadecimal. */
    SignatureSalt, String, "note_signatures", "salt_sealed", text_bytes, text
);
field!(/** The title of a version of a note. */ NoteTitle, String, "note_versions", "title_sealed", text_bytes, text);
field!(/** The text of a version of a note. */ NoteBody, String, "note_versions", "body_sealed", text_bytes, text);
field!(
    /** Search words and reasons in the audit log. */
    AuditDetail, Value, "audit_log", "detail_sealed", json_bytes, json
);

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
