//! Operations on servers and tenants, such as creating and migrating them. Each operation is idempotent, can be
//! repeated after the process was killed at any step, and is logged in the catalog. Operations use the operator's
//! login, which the server process never has.

pub mod init;
pub mod migrate;
pub mod note_types;
pub mod operation_log;
pub mod operator;
pub mod provision;
pub mod server;
pub mod settings;

use crate::db::connect::ConnectError;
use crate::db::migrate::MigrateError;
use crate::error::Error;
use std::path::Path;

/// The result of an operation.
pub type Result<T, E = OpsError> = std::result::Result<T, E>;

/// Why an operation failed. Each variant has an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The operation failed. Running it again continues where it stopped.
    #[error("{0}")]
    Failed(String),
    /// The arguments or the settings are wrong.
    #[error("{0}")]
    Usage(String),
    /// The operation is not possible in the present state.
    #[error("{0}")]
    Refused(String),
    /// A wall between tenants is down.
    #[error("{0}")]
    WallDown(String),
    /// PostgreSQL or the KMS cannot be reached.
    #[error("{0}")]
    Unreachable(String),
}

impl OpsError {
    /// Returns the error for a file that cannot be written.
    pub fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }

    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 4,
            Self::WallDown(_) => 5,
            Self::Unreachable(_) => 6,
        }
    }
}

impl From<ConnectError> for OpsError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Url(_) => Self::Usage(error.to_string()),
            other => Self::Unreachable(describe(&other)),
        }
    }
}

impl From<diesel::result::Error> for OpsError {
    fn from(error: diesel::result::Error) -> Self {
        match error {
            diesel::result::Error::DatabaseError(diesel::result::DatabaseErrorKind::UniqueViolation, _) => {
                Self::Refused("it is there already, or was made at the same time".into())
            }
            other => Self::Failed(format!("PostgreSQL: {other}")),
        }
    }
}

impl From<MigrateError> for OpsError {
    fn from(error: MigrateError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for OpsError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Error> for OpsError {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable | Error::PlacementChanged | Error::KeyUnavailable | Error::Timeout => {
                Self::Unreachable(error.to_string())
            }
            Error::TenantSuspended => Self::Refused(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Returns the text of an error with its causes. `tokio_postgres` displays "db error" only and has the reason as cause.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
