//! Every metric there is, by name and label: read at `/metrics` and, with an endpoint, sent every minute. Labels take a bounded number of
//! values, none of which comes from a client; the tenant's is in `tenant.rs`. `docs/telemetry.md` lists what is here.

use super::TelemetryError;
use super::export::{self, Dropped};
use super::request::Request;
use super::tenant::Names;
use crate::config;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::TextEncoder;
use std::sync::Arc;

const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const COUNTS: [f64; 11] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 50.0, 100.0];
/// Other labels than the tenant's take fewer values than this together.
const PER_TENANT: usize = 64;

/// The metrics of one `App`.
pub struct Metrics {
    registry: prometheus::Registry,
    provider: SdkMeterProvider,
    meter: Meter,
    names: Names,
    requests: Counter<u64>,
    errors: Counter<u64>,
    duration: Histogram<f64>,
    statements: Histogram<u64>,
    flights: Histogram<u64>,
    pool_wait: Histogram<f64>,
    audit_rows: Counter<u64>,
    fence: Counter<u64>,
    imported: Counter<u64>,
    flags: Counter<u64>,
    walls_down: Counter<u64>,
}

/// What others count for themselves, read when someone looks.
pub struct MetricSources {
    /// Sessions with each PostgreSQL server.
    pub backends: Box<dyn Fn() -> Vec<BackendStats> + Send + Sync>,
    /// Sessions closed because their transaction did not end cleanly.
    pub closed_unclean: fn() -> u64,
    /// Values sealed.
    pub sealed: fn() -> SealingStats,
    /// Values opened.
    pub opened: fn() -> SealingStats,
    /// Stored values that did not open.
    pub integrity_failures: fn() -> u64,
    /// Keys that had to be opened by the KMS.
    pub key_cache_misses: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Sessions with one PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStats {
    /// The server's id.
    pub server: String,
    /// How many there may be.
    pub limit: usize,
    /// In a transaction.
    pub busy: usize,
    /// In a pool.
    pub idle: usize,
    /// How many wait for one.
    pub waiting: usize,
}

/// Something done to values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealingStats {
    /// How many.
    pub values: u64,
    /// Their size.
    pub bytes: u64,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(settings: &config::Telemetry) -> Result<Arc<Self>, TelemetryError> {
        let registry = prometheus::Registry::new();
        let names = Names::new(settings.tenants);
        let most = names.most() * PER_TENANT;
        let scraped = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        // Names here are whole, so that they are the same wherever they arrive.
        let scraped = scraped.without_units().without_counter_suffixes().build();
        #[expect(clippy::expect_used, reason = "it fails for a registry that has a collector, and this one is new")]
        let scraped = scraped.expect("a new registry");
        let mut provider = SdkMeterProvider::builder().with_resource(export::resource()).with_reader(scraped);
        provider =
            provider.with_view(move |_: &Instrument| Stream::builder().with_cardinality_limit(most).build().ok());
        if let Some(endpoint) = &settings.otlp_endpoint {
            provider = provider.with_reader(export::metrics(endpoint)?);
        }
        let provider = provider.build();
        let meter = provider.meter("cordon");
        let counter = |name: &'static str, help: &'static str| meter.u64_counter(name).with_description(help).build();
        let seconds = |name: &'static str, help: &'static str| {
            meter.f64_histogram(name).with_description(help).with_unit("s").with_boundaries(SECONDS.to_vec()).build()
        };
        let counts = |name: &'static str, help: &'static str| {
            meter.u64_histogram(name).with_description(help).with_boundaries(COUNTS.to_vec()).build()
        };
        Ok(Arc::new(Self {
            requests: counter(
                "cordon_requests_total",
                "Requests answered, by HTTP status; `gone` where the client did not wait",
            ),
            errors: counter("cordon_request_errors_total", "Requests with an error of this code"),
            duration: seconds("cordon_request_duration_seconds", "From the head of a request to its answer"),
            statements: counts("cordon_request_statements", "Statements of one request"),
            flights: counts(
                "cordon_request_flights",
                "Waits for PostgreSQL of one request; statements sent together are one",
            ),
            pool_wait: seconds("cordon_pool_wait_seconds", "Time that one request waited for sessions"),
            audit_rows: counter("cordon_audit_rows_total", "Disclosures and refusals written to audit logs"),
            fence: counter(
                "cordon_fence_refusals_total",
                "Transactions that the database refused because the tenant had moved or was suspended",
            ),
            imported: counter("cordon_imported_resources_total", "Resources that imports took in or rejected"),
            flags: counter("cordon_flag_evaluations_total", "Answers of feature flags"),
            walls_down: counter(
                "cordon_walls_down_total",
                "Uses of a placement that were refused because a wall is down",
            ),
            registry,
            provider,
            names,
            meter,
        }))
    }

    /// Reads these from now on.
    pub fn watch(&self, sources: MetricSources) {
        let MetricSources { backends, closed_unclean, sealed, opened, integrity_failures, key_cache_misses } = sources;
        let backends = Arc::new(backends);
        let read = Arc::clone(&backends);
        self.gauge("cordon_pool_backends", "Sessions with a PostgreSQL server", move |observer| {
            for server in read() {
                let label = |state| [KeyValue::new("server", server.server.clone()), KeyValue::new("state", state)];
                observer.observe(server.busy as u64, &label("busy"));
                observer.observe(server.idle as u64, &label("idle"));
            }
        });
        let read = Arc::clone(&backends);
        self.gauge(
            "cordon_pool_backends_limit",
            "Sessions that this process may have with a PostgreSQL server",
            move |observer| {
                read().into_iter().for_each(|server| {
                    observer.observe(server.limit as u64, &[KeyValue::new("server", server.server)])
                });
            },
        );
        self.gauge("cordon_pool_waiting", "Requests that wait for a session", move |observer| {
            backends()
                .into_iter()
                .for_each(|server| observer.observe(server.waiting as u64, &[KeyValue::new("server", server.server)]));
        });
        self.count(
            "cordon_pool_closed_unclean_total",
            "Sessions closed because their transaction did not end cleanly",
            move |observer| {
                observer.observe(closed_unclean(), &[]);
            },
        );
        let both = move |observer: &dyn AsyncInstrument<u64>, what: fn(SealingStats) -> u64| {
            observer.observe(what(sealed()), &[KeyValue::new("direction", "seal")]);
            observer.observe(what(opened()), &[KeyValue::new("direction", "open")]);
        };
        self.count("cordon_sealed_values_total", "Values sealed and opened", move |observer| {
            both(observer, |work| work.values)
        });
        self.count("cordon_sealed_bytes_total", "Bytes sealed and opened", move |observer| {
            both(observer, |work| work.bytes)
        });
        self.count("cordon_integrity_failures_total", "Stored values that did not open", move |observer| {
            observer.observe(integrity_failures(), &[]);
        });
        self.count("cordon_key_cache_misses_total", "Keys that the KMS had to open", move |observer| {
            observer.observe(key_cache_misses(), &[]);
        });
    }

    /// Counts what the export of spans and lines gives up.
    pub fn watch_export(&self, dropped: Dropped) {
        self.count("cordon_telemetry_dropped_total", "Spans and log lines that could not be sent", move |observer| {
            observer.observe(dropped.spans(), &[KeyValue::new("signal", "spans")]);
            observer.observe(dropped.lines(), &[KeyValue::new("signal", "lines")]);
        });
    }

    /// Resources of one kind that an import was done with.
    pub fn imported(&self, kind: &'static str, outcome: &'static str, count: u64) {
        if count > 0 {
            self.imported.add(count, &[KeyValue::new("kind", kind), KeyValue::new("outcome", outcome)]);
        }
    }

    /// A placement was not served because a wall is down.
    pub fn wall_down(&self) {
        self.walls_down.add(1, &[]);
    }

    /// A flag was asked: counted, and an event of the span that asks.
    pub fn flag(&self, flag: &'static str, enabled: bool, variant: Option<&str>) {
        self.flags.add(1, &[KeyValue::new("flag", flag), KeyValue::new("enabled", enabled)]);
        tracing::debug!(
            target: export::SPAN_EVENT,
            { feature_flag.key = flag, feature_flag.enabled = enabled, feature_flag.variant = variant },
            "Flag evaluated"
        );
    }

    /// All of it, as Prometheus reads it.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Sends what there is once more, if the collector takes it in time.
    pub fn close(&self) {
        let provider = self.provider.clone();
        export::within(super::FLUSH_TIMEOUT, vec![Box::new(move || drop(provider.shutdown()))]);
    }

    /// A request has ended.
    pub(super) fn request(&self, request: &Request) {
        let tenant = self.names.label(request.tenant.get());
        let kind = KeyValue::new("kind", request.kind.get().as_str());
        let status = request.status.get().map_or_else(|| "gone".to_owned(), |status| status.to_string());
        self.requests.add(1, &[tenant.clone(), kind.clone(), KeyValue::new("status", status)]);
        for code in request.codes.borrow().iter() {
            self.errors.add(1, &[tenant.clone(), kind.clone(), KeyValue::new("code", code.clone())]);
        }
        self.duration.record(request.took().as_secs_f64(), &[tenant.clone(), kind.clone()]);
        let told = request.told();
        if told.statements > 0 {
            let kind = std::slice::from_ref(&kind);
            self.statements.record(told.statements, kind);
            self.flights.record(told.flights, kind);
            self.pool_wait.record(told.waited.as_secs_f64(), &[]);
        }
        for (reason, count) in [("moved", told.moved), ("suspended", told.suspended)] {
            if count > 0 {
                self.fence.add(count, &[tenant.clone(), KeyValue::new("reason", reason)]);
            }
        }
        if told.audit_rows > 0 {
            self.audit_rows.add(told.audit_rows, &[tenant]);
        }
    }

    fn count(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        self.meter.u64_observable_counter(name).with_description(help).with_callback(read).build();
    }

    fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        self.meter.u64_observable_gauge(name).with_description(help).with_callback(read).build();
    }
}
