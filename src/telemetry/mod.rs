//! Metrics, spans and logs for operators. `docs/telemetry.md` lists their names; `tenant.rs` alone spells the tenant.
//! Each `App` has its own `Metrics`; spans and logs go through `tracing`, whose one subscriber `start` installs.
//! Nothing here waits for a collector, and no part of a chart, a token or a GraphQL document is recorded.

mod export;
mod logs;
mod metrics;
mod request;
pub mod span;
mod tenant;

pub use export::DroppedRecords;
pub use logs::log_layer;
pub use metrics::{BackendStats, MetricSources, Metrics, SealingStats};
pub use request::{OperationKind, PendingStatement, RequestStats, RequestTelemetry, TraceParent};

use crate::config::Settings;
use export::Export;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The time allowed at shutdown to send the last metrics, and then as long again for spans and logs together.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Why telemetry cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The setting `log.filter` is not a valid list of filter directives.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// No exporter can be built for the setting `telemetry.otlp_endpoint`.
    #[error("telemetry.otlp_endpoint: {0}")]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The process already has a `tracing` subscriber.
    #[error("{0}")]
    AlreadyStarted(#[from] tracing_subscriber::util::TryInitError),
}

/// The spans and logs of this process, from `start` until `close`.
#[derive(Debug)]
pub struct Telemetry {
    export: Option<Export>,
}

/// Installs the `tracing` subscriber of the process: logs go to standard error and, when `telemetry.otlp_endpoint` is
/// set, spans and logs go to the collector too.
///
/// # Errors
/// Fails when the filter or the endpoint is invalid, and when the process already has a subscriber.
pub fn start(settings: &Settings) -> Result<Telemetry, TelemetryError> {
    let export = settings
        .telemetry
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| Export::new(endpoint, &settings.telemetry))
        .transpose()?;
    let mut layers = vec![log_layer(&settings.log, std::io::stderr)?];
    if let Some(export) = &export {
        layers.push(export.log_layer(&settings.log)?);
        layers.push(export.span_layer());
    }
    tracing_subscriber::registry().with(layers).try_init()?;
    Ok(Telemetry { export })
}

impl Telemetry {
    /// Returns the counts of spans and log records that were dropped. Both stay 0 when nothing is exported.
    pub fn dropped(&self) -> DroppedRecords {
        self.export.as_ref().map(Export::dropped).unwrap_or_default()
    }

    /// Sends the remaining spans and logs. Gives up after two seconds. Blocks the calling thread.
    pub fn close(self) {
        if let Some(export) = self.export {
            export.close(FLUSH_TIMEOUT);
        }
    }
}
