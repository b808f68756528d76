//! Export to a collector, by OTLP over HTTP, on threads of its own. Queues are bounded: a record that does not fit into
//! its queue, or that the collector does not accept, is dropped and counted. So a collector that is slow, unreachable
//! or hangs delays no request. The SDK reads the headers that a collector requires from `OTEL_EXPORTER_OTLP_HEADERS`.

use super::TelemetryError;
use super::logs::{self, EventFields, RequestFields};
use super::request::TRACE_ID_FIELD;
use crate::config;
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context as OtelContext, InstrumentationScope};
use opentelemetry_otlp::{
    LogExporter as OtlpLogExporter, MetricExporter, SpanExporter as OtlpSpanExporter, WithExportConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{
    BatchLogProcessor, LogBatch, LogExporter, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider,
};
use opentelemetry_sdk::metrics::PeriodicReader;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

/// The most records that wait in one queue.
const MAX_QUEUED_RECORDS: usize = 2048;
/// The time allowed for one attempt to send a batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// The target of `tracing` events that become events of the current span. All other events are log records.
pub(super) const SPAN_EVENT_TARGET: &str = "cordon::telemetry::span_event";

/// The export of the spans and logs of this process.
#[derive(Debug)]
pub(super) struct Export {
    spans: SdkTracerProvider,
    logs: SdkLoggerProvider,
    dropped: DroppedRecords,
}

impl Export {
    pub(super) fn new(endpoint: &str, settings: &config::Telemetry) -> Result<Self, TelemetryError> {
        let dropped = DroppedRecords::default();
        let exporter = OtlpSpanExporter::builder()
            .with_http()
            .with_endpoint(signal_url(endpoint, "traces"))
            .with_timeout(SEND_TIMEOUT)
            .build()?;
        let exporter = CountingExporter { inner: exporter, queue: Arc::clone(&dropped.spans) };
        let config = BatchConfigBuilder::default().with_max_queue_size(MAX_QUEUED_RECORDS).build();
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio)));
        let spans = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_sampler(sampler)
            .with_span_processor(BoundedProcessor { inner, queue: Arc::clone(&dropped.spans) })
            .build();
        let exporter = OtlpLogExporter::builder()
            .with_http()
            .with_endpoint(signal_url(endpoint, "logs"))
            .with_timeout(SEND_TIMEOUT)
            .build()?;
        let exporter = CountingExporter { inner: exporter, queue: Arc::clone(&dropped.logs) };
        let config =
            opentelemetry_sdk::logs::BatchConfigBuilder::default().with_max_queue_size(MAX_QUEUED_RECORDS).build();
        let inner = BatchLogProcessor::builder(exporter).with_batch_config(config).build();
        let logs = SdkLoggerProvider::builder()
            .with_resource(resource())
            .with_log_processor(BoundedProcessor { inner, queue: Arc::clone(&dropped.logs) })
            .build();
        Ok(Self { spans, logs, dropped })
    }

    /// Returns a layer that exports Cordon's spans and the events that belong to them.
    pub(super) fn span_layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        let filter = filter_fn(|metadata| match metadata.is_span() {
            true => metadata.target().starts_with("cordon"),
            false => metadata.target() == SPAN_EVENT_TARGET,
        });
        let layer = tracing_opentelemetry::layer().with_tracer(self.spans.tracer("cordon"));
        layer
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(filter)
            .boxed()
    }

    /// Returns a layer that exports Cordon's log records. Those of libraries go to standard error only: otherwise
    /// sending a record could log another one.
    pub(super) fn log_layer(
        &self,
        log: &config::Log,
    ) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
        let is_cordon = |target: &str| target.starts_with("cordon");
        Ok(OtlpLogLayer(self.logs.logger("cordon")).with_filter(logs::filter(log, is_cordon)?).boxed())
    }

    pub(super) fn dropped(&self) -> DroppedRecords {
        self.dropped.clone()
    }

    /// Sends what is queued and ends the export, within `timeout`. Blocks the calling thread.
    pub(super) fn close(self, timeout: Duration) {
        let Self { spans, logs, .. } = self;
        run_with_timeout(
            timeout,
            vec![Box::new(move || drop(spans.shutdown())), Box::new(move || drop(logs.shutdown()))],
        );
    }
}

/// Returns a reader that sends all metrics to the collector every minute, or as often as `OTEL_METRIC_EXPORT_INTERVAL`
/// says.
pub(super) fn metric_reader(endpoint: &str) -> Result<PeriodicReader<MetricExporter>, TelemetryError> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_endpoint(signal_url(endpoint, "metrics"))
        .with_timeout(SEND_TIMEOUT)
        .build()?;
    Ok(PeriodicReader::builder(exporter).build())
}

/// Returns the attributes that describe this process in every signal. The SDK adds those of `OTEL_RESOURCE_ATTRIBUTES`.
pub(super) fn resource() -> Resource {
    let attributes = [
        opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        opentelemetry::KeyValue::new("service.instance.id", instance_id()),
    ];
    Resource::builder().with_service_name("cordon").with_attributes(attributes).build()
}

/// Returns host and process id. They are the same in all signals of this process.
fn instance_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

/// Runs each task on a thread of its own and waits until all have ended, but not longer than `timeout`: a task may
/// never end when the collector hangs.
pub(super) fn run_with_timeout(timeout: Duration, tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let (sender, receiver) = mpsc::channel();
    let count = tasks.len();
    for task in tasks {
        let sender = sender.clone();
        std::thread::spawn(move || {
            task();
            let _ = sender.send(());
        });
    }
    let deadline = Instant::now() + timeout;
    for _ in 0..count {
        if receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            return;
        }
    }
}

fn signal_url(endpoint: &str, name: &str) -> String {
    format!("{}/v1/{name}", endpoint.trim_end_matches('/'))
}

/// Counts the spans and log records that were dropped since the process started. Clones share the counters.
#[derive(Debug, Clone, Default)]
pub struct DroppedRecords {
    spans: Arc<QueueCounters>,
    logs: Arc<QueueCounters>,
}

impl DroppedRecords {
    /// Returns the number of dropped spans.
    pub fn spans(&self) -> u64 {
        self.spans.dropped.load(Ordering::Relaxed)
    }

    /// Returns the number of dropped log records.
    pub fn logs(&self) -> u64 {
        self.logs.dropped.load(Ordering::Relaxed)
    }
}

/// Counts the records in one queue of the SDK, and those dropped. The SDK bounds its queue too, but does not say how
/// many records it dropped.
#[derive(Debug, Default)]
struct QueueCounters {
    queued: AtomicUsize,
    dropped: AtomicU64,
}

impl QueueCounters {
    /// Reserves room for one record. Returns false, and counts a dropped record, when the queue is full.
    fn try_reserve(&self) -> bool {
        let has_room = self.queued.fetch_add(1, Ordering::Relaxed) < MAX_QUEUED_RECORDS;
        if !has_room {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.add_dropped(1);
        }
        has_room
    }

    fn add_dropped(&self, records: usize) {
        self.dropped.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Awaits `export`, which sends a batch that has left the queue, and counts its records as dropped when it fails.
    async fn count_export(&self, records: usize, export: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        self.queued.fetch_sub(records, Ordering::Relaxed);
        let outcome = export.await;
        if outcome.is_err() {
            self.add_dropped(records);
        }
        outcome
    }
}

/// Passes a record on to the SDK's processor, and so into its queue, unless the queue is full.
#[derive(Debug)]
struct BoundedProcessor<P> {
    inner: P,
    queue: Arc<QueueCounters>,
}

impl<P: SpanProcessor> SpanProcessor for BoundedProcessor<P> {
    fn on_start(&self, span: &mut Span, context: &OtelContext) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.try_reserve() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<P: LogProcessor> LogProcessor for BoundedProcessor<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.queue.try_reserve() {
            self.inner.emit(record, scope);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Sends batches out of the SDK's queue, and counts the records of those that fail.
#[derive(Debug)]
struct CountingExporter<E> {
    inner: E,
    queue: Arc<QueueCounters>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.queue.count_export(batch.len(), self.inner.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for CountingExporter<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.queue.count_export(batch.iter().count(), self.inner.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Makes an OTLP log record of each event. The SDK adds the ids of the trace and span that it belongs to.
struct OtlpLogLayer(SdkLogger);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for OtlpLogLayer {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut record = self.0.create_log_record();
        let (severity, text) = severity(*event.metadata().level());
        record.set_severity_number(severity);
        record.set_severity_text(text);
        let EventFields { message, fields } = EventFields::from_event(event);
        record.set_body(AnyValue::from(message));
        let request_fields = context.event_span(event).map(RequestFields::of_request).unwrap_or_default();
        for (name, value) in request_fields.0 {
            if name == TRACE_ID_FIELD || fields.contains_key(name) {
                continue;
            }
            record.add_attribute(name, value);
        }
        record.add_attribute("target", event.metadata().target());
        for (name, value) in fields {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            record.add_attribute(name, value);
        }
        self.0.emit(record);
    }
}

fn severity(level: Level) -> (Severity, &'static str) {
    match level {
        Level::ERROR => (Severity::Error, "ERROR"),
        Level::WARN => (Severity::Warn, "WARN"),
        Level::INFO => (Severity::Info, "INFO"),
        Level::DEBUG => (Severity::Debug, "DEBUG"),
        Level::TRACE => (Severity::Trace, "TRACE"),
    }
}
