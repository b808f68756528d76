//! The budget of backends that all pools of this process share on one PostgreSQL server.
//! Touches no connection itself: it hands out permits and asks pools to close idle sessions.

use super::pool::PoolShard;
use parking_lot::Mutex;
use std::num::NonZero;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often a caller that waits for a backend tries to close an idle session.
const EVICTION_INTERVAL: Duration = Duration::from_millis(10);

/// Sizes and timeouts of pools, derived from `config::Database`.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// The most backends this process uses on one server, over all its pools.
    pub max_backends: usize,
    /// The most transactions this process runs on one server at the same time. At most `max_backends`.
    pub max_transactions: usize,
    /// The time allowed to connect, and to wait for a session.
    pub connect_timeout: Duration,
    /// The age at which a session is closed.
    pub max_lifetime: Duration,
    /// The time after which an idle session is closed.
    pub idle_timeout: Duration,
}

impl From<&crate::config::Database> for PoolLimits {
    fn from(settings: &crate::config::Database) -> Self {
        let max_backends = settings.backends.max(1);
        let max_transactions = match settings.at_once {
            0 => 2 * std::thread::available_parallelism().map_or(1, NonZero::get),
            configured => configured,
        };
        Self {
            max_backends,
            max_transactions: max_transactions.min(max_backends),
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms.max(1)),
            max_lifetime: Duration::from_secs(settings.lifetime_seconds.max(1)),
            idle_timeout: Duration::from_secs(settings.idle_seconds.max(1)),
        }
    }
}

/// The backends this process may use on one PostgreSQL server. While PostgreSQL is still ending a closed backend, its
/// successor may already be starting, so the server may briefly see more backends than the budget.
pub struct BackendBudget {
    permits: Arc<Semaphore>,
    shards: Mutex<Vec<Weak<PoolShard>>>,
    /// How many callers, of all pools, wait for a backend.
    pub(super) backend_waiters: AtomicUsize,
    /// How many callers, of all pools, wait for a session.
    pub(super) session_waiters: AtomicUsize,
    pub(super) limits: PoolLimits,
}

/// How much of a budget is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendUsage {
    /// The most backends allowed.
    pub limit: usize,
    /// Backends that run a transaction or are about to.
    pub busy: usize,
    /// Backends whose session is idle in a pool.
    pub idle: usize,
    /// Callers that wait for a session.
    pub waiting: usize,
}

impl BackendBudget {
    /// Creates a budget of `limits.max_backends` backends.
    pub fn new(limits: PoolLimits) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(limits.max_backends));
        Arc::new(Self {
            permits,
            shards: Mutex::default(),
            backend_waiters: AtomicUsize::new(0),
            session_waiters: AtomicUsize::new(0),
            limits,
        })
    }

    /// Adds the shards of a pool. From then on their idle sessions may be closed in favour of other pools.
    pub(super) fn register<'s>(&self, shards: impl IntoIterator<Item = &'s Arc<PoolShard>>) {
        self.shards.lock().extend(shards.into_iter().map(Arc::downgrade));
    }

    /// Returns how much of the budget is in use now.
    pub fn usage(&self) -> BackendUsage {
        let shards = self.shards.lock();
        let idle = shards.iter().filter_map(Weak::upgrade).map(|shard| shard.idle_sessions()).sum();
        let limit = self.limits.max_backends;
        let open = limit.saturating_sub(self.permits.available_permits());
        BackendUsage {
            limit,
            busy: open.saturating_sub(idle),
            idle,
            waiting: self.session_waiters.load(Ordering::Relaxed),
        }
    }

    /// Waits for a permit for one more backend, in order of arrival. While there is none, idle sessions of any pool are
    /// closed, and other pools close sessions that are returned to them after the minimum lifetime. `pool_waiters`
    /// counts the waiting callers of the caller's own pool.
    pub(super) async fn permit(&self, pool_waiters: &AtomicUsize) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return permit;
        }
        let _waiters = [WaiterCount::enter(&self.backend_waiters), WaiterCount::enter(pool_waiters)];
        let mut permit = pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            self.evict();
            // The semaphore is never closed, so the inner result is always a permit.
            if let Ok(Ok(permit)) = tokio::time::timeout(EVICTION_INTERVAL, &mut permit).await {
                return permit;
            }
        }
    }

    /// Closes one idle session of any pool, if there is one, without waiting.
    fn evict(&self) {
        let shards: Vec<_> = {
            let mut shards = self.shards.lock();
            shards.retain(|shard| shard.strong_count() > 0);
            shards.iter().filter_map(Weak::upgrade).collect()
        };
        let _ = shards.iter().any(|shard| shard.close_idle_session());
    }
}

/// Counts one waiting caller for as long as this value lives.
pub(super) struct WaiterCount<'a>(&'a AtomicUsize);

impl<'a> WaiterCount<'a> {
    pub(super) fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaiterCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
