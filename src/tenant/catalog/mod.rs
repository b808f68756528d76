//! The server's view of the catalog: a snapshot in memory, refreshed by notifications and looked up again on a miss.
//! Reads as `cordon_catalog_reader` and writes nothing but counts of security events. A stale snapshot is harmless,
//! because the fence in the tenant's database decides for each transaction.

mod listener;
mod rows;
mod snapshot;

pub use listener::CHANNEL;
pub use rows::{Server, ServerDatabase, WrappedKey, load_tenants};

use super::Tenant;
use crate::db::connect::{self, Config};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use parking_lot::RwLock;
use snapshot::Snapshot;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Connecting may take this long, and so may each query: everyone with an unknown tenant waits for the one session.
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The catalog, read. One per process.
pub struct Catalog {
    config: Config,
    snapshot: RwLock<Snapshot>,
    session: Mutex<Option<AsyncPgConnection>>,
    /// Held from the reading of a row until it is in the snapshot, so that an older row cannot replace a newer one.
    refreshing: Mutex<()>,
}

impl Catalog {
    /// Creates a catalog that connects with `config`. Nothing is read yet.
    pub fn new(mut config: Config) -> Arc<Self> {
        config.options(format!("-c statement_timeout={}", SESSION_TIMEOUT.as_millis()));
        Arc::new(Self { config, snapshot: RwLock::default(), session: Mutex::new(None), refreshing: Mutex::new(()) })
    }

    /// Returns the tenant from the snapshot where it is known, and otherwise from the catalog; `None` where it does not
    /// exist.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        let known = self.snapshot.read().lookup(id);
        match known {
            Some(tenant) => Ok(tenant),
            None => self.refresh(id).await,
        }
    }

    /// Reads the tenant from the catalog again, for example after the fence reported that its placement changed.
    pub async fn refresh(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        let _turn = self.refreshing.lock().await;
        let found = self.query(async |session| load_tenants(session, Some(id)).await).await?;
        let found = found.into_iter().next().map(Arc::new);
        let mut snapshot = self.snapshot.write();
        match &found {
            Some(tenant) => snapshot.insert(Arc::clone(tenant)),
            None => snapshot.insert_missing(id),
        }
        Ok(found)
    }

    /// Reads every tenant from the catalog and replaces the snapshot.
    pub async fn refresh_all(&self) -> Result<Vec<Arc<Tenant>>> {
        let _turn = self.refreshing.lock().await;
        let all = self.query(async |session| load_tenants(session, None).await).await?;
        let all: Vec<_> = all.into_iter().map(Arc::new).collect();
        *self.snapshot.write() = Snapshot::of(&all);
        Ok(all)
    }

    /// Returns whether an active tenant allows the origin: the tenant with this slug, or any tenant where no slug is
    /// given. It is called before the caller is authenticated, and therefore reads nothing but the snapshot.
    pub fn allows(&self, origin: &str, slug: Option<&str>) -> bool {
        self.snapshot.read().allows(origin, slug)
    }

    /// Returns the known active tenants that have a database of their own, ordered by the time of their creation.
    pub fn own_databases(&self) -> Vec<Arc<Tenant>> {
        self.snapshot.read().own_databases()
    }

    /// Returns a server by its id, or `Unavailable` where there is no such server.
    pub async fn server(&self, id: ServerId) -> Result<Server> {
        self.query(async |session| rows::server(session, id).await).await?.ok_or(Error::Unavailable)
    }

    /// Returns the database of shared and schema tenants of each server, ordered by the server's name.
    pub async fn server_databases(&self) -> Result<Vec<ServerDatabase>> {
        self.query(async |session| rows::server_databases(session).await).await
    }

    /// Returns the wrapped password of the login that belongs to one placement alone, or `Unavailable` where it has
    /// none.
    pub async fn own_password(&self, placement: PlacementId) -> Result<Vec<u8>> {
        self.query(async |session| rows::own_password(session, placement).await).await?.ok_or(Error::Unavailable)
    }

    /// Returns all wrapped keys of a tenant.
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<Vec<WrappedKey>> {
        self.query(async |session| rows::tenant_keys(session, tenant).await).await
    }

    /// Returns the newest wrapped binding key of a database, or `Unavailable` where it has none.
    pub async fn binding_key(&self, server: ServerId, database: &str) -> Result<WrappedKey> {
        self.query(async |session| rows::binding_key(session, server, database).await).await?.ok_or(Error::Unavailable)
    }

    /// Adds `times` to the count of a kind of event that belongs to no verified tenant.
    pub async fn security_event(&self, kind: &str, times: i64) -> Result<()> {
        self.query(async |session| rows::add_security_event(session, kind, times).await).await
    }

    /// Runs one query in the session that is kept for reading, which is opened again after it was lost. The session is
    /// out of its slot meanwhile: a cancelled caller drops it instead of leaving half an answer in it.
    async fn query<T>(&self, query: impl AsyncFnOnce(&mut AsyncPgConnection) -> QueryResult<T>) -> Result<T> {
        let mut slot = self.session.lock().await;
        let usable = slot.take().and_then(|mut session| (!session.is_broken()).then_some(session));
        let mut session = match usable {
            Some(session) => session,
            None => self.open_session().await?,
        };
        // A server that accepted a query and then falls silent must not hold up everyone who waits for the session.
        let outcome = tokio::time::timeout(SESSION_TIMEOUT, query(&mut session))
            .await
            .unwrap_or_else(|_| Err(diesel::result::Error::QueryBuilderError("the catalog does not answer".into())));
        match outcome {
            Ok(rows) => {
                *slot = Some(session);
                Ok(rows)
            }
            Err(error) => {
                tracing::warn!(error = %error, "The catalog could not be read");
                Err(Error::Unavailable)
            }
        }
    }

    async fn open_session(&self) -> Result<AsyncPgConnection> {
        match tokio::time::timeout(SESSION_TIMEOUT, connect::open(&self.config)).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "The catalog's database is away");
                Err(Error::Unavailable)
            }
            Err(_) => {
                tracing::warn!("The catalog's database does not answer");
                Err(Error::Unavailable)
            }
        }
    }
}
