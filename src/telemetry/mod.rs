//! What Cordon tells its operators: metrics, spans, log lines. `docs/telemetry.md` lists their names; `tenant.rs` alone spells the tenant.
//! Metrics are a value that each `App` has; spans and lines go through `tracing`, whose one subscriber `start` sets.
//! Nothing here waits for a collector, and nothing of a chart, a token or a question's text is told.

mod export;
mod lines;
mod metrics;
mod request;
pub mod span;
mod tenant;

pub use export::Dropped;
pub use lines::lines;
pub use metrics::{BackendStats, MetricSources, Metrics, SealingStats};
pub use request::{OperationKind, Parent, Request, RequestStats, RoundTrip};

use crate::config::Settings;
use export::Export;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What is still to be sent at the end has this long: metrics, and then all else together.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Telemetry that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Directives that are none.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// An address that is none.
    #[error("telemetry.otlp_endpoint: {0}")]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The process has a subscriber already.
    #[error("{0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Spans and lines of this process, until `close`.
#[derive(Debug)]
pub struct Telemetry {
    export: Option<Export>,
}

/// From here on, lines go to standard error and, with an endpoint, spans and lines to a collector.
pub fn start(settings: &Settings) -> Result<Telemetry, TelemetryError> {
    let export = settings
        .telemetry
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| Export::to(endpoint, &settings.telemetry))
        .transpose()?;
    let mut layers = vec![lines(&settings.log, std::io::stderr)?];
    if let Some(export) = &export {
        layers.push(export.lines(&settings.log)?);
        layers.push(export.spans());
    }
    tracing_subscriber::registry().with(layers).try_init()?;
    Ok(Telemetry { export })
}

impl Telemetry {
    /// What could not be sent.
    pub fn dropped(&self) -> Dropped {
        self.export.as_ref().map(Export::dropped).unwrap_or_default()
    }

    /// Sends what is left, if the collector takes it in time.
    pub fn close(self) {
        if let Some(export) = self.export {
            export.close(FLUSH_TIMEOUT);
        }
    }
}
