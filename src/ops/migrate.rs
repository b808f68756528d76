//! Migrations of the control database, of each database of each server, and of each tenant schema. Target, version,
//! time, duration and outcome of each run are recorded in the catalog. A row that a killed process left open is closed
//! by the next run.

use super::operator::{Operator, ServerRow};
use super::{OpsError, Result};
use crate::db::migrate::{Direction, MigrationRunner, MigrationSet, MigrationStatus, MigrationStep};
use crate::db::schema::catalog::{migration_runs, placements, tenants};
use crate::tenant::TenancyModel;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

/// The name of the control database.
pub const CONTROL_DATABASE: &str = "cordon_control";
/// The name of the template from which the databases of database tenants are copied.
pub const TEMPLATE_DATABASE: &str = "cordon_template";
/// The schema of diesel's table of applied migrations, for the catalog and database sets.
pub(super) const HISTORY_SCHEMA: &str = "cordon_migrations";

/// A schema that has migrations.
#[derive(Clone)]
pub struct MigrationTarget {
    /// The server; `None` for the control database.
    pub server: Option<ServerRow>,
    /// The name of the database.
    pub database: String,
    /// The schema that holds diesel's table of applied migrations: the tenant schema, or `cordon_migrations` for other
    /// sets.
    pub schema: String,
    /// The migrations that the schema has.
    pub set: MigrationSet,
    /// The slug of the tenant that the schema or database belongs to; `None` if tenants share it.
    pub slug: Option<String>,
}

/// A migration that was run on a target.
#[derive(serde::Serialize)]
pub struct MigrationRun {
    /// The name of the database.
    pub database: String,
    /// The schema of the target.
    pub schema: String,
    /// The version of the migration.
    pub version: String,
    /// The duration in milliseconds.
    pub ms: u64,
    /// PostgreSQL's error text if the migration failed.
    pub error: Option<String>,
}

/// A tenant whose schema exists.
#[derive(Queryable, Selectable)]
#[diesel(table_name = placements, check_for_backend(diesel::pg::Pg))]
struct ProvisionedTenant {
    #[diesel(select_expression = tenants::slug)]
    slug: String,
    model: String,
    database_name: String,
    schema_name: String,
}

/// Returns all targets: the control database first, tenants last.
pub async fn targets(operator: &Operator) -> Result<Vec<MigrationTarget>> {
    let mut targets = vec![MigrationTarget {
        server: None,
        database: CONTROL_DATABASE.into(),
        schema: HISTORY_SCHEMA.into(),
        set: MigrationSet::Catalog,
        slug: None,
    }];
    for server in operator.servers().await? {
        let target = |database: &str, schema: &str, set, slug| MigrationTarget {
            server: Some(server.clone()),
            database: database.into(),
            schema: schema.into(),
            set,
            slug,
        };
        targets.push(target(TEMPLATE_DATABASE, HISTORY_SCHEMA, MigrationSet::Database, None));
        targets.push(target(&server.data_database, HISTORY_SCHEMA, MigrationSet::Database, None));
        targets.push(target(&server.data_database, "shared", MigrationSet::Tenant, None));
        for tenant in provisioned_tenants(operator, &server).await? {
            let ProvisionedTenant { slug, model, database_name: database, schema_name: schema } = tenant;
            match model.parse() {
                Ok(TenancyModel::Database) => {
                    targets.push(target(&database, HISTORY_SCHEMA, MigrationSet::Database, Some(slug.clone())));
                    targets.push(target(&database, &schema, MigrationSet::Tenant, Some(slug)));
                }
                Ok(TenancyModel::Schema) => targets.push(target(&database, &schema, MigrationSet::Tenant, Some(slug))),
                Ok(TenancyModel::Shared) | Err(_) => {}
            }
        }
    }
    Ok(targets)
}

/// Returns the tenants of a server whose provisioning is complete. Provisioning itself migrates the schemas of the
/// others.
async fn provisioned_tenants(operator: &Operator, server: &ServerRow) -> Result<Vec<ProvisionedTenant>> {
    let mut control = operator.control().await?;
    Ok(placements::table
        .inner_join(tenants::table.on(tenants::id.eq(placements::tenant_id)))
        .select(ProvisionedTenant::as_select())
        .filter(placements::server_id.eq(server.id).and(placements::serving))
        .filter(tenants::state.ne_all(["destroyed", "provisioning"]))
        .order(tenants::slug)
        .load(&mut control)
        .await?)
}

/// Applies all pending migrations of a target, or reverts the newest one. Each is recorded in the catalog before it
/// begins. Stops at the first migration that fails.
pub async fn run(operator: &Operator, target: &MigrationTarget, direction: Direction) -> Result<Vec<MigrationRun>> {
    let (mut runner, before) = open_runner(operator, target).await?;
    let versions = match direction {
        Direction::Up => before.pending.clone(),
        Direction::Down => before.applied.last().cloned().into_iter().collect(),
    };
    let mut runs = Vec::new();
    for version in versions {
        let record = RunRecord::begin(operator, target, &before, &version, direction).await?;
        let (next, step) = runner.run(version, direction).await?;
        runner = next;
        record.end(operator, target, &step).await?;
        let run = run_of(target, step);
        if let Some(error) = &run.error {
            return Err(OpsError::Failed(format!(
                "migration {} of {}.{}: {error}",
                run.version, run.database, run.schema
            )));
        }
        runs.push(run);
    }
    if target.set == MigrationSet::Tenant && direction == Direction::Up {
        // The audit log needs new partitions every year, also without a new migration: each run creates those of the
        // next three years.
        let mut session = open(operator, target).await?;
        diesel::sql_query("call cordon.extend_audit($1)")
            .bind::<diesel::sql_types::Text, _>(&target.schema)
            .execute(&mut session)
            .await?;
    }
    Ok(runs)
}

/// Returns the applied and the pending migrations of a target. Waits while another process migrates the target.
pub async fn status(operator: &Operator, target: &MigrationTarget) -> Result<MigrationStatus> {
    Ok(open_runner(operator, target).await?.1)
}

/// Opens the runner of a target and closes the catalog's rows of interrupted runs, so that the catalog agrees with the
/// target.
async fn open_runner(operator: &Operator, target: &MigrationTarget) -> Result<(MigrationRunner, MigrationStatus)> {
    let mut session = open(operator, target).await?;
    create_history_schema(&mut session, target).await?;
    let (runner, status) = MigrationRunner::open(session, target.set, &target.schema).await?.status().await?;
    if !(target.set == MigrationSet::Catalog && status.applied.is_empty()) {
        close_interrupted(operator, target, &status).await?;
    }
    Ok((runner, status))
}

async fn open(operator: &Operator, target: &MigrationTarget) -> Result<AsyncPgConnection> {
    match &target.server {
        Some(server) => operator.session(server, &target.database).await,
        None => operator.control().await,
    }
}

/// Creates the schema of diesel's table. A tenant schema contains the table itself. The other sets create schemas, so
/// their table needs one that exists before.
async fn create_history_schema(session: &mut AsyncPgConnection, target: &MigrationTarget) -> Result<()> {
    if target.set != MigrationSet::Tenant {
        diesel::sql_query(format!("create schema if not exists {HISTORY_SCHEMA}")).execute(session).await?;
    }
    Ok(())
}

/// The catalog's row of one run. There is none if the migration creates or drops the tables of the catalog.
struct RunRecord(Option<Uuid>);

impl RunRecord {
    async fn begin(
        operator: &Operator,
        target: &MigrationTarget,
        before: &MigrationStatus,
        version: &str,
        direction: Direction,
    ) -> Result<Self> {
        if target.set == MigrationSet::Catalog && (before.applied.is_empty() || direction == Direction::Down) {
            return Ok(Self(None));
        }
        Ok(Self(Some(insert(operator, target, version, direction).await?)))
    }

    async fn end(self, operator: &Operator, target: &MigrationTarget, step: &MigrationStep) -> Result<()> {
        let id = match self.0 {
            Some(id) => id,
            None if step.failure.is_none() && step.direction == Direction::Up => {
                insert(operator, target, &step.version, step.direction).await?
            }
            None => return Ok(()),
        };
        let duration_ms = i32::try_from(step.duration.as_millis()).unwrap_or(i32::MAX);
        let ended = (
            migration_runs::duration_ms.eq(duration_ms),
            migration_runs::outcome.eq(if step.failure.is_some() { "failed" } else { "done" }),
            migration_runs::error.eq(step.failure.clone()),
        );
        let row = migration_runs::table.filter(migration_runs::id.eq(id));
        diesel::update(row).set(ended).execute(&mut operator.control().await?).await?;
        Ok(())
    }
}

async fn insert(operator: &Operator, target: &MigrationTarget, version: &str, direction: Direction) -> Result<Uuid> {
    let id = Uuid::now_v7();
    let row = (
        migration_runs::id.eq(id),
        migration_runs::server_id.eq(target.server.as_ref().map(|server| server.id.0)),
        migration_runs::database_name.eq(&target.database),
        migration_runs::schema_name.eq(&target.schema),
        migration_runs::version.eq(version),
        migration_runs::direction.eq(direction_name(direction)),
    );
    diesel::insert_into(migration_runs::table).values(row).execute(&mut operator.control().await?).await?;
    Ok(id)
}

/// Closes the rows of killed processes. Whether their migrations were applied is known from the target, which no other
/// process migrates now.
async fn close_interrupted(operator: &Operator, target: &MigrationTarget, status: &MigrationStatus) -> Result<()> {
    let mut control = operator.control().await?;
    let of_target = migration_runs::server_id
        .is_not_distinct_from(target.server.as_ref().map(|server| server.id.0))
        .and(migration_runs::database_name.eq(&target.database))
        .and(migration_runs::schema_name.eq(&target.schema));
    let open: Vec<(Uuid, String, String)> = migration_runs::table
        .select((migration_runs::id, migration_runs::version, migration_runs::direction))
        .filter(of_target.and(migration_runs::outcome.eq("running")))
        .load(&mut control)
        .await?;
    for (id, version, direction) in open {
        let completed = status.applied.contains(&version) == (direction == direction_name(Direction::Up));
        let (outcome, error) = if completed { ("done", None) } else { ("failed", Some("interrupted")) };
        let ended = (migration_runs::outcome.eq(outcome), migration_runs::error.eq(error));
        diesel::update(migration_runs::table.filter(migration_runs::id.eq(id)))
            .set(ended)
            .execute(&mut control)
            .await?;
    }
    Ok(())
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

fn run_of(target: &MigrationTarget, step: MigrationStep) -> MigrationRun {
    let ms = u64::try_from(step.duration.as_millis()).unwrap_or(u64::MAX);
    MigrationRun {
        database: target.database.clone(),
        schema: target.schema.clone(),
        version: step.version,
        ms,
        error: step.failure,
    }
}
