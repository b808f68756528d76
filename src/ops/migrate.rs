//! Migrations over everything: the control database, each database of each server, each tenant schema.
//! What ran where, when, how long and how it ended is recorded in the catalog; a row that a dead process left open is closed by the next.

use super::operator::{Operator, ServerRow};
use super::{OpsError, Result};
use crate::db::migrate::{Books, Direction, Set, Status, Step};
use crate::db::schema::catalog::{migration_runs, placements, tenants};
use crate::tenant::TenancyModel;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

/// Name of the control database.
pub const CONTROL: &str = "cordon_control";
/// Name of the database from which a database tenant's is copied.
pub const TEMPLATE: &str = "cordon_template";
/// Home of diesel's bookkeeping of the catalog and database sets.
const BOOKS: &str = "cordon_migrations";

/// One schema that has migrations.
#[derive(Clone)]
pub struct Target {
    /// The server; `None` for the control database.
    pub server: Option<ServerRow>,
    /// The database.
    pub database: String,
    /// The schema.
    pub schema: String,
    /// Which migrations it has.
    pub set: Set,
    /// Whose it is, if one tenant's.
    pub slug: Option<String>,
}

/// What ran in one place.
#[derive(serde::Serialize)]
pub struct Run {
    /// The database.
    pub database: String,
    /// The schema.
    pub schema: String,
    /// The migration.
    pub version: String,
    /// Milliseconds.
    pub ms: u64,
    /// PostgreSQL's text where it failed.
    pub error: Option<String>,
}

/// Everything that has migrations: the control database first, tenants last.
pub async fn targets(operator: &Operator) -> Result<Vec<Target>> {
    let mut targets =
        vec![Target { server: None, database: CONTROL.into(), schema: BOOKS.into(), set: Set::Catalog, slug: None }];
    for server in operator.servers().await? {
        let of = |database: &str, schema: &str, set, slug| Target {
            server: Some(server.clone()),
            database: database.into(),
            schema: schema.into(),
            set,
            slug,
        };
        targets.push(of(TEMPLATE, BOOKS, Set::Database, None));
        targets.push(of(&server.data_database, BOOKS, Set::Database, None));
        targets.push(of(&server.data_database, "shared", Set::Tenant, None));
        for (slug, model, database, schema) in living(operator, &server).await? {
            match model.parse() {
                Ok(TenancyModel::Database) => {
                    targets.push(of(&database, BOOKS, Set::Database, Some(slug.clone())));
                    targets.push(of(&database, &schema, Set::Tenant, Some(slug)));
                }
                Ok(TenancyModel::Schema) => targets.push(of(&database, &schema, Set::Tenant, Some(slug))),
                Ok(TenancyModel::Shared) | Err(_) => {}
            }
        }
    }
    Ok(targets)
}

/// Tenants whose schema has been built at least once; one that provisioning has not reached yet migrates itself.
async fn living(operator: &Operator, server: &ServerRow) -> Result<Vec<(String, String, String, String)>> {
    let mut control = operator.control().await?;
    Ok(placements::table
        .inner_join(tenants::table.on(tenants::id.eq(placements::tenant_id)))
        .select((tenants::slug, placements::model, placements::database_name, placements::schema_name))
        .filter(placements::server_id.eq(server.id).and(placements::serving))
        .filter(tenants::state.ne_all(["destroyed", "provisioning"]))
        .order(tenants::slug)
        .load(&mut control)
        .await?)
}

/// Runs one target's migrations, each on record before it begins.
pub async fn run(operator: &Operator, target: &Target, direction: Direction) -> Result<Vec<Run>> {
    let (mut books, before) = books(operator, target).await?;
    let todo = match direction {
        Direction::Up => before.pending.clone(),
        Direction::Down => before.applied.last().cloned().into_iter().collect(),
    };
    let mut runs = Vec::new();
    for version in todo {
        let record = Record::begin(operator, target, &before, &version, direction).await?;
        let (next, step) = books.turn(version, direction).await?;
        books = next;
        record.end(operator, target, &step).await?;
        let run = report(target, step);
        if let Some(error) = &run.error {
            return Err(OpsError::Failed(format!(
                "migration {} of {}.{}: {error}",
                run.version, run.database, run.schema
            )));
        }
        runs.push(run);
    }
    if target.set == Set::Tenant && direction == Direction::Up {
        // Years pass without a migration of the audit log: each run makes the partitions of the next three.
        let mut session = open(operator, target).await?;
        diesel::sql_query("call cordon.extend_audit($1)")
            .bind::<diesel::sql_types::Text, _>(&target.schema)
            .execute(&mut session)
            .await?;
    }
    Ok(runs)
}

/// What one target has and lacks.
pub async fn status(operator: &Operator, target: &Target) -> Result<Status> {
    Ok(books(operator, target).await?.1)
}

/// The target's own books and what is in them; the catalog's record agrees with them from here on.
async fn books(operator: &Operator, target: &Target) -> Result<(Books, Status)> {
    let mut session = open(operator, target).await?;
    make_books(&mut session, target).await?;
    let (books, status) = Books::open(session, target.set, &target.schema).await?.status().await?;
    if !(target.set == Set::Catalog && status.applied.is_empty()) {
        close_interrupted(operator, target, &status).await?;
    }
    Ok((books, status))
}

async fn open(operator: &Operator, target: &Target) -> Result<AsyncPgConnection> {
    match &target.server {
        Some(server) => operator.session(server, &target.database).await,
        None => operator.control().await,
    }
}

/// A tenant's schema carries its own bookkeeping; the other sets make schemas, so theirs needs a home of its own.
async fn make_books(session: &mut AsyncPgConnection, target: &Target) -> Result<()> {
    if target.set != Set::Tenant {
        diesel::sql_query(format!("create schema if not exists {BOOKS}")).execute(session).await?;
    }
    Ok(())
}

/// One run's row in the catalog. There is none where the migration makes or takes away the catalog's own tables.
struct Record(Option<Uuid>);

impl Record {
    async fn begin(
        operator: &Operator,
        target: &Target,
        before: &Status,
        version: &str,
        direction: Direction,
    ) -> Result<Self> {
        if target.set == Set::Catalog && (before.applied.is_empty() || direction == Direction::Down) {
            return Ok(Self(None));
        }
        Ok(Self(Some(insert(operator, target, version, direction).await?)))
    }

    async fn end(self, operator: &Operator, target: &Target, step: &Step) -> Result<()> {
        let id = match self.0 {
            Some(id) => id,
            None if step.failure.is_none() && step.direction == Direction::Up => {
                insert(operator, target, &step.version, step.direction).await?
            }
            None => return Ok(()),
        };
        let took = i32::try_from(step.duration.as_millis()).unwrap_or(i32::MAX);
        let ended = (
            migration_runs::duration_ms.eq(took),
            migration_runs::outcome.eq(if step.failure.is_some() { "failed" } else { "done" }),
            migration_runs::error.eq(step.failure.clone()),
        );
        let row = migration_runs::table.filter(migration_runs::id.eq(id));
        diesel::update(row).set(ended).execute(&mut operator.control().await?).await?;
        Ok(())
    }
}

async fn insert(operator: &Operator, target: &Target, version: &str, direction: Direction) -> Result<Uuid> {
    let id = Uuid::now_v7();
    let row = (
        migration_runs::id.eq(id),
        migration_runs::server_id.eq(target.server.as_ref().map(|server| server.id.0)),
        migration_runs::database_name.eq(&target.database),
        migration_runs::schema_name.eq(&target.schema),
        migration_runs::version.eq(version),
        migration_runs::direction.eq(word(direction)),
    );
    diesel::insert_into(migration_runs::table).values(row).execute(&mut operator.control().await?).await?;
    Ok(id)
}

/// Ends the rows of processes that died: what they did is in the target's books, which nobody else holds now.
async fn close_interrupted(operator: &Operator, target: &Target, status: &Status) -> Result<()> {
    let mut control = operator.control().await?;
    let here = migration_runs::server_id
        .is_not_distinct_from(target.server.as_ref().map(|server| server.id.0))
        .and(migration_runs::database_name.eq(&target.database))
        .and(migration_runs::schema_name.eq(&target.schema));
    let left: Vec<(Uuid, String, String)> = migration_runs::table
        .select((migration_runs::id, migration_runs::version, migration_runs::direction))
        .filter(here.and(migration_runs::outcome.eq("running")))
        .load(&mut control)
        .await?;
    for (id, version, direction) in left {
        let happened = status.applied.contains(&version) == (direction == word(Direction::Up));
        let (outcome, error) = if happened { ("done", None) } else { ("failed", Some("interrupted")) };
        let ended = (migration_runs::outcome.eq(outcome), migration_runs::error.eq(error));
        diesel::update(migration_runs::table.filter(migration_runs::id.eq(id)))
            .set(ended)
            .execute(&mut control)
            .await?;
    }
    Ok(())
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

fn report(target: &Target, step: Step) -> Run {
    let ms = u64::try_from(step.duration.as_millis()).unwrap_or(u64::MAX);
    Run {
        database: target.database.clone(),
        schema: target.schema.clone(),
        version: step.version,
        ms,
        error: step.failure,
    }
}
