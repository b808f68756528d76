//! Cursors: a place in one list, with a tag made by the tenant's key over place, list and parent. A cursor of another tenant,
//! of another list or of one's own making is bad input, not a position.

use crate::crypto::TenantKeys;
use crate::error::{Error, Result};
use crate::model::Position;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use uuid::Uuid;

const PLACE: usize = 24;
const TAG: usize = 16;

/// The list a cursor belongs to.
#[derive(Debug, Clone, Copy)]
pub struct List {
    /// Type and field: `Patient.notes`.
    pub name: &'static str,
    /// Whose.
    pub parent: Uuid,
}

impl List {
    /// A list that is nobody's part: all of the organisation.
    pub const fn of_all(name: &'static str) -> Self {
        Self { name, parent: Uuid::nil() }
    }

    /// The cursor of `place`.
    pub fn cursor(&self, keys: &TenantKeys, place: Position) -> String {
        let mut bytes = Vec::with_capacity(PLACE + TAG);
        bytes.extend_from_slice(&place.at.timestamp_micros().to_be_bytes());
        bytes.extend_from_slice(place.id.as_bytes());
        let tag = self.tag(keys, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place of a cursor given in `field`.
    pub fn position(&self, keys: &TenantKeys, field: &'static str, cursor: &str) -> Result<Position> {
        let refused = || Error::invalid(field, "not a cursor of this list");
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        let (place, tag) = bytes.split_at_checked(PLACE).ok_or_else(refused)?;
        if !same(&self.tag(keys, place), tag) {
            return Err(refused());
        }
        let (micros, id) = place.split_first_chunk::<8>().ok_or_else(refused)?;
        let at = DateTime::from_timestamp_micros(i64::from_be_bytes(*micros)).ok_or_else(refused)?;
        Ok(Position { at, id: Uuid::from_slice(id).map_err(|_| refused())? })
    }

    fn tag(&self, keys: &TenantKeys, place: &[u8]) -> [u8; TAG] {
        let mut message = Vec::with_capacity(64);
        message.extend_from_slice(self.name.as_bytes());
        message.push(0);
        message.extend_from_slice(self.parent.as_bytes());
        message.extend_from_slice(place);
        keys.cursor_tag(&message)
    }
}

/// In a time that does not depend on where they differ.
fn same(a: &[u8; TAG], b: &[u8]) -> bool {
    b.len() == TAG && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::crypto::fresh_key;
    use crate::ids::TenantId;

    /// Keys of some tenant.
    pub fn keys() -> TenantKeys {
        TenantKeys::assemble(TenantId::new(), vec![(1, fresh_key())], fresh_key(), fresh_key()).unwrap()
    }

    fn position() -> Position {
        Position { at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(), id: Uuid::now_v7() }
    }

    #[test]
    fn a_cursor_comes_back() {
        let (keys, list) = (keys(), List { name: "Patient.notes", parent: Uuid::now_v7() });
        for place in [
            position(),
            Position { at: DateTime::from_timestamp_micros(-60_000_000_000_000_000).unwrap(), id: Uuid::nil() },
        ] {
            assert_eq!(list.position(&keys, "after", &list.cursor(&keys, place)), Ok(place));
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
