//! The one budget of backends that all pools of this process share on a PostgreSQL server.

use super::pool::Lane;
use parking_lot::Mutex;
use std::num::NonZero;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How often one who waits for a backend looks for an idle session.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How pools behave; times of `config::Database`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Backends of one server, over all its pools.
    pub backends: usize,
    /// Of them, how many run a transaction at once.
    pub at_once: usize,
    /// To connect, and to wait for a session.
    pub connect_timeout: Duration,
    /// A session lives no longer.
    pub lifetime: Duration,
    /// An idle session is closed after this.
    pub idle: Duration,
}

impl From<&crate::config::Database> for Limits {
    fn from(settings: &crate::config::Database) -> Self {
        let backends = settings.backends.max(1);
        let at_once = match settings.at_once {
            0 => 2 * std::thread::available_parallelism().map_or(1, NonZero::get),
            set => set,
        };
        Self {
            backends,
            at_once: at_once.min(backends),
            connect_timeout: Duration::from_millis(settings.connect_timeout_ms.max(1)),
            lifetime: Duration::from_secs(settings.lifetime_seconds.max(1)),
            idle: Duration::from_secs(settings.idle_seconds.max(1)),
        }
    }
}

/// The backends this process may hold on one PostgreSQL server. One that ends may overlap, for the moment PostgreSQL takes to end it,
/// with the one that takes its place.
pub struct Budget {
    permits: Arc<Semaphore>,
    lanes: Mutex<Vec<Weak<Lane>>>,
    /// Who waits for a backend.
    pub(super) waiting: AtomicUsize,
    /// Who waits for a session of any pool.
    pub(super) asking: AtomicUsize,
    pub(super) limits: Limits,
}

/// How much of a budget is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Backends there may be.
    pub limit: usize,
    /// In a transaction, or about to be.
    pub busy: usize,
    /// In a pool.
    pub idle: usize,
    /// Callers that wait for a session.
    pub waiting: usize,
}

impl Budget {
    /// A budget of `limits.backends`.
    pub fn new(limits: Limits) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(limits.backends));
        Arc::new(Self {
            permits,
            lanes: Mutex::default(),
            waiting: AtomicUsize::new(0),
            asking: AtomicUsize::new(0),
            limits,
        })
    }

    /// Its idle sessions may be closed for others.
    pub(super) fn join<'l>(&self, lanes: impl IntoIterator<Item = &'l Arc<Lane>>) {
        self.lanes.lock().extend(lanes.into_iter().map(Arc::downgrade));
    }

    /// What of it is used now.
    pub fn used(&self) -> Used {
        let lanes = self.lanes.lock();
        let idle = lanes.iter().filter_map(Weak::upgrade).map(|lane| lane.idle()).sum();
        let limit = self.limits.backends;
        let open = limit.saturating_sub(self.permits.available_permits());
        Used { limit, busy: open.saturating_sub(idle), idle, waiting: self.asking.load(Ordering::Relaxed) }
    }

    /// A permit for one more backend, first come, first served. While there is none, idle sessions of any pool are closed for it, and
    /// other pools give up a session that comes back to them after its turn. `mine` counts those of the same pool who wait.
    pub(super) async fn permit(&self, mine: &AtomicUsize) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return permit;
        }
        let _counted = [Counted::one(&self.waiting), Counted::one(mine)];
        let mut permit = pin!(Arc::clone(&self.permits).acquire_owned());
        loop {
            self.evict();
            // The semaphore is never closed, so the only way on is a permit.
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_AGAIN, &mut permit).await {
                return permit;
            }
        }
    }

    /// Closes an idle session, if there is one. Waits for nothing.
    fn evict(&self) {
        let lanes: Vec<_> = {
            let mut lanes = self.lanes.lock();
            lanes.retain(|lane| lane.strong_count() > 0);
            lanes.iter().filter_map(Weak::upgrade).collect()
        };
        let _ = lanes.iter().any(|lane| lane.close_idle());
    }
}

/// One in a count, for as long as it lives.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    pub(super) fn one(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
