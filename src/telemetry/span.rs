//! The spans below a request's, each made here: their names and fields in one place, and a tenant on every one. They cost next to nothing
//! while nobody listens. A span names operations, places in the code and counts; never a document, a variable, a row or a value.

use super::request::OperationKind;
use super::tenant::tag;
use crate::ids::TenantId;
use std::fmt;
use std::panic::Location;
use tracing::field::Empty;
use tracing::{Span, debug_span};

/// Letters of an operation's name that are kept.
const NAME_CHARS: usize = 64;

/// Running one GraphQL operation. Its name is the client's, so it is told only where it is a name.
pub fn operation(tenant: TenantId, kind: OperationKind, name: Option<&str>) -> Span {
    let name = name.and_then(plain);
    tag(
        debug_span!(
            "operation",
            tenant.id = Empty,
            "graphql.operation.type" = kind.as_str(),
            graphql.operation.name = name
        ),
        tenant,
    )
}

/// What the resolvers of one level load together.
pub fn resolvers(tenant: TenantId, of: &'static str, keys: usize) -> Span {
    tag(
        debug_span!(
            "resolvers",
            otel.name = display(format_args!("resolvers {of}")),
            tenant.id = Empty,
            loads = of,
            keys
        ),
        tenant,
    )
}

/// One statement, until its rows are there.
pub fn sql(tenant: TenantId, statement: Statement) -> Span {
    let name = format_args!("sql {statement}");
    tag(
        debug_span!(
            "sql",
            otel.name = display(name),
            otel.kind = "client",
            db.system.name = "postgresql",
            tenant.id = Empty
        ),
        tenant,
    )
}

/// Waiting for a session.
pub fn pool(tenant: TenantId) -> Span {
    tag(debug_span!("pool", otel.name = "pool wait", tenant.id = Empty), tenant)
}

/// A statement as telemetry names it: by where it stands, never by what it says.
#[derive(Debug, Clone, Copy)]
pub enum Statement {
    /// The function of the model that sent it, as file and line.
    At(&'static Location<'static>),
    /// The end of a transaction, with its audit rows.
    Commit,
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(place) => write!(f, "{}:{}", place.file().trim_start_matches("src/"), place.line()),
            Self::Commit => f.write_str("commit"),
        }
    }
}

/// A name as GraphQL has them, cut.
fn plain(name: &str) -> Option<&str> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    plain.then(|| name.get(..NAME_CHARS).unwrap_or(name)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_told() {
        assert_eq!(plain("ChartPage_2"), Some("ChartPage_2"));
        assert_eq!(plain(&"x".repeat(100)).map(str::len), Some(64));
        for text in ["", "2x", "Ada Lovelace", "née", "a-b", "a\n"] {
            assert_eq!(plain(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_statement_is_named_by_its_place() {
        let name = Statement::At(Location::caller()).to_string();
        assert!(name.starts_with("telemetry/span.rs:"), "{name}");
    }
}
