//! The tenant comes from the token. The header `X-Tenant-ID` and the host name may only choose among the tenants of the
//! token. Every other name gets the same error, whether it names another tenant, no tenant or a schema of PostgreSQL.

use super::fixtures::Fixtures;
use crate::support::server::{Response, TestServer};
use serde_json::{Value, json};
use uuid::Uuid;

const ME: &str = "{ viewer { tenant { slug } } }";

#[tokio::test]
async fn l21_unusual_tenant_names_are_rejected_alike() {
    let fixtures = Fixtures::shared().await;
    let (a, b) = (&fixtures.owners[1], &fixtures.neighbours[1]);
    let (id, slug) = (a.tenant.id.to_string(), a.tenant.slug.clone());
    let refused = with_header(&fixtures.server, &b.token, b"nobody-at-all").await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "TENANT_MISMATCH"));
    let cyrillic = slug.replace('c', "\u{441}");
    let fullwidth = format!("\u{ff43}{}", &slug[1..]);
    let long = "a".repeat(10_000);
    let names: Vec<String> = [
        slug.as_str(),
        &id,
        &slug.to_uppercase(),
        &id.to_uppercase(),
        &id.replace('-', ""),
        &format!("{{{id}}}"),
        &format!("urn:uuid:{id}"),
        &format!("{slug}."),
        &format!("{slug},{}", b.tenant.slug),
        &format!("{};{slug}", b.tenant.slug),
        &format!("\"{slug}\""),
        "__system__",
        "public",
        "pg_catalog",
        "pg_temp",
        "default",
        "shared",
        "tenant",
        "cordon",
        "cordon_catalog",
        "*",
        "%",
        "null",
        "0",
        "-1",
        "..",
        "../lakeside",
        "' or ''='",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        &format!("t_{}", a.tenant.id.0.simple()),
        &Uuid::now_v7().to_string(),
        "x",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in names {
        assert_eq!(with_header(&fixtures.server, &b.token, name.as_bytes()).await, refused, "{name}");
        let response = at_host(&fixtures.server, &b.token, &name).await;
        if !name.contains([':', '{', '"', ' ', '\'', '%', ',', ';', '/']) {
            assert_eq!(response, refused, "{name}");
        } else {
            // This is no valid host name, or its first part ends before the domain: the HTTP parser rejects it, or it
            // is no hint.
            let own =
                response.status == 200 && response.json()["data"]["viewer"]["tenant"]["slug"] == b.tenant.slug.as_str();
            assert!(
                own || response == refused || (response.status == 400 && response.body.is_empty()),
                "{name}: {response:?}"
            );
        }
    }
    // An empty name, and one that is longer than any name.
    assert_eq!(with_header(&fixtures.server, &b.token, b"").await, refused);
    assert_eq!(with_header(&fixtures.server, &b.token, long.as_bytes()).await, refused);
    // A header that is not ASCII text is rejected before a tenant is looked up.
    for name in [cyrillic.as_bytes(), fullwidth.as_bytes(), b"\xff\xfe"] {
        let response = with_header(&fixtures.server, &b.token, name).await;
        assert_eq!((response.status, response.code().as_str()), (400, "INVALID_INPUT"), "{response:?}");
        assert!(!response.contains(&a.mark));
    }
    let nul = with_header(&fixtures.server, &b.token, b"cli\0nic").await;
    assert!(nul.status == 400 && nul.body.is_empty(), "the HTTP parser rejects it: {nul:?}");
}

#[tokio::test]
async fn l22_the_token_decides_over_headers_and_host() {
    let fixtures = Fixtures::shared().await;
    let server = &fixtures.server;
    for (a, b) in fixtures.pairs() {
        let refused = with_header(server, &b.token, Uuid::now_v7().to_string().as_bytes()).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "TENANT_MISMATCH"));
        let foreign = [a.tenant.id.to_string(), a.tenant.slug.clone()];
        let own = [b.tenant.id.to_string(), b.tenant.slug.clone()];
        for name in &foreign {
            assert_eq!(with_header(server, &b.token, name.as_bytes()).await, refused);
            for confirmed in &own {
                assert_eq!(with_header_and_host(server, &b.token, name, confirmed).await, refused);
                assert_eq!(with_header_and_host(server, &b.token, confirmed, name).await, refused);
            }
        }
        for name in &own {
            assert_eq!(with_header_and_host(server, &b.token, name, &b.tenant.slug).await.status, 200);
        }
        // Two headers are an error in either order.
        for (first, second) in
            [(&foreign[0], &own[0]), (&own[0], &foreign[0]), (&own[1], &own[1]), (&foreign[1], &foreign[1])]
        {
            let twice = server
                .query_request(&b.token, ME, Value::Null)
                .header("x-tenant-id", first)
                .header("x-tenant-id", second);
            assert_eq!(Response::of(twice).await.status_and_code(), (400, "INVALID_INPUT".into()), "{first} {second}");
        }
        // The header `X-Forwarded-Host` is ignored.
        let forwarded = server
            .query_request(&b.token, ME, Value::Null)
            .header("x-forwarded-host", format!("{}.notes.test", a.tenant.slug));
        assert_eq!(Response::of(forwarded).await.json()["data"]["viewer"]["tenant"]["slug"], b.tenant.slug.as_str());
        // A token with two tenants needs a name to choose one of them, and no third tenant can be chosen.
        let both = server.site.token(&[a.tenant.id, b.tenant.id], "clinician", "alice");
        assert_eq!(server.send_query(&both, ME, Value::Null).await.status_and_code(), (403, "TENANT_MISMATCH".into()));
        for name in foreign.iter().chain(&own) {
            let response = Response::of(server.query_request(&both, ME, Value::Null).header("x-tenant-id", name)).await;
            let chosen = if foreign.contains(name) { &a.tenant.slug } else { &b.tenant.slug };
            assert_eq!(response.json()["data"]["viewer"]["tenant"]["slug"], chosen.as_str());
        }
        assert_eq!(with_header_and_host(server, &both, &a.tenant.slug, &b.tenant.slug).await.status, 403);
        assert_eq!(with_header(server, &both, fixtures.suspended.slug.as_bytes()).await, refused);
    }
    // No other path or method accepts the name of another tenant.
    let (a, b) = (&fixtures.owners[0], &fixtures.neighbours[0]);
    let base = server.url.trim_end_matches("/graphql");
    for path in [
        "/graphql",
        "/graphql/",
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/platform",
        &format!("/{}/graphql", a.tenant.slug),
    ] {
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"] {
            // The health endpoints need no tenant.
            let health = method == "GET" && ["/healthz", "/readyz"].contains(&path);
            let method = method.parse().unwrap();
            let request = server
                .http
                .request(method, format!("{base}{path}"))
                .bearer_auth(&b.token)
                .header("x-tenant-id", &a.tenant.slug);
            let response = Response::of(request.json(&json!({ "query": "{ patient(id: \"x\") { id } }" }))).await;
            assert!(
                (health && response.status == 200 || matches!(response.status, 403..=405))
                    && !response.contains(&a.mark)
                    && !response.contains(&a.tenant.slug),
                "{path}: {response:?}"
            );
        }
    }
}

/// Sends a request with these header lines and returns the response without what differs each time.
async fn send_raw(server: &TestServer<'_>, head: &[&[u8]], token: &str) -> Response {
    let body = json!({ "query": ME }).to_string();
    let mut request = b"POST /graphql HTTP/1.1\r\n".to_vec();
    head.iter().for_each(|line| request.extend_from_slice(line));
    let rest = format!(
        "authorization: Bearer {token}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: \
         {}\r\n\r\n{body}",
        body.len()
    );
    request.extend_from_slice(rest.as_bytes());
    let mut response = server.send_raw(&request).await;
    response.headers.remove("date");
    response.headers.remove("x-request-id");
    response
}

async fn with_header(server: &TestServer<'_>, token: &str, name: &[u8]) -> Response {
    send_raw(server, &[b"host: localhost\r\nx-tenant-id: ", name, b"\r\n"], token).await
}

async fn at_host(server: &TestServer<'_>, token: &str, name: &str) -> Response {
    send_raw(server, &[format!("host: {name}.notes.test\r\n").as_bytes()], token).await
}

async fn with_header_and_host(server: &TestServer<'_>, token: &str, header: &str, subdomain: &str) -> Response {
    send_raw(server, &[format!("host: {subdomain}.notes.test\r\nx-tenant-id: {header}\r\n").as_bytes()], token).await
}
