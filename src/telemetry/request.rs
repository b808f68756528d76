//! What is told of one request: its span, its place in the client's trace, and at its end, however it ends, its metrics.
//! `RequestStats` goes down with the request to where the work is done and counts it; nothing here is ambient.

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

/// Name and target of the span whose fields are on every line of a request.
pub(super) const SPAN: &str = "request";
/// Its field with the trace.
pub(super) const TRACE: &str = "trace_id";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OperationKind {
    /// Nothing that could be read.
    #[default]
    None,
    /// A query.
    Query,
    /// A mutation.
    Mutation,
    /// A subscription.
    Subscription,
}

impl OperationKind {
    /// As spans and labels spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// The `traceparent` of a request. `tracestate` is text of strangers that nobody here sends on, so it is not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parent<'a>(pub Option<&'a str>);

impl Extractor for Parent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        // Its parts have fixed lengths, which the SDK does not look at.
        self.0.filter(|value| key == "traceparent" && value.split('-').map(str::len).take(4).eq([2, 32, 16, 2]))
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

/// Work that one request causes below. Counted there, told at its end.
#[derive(Debug, Default)]
pub struct RequestStats {
    statements: AtomicU64,
    flights: AtomicU64,
    under_way: AtomicU64,
    audit_rows: AtomicU64,
    waited_ns: AtomicU64,
    moved: AtomicU64,
    suspended: AtomicU64,
}

/// A statement under way.
#[derive(Debug)]
pub struct RoundTrip<'a>(&'a RequestStats);

impl RequestStats {
    /// A statement is sent. It begins a flight, unless it goes with others that are under way.
    pub fn asks(&self) -> RoundTrip<'_> {
        self.statements.fetch_add(1, Ordering::Relaxed);
        if self.under_way.fetch_add(1, Ordering::Relaxed) == 0 {
            self.flights.fetch_add(1, Ordering::Relaxed);
        }
        RoundTrip(self)
    }

    /// A session was waited for.
    pub fn waited(&self, time: Duration) {
        self.waited_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Disclosures were written.
    pub fn audited(&self, rows: usize) {
        self.audit_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// The database refused; of interest here is whether its fence did.
    pub fn refused(&self, error: &Error) {
        match error {
            Error::PlacementChanged => self.moved.fetch_add(1, Ordering::Relaxed),
            Error::TenantSuspended => self.suspended.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
    }

    pub(super) fn told(&self) -> Counted {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counted {
            statements: read(&self.statements),
            flights: read(&self.flights),
            audit_rows: read(&self.audit_rows),
            waited: Duration::from_nanos(read(&self.waited_ns)),
            moved: read(&self.moved),
            suspended: read(&self.suspended),
        }
    }
}

impl Drop for RoundTrip<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An effort at its end.
#[derive(Debug)]
pub(super) struct Counted {
    pub statements: u64,
    pub flights: u64,
    pub audit_rows: u64,
    pub waited: Duration,
    pub moved: u64,
    pub suspended: u64,
}

/// One request, from its head to its answer. Dropped without one, the client has gone.
pub struct Request {
    metrics: Arc<Metrics>,
    span: Span,
    trace: String,
    began: Instant,
    stats: Arc<RequestStats>,
    pub(super) tenant: Cell<Option<TenantId>>,
    pub(super) kind: Cell<OperationKind>,
    pub(super) status: Cell<Option<u16>>,
    pub(super) codes: RefCell<BTreeSet<String>>,
}

impl Request {
    /// A request has come.
    pub fn begin(metrics: &Arc<Metrics>, id: RequestId, parent: Parent<'_>) -> Self {
        let span = error_span!(
            SPAN,
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
        let trace = join(&span, parent).unwrap_or_else(|| id.0.simple().to_string());
        span.record(TRACE, &trace);
        Self {
            metrics: Arc::clone(metrics),
            span,
            trace,
            began: Instant::now(),
            stats: Arc::default(),
            tenant: Cell::default(),
            kind: Cell::default(),
            status: Cell::default(),
            codes: RefCell::default(),
        }
    }

    /// Its span: lines inside carry tenant, request and trace.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The trace it belongs to: the client's, or one of its own.
    pub fn trace_id(&self) -> &str {
        &self.trace
    }

    /// What it causes.
    pub fn stats(&self) -> Arc<RequestStats> {
        Arc::clone(&self.stats)
    }

    /// It was admitted to this tenant.
    pub fn admitted(&self, tenant: TenantId) {
        self.tenant.set(Some(tenant));
        tenant::tag(self.span.clone(), tenant);
    }

    /// It asks for this.
    pub fn asks(&self, kind: OperationKind) {
        self.kind.set(kind);
    }

    /// Its answer has errors with these codes.
    pub fn failed<C: Into<String>>(&self, codes: impl IntoIterator<Item = C>) {
        self.codes.borrow_mut().extend(codes.into_iter().map(Into::into));
    }

    /// Its answer is ready.
    pub fn answered(&self, status: u16) {
        self.status.set(Some(status));
    }

    pub(super) fn took(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn told(&self) -> Counted {
        self.stats.told()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(status) = self.status.get() {
            self.span.record("http.response.status_code", status);
        }
        if let Some(code) = self.codes.borrow().first() {
            self.span.record("error.type", code.as_str());
        }
        if self.status.get().is_none_or(|status| status >= 500) {
            self.span.record("otel.status_code", "ERROR");
        }
        self.metrics.request(self);
    }
}

/// Makes the span a part of the client's trace, or the root of one; `None` when it is recorded nowhere and the client has no trace.
fn join(span: &Span, parent: Parent<'_>) -> Option<String> {
    let remote = TraceContextPropagator::new().extract_with_context(&opentelemetry::Context::new(), &parent);
    let carried = remote.span().span_context().clone();
    if carried.is_valid() {
        // Refused only where no layer records spans.
        let _ = span.set_parent(remote.clone());
    }
    let own = span.context().span().span_context().clone();
    [own, carried].into_iter().find(|context| context.is_valid()).map(|context| context.trace_id().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_trace_is_carried_on_or_begun() {
        let trace = |parent: Option<&str>| join(&Span::none(), Parent(parent));
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
    fn what_is_sent_together_is_one_flight() {
        let stats = RequestStats::default();
        let first = stats.asks();
        let second = stats.asks();
        drop(first);
        let third = stats.asks();
        drop((second, third));
        drop(stats.asks());
        assert_eq!((stats.told().statements, stats.told().flights), (4, 2));
    }
}
