//! The read transactions of one operation: one, and after each write another that sees it. They are kept in a row that only grows, so that
//! what was read can be borrowed for as long as the guard lives.

use super::TenantTx;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OnceCell;

/// The row. Its last cell is the one that is read through.
#[derive(Default)]
pub(super) struct Reads {
    first: Cell,
    failed: AtomicBool,
}

#[derive(Default)]
struct Cell {
    tx: OnceCell<TenantTx>,
    next: OnceLock<Box<Cell>>,
}

impl Reads {
    /// Where the current read transaction is, or will be.
    pub(super) fn current(&self) -> &OnceCell<TenantTx> {
        &self.last().tx
    }

    /// What is read from now on is read anew.
    pub(super) fn begin_anew(&self) {
        let _ = self.last().next.set(Box::default());
    }

    /// An earlier one could not be committed: nothing that was read may leave any more.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn last(&self) -> &Cell {
        let mut cell = &self.first;
        while let Some(next) = cell.next.get() {
            cell = next;
        }
        cell
    }
}
