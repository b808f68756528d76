//! Answers: the status of each class of failure, and the headers every answer carries. Nothing of the caller or the tenant is in them
//! but the request's id.

use super::accept::Format;
use super::compress;
use super::held::Held;
use crate::error::Error;
use crate::graphql;
use crate::ids::RequestId;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};

/// Seconds after which a client may try again.
const RETRY_SECONDS: &str = "2";

/// A request that is answered by a status and one error.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What is said.
    pub error: Error,
}

impl Refusal {
    /// Bad input that has a status of its own.
    pub fn new(status: StatusCode, field: &'static str, reason: &'static str) -> Self {
        Self { status, error: Error::invalid(field, reason) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Unauthenticated => StatusCode::UNAUTHORIZED,
            Error::Forbidden | Error::SwitchedOff | Error::TenantSuspended | Error::TenantMismatch => {
                StatusCode::FORBIDDEN
            }
            Error::NotFound => StatusCode::NOT_FOUND,
            Error::Conflict { .. } => StatusCode::CONFLICT,
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::LimitExceeded(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Error::KeyUnavailable | Error::Unavailable | Error::PlacementChanged => StatusCode::SERVICE_UNAVAILABLE,
            Error::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Error::Integrity | Error::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, error }
    }
}

/// A body that GraphQL made.
pub fn said(status: StatusCode, format: Format, request: RequestId, body: Held) -> HttpResponse {
    json(status, format, request, body)
}

fn json(status: StatusCode, format: Format, request: RequestId, body: impl MessageBody + 'static) -> HttpResponse {
    let length = match body.size() {
        BodySize::Sized(length) => length.try_into().unwrap_or(usize::MAX),
        _ => 0,
    };
    let mut answer = HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, format.content_type()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header(("x-request-id", request.to_string()))
        .body(body);
    compress::leave(answer.headers_mut(), length);
    answer
}

/// A refusal. What is our own fault is logged here, once.
pub fn refuse(refusal: Refusal, format: Format, request: RequestId) -> HttpResponse {
    let Refusal { status, error } = refusal;
    if status.is_server_error() {
        tracing::warn!(request.id = %request, code = error.code(), http.status = status.as_u16(), "Request {request} failed");
    }
    let extra = match (&error, status) {
        (Error::RateLimited { retry_after }, _) => Some((RETRY_AFTER, HeaderValue::from(*retry_after))),
        (_, StatusCode::UNAUTHORIZED) => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        (_, StatusCode::METHOD_NOT_ALLOWED) => Some((ALLOW, HeaderValue::from_static("POST"))),
        (_, StatusCode::SERVICE_UNAVAILABLE) => Some((RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS))),
        _ => None,
    };
    let body = graphql::failure(error);
    let mut answer = json(status, format, request, body);
    if let Some((name, value)) = extra {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// 405 for anything but POST.
pub async fn wrong_method() -> HttpResponse {
    refuse(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "must be POST"), Format::Json, RequestId::new())
}

/// 404 for any other path.
pub async fn nothing_here() -> HttpResponse {
    refuse(Error::NotFound.into(), Format::Json, RequestId::new())
}
