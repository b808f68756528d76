//! From a placement to a session with its database: which server, which login, which pool.
//! Holds pools by login and database, never by tenant: what a session may see is the guard's business. Holds a share for each tenant that
//! uses sessions: half of a server's backends, so that whoever waits for a session finds others than the noisiest tenant's in front of it.

use super::catalog::Catalog;
use super::keys::KeyRing;
use super::{Model, Placement, SchemaName, own_database_name};
use crate::db::connect::{self, Config};
use crate::db::pool::{Budget, Lease, LeaseError, Limits, Pool, Used};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use secrecy::ExposeSecret;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Place = (ServerId, String);

/// Pools of this process.
pub struct Router {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    limits: Limits,
    budgets: Mutex<HashMap<ServerId, Arc<Budget>>>,
    pools: Mutex<HashMap<Place, Arc<Pool>>>,
    shares: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

impl Router {
    /// A router without pools yet.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<KeyRing>, limits: Limits) -> Arc<Self> {
        Arc::new(Self { catalog, keys, limits, budgets: Mutex::default(), pools: Mutex::default(), shares: Mutex::default() })
    }

    /// A clean session with the placement's database, under the login that runs its SQL, within the tenant's share.
    pub async fn lease(&self, tenant: TenantId, placement: &Placement) -> Result<Lease> {
        let share = self.share(tenant).await?;
        let place = (placement.server, placement.database.clone());
        let own = (placement.model == Model::Database).then_some((tenant, placement.id));
        Ok(self.lease_at(place, own, placement.schema.as_str()).await?.within(share))
    }

    /// One of the sessions that a tenant may have at once, first come, first served: half of a server's backends.
    async fn share(&self, tenant: TenantId) -> Result<OwnedSemaphorePermit> {
        let share = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            match shares.get(&tenant).and_then(Weak::upgrade) {
                Some(share) => share,
                None => {
                    // Who has no session and waits for none is forgotten.
                    shares.retain(|_, share| share.strong_count() > 0);
                    let share = Arc::new(Semaphore::new(self.limits.backends.div_ceil(2)));
                    shares.insert(tenant, Arc::downgrade(&share));
                    share
                }
            }
        };
        let permit = tokio::time::timeout(self.limits.connect_timeout, share.acquire_owned()).await;
        permit.ok().and_then(std::result::Result::ok).ok_or(Error::Unavailable)
    }

    /// A session with the database of shared and schema tenants, for the boot check.
    pub async fn lease_shared(&self, server: ServerId, database: &str) -> Result<Lease> {
        self.lease_at((server, database.to_owned()), None, SchemaName::shared().as_str()).await
    }

    /// What of each server's budget is used now.
    pub fn used(&self) -> Vec<(ServerId, Used)> {
        let budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.iter().map(|(server, budget)| (*server, budget.used())).collect()
    }

    async fn lease_at(&self, place: Place, own: Option<(TenantId, PlacementId)>, schema: &str) -> Result<Lease> {
        let pool = self.pool(&place, own).await?;
        pool.lease(schema).await.map_err(|error| {
            tracing::warn!(error = %error, database = place.1, "No session with a tenant database");
            // Its address or password may have changed: both are read again next time.
            if error != LeaseError::Busy {
                let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
                if pools.get(&place).is_some_and(|current| Arc::ptr_eq(current, &pool)) {
                    pools.remove(&place);
                }
            }
            Error::Unavailable
        })
    }

    /// The pool of a database. `own`: the tenant that has it to itself, with the placement that holds its password.
    async fn pool(&self, place: &Place, own: Option<(TenantId, PlacementId)>) -> Result<Arc<Pool>> {
        if let Some(pool) = self.pools.lock().unwrap_or_else(PoisonError::into_inner).get(place) {
            return Ok(Arc::clone(pool));
        }
        let config = self.config(place, own).await?;
        let budget = Arc::clone(
            self.budgets.lock().unwrap_or_else(PoisonError::into_inner).entry(place.0).or_insert_with(|| Budget::new(self.limits)),
        );
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
        let mut config = connect::parse(&address).map_err(|error| Error::internal("A server's address is none", error))?;
        config.dbname(&place.1).user(login).password(password.expose_secret());
        Ok(config)
    }
}
