//! What is built once at start and shared by every worker. Nothing here belongs to a tenant; caches in it are keyed by tenant id.

use crate::admission::Admission;
use crate::auth::{self, Verifier};
use crate::config::Settings;
use crate::crypto::{self, KeyFile, Kms};
use crate::db::connect;
use crate::db::pool::{self, Limits};
use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::guard::{GuardFactory, GuardParts, Policy, Timeouts};
use crate::isolation::{self, BootCheck};
use crate::readiness::Readiness;
use crate::telemetry::{BackendStats, MetricSources, Metrics, SealingStats};
use crate::tenant::SchemaName;
use crate::tenant::catalog::Catalog;
use crate::tenant::events::SecurityEvents;
use crate::tenant::keys::KeyRing;
use crate::tenant::router::Router;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Settings with which nothing can be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Settings(String),
}

/// The parts of a running Cordon.
pub struct App {
    /// As read at start.
    pub settings: Settings,
    /// Tokens to principals.
    pub verifier: Verifier,
    /// Principals to tenants.
    pub guards: Arc<GuardFactory>,
    /// The catalog.
    pub catalog: Arc<Catalog>,
    /// Keys in memory.
    pub keys: Arc<KeyRing>,
    /// Sessions.
    pub router: Arc<Router>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How often callers may come.
    pub admission: Arc<Admission>,
    /// Whether to send requests here.
    pub readiness: Readiness,
    flags: Arc<Flags>,
    events: Arc<SecurityEvents>,
    beside: Mutex<JoinSet<()>>,
}

impl App {
    /// Builds everything; connects to nothing yet.
    pub fn new(settings: Settings, boot_check: BootCheck) -> Result<Arc<Self>, StartError> {
        let wrong = |text: String| StartError::Settings(text);
        let url = settings
            .catalog
            .url
            .as_ref()
            .ok_or_else(|| wrong("catalog.url is not set (CORDON__CATALOG__URL)".into()))?;
        let config = connect::parse(url).map_err(|error| wrong(format!("catalog.url: {error}")))?;
        let file =
            settings.keys.file.as_ref().ok_or_else(|| wrong("keys.file is not set (CORDON__KEYS__FILE)".into()))?;
        let kms: Arc<dyn Kms> = Arc::new(KeyFile::new(file));
        let verifier = Verifier::new(&settings.auth).map_err(|error| wrong(error.to_string()))?;
        let policy = Policy::built_in().map_err(|error| wrong(error.to_string()))?;
        let flags = Flags::new(&settings.flags).map_err(|error| wrong(error.to_string()))?;
        let catalog = Catalog::new(config);
        let keys = KeyRing::new(kms, Arc::clone(&catalog), Duration::from_secs(settings.keys.cache_seconds));
        let router = Router::new(Arc::clone(&catalog), Arc::clone(&keys), Limits::from(&settings.database));
        let metrics = Metrics::new(&settings.telemetry).map_err(|error| wrong(error.to_string()))?;
        metrics.watch(sources(&router, &keys));
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
            policy,
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
            beside: Mutex::default(),
        }))
    }

    /// The boot check of what is common to all: walls that are down in the data database of each server in use.
    /// Placements are looked at one by one when they are first used.
    pub async fn walls(&self, check: BootCheck) -> Result<Vec<String>> {
        let mut down = Vec::new();
        for (server, id, database) in self.catalog.shared_schemas().await? {
            // Its tenants are unavailable, the others are not; what stands there is looked at when it is first used.
            let session = match self.router.checkout_shared(id, &database).await {
                Ok(session) => session,
                Err(Error::KeyUnavailable) => {
                    tracing::error!(server = %server, "The keys are not available; no tenant of this server is served until they are");
                    continue;
                }
                Err(_) => {
                    tracing::error!(server = %server, "A PostgreSQL server is away; its tenants are not served until it is back");
                    continue;
                }
            };
            let walls = isolation::common(&session, check)
                .await?
                .into_iter()
                .chain(isolation::around(&session, &SchemaName::shared()).await?);
            down.extend(walls.map(|wall| format!("{server}: {wall}")));
        }
        Ok(down)
    }

    /// Starts what runs beside requests: listening to the catalog, following flags, writing security events.
    pub fn run_beside(self: &Arc<Self>) {
        let keys = Arc::clone(&self.keys);
        let mut beside = self.beside.lock();
        beside.spawn(Arc::clone(&self.catalog).listen(move |changed| keys.forget(changed)));
        beside.spawn(Arc::clone(&self.flags).follow());
        beside.spawn(Arc::clone(&self.events).run(Arc::clone(&self.catalog)));
    }

    /// What is left to do when the last request is answered: write what was counted, end what runs beside, let go of sessions.
    pub async fn close(&self) {
        self.events.flush(&self.catalog).await;
        self.beside.lock().abort_all();
        self.router.close();
    }
}

/// What the parts count for themselves.
fn sources(router: &Arc<Router>, keys: &Arc<KeyRing>) -> MetricSources {
    fn work([values, bytes]: [u64; 2]) -> SealingStats {
        SealingStats { values, bytes }
    }
    let (router, keys) = (Arc::clone(router), Arc::clone(keys));
    let backends = move || {
        let used = router.used().into_iter();
        let used = used.map(|(server, pool::Used { limit, busy, idle, waiting })| BackendStats {
            server: server.to_string(),
            limit,
            busy,
            idle,
            waiting,
        });
        used.collect()
    };
    MetricSources {
        backends: Box::new(backends),
        closed_unclean: pool::closed_unclean,
        sealed: || work(crypto::sealed()),
        opened: || work(crypto::opened()),
        integrity_failures: crypto::integrity_failures,
        key_cache_misses: Box::new(move || keys.misses()),
    }
}

/// What `serve` must not be started with: an operator's or keeper's login, or, outside profile `dev`, the development issuer.
pub fn refuse_unfit(settings: &Settings, profile: Option<&str>) -> Result<(), StartError> {
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
