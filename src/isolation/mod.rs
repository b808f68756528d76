//! The isolation check: whether the walls are in place, seen with the privileges of the server's own login. It reads
//! the system catalogs only. A wall that is down in something that tenants share stops the server at its start; one in
//! a schema stops the placements in that schema.

use crate::db::fault::classify;
use crate::db::pool::Session;
use crate::error::{Error, Result};
use crate::ids::ServerId;
use crate::telemetry::Metrics;
use crate::tenant::{Placement, SchemaName};
use diesel::sql_types::{Integer, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use parking_lot::Mutex;
use std::collections::HashSet;

const DATABASE_CHECK: &str =
    concat!("with reaching as (", include_str!("reaching_functions.sql"), "),\n", include_str!("database.sql"));
const SCHEMA_CHECK: &str = include_str!("schema.sql");
/// The migrations whose function bodies the database's functions are compared with. A migration that replaces a
/// function has to be added here.
const DATABASE_MIGRATIONS: &str = include_str!("../../migrations/database/2026-11-22-000001_core/up.sql");
const TENANT_MIGRATIONS: &str = concat!(
    include_str!("../../migrations/tenant/2026-11-22-000001_chart/up.sql"),
    include_str!("../../migrations/tenant/2026-11-22-000002_audit/up.sql")
);

/// The lowest minor version of each major version. In older ones INSERT … ON CONFLICT DO UPDATE reads rows that row
/// security hides (CVE-2026-120154).
const MIN_VERSIONS: [(i32, i32); 4] = [(15, 150_020), (16, 160_016), (17, 170_012), (18, 180_007)];

/// Whether placements are checked before they are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootCheck {
    /// Every wall is checked, and so is the minor version of PostgreSQL. `serve` uses it.
    On,
    /// As `On`, but an old minor version of PostgreSQL is accepted, because development holds no real charts.
    Dev,
    /// Nothing is checked, for tests that take a wall down to show that the others hold.
    Off,
}

#[derive(QueryableByName)]
struct Finding {
    #[diesel(sql_type = Text)]
    wall: String,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Integer)]
    number: i32,
}

/// Checks what all tenants of the session's database share. Returns a description of each wall that is down.
///
/// # Errors
/// The check itself failed. The session is then closed and not used again.
pub async fn check_database(session: &Session, check: BootCheck) -> Result<Vec<String>> {
    begin_check(session).await?;
    let mut pg = session.pg();
    let failed = |error| discard(session, &error);
    let version: Version = sql_query("select current_setting('server_version_num')::int as number")
        .get_result(&mut pg)
        .await
        .map_err(failed)?;
    let mut walls = descriptions(
        sql_query(DATABASE_CHECK).bind::<Text, _>(DATABASE_MIGRATIONS).load(&mut pg).await.map_err(failed)?,
    );
    // A private cluster logs a warning about its version when it starts.
    walls.extend(too_old(version.number).filter(|_| check != BootCheck::Dev));
    end_check(session).await?;
    Ok(walls)
}

/// Checks the walls around one tenant schema. Returns a description of each wall that is down.
///
/// # Errors
/// As `check_database`.
pub async fn check_schema(session: &Session, schema: &SchemaName) -> Result<Vec<String>> {
    begin_check(session).await?;
    let rows = sql_query(SCHEMA_CHECK)
        .bind::<Text, _>(schema.as_str())
        .bind::<Text, _>(TENANT_MIGRATIONS)
        .load(&mut session.pg())
        .await;
    let walls = descriptions(rows.map_err(|error| discard(session, &error))?);
    end_check(session).await?;
    Ok(walls)
}

/// Resets what an earlier user of the session may have set, because some settings change how names and literals are
/// read. The reset is part of a transaction that `end_check` rolls back, so that the session keeps its settings.
async fn begin_check(session: &Session) -> Result<()> {
    let plain =
        "begin; reset all; set search_path = ''; set standard_conforming_strings = on; set quote_all_identifiers = off";
    (&mut session.pg()).batch_execute(plain).await.map_err(|error| discard(session, &error))
}

async fn end_check(session: &Session) -> Result<()> {
    (&mut session.pg()).batch_execute("rollback").await.map_err(|error| discard(session, &error))
}

/// A session in which the check fails is not used again, because an earlier user may have changed it.
fn discard(session: &Session, error: &diesel::result::Error) -> Error {
    session.discard();
    classify(error).error
}

fn descriptions(rows: Vec<Finding>) -> Vec<String> {
    rows.into_iter().map(|row| row.wall).collect()
}

/// Describes a version of PostgreSQL that is too old to be safe; `None` where `number`, as `server_version_num` gives
/// it, is recent enough.
pub fn too_old(number: i32) -> Option<String> {
    let minimum = MIN_VERSIONS.iter().find(|(major, _)| *major == number / 10_000).map(|(_, minimum)| *minimum);
    match minimum {
        Some(minimum) if number >= minimum => None,
        None if number / 10_000 > 18 => None,
        _ => Some(format!(
            "PostgreSQL {}.{} is too old: 15.20, 16.16, 17.12 or 18.7 is needed",
            number / 10_000,
            number % 10_000
        )),
    }
}

/// The placements that passed the check. Each placement is checked when it is first used, and again until it passes.
pub struct CheckedPlacements {
    check: BootCheck,
    passed: Mutex<HashSet<(ServerId, String, SchemaName)>>,
}

impl CheckedPlacements {
    /// Creates an empty set; `check` says how strict the checks are.
    pub fn new(check: BootCheck) -> Self {
        Self { check, passed: Mutex::default() }
    }

    /// Checks a placement unless it has passed before. Fails with `Unavailable` where a wall is down, which is logged
    /// and counted.
    pub async fn check(&self, session: &Session, placement: &Placement, metrics: &Metrics) -> Result<()> {
        let key = (placement.server, placement.database.clone(), placement.schema.clone());
        if self.passed.lock().contains(&key) {
            return Ok(());
        }
        // Where the caller is cancelled, the session is closed, so that its next user does not wait for these queries.
        session.transaction_started();
        let mut walls = check_database(session, self.check).await?;
        walls.extend(check_schema(session, &placement.schema).await?);
        session.transaction_ended();
        if walls.is_empty() {
            self.passed.lock().insert(key);
            return Ok(());
        }
        walls.iter().for_each(
            |wall| tracing::error!(schema = %placement.schema, wall, "A wall is down; this placement is not served"),
        );
        metrics.count_wall_down();
        Err(Error::Unavailable)
    }
}
