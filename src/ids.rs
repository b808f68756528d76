//! Identifiers: one type for each kind of record, so that the id of a patient cannot be passed as the id of a note.
//! Every module may use them. Parsing is strict, so that each id has exactly one spelling.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types;
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The error of parsing a text that is not an id in its canonical spelling.
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

        #[expect(clippy::new_without_default, reason = "an id is created on purpose, never by default")]
        impl $name {
            /// Creates a new id, a UUIDv7: new rows are stored next to each other, in the order of their creation.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
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

        /// Accepts only the canonical spelling: lower case, with hyphens.
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
    /// The id of a tenant: an organisation. It is never reused, unlike a slug.
    TenantId
);
id!(
    /// The id of a PostgreSQL server that is registered in the catalog.
    ServerId
);
id!(
    /// The id of a placement: where the data of a tenant is, or was.
    PlacementId
);
id!(
    /// The id of a staff member: a person, or a partner's client, who acts in one tenant, writes notes and appears in
    /// the audit log.
    StaffId
);
id!(
    /// The id of a patient in one tenant.
    PatientId
);
id!(
    /// The id of an encounter of one patient.
    EncounterId
);
id!(
    /// The id of a clinical note. All versions of the note share it.
    NoteId
);
id!(
    /// The id of one version of a note's title and body.
    VersionId
);
id!(
    /// The id of one HTTP request or of one run of a command. Each of its audit rows and log records contains it.
    RequestId
);
id!(
    /// The id of a signature on one version of a note.
    SignatureId
);
