//! What a request says of its caller: the token, the hint at a tenant, where it comes from. A header that should be there once and is
//! there twice is refused: two readers could take it for two things.

use super::response::Refusal;
use crate::audit::ClientInfo;
use crate::error::Error;
use crate::guard::{RequestInfo, TenantHint};
use crate::ids::RequestId;
use crate::telemetry::{self, Parent};
use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{AUTHORIZATION, HOST, HeaderMap, USER_AGENT};

/// Letters of a user agent that are kept.
const USER_AGENT_CHARS: usize = 200;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LONGEST_KEY: usize = 200;

/// The token of `Authorization: Bearer …`.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = idempotency(headers, AUTHORIZATION.as_str())?.ok_or(Error::Unauthenticated)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(Error::Unauthenticated.into()),
    }
}

/// The tenant a request points at: a header, and the subdomain of `domain` it was sent to.
pub struct Hint {
    header: Option<String>,
    subdomain: Option<String>,
}

impl Hint {
    /// From the request's head. Forwarding headers are nobody's word and are not looked at.
    pub fn of(request: &HttpRequest, domain: Option<&str>) -> Result<Self, Refusal> {
        let header = idempotency(request.headers(), "x-tenant-id")?.map(str::to_owned);
        let host = host(request)?;
        let subdomain = domain.and_then(|domain| subdomain(host, domain));
        Ok(Self { header, subdomain })
    }

    /// As the guard takes it.
    pub fn as_ref(&self) -> TenantHint<'_> {
        TenantHint { header: self.header.as_deref(), subdomain: self.subdomain.as_deref() }
    }
}

/// Where the request comes from, for the audit log.
pub fn info(request: &HttpRequest, id: RequestId, told: &telemetry::Request) -> RequestInfo {
    let agent = request
        .headers()
        .get(USER_AGENT)
        .map(|agent| String::from_utf8_lossy(agent.as_bytes()).chars().take(USER_AGENT_CHARS).collect());
    let client = ClientInfo {
        ip: request.peer_addr().map(|peer| peer.ip()),
        user_agent: agent,
        trace_id: Some(told.trace_id().into()),
    };
    RequestInfo { request: id, client, stats: told.stats() }
}

/// The trace that the client is in. Given twice it is nobody's.
pub fn parent(headers: &HeaderMap) -> Parent<'_> {
    Parent(idempotency(headers, "traceparent").ok().flatten())
}

/// The key under which the changes of a request are to be made once.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    match idempotency(headers, IDEMPOTENCY_KEY)? {
        None => Ok(None),
        Some(key) if (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Some(key.to_owned()))
        }
        Some(_) => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, IDEMPOTENCY_KEY, "must be 1 to 200 visible ASCII characters"))
        }
    }
}

/// The host that is asked, with its port where that is not the scheme's own.
pub fn host(request: &HttpRequest) -> Result<&str, Refusal> {
    let host = idempotency(request.headers(), HOST.as_str())?;
    Ok(request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default())
}

/// The value of a header that is there once, or not at all.
pub fn idempotency<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, name, "is not plain text"))
        }
        (Some(_), Some(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, name, "is there twice")),
    }
}

/// What stands before the domain; none when the host is not below it.
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
    fn a_token_is_there_once() {
        let token = |values: &[&str]| {
            let mut request = TestRequest::post();
            for value in values {
                request = request.append_header((AUTHORIZATION, *value));
            }
            bearer(request.to_http_request().headers()).map(str::to_owned).map_err(|refusal| refusal.status.as_u16())
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
        let hint = Hint::of(&request, Some("notes.example")).ok().unwrap();
        assert_eq!((hint.as_ref().header, hint.as_ref().subdomain), (Some("summit"), Some("riverside")));
        let twice = TestRequest::post()
            .append_header(("x-tenant-id", "a"))
            .append_header(("x-tenant-id", "a"))
            .to_http_request();
        assert_eq!(Hint::of(&twice, None).err().map(|refusal| refusal.status.as_u16()), Some(400));
    }

    #[test]
    fn a_long_user_agent_is_cut() {
        let request = TestRequest::post().insert_header((USER_AGENT, "x".repeat(500))).to_http_request();
        let settings = crate::config::Settings::load(None, None).unwrap().telemetry;
        let (metrics, id) = (telemetry::Metrics::new(&settings).unwrap(), RequestId::new());
        let told = telemetry::Request::begin(&metrics, id, Parent::default());
        assert_eq!(info(&request, id, &told).client.user_agent.map(|agent| agent.len()), Some(200));
    }
}
