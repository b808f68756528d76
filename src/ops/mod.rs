//! Operations on tenants and servers: making them, migrating them, filling them. Each is idempotent, can be resumed after a kill
//! at any step, and leaves a row in the catalog. They hold the operator's login; the server never does.

pub mod init;
pub mod log;
pub mod migrate;
pub mod note_types;
pub mod operator;
pub mod provision;
pub mod server;
pub mod terms;

use crate::db::connect::ConnectError;
use crate::db::migrate::MigrateError;
use crate::error::Error;
use std::path::Path;

/// Result of an operation.
pub type Result<T, E = OpsError> = std::result::Result<T, E>;

/// Why an operation ended, by what the shell is told.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// It failed; running it again goes on where it stopped.
    #[error("{0}")]
    Failed(String),
    /// The command or the settings are wrong.
    #[error("{0}")]
    Usage(String),
    /// Not in this state.
    #[error("{0}")]
    Refused(String),
    /// A wall between tenants is down.
    #[error("{0}")]
    WallDown(String),
    /// PostgreSQL or the KMS is away.
    #[error("{0}")]
    Unreachable(String),
}

impl OpsError {
    /// A file that the command was told to write cannot be.
    pub fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }

    /// The process's exit code.
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

/// An error with its causes: `tokio_postgres` says "db error" and keeps the reason below.
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
