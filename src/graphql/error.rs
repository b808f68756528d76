//! Errors as clients see them. The code of a class of error is `Error::code()`; errors of async-graphql itself
//! become `INVALID_INPUT`. No text of a database or a library gets here: lower rows log it and return a class.

use crate::audit::AuditAction;
use crate::error::Error;
use async_graphql::{ErrorExtensionValues, ServerError, Value};

/// async-graphql's message for a document that exceeds the complexity limit.
const TOO_COMPLEX: &str = "Query is too complex.";
/// Start of async-graphql's message for a value of the wrong type; the path of the argument follows, in quotes.
const WRONG_VALUE: &str = "Invalid value for argument \"";
/// How that message continues for an enum; the client's value follows.
const UNKNOWN_VALUE: &str = " does not contain the value ";

/// An error about the whole request, without a path.
pub fn server_error(error: Error) -> ServerError {
    let mut server_error = ServerError::new(error.to_string(), None);
    server_error.extensions = Some(extensions(&error));
    server_error
}

/// An error that came after some mutations were committed. `extensions.committed` lists them.
pub fn partial_failure(error: Error, committed: &[AuditAction]) -> ServerError {
    let mut failure = server_error(error);
    failure.message = format!("{}; what extensions.committed lists has been committed", failure.message);
    let committed = committed.iter().map(|action| Value::from(action.as_str())).collect();
    failure.extensions.get_or_insert_default().set("committed", Value::List(committed));
    failure
}

/// Gives every error a code, removes the client's values from messages, sorts the errors by position and removes
/// duplicates, so that equal requests get equal errors.
pub fn with_codes(mut errors: Vec<ServerError>) -> Vec<ServerError> {
    for error in &mut errors {
        let extensions = match error.source::<Error>() {
            Some(class) => extensions(class),
            None if error.message == TOO_COMPLEX => extensions(&Error::LimitExceeded(String::new())),
            None if error.extensions.is_none() => {
                extensions(&Error::invalid(argument(&error.message).unwrap_or_default(), ""))
            }
            None => continue,
        };
        error.extensions = Some(extensions);
        // A value that the client sent is not repeated.
        if let Some(end) = error.message.find(UNKNOWN_VALUE).filter(|_| error.message.starts_with(WRONG_VALUE)) {
            error.message.truncate(end);
            error.message.push_str(" does not have this value");
        }
    }
    errors.sort_by_cached_key(|error| {
        (error.locations.first().map(|at| (at.line, at.column)), format!("{:?}", error.path))
    });
    errors.dedup();
    errors
}

/// The argument that an error of async-graphql is about, such as `input.birthDate`.
fn argument(message: &str) -> Option<&str> {
    Some(message.strip_prefix(WRONG_VALUE)?.split_once('"')?.0)
}

/// Returns `extensions.code` of an error.
pub fn code(error: &ServerError) -> Option<String> {
    match error.extensions.as_ref()?.get("code")? {
        Value::String(code) => Some(code.clone()),
        _ => None,
    }
}

/// Returns the error that makes the whole response an error: its transaction has ended, so no part of the data can be
/// trusted or audited. When there are several, the likely cause wins over what follows from it, such as `Unavailable`
/// for reads after a timeout.
pub fn fatal(errors: &[ServerError]) -> Option<Error> {
    let weight = |error: &Error| match error {
        Error::PlacementChanged => 6,
        Error::TenantSuspended => 5,
        Error::KeyUnavailable => 4,
        Error::Timeout => 3,
        Error::Internal => 2,
        Error::Unavailable => 1,
        _ => 0,
    };
    let classes = errors.iter().filter_map(|error| error.source::<Error>());
    classes.filter(|class| weight(class) > 0).max_by_key(|class| weight(class)).cloned()
}

fn extensions(error: &Error) -> ErrorExtensionValues {
    let mut values = ErrorExtensionValues::default();
    values.set("code", error.code());
    match error {
        Error::Invalid { field, .. } if !field.is_empty() => values.set("field", field.as_str()),
        Error::Conflict { current_version: Some(version), .. } => values.set("currentVersion", *version),
        _ => {}
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field_error(error: Error) -> ServerError {
        async_graphql::Error::from(error).into_server_error(async_graphql::Pos { line: 1, column: 1 })
    }

    #[test]
    fn classes_become_codes_and_fields() {
        let errors = with_codes(vec![
            field_error(Error::invalid("after", "not a cursor of this list")),
            field_error(Error::Conflict { current_version: Some(3), reason: "stale" }),
            field_error(Error::Integrity),
            ServerError::new("Unknown field", None),
        ]);
        let json = serde_json::to_value(&errors).unwrap();
        let of = |message: &str| {
            json.as_array()
                .unwrap()
                .iter()
                .find(|error| error["message"].as_str().unwrap().contains(message))
                .unwrap()
                .clone()
        };
        assert_eq!(of("cursor")["extensions"], serde_json::json!({"code": "INVALID_INPUT", "field": "after"}));
        assert_eq!(of("stale")["extensions"], serde_json::json!({"code": "CONFLICT", "currentVersion": 3}));
        assert_eq!(of("integrity")["extensions"], serde_json::json!({"code": "INTERNAL"}));
        assert_eq!(of("Unknown")["extensions"], serde_json::json!({"code": "INVALID_INPUT"}));
    }

    #[test]
    fn the_cause_outweighs_its_consequences() {
        assert_eq!(
            fatal(&[field_error(Error::Unavailable), field_error(Error::Timeout), field_error(Error::Unavailable)]),
            Some(Error::Timeout)
        );
        assert_eq!(fatal(&[field_error(Error::Unavailable), field_error(Error::Internal)]), Some(Error::Internal));
        assert_eq!(
            fatal(&[field_error(Error::Unavailable), field_error(Error::PlacementChanged)]),
            Some(Error::PlacementChanged)
        );
        assert_eq!(fatal(&[field_error(Error::Integrity), field_error(Error::Forbidden)]), None);
    }
}
