//! Identifiers everyone uses: one type for each kind of thing, so that a patient's id cannot be passed as a note's.
//! Touches nothing else; parsing is strict, because an id that is read leniently is a second spelling of a tenant.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// A text that is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed id")]
pub struct MalformedId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, AsExpression, FromSqlRow, serde::Serialize)]
        #[diesel(sql_type = sql_types::Uuid)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        #[expect(clippy::new_without_default, reason = "an id is made, never defaulted")]
        impl $name {
            /// A new id: UUIDv7, so that rows lie on disk in the order of their making.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        /// Accepts the one canonical spelling only: lower case, hyphenated.
        impl FromStr for $name {
            type Err = MalformedId;
            fn from_str(text: &str) -> Result<Self, MalformedId> {
                let id = Uuid::try_parse(text).map_err(|_| MalformedId)?;
                if id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) != text {
                    return Err(MalformedId);
                }
                Ok(Self(id))
            }
        }

        impl ToSql<sql_types::Uuid, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                ToSql::<sql_types::Uuid, Pg>::to_sql(&self.0, out)
            }
        }

        impl FromSql<sql_types::Uuid, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                <Uuid as FromSql<sql_types::Uuid, Pg>>::from_sql(value).map(Self)
            }
        }
    };
}

id!(
    /// An organisation. Never reused, whatever becomes of its slug.
    TenantId
);
id!(
    /// A PostgreSQL server known to the catalog.
    ServerId
);
id!(
    /// One place where a tenant lives or lived.
    PlacementId
);
id!(
    /// A person or client of a tenant: author of notes, name in the audit log.
    StaffId
);
id!(
    /// A patient of one tenant.
    PatientId
);
id!(
    /// An encounter of one patient.
    EncounterId
);
id!(
    /// A clinical note, through all its versions.
    NoteId
);
id!(
    /// One version of a note's text.
    VersionId
);
id!(
    /// One HTTP request or one run of a command; in every audit row and log line of it.
    RequestId
);
id!(
    /// A signature under one version of a note.
    SignatureId
);
