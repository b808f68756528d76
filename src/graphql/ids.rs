//! Ids as clients see them: opaque and typed, so that a patient's id cannot be used as a note's. An id does not name
//! its tenant; whether a record exists is decided by the tenant's own rows. An id is a byte for its kind and the 16
//! bytes of a UUID, in base64url without padding, and has exactly one spelling.

use crate::error::{Error, Result};
use crate::ids::{EncounterId, NoteId, PatientId, StaffId};
use async_graphql::ID;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// The kind of record that an id identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// A patient.
    Patient,
    /// An encounter.
    Encounter,
    /// A clinical note.
    Note,
    /// A person or an API client of the tenant.
    Staff,
    /// The tenant itself.
    Tenant,
}

impl IdKind {
    const ALL: [Self; 5] = [Self::Patient, Self::Encounter, Self::Note, Self::Staff, Self::Tenant];

    fn byte(self) -> u8 {
        match self {
            Self::Patient => b'p',
            Self::Encounter => b'e',
            Self::Note => b'n',
            Self::Staff => b's',
            Self::Tenant => b't',
        }
    }
}

/// Encodes a UUID as the id that clients see.
pub fn encode(kind: IdKind, id: Uuid) -> ID {
    let mut bytes = Vec::with_capacity(17);
    bytes.push(kind.byte());
    bytes.extend_from_slice(id.as_bytes());
    ID(URL_SAFE_NO_PAD.encode(bytes))
}

/// Decodes an id of any kind.
///
/// # Errors
/// `Invalid` with `field` when it is malformed.
pub fn decode(field: &str, id: &ID) -> Result<(IdKind, Uuid)> {
    let malformed = || Error::invalid(field, "is not a well-formed id");
    let bytes = URL_SAFE_NO_PAD.decode(id.as_bytes()).map_err(|_| malformed())?;
    let (byte, rest) = bytes.split_first().ok_or_else(malformed)?;
    let kind = IdKind::ALL.into_iter().find(|kind| kind.byte() == *byte).ok_or_else(malformed)?;
    Ok((kind, Uuid::from_slice(rest).map_err(|_| malformed())?))
}

/// Decodes the id of a patient.
///
/// # Errors
/// `Invalid` with `field` when it is malformed or of another kind.
pub fn patient(field: &str, id: &ID) -> Result<PatientId> {
    of_kind(IdKind::Patient, field, id).map(PatientId)
}

/// Decodes the id of an encounter.
///
/// # Errors
/// `Invalid` with `field` when it is malformed or of another kind.
pub fn encounter(field: &str, id: &ID) -> Result<EncounterId> {
    of_kind(IdKind::Encounter, field, id).map(EncounterId)
}

/// Decodes the id of a note.
///
/// # Errors
/// `Invalid` with `field` when it is malformed or of another kind.
pub fn note(field: &str, id: &ID) -> Result<NoteId> {
    of_kind(IdKind::Note, field, id).map(NoteId)
}

/// Decodes the id of a person or an API client of the organisation.
///
/// # Errors
/// `Invalid` with `field` when it is malformed or of another kind.
pub fn staff(field: &str, id: &ID) -> Result<StaffId> {
    of_kind(IdKind::Staff, field, id).map(StaffId)
}

fn of_kind(expected: IdKind, field: &str, id: &ID) -> Result<Uuid> {
    match decode(field, id)? {
        (kind, id) if kind == expected => Ok(id),
        _ => Err(Error::invalid(field, "is the id of another kind of record")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for kind in IdKind::ALL {
            let id = Uuid::now_v7();
            let text = encode(kind, id);
            assert_eq!(text.len(), 23);
            assert_eq!(decode("id", &text), Ok((kind, id)));
        }
    }

    #[test]
    fn a_malformed_id_is_refused_with_its_field() {
        let good = encode(IdKind::Patient, Uuid::now_v7()).0;
        let bad = [
            String::new(),
            "p".into(),
            "0".into(),
            Uuid::now_v7().to_string(),
            format!("{good}="),
            format!("{good}A"),
            format!(" {good}"),
            good.replace(|_: char| true, "!"),
            good[..22].to_owned(),
            URL_SAFE_NO_PAD.encode([b'x'; 17]),
            URL_SAFE_NO_PAD.encode([b'p'; 16]),
            URL_SAFE_NO_PAD.encode([b'p'; 18]),
            "'; drop table patients; --".into(),
            "\u{0}".into(),
        ];
        for text in bad {
            let refused = patient("input.id", &ID(text.clone()));
            assert_eq!(refused, Err(Error::invalid("input.id", "is not a well-formed id")), "{text:?}");
        }
    }

    #[test]
    fn a_second_spelling_is_refused() {
        // 17 bytes leave two unused bits in the last character; they must be zero.
        let good = encode(IdKind::Note, Uuid::nil()).0;
        let twin = format!("{}B", &good[..22]);
        assert!(good.ends_with('A') && decode("id", &ID(twin)).is_err());
    }

    #[test]
    fn another_kind_is_refused() {
        let id = encode(IdKind::Note, Uuid::now_v7());
        assert_eq!(patient("id", &id), Err(Error::invalid("id", "is the id of another kind of record")));
        assert!(note("id", &id).is_ok() && encounter("id", &id).is_err());
    }
}
