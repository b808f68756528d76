//! The three embedded sets of migrations, applied and reverted in one schema of one database under an advisory lock.
//! Changes the structure of databases only, with the operator's login. `ops::migrate` records each run in the catalog.

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

/// A set of migrations, by the kind of schema it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationSet {
    /// The catalog in the control database.
    Catalog,
    /// The schema `cordon` of each database that holds tenants.
    Database,
    /// Each schema that holds a tenant's tables, including the one of shared tenants.
    Tenant,
}

impl std::str::FromStr for MigrationSet {
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

impl MigrationSet {
    fn source(self) -> EmbeddedMigrations {
        match self {
            Self::Catalog => CATALOG,
            Self::Database => DATABASE,
            Self::Tenant => TENANT,
        }
    }
}

/// Whether migrations are applied or reverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Apply the pending migrations.
    Up,
    /// Revert the newest applied migration.
    Down,
}

/// The outcome of one migration, applied or reverted.
#[derive(Debug, Clone)]
pub struct MigrationStep {
    /// The migration's version, as in the name of its folder.
    pub version: String,
    /// Whether the migration was applied or reverted.
    pub direction: Direction,
    /// The time the migration took.
    pub duration: Duration,
    /// PostgreSQL's error text if the migration failed.
    pub failure: Option<String>,
}

/// The applied and the pending migrations of one schema.
#[derive(Debug, Clone)]
pub struct MigrationStatus {
    /// Versions of applied migrations, oldest first.
    pub applied: Vec<String>,
    /// Versions of pending migrations, oldest first.
    pub pending: Vec<String>,
}

/// Why the migrations of a schema could not be listed or started. A migration that starts and then fails is a
/// [`MigrationStep`] instead.
#[derive(Debug, thiserror::Error)]
#[error("migrations of schema {schema} cannot run: {cause}")]
pub struct MigrateError {
    schema: String,
    cause: String,
}

/// Runs the migrations of one schema. It holds the schema's advisory lock: another process that opens a runner for the
/// same schema waits until this one is dropped.
pub struct MigrationRunner {
    harness: AsyncMigrationHarness<AsyncPgConnection>,
    set: MigrationSet,
    schema: String,
}

impl MigrationRunner {
    /// Creates a runner of `set` in `schema`, which must exist. Waits for the advisory lock without a time limit.
    pub async fn open(session: AsyncPgConnection, set: MigrationSet, schema: &str) -> Result<Self, MigrateError> {
        Ok(Self { harness: prepare(session, schema).await?, set, schema: schema.to_owned() })
    }

    /// Returns which migrations are applied and which are pending, as diesel's table in the schema records them.
    pub async fn status(self) -> Result<(Self, MigrationStatus), MigrateError> {
        self.blocking(|runner| {
            let applied = runner.harness.applied_migrations()?.iter().rev().map(ToString::to_string).collect();
            let pending = runner.harness.pending_migrations(runner.set.source())?;
            Ok(MigrationStatus {
                applied,
                pending: pending.iter().map(|migration| migration.name().version().to_string()).collect(),
            })
        })
        .await
    }

    /// Applies or reverts one migration. Its failure is part of the step; an error means that it could not start.
    pub async fn run(self, version: String, direction: Direction) -> Result<(Self, MigrationStep), MigrateError> {
        self.blocking(move |runner| {
            let all: Vec<Box<dyn Migration<Pg>>> = runner.set.source().migrations()?;
            let migration = all.into_iter().find(|migration| migration.name().version().to_string() == version);
            let migration = migration.ok_or_else(|| format!("migration {version} is not in this program"))?;
            let started = Instant::now();
            let outcome = match direction {
                Direction::Up => runner.harness.run_migration(&*migration),
                Direction::Down => runner.harness.revert_migration(&*migration),
            };
            let failure = outcome.err().map(|error| error.to_string());
            Ok(MigrationStep { version, direction, duration: started.elapsed(), failure })
        })
        .await
    }

    /// Runs `work` on a thread that may block, because diesel's harness does.
    async fn blocking<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> BoxResult<T> + Send + 'static,
    ) -> Result<(Self, T), MigrateError> {
        let schema = self.schema.clone();
        let failed = |cause: String| MigrateError { schema, cause };
        let joined = tokio::task::spawn_blocking(move || {
            work(&mut self).map(|value| (self, value)).map_err(|error| error.to_string())
        })
        .await;
        match joined {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(failed(cause)),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Takes the advisory lock and sets the search path. The lock belongs to the session and is released with it, also when
/// this process dies.
async fn prepare(
    mut session: AsyncPgConnection,
    schema: &str,
) -> Result<AsyncMigrationHarness<AsyncPgConnection>, MigrateError> {
    let failed = |error: diesel::result::Error| MigrateError { schema: schema.to_owned(), cause: error.to_string() };
    sql_query(
        "select pg_advisory_lock(hashtextextended('cordon.migrate.' || $1, 7)), set_config('cordon.home', $1, false), \
         set_config('search_path', quote_ident($1) || ', pg_temp', false)",
    )
    .bind::<Text, _>(schema)
    .execute(&mut session)
    .await
    .map_err(failed)?;
    Ok(AsyncMigrationHarness::new(session))
}

type BoxResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
