//! Web pages of other origins: which may ask, and which may read the answer. Each tenant has its list in the catalog.
//!
//! A preflight carries no token, so no tenant stands behind it: it is answered for what the tenant of the subdomain allows or, without one, for
//! what any active tenant allows. That opens nothing. The request itself is refused before anything is read unless the tenant of its
//! token allows the origin, and only then may the page read the answer. A refusal from before the tenant is known (401) may be read by whom a
//! preflight would have let ask. Pages of the host they ask need no leave. Never with credentials: a token is a header, and no page sends one it
//! was not given.

use super::Front;
use super::accept::Format;
use super::caller::{self, Hint};
use super::response::{self, Refusal};
use crate::ids::RequestId;
use crate::tenant::Tenant;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use actix_web::{HttpRequest, HttpResponse, web};

const ASKS_WITH: &str = "authorization, content-type, x-tenant-id, idempotency-key, traceparent";
const MAY_READ: &str = "x-request-id, retry-after";
/// Seconds for which a browser need not ask again; the request itself is looked at each time.
const KEEPS_FOR: &str = "600";

/// The page behind a request.
pub struct Page {
    /// None: no page, or one of the host that is asked.
    foreign: Option<String>,
    may_read: bool,
}

impl Page {
    /// From the request's head. What may be read before the tenant is known is what a preflight would have allowed.
    pub fn of(front: &Front, request: &HttpRequest) -> Result<Self, Refusal> {
        let origin = caller::idempotency(request.headers(), ORIGIN.as_str())?;
        let host = caller::host(request)?;
        let own =
            |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
        let Some(origin) = origin.filter(|origin| !own(origin)) else { return Ok(Self::none()) };
        let hint = Hint::of(request, front.app.settings.http.domain.as_deref())?;
        let may_read = front.app.catalog.allows(origin, hint.as_ref().subdomain);
        Ok(Self { foreign: Some(origin.to_owned()), may_read })
    }

    /// No page.
    pub fn none() -> Self {
        Self { foreign: None, may_read: false }
    }

    /// Refuses a page that the tenant does not allow; it will not read the refusal either.
    pub fn asks(&mut self, tenant: &Tenant) -> Result<(), Refusal> {
        let Some(origin) = &self.foreign else { return Ok(()) };
        self.may_read = tenant.settings.allow(origin);
        match self.may_read {
            true => Ok(()),
            false => Err(not_allowed()),
        }
    }

    /// Says in an answer's head who may read it.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.append(VARY, HeaderValue::from_static("origin"));
        let origin =
            self.foreign.as_deref().filter(|_| self.may_read).and_then(|origin| HeaderValue::from_str(origin).ok());
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(MAY_READ));
        }
    }
}

/// Answers `OPTIONS /graphql`: a preflight, or no method of ours.
pub async fn preflight(request: HttpRequest, front: web::Data<Front>) -> HttpResponse {
    if !request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD) || !request.headers().contains_key(ORIGIN) {
        return response::wrong_method().await;
    }
    let (refusal, page) = match Page::of(&front, &request) {
        Ok(page) if page.may_read => (None, page),
        Ok(page) => (Some(not_allowed()), page),
        Err(refusal) => (Some(refusal), Page::none()),
    };
    let mut answer = match refusal {
        Some(refusal) => response::refuse(refusal, Format::Json, RequestId::new()),
        None => HttpResponse::NoContent()
            .insert_header((ACCESS_CONTROL_ALLOW_METHODS, "POST"))
            .insert_header((ACCESS_CONTROL_ALLOW_HEADERS, ASKS_WITH))
            .insert_header((ACCESS_CONTROL_MAX_AGE, KEEPS_FOR))
            .finish(),
    };
    page.mark(answer.headers_mut());
    answer
}

fn not_allowed() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "Origin", "is not one that the organisation allows")
}
