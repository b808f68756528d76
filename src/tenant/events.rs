//! Refusals that no verified tenant stands behind, counted and written to the catalog a few times a minute,
//! so that a flood of bad tokens is a few rows.

use super::catalog::Catalog;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(5);

/// Counts of events not yet written.
#[derive(Default)]
pub struct SecurityEvents(Mutex<HashMap<&'static str, i64>>);

impl SecurityEvents {
    /// One more of `kind`.
    pub fn count(&self, kind: &'static str) {
        *self.0.lock().entry(kind).or_default() += 1;
    }

    /// Writes what was counted. What cannot be written stays counted.
    pub async fn flush(&self, catalog: &Catalog) {
        let counted = std::mem::take(&mut *self.0.lock());
        for (kind, times) in counted {
            if let Err(error) = catalog.security_event(kind, times).await {
                tracing::warn!(error = %error, "Security events wait for the catalog");
                *self.0.lock().entry(kind).or_default() += times;
            }
        }
    }

    /// Flushes until the process ends.
    pub async fn run(self: Arc<Self>, catalog: Arc<Catalog>) {
        loop {
            tokio::time::sleep(EVERY).await;
            self.flush(&catalog).await;
        }
    }
}
