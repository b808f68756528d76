//! Logs on standard error: one JSON object for each record, or text for people. Every record of a request carries the
//! ids of its tenant, request and trace, whichever module wrote it and whatever `log.filter` says. Libraries are never
//! logged below `info`, because their debug output contains tokens and rows.

use super::TelemetryError;
use super::request::{REQUEST_SPAN, TRACE_ID_FIELD};
use super::tenant;
use crate::config::{Log, LogFormat};
use serde_json::{Map, Value};
use std::fmt;
use std::io::IsTerminal;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::{LookupSpan, SpanRef};
use tracing_subscriber::{Layer, Registry};

/// The fields of a request's span that are copied to each of its log records.
const REQUEST_FIELDS: [&str; 3] = [tenant::SPAN_FIELD, "request.id", TRACE_ID_FIELD];

/// Returns a layer that writes log records to `writer`, in the format and with the filter of the settings.
///
/// # Errors
/// Fails when `log.filter` is not a valid list of filter directives.
pub fn log_layer<W>(log: &Log, writer: W) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match log.format {
        LogFormat::Json => layer.event_format(JsonFormat).boxed(),
        // Colours are for terminals only: redirected output is read by programs.
        LogFormat::Text if std::io::stderr().is_terminal() => layer.boxed(),
        LogFormat::Text => layer.with_ansi(false).boxed(),
    };
    Ok(RequestFieldsLayer
        .with_filter(filter_fn(is_request_span))
        .and_then(layer.with_filter(filter(log, |_| true)?))
        .boxed())
}

/// Returns a filter that passes what `log.filter` allows of the targets that `accepts` allows. It also passes the span
/// of every request, because log records take fields from it.
pub(super) fn filter<S: Subscriber>(
    log: &Log,
    accepts: fn(&str) -> bool,
) -> Result<impl Filter<S> + use<S>, TelemetryError> {
    let allowed = move |metadata: &Metadata<'_>| {
        accepts(metadata.target()) && (metadata.target().starts_with("cordon") || *metadata.level() <= Level::INFO)
    };
    Ok(EnvFilter::try_new(&log.filter)?.and(filter_fn(allowed)).or(filter_fn(is_request_span)))
}

fn is_request_span(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.name() == REQUEST_SPAN && metadata.target().starts_with("cordon::telemetry")
}

/// The recorded values of `REQUEST_FIELDS`, kept in the extensions of a request's span.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestFields(pub(super) Vec<(&'static str, String)>);

impl RequestFields {
    /// Returns the fields of the request that `span` belongs to, or none outside requests.
    pub(super) fn of_request<'a, R: LookupSpan<'a>>(span: SpanRef<'a, R>) -> Self {
        span.scope().find_map(|span| span.extensions().get::<Self>().cloned()).unwrap_or_default()
    }
}

impl Visit for RequestFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(name) = REQUEST_FIELDS.into_iter().find(|name| *name == field.name()) {
            self.0.push((name, format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Stores the `RequestFields` of each request's span in its extensions.
struct RequestFieldsLayer;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RequestFieldsLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = RequestFields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<RequestFields>()
        {
            values.record(fields);
        }
    }
}

/// The message of a log record, and its other fields.
#[derive(Debug, Default)]
pub(super) struct EventFields {
    pub(super) message: String,
    pub(super) fields: Map<String, Value>,
}

impl EventFields {
    pub(super) fn from_event(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for EventFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            _ => self.set(field, format!("{value:?}")),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
}

/// Formats each log record as one JSON object on one line.
struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut spans = context.event_scope().into_iter().flatten();
        let request_fields = spans.find_map(|span| span.extensions().get::<RequestFields>().cloned());
        let EventFields { message, mut fields } = EventFields::from_event(event);
        for (name, value) in request_fields.unwrap_or_default().0 {
            fields.entry(name).or_insert(Value::String(value));
        }
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let standard = [("timestamp", now), ("level", event.metadata().level().to_string()), ("message", message)];
        for (name, value) in standard {
            fields.insert(name.to_owned(), Value::String(value));
        }
        fields.entry("target").or_insert_with(|| event.metadata().target().into());
        writeln!(writer, "{}", Value::Object(fields))
    }
}
