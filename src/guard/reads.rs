//! The read transactions of one operation: one, and after each write another that sees it. The earlier one goes with the last who read
//! through it, and its session with it: a request holds one session at a time, however much it changes.

use super::TenantTx;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

type Cell = Arc<OnceCell<Arc<TenantTx>>>;

/// The one that is read through now, once it was needed.
#[derive(Default)]
pub(super) struct Reads {
    current: Mutex<Cell>,
    failed: AtomicBool,
}

impl Reads {
    /// Where the current read transaction is, or will be.
    pub(super) fn current(&self) -> Cell {
        Arc::clone(&self.current.lock())
    }

    /// What is read from now on is read anew.
    pub(super) fn begin_anew(&self) {
        *self.current.lock() = Cell::default();
    }

    /// An earlier one could not be committed: nothing that was read may leave any more.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}
