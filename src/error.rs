//! What can go wrong, by class. Lower rows return these; `graphql/error.rs` and `http` alone turn them into codes and statuses.
//! The text of a variant may reach a client, so it never carries what a database or a library said: that is logged where it happens.

use std::fmt;

/// Result with Cordon's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure by class. Each class is one code of the API (`code`) and one HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No token, or one that does not verify.
    #[error("authentication required")]
    Unauthenticated,
    /// The roles of the caller do not allow this operation.
    #[error("not allowed for your roles")]
    Forbidden,
    /// A flag keeps this from the tenant; no role would help.
    #[error("not switched on for this organisation")]
    SwitchedOff,
    /// Absent, or someone else's: the same to the caller.
    #[error("not found")]
    NotFound,
    /// What the caller saw is stale, or what it wants to add is taken.
    #[error("{reason}")]
    Conflict {
        /// The version now stored, when the conflict is about a version.
        current_version: Option<i32>,
        /// For the caller; never another record's content.
        reason: &'static str,
    },
    /// Bad input, with the field that carries it.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the argument or input field.
        field: String,
        /// What is wrong with it, without repeating its value.
        reason: String,
    },
    /// The tenant is suspended.
    #[error("this organisation is suspended")]
    TenantSuspended,
    /// The tenant asked for is not among the token's, or none was chosen among several.
    #[error("the token is not for this organisation")]
    TenantMismatch,
    /// Depth, complexity, size or another limit.
    #[error("{0}")]
    LimitExceeded(String),
    /// The caller, or the tenant as a whole, asks more often than agreed.
    #[error("too many requests")]
    RateLimited {
        /// Whole seconds after which it is worth trying again.
        retry_after: u32,
    },
    /// The tenant's keys cannot be had now.
    #[error("the organisation's keys are not available")]
    KeyUnavailable,
    /// A database or a placement is away; try again.
    #[error("temporarily unavailable")]
    Unavailable,
    /// The tenant lives elsewhere since a moment ago: look the placement up again and retry once.
    #[error("temporarily unavailable")]
    PlacementChanged,
    /// The time for this request is over.
    #[error("time limit exceeded")]
    Timeout,
    /// A sealed value does not open: changed, moved or sealed under another key. Never served.
    #[error("stored data failed its integrity check")]
    Integrity,
    /// A fault of ours. What happened is in the log, next to the request id.
    #[error("internal error")]
    Internal,
}

impl Error {
    /// The code of the API, `extensions.code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden | Self::SwitchedOff => "FORBIDDEN",
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

    /// Bad input in `field`.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into() }
    }

    /// Logs what a library or a database said and returns the fault without it.
    pub fn internal(what: &'static str, cause: impl fmt::Display) -> Self {
        tracing::error!(error = %cause, "{what}");
        Self::Internal
    }
}
