//! The three embedded sets of migrations, run up and down in one schema of one database under an advisory lock.
//! Touches structure only, as the operator's login; what ran is returned, recorded by `ops::migrate`.

use diesel::migration::{Migration, MigrationSource, MigrationVersion};
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

/// Runs `set` in schema `home`, which exists. Another process doing the same waits until this one is done.
pub async fn run(session: AsyncPgConnection, set: Set, home: &str, direction: Direction) -> Result<Vec<Step>, MigrateError> {
    let mut harness = prepare(session, home).await?;
    blocking(home, move || {
        let mut steps = Vec::new();
        let todo = match direction {
            Direction::Up => harness.pending_migrations(set.source())?,
            Direction::Down => newest_applied(&mut harness, set)?,
        };
        for migration in todo {
            let begun = Instant::now();
            let outcome = match direction {
                Direction::Up => harness.run_migration(&*migration),
                Direction::Down => harness.revert_migration(&*migration),
            };
            let failure = outcome.err().map(|error| error.to_string());
            let failed = failure.is_some();
            steps.push(Step { version: migration.name().version().to_string(), direction, duration: begun.elapsed(), failure });
            if failed {
                break;
            }
        }
        Ok(steps)
    })
    .await
}

/// What ran and what is pending in schema `home`.
pub async fn status(session: AsyncPgConnection, set: Set, home: &str) -> Result<Status, MigrateError> {
    let mut harness = prepare(session, home).await?;
    blocking(home, move || {
        let applied = harness.applied_migrations()?.iter().rev().map(ToString::to_string).collect();
        let pending = harness.pending_migrations(set.source())?.iter().map(|migration| migration.name().version().to_string()).collect();
        Ok(Status { applied, pending })
    })
    .await
}

/// The lock is the session's: it ends with it, also when this process dies.
async fn prepare(mut session: AsyncPgConnection, home: &str) -> Result<AsyncMigrationHarness<AsyncPgConnection>, MigrateError> {
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

fn newest_applied(harness: &mut AsyncMigrationHarness<AsyncPgConnection>, set: Set) -> Outcome<Vec<Box<dyn Migration<Pg>>>> {
    let newest: Option<MigrationVersion<'static>> = harness.applied_migrations()?.into_iter().next();
    let all: Vec<Box<dyn Migration<Pg>>> = set.source().migrations()?;
    Ok(all.into_iter().filter(|migration| Some(migration.name().version()) == newest).collect())
}

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// diesel's harness blocks, so it runs on a thread where that is allowed.
async fn blocking<T: Send + 'static>(home: &str, work: impl FnOnce() -> Outcome<T> + Send + 'static) -> Result<T, MigrateError> {
    let failed = |cause: String| MigrateError { home: home.to_owned(), cause };
    let done = tokio::task::spawn_blocking(move || work().map_err(|error| error.to_string())).await;
    done.map_err(|error| failed(error.to_string()))?.map_err(failed)
}
