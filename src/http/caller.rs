//! What the head of a request says about its caller: the token, the hint at a tenant, the client's address and user
//! agent. A header that may appear only once and appears twice is refused, because two readers of the request could
//! each take a different value.

use super::response::HttpError;
use crate::audit::ClientInfo;
use crate::error::Error;
use crate::guard::{RequestInfo, TenantHint};
use crate::ids::RequestId;
use crate::telemetry::{self, TraceParent};
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderMap, USER_AGENT};

/// A longer user agent is cut before it goes into the audit log.
const MAX_USER_AGENT_CHARS: usize = 200;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const MAX_IDEMPOTENCY_KEY_CHARS: usize = 200;

/// Returns the token of `Authorization: Bearer …`.
///
/// # Errors
/// `Unauthenticated` when the header is missing or of another form; 400 when it appears more than once.
pub fn bearer(headers: &HeaderMap) -> Result<&str, HttpError> {
    let value = single_header(headers, AUTHORIZATION.as_str())?.ok_or(Error::Unauthenticated)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(Error::Unauthenticated.into()),
    }
}

/// The tenant that a request names, owned: by the header `X-Tenant-ID`, and by the subdomain of the configured domain
/// it was sent to.
pub struct OwnedTenantHint {
    header: Option<String>,
    subdomain: Option<String>,
}

impl OwnedTenantHint {
    /// Reads the hint from the head of a request. `Forwarded` and `X-Forwarded-Host` are ignored, because any client
    /// can send them.
    ///
    /// # Errors
    /// 400 when a header appears more than once or is not ASCII.
    pub fn from_request(request: &HttpRequest, domain: Option<&str>) -> Result<Self, HttpError> {
        let header = single_header(request.headers(), "x-tenant-id")?.map(str::to_owned);
        let host = host(request)?;
        let subdomain = domain.and_then(|domain| subdomain(host, domain));
        Ok(Self { header, subdomain })
    }

    /// Borrows the hint in the form that the guard takes.
    pub fn as_ref(&self) -> TenantHint<'_> {
        TenantHint { header: self.header.as_deref(), subdomain: self.subdomain.as_deref() }
    }
}

/// Collects what the audit log records about the client of a request.
pub fn request_info(
    request: &HttpRequest,
    id: RequestId,
    request_telemetry: &telemetry::RequestTelemetry,
) -> RequestInfo {
    let user_agent = request
        .headers()
        .get(USER_AGENT)
        .map(|agent| String::from_utf8_lossy(agent.as_bytes()).chars().take(MAX_USER_AGENT_CHARS).collect());
    let client = ClientInfo {
        ip: request.peer_addr().map(|peer| peer.ip()),
        user_agent,
        trace_id: Some(request_telemetry.trace_id().into()),
    };
    RequestInfo { request: id, client, stats: request_telemetry.stats() }
}

/// Returns the client's trace context, of the header `traceparent`. It is ignored when the header appears more than
/// once.
pub fn parent(headers: &HeaderMap) -> TraceParent<'_> {
    TraceParent(single_header(headers, "traceparent").ok().flatten())
}

/// Returns the value of `Idempotency-Key`, under which the mutations of a request are performed at most once.
///
/// # Errors
/// 400 when the key is empty, longer than 200 characters, not visible ASCII, or given more than once.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, HttpError> {
    match single_header(headers, IDEMPOTENCY_KEY)? {
        None => Ok(None),
        Some(key)
            if (1..=MAX_IDEMPOTENCY_KEY_CHARS).contains(&key.len())
                && key.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(Some(key.to_owned()))
        }
        Some(_) => {
            Err(HttpError::new(StatusCode::BAD_REQUEST, IDEMPOTENCY_KEY, "must be 1 to 200 visible ASCII characters"))
        }
    }
}

/// Returns the host that the request was sent to, with the port where the client named one: `:authority` in HTTP/2,
/// else `Host`.
///
/// # Errors
/// 400 when `Host` appears more than once or is not ASCII.
pub fn host(request: &HttpRequest) -> Result<&str, HttpError> {
    let host = single_header(request.headers(), HOST.as_str())?;
    Ok(request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default())
}

/// Returns the value of a header that may appear only once, or `None` when it is absent.
///
/// # Errors
/// 400 when the header appears more than once or is not ASCII.
pub fn single_header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, HttpError> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| HttpError::new(StatusCode::BAD_REQUEST, name, "must contain only ASCII characters")),
        (Some(_), Some(_)) => Err(HttpError::new(StatusCode::BAD_REQUEST, name, "must appear only once")),
    }
}

/// Returns the part of `host` before `domain`, or `None` when the host is not a subdomain of it.
fn subdomain(host: &str, domain: &str) -> Option<String> {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let name = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let label = name.strip_suffix(&domain.to_ascii_lowercase())?.strip_suffix('.')?;
    Some(label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_token_is_given_once() {
        let token = |values: &[&str]| {
            let mut request = TestRequest::post();
            for value in values {
                request = request.append_header((AUTHORIZATION, *value));
            }
            bearer(request.to_http_request().headers()).map(str::to_owned).map_err(|error| error.status.as_u16())
        };
        assert_eq!(token(&["Bearer a.b.c"]), Ok("a.b.c".into()));
        assert_eq!(token(&["bearer a.b.c"]), Ok("a.b.c".into()));
        for bad in [&[][..], &[""], &["Bearer"], &["Bearer "], &["Basic YTpi"], &["a.b.c"]] {
            assert_eq!(token(bad), Err(401), "{bad:?}");
        }
        assert_eq!(token(&["Bearer a", "Bearer b"]), Err(400));
        assert_eq!(token(&["Bearer a", "Bearer a"]), Err(400));
    }

    #[test]
    fn l22_only_the_host_below_the_domain_is_a_hint() {
        let cases = [
            ("riverside.notes.example", Some("riverside")),
            ("RiverSide.Notes.Example:8443", Some("riverside")),
            ("riverside.notes.example.", Some("riverside")),
            ("a.b.notes.example", Some("a.b")),
            ("notes.example", None),
            (".notes.example", Some("")),
            ("evilnotes.example", None),
            ("riverside.notes.example.evil", None),
            ("localhost:8080", None),
            ("", None),
        ];
        for (host, label) in cases {
            assert_eq!(subdomain(host, "notes.example").as_deref(), label, "{host}");
        }
        let request = TestRequest::post()
            .insert_header((HOST, "riverside.notes.example"))
            .insert_header(("x-forwarded-host", "lakeside.notes.example"))
            .insert_header(("forwarded", "host=lakeside.notes.example"))
            .insert_header(("x-tenant-id", "summit"))
            .to_http_request();
        let hint = OwnedTenantHint::from_request(&request, Some("notes.example")).ok().unwrap();
        assert_eq!((hint.as_ref().header, hint.as_ref().subdomain), (Some("summit"), Some("riverside")));
        let twice = TestRequest::post()
            .append_header(("x-tenant-id", "a"))
            .append_header(("x-tenant-id", "a"))
            .to_http_request();
        assert_eq!(OwnedTenantHint::from_request(&twice, None).err().map(|error| error.status.as_u16()), Some(400));
    }

    #[test]
    fn a_long_user_agent_is_cut() {
        let request = TestRequest::post().insert_header((USER_AGENT, "x".repeat(500))).to_http_request();
        let settings = crate::config::Settings::load(None, None).unwrap().telemetry;
        let (metrics, id) = (telemetry::Metrics::new(&settings).unwrap(), RequestId::new());
        let request_telemetry = telemetry::RequestTelemetry::begin(&metrics, id, TraceParent::default());
        assert_eq!(
            request_info(&request, id, &request_telemetry).client.user_agent.map(|agent| agent.len()),
            Some(200)
        );
    }
}
