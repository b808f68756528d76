//! Readiness: whether this replica can serve. It checks that the catalog answers, that keys can be unwrapped, and that
//! each PostgreSQL server opens a session and runs plpgsql in it. The checks run when a report is requested, at most
//! once per second, one at a time and within two seconds, so that frequent requests cost nothing.
//!
//! A server that is away affects its own tenants only: the replica is `degraded` and stays ready while another server
//! answers. Without the catalog or the keys no tenant can be looked up or its keys opened, and without any server none
//! can be served: then the replica is not ready. Audit log partitions that end soon are reported and do not change the
//! status. Of the databases that tenants have to themselves, each report checks one. A report holds counts and no
//! names; names are in the log. Sessions are opened for the check alone, outside the budget of backends, so that a busy
//! server is not reported as failing, and an old session does not hide that a server accepts no new ones.

use crate::error::Result;
use crate::ids::{PlacementId, ServerId};
use crate::tenant::catalog::{Catalog, ServerDatabase};
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

/// Time limit of all checks of one report together.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// A report is reused for this long.
const MAX_REPORT_AGE: Duration = Duration::from_secs(1);
/// The report warns where the partitions of an audit log end in fewer days.
const MIN_AUDIT_DAYS: i32 = 90;

/// Checks what this replica depends on and caches the report. One per process.
pub struct Readiness {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    router: Arc<Router>,
    cache: Mutex<Cache>,
    stopping: AtomicBool,
}

#[derive(Default)]
struct Cache {
    last_report: Option<(Instant, Report)>,
    /// The days left in tenants' own databases, for those that were checked.
    own_audit_days: HashMap<PlacementId, i32>,
    /// Counts reports. It chooses the tenant's own database that is checked next.
    reports: usize,
}

/// The result of all checks. It holds no names or addresses, because anyone can request it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The summary, on which a load balancer decides.
    pub status: Status,
    catalog: CheckResult,
    keys: CheckResult,
    databases: CheckResult,
    audit: CheckResult,
}

/// Whether requests should be sent to this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Yes: everything works.
    Ready,
    /// Yes, although the tenants of one or more PostgreSQL servers cannot be served, by any replica.
    Degraded,
    /// No: the catalog, the keys or every PostgreSQL server failed.
    NotReady,
    /// No: the process is shutting down.
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CheckResult {
    Ok,
    Failing,
    /// It was not checked, because an earlier check failed.
    Unknown,
    /// `failing` of `of` PostgreSQL servers failed.
    PartlyFailing {
        failing: usize,
        of: usize,
    },
    /// The partitions of an audit log end in so many days.
    PartitionsEnd {
        days: i32,
    },
}

impl Serialize for CheckResult {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Ok => serializer.serialize_str("ok"),
            Self::Failing => serializer.serialize_str("failing"),
            Self::Unknown => serializer.serialize_str("unknown"),
            Self::PartlyFailing { failing, of } => serializer.collect_str(&format_args!("{failing} of {of} failing")),
            Self::PartitionsEnd { days } => {
                serializer.collect_str(&format_args!("partitions end in {days} days: run cordon migrate up"))
            }
        }
    }
}

impl Readiness {
    /// Creates a readiness check. Nothing is checked yet.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<KeyRing>, router: Arc<Router>) -> Self {
        Self { catalog, keys, router, cache: Mutex::default(), stopping: AtomicBool::new(false) }
    }

    /// Makes all later reports say `Stopping`, so that no more requests are sent here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns whether `stop` was called.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Returns the current report, which may be up to one second old. It never fails.
    pub async fn report(&self) -> Report {
        let mut cache = self.cache.lock().await;
        let recent = cache
            .last_report
            .as_ref()
            .filter(|(when, _)| when.elapsed() < MAX_REPORT_AGE)
            .map(|(_, report)| report.clone());
        let report = match recent {
            Some(report) => report,
            None => {
                let report = self.check(&mut cache, Instant::now() + CHECK_TIMEOUT).await;
                if cache.last_report.as_ref().is_none_or(|(_, before)| *before != report) {
                    tracing::info!(status = ?report.status, report = ?report, "Readiness changed");
                }
                cache.last_report = Some((Instant::now(), report.clone()));
                report
            }
        };
        match self.stopping() {
            true => Report { status: Status::Stopping, ..report },
            false => report,
        }
    }

    async fn check(&self, cache: &mut Cache, until: Instant) -> Report {
        let failed = |catalog, keys| Report {
            status: Status::NotReady,
            catalog,
            keys,
            databases: CheckResult::Unknown,
            audit: CheckResult::Unknown,
        };
        let Ok(Ok(servers)) = timeout_at(until, self.catalog.server_databases()).await else {
            return failed(CheckResult::Failing, CheckResult::Unknown);
        };
        if let Some(first) = servers.first() {
            match timeout_at(until, self.check_keys(first.server)).await {
                Ok(Ok(())) => {}
                _ => return failed(CheckResult::Ok, CheckResult::Failing),
            }
        }
        let answers = join_all(servers.iter().map(async |ServerDatabase { server, name, database }| {
            let days = timeout_at(until, self.router.audit_days_left(*server, database)).await;
            let days = days.ok().and_then(Result::ok);
            if days.is_none() {
                tracing::warn!(server = %name, "A PostgreSQL server does not open a session that runs plpgsql");
            }
            days
        }));
        let (answers, ()) = futures_util::join!(answers, self.check_next_own_database(cache, until));
        let (of, failing) = (answers.len(), answers.iter().filter(|days| days.is_none()).count());
        let (status, databases) = match failing {
            0 => (Status::Ready, CheckResult::Ok),
            failing if failing == of => (Status::NotReady, CheckResult::Failing),
            failing => (Status::Degraded, CheckResult::PartlyFailing { failing, of }),
        };
        let audit = match answers.into_iter().flatten().chain(cache.own_audit_days.values().copied()).min() {
            Some(days) if days < MIN_AUDIT_DAYS => CheckResult::PartitionsEnd { days },
            Some(_) => CheckResult::Ok,
            None => CheckResult::Unknown,
        };
        Report { status, catalog: CheckResult::Ok, keys: CheckResult::Ok, databases, audit }
    }

    /// Checks one of the tenants' own databases, the next one with each report. A failure concerns that tenant alone:
    /// the earlier result is kept and the report does not change.
    async fn check_next_own_database(&self, cache: &mut Cache, until: Instant) {
        let own = self.catalog.own_databases();
        cache.own_audit_days.retain(|id, _| {
            own.iter().any(|tenant| tenant.placement.as_ref().is_some_and(|placement| placement.id == *id))
        });
        cache.reports = cache.reports.wrapping_add(1);
        let next = cache.reports.checked_rem(own.len()).and_then(|at| own.get(at));
        let Some((tenant, placement)) = next.and_then(|tenant| Some((tenant.id, tenant.placement.as_ref()?))) else {
            return;
        };
        if let Ok(Ok(days)) = timeout_at(until, self.router.own_audit_days_left(tenant, placement)).await {
            cache.own_audit_days.insert(placement.id, days);
        }
    }

    /// Unwraps a secret that is never cached, so that the KMS is really called.
    async fn check_keys(&self, server: ServerId) -> Result<()> {
        let server = self.catalog.server(server).await?;
        self.keys.app_password(server.id, &server.app_password).await.map(|_| ())
    }
}
