//! Web pages of other origins: each tenant's list decides, from the next request on, and no page reads what it may not.

use crate::server::{Reply, Server};
use crate::site::Site;
use cordon::ops::provision;
use cordon::ops::terms::{self, Change};
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ALLOW: &str = "access-control-allow-origin";
const ME: &str = "{ viewer { id } }";

/// A tenant whose pages have an origin that no other tenant of the run allows.
async fn clinic(site: &Site) -> (Tenant, String, String) {
    let tenant = site.tenant(TenancyModel::Shared).await;
    let origin = format!("https://{}.pages.example", tenant.slug);
    let tenant = allow(site, &tenant, &[&origin, "http://localhost:5173"]).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, origin, token)
}

async fn allow(site: &Site, tenant: &Tenant, origins: &[&str]) -> Tenant {
    let origins = origins.iter().map(|origin| origin.parse().unwrap()).collect();
    terms::set(&site.operator, &tenant.slug, &Change { origins: Some(origins), ..Change::default() }).await.unwrap()
}

async fn preflight(server: &Server<'_>, origin: &str, host: Option<&str>) -> Reply {
    let asks = server.http.request(reqwest::Method::OPTIONS, &server.url).header("origin", origin);
    let asks = asks
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type");
    Reply::to(match host {
        Some(host) => asks.header("host", host),
        None => asks,
    })
    .await
}

/// The preflight's status once it is as expected: a server hears of changes within a second.
async fn preflight_becomes(server: &Server<'_>, origin: &str, status: u16) -> Reply {
    let began = Instant::now();
    loop {
        let reply = preflight(server, origin, None).await;
        if reply.status == status {
            return reply;
        }
        assert!(began.elapsed() < Duration::from_secs(2), "{origin}: {reply:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn asks(server: &Server<'_>, token: &str, origin: &str) -> Reply {
    Reply::to(server.question(token, ME, Value::Null).header("origin", origin)).await
}

#[tokio::test]
async fn a_tenants_pages_ask_for_it_and_for_no_other() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let ((ours, origin, token), (theirs, other, stranger)) = (clinic(site).await, clinic(site).await);
    for origin in [&origin, &other, "http://localhost:5173"] {
        let reply = preflight_becomes(&server, origin, 204).await;
        assert_eq!((reply.headers[ALLOW].as_str(), reply.headers["vary"].as_str()), (origin, "origin"));
        assert_eq!(reply.headers["access-control-allow-methods"], "POST");
        let headers = &reply.headers["access-control-allow-headers"];
        for header in ["authorization", "content-type", "x-tenant-id", "idempotency-key", "traceparent"] {
            assert!(headers.contains(header), "{headers}");
        }
        assert!(!reply.headers.contains_key("access-control-allow-credentials"));
    }
    let reply = asks(&server, &token, &origin).await;
    assert_eq!(
        (reply.status, reply.headers[ALLOW].as_str(), reply.headers["vary"].as_str()),
        (200, origin.as_str(), "origin")
    );
    assert!(reply.headers["access-control-expose-headers"].contains("x-request-id") && reply.says("retry-after"));
    assert!(!reply.headers.contains_key("access-control-allow-credentials"));
    // An error of the question is the page's to read.
    let wrong = Reply::to(server.question(&token, "{ nothing }", Value::Null).header("origin", &origin)).await;
    assert_eq!((wrong.status, wrong.headers[ALLOW].as_str()), (400, origin.as_str()));

    // Another tenant's page, though a preflight lets it ask: refused before the body is looked at, and not to be read.
    let upper = origin.to_uppercase();
    let evil = format!("{origin}.evil.example");
    for (token, foreign) in [
        (&token, other.as_str()),
        (&stranger, &origin),
        (&token, "null"),
        (&token, "https://evil.example"),
        (&token, &upper),
        (&token, &evil),
        (&token, ""),
    ] {
        let reply = Reply::to(
            server.post(token).header("origin", foreign).header("content-type", "application/json").body("{{{"),
        )
        .await;
        assert_eq!(reply.outcome(), (403, "INVALID_INPUT".into()), "{foreign}");
        assert_eq!((reply.headers.get(ALLOW), reply.headers["vary"].as_str()), (None, "origin"), "{foreign}");
    }
    for foreign in ["null", "https://evil.example", "https://clinic.pages.example", &evil] {
        let reply = preflight(&server, foreign, None).await;
        assert_eq!((reply.status, reply.headers.get(ALLOW)), (403, None), "{foreign}");
    }
    // A subdomain narrows: one tenant's host is asked by that tenant's pages.
    for (slug, origin, status) in [
        (&ours.slug, &origin, 204),
        (&theirs.slug, &other, 204),
        (&ours.slug, &other, 403),
        (&theirs.slug, &origin, 403),
        (&"nobody".to_owned(), &origin, 403),
    ] {
        assert_eq!(
            preflight(&server, origin, Some(&format!("{slug}.notes.test"))).await.status,
            status,
            "{slug} {origin}"
        );
    }

    // No page, or one of the host itself: nothing is said of origins.
    let plain = server.reply(&token, ME, Value::Null).await;
    let host = server.url.trim_start_matches("http://").trim_end_matches("/graphql");
    let own = asks(&server, &token, &format!("https://{host}")).await;
    assert_eq!((plain.status, plain.headers.get(ALLOW), own.status, own.headers.get(ALLOW)), (200, None, 200, None));
    // A page whose token has run out may read that; another's may not.
    let unknown = asks(&server, "x.y.z", &origin).await;
    assert_eq!((unknown.status, unknown.headers[ALLOW].as_str()), (401, origin.as_str()));
    let unknown = asks(&server, "x.y.z", "https://evil.example").await;
    assert_eq!((unknown.status, unknown.headers.get(ALLOW)), (401, None));
    let twice = server.question(&token, ME, Value::Null).header("origin", &origin).header("origin", &other);
    assert_eq!(Reply::to(twice).await.status, 400);
    // OPTIONS that is no preflight is still no method of ours.
    let options = Reply::to(server.http.request(reqwest::Method::OPTIONS, &server.url).header("origin", &origin)).await;
    assert_eq!((options.status, options.headers["allow"].as_str()), (405, "POST"));
}

#[tokio::test]
async fn what_is_taken_back_or_suspended_holds() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let (tenant, origin, token) = clinic(site).await;
    preflight_becomes(&server, &origin, 204).await;
    assert_eq!(asks(&server, &token, &origin).await.status, 200);
    allow(site, &tenant, &[]).await;
    preflight_becomes(&server, &origin, 403).await;
    assert_eq!(asks(&server, &token, &origin).await.outcome(), (403, "INVALID_INPUT".into()));
    assert_eq!(server.reply(&token, ME, json!({})).await.status, 200, "what is no page is not concerned");

    allow(site, &tenant, &[&origin]).await;
    preflight_becomes(&server, &origin, 204).await;
    provision::suspend(&site.operator, &tenant.slug).await.unwrap();
    preflight_becomes(&server, &origin, 403).await;
    let suspended = asks(&server, &token, &origin).await;
    assert_eq!((suspended.outcome(), suspended.headers.get(ALLOW)), ((403, "TENANT_SUSPENDED".into()), None));
    provision::resume(&site.operator, &tenant.slug).await.unwrap();
    preflight_becomes(&server, &origin, 204).await;
}
