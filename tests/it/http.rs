//! GraphQL over HTTP as clients see it: statuses and media types, tokens, suspension of a tenant, and unavailable
//! dependencies.

use crate::support::fhir_charts::{FhirCharts, SYSTEM};
use crate::support::server::{Response, TestServer};
use crate::support::site::{MODELS, Site};
use cordon::isolation::BootCheck;
use cordon::ops::provision;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ME: &str = "{ viewer { id } }";

/// Creates a tenant with one patient, and the token of a clinician.
async fn tenant_with_chart(site: &Site, model: TenancyModel, mark: &str) -> (Tenant, String) {
    let tenant = site.tenant(model).await;
    FhirCharts { mark, patients: 1, encounters: 2, notes: 2 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, token)
}

#[tokio::test]
async fn statuses_and_media_types_follow_graphql_over_http() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let server = TestServer::of(site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let request = |body: &str| {
        server
            .http
            .post(&server.url)
            .bearer_auth(&token)
            .header("content-type", "application/json")
            .body(body.to_owned())
    };
    let me = json!({ "query": ME }).to_string();
    let (newer, older) = ("application/graphql-response+json", "application/json");
    for (accept, kind) in [
        (newer, newer),
        (older, older),
        ("*/*", older),
        ("application/*;q=0.5, application/graphql-response+json", newer),
    ] {
        let response = Response::of(request(&me).header("accept", accept)).await;
        assert_eq!(
            (response.status, response.headers["content-type"].as_str()),
            (200, format!("{kind}; charset=utf-8").as_str()),
            "{accept}"
        );
        assert_eq!(
            (response.headers["cache-control"].as_str(), response.headers["x-content-type-options"].as_str()),
            ("no-store", "nosniff")
        );
    }
    assert_eq!(
        Response::of(request(&me).header("accept", "text/html")).await.status_and_code(),
        (406, "INVALID_INPUT".into())
    );
    for (kind, status) in [
        ("application/json; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/graphql", 415),
        ("application/json; charset=latin1", 415),
    ] {
        let request = server.http.post(&server.url).bearer_auth(&token).header("content-type", kind).body(me.clone());
        assert_eq!(Response::of(request).await.status, status, "{kind}");
    }
    assert_eq!(Response::of(server.http.post(&server.url).bearer_auth(&token).body(me.clone())).await.status, 415);
    assert_eq!(Response::of(request(&me).header("content-encoding", "gzip")).await.status, 415);
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let response =
            Response::of(server.http.request(method.parse().unwrap(), &server.url).bearer_auth(&token)).await;
        assert_eq!((response.status, response.headers["allow"].as_str()), (405, "POST"), "{method}");
    }
    let elsewhere = server.http.post(server.url.replace("/graphql", "/graph")).bearer_auth(&token);
    assert_eq!(Response::of(elsewhere).await.status_and_code(), (404, "NOT_FOUND".into()));
    assert_eq!(Response::of(request(&" ".repeat(2 << 20))).await.status_and_code(), (413, "LIMIT_EXCEEDED".into()));
    // A body that is no GraphQL request is 400 with either media type. For an invalid document the status depends on
    // the media type.
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{\"query\":1}",
        "{\"query\":\"{ viewer { id } }\",\"variables\":[]}",
        "[{\"query\":\"{ viewer { id } }\"}]",
    ] {
        for accept in [newer, older] {
            assert_eq!(
                Response::of(request(body).header("accept", accept)).await.status_and_code(),
                (400, "INVALID_INPUT".into()),
                "{body}"
            );
        }
    }
    for query in
        ["{ nothing }", "{", "query A { viewer { id } } query B { viewer { id } }", "{ patient { id } }", "{ viewer }"]
    {
        let body = json!({ "query": query }).to_string();
        for (accept, status) in [(newer, 400), (older, 200)] {
            let response = Response::of(request(&body).header("accept", accept)).await;
            assert_eq!(response.status_and_code(), (status, "INVALID_INPUT".into()), "{query}");
            assert!(response.json().get("data").is_none());
        }
    }
    // An error of one field does not affect the others.
    let partial = server.send_query(&token, "{ viewer { id } patient(id: \"x\") { id } }", Value::Null).await;
    assert!(
        partial.status == 200
            && partial.code() == "INVALID_INPUT"
            && partial.json()["data"]["viewer"]["id"].is_string(),
        "{partial:?}"
    );
    assert_eq!(partial.json()["errors"][0]["extensions"]["field"], "id");
}

#[tokio::test]
async fn invalid_tokens_are_rejected_alike() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = TestServer::of(site);
    let now = chrono::Utc::now().timestamp();
    let good = json!({ "iss": cordon::auth::dev::ISSUER, "aud": "cordon", "sub": "alice", "tenants": [tenant.id],
        "roles": ["clinician"], "iat": now, "exp": now + 600 });
    let header = |alg: &str, typ: &str| json!({ "alg": alg, "typ": typ, "kid": site.issuer.key_id() }).to_string();
    let signed = |changes: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        site.issuer.sign(&header("ES256", "at+jwt"), &claims.to_string()).unwrap()
    };
    let valid = signed(json!({}));
    assert_eq!(server.send_query(&valid, ME, Value::Null).await.status, 200);
    let (head, signature) = valid.rsplit_once('.').unwrap();
    let mut bad = vec![
        "x".into(),
        "a.b.c".into(),
        format!("{head}."),
        head.to_owned(),
        format!("{valid}x"),
        format!("{head}.{}", signature.chars().rev().collect::<String>()),
        site.issuer.sign(&header("none", "at+jwt"), &good.to_string()).unwrap(),
        site.issuer.sign(&header("HS256", "at+jwt"), &good.to_string()).unwrap(),
        site.issuer.sign(&header("ES256", "JWT"), &good.to_string()).unwrap(),
        "x".repeat(7_000),
    ];
    let changes = [
        json!({ "exp": now - 1 }),
        json!({ "exp": now + 13 * 3600 }),
        json!({ "exp": null }),
        json!({ "nbf": now + 120 }),
        json!({ "iat": now + 120 }),
        json!({ "aud": "other" }),
        json!({ "aud": ["other"] }),
        json!({ "iss": "urn:cordon:other" }),
        json!({ "sub": "" }),
        json!({ "sub": null }),
        json!({ "tenants": tenant.id }),
        json!({ "tenants": [tenant.slug] }),
        json!({ "tenants": null }),
        json!({ "roles": "clinician" }),
        json!({ "roles": ["Clinician"] }),
    ];
    bad.extend(changes.into_iter().map(signed));
    let refused = Response::of(server.http.post(&server.url).json(&json!({ "query": ME }))).await;
    assert_eq!(
        (refused.status_and_code(), refused.headers["www-authenticate"].as_str()),
        ((401, "UNAUTHENTICATED".into()), "Bearer")
    );
    for token in bad {
        let request = server.http.post(&server.url).bearer_auth(&token).json(&json!({ "query": ME }));
        assert_eq!(Response::of(request).await.comparable(), refused.comparable(), "{token}");
    }
    // Without a valid token the rest of the request has no effect on the response.
    let nonsense = server.http.post(&server.url).header("accept", "text/html").body("{{{");
    assert_eq!(Response::of(nonsense).await.comparable(), refused.comparable());
    for tenants in [json!([]), json!([uuid::Uuid::now_v7()])] {
        assert_eq!(
            server.send_query(&signed(json!({ "tenants": tenants })), ME, Value::Null).await.status_and_code(),
            (403, "TENANT_MISMATCH".into())
        );
    }
    let two_tokens = server.query_request(&valid, ME, Value::Null).header("authorization", "Bearer x");
    assert_eq!(Response::of(two_tokens).await.status, 400);
}

#[tokio::test]
async fn a_suspension_takes_effect_immediately() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    for model in MODELS {
        let (tenant, token) = tenant_with_chart(site, model, "haltzq").await;
        let query = json!({ "query": by_number("haltzq") }).to_string();
        let response = server.send_query(&token, &by_number("haltzq"), Value::Null).await;
        assert!(response.status == 200 && response.contains("haltzqfamily"));
        // The tenant is suspended while the body of an admitted request is still being sent.
        let address = server.url.trim_start_matches("http://").trim_end_matches("/graphql");
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let length = query.len();
        let head = format!(
            "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: \
             application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
        provision::suspend(&site.operator, &tenant.slug).await.unwrap();
        socket.write_all(query.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("TENANT_SUSPENDED") && !answer.contains("haltzq"),
            "{model}: {answer}"
        );
        let refused = server.send_query(&token, &by_number("haltzq"), Value::Null).await;
        assert_eq!(refused.status_and_code(), (403, "TENANT_SUSPENDED".into()), "{model}");
        provision::resume(&site.operator, &tenant.slug).await.unwrap();
        let mut response = refused;
        for _ in 0..100 {
            response = server.send_query(&token, &by_number("haltzq"), Value::Null).await;
            if response.status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(response.contains("haltzqfamily"), "{model}: {response:?}");
    }
}

#[tokio::test]
async fn unavailable_dependencies_are_503_with_retry_after() {
    let site = Site::shared().await;
    let (_, token) = tenant_with_chart(site, TenancyModel::Schema, "awayzq").await;
    let mut without_keys = site.server_settings();
    without_keys.keys.file = Some(site.directory.join("nowhere.json"));
    let mut without_catalog = site.server_settings();
    without_catalog.catalog.url =
        Some("postgres://cordon_catalog_reader:x@127.0.0.1:1/cordon_control".to_owned().into());
    for (settings, code) in [(without_keys, "KEY_UNAVAILABLE"), (without_catalog, "UNAVAILABLE")] {
        let server = TestServer::start(site, settings, BootCheck::Dev);
        let response = server.send_query(&token, &by_number("awayzq"), Value::Null).await;
        assert_eq!(response.status_and_code(), (503, code.into()));
        assert!(response.headers["retry-after"].parse::<u32>().is_ok() && !response.contains("awayzq"));
    }
}

fn by_number(mark: &str) -> String {
    format!("{{ patientByIdentifier(system: \"{SYSTEM}\", value: \"{mark}-mrn-0\") {{ id name {{ text }} }} }}")
}
