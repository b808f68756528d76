//! Cursors: a position in one list, with an authentication tag. The tag is computed with the tenant's key over the
//! position, the list and its parent, so a cursor of another tenant, of another list, or a forged one is refused as
//! invalid input.

use crate::crypto::TenantKeys;
use crate::error::{Error, Result};
use crate::model::Position;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use uuid::Uuid;

/// A time in microseconds (8 bytes) and a row id (16 bytes).
const POSITION_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// The list that a cursor belongs to.
#[derive(Debug, Clone, Copy)]
pub struct List {
    /// Type and field, such as `Patient.notes`.
    pub name: &'static str,
    /// The record that the list belongs to; the nil UUID for a list of the whole organisation.
    pub parent: Uuid,
}

impl List {
    /// A list over all records of the organisation.
    pub const fn of_tenant(name: &'static str) -> Self {
        Self { name, parent: Uuid::nil() }
    }

    /// Returns the cursor of a position in this list.
    pub fn cursor(&self, keys: &TenantKeys, position: Position) -> String {
        let mut bytes = Vec::with_capacity(POSITION_BYTES + TAG_BYTES);
        bytes.extend_from_slice(&position.at.timestamp_micros().to_be_bytes());
        bytes.extend_from_slice(position.id.as_bytes());
        let tag = self.tag(keys, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Returns the position of a cursor.
    ///
    /// # Errors
    /// `Invalid` with the argument `field` when it is not a cursor of this list and tenant.
    pub fn position(&self, keys: &TenantKeys, field: &'static str, cursor: &str) -> Result<Position> {
        let invalid = || Error::invalid(field, "not a cursor of this list");
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
        let (position, tag) = bytes.split_at_checked(POSITION_BYTES).ok_or_else(invalid)?;
        if !equal_in_constant_time(&self.tag(keys, position), tag) {
            return Err(invalid());
        }
        let (micros, id) = position.split_first_chunk::<8>().ok_or_else(invalid)?;
        let at = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros)).ok_or_else(invalid)?;
        Ok(Position { at, id: Uuid::from_slice(id).map_err(|_| invalid())? })
    }

    fn tag(&self, keys: &TenantKeys, position: &[u8]) -> [u8; TAG_BYTES] {
        let mut message = Vec::with_capacity(64);
        message.extend_from_slice(self.name.as_bytes());
        message.push(0);
        message.extend_from_slice(self.parent.as_bytes());
        message.extend_from_slice(position);
        keys.cursor_tag(&message)
    }
}

/// The time does not depend on where the tags differ, so it does not help to guess one.
fn equal_in_constant_time(a: &[u8; TAG_BYTES], b: &[u8]) -> bool {
    b.len() == TAG_BYTES && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::crypto::fresh_key;
    use crate::ids::TenantId;

    /// The keys of a new tenant.
    pub fn keys() -> TenantKeys {
        TenantKeys::assemble(TenantId::new(), vec![(1, fresh_key())], fresh_key(), fresh_key()).unwrap()
    }

    fn position() -> Position {
        Position { at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(), id: Uuid::now_v7() }
    }

    #[test]
    fn a_cursor_returns_its_position() {
        let (keys, list) = (keys(), List { name: "Patient.notes", parent: Uuid::now_v7() });
        for expected in [
            position(),
            Position { at: DateTime::from_timestamp_micros(-60_000_000_000_000_000).unwrap(), id: Uuid::nil() },
        ] {
            assert_eq!(list.position(&keys, "after", &list.cursor(&keys, expected)), Ok(expected));
        }
    }

    #[test]
    fn l18_any_other_cursor_is_refused_with_its_argument() {
        let (keys, other, list) = (keys(), keys(), List { name: "Patient.notes", parent: Uuid::now_v7() });
        let good = list.cursor(&keys, position());
        let mut forged = URL_SAFE_NO_PAD.decode(&good).unwrap();
        forged[7] ^= 1;
        let bad = [
            list.cursor(&other, position()),
            List { name: "Patient.encounters", ..list }.cursor(&keys, position()),
            List { parent: Uuid::now_v7(), ..list }.cursor(&keys, position()),
            URL_SAFE_NO_PAD.encode(&forged),
            URL_SAFE_NO_PAD.encode(&forged[..24]),
            good[..40].to_owned(),
            format!("{good}AA"),
            format!("{good}="),
            "' or 1=1".to_owned(),
            "\u{0}".to_owned(),
            String::new(),
        ];
        for cursor in bad {
            assert_eq!(
                list.position(&keys, "before", &cursor),
                Err(Error::invalid("before", "not a cursor of this list")),
                "{cursor}"
            );
        }
    }
}
