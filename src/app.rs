//! The application: what is built once at the start and shared by every worker. Nothing in it belongs to one tenant;
//! its caches are keyed by tenant id.

use crate::admission::Admission;
use crate::auth::{self, Verifier};
use crate::config::Settings;
use crate::crypto::{self, KeyFile, Kms};
use crate::db::connect;
use crate::db::pool::{self, PoolLimits};
use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::guard::{GuardFactory, GuardParts, RoleTable, Timeouts};
use crate::isolation::{self, BootCheck};
use crate::readiness::Readiness;
use crate::telemetry::{BackendStats, MetricSources, Metrics, SealingStats};
use crate::tenant::SchemaName;
use crate::tenant::catalog::{Catalog, ServerDatabase};
use crate::tenant::events::SecurityEvents;
use crate::tenant::keys::KeyRing;
use crate::tenant::router::Router;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The process cannot be started with these settings.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is missing or invalid. The text names it, for the operator.
    #[error("{0}")]
    Settings(String),
}

/// The parts of a running server.
pub struct App {
    /// The settings as they were read at the start.
    pub settings: Settings,
    /// Verifies tokens and returns their principals.
    pub verifier: Verifier,
    /// Admits principals to tenants.
    pub guards: Arc<GuardFactory>,
    /// The tenants, from a snapshot of the catalog.
    pub catalog: Arc<Catalog>,
    /// The unwrapped keys.
    pub keys: Arc<KeyRing>,
    /// Sessions with the tenants' databases.
    pub router: Arc<Router>,
    /// The metrics of this process.
    pub metrics: Arc<Metrics>,
    /// Limits of rate and concurrency.
    pub admission: Arc<Admission>,
    /// Whether requests should be sent to this replica.
    pub readiness: Readiness,
    flags: Arc<Flags>,
    events: Arc<SecurityEvents>,
    background: Mutex<JoinSet<()>>,
}

impl App {
    /// Builds all parts. Nothing is connected yet.
    ///
    /// # Errors
    /// A setting is missing or invalid.
    pub fn new(settings: Settings, boot_check: BootCheck) -> Result<Arc<Self>, StartError> {
        let invalid = |text: String| StartError::Settings(text);
        let url = settings
            .catalog
            .url
            .as_ref()
            .ok_or_else(|| invalid("catalog.url is not set (CORDON__CATALOG__URL)".into()))?;
        let config = connect::parse(url).map_err(|error| invalid(format!("catalog.url: {error}")))?;
        let file =
            settings.keys.file.as_ref().ok_or_else(|| invalid("keys.file is not set (CORDON__KEYS__FILE)".into()))?;
        let kms: Arc<dyn Kms> = Arc::new(KeyFile::new(file));
        let verifier = Verifier::new(&settings.auth).map_err(|error| invalid(error.to_string()))?;
        let roles = RoleTable::built_in().map_err(|error| invalid(error.to_string()))?;
        let flags = Flags::new(&settings.flags).map_err(|error| invalid(error.to_string()))?;
        let catalog = Catalog::new(config);
        let keys = KeyRing::new(kms, Arc::clone(&catalog), Duration::from_secs(settings.keys.cache_seconds));
        let router = Router::new(Arc::clone(&catalog), Arc::clone(&keys), PoolLimits::from(&settings.database));
        let metrics = Metrics::new(&settings.telemetry).map_err(|error| invalid(error.to_string()))?;
        metrics.observe_sources(metric_sources(&router, &keys));
        let events = Arc::new(SecurityEvents::default());
        let timeouts = Timeouts {
            statement_ms: settings.database.statement_timeout_ms,
            lock_ms: settings.database.lock_timeout_ms,
        };
        let parts = GuardParts {
            catalog: Arc::clone(&catalog),
            keys: Arc::clone(&keys),
            router: Arc::clone(&router),
            events: Arc::clone(&events),
            metrics: Arc::clone(&metrics),
            flags: Arc::clone(&flags),
            roles,
            timeouts,
        };
        let guards = GuardFactory::new(parts, boot_check);
        let admission = Admission::new(settings.admission.clone());
        let readiness = Readiness::new(Arc::clone(&catalog), Arc::clone(&keys), Arc::clone(&router));
        Ok(Arc::new(Self {
            settings,
            verifier,
            guards,
            catalog,
            keys,
            router,
            metrics,
            admission,
            readiness,
            flags,
            events,
            background: Mutex::default(),
        }))
    }

    /// Checks the isolation of what tenants share: the data database of each server, with its schema `shared`. Returns
    /// a description of each wall that is down. Other schemas are checked when they are first used.
    pub async fn check_isolation(&self, check: BootCheck) -> Result<Vec<String>> {
        let mut down = Vec::new();
        for ServerDatabase { server, name, database } in self.catalog.server_databases().await? {
            // A server that cannot be checked now makes its own tenants unavailable and no others. It is checked when
            // one of its placements is first used.
            let session = match self.router.checkout_shared(server, &database).await {
                Ok(session) => session,
                Err(Error::KeyUnavailable) => {
                    tracing::error!(
                        server = %name,
                        "The keys are not available; no tenant of this server is served until they are"
                    );
                    continue;
                }
                Err(_) => {
                    tracing::error!(
                        server = %name,
                        "A PostgreSQL server is away; its tenants are not served until it is back"
                    );
                    continue;
                }
            };
            let mut walls = isolation::check_database(&session, check).await?;
            walls.extend(isolation::check_schema(&session, &SchemaName::shared()).await?);
            down.extend(walls.into_iter().map(|wall| format!("{name}: {wall}")));
        }
        Ok(down)
    }

    /// Starts the tasks that run in the background: listening to the catalog, following flags, writing security events.
    pub fn start_background_tasks(self: &Arc<Self>) {
        let keys = Arc::clone(&self.keys);
        let mut background = self.background.lock();
        background.spawn(Arc::clone(&self.catalog).listen(move |changed| keys.evict(changed)));
        background.spawn(Arc::clone(&self.flags).refresh());
        background.spawn(Arc::clone(&self.events).run(Arc::clone(&self.catalog)));
    }

    /// Cleans up after the last request: writes the counted security events, stops the background tasks, closes the
    /// sessions.
    pub async fn close(&self) {
        self.events.flush(&self.catalog).await;
        self.background.lock().abort_all();
        self.router.close();
    }
}

/// Returns where the metrics read the counts that the parts keep themselves.
fn metric_sources(router: &Arc<Router>, keys: &Arc<KeyRing>) -> MetricSources {
    fn sealing_stats([values, bytes]: [u64; 2]) -> SealingStats {
        SealingStats { values, bytes }
    }
    let (router, keys) = (Arc::clone(router), Arc::clone(keys));
    let backends = move || {
        let usage = router.usage().into_iter();
        let usage = usage.map(|(server, pool::BackendUsage { limit, busy, idle, waiting })| BackendStats {
            server: server.to_string(),
            limit,
            busy,
            idle,
            waiting,
        });
        usage.collect()
    };
    MetricSources {
        backends: Box::new(backends),
        closed_unclean: pool::closed_unclean,
        sealed: || sealing_stats(crypto::sealed()),
        opened: || sealing_stats(crypto::opened()),
        integrity_failures: crypto::integrity_failures,
        key_cache_misses: Box::new(move || keys.misses()),
    }
}

/// Refuses settings that `serve` must not be started with: a login for the catalog other than the reader's, and,
/// outside the profile `dev`, the development issuer.
///
/// # Errors
/// A setting is refused.
pub fn check_serve_settings(settings: &Settings, profile: Option<&str>) -> Result<(), StartError> {
    if profile != Some("dev") && settings.auth.issuers.iter().any(|issuer| issuer.issuer == auth::dev::ISSUER) {
        return Err(StartError::Settings("the development issuer is for profile dev only".into()));
    }
    if settings.catalog.operator_url.is_some() {
        return Err(StartError::Settings(
            "catalog.operator_url must not be set for serve: it holds the reader's login only".into(),
        ));
    }
    let Some(url) = &settings.catalog.url else { return Ok(()) };
    let config = connect::parse(url).map_err(|error| StartError::Settings(format!("catalog.url: {error}")))?;
    match config.get_user() {
        Some("cordon_catalog_reader") => Ok(()),
        other => Err(StartError::Settings(format!(
            "catalog.url logs in as {}, not as cordon_catalog_reader",
            other.unwrap_or("nobody")
        ))),
    }
}
