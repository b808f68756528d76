//! Sealed columns: `0x01 | key version (big-endian u32) | nonce | AES-256-GCM ciphertext and tag`. The associated data
//! contains tenant, table, column, row and key version, so a value opens only in the place it was sealed for. A value
//! that does not open is logged without its content, counted and never served.

use super::{OPENED, SEALED, TenantKeys, count, count_integrity_failure, frame};
use crate::error::{Error, Result};
use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Binary;
use std::fmt;
use std::marker::PhantomData;
use tracing::error;
use uuid::Uuid;
use zeroize::Zeroizing;

const FORMAT: u8 = 1;

/// A sealed column: where it is stored, and how its plaintext is encoded as bytes.
pub trait Field: 'static {
    /// The type of the plaintext.
    type Plain;
    /// The name of the table. It is authenticated, so it cannot be renamed without sealing all values again.
    const TABLE: &'static str;
    /// The name of the column. It is authenticated like that of the table.
    const COLUMN: &'static str;
    /// Encodes the plaintext as bytes.
    fn encode(plain: &Self::Plain) -> Zeroizing<Vec<u8>>;
    /// Decodes the plaintext. `None` when `encode` cannot have produced these bytes.
    fn decode(bytes: &[u8]) -> Option<Self::Plain>;
}

/// The stored form of a field, which only the keys of its tenant can open.
#[derive(AsExpression, FromSqlRow)]
#[diesel(sql_type = Binary)]
pub struct Sealed<F: Field>(Vec<u8>, PhantomData<fn() -> F>);

impl<F: Field> Sealed<F> {
    /// Wraps stored bytes. They are checked when they are opened.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes, PhantomData)
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the version of the data key that the value claims to be sealed with, not authenticated; 0, which no key
    /// has, when the value is not in this format.
    pub fn key_version(&self) -> u32 {
        self.parts().map_or(0, |(version, _)| version)
    }

    fn parts(&self) -> Option<(u32, &[u8])> {
        let (&format, rest) = self.0.split_first()?;
        let (version, rest) = rest.split_first_chunk()?;
        (format == FORMAT).then(|| (u32::from_be_bytes(*version), rest))
    }
}

impl TenantKeys {
    /// Seals a field of row `row` with the current data key.
    pub fn seal<F: Field>(&self, row: Uuid, plain: &F::Plain) -> Result<Sealed<F>> {
        let (version, cipher) = self.current_data_key();
        let header = [&[FORMAT][..], &version.to_be_bytes()].concat();
        let sealed = cipher.seal(&header, &self.associated::<F>(row, *version), &F::encode(plain))?;
        count(&SEALED, sealed.len());
        Ok(Sealed::from_bytes(sealed))
    }

    /// Opens a field of row `row`. Fails with [`Error::Integrity`] when the value was changed, was sealed for another
    /// place, or its data key is unknown.
    pub fn open<F: Field>(&self, row: Uuid, sealed: &Sealed<F>) -> Result<F::Plain> {
        self.try_open(row, sealed).ok_or_else(|| {
            count_integrity_failure();
            error!(
                tenant.id = %self.tenant(),
                table = F::TABLE,
                column = F::COLUMN,
                row.id = %row,
                "A sealed value does not open"
            );
            Error::Integrity
        })
    }

    fn try_open<F: Field>(&self, row: Uuid, sealed: &Sealed<F>) -> Option<F::Plain> {
        let (version, body) = sealed.parts()?;
        let plain = self.data_key(version)?.open(&self.associated::<F>(row, version), body)?;
        count(&OPENED, sealed.0.len());
        F::decode(&plain)
    }

    fn associated<F: Field>(&self, row: Uuid, version: u32) -> Vec<u8> {
        let tenant = self.tenant().0;
        frame(&[
            b"cordon.v1",
            tenant.as_bytes(),
            F::TABLE.as_bytes(),
            F::COLUMN.as_bytes(),
            row.as_bytes(),
            &version.to_be_bytes(),
        ])
    }
}

impl<F: Field> fmt::Debug for Sealed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

impl<F: Field> Clone for Sealed<F> {
    fn clone(&self) -> Self {
        Self::from_bytes(self.0.clone())
    }
}

impl<F: Field> ToSql<Binary, Pg> for Sealed<F> {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        <Vec<u8> as ToSql<Binary, Pg>>::to_sql(&self.0, out)
    }
}

impl<F: Field> FromSql<Binary, Pg> for Sealed<F> {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        <Vec<u8> as FromSql<Binary, Pg>>::from_sql(value).map(Self::from_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::fresh_key;
    use crate::crypto::integrity_failures;
    use crate::ids::TenantId;

    macro_rules! text_field {
        ($name:ident, $table:literal, $column:literal) => {
            struct $name;

            impl Field for $name {
                type Plain = String;
                const TABLE: &'static str = $table;
                const COLUMN: &'static str = $column;
                fn encode(plain: &String) -> Zeroizing<Vec<u8>> {
                    Zeroizing::new(plain.as_bytes().to_vec())
                }
                fn decode(bytes: &[u8]) -> Option<String> {
                    String::from_utf8(bytes.to_vec()).ok()
                }
            }
        };
    }

    text_field!(NoteBody, "note_versions", "body_sealed");
    text_field!(NoteTitle, "note_versions", "title_sealed");
    text_field!(EncounterReason, "encounters", "reason_sealed");

    const TEXT: &str = "stable, discharge today";

    struct Key([u8; 32]);

    impl Key {
        fn bytes(&self) -> Zeroizing<Vec<u8>> {
            Zeroizing::new(self.0.to_vec())
        }
    }

    fn keys(tenant: TenantId, versions: &[u32], key: &Key) -> TenantKeys {
        TenantKeys::assemble(tenant, versions.iter().map(|v| (*v, key.bytes())).collect(), fresh_key(), fresh_key())
            .unwrap()
    }

    #[test]
    fn opens_only_where_it_was_sealed() {
        let (tenant, row, key) = (TenantId::new(), Uuid::now_v7(), Key([7; 32]));
        let ours = keys(tenant, &[1], &key);
        let sealed = ours.seal::<NoteBody>(row, &TEXT.to_owned()).unwrap();
        assert_eq!(ours.open(row, &sealed).unwrap(), TEXT);
        assert_eq!(sealed.key_version(), 1);
        assert!(!sealed.as_bytes().windows(6).any(|window| window == b"stable"));
        assert_ne!(
            sealed.as_bytes(),
            ours.seal::<NoteBody>(row, &TEXT.to_owned()).unwrap().as_bytes(),
            "each value has its own nonce"
        );

        let before = integrity_failures();
        let bytes = || sealed.as_bytes().to_vec();
        assert_eq!(ours.open(Uuid::now_v7(), &sealed), Err(Error::Integrity), "another row");
        assert_eq!(ours.open(row, &Sealed::<NoteTitle>::from_bytes(bytes())), Err(Error::Integrity), "another column");
        assert_eq!(
            ours.open(row, &Sealed::<EncounterReason>::from_bytes(bytes())),
            Err(Error::Integrity),
            "another table"
        );
        assert_eq!(
            keys(TenantId::new(), &[1], &key).open(row, &sealed),
            Err(Error::Integrity),
            "another tenant, same key"
        );
        assert_eq!(keys(tenant, &[1], &Key([8; 32])).open(row, &sealed), Err(Error::Integrity), "another key");
        let mut relabelled = bytes();
        relabelled[4] = 2;
        assert_eq!(
            keys(tenant, &[1, 2], &key).open(row, &Sealed::<NoteBody>::from_bytes(relabelled)),
            Err(Error::Integrity),
            "key version"
        );
        assert_eq!(keys(tenant, &[2], &key).open(row, &sealed), Err(Error::Integrity), "unknown key version");
        assert!(integrity_failures() >= before + 7);
    }

    #[test]
    fn any_changed_or_missing_byte_is_detected() {
        let (tenant, row) = (TenantId::new(), Uuid::now_v7());
        let keys = keys(tenant, &[1], &Key([7; 32]));
        let sealed = keys.seal::<NoteBody>(row, &TEXT.to_owned()).unwrap();
        for at in 0..sealed.as_bytes().len() {
            let cut = Sealed::<NoteBody>::from_bytes(sealed.as_bytes()[..at].to_vec());
            assert_eq!(keys.open(row, &cut), Err(Error::Integrity), "cut at {at}");
            let mut flipped = sealed.as_bytes().to_vec();
            flipped[at] ^= 1;
            assert_eq!(
                keys.open(row, &Sealed::<NoteBody>::from_bytes(flipped)),
                Err(Error::Integrity),
                "flipped at {at}"
            );
        }
    }

    #[test]
    fn seals_with_the_newest_key_and_opens_older_ones() {
        let (tenant, row, key) = (TenantId::new(), Uuid::now_v7(), Key([7; 32]));
        let old = keys(tenant, &[1], &key).seal::<NoteBody>(row, &String::new()).unwrap();
        let rotated = keys(tenant, &[2, 1], &key);
        assert_eq!(rotated.open(row, &old).unwrap(), "");
        assert_eq!(rotated.seal::<NoteBody>(row, &String::new()).unwrap().key_version(), 2);
    }

    diesel::table! { rows (id) { id -> Uuid, body -> Binary, title -> Nullable<Binary>, } }

    #[derive(diesel::Insertable, diesel::Queryable, diesel::Selectable)]
    #[diesel(table_name = rows)]
    struct Row {
        id: Uuid,
        body: Sealed<NoteBody>,
        title: Option<Sealed<NoteTitle>>,
    }

    #[test]
    fn works_as_a_column_optional_and_in_arrays() {
        use diesel::prelude::*;
        use diesel::sql_types::{Array, Nullable};
        let row = Row { id: Uuid::nil(), body: Sealed::from_bytes(vec![1]), title: None };
        let many = vec![(row.body.clone(), row.title.clone())];
        let (bodies, titles): (Vec<_>, Vec<_>) = many.into_iter().unzip();
        assert!((row.id.is_nil(), row.body.key_version(), row.title.is_none()) == (true, 0, true));
        let insert = diesel::debug_query::<Pg, _>(&row.insert_into(rows::table)).to_string();
        assert!(insert.contains("Sealed"), "{insert}");
        let select = diesel::debug_query::<Pg, _>(&rows::table.select(Row::as_select())).to_string();
        assert!(select.contains("title"), "{select}");
        let unnest =
            diesel::sql_query("select").bind::<Array<Binary>, _>(bodies).bind::<Array<Nullable<Binary>>, _>(titles);
        assert!(diesel::debug_query::<Pg, _>(&unnest).to_string().contains("Sealed"));
        fn loads<R: FromSqlRow<(diesel::sql_types::Uuid, Binary, Nullable<Binary>), Pg>>() {}
        loads::<Row>();
    }

    #[test]
    fn debug_output_reveals_nothing() {
        let keys = keys(TenantId::new(), &[1], &Key([7; 32]));
        assert_eq!(format!("{:?}", keys.seal::<NoteBody>(Uuid::now_v7(), &TEXT.to_owned()).unwrap()), "Sealed");
        assert!(format!("{keys:?}").ends_with("redacted)"));
    }
}
