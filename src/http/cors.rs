//! Cross-origin resource sharing (CORS): which origins may send requests from a browser, and which may read the
//! response. Each tenant's allowed origins are in the catalog.
//!
//! A preflight carries no token, so the tenant is not known yet. It is answered by what the tenant of the subdomain
//! allows or, without a subdomain, by what any active tenant allows. This grants nothing: the actual request is
//! refused, before its body is read, unless the tenant of its token allows the origin, and only then may the browser's
//! page read the response. An error from before the tenant is known (401) may be read by origins whose preflight would
//! have succeeded. Same-origin requests are always allowed. Responses never allow credentials: the token is a header,
//! and a page can only send a token that it was given.

use super::ServerState;
use super::accept::MediaType;
use super::caller::{self, OwnedTenantHint};
use super::response::{self, HttpError};
use crate::ids::RequestId;
use crate::tenant::Tenant;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use actix_web::{HttpRequest, HttpResponse, web};

const ALLOWED_HEADERS: &str = "authorization, content-type, x-tenant-id, idempotency-key, traceparent";
const EXPOSED_HEADERS: &str = "x-request-id, retry-after";
/// How long a browser may cache the answer to a preflight. The origin of each actual request is checked all the same.
const MAX_AGE_SECONDS: &str = "600";

/// The origin of a request, and whether it may read the response.
pub struct RequestOrigin {
    /// `None` for a request without an origin, or of the same origin.
    foreign: Option<String>,
    allowed: bool,
}

impl RequestOrigin {
    /// Reads the origin from the head of a request. Until `authorize` has been called, it is allowed what a preflight
    /// would be allowed.
    ///
    /// # Errors
    /// 400 when `Origin`, `Host` or `X-Tenant-ID` appears more than once or is not ASCII.
    pub fn from_request(state: &ServerState, request: &HttpRequest) -> Result<Self, HttpError> {
        let origin = caller::single_header(request.headers(), ORIGIN.as_str())?;
        let host = caller::host(request)?;
        let is_same =
            |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
        let Some(origin) = origin.filter(|origin| !is_same(origin)) else { return Ok(Self::same()) };
        let hint = OwnedTenantHint::from_request(request, state.app.settings.http.domain.as_deref())?;
        let allowed = state.app.catalog.allows(origin, hint.as_ref().subdomain);
        Ok(Self { foreign: Some(origin.to_owned()), allowed })
    }

    /// The origin of a request that is not cross-origin.
    pub fn same() -> Self {
        Self { foreign: None, allowed: false }
    }

    /// Checks the origin against the tenant's allowed origins.
    ///
    /// # Errors
    /// 403 when the tenant does not allow it; the page cannot read that error either.
    pub fn authorize(&mut self, tenant: &Tenant) -> Result<(), HttpError> {
        let Some(origin) = &self.foreign else { return Ok(()) };
        self.allowed = tenant.settings.allow(origin);
        match self.allowed {
            true => Ok(()),
            false => Err(not_allowed()),
        }
    }

    /// Adds the CORS headers to a response: who may read it, and that it varies by origin.
    pub fn add_headers(&self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        let origin =
            self.foreign.as_deref().filter(|_| self.allowed).and_then(|origin| HeaderValue::from_str(origin).ok());
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
        }
    }
}

/// Handles `OPTIONS /graphql`: 204 for a preflight of an allowed origin, 403 for another origin, 405 when it is no
/// preflight.
pub async fn preflight(request: HttpRequest, state: web::Data<ServerState>) -> HttpResponse {
    if !request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) || !request.headers().contains_key(ORIGIN) {
        return response::method_not_allowed().await;
    }
    let (error, origin) = match RequestOrigin::from_request(&state, &request) {
        Ok(origin) if origin.allowed => (None, origin),
        Ok(origin) => (Some(not_allowed()), origin),
        Err(error) => (Some(error), RequestOrigin::same()),
    };
    let mut response = match error {
        Some(error) => response::from_error(error, MediaType::Json, RequestId::new()),
        None => HttpResponse::NoContent()
            .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "POST"))
            .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS))
            .insert_header((ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS))
            .finish(),
    };
    origin.add_headers(response.headers_mut());
    response
}

fn not_allowed() -> HttpError {
    HttpError::new(StatusCode::FORBIDDEN, "Origin", "is not allowed by the organisation")
}
