//! Tenants: the organisations, their placements and their keys. Reads the catalog and no charts. Caches in here are
//! keyed by tenant id. A stale cache is harmless, because the fence in the tenant's database decides for each
//! transaction.

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

/// How a tenant is isolated from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TenancyModel {
    /// Its rows are in tables that it shares with other tenants.
    Shared,
    /// It has a schema of its own in a shared database; the default.
    Schema,
    /// It has a database of its own, with a login of its own.
    Database,
}

/// The state of a tenant's life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being created and is not served yet.
    Provisioning,
    /// It is served.
    Active,
    /// It is not served; all its data is kept.
    Suspended,
    /// It is not served, and its data is being removed.
    Offboarding,
    /// Its data is removed. Its id is never used again.
    Destroyed,
}

macro_rules! catalog_words {
    ($type:ident: $($variant:ident = $word:literal),+) => {
        impl $type {
            /// Returns the word that the catalog stores.
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
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("expected one of: {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

catalog_words!(TenancyModel: Shared = "shared", Schema = "schema", Database = "database");
catalog_words!(State: Provisioning = "provisioning", Active = "active", Suspended = "suspended",
    Offboarding = "offboarding", Destroyed = "destroyed");

/// An organisation as the catalog describes it.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// The tenant's id, which is never reused.
    pub id: TenantId,
    /// The short name, unique among tenants that are not destroyed. It can be reused after that.
    pub slug: String,
    /// The name to show to people.
    pub name: String,
    /// The name of the tenant's plan, by which flags can differ.
    pub plan: String,
    /// The state of its life cycle.
    pub state: State,
    /// What an operator has set for this tenant alone.
    pub settings: TenantSettings,
    /// The placement that serves it; `None` until provisioning has created one.
    pub placement: Option<Placement>,
}

/// What an operator has set for one tenant. Where a value is `None`, the server's settings apply.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct TenantSettings {
    /// Origins of the web pages that browsers let call the API for this tenant. Pages of the server's own host always
    /// may.
    pub origins: Vec<Origin>,
    /// Maximum duration of one statement, in milliseconds.
    pub statement_timeout_ms: Option<u32>,
    /// Maximum number of requests per second.
    pub requests_per_second: Option<u32>,
    /// Maximum number of concurrent requests.
    pub concurrency: Option<u32>,
}

impl TenantSettings {
    /// Returns whether pages of this origin may call the API for the tenant.
    pub fn allow(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed.as_str() == origin)
    }
}

/// Where the data of a tenant is.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Key of the catalog's row.
    pub id: PlacementId,
    /// The PostgreSQL server.
    pub server: ServerId,
    /// The region of that server, as the operator named it.
    pub region: Option<String>,
    /// How the tenant is isolated there.
    pub model: TenancyModel,
    /// The name of the database.
    pub database: String,
    /// The schema: `shared`, `t_<id>` or `tenant`.
    pub schema: SchemaName,
    /// Counts the tenant's placements. The fence refuses any but the current generation.
    pub generation: i32,
}

/// The name of a schema, which is safe to use unquoted in SQL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

impl SchemaName {
    /// Returns the schema of all tenants of the shared model.
    pub fn shared() -> Self {
        Self("shared".into())
    }

    /// Returns the one tenant schema in the database of a database tenant.
    pub fn own_database() -> Self {
        Self("tenant".into())
    }

    /// Returns the schema of a schema tenant.
    pub fn of(tenant: TenantId) -> Self {
        Self(format!("t_{}", tenant.0.simple()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Accepts lower-case letters, digits and underscores, beginning with a letter; at most 63 bytes, as PostgreSQL does.
impl FromStr for SchemaName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self, Error> {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_allowed) {
            return Ok(Self(name.to_owned()));
        }
        Err(Error::internal("The catalog holds a schema name that is none", name))
    }
}

/// Returns whether `text` is a slug: `[a-z][a-z0-9-]{1,38}`.
pub fn is_slug(text: &str) -> bool {
    (2..=39).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// Returns the name of the database of a database tenant, which is also the name of its login.
pub fn own_database_name(tenant: TenantId) -> String {
    format!("cordon_t_{}", tenant.0.simple())
}
