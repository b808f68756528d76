//! CORS: each tenant has a list of allowed origins. Changes of the list take effect within a second.

use crate::support::server::{Response, TestServer};
use crate::support::site::Site;
use cordon::ops::provision;
use cordon::ops::settings::{self, SettingsChange};
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ALLOW: &str = "access-control-allow-origin";
const ME: &str = "{ viewer { id } }";

/// Creates a tenant with an allowed origin that no other tenant allows. Returns the tenant, the origin and a token.
async fn tenant_with_origin(site: &Site) -> (Tenant, String, String) {
    let tenant = site.tenant(TenancyModel::Shared).await;
    let origin = format!("https://{}.pages.example", tenant.slug);
    let tenant = allow(site, &tenant, &[&origin, "http://localhost:5173"]).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, origin, token)
}

async fn allow(site: &Site, tenant: &Tenant, origins: &[&str]) -> Tenant {
    let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
    settings::set(&site.operator, &tenant.slug, &SettingsChange { origins: Some(origins), ..SettingsChange::default() })
        .await
        .unwrap()
}

async fn preflight(server: &TestServer<'_>, origin: &str, host: Option<&str>) -> Response {
    let request = server.http.request(reqwest::Method::OPTIONS, &server.url).header("origin", origin);
    let request = request
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    Response::of(match host {
        Some(host) => request.header("host", host),
        None => request,
    })
    .await
}

/// Repeats the preflight until it has the expected status. The server reads changed settings within a second.
async fn preflight_until(server: &TestServer<'_>, origin: &str, status: u16) -> Response {
    let started = Instant::now();
    loop {
        let response = preflight(server, origin, None).await;
        if response.status == status {
            return response;
        }
        assert!(started.elapsed() < Duration::from_secs(2), "{origin}: {response:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn send_from_origin(server: &TestServer<'_>, token: &str, origin: &str) -> Response {
    Response::of(server.query_request(token, ME, Value::Null).header("origin", origin)).await
}

#[tokio::test]
async fn origins_are_allowed_for_their_own_tenant_only() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let ((tenant, origin, token), (other_tenant, other_origin, other_token)) =
        (tenant_with_origin(site).await, tenant_with_origin(site).await);
    for origin in [&origin, &other_origin, "http://localhost:5173"] {
        let response = preflight_until(&server, origin, 204).await;
        assert_eq!((response.headers[ALLOW].as_str(), response.headers["vary"].as_str()), (origin, "origin"));
        assert_eq!(response.headers["access-control-allow-methods"], "POST");
        let headers = &response.headers["access-control-allow-headers"];
        for header in ["authorization", "content-type", "x-tenant-id", "idempotency-key", "traceparent"] {
            assert!(headers.contains(header), "{headers}");
        }
        assert!(!response.headers.contains_key("access-control-allow-credentials"));
    }
    let response = send_from_origin(&server, &token, &origin).await;
    assert_eq!(
        (response.status, response.headers[ALLOW].as_str(), response.headers["vary"].as_str()),
        (200, origin.as_str(), "origin")
    );
    assert!(
        response.headers["access-control-expose-headers"].contains("x-request-id") && response.contains("retry-after")
    );
    assert!(!response.headers.contains_key("access-control-allow-credentials"));
    // The page may read an error of its request.
    let wrong = Response::of(server.query_request(&token, "{ nothing }", Value::Null).header("origin", &origin)).await;
    assert_eq!((wrong.status, wrong.headers[ALLOW].as_str()), (400, origin.as_str()));

    // A page of another tenant is rejected before the body is parsed, although its preflight succeeds, and it may not
    // read the response.
    let upper = origin.to_uppercase();
    let evil = format!("{origin}.evil.example");
    for (token, foreign) in [
        (&token, other_origin.as_str()),
        (&other_token, &origin),
        (&token, "null"),
        (&token, "https://evil.example"),
        (&token, &upper),
        (&token, &evil),
        (&token, ""),
    ] {
        let response = Response::of(
            server.post(token).header("origin", foreign).header("content-type", "application/json").body("{{{"),
        )
        .await;
        assert_eq!(response.status_and_code(), (403, "INVALID_INPUT".into()), "{foreign}");
        assert_eq!((response.headers.get(ALLOW), response.headers["vary"].as_str()), (None, "origin"), "{foreign}");
    }
    for foreign in ["null", "https://evil.example", "https://clinic.pages.example", &evil] {
        let response = preflight(&server, foreign, None).await;
        assert_eq!((response.status, response.headers.get(ALLOW)), (403, None), "{foreign}");
    }
    // With a subdomain in the host name, only the origins of that tenant are allowed.
    for (slug, origin, status) in [
        (&tenant.slug, &origin, 204),
        (&other_tenant.slug, &other_origin, 204),
        (&tenant.slug, &other_origin, 403),
        (&other_tenant.slug, &origin, 403),
        (&"nobody".to_owned(), &origin, 403),
    ] {
        assert_eq!(
            preflight(&server, origin, Some(&format!("{slug}.notes.test"))).await.status,
            status,
            "{slug} {origin}"
        );
    }

    // Without an origin, or with the origin of the host itself, the response has no CORS headers.
    let plain = server.send_query(&token, ME, Value::Null).await;
    let host = server.url.trim_start_matches("http://").trim_end_matches("/graphql");
    let own = send_from_origin(&server, &token, &format!("https://{host}")).await;
    assert_eq!((plain.status, plain.headers.get(ALLOW), own.status, own.headers.get(ALLOW)), (200, None, 200, None));
    // A page with an allowed origin may read the error of an invalid token; other pages may not.
    let unknown = send_from_origin(&server, "x.y.z", &origin).await;
    assert_eq!((unknown.status, unknown.headers[ALLOW].as_str()), (401, origin.as_str()));
    let unknown = send_from_origin(&server, "x.y.z", "https://evil.example").await;
    assert_eq!((unknown.status, unknown.headers.get(ALLOW)), (401, None));
    let twice = server.query_request(&token, ME, Value::Null).header("origin", &origin).header("origin", &other_origin);
    assert_eq!(Response::of(twice).await.status, 400);
    // An OPTIONS request that is no preflight is rejected.
    let options =
        Response::of(server.http.request(reqwest::Method::OPTIONS, &server.url).header("origin", &origin)).await;
    assert_eq!((options.status, options.headers["allow"].as_str()), (405, "POST"));
}

#[tokio::test]
async fn removed_origins_and_suspended_tenants_are_rejected() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let (tenant, origin, token) = tenant_with_origin(site).await;
    preflight_until(&server, &origin, 204).await;
    assert_eq!(send_from_origin(&server, &token, &origin).await.status, 200);
    allow(site, &tenant, &[]).await;
    preflight_until(&server, &origin, 403).await;
    assert_eq!(send_from_origin(&server, &token, &origin).await.status_and_code(), (403, "INVALID_INPUT".into()));
    assert_eq!(
        server.send_query(&token, ME, json!({})).await.status,
        200,
        "requests without an origin are not affected"
    );

    allow(site, &tenant, &[&origin]).await;
    preflight_until(&server, &origin, 204).await;
    provision::suspend(&site.operator, &tenant.slug).await.unwrap();
    preflight_until(&server, &origin, 403).await;
    let suspended = send_from_origin(&server, &token, &origin).await;
    assert_eq!((suspended.status_and_code(), suspended.headers.get(ALLOW)), ((403, "TENANT_SUSPENDED".into()), None));
    provision::resume(&site.operator, &tenant.slug).await.unwrap();
    preflight_until(&server, &origin, 204).await;
}
