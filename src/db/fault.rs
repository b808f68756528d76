//! What a database error means: which class of `Error` it is, and whether its session may be used again.
//! diesel-async hides the SQLSTATE, so texts are compared: our own, and PostgreSQL's with `lc_messages = C` as set for our logins.
//! The error's text goes to the log, never to a caller.

use crate::error::Error;
use diesel::result::{DatabaseErrorKind as Kind, Error as Diesel};

/// An error with the fate of its session.
#[derive(Debug, Clone)]
pub struct Fault {
    /// For the caller.
    pub error: Error,
    /// Whether the session must be closed: all but violated constraints, lost races and time-outs.
    pub close: bool,
}

/// Sorts an error. What is unexpected is logged here, once.
pub fn classify(error: &Diesel) -> Fault {
    let (error, close) = match error {
        Diesel::NotFound => (Error::NotFound, false),
        Diesel::DatabaseError(Kind::UniqueViolation, info) => {
            tracing::debug!(constraint = info.constraint_name(), "A unique constraint was violated");
            (Error::Conflict { current_version: None, reason: "already in use" }, false)
        }
        Diesel::DatabaseError(Kind::SerializationFailure, _) => (Error::PlacementChanged, false),
        Diesel::DatabaseError(Kind::ForeignKeyViolation | Kind::CheckViolation | Kind::NotNullViolation, info) => {
            tracing::warn!(
                constraint = info.constraint_name(),
                table = info.table_name(),
                "A constraint refused a write"
            );
            (Error::Internal, false)
        }
        Diesel::DatabaseError(Kind::ClosedConnection | Kind::UnableToSendCommand, info) => {
            tracing::warn!(error = info.message(), "Lost a database session");
            (Error::Unavailable, true)
        }
        Diesel::DatabaseError(_, info) => by_text(info.message()),
        Diesel::BrokenTransactionManager | Diesel::RollbackTransaction => (Error::Unavailable, true),
        other => (Error::internal("A query failed", other), true),
    };
    Fault { error, close }
}

fn by_text(message: &str) -> (Error, bool) {
    match message {
        "placement changed" | "cached plan must not change result type" => (Error::PlacementChanged, true),
        // Not the backend the binding was made for, as behind a pooler in transaction mode; or the server's clock jumped.
        "binding refused" => {
            tracing::error!("PostgreSQL refused a binding: is there a pooler in transaction mode before it?");
            (Error::Unavailable, true)
        }
        text if text.starts_with("prepared statement ") || text.starts_with("bind message supplies ") => {
            tracing::error!(
                "A prepared statement is not what it was: is there a pooler in transaction mode before PostgreSQL?"
            );
            (Error::Unavailable, true)
        }
        "tenant suspended" => (Error::TenantSuspended, true),
        "tenant is being moved" => (Error::Unavailable, true),
        "deadlock detected" => (Error::Unavailable, false),
        "canceling statement due to statement timeout" | "canceling statement due to lock timeout" => {
            (Error::Timeout, false)
        }
        text if text.starts_with("terminating connection") || text.starts_with("the database system is") => {
            (Error::Unavailable, true)
        }
        text if text.starts_with("could not extend file") || text.contains("No space left on device") => {
            tracing::error!(error = text, "The database is out of space");
            (Error::Unavailable, true)
        }
        text => (Error::internal("A statement failed", text), true),
    }
}
