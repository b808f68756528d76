//! The three embedded sets of migrations, run up and down in one schema of one database under an advisory lock.
//! Touches structure only, as the operator's login; what runs is recorded by `ops::migrate`.

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use std::time::{Duration, Instant};

const CATALOG: EmbeddedMigrations = embed_migrations!("migrations/catalog");
const DATABASE: EmbeddedMigrations = embed_migrations!("migrations/database");
const TENANT: EmbeddedMigrations = embed_migrations!("migrations/tenant");

/// Which migrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Of the control database.
    Catalog,
    /// Of each database that holds tenants: schema `cordon`.
    Database,
    /// Of each tenant schema.
    Tenant,
}

impl std::str::FromStr for Set {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "catalog" => Ok(Self::Catalog),
            "database" => Ok(Self::Database),
            "tenant" => Ok(Self::Tenant),
            _ => Err("expected one of: catalog, database, tenant".into()),
        }
    }
}

impl Set {
    fn source(self) -> EmbeddedMigrations {
        match self {
            Self::Catalog => CATALOG,
            Self::Database => DATABASE,
            Self::Tenant => TENANT,
        }
    }
}

/// Up to the newest, or down by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Everything that is pending.
    Up,
    /// The newest one that ran.
    Down,
}

/// One migration that ran, or failed.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its version, as in the folder's name.
    pub version: String,
    /// Up or down.
    pub direction: Direction,
    /// How long it took.
    pub duration: Duration,
    /// PostgreSQL's text where it failed. The rest of the set was not tried.
    pub failure: Option<String>,
}

/// What one schema has and lacks.
#[derive(Debug, Clone)]
pub struct Status {
    /// Versions that ran, oldest first.
    pub applied: Vec<String>,
    /// Versions that did not, oldest first.
    pub pending: Vec<String>,
}

/// A migration that could not even begin.
#[derive(Debug, thiserror::Error)]
#[error("migrations of schema {home} cannot run: {cause}")]
pub struct MigrateError {
    home: String,
    cause: String,
}

/// A schema's own record of what ran in it, held alone: another process that wants it waits until this one is done.
pub struct Books {
    harness: AsyncMigrationHarness<AsyncPgConnection>,
    set: Set,
    home: String,
}

impl Books {
    /// The record of `set` in schema `home`, which exists.
    pub async fn open(session: AsyncPgConnection, set: Set, home: &str) -> Result<Self, MigrateError> {
        Ok(Self { harness: prepare(session, home).await?, set, home: home.to_owned() })
    }

    /// What ran and what is pending.
    pub async fn status(self) -> Result<(Self, Status), MigrateError> {
        self.blocking(|books| {
            let applied = books.harness.applied_migrations()?.iter().rev().map(ToString::to_string).collect();
            let pending = books.harness.pending_migrations(books.set.source())?;
            Ok(Status {
                applied,
                pending: pending.iter().map(|migration| migration.name().version().to_string()).collect(),
            })
        })
        .await
    }

    /// Runs or undoes one migration.
    pub async fn turn(self, version: String, direction: Direction) -> Result<(Self, Step), MigrateError> {
        self.blocking(move |books| {
            let all: Vec<Box<dyn Migration<Pg>>> = books.set.source().migrations()?;
            let migration = all.into_iter().find(|migration| migration.name().version().to_string() == version);
            let migration = migration.ok_or_else(|| format!("migration {version} is not in this program"))?;
            let begun = Instant::now();
            let outcome = match direction {
                Direction::Up => books.harness.run_migration(&*migration),
                Direction::Down => books.harness.revert_migration(&*migration),
            };
            let failure = outcome.err().map(|error| error.to_string());
            Ok(Step { version, direction, duration: begun.elapsed(), failure })
        })
        .await
    }

    /// diesel's harness blocks, so it runs on a thread where that is allowed.
    async fn blocking<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> Outcome<T> + Send + 'static,
    ) -> Result<(Self, T), MigrateError> {
        let home = self.home.clone();
        let failed = |cause: String| MigrateError { home, cause };
        let done = tokio::task::spawn_blocking(move || {
            work(&mut self).map(|value| (self, value)).map_err(|error| error.to_string())
        })
        .await;
        match done {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(cause)) => Err(failed(cause)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// The lock is the session's: it ends with it, also when this process dies.
async fn prepare(
    mut session: AsyncPgConnection,
    home: &str,
) -> Result<AsyncMigrationHarness<AsyncPgConnection>, MigrateError> {
    let failed = |error: diesel::result::Error| MigrateError { home: home.to_owned(), cause: error.to_string() };
    sql_query(
        "select pg_advisory_lock(hashtextextended('cordon.migrate.' || $1, 7)), set_config('cordon.home', $1, false), \
         set_config('search_path', quote_ident($1) || ', pg_temp', false)",
    )
    .bind::<Text, _>(home)
    .execute(&mut session)
    .await
    .map_err(failed)?;
    Ok(AsyncMigrationHarness::new(session))
}

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
