//! All metrics of Cordon, by name and label. They are read at `/metrics` and, when an endpoint is set, sent every
//! minute. Labels take a bounded number of values, none of which comes from a client; the tenant's label is in
//! `tenant.rs`. `docs/telemetry.md` lists the metrics.

use super::TelemetryError;
use super::export::{self, DroppedRecords};
use super::request::RequestTelemetry;
use super::tenant::TenantLabels;
use crate::config;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Counter, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::TextEncoder;
use std::sync::Arc;

const DURATION_BOUNDS_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const COUNT_BOUNDS: [f64; 11] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 20.0, 50.0, 100.0];
/// The most time series that one metric has for one tenant: the labels other than the tenant's have fewer combinations
/// of values.
const MAX_SERIES_PER_TENANT: usize = 64;

/// The metrics of one `App`. The tests run several in one process.
pub struct Metrics {
    registry: prometheus::Registry,
    provider: SdkMeterProvider,
    meter: Meter,
    tenant_labels: TenantLabels,
    requests: Counter<u64>,
    errors: Counter<u64>,
    duration: Histogram<f64>,
    statements: Histogram<u64>,
    round_trips: Histogram<u64>,
    pool_wait: Histogram<f64>,
    audit_rows: Counter<u64>,
    fence_refusals: Counter<u64>,
    imported_resources: Counter<u64>,
    flag_evaluations: Counter<u64>,
    walls_down: Counter<u64>,
}

/// Values that other modules count. They are read when the metrics are collected.
pub struct MetricSources {
    /// Returns the use of sessions on each PostgreSQL server.
    pub backends: Box<dyn Fn() -> Vec<BackendStats> + Send + Sync>,
    /// Returns the number of sessions closed because their transaction did not end cleanly.
    pub closed_unclean: fn() -> u64,
    /// Returns the number and size of the values sealed.
    pub sealed: fn() -> SealingStats,
    /// Returns the number and size of the values opened.
    pub opened: fn() -> SealingStats,
    /// Returns the number of stored values that could not be opened.
    pub integrity_failures: fn() -> u64,
    /// Returns the number of keys that were not in the cache, so that the KMS had to unwrap them.
    pub key_cache_misses: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// The use of sessions on one PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendStats {
    /// The id of the server in the catalog.
    pub server: String,
    /// The most sessions that this process may have on the server.
    pub limit: usize,
    /// Sessions that run a transaction.
    pub busy: usize,
    /// Sessions that are idle in a pool.
    pub idle: usize,
    /// Callers that wait for a session.
    pub waiting: usize,
}

/// How many values were sealed, or opened, since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealingStats {
    /// The number of values.
    pub values: u64,
    /// Their total size in bytes, as ciphertext.
    pub bytes: u64,
}

impl Metrics {
    /// Creates all metrics, each at zero.
    ///
    /// # Errors
    /// Fails when no exporter can be built for `telemetry.otlp_endpoint`.
    pub fn new(settings: &config::Telemetry) -> Result<Arc<Self>, TelemetryError> {
        let registry = prometheus::Registry::new();
        let tenant_labels = TenantLabels::new(settings.tenants);
        let max_series = tenant_labels.max_values() * MAX_SERIES_PER_TENANT;
        let prometheus = opentelemetry_prometheus::exporter().with_registry(registry.clone());
        // The names contain unit and suffix already, so that they are the same in Prometheus and in OTLP.
        let prometheus = prometheus.without_units().without_counter_suffixes().build();
        #[expect(clippy::expect_used, reason = "it fails for a registry that has a collector, and this one is new")]
        let prometheus = prometheus.expect("a new registry");
        let mut provider = SdkMeterProvider::builder().with_resource(export::resource()).with_reader(prometheus);
        provider =
            provider.with_view(move |_: &Instrument| Stream::builder().with_cardinality_limit(max_series).build().ok());
        if let Some(endpoint) = &settings.otlp_endpoint {
            provider = provider.with_reader(export::metric_reader(endpoint)?);
        }
        let provider = provider.build();
        let meter = provider.meter("cordon");
        let counter = |name: &'static str, help: &'static str| meter.u64_counter(name).with_description(help).build();
        let seconds = |name: &'static str, help: &'static str| {
            meter
                .f64_histogram(name)
                .with_description(help)
                .with_unit("s")
                .with_boundaries(DURATION_BOUNDS_SECONDS.to_vec())
                .build()
        };
        let counts = |name: &'static str, help: &'static str| {
            meter.u64_histogram(name).with_description(help).with_boundaries(COUNT_BOUNDS.to_vec()).build()
        };
        Ok(Arc::new(Self {
            requests: counter(
                "cordon_requests_total",
                "Requests, by HTTP status of the response; `disconnected` if the client closed the connection first",
            ),
            errors: counter("cordon_request_errors_total", "Requests whose response contains an error of this code"),
            duration: seconds("cordon_request_duration_seconds", "Time from the head of a request to its response"),
            statements: counts("cordon_request_statements", "SQL statements of one request"),
            round_trips: counts(
                "cordon_request_round_trips",
                "Round trips to PostgreSQL of one request; pipelined statements share one",
            ),
            pool_wait: seconds("cordon_pool_wait_seconds", "Time that one request waited for sessions of the pool"),
            audit_rows: counter("cordon_audit_rows_total", "Audit rows written about accesses and refusals"),
            fence_refusals: counter(
                "cordon_fence_refusals_total",
                "Transactions that the database refused because the tenant had moved or was suspended",
            ),
            imported_resources: counter(
                "cordon_imported_resources_total",
                "Resources that imports accepted or rejected",
            ),
            flag_evaluations: counter("cordon_flag_evaluations_total", "Evaluations of feature flags"),
            walls_down: counter(
                "cordon_walls_down_total",
                "Uses of a placement that were refused because a wall between tenants is down",
            ),
            registry,
            provider,
            tenant_labels,
            meter,
        }))
    }

    /// Adds the metrics whose values other modules count. Call it once.
    pub fn observe_sources(&self, sources: MetricSources) {
        let MetricSources { backends, closed_unclean, sealed, opened, integrity_failures, key_cache_misses } = sources;
        let backends = Arc::new(backends);
        let read_backends = Arc::clone(&backends);
        self.gauge("cordon_pool_backends", "Sessions on a PostgreSQL server", move |observer| {
            for server in read_backends() {
                let label = |state| [KeyValue::new("server", server.server.clone()), KeyValue::new("state", state)];
                observer.observe(server.busy as u64, &label("busy"));
                observer.observe(server.idle as u64, &label("idle"));
            }
        });
        let read_backends = Arc::clone(&backends);
        self.gauge(
            "cordon_pool_backends_limit",
            "The most sessions that this process may have on a PostgreSQL server",
            move |observer| {
                read_backends().into_iter().for_each(|server| {
                    observer.observe(server.limit as u64, &[KeyValue::new("server", server.server)])
                });
            },
        );
        self.gauge("cordon_pool_waiting", "Callers that wait for a session", move |observer| {
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
        let observe_both = move |observer: &dyn AsyncInstrument<u64>, value: fn(SealingStats) -> u64| {
            observer.observe(value(sealed()), &[KeyValue::new("direction", "seal")]);
            observer.observe(value(opened()), &[KeyValue::new("direction", "open")]);
        };
        self.count("cordon_sealed_values_total", "Values sealed and opened", move |observer| {
            observe_both(observer, |stats| stats.values)
        });
        self.count(
            "cordon_sealed_bytes_total",
            "Size of the values sealed and opened, as ciphertext",
            move |observer| observe_both(observer, |stats| stats.bytes),
        );
        self.count("cordon_integrity_failures_total", "Stored values that could not be opened", move |observer| {
            observer.observe(integrity_failures(), &[]);
        });
        self.count("cordon_key_cache_misses_total", "Keys that the KMS had to unwrap", move |observer| {
            observer.observe(key_cache_misses(), &[]);
        });
    }

    /// Adds the metric that counts the spans and log records which were not sent. Call it once.
    pub fn observe_dropped(&self, dropped: DroppedRecords) {
        self.count("cordon_telemetry_dropped_total", "Spans and log records that could not be sent", move |observer| {
            observer.observe(dropped.spans(), &[KeyValue::new("signal", "spans")]);
            observer.observe(dropped.logs(), &[KeyValue::new("signal", "logs")]);
        });
    }

    /// Counts resources of one FHIR type that an import accepted or rejected. A count of 0 creates no time series.
    pub fn count_imported(&self, kind: &'static str, outcome: &'static str, count: u64) {
        if count > 0 {
            self.imported_resources.add(count, &[KeyValue::new("kind", kind), KeyValue::new("outcome", outcome)]);
        }
    }

    /// Counts one use of a placement that was refused because a wall between tenants is down.
    pub fn count_wall_down(&self) {
        self.walls_down.add(1, &[]);
    }

    /// Counts one evaluation of a feature flag, and adds it as an event to the current span.
    pub fn count_flag_evaluation(&self, flag: &'static str, enabled: bool, variant: Option<&str>) {
        self.flag_evaluations.add(1, &[KeyValue::new("flag", flag), KeyValue::new("enabled", enabled)]);
        tracing::debug!(
            target: export::SPAN_EVENT_TARGET,
            { feature_flag.key = flag, feature_flag.enabled = enabled, feature_flag.variant = variant },
            "Flag evaluated"
        );
    }

    /// Returns all metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Sends the metrics to the collector, if there is one, for the last time. Gives up after two seconds. Blocks the
    /// calling thread.
    pub fn close(&self) {
        let provider = self.provider.clone();
        export::run_with_timeout(super::FLUSH_TIMEOUT, vec![Box::new(move || drop(provider.shutdown()))]);
    }

    /// Records all metrics of a request that has ended.
    pub(super) fn record_request(&self, request: &RequestTelemetry) {
        let tenant = self.tenant_labels.count_request(request.tenant.get());
        let kind = KeyValue::new("kind", request.kind.get().as_str());
        let status = request.status.get().map_or_else(|| "disconnected".to_owned(), |status| status.to_string());
        self.requests.add(1, &[tenant.clone(), kind.clone(), KeyValue::new("status", status)]);
        for code in request.error_codes.borrow().iter() {
            self.errors.add(1, &[tenant.clone(), kind.clone(), KeyValue::new("code", code.clone())]);
        }
        self.duration.record(request.elapsed().as_secs_f64(), &[tenant.clone(), kind.clone()]);
        let totals = request.totals();
        if totals.statements > 0 {
            let kind = std::slice::from_ref(&kind);
            self.statements.record(totals.statements, kind);
            self.round_trips.record(totals.round_trips, kind);
            self.pool_wait.record(totals.pool_wait.as_secs_f64(), &[]);
        }
        for (reason, count) in [("moved", totals.moved), ("suspended", totals.suspended)] {
            if count > 0 {
                self.fence_refusals.add(count, &[tenant.clone(), KeyValue::new("reason", reason)]);
            }
        }
        if totals.audit_rows > 0 {
            self.audit_rows.add(totals.audit_rows, &[tenant]);
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
