//! Errors by class. All modules below `graphql` and `http` return them; only those two turn them into codes and HTTP
//! statuses. The text of a variant may reach a client, so it never contains text of a database or a library, which is
//! logged where the error occurs.

use std::fmt;

/// A `Result` whose error is Cordon's `Error`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The class of a failure. Each class has one code in the API, see `code`, and one HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request has no token, or one that is not valid.
    #[error("authentication required")]
    Unauthenticated,
    /// The caller's roles do not allow this operation.
    #[error("not allowed for your roles")]
    Forbidden,
    /// A feature flag is off for the tenant, so that no role allows this operation.
    #[error("not switched on for this organisation")]
    FeatureDisabled,
    /// The record does not exist, or belongs to another tenant. A caller cannot tell one from the other.
    #[error("not found")]
    NotFound,
    /// The record has changed since the caller read it, or a value that must be unique is in use.
    #[error("{reason}")]
    Conflict {
        /// The version that is stored now, if the conflict is about a version.
        current_version: Option<i32>,
        /// The reason, for the caller. It never contains the content of another record.
        reason: &'static str,
    },
    /// An argument or input field has an invalid value.
    #[error("{field}: {reason}")]
    Invalid {
        /// The path of the argument or input field, such as `input.birthDate`.
        field: String,
        /// What is wrong with the value. It does not repeat the value.
        reason: String,
    },
    /// The tenant is suspended.
    #[error("this organisation is suspended")]
    TenantSuspended,
    /// The requested tenant is not one of the token's, or the token has several and the request names none.
    #[error("the token is not for this organisation")]
    TenantMismatch,
    /// The request exceeds a limit, such as depth, complexity or size. The text names the limit.
    #[error("{0}")]
    LimitExceeded(String),
    /// The principal, or all principals of the tenant together, send more requests than `admission` allows.
    #[error("too many requests")]
    RateLimited {
        /// The seconds after which a retry may succeed. At least 1.
        retry_after: u32,
    },
    /// The tenant's keys cannot be unwrapped at the moment. A retry may succeed.
    #[error("the organisation's keys are not available")]
    KeyUnavailable,
    /// A database, a placement or an issuer's key set is not available. A retry may succeed.
    #[error("temporarily unavailable")]
    Unavailable,
    /// The tenant has just moved to another placement. The guard looks the placement up again and retries once.
    #[error("temporarily unavailable")]
    PlacementChanged,
    /// The request took longer than it is allowed to.
    #[error("time limit exceeded")]
    Timeout,
    /// A stored value is not authentic: it was changed, moved or sealed under another key. It is never returned to a
    /// client.
    #[error("stored data failed its integrity check")]
    Integrity,
    /// A fault of the server. Its cause is in the log, with the request id.
    #[error("internal error")]
    Internal,
}

impl Error {
    /// Returns the code in the API: `extensions.code` of a GraphQL error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden | Self::FeatureDisabled => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::Conflict { .. } => "CONFLICT",
            Self::Invalid { .. } => "INVALID_INPUT",
            Self::TenantSuspended => "TENANT_SUSPENDED",
            Self::TenantMismatch => "TENANT_MISMATCH",
            Self::LimitExceeded(_) => "LIMIT_EXCEEDED",
            Self::RateLimited { .. } => "RATE_LIMITED",
            Self::KeyUnavailable => "KEY_UNAVAILABLE",
            Self::Unavailable | Self::PlacementChanged => "UNAVAILABLE",
            Self::Timeout => "TIMEOUT",
            Self::Integrity | Self::Internal => "INTERNAL",
        }
    }

    /// Returns an `Invalid` error.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// Logs the cause of a fault, which is text of a library or a database, and returns `Internal`, which does not
    /// contain it.
    pub fn internal(message: &'static str, cause: impl fmt::Display) -> Self {
        tracing::error!(error = %cause, "{message}");
        Self::Internal
    }
}
