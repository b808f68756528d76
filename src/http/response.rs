//! Responses: the status of each class of error, and the headers that every response carries. No header holds anything
//! of the caller or the tenant except the request id.

use super::accept::MediaType;
use super::compress;
use super::permit_body::PermitBody;
use crate::error::Error;
use crate::graphql;
use crate::ids::RequestId;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};

/// `Retry-After` of a 503.
const RETRY_AFTER_SECONDS: &str = "2";

/// A request that is answered with a status and one error instead of data.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpError {
    /// The status of the response.
    pub status: StatusCode,
    /// The error that the body holds, with its code.
    pub error: Error,
}

impl HttpError {
    /// An `INVALID_INPUT` about a header, the method or the body, with the status that HTTP has for it.
    pub fn new(status: StatusCode, field: &'static str, reason: &'static str) -> Self {
        Self { status, error: Error::invalid(field, reason) }
    }
}

impl From<Error> for HttpError {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Unauthenticated => StatusCode::UNAUTHORIZED,
            Error::Forbidden | Error::FeatureDisabled | Error::TenantSuspended | Error::TenantMismatch => {
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

/// A response whose body GraphQL produced.
pub fn rendered(status: StatusCode, media_type: MediaType, request: RequestId, body: PermitBody) -> HttpResponse {
    json(status, media_type, request, body)
}

fn json(
    status: StatusCode,
    media_type: MediaType,
    request: RequestId,
    body: impl MessageBody + 'static,
) -> HttpResponse {
    let length = match body.size() {
        BodySize::Sized(length) => length.try_into().unwrap_or(usize::MAX),
        _ => 0,
    };
    let mut response = HttpResponse::build(status)
        .insert_header((CONTENT_TYPE, media_type.content_type()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header(("x-request-id", request.to_string()))
        .body(body);
    compress::mark_small_body(response.headers_mut(), length);
    response
}

/// A response with one error and the headers that belong to its status. Server errors are logged here, once.
pub fn from_error(error: HttpError, media_type: MediaType, request: RequestId) -> HttpResponse {
    let HttpError { status, error } = error;
    if status.is_server_error() {
        let (code, status) = (error.code(), status.as_u16());
        tracing::warn!(request.id = %request, code, http.status = status, "Request {request} failed");
    }
    let header = match (&error, status) {
        (Error::RateLimited { retry_after }, _) => Some((RETRY_AFTER, HeaderValue::from(*retry_after))),
        (_, StatusCode::UNAUTHORIZED) => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        (_, StatusCode::METHOD_NOT_ALLOWED) => Some((ALLOW, HeaderValue::from_static("POST"))),
        (_, StatusCode::SERVICE_UNAVAILABLE) => Some((RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS))),
        _ => None,
    };
    let mut response = json(status, media_type, request, graphql::error_body(error));
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, value);
    }
    response
}

/// 405: the handler for any method of `/graphql` but POST and a CORS preflight.
pub async fn method_not_allowed() -> HttpResponse {
    from_error(
        HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "method", "must be POST"),
        MediaType::Json,
        RequestId::new(),
    )
}

/// 404: the handler for any other path.
pub async fn not_found() -> HttpResponse {
    from_error(Error::NotFound.into(), MediaType::Json, RequestId::new())
}
