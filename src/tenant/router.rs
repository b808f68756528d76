//! From a placement to a session with its database: which server, which login, which pool.
//! Holds pools by login and database, never by tenant: what a session may see is the guard's business. Before a session comes a turn at the
//! server, so that whoever asks seldom does not wait for the noisiest tenant.

use super::catalog::Catalog;
use super::keys::KeyRing;
use super::{Placement, SchemaName, TenancyModel, own_database_name};
use crate::db::connect::{self, Config};
use crate::db::fair_queue::FairQueue;
use crate::db::pool::{Budget, CheckoutError, Limits, Pool, PooledSession, Used};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use std::collections::HashMap;
use std::sync::Arc;

type Place = (ServerId, String);

/// Pools of this process.
pub struct Router {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    limits: Limits,
    servers: Mutex<HashMap<ServerId, Server>>,
    pools: Mutex<HashMap<Place, Arc<Pool>>>,
}

/// What all who ask one server have in common.
#[derive(Clone)]
struct Server {
    budget: Arc<Budget>,
    turns: Arc<FairQueue>,
}

impl Router {
    /// A router without pools yet.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<KeyRing>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { catalog, keys, limits, servers: Mutex::default(), pools: Mutex::default() })
    }

    /// A clean session with the placement's database, under the login that runs its SQL, once it is the tenant's turn.
    pub async fn checkout(&self, tenant: TenantId, placement: &Placement) -> Result<PooledSession> {
        let place = (placement.server, placement.database.clone());
        let own = (placement.model == TenancyModel::Database).then_some((tenant, placement.id));
        // What the catalog is asked for costs nobody a turn; while it waits for one, the pool may be replaced.
        self.pool(&place, own).await?;
        let turns = self.at(placement.server).turns;
        let turn = tokio::time::timeout(self.limits.connect_timeout, turns.next(tenant))
            .await
            .map_err(|_| Error::Unavailable)?;
        let pool = self.pool(&place, own).await?;
        Ok(self.lease_from(&pool, &place, placement.schema.as_str()).await?.within(turn))
    }

    /// A session with the database of shared and schema tenants, for the boot check.
    pub async fn checkout_shared(&self, server: ServerId, database: &str) -> Result<PooledSession> {
        let place = (server, database.to_owned());
        let pool = self.pool(&place, None).await?;
        self.lease_from(&pool, &place, SchemaName::shared().as_str()).await
    }

    /// What of each server's budget is used now.
    pub fn used(&self) -> Vec<(ServerId, Used)> {
        let servers = self.servers.lock();
        let used = |at: &Server| {
            let used = at.budget.used();
            Used { waiting: used.waiting + at.turns.waiting(), ..used }
        };
        servers.iter().map(|(server, at)| (*server, used(at))).collect()
    }

    fn at(&self, server: ServerId) -> Server {
        let mut servers = self.servers.lock();
        let new = || Server { budget: Budget::new(self.limits), turns: FairQueue::new(self.limits.at_once) };
        servers.entry(server).or_insert_with(new).clone()
    }

    async fn lease_from(&self, pool: &Arc<Pool>, place: &Place, schema: &str) -> Result<PooledSession> {
        pool.checkout(schema).await.map_err(|error| {
            tracing::warn!(error = %error, database = place.1, "No session with a tenant database");
            // Its address or password may have changed: both are read again next time.
            if error != CheckoutError::Busy {
                let mut pools = self.pools.lock();
                if pools.get(place).is_some_and(|current| Arc::ptr_eq(current, pool)) {
                    pools.remove(place);
                }
            }
            Error::Unavailable
        })
    }

    /// The pool of a database. `own`: the tenant that has it to itself, with the placement that holds its password.
    async fn pool(&self, place: &Place, own: Option<(TenantId, PlacementId)>) -> Result<Arc<Pool>> {
        if let Some(pool) = self.pools.lock().get(place) {
            return Ok(Arc::clone(pool));
        }
        let config = self.config(place, own).await?;
        let budget = self.at(place.0).budget;
        let mut pools = self.pools.lock();
        Ok(Arc::clone(pools.entry(place.clone()).or_insert_with(|| Arc::new(Pool::new(config, &budget)))))
    }

    /// For how many days the partitions of a shared database's audit logs last. Asked in a session of its own, beside the budget.
    pub async fn audit_days_left(&self, server: ServerId, database: &str) -> Result<i32> {
        self.audit_days_at((server, database.to_owned()), None).await
    }

    /// The same of a database that a tenant has to itself.
    pub async fn own_audit_days_left(&self, tenant: TenantId, placement: &Placement) -> Result<i32> {
        self.audit_days_at((placement.server, placement.database.clone()), Some((tenant, placement.id))).await
    }

    async fn audit_days_at(&self, place: Place, own: Option<(TenantId, PlacementId)>) -> Result<i32> {
        let config = self.config(&place, own).await?;
        connect::ask(&config, "cordon.audit_days_left()").await.map_err(|error| {
            tracing::debug!(error = %error, "A question to a database was not answered");
            Error::Unavailable
        })
    }

    /// Forgets all sessions: idle ones end now, the others when they come back.
    pub fn close(&self) {
        self.pools.lock().clear();
    }

    async fn config(&self, place: &Place, own: Option<(TenantId, PlacementId)>) -> Result<Config> {
        let server = self.catalog.server(place.0).await?;
        let (login, password) = match own {
            None => ("cordon_app".to_owned(), self.keys.app_password(server.id, &server.app_password).await?),
            Some((tenant, placement)) => {
                let wrapped = self.catalog.own_password(placement).await?;
                (own_database_name(tenant), self.keys.own_password(placement, &wrapped).await?)
            }
        };
        let address = server.address.into();
        let mut config =
            connect::parse(&address).map_err(|error| Error::internal("A server's address is none", error))?;
        config.dbname(&place.1).user(login).password(password.expose_secret());
        Ok(config)
    }
}
