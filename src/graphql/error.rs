//! Errors as clients see them. The only place where a class of failure becomes a code; whatever is not ours is bad input.
//! Text of a database or a library never gets here: lower rows log it and return a class.

use crate::error::Error;
use crate::guard::AuditAction;
use async_graphql::{ErrorExtensionValues, ServerError, Value};

/// What the executor says of a document over its complexity.
const TOO_COMPLEX: &str = "Query is too complex.";
/// How it begins to speak of a value that is none of its type; the path of the argument follows, in quotes.
const WRONG_VALUE: &str = "Invalid value for argument \"";
/// How it goes on where the type is an enumeration, with the value behind it.
const UNKNOWN_VALUE: &str = " does not contain the value ";

/// An error that answers for a whole request.
pub fn refusal(error: Error) -> ServerError {
    let mut refusal = ServerError::new(error.to_string(), None);
    refusal.extensions = Some(extensions(&error));
    refusal
}

/// A failure after something was changed for good, which it names.
pub fn standing(error: Error, written: &[AuditAction]) -> ServerError {
    let mut failure = refusal(error);
    failure.message = format!("{}; what is listed as committed was done", failure.message);
    let written = written.iter().map(|event| Value::from(event.as_str())).collect();
    failure.extensions.get_or_insert_default().set("committed", Value::List(written));
    failure
}

/// Errors of the document or its values: every one gets a code.
pub fn coded(mut errors: Vec<ServerError>) -> Vec<ServerError> {
    for error in &mut errors {
        let found = match error.source::<Error>() {
            Some(class) => extensions(class),
            None if error.message == TOO_COMPLEX => extensions(&Error::LimitExceeded(String::new())),
            None if error.extensions.is_none() => {
                extensions(&Error::invalid(argument(&error.message).unwrap_or_default(), ""))
            }
            None => continue,
        };
        error.extensions = Some(found);
        // What a client sent as a value is not said back.
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

/// The argument that an error of the executor is about, `input.birthDate`.
fn argument(message: &str) -> Option<&str> {
    Some(message.strip_prefix(WRONG_VALUE)?.split_once('"')?.0)
}

/// The code of an error that has one.
pub fn code(error: &ServerError) -> Option<String> {
    match error.extensions.as_ref()?.get("code")? {
        Value::String(code) => Some(code.clone()),
        _ => None,
    }
}

/// The failure that makes the whole answer an error: the transaction behind it is gone, so no part of it can be trusted or audited.
/// The cause decides; that nothing more can be read is only its echo.
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

    fn met(error: Error) -> ServerError {
        async_graphql::Error::from(error).into_server_error(async_graphql::Pos { line: 1, column: 1 })
    }

    #[test]
    fn classes_become_codes_and_nothing_else_is_said() {
        let errors = coded(vec![
            met(Error::invalid("after", "not a cursor of this list")),
            met(Error::Conflict { current_version: Some(3), reason: "stale" }),
            met(Error::Integrity),
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
    fn the_cause_outweighs_its_echo() {
        assert_eq!(
            fatal(&[met(Error::Unavailable), met(Error::Timeout), met(Error::Unavailable)]),
            Some(Error::Timeout)
        );
        assert_eq!(fatal(&[met(Error::Unavailable), met(Error::Internal)]), Some(Error::Internal));
        assert_eq!(fatal(&[met(Error::Unavailable), met(Error::PlacementChanged)]), Some(Error::PlacementChanged));
        assert_eq!(fatal(&[met(Error::Integrity), met(Error::Forbidden)]), None);
    }
}
