//! Whether this replica can serve: does the catalog answer, do keys unwrap, does each PostgreSQL server open a session and run plpgsql in it.
//! Looked at when someone asks, once a second at most and by one at a time, within two seconds: asking often costs nothing.
//!
//! A server that is away takes its own tenants with it and no one else's: the replica is `degraded` and stays ready while another server answers.
//! Without the catalog or the keys no tenant can be looked up or opened anew, and without any server none is left: then it is not ready.
//! Partitions of the audit log that end soon are said and stop nothing; databases that tenants have to themselves take turns, one a look.
//! Says how many, never which: that is in the log. The session is opened for the question and goes beside the budget of backends, so that
//! a busy server is not taken for a dead one, nor an old session for a server that takes new ones.

use crate::error::Result;
use crate::ids::{PlacementId, ServerId};
use crate::tenant::catalog::Catalog;
use crate::tenant::keys::KeyRing;
use crate::tenant::router::Router;
use futures_util::future::join_all;
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// All looks together.
const WITHIN: Duration = Duration::from_secs(2);
/// How long a report is good.
const FRESH: Duration = Duration::from_secs(1);
/// Days that partitions of the audit log must reach ahead.
const AUDIT_DAYS: i32 = 90;

/// Looks, and remembers what it saw. One a process.
pub struct Readiness {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    router: Arc<Router>,
    seen: Mutex<Memory>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Memory {
    last: Option<(Instant, Report)>,
    /// Days that partitions last in tenants' own databases, as far as they had their turn.
    own_days: HashMap<PlacementId, i32>,
    turn: usize,
}

/// What was seen, for whoever asks: no names, no addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Of the whole.
    pub status: Status,
    catalog: Seen,
    keys: Seen,
    databases: Seen,
    audit: Seen,
}

/// Whether to send requests here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Yes.
    Ready,
    /// Yes; some tenants are not served, by no replica.
    Degraded,
    /// No.
    NotReady,
    /// No: told to end.
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Ok,
    Failing,
    /// What comes before it failed.
    Unknown,
    /// So many of so many.
    Some {
        failing: usize,
        of: usize,
    },
    /// Partitions end in so many days.
    Ends {
        days: i32,
    },
}

impl Serialize for Seen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ok => serializer.serialize_str("ok"),
            Self::Failing => serializer.serialize_str("failing"),
            Self::Unknown => serializer.serialize_str("unknown"),
            Self::Some { failing, of } => serializer.collect_str(&format_args!("{failing} of {of} failing")),
            Self::Ends { days } => {
                serializer.collect_str(&format_args!("partitions end in {days} days: run cordon migrate up"))
            }
        }
    }
}

impl Readiness {
    /// Nothing is looked at yet.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<KeyRing>, router: Arc<Router>) -> Self {
        Self { catalog, keys, router, seen: Mutex::default(), stopping: AtomicBool::new(false) }
    }

    /// From now on nothing more should come here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether it was told to end.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// What there is to see now.
    pub async fn report(&self) -> Report {
        let mut memory = self.seen.lock().await;
        let known = memory.last.as_ref().filter(|(when, _)| when.elapsed() < FRESH).map(|(_, report)| report.clone());
        let report = match known {
            Some(report) => report,
            None => {
                let report = self.look(&mut memory, Instant::now() + WITHIN).await;
                if memory.last.as_ref().is_none_or(|(_, before)| *before != report) {
                    tracing::info!(status = ?report.status, report = ?report, "Readiness changed");
                }
                memory.last = Some((Instant::now(), report.clone()));
                report
            }
        };
        match self.stopping() {
            true => Report { status: Status::Stopping, ..report },
            false => report,
        }
    }

    async fn look(&self, memory: &mut Memory, until: Instant) -> Report {
        let failed = |catalog, keys| Report {
            status: Status::NotReady,
            catalog,
            keys,
            databases: Seen::Unknown,
            audit: Seen::Unknown,
        };
        let Ok(Ok(servers)) = timeout_at(until, self.catalog.shared_schemas()).await else {
            return failed(Seen::Failing, Seen::Unknown);
        };
        if let Some((_, id, _)) = servers.first() {
            match timeout_at(until, self.unwraps(*id)).await {
                Ok(Ok(())) => {}
                _ => return failed(Seen::Ok, Seen::Failing),
            }
        }
        let answers = join_all(servers.iter().map(async |(name, id, database)| {
            let days = timeout_at(until, self.router.audit_days_left(*id, database)).await.ok().and_then(Result::ok);
            if days.is_none() {
                tracing::warn!(server = %name, "A PostgreSQL server does not open a session that runs plpgsql");
            }
            days
        }));
        let (answers, ()) = futures_util::join!(answers, self.next_own_database(memory, until));
        let (of, failing) = (answers.len(), answers.iter().filter(|days| days.is_none()).count());
        let (status, databases) = match failing {
            0 => (Status::Ready, Seen::Ok),
            failing if failing == of => (Status::NotReady, Seen::Failing),
            failing => (Status::Degraded, Seen::Some { failing, of }),
        };
        let audit = match answers.into_iter().flatten().chain(memory.own_days.values().copied()).min() {
            Some(days) if days < AUDIT_DAYS => Seen::Ends { days },
            Some(_) => Seen::Ok,
            None => Seen::Unknown,
        };
        Report { status, catalog: Seen::Ok, keys: Seen::Ok, databases, audit }
    }

    /// What is not answered is its tenant's matter, and remembered as it was.
    async fn next_own_database(&self, memory: &mut Memory, until: Instant) {
        let own = self.catalog.own_databases();
        memory.own_days.retain(|id, _| {
            own.iter().any(|tenant| tenant.placement.as_ref().is_some_and(|placement| placement.id == *id))
        });
        memory.turn = memory.turn.wrapping_add(1);
        let next = memory.turn.checked_rem(own.len()).and_then(|at| own.get(at));
        let Some((tenant, placement)) = next.and_then(|tenant| Some((tenant.id, tenant.placement.as_ref()?))) else {
            return;
        };
        if let Ok(Ok(days)) = timeout_at(until, self.router.own_audit_days_left(tenant, placement)).await {
            memory.own_days.insert(placement.id, days);
        }
    }

    /// A secret that no one keeps opened comes out of the KMS.
    async fn unwraps(&self, server: ServerId) -> Result<()> {
        let server = self.catalog.server(server).await?;
        self.keys.app_password(server.id, &server.app_password).await.map(|_| ())
    }
}
