//! From a placement to a session with its database: which server, which login, which pool. Pools are kept by database,
//! not by tenant; what a session may see is decided by the guard. Before a session is checked out, a fair queue gives
//! each tenant its turn at the server, so that a tenant with few requests does not wait for the busiest one.

use super::catalog::Catalog;
use super::keys::KeyRing;
use super::{Placement, SchemaName, TenancyModel, own_database_name};
use crate::db::connect::{self, Config};
use crate::db::fair_queue::FairQueue;
use crate::db::pool::{BackendBudget, BackendUsage, CheckoutError, Pool, PoolLimits, PooledSession};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use std::collections::HashMap;
use std::sync::Arc;

/// One database of one server, and so one login: pools are kept by it.
type DatabaseKey = (ServerId, String);

/// The login of a tenant that has a database of its own. Its password is stored with the placement.
#[derive(Debug, Clone, Copy)]
struct OwnLogin {
    tenant: TenantId,
    placement: PlacementId,
}

impl OwnLogin {
    fn of(tenant: TenantId, placement: &Placement) -> Option<Self> {
        (placement.model == TenancyModel::Database).then_some(Self { tenant, placement: placement.id })
    }
}

/// The pools of this process and the fair queue before each server.
pub struct Router {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    limits: PoolLimits,
    servers: Mutex<HashMap<ServerId, ServerLimits>>,
    pools: Mutex<HashMap<DatabaseKey, Arc<Pool>>>,
}

/// What all pools of one server share.
#[derive(Clone)]
struct ServerLimits {
    budget: Arc<BackendBudget>,
    queue: Arc<FairQueue>,
}

impl Router {
    /// Creates a router without pools. `limits` apply to each server.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<KeyRing>, limits: PoolLimits) -> Arc<Self> {
        Arc::new(Self { catalog, keys, limits, servers: Mutex::default(), pools: Mutex::default() })
    }

    /// Returns a clean session with the placement's database, under the login that runs the tenant's SQL. Tenants take
    /// turns where the server is busy.
    ///
    /// # Errors
    /// `Unavailable` where no session is free within the connect timeout or the server does not answer; otherwise the
    /// errors of reading the catalog and of the KMS.
    pub async fn checkout(&self, tenant: TenantId, placement: &Placement) -> Result<PooledSession> {
        let key = (placement.server, placement.database.clone());
        let own = OwnLogin::of(tenant, placement);
        // Queries to the catalog are made before the tenant's turn, so that they take no time of it. The pool is looked
        // up again afterwards, because it may have been replaced during the wait.
        self.pool(&key, own).await?;
        let queue = self.server_limits(placement.server).queue;
        let permit = tokio::time::timeout(self.limits.connect_timeout, queue.acquire(tenant))
            .await
            .map_err(|_| Error::Unavailable)?;
        let pool = self.pool(&key, own).await?;
        Ok(self.checkout_from(&pool, &key, placement.schema.as_str()).await?.with_permit(permit))
    }

    /// Returns a session with a server's database of shared and schema tenants, for the isolation check. It does not
    /// wait in the fair queue.
    ///
    /// # Errors
    /// As `checkout`.
    pub async fn checkout_shared(&self, server: ServerId, database: &str) -> Result<PooledSession> {
        let key = (server, database.to_owned());
        let pool = self.pool(&key, None).await?;
        self.checkout_from(&pool, &key, SchemaName::shared().as_str()).await
    }

    /// Returns how much of each server's budget of backends is used. Requests in the fair queue count as waiting.
    pub fn usage(&self) -> Vec<(ServerId, BackendUsage)> {
        let servers = self.servers.lock();
        let usage = |limits: &ServerLimits| {
            let usage = limits.budget.usage();
            BackendUsage { waiting: usage.waiting + limits.queue.waiting(), ..usage }
        };
        servers.iter().map(|(server, limits)| (*server, usage(limits))).collect()
    }

    fn server_limits(&self, server: ServerId) -> ServerLimits {
        let mut servers = self.servers.lock();
        let new = || ServerLimits {
            budget: BackendBudget::new(self.limits),
            queue: FairQueue::new(self.limits.max_transactions),
        };
        servers.entry(server).or_insert_with(new).clone()
    }

    async fn checkout_from(&self, pool: &Arc<Pool>, key: &DatabaseKey, schema: &str) -> Result<PooledSession> {
        pool.checkout(schema).await.map_err(|error| {
            tracing::warn!(error = %error, database = key.1, "No session with a tenant database");
            // The server's address or the password may have changed, so the pool is dropped and both are read again.
            if error != CheckoutError::Busy {
                let mut pools = self.pools.lock();
                if pools.get(key).is_some_and(|current| Arc::ptr_eq(current, pool)) {
                    pools.remove(key);
                }
            }
            Error::Unavailable
        })
    }

    async fn pool(&self, key: &DatabaseKey, own: Option<OwnLogin>) -> Result<Arc<Pool>> {
        if let Some(pool) = self.pools.lock().get(key) {
            return Ok(Arc::clone(pool));
        }
        let config = self.config(key, own).await?;
        let budget = self.server_limits(key.0).budget;
        let mut pools = self.pools.lock();
        Ok(Arc::clone(pools.entry(key.clone()).or_insert_with(|| Arc::new(Pool::new(config, &budget)))))
    }

    /// Returns for how many more days the audit logs of a server's database of shared and schema tenants have
    /// partitions. The query runs in a session that is opened for it, outside the budget of backends.
    pub async fn audit_days_left(&self, server: ServerId, database: &str) -> Result<i32> {
        self.query_audit_days((server, database.to_owned()), None).await
    }

    /// Returns the same for the database of a tenant that has one of its own.
    pub async fn own_audit_days_left(&self, tenant: TenantId, placement: &Placement) -> Result<i32> {
        let own = OwnLogin { tenant, placement: placement.id };
        self.query_audit_days((placement.server, placement.database.clone()), Some(own)).await
    }

    async fn query_audit_days(&self, key: DatabaseKey, own: Option<OwnLogin>) -> Result<i32> {
        let config = self.config(&key, own).await?;
        connect::query_integer(&config, "cordon.audit_days_left()").await.map_err(|error| {
            tracing::debug!(error = %error, "A question to a database was not answered");
            Error::Unavailable
        })
    }

    /// Drops all pools. Idle sessions are closed now, and the others when they are returned.
    pub fn close(&self) {
        self.pools.lock().clear();
    }

    async fn config(&self, key: &DatabaseKey, own: Option<OwnLogin>) -> Result<Config> {
        let server = self.catalog.server(key.0).await?;
        let (login, password) = match own {
            None => ("cordon_app".to_owned(), self.keys.app_password(server.id, &server.app_password).await?),
            Some(OwnLogin { tenant, placement }) => {
                let wrapped = self.catalog.own_password(placement).await?;
                (own_database_name(tenant), self.keys.own_password(placement, &wrapped).await?)
            }
        };
        let address = server.address.into();
        let mut config =
            connect::parse(&address).map_err(|error| Error::internal("A server's address is none", error))?;
        config.dbname(&key.1).user(login).password(password.expose_secret());
        Ok(config)
    }
}
