//! Classifies database errors: which `Error` the caller gets, and whether the session may be reused. diesel-async hides
//! the SQLSTATE, so message texts are compared: our own, and PostgreSQL's, which are English because our logins have
//! `lc_messages = C`. The error's text goes to the log, never to a caller.

use crate::error::Error;
use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// A classified database error.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The error for the caller.
    pub error: Error,
    /// Whether the session must be closed. True for all errors except a missing row, violated constraints,
    /// serialization failures, deadlocks and timeouts.
    pub close_session: bool,
}

/// Classifies an error. Unexpected errors are logged here, and nowhere else.
pub fn classify(error: &DieselError) -> Fault {
    let (error, close_session) = match error {
        DieselError::NotFound => (Error::NotFound, false),
        DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, info) => {
            tracing::debug!(constraint = info.constraint_name(), "A unique constraint was violated");
            (Error::Conflict { current_version: None, reason: "already in use" }, false)
        }
        DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => (Error::PlacementChanged, false),
        DieselError::DatabaseError(
            DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::CheckViolation
            | DatabaseErrorKind::NotNullViolation,
            info,
        ) => {
            tracing::warn!(
                constraint = info.constraint_name(),
                table = info.table_name(),
                "A constraint refused a write"
            );
            (Error::Internal, false)
        }
        DieselError::DatabaseError(
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand,
            info,
        ) => {
            tracing::warn!(error = info.message(), "Lost a database session");
            (Error::Unavailable, true)
        }
        DieselError::DatabaseError(_, info) => by_text(info.message()),
        DieselError::BrokenTransactionManager | DieselError::RollbackTransaction => (Error::Unavailable, true),
        other => (Error::internal("A query failed", other), true),
    };
    Fault { error, close_session }
}

fn by_text(message: &str) -> (Error, bool) {
    match message {
        "placement changed" | "cached plan must not change result type" => (Error::PlacementChanged, true),
        // The statement reached a backend other than the one the binding was signed for, as happens behind a pooler in
        // transaction mode; or the server's clock jumped.
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
        // An operator cancelled the statement, or another session that may.
        "deadlock detected" | "canceling statement due to user request" => (Error::Unavailable, false),
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
