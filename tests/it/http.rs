//! GraphQL over HTTP as clients and auditors see it: statuses, media types, tokens, suspension, and a row in the log for every read.

use crate::charts::{Charts, SYSTEM};
use crate::server::{Log, Reply, Server};
use crate::site::{MODELS, Site};
use cordon::isolation::BootCheck;
use cordon::ops::provision;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ME: &str = "{ viewer { id } }";

/// A tenant with one patient, and its clinician's token.
async fn clinic(site: &Site, model: TenancyModel, mark: &str) -> (Tenant, String) {
    let tenant = site.tenant(model).await;
    Charts { mark, patients: 1, encounters: 2, notes: 2 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, token)
}

#[tokio::test]
async fn a_status_says_what_it_means() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let server = Server::of(site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let ask = |body: &str| {
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
        let reply = Reply::to(ask(&me).header("accept", accept)).await;
        assert_eq!(
            (reply.status, reply.headers["content-type"].as_str()),
            (200, format!("{kind}; charset=utf-8").as_str()),
            "{accept}"
        );
        assert_eq!(
            (reply.headers["cache-control"].as_str(), reply.headers["x-content-type-options"].as_str()),
            ("no-store", "nosniff")
        );
    }
    assert_eq!(Reply::to(ask(&me).header("accept", "text/html")).await.outcome(), (406, "INVALID_INPUT".into()));
    for (kind, status) in [
        ("application/json; charset=utf-8", 200),
        ("text/plain", 415),
        ("application/graphql", 415),
        ("application/json; charset=latin1", 415),
    ] {
        let request = server.http.post(&server.url).bearer_auth(&token).header("content-type", kind).body(me.clone());
        assert_eq!(Reply::to(request).await.status, status, "{kind}");
    }
    assert_eq!(Reply::to(server.http.post(&server.url).bearer_auth(&token).body(me.clone())).await.status, 415);
    assert_eq!(Reply::to(ask(&me).header("content-encoding", "gzip")).await.status, 415);
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let reply = Reply::to(server.http.request(method.parse().unwrap(), &server.url).bearer_auth(&token)).await;
        assert_eq!((reply.status, reply.headers["allow"].as_str()), (405, "POST"), "{method}");
    }
    let elsewhere = server.http.post(server.url.replace("/graphql", "/graph")).bearer_auth(&token);
    assert_eq!(Reply::to(elsewhere).await.outcome(), (404, "NOT_FOUND".into()));
    assert_eq!(Reply::to(ask(&" ".repeat(2 << 20))).await.outcome(), (413, "LIMIT_EXCEEDED".into()));
    // What is no request at all is 400 in either form; a document that cannot run follows the media type.
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
                Reply::to(ask(body).header("accept", accept)).await.outcome(),
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
            let reply = Reply::to(ask(&body).header("accept", accept)).await;
            assert_eq!(reply.outcome(), (status, "INVALID_INPUT".into()), "{query}");
            assert!(reply.json().get("data").is_none());
        }
    }
    // The error of one field leaves the others.
    let partly = server.reply(&token, "{ viewer { id } patient(id: \"x\") { id } }", Value::Null).await;
    assert!(
        partly.status == 200 && partly.code() == "INVALID_INPUT" && partly.json()["data"]["viewer"]["id"].is_string(),
        "{partly:?}"
    );
    assert_eq!(partly.json()["errors"][0]["extensions"]["field"], "id");
}

#[tokio::test]
async fn only_good_tokens_come_in() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = Server::of(site);
    let now = chrono::Utc::now().timestamp();
    let good = json!({ "iss": cordon::auth::dev::ISSUER, "aud": "cordon", "sub": "alice", "tenants": [tenant.id], "roles": ["clinician"], "iat": now, "exp": now + 600 });
    let header = |alg: &str, typ: &str| json!({ "alg": alg, "typ": typ, "kid": site.issuer.key_id() }).to_string();
    let signed = |changes: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        site.issuer.sign(&header("ES256", "at+jwt"), &claims.to_string()).unwrap()
    };
    let whole = signed(json!({}));
    assert_eq!(server.reply(&whole, ME, Value::Null).await.status, 200);
    let (head, signature) = whole.rsplit_once('.').unwrap();
    let mut bad = vec![
        "x".into(),
        "a.b.c".into(),
        format!("{head}."),
        head.to_owned(),
        format!("{whole}x"),
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
    let refused = Reply::to(server.http.post(&server.url).json(&json!({ "query": ME }))).await;
    assert_eq!(
        (refused.outcome(), refused.headers["www-authenticate"].as_str()),
        ((401, "UNAUTHENTICATED".into()), "Bearer")
    );
    for token in bad {
        let request = server.http.post(&server.url).bearer_auth(&token).json(&json!({ "query": ME }));
        assert_eq!(Reply::to(request).await.told(), refused.told(), "{token}");
    }
    // Who may not come in learns nothing of the rest of what they sent.
    let nonsense = server.http.post(&server.url).header("accept", "text/html").body("{{{");
    assert_eq!(Reply::to(nonsense).await.told(), refused.told());
    for tenants in [json!([]), json!([uuid::Uuid::now_v7()])] {
        assert_eq!(
            server.reply(&signed(json!({ "tenants": tenants })), ME, Value::Null).await.outcome(),
            (403, "TENANT_MISMATCH".into())
        );
    }
    let tokens = server.question(&whole, ME, Value::Null).header("authorization", "Bearer x");
    assert_eq!(Reply::to(tokens).await.status, 400);
}

#[tokio::test]
async fn a_suspension_holds_at_once() {
    let site = Site::shared().await;
    let server = Server::of(site);
    for model in MODELS {
        let (tenant, token) = clinic(site, model, "haltzq").await;
        let query = json!({ "query": by_number("haltzq") }).to_string();
        let reply = server.reply(&token, &by_number("haltzq"), Value::Null).await;
        assert!(reply.status == 200 && reply.says("haltzqfamily"));
        // Halfway through a request: the caller was admitted, the question is still on its way.
        let address = server.url.trim_start_matches("http://").trim_end_matches("/graphql");
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let length = query.len();
        let head = format!(
            "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
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
        let refused = server.reply(&token, &by_number("haltzq"), Value::Null).await;
        assert_eq!(refused.outcome(), (403, "TENANT_SUSPENDED".into()), "{model}");
        provision::resume(&site.operator, &tenant.slug).await.unwrap();
        let mut reply = refused;
        for _ in 0..100 {
            reply = server.reply(&token, &by_number("haltzq"), Value::Null).await;
            if reply.status == 200 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(reply.says("haltzqfamily"), "{model}: {reply:?}");
    }
}

#[tokio::test]
async fn what_is_away_is_503_with_a_time_to_come_back() {
    let site = Site::shared().await;
    let (_, token) = clinic(site, TenancyModel::Schema, "awayzq").await;
    let mut keyless = site.server_settings();
    keyless.keys.file = Some(site.directory.join("nowhere.json"));
    let mut homeless = site.server_settings();
    homeless.catalog.url = Some("postgres://cordon_catalog_reader:x@127.0.0.1:1/cordon_control".to_owned().into());
    for (settings, code) in [(keyless, "KEY_UNAVAILABLE"), (homeless, "UNAVAILABLE")] {
        let server = Server::start(site, settings, BootCheck::Dev);
        let reply = server.reply(&token, &by_number("awayzq"), Value::Null).await;
        assert_eq!(reply.outcome(), (503, code.into()));
        assert!(reply.headers["retry-after"].parse::<u32>().is_ok() && !reply.says("awayzq"));
    }
}

/// Who, when, from where, with what, which records and fields: one row for each operation, patient and kind of record.
#[tokio::test]
async fn every_read_is_in_the_log() {
    let site = Site::shared().await;
    let server = Server::of(site);
    for model in MODELS {
        let (tenant, token) = clinic(site, model, "auditzq").await;
        let query = "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) { id name { text }
            encounters { nodes { id reason notes { nodes { id body } } } } notes { nodes { id title } } } }";
        let variables = json!({ "system": SYSTEM, "value": "auditzq-mrn-0" });
        let reply =
            Reply::to(server.question(&token, query, variables).header("user-agent", "Chart/1.0 'quoted'")).await;
        let patient = &reply.json()["data"]["patientByIdentifier"];
        let uuids = |list: &Value| -> Vec<String> {
            list.as_array().unwrap().iter().map(|node| uuid_of(&node["id"])).collect()
        };
        let mut notes = uuids(&patient["notes"]["nodes"]);
        notes.sort();
        assert_eq!(notes.len(), 5);
        let mut encounters = uuids(&patient["encounters"]["nodes"]);
        encounters.sort();
        let rows = audit(site, &tenant, &reply).await;
        let of = |kind: &str| {
            let mut of = rows.iter().filter(|row| row["resource_type"] == kind);
            let row = of.next().unwrap_or_else(|| panic!("{kind}: {rows:?}"));
            assert!(of.next().is_none(), "one row for {kind}: {rows:?}");
            row
        };
        assert_eq!(rows.len(), 3, "{rows:?}");
        for (kind, action, ids) in [
            ("patient", "patient.read", vec![uuid_of(&patient["id"])]),
            ("encounter", "encounter.read", encounters),
            ("note", "note.read", notes),
        ] {
            let row = of(kind);
            let mut named: Vec<_> =
                row["resource_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
            named.sort();
            assert_eq!((row["action"].as_str(), named), (Some(action), ids), "{model}");
            assert_eq!(row["patient_id"], uuid_of(&patient["id"]).as_str());
            assert_eq!(
                (row["subject"].as_str(), row["name"].as_str(), row["issuer"].as_str()),
                (Some("alice"), Some("Dr. alice"), Some("urn:cordon:dev"))
            );
            assert_eq!(
                (&row["roles"], row["purpose"].as_str(), row["outcome"].as_str()),
                (&json!(["clinician"]), Some("read"), Some("success"))
            );
            assert_eq!(
                (row["ip"].as_str(), row["user_agent"].as_str()),
                (Some("127.0.0.1"), Some("Chart/1.0 'quoted'"))
            );
            let when: chrono::DateTime<chrono::Utc> = row["recorded_at"].as_str().unwrap().parse().unwrap();
            assert!((chrono::Utc::now() - when).num_seconds().abs() < 30);
        }
        let fields = |kind: &str| {
            of(kind)["fields"]
                .as_array()
                .unwrap()
                .iter()
                .map(|field| field.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(fields("note"), ["body", "id", "title"]);
        assert!(fields("patient").contains(&"name".to_owned()) && fields("encounter").contains(&"reason".to_owned()));

        // What is not there, and what is not allowed, is written down too; who I am is nobody's record.
        for (root, kind) in [("patient", 'p'), ("encounter", 'e'), ("note", 'n'), ("node", 'n')] {
            let absent =
                server.reply(&token, &format!("{{ {root}(id: \"{}\") {{ id }} }}", stranger(kind)), Value::Null).await;
            let rows = audit(site, &tenant, &absent).await;
            let named = rows.first().and_then(|row| row["resource_ids"].as_array()).map_or(0, Vec::len);
            assert!(rows.len() == 1 && rows[0]["outcome"] == "not_found" && named == 1, "{root}: {rows:?}");
        }
        let partner = site.token(&[tenant.id], "partner", "machine");
        let denied = server.reply(&partner, &by_number("auditzq"), Value::Null).await;
        assert_eq!(denied.outcome(), (200, "FORBIDDEN".into()));
        let rows = audit(site, &tenant, &denied).await;
        assert!(
            rows.len() == 1 && rows[0]["outcome"] == "denied" && rows[0]["action"] == "patientByIdentifier",
            "{rows:?}"
        );
        assert_eq!(rows[0]["subject"], "machine");
        let me = server.reply(&token, ME, Value::Null).await;
        assert!(audit(site, &tenant, &me).await.is_empty());

        // No text of the chart and no token in any row or line.
        let log = Log::lines();
        assert!(log.contains("cordon"));
        let all = audit_text(site, &tenant).await;
        for secret in [
            "auditzqbody",
            "auditzqtitle",
            "auditzqfamily",
            "auditzqreason",
            "auditzq-mrn",
            "bearer",
            &token,
            token.rsplit('.').next().unwrap(),
        ] {
            assert!(!all.to_lowercase().contains(&secret.to_lowercase()), "{model}: {secret} is in the audit log");
            assert!(secret == "bearer" || !log.contains(secret), "{model}: {secret} is in the server's log");
        }
    }
}

/// If it cannot be written down who saw it, nobody sees it.
#[tokio::test]
async fn a_commit_that_fails_takes_the_answer_with_it() {
    let site = Site::shared().await;
    // A trigger that does not belong there would be refused as a wall that is down.
    let server = Server::start(site, site.server_settings(), BootCheck::Off);
    let (tenant, token) = clinic(site, TenancyModel::Schema, "failzq").await;
    let schema = tenant.placement.as_ref().unwrap().schema.to_string();
    let session = site.superuser("cordon_data").await;
    session
        .batch_execute(&format!(
            "create function {schema}.fail() returns trigger language plpgsql as $$ begin raise 'no room for failzq'; end $$;
             create constraint trigger fail after insert on {schema}.audit_log deferrable initially deferred for each row execute function {schema}.fail()"
        ))
        .await
        .unwrap();
    let reply = server.reply(&token, &by_number("failzq"), Value::Null).await;
    assert_eq!(reply.outcome(), (500, "INTERNAL".into()));
    assert!(reply.json().get("data").is_none() && !reply.says("failzq"), "{reply:?}");
    session
        .batch_execute(&format!("drop trigger fail on {schema}.audit_log; drop function {schema}.fail()"))
        .await
        .unwrap();
    let reply = server.reply(&token, &by_number("failzq"), Value::Null).await;
    assert!(reply.status == 200 && reply.says("failzqfamily"), "{reply:?}");
}

fn by_number(mark: &str) -> String {
    format!("{{ patientByIdentifier(system: \"{SYSTEM}\", value: \"{mark}-mrn-0\") {{ id name {{ text }} }} }}")
}

fn stranger(kind: char) -> String {
    use base64::Engine;
    let mut bytes = vec![u8::try_from(kind).unwrap()];
    bytes.extend_from_slice(uuid::Uuid::now_v7().as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn uuid_of(id: &Value) -> String {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(id.as_str().unwrap()).unwrap();
    uuid::Uuid::from_slice(&bytes[1..]).unwrap().to_string()
}

/// The rows of one request, by the id its answer carries.
async fn audit(site: &Site, tenant: &Tenant, reply: &Reply) -> Vec<Value> {
    let placement = tenant.placement.as_ref().unwrap();
    let text = format!(
        "select (to_jsonb(a) - 'detail_sealed')::text from {}.audit_log a where tenant_id = $1::text::uuid and request_id = $2::text::uuid",
        placement.schema
    );
    let session = site.superuser(&placement.database).await;
    let rows = session.query(&text, &[&tenant.id.to_string(), &reply.headers["x-request-id"]]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

async fn audit_text(site: &Site, tenant: &Tenant) -> String {
    let placement = tenant.placement.as_ref().unwrap();
    let text = format!(
        "select coalesce(string_agg(a::text, ' '), '') from {}.audit_log a where tenant_id = $1::text::uuid",
        placement.schema
    );
    site.superuser(&placement.database).await.query_one(&text, &[&tenant.id.to_string()]).await.unwrap().get(0)
}
