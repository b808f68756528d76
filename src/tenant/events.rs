//! Security events: refusals that belong to no verified tenant. They are counted in memory, and the counts are written
//! to the catalog every few seconds, so that a flood of bad tokens becomes few rows.

use super::catalog::Catalog;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Counts of events by kind that are not written yet.
#[derive(Default)]
pub struct SecurityEvents(Mutex<HashMap<&'static str, i64>>);

impl SecurityEvents {
    /// Counts one event. `kind` becomes the kind of the catalog's row.
    pub fn count(&self, kind: &'static str) {
        *self.0.lock().entry(kind).or_default() += 1;
    }

    /// Writes the counts to the catalog. A count that cannot be written is kept for the next flush.
    pub async fn flush(&self, catalog: &Catalog) {
        let counts = std::mem::take(&mut *self.0.lock());
        for (kind, times) in counts {
            if let Err(error) = catalog.security_event(kind, times).await {
                tracing::warn!(error = %error, "Security events wait for the catalog");
                *self.0.lock().entry(kind).or_default() += times;
            }
        }
    }

    /// Flushes every five seconds until the process ends.
    pub async fn run(self: Arc<Self>, catalog: Arc<Catalog>) {
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush(&catalog).await;
        }
    }
}
