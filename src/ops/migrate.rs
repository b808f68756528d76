//! Migrations over everything: the control database, each database of each server, each tenant schema.
//! What ran where, when, how long and how it ended is recorded in the catalog.

use super::operator::{Operator, ServerRow};
use super::{OpsError, Result};
use crate::db::migrate::{self, Direction, Set, Status, Step};
use crate::db::schema::catalog::{migration_runs, placements, tenants};
use crate::tenant::Model;
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
    let mut targets = vec![Target { server: None, database: CONTROL.into(), schema: BOOKS.into(), set: Set::Catalog, slug: None }];
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
                Ok(Model::Database) => {
                    targets.push(of(&database, BOOKS, Set::Database, Some(slug.clone())));
                    targets.push(of(&database, &schema, Set::Tenant, Some(slug)));
                }
                Ok(Model::Schema) => targets.push(of(&database, &schema, Set::Tenant, Some(slug))),
                Ok(Model::Shared) | Err(_) => {}
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

/// Runs one target's migrations and records them.
pub async fn run(operator: &Operator, target: &Target, direction: Direction) -> Result<Vec<Run>> {
    let mut session = open(operator, target).await?;
    make_books(&mut session, target).await?;
    let steps = migrate::run(session, target.set, &target.schema, direction).await?;
    record(operator, target, &steps).await?;
    if target.set == Set::Tenant && direction == Direction::Up && steps.iter().all(|step| step.failure.is_none()) {
        // Years pass without a migration of the audit log: each run makes the partitions of the next three.
        let mut session = open(operator, target).await?;
        diesel::sql_query("call cordon.extend_audit($1)").bind::<diesel::sql_types::Text, _>(&target.schema).execute(&mut session).await?;
    }
    let runs: Vec<_> = steps.into_iter().map(|step| report(target, step)).collect();
    if let Some((run, error)) = runs.iter().find_map(|run| run.error.as_ref().map(|error| (run, error))) {
        return Err(OpsError::Failed(format!("migration {} of {}.{}: {error}", run.version, run.database, run.schema)));
    }
    Ok(runs)
}

/// What one target has and lacks.
pub async fn status(operator: &Operator, target: &Target) -> Result<Status> {
    let mut session = open(operator, target).await?;
    make_books(&mut session, target).await?;
    Ok(migrate::status(session, target.set, &target.schema).await?)
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

async fn record(operator: &Operator, target: &Target, steps: &[Step]) -> Result<()> {
    if steps.is_empty() || (target.set == Set::Catalog && steps.iter().any(|step| step.direction == Direction::Down)) {
        return Ok(());
    }
    let rows: Vec<_> = steps
        .iter()
        .map(|step| {
            let direction = match step.direction {
                Direction::Up => "up",
                Direction::Down => "down",
            };
            let took = i32::try_from(step.duration.as_millis()).unwrap_or(i32::MAX);
            let begun = chrono::Utc::now() - step.duration;
            (
                migration_runs::id.eq(Uuid::now_v7()),
                migration_runs::server_id.eq(target.server.as_ref().map(|server| server.id.0)),
                migration_runs::database_name.eq(target.database.clone()),
                migration_runs::schema_name.eq(target.schema.clone()),
                migration_runs::version.eq(step.version.clone()),
                migration_runs::direction.eq(direction),
                migration_runs::started_at.eq(begun),
                migration_runs::duration_ms.eq(took),
                migration_runs::outcome.eq(if step.failure.is_some() { "failed" } else { "done" }),
                migration_runs::error.eq(step.failure.clone()),
            )
        })
        .collect();
    let mut control = operator.control().await?;
    diesel::insert_into(migration_runs::table).values(rows).execute(&mut control).await?;
    Ok(())
}

fn report(target: &Target, step: Step) -> Run {
    let ms = u64::try_from(step.duration.as_millis()).unwrap_or(u64::MAX);
    Run { database: target.database.clone(), schema: target.schema.clone(), version: step.version, ms, error: step.failure }
}
