//! Log lines: one JSON object each, or text for people. Every line of a request carries its tenant, request and trace, whoever wrote it and
//! whatever the filter lets through. Libraries are never below `info`: what they say there holds tokens and rows.

use super::TelemetryError;
use super::request::{SPAN, TRACE};
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

/// Fields of a request's span that are on each of its lines.
const ABOUT: [&str; 3] = [tenant::FIELD, "request.id", TRACE];

/// Lines as the settings want them, to this writer.
pub fn lines<W>(log: &Log, writer: W) -> Result<Box<dyn Layer<Registry> + Send + Sync>, TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    let layer = match log.format {
        LogFormat::Json => layer.event_format(Json).boxed(),
        // Colours are for eyes: what is redirected is read by programs.
        LogFormat::Text if std::io::stderr().is_terminal() => layer.boxed(),
        LogFormat::Text => layer.with_ansi(false).boxed(),
    };
    Ok(Remember.with_filter(filter_fn(is_request)).and_then(layer.with_filter(filter(log, |_| true)?)).boxed())
}

/// What the settings let through of these targets, and the span of every request.
pub(super) fn filter<S: Subscriber>(
    log: &Log,
    of: fn(&str) -> bool,
) -> Result<impl Filter<S> + use<S>, TelemetryError> {
    let quiet = move |about: &Metadata<'_>| {
        of(about.target()) && (about.target().starts_with("cordon") || *about.level() <= Level::INFO)
    };
    Ok(EnvFilter::try_new(&log.filter)?.and(filter_fn(quiet)).or(filter_fn(is_request)))
}

fn is_request(about: &Metadata<'_>) -> bool {
    about.is_span() && about.name() == SPAN && about.target().starts_with("cordon::telemetry")
}

/// What a request's span says of it.
#[derive(Debug, Clone, Default)]
pub(super) struct About(pub(super) Vec<(&'static str, String)>);

impl About {
    /// Of the request that this span is in.
    pub(super) fn around<'a, R: LookupSpan<'a>>(span: SpanRef<'a, R>) -> Self {
        span.scope().find_map(|span| span.extensions().get::<Self>().cloned()).unwrap_or_default()
    }
}

impl Visit for About {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(name) = ABOUT.into_iter().find(|name| *name == field.name()) {
            self.0.push((name, format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Keeps them where lines find them.
struct Remember;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Remember {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut about = About::default();
            attributes.record(&mut about);
            span.extensions_mut().insert(about);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(about) = span.extensions_mut().get_mut::<About>()
        {
            values.record(about);
        }
    }
}

/// A line's text, and its fields.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) fields: Map<String, Value>,
}

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
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

/// One object a line.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about =
            context.event_scope().into_iter().flatten().find_map(|span| span.extensions().get::<About>().cloned());
        let Fields { message, mut fields } = Fields::of(event);
        for (name, value) in about.unwrap_or_default().0 {
            fields.entry(name).or_insert(Value::String(value));
        }
        let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let always = [("timestamp", now), ("level", event.metadata().level().to_string()), ("message", message)];
        for (name, value) in always {
            fields.insert(name.to_owned(), Value::String(value));
        }
        fields.entry("target").or_insert_with(|| event.metadata().target().into());
        writeln!(writer, "{}", Value::Object(fields))
    }
}
