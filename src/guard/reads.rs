//! The read transactions of one operation: one at a time, and a new one after each write, which sees that write. An
//! earlier transaction is dropped with its last reader, and its session is returned then, so that a request holds one
//! session at a time, however many writes it makes.

use super::TenantTx;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

type ReadTx = Arc<OnceCell<Arc<TenantTx>>>;

#[derive(Default)]
pub(super) struct Reads {
    current: Mutex<ReadTx>,
    failed: AtomicBool,
}

impl Reads {
    /// Returns the cell of the current read transaction, which is empty until the transaction is needed.
    pub(super) fn current(&self) -> ReadTx {
        Arc::clone(&self.current.lock())
    }

    /// Makes later reads use a new transaction.
    pub(super) fn renew(&self) {
        *self.current.lock() = ReadTx::default();
    }

    /// Records that a read transaction could not be committed: nothing that the operation read may be returned.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}
