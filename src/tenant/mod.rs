//! Organisations: who they are, where they live, which keys are theirs.
//! Reads the catalog; opens no chart. What is cached here is keyed by tenant id and never decides alone: the database's fence does.

pub mod catalog;
pub mod events;
pub mod keys;
mod origin;
pub mod router;

pub use origin::Origin;

use crate::error::Error;
use crate::ids::{PlacementId, ServerId, TenantId};
use std::fmt;
use std::str::FromStr;

/// How a tenant is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TenancyModel {
    /// In tables shared with others.
    Shared,
    /// In a schema of its own: the default.
    Schema,
    /// In a database of its own, with a login of its own.
    Database,
}

/// Where a tenant is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Being made; serves nothing yet.
    Provisioning,
    /// Serves.
    Active,
    /// Keeps everything, serves nothing.
    Suspended,
    /// On its way out.
    Offboarding,
    /// Gone; its id is never used again.
    Destroyed,
}

macro_rules! words {
    ($type:ident: $($variant:ident = $word:literal),+) => {
        impl $type {
            /// As the catalog spells it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl FromStr for $type {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                match word { $($word => Ok(Self::$variant),)+ _ => Err(format!("expected one of: {}", [$($word),+].join(", "))) }
            }
        }
    };
}

words!(TenancyModel: Shared = "shared", Schema = "schema", Database = "database");
words!(State: Provisioning = "provisioning", Active = "active", Suspended = "suspended", Offboarding = "offboarding",
       Destroyed = "destroyed");

/// An organisation as the catalog knows it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Never reused.
    pub id: TenantId,
    /// Short name; free again once the tenant is destroyed.
    pub slug: String,
    /// Name for people.
    pub name: String,
    /// What it has ordered.
    pub plan: String,
    /// Where it is in its life.
    pub state: State,
    /// What is set for it alone.
    pub settings: TenantSettings,
    /// Where it is served from; none before provisioning got that far.
    pub placement: Option<Placement>,
}

/// What an operator has set for one tenant. `None`: as the server's settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct TenantSettings {
    /// Of web pages that may ask for it; those of its own host may always.
    pub origins: Vec<Origin>,
    /// Milliseconds of one statement.
    pub statement_timeout_ms: Option<u32>,
    /// Requests a second.
    pub requests_per_second: Option<u32>,
    /// Requests at once.
    pub concurrency: Option<u32>,
}

impl TenantSettings {
    /// Whether pages of this origin may ask for the tenant.
    pub fn allow(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed.as_str() == origin)
    }
}

/// Where a tenant lives.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Of the catalog's row.
    pub id: PlacementId,
    /// The PostgreSQL server.
    pub server: ServerId,
    /// Where that server stands, where the operator has said so.
    pub region: Option<String>,
    /// How it is isolated there.
    pub model: TenancyModel,
    /// The database.
    pub database: String,
    /// The schema: `shared`, `t_<id>` or `tenant`.
    pub schema: SchemaName,
    /// Counts moves; the fence refuses all but the current one.
    pub generation: i32,
}

/// A schema's name, safe to stand unquoted in SQL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

impl SchemaName {
    /// The schema common to all tenants of the shared model.
    pub fn shared() -> Self {
        Self("shared".into())
    }

    /// The only tenant schema of a database tenant's database.
    pub fn own_database() -> Self {
        Self("tenant".into())
    }

    /// The schema of one tenant among others of its database.
    pub fn of(tenant: TenantId) -> Self {
        Self(format!("t_{}", tenant.0.simple()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Only lower-case letters, digits and underscores, letter first.
impl FromStr for SchemaName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(plain) {
            return Ok(Self(name.to_owned()));
        }
        Err(Error::internal("The catalog holds a schema name that is none", name))
    }
}

/// A slug: `[a-z][a-z0-9-]{1,38}`.
pub fn is_slug(text: &str) -> bool {
    (2..=39).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Name of the database and of the login of a tenant that has both to itself.
pub fn own_database_name(tenant: TenantId) -> String {
    format!("cordon_t_{}", tenant.0.simple())
}
