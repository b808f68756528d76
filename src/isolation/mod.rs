//! The boot check: are the walls up, seen with the eyes of the server's own login?
//! Reads the system catalogs only. A wall down in something common stops the server; in one schema it stops that placement.

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

const COMMON: &str = include_str!("database.sql");
const PLACEMENT: &str = include_str!("schema.sql");
/// What the bodies of functions are compared with. A migration that replaces a function is added here.
const DATABASE_SET: &str = include_str!("../../migrations/database/2026-11-22-000001_core/up.sql");
const TENANT_SET: &str = concat!(
    include_str!("../../migrations/tenant/2026-11-22-000001_chart/up.sql"),
    include_str!("../../migrations/tenant/2026-11-22-000002_audit/up.sql")
);

/// Lowest minor version of each major one: below, INSERT … ON CONFLICT DO UPDATE reads past row security (CVE-2026-120154).
const MINIMUM: [(i32, i32); 4] = [(15, 150_020), (16, 160_016), (17, 170_012), (18, 180_007)];

/// Whether placements are looked at before they are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootCheck {
    /// Always, but for development and tests.
    On,
    /// The same, but an old minor version of PostgreSQL is not refused: no chart is there.
    Dev,
    /// What is left when a wall is down must hold alone.
    Off,
}

#[derive(QueryableByName)]
struct Down {
    #[diesel(sql_type = Text)]
    wall: String,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Integer)]
    number: i32,
}

/// Walls that are down for every tenant of the session's database, in words.
pub async fn common(session: &Session, check: BootCheck) -> Result<Vec<String>> {
    settle(session).await?;
    let mut pg = session.pg();
    let failed = |error| unfit(session, &error);
    let version: Version = sql_query("select current_setting('server_version_num')::int as number")
        .get_result(&mut pg)
        .await
        .map_err(failed)?;
    let mut down = read(sql_query(COMMON).bind::<Text, _>(DATABASE_SET).load(&mut pg).await.map_err(failed)?);
    // A private cluster warns of its age when it starts.
    down.extend(too_old(version.number).filter(|_| check != BootCheck::Dev));
    leave(session).await?;
    Ok(down)
}

/// Walls that are down around one schema, in words.
pub async fn around(session: &Session, schema: &SchemaName) -> Result<Vec<String>> {
    settle(session).await?;
    let rows =
        sql_query(PLACEMENT).bind::<Text, _>(schema.as_str()).bind::<Text, _>(TENANT_SET).load(&mut session.pg()).await;
    let down = read(rows.map_err(|error| unfit(session, &error))?);
    leave(session).await?;
    Ok(down)
}

/// The look is taken without what the session's last user may have set: names and literals read differently under it. In a transaction
/// of its own, which gives the session its settings back.
async fn settle(session: &Session) -> Result<()> {
    let plain =
        "begin; reset all; set search_path = ''; set standard_conforming_strings = on; set quote_all_identifiers = off";
    (&mut session.pg()).batch_execute(plain).await.map_err(|error| unfit(session, &error))
}

async fn leave(session: &Session) -> Result<()> {
    (&mut session.pg()).batch_execute("rollback").await.map_err(|error| unfit(session, &error))
}

/// A session that cannot look is not used again: someone may have left something on it.
fn unfit(session: &Session, error: &diesel::result::Error) -> Error {
    session.close();
    classify(error).error
}

fn read(rows: Vec<Down>) -> Vec<String> {
    rows.into_iter().map(|row| row.wall).collect()
}

/// A server version that lets rows through, in words.
pub fn too_old(number: i32) -> Option<String> {
    let minimum = MINIMUM.iter().find(|(major, _)| *major == number / 10_000).map(|(_, minimum)| *minimum);
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

/// Placements whose walls were found standing: each is looked at when it is first used, and again until it is sound.
pub struct CheckedPlacements {
    check: BootCheck,
    sound: Mutex<HashSet<(ServerId, String, SchemaName)>>,
}

impl CheckedPlacements {
    /// Nothing was looked at yet.
    pub fn new(check: BootCheck) -> Self {
        Self { check, sound: Mutex::default() }
    }

    /// Refuses a placement with a wall down.
    pub async fn check(&self, session: &Session, placement: &Placement, metrics: &Metrics) -> Result<()> {
        let key = (placement.server, placement.database.clone(), placement.schema.clone());
        if self.sound.lock().contains(&key) {
            return Ok(());
        }
        // Given up half-way, the session is closed: its next user must not wait behind these queries.
        session.begins();
        let mut down = common(session, self.check).await?;
        down.extend(around(session, &placement.schema).await?);
        session.ended();
        if down.is_empty() {
            self.sound.lock().insert(key);
            return Ok(());
        }
        down.iter().for_each(
            |wall| tracing::error!(schema = %placement.schema, wall, "A wall is down; this placement is not served"),
        );
        metrics.wall_down();
        Err(Error::Unavailable)
    }
}
