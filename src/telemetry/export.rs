//! Sending to a collector, by OTLP over HTTP, on threads of its own. Queues are bounded; what does not fit, or is not taken, is dropped and
//! counted. A collector that is slow, away or hangs is nobody's concern but theirs. Headers it wants: `OTEL_EXPORTER_OTLP_HEADERS`.

use super::TelemetryError;
use super::lines::{self, About, Fields};
use super::request;
use crate::config;
use opentelemetry::logs::{AnyValue, LogRecord, Logger, LoggerProvider, Severity};
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context as OtelContext, InstrumentationScope};
use opentelemetry_otlp::{LogExporter as OtlpLogs, MetricExporter, SpanExporter as OtlpSpans, WithExportConfig};
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

/// Records of one kind that wait at most.
const QUEUE: usize = 2048;
/// One attempt to send.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Events with this target belong into spans; all others are lines.
pub(super) const SPAN_EVENT: &str = "cordon::telemetry::span_event";

/// Where spans and lines of this process go.
#[derive(Debug)]
pub(super) struct Export {
    spans: SdkTracerProvider,
    lines: SdkLoggerProvider,
    dropped: Dropped,
}

impl Export {
    pub(super) fn to(endpoint: &str, settings: &config::Telemetry) -> Result<Self, TelemetryError> {
        let dropped = Dropped::default();
        let exporter =
            OtlpSpans::builder().with_http().with_endpoint(signal(endpoint, "traces")).with_timeout(TIMEOUT).build()?;
        let exporter = Counted { inner: exporter, queue: Arc::clone(&dropped.spans) };
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio)));
        let spans = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_sampler(sampler)
            .with_span_processor(Bounded { inner, queue: Arc::clone(&dropped.spans) })
            .build();
        let exporter =
            OtlpLogs::builder().with_http().with_endpoint(signal(endpoint, "logs")).with_timeout(TIMEOUT).build()?;
        let exporter = Counted { inner: exporter, queue: Arc::clone(&dropped.lines) };
        let config = opentelemetry_sdk::logs::BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let inner = BatchLogProcessor::builder(exporter).with_batch_config(config).build();
        let lines = SdkLoggerProvider::builder()
            .with_resource(resource())
            .with_log_processor(Bounded { inner, queue: Arc::clone(&dropped.lines) })
            .build();
        Ok(Self { spans, lines, dropped })
    }

    /// Spans of Cordon, and the events that belong into them.
    pub(super) fn spans(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        let ours = filter_fn(|about| match about.is_span() {
            true => about.target().starts_with("cordon"),
            false => about.target() == SPAN_EVENT,
        });
        let layer = tracing_opentelemetry::layer().with_tracer(self.spans.tracer("cordon"));
        layer
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_target(false)
            .with_filter(ours)
            .boxed()
    }

    /// Lines of Cordon. Those of libraries stay on standard error: what sends lines must not make new ones.
    pub(super) fn lines(&self, log: &config::Log) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError> {
        let ours = |target: &str| target.starts_with("cordon");
        Ok(Lines(self.lines.logger("cordon")).with_filter(lines::filter(log, ours)?).boxed())
    }

    pub(super) fn dropped(&self) -> Dropped {
        self.dropped.clone()
    }

    pub(super) fn close(self, time: Duration) {
        let Self { spans, lines, .. } = self;
        within(time, vec![Box::new(move || drop(spans.shutdown())), Box::new(move || drop(lines.shutdown()))]);
    }
}

/// Sends metrics every minute.
pub(super) fn metrics(endpoint: &str) -> Result<PeriodicReader<MetricExporter>, TelemetryError> {
    let exporter = MetricExporter::builder()
        .with_http()
        .with_endpoint(signal(endpoint, "metrics"))
        .with_timeout(TIMEOUT)
        .build()?;
    Ok(PeriodicReader::builder(exporter).build())
}

/// Who speaks.
pub(super) fn resource() -> Resource {
    let about = [
        opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        opentelemetry::KeyValue::new("service.instance.id", instance()),
    ];
    Resource::builder().with_service_name("cordon").with_attributes(about).build()
}

/// The process, as long as it lives: the same for all signals.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

/// Does all of these at once and waits this long at most: none of them is known to end.
pub(super) fn within(time: Duration, tasks: Vec<Box<dyn FnOnce() + Send>>) {
    let (done, ended) = mpsc::channel();
    let count = tasks.len();
    for task in tasks {
        let done = done.clone();
        std::thread::spawn(move || {
            task();
            let _ = done.send(());
        });
    }
    let until = Instant::now() + time;
    for _ in 0..count {
        if ended.recv_timeout(until.saturating_duration_since(Instant::now())).is_err() {
            return;
        }
    }
}

fn signal(endpoint: &str, name: &str) -> String {
    format!("{}/v1/{name}", endpoint.trim_end_matches('/'))
}

/// Spans and lines that were given up.
#[derive(Debug, Clone, Default)]
pub struct Dropped {
    spans: Arc<Queue>,
    lines: Arc<Queue>,
}

impl Dropped {
    /// How many spans.
    pub fn spans(&self) -> u64 {
        self.spans.dropped.load(Ordering::Relaxed)
    }

    /// How many lines.
    pub fn lines(&self) -> u64 {
        self.lines.dropped.load(Ordering::Relaxed)
    }
}

/// Records on their way. The SDK bounds its queue too, but tells nobody what it dropped.
#[derive(Debug, Default)]
struct Queue {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

impl Queue {
    fn has_room(&self) -> bool {
        let room = self.waiting.fetch_add(1, Ordering::Relaxed) < QUEUE;
        if !room {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost(1);
        }
        room
    }

    fn lost(&self, records: usize) {
        self.dropped.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Sends a batch that is no longer waiting.
    async fn send(&self, records: usize, sent: impl Future<Output = OTelSdkResult>) -> OTelSdkResult {
        self.waiting.fetch_sub(records, Ordering::Relaxed);
        let outcome = sent.await;
        if outcome.is_err() {
            self.lost(records);
        }
        outcome
    }
}

/// The way into a queue.
#[derive(Debug)]
struct Bounded<P> {
    inner: P,
    queue: Arc<Queue>,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &OtelContext) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.has_room() {
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

impl<P: LogProcessor> LogProcessor for Bounded<P> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        if self.queue.has_room() {
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

/// The way out of it.
#[derive(Debug)]
struct Counted<E> {
    inner: E,
    queue: Arc<Queue>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.queue.send(batch.len(), self.inner.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Counted<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.queue.send(batch.iter().count(), self.inner.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Makes a record of each line; the SDK adds the trace and span it belongs to.
struct Lines(SdkLogger);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut record = self.0.create_log_record();
        let (severity, text) = severity(*event.metadata().level());
        record.set_severity_number(severity);
        record.set_severity_text(text);
        let Fields { message, fields } = Fields::of(event);
        record.set_body(AnyValue::from(message));
        let about = context.event_span(event).map(About::around).unwrap_or_default();
        let about = about.0.into_iter().filter(|(name, _)| *name != request::TRACE && !fields.contains_key(*name));
        for (name, value) in about {
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
