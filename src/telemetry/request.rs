//! Telemetry of one request: its span, its place in the client's trace, and its metrics, which are recorded when the
//! request ends, however it ends. `RequestStats` is passed down to the code that does the work, which counts it there;
//! there is no global state.

use super::metrics::Metrics;
use super::tenant;
use crate::error::Error;
use crate::ids::{RequestId, TenantId};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tracing::field::Empty;
use tracing::{Span, error_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The name of the span whose fields are on every log record of a request.
pub(super) const REQUEST_SPAN: &str = "request";
/// The field of that span that holds the trace id.
pub(super) const TRACE_ID_FIELD: &str = "trace_id";

/// The kind of GraphQL operation that a request executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OperationKind {
    /// No operation: the request was refused before one was selected.
    #[default]
    None,
    /// A `query` operation.
    Query,
    /// A `mutation` operation.
    Mutation,
    /// A `subscription` operation.
    Subscription,
}

impl OperationKind {
    /// Returns the value used in spans and in the label `kind` of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// The W3C header `traceparent` of a request, if it has one. `tracestate` is not read: it is text from the client, and
/// Cordon calls no service to which it would have to be passed on.
#[derive(Debug, Clone, Copy, Default)]
pub struct TraceParent<'a>(pub Option<&'a str>);

impl Extractor for TraceParent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        // The parts of the header have fixed lengths, which the SDK does not check.
        self.0.filter(|value| key == "traceparent" && value.split('-').map(str::len).take(4).eq([2, 32, 16, 2]))
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// Counts the work that one request causes in the guard and the database. The counts are recorded as metrics when the
/// request ends.
#[derive(Debug, Default)]
pub struct RequestStats {
    statements: AtomicU64,
    round_trips: AtomicU64,
    pending: AtomicU64,
    audit_rows: AtomicU64,
    pool_wait_ns: AtomicU64,
    moved: AtomicU64,
    suspended: AtomicU64,
}

/// A statement whose response has not arrived yet. Dropping it marks the statement as answered.
#[derive(Debug)]
pub struct PendingStatement<'a>(&'a RequestStats);

impl RequestStats {
    /// Counts a statement that is being sent. It counts as a new round trip unless another statement of the request is
    /// pending, because PostgreSQL receives pipelined statements together.
    pub fn begin_statement(&self) -> PendingStatement<'_> {
        self.statements.fetch_add(1, Ordering::Relaxed);
        if self.pending.fetch_add(1, Ordering::Relaxed) == 0 {
            self.round_trips.fetch_add(1, Ordering::Relaxed);
        }
        PendingStatement(self)
    }

    /// Adds time that the request waited for a session of the pool.
    pub fn add_pool_wait(&self, time: Duration) {
        self.pool_wait_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Adds audit rows, of accesses and refusals, that were written for the request.
    pub fn add_audit_rows(&self, rows: usize) {
        self.audit_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Counts an error of the database if the fence caused it: the tenant has moved or is suspended. Other errors are
    /// not counted.
    pub fn count_refusal(&self, error: &Error) {
        match error {
            Error::PlacementChanged => self.moved.fetch_add(1, Ordering::Relaxed),
            Error::TenantSuspended => self.suspended.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    pub(super) fn totals(&self) -> RequestTotals {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RequestTotals {
            statements: read(&self.statements),
            round_trips: read(&self.round_trips),
            audit_rows: read(&self.audit_rows),
            pool_wait: Duration::from_nanos(read(&self.pool_wait_ns)),
            moved: read(&self.moved),
            suspended: read(&self.suspended),
        }
    }
}

impl Drop for PendingStatement<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The values of `RequestStats` at one moment.
#[derive(Debug)]
pub(super) struct RequestTotals {
    pub statements: u64,
    pub round_trips: u64,
    pub audit_rows: u64,
    pub pool_wait: Duration,
    pub moved: u64,
    pub suspended: u64,
}

/// The telemetry of one HTTP request to `/graphql`, from the arrival of its head to its response. Dropping it records
/// the metrics; when no status has been set by then, the client has disconnected.
pub struct RequestTelemetry {
    metrics: Arc<Metrics>,
    span: Span,
    trace_id: String,
    started: Instant,
    stats: Arc<RequestStats>,
    pub(super) tenant: Cell<Option<TenantId>>,
    pub(super) kind: Cell<OperationKind>,
    pub(super) status: Cell<Option<u16>>,
    pub(super) error_codes: RefCell<BTreeSet<String>>,
}

impl RequestTelemetry {
    /// Starts the span of a request that has arrived, as part of the client's trace or of a new one, and starts to
    /// measure its duration.
    pub fn begin(metrics: &Arc<Metrics>, id: RequestId, parent: TraceParent<'_>) -> Self {
        let span = error_span!(
            REQUEST_SPAN,
            otel.name = "POST /graphql",
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = "POST",
            http.route = "/graphql",
            http.response.status_code = Empty,
            "error.type" = Empty,
            request.id = %id,
            trace_id = Empty,
            tenant.id = Empty,
        );
        let trace_id = join_trace(&span, parent).unwrap_or_else(|| id.0.simple().to_string());
        span.record(TRACE_ID_FIELD, &trace_id);
        Self {
            metrics: Arc::clone(metrics),
            span,
            trace_id,
            started: Instant::now(),
            stats: Arc::default(),
            tenant: Cell::default(),
            kind: Cell::default(),
            status: Cell::default(),
            error_codes: RefCell::default(),
        }
    }

    /// Returns the request's span. Log records within it carry the ids of tenant, request and trace.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Returns the id of the trace that the request belongs to: the client's, or a new one.
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }

    /// Returns the counters that the guard increments while the request runs.
    pub fn stats(&self) -> Arc<RequestStats> {
        Arc::clone(&self.stats)
    }

    /// Names the tenant, once the request has been admitted to it. Span and metrics carry its id.
    pub fn set_tenant(&self, tenant: TenantId) {
        self.tenant.set(Some(tenant));
        tenant::tag(self.span.clone(), tenant);
    }

    /// Sets the kind of the operation that was selected.
    pub fn set_operation_kind(&self, kind: OperationKind) {
        self.kind.set(kind);
    }

    /// Adds the codes of the errors in the response. A code that is added twice is counted once.
    pub fn add_error_codes<C: Into<String>>(&self, codes: impl IntoIterator<Item = C>) {
        self.error_codes.borrow_mut().extend(codes.into_iter().map(Into::into));
    }

    /// Sets the HTTP status of the response.
    pub fn set_status(&self, status: u16) {
        self.status.set(Some(status));
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn totals(&self) -> RequestTotals {
        self.stats.totals()
    }
}

impl Drop for RequestTelemetry {
    fn drop(&mut self) {
        if let Some(status) = self.status.get() {
            self.span.record("http.response.status_code", status);
        }
        if let Some(code) = self.error_codes.borrow().first() {
            self.span.record("error.type", code.as_str());
        }
        if self.status.get().is_none_or(|status| status >= 500) {
            self.span.record("otel.status_code", "ERROR");
        }
        self.metrics.record_request(self);
    }
}

/// Makes the span a part of the client's trace, or the root of a new one, and returns the trace id. Returns `None` when
/// no layer records spans and the client sent no valid trace.
fn join_trace(span: &Span, parent: TraceParent<'_>) -> Option<String> {
    let remote = TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &parent);
    let received = remote.span().span_context().clone();
    if received.is_valid() {
        // `set_parent` fails only when no layer records spans.
        let _ = span.set_parent(remote.clone());
    }
    let own = span.context().span().span_context().clone();
    [own, received].into_iter().find(|context| context.is_valid()).map(|context| context.trace_id().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_clients_trace_is_continued_if_it_is_valid() {
        let trace = |parent: Option<&str>| join_trace(&Span::none(), TraceParent(parent));
        assert_eq!(trace(Some(PARENT)).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            &PARENT[..54],
            &PARENT.replace('4', "g"),
        ] {
            assert_eq!(trace(Some(bad)), None, "{bad}");
        }
        assert_eq!(trace(Some("00-00000000000000000000000000000000-00f067aa0ba902b7-01")), None);
        assert_eq!(trace(None), None);
    }

    #[test]
    fn pipelined_statements_are_one_round_trip() {
        let stats = RequestStats::default();
        let first = stats.begin_statement();
        let second = stats.begin_statement();
        drop(first);
        let third = stats.begin_statement();
        drop((second, third));
        drop(stats.begin_statement());
        assert_eq!((stats.totals().statements, stats.totals().round_trips), (4, 2));
    }
}
