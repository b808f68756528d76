//! The spans below the span of a request: their names and fields are defined here only, and every one carries its
//! tenant. They cost almost nothing when no layer records them. A span names operations, places in the code and counts,
//! never a document, a variable, a row or a value.

use super::request::OperationKind;
use super::tenant::tag;
use crate::ids::TenantId;
use std::fmt;
use std::panic::Location;
use tracing::field::Empty;
use tracing::{Span, debug_span};

/// The most characters of an operation's name that a span keeps.
const MAX_NAME_CHARS: usize = 64;

/// Starts the span of the execution of one GraphQL operation. The client chooses its `name`, so it is left out unless
/// it is a GraphQL name, and it is cut after 64 characters.
pub fn operation(tenant: TenantId, kind: OperationKind, name: Option<&str>) -> Span {
    let name = name.and_then(graphql_name);
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

/// Starts the span of a batch: what the resolvers of one level load together. `loads` names what is loaded, `keys` is
/// how many.
pub fn resolvers(tenant: TenantId, loads: &'static str, keys: usize) -> Span {
    tag(
        debug_span!(
            "resolvers",
            otel.name = display(format_args!("resolvers {loads}")),
            tenant.id = Empty,
            loads,
            keys
        ),
        tenant,
    )
}

/// Starts the span of one SQL statement, which ends when its rows have arrived.
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

/// Starts the span of waiting for a session of the pool.
pub fn pool(tenant: TenantId) -> Span {
    tag(debug_span!("pool", otel.name = "pool wait", tenant.id = Empty), tenant)
}

/// The name of an SQL statement in telemetry: the place in the code that sent it, never its text.
#[derive(Debug, Clone, Copy)]
pub enum Statement {
    /// The place in the code that sent the statement, written as file and line.
    At(&'static Location<'static>),
    /// The end of a transaction, which writes its audit rows and commits it.
    Commit,
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(location) => write!(f, "{}:{}", location.file().trim_start_matches("src/"), location.line()),
            Self::Commit => f.write_str("commit"),
        }
    }
}

/// Returns the first `MAX_NAME_CHARS` characters of a GraphQL name, or `None` when `name` is not one.
fn graphql_name(name: &str) -> Option<&str> {
    let valid = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    valid.then(|| name.get(..MAX_NAME_CHARS).unwrap_or(name)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_graphql_names_are_kept() {
        assert_eq!(graphql_name("ChartPage_2"), Some("ChartPage_2"));
        assert_eq!(graphql_name(&"x".repeat(100)).map(str::len), Some(64));
        for text in ["", "2x", "Ada Lovelace", "née", "a-b", "a\n"] {
            assert_eq!(graphql_name(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_statement_is_named_by_its_place_in_the_code() {
        let name = Statement::At(Location::caller()).to_string();
        assert!(name.starts_with("telemetry/span.rs:"), "{name}");
    }
}
