//! Every text that enters a request or a file carries, once, what ends strings, statements and lines elsewhere. Nothing but data comes
//! of it, or a clear error with a code; and what cannot be text never reaches PostgreSQL.

use crate::charts::{Charts, SYSTEM, document, import};
use crate::server::{Reply, Server};
use crate::site::{MODELS, Site};
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};

/// Quotes, backslashes, ends of statements, dollar quotes, comments, line separators, directions, format strings, and a tag.
const POISON: [&str; 12] = [
    "o'clock",
    "'; drop table patients; --",
    "');drop table clinical_notes;commit;--",
    "\\'; select pg_sleep(9); --",
    "\\",
    "\"quoted\"",
    "$$; rollback; $$",
    "$tag$ /* $tag$",
    "line\u{2028}line\u{2029}end",
    "\u{202e}right to left\u{202c}",
    "%s %n {0} ${jndi:ldap://x} {{7*7}}",
    "\u{1f600}\u{feff} \u{5d0}\u{301} E'\\x27'",
];

/// What a chart holds is what was sent, to the letter, in every field and every model.
#[tokio::test]
async fn poison_in_fhir_is_data() {
    let site = Site::shared().await;
    let server = Server::of(site);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        let token = site.token(&[tenant.id], "clinician", "alice");
        let lines: String = POISON.iter().enumerate().map(|(n, poison)| poisoned(n, poison)).collect();
        let report = import(site, &tenant, &lines).await;
        let all = POISON.len() as u64;
        assert_eq!(
            (report.patients.new, report.encounters.new, report.notes.new, report.rejects),
            (all, all, all, 0),
            "{model}: {report:?}"
        );
        let again = import(site, &tenant, &lines).await;
        assert_eq!(
            (again.patients.unchanged, again.notes.unchanged, again.notes.updated),
            (all, all, 0),
            "{model}: {again:?}"
        );
        for poison in POISON {
            let query = "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) {
                identifiers { system value } name { family given text }
                encounters { nodes { reason class } } notes { nodes { title body type { code display } author { name } } } } }";
            let data =
                server.data(&token, query, json!({ "system": format!("urn:x:{poison}"), "value": poison })).await;
            let patient = &data["patientByIdentifier"];
            assert_eq!(patient["identifiers"], json!([{ "system": format!("urn:x:{poison}"), "value": poison }]));
            assert_eq!(
                (&patient["name"]["family"], &patient["name"]["given"]),
                (&json!(poison), &json!([poison])),
                "{model}"
            );
            assert_eq!(patient["encounters"]["nodes"][0]["reason"], poison);
            let note = &patient["notes"]["nodes"][0];
            assert_eq!(
                (&note["title"], &note["body"], &note["author"]["name"]),
                (&json!(poison), &json!(poison), &json!(poison)),
                "{model}"
            );
            // A display that FHIR's own table of types knows better is not the sender's to say.
            assert!(note["type"]["code"].as_str().is_some_and(|code| !code.contains(['\'', '\\', '$'])), "{note}");
        }
        unharmed(site, &tenant, all).await;
    }
}

/// One patient, encounter, author and note, with the poison in every text.
fn poisoned(n: usize, poison: &str) -> String {
    let coded = json!({ "coding": [{ "system": format!("http://loinc.org{poison}"), "code": poison, "display": poison, "version": poison }], "text": poison });
    let mut note = document(n, Some(&format!("e{n}")), &format!("n{n}"), "2020-01-01T00:00:00Z", "");
    note["content"] = json!([{ "attachment": { "contentType": "text/plain", "title": poison, "data": crate::charts::base64(poison.as_bytes()), "url": poison } }]);
    note["type"] = coded.clone();
    note["author"] = json!([{ "reference": format!("Practitioner/d{n}"), "display": poison }]);
    note["description"] = poison.into();
    note["masterIdentifier"] = json!({ "system": poison, "value": poison });
    note["docStatus"] = poison.into();
    note["status"] = poison.into();
    let resources = [
        json!({ "resourceType": "Practitioner", "id": format!("d{n}"), "name": [{ "text": poison }], "identifier": [{ "system": poison, "value": poison }] }),
        json!({ "resourceType": "Patient", "id": format!("p{n}"), "gender": poison, "name": [{ "family": poison, "given": [poison] }],
            "identifier": [{ "system": format!("urn:x:{poison}"), "value": poison, "type": coded.clone() }],
            "telecom": [{ "system": poison, "value": poison }], "address": [{ "text": poison, "line": [poison] }], "meta": { "source": poison } }),
        json!({ "resourceType": "Encounter", "id": format!("e{n}"), "status": poison, "class": { "code": poison }, "type": [coded],
            "subject": { "reference": format!("Patient/p{n}") }, "reasonCode": [{ "text": poison }], "serviceProvider": { "display": poison } }),
        note,
    ];
    resources.iter().map(|resource| format!("{resource}\n")).collect()
}

/// Ids with poison in them are refused by name; NUL and half characters are refused before they are anything.
#[tokio::test]
async fn what_is_no_text_is_refused_by_the_importer() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let patient = |text: &str| {
        format!(
            "{{\"resourceType\":\"Patient\",\"id\":\"x\",\"name\":[{{\"family\":\"{text}\"}}],\"identifier\":[{{\"system\":\"s\",\"value\":\"{text}\"}}]}}\n"
        )
    };
    for bad in ["a\\u0000b", "\\ud800", "\\udc00x", "\\ud83dx"] {
        let report = import(site, &tenant, &patient(bad)).await;
        assert_eq!((report.patients.new, report.rejects), (0, 1), "{bad}: {report:?}");
    }
    for id in ["' or 1=1", "a/b", "x y", "\u{202e}", "\u{0}"] {
        let report = import(site, &tenant, &format!("{}\n", json!({ "resourceType": "Patient", "id": id }))).await;
        assert_eq!(
            (report.patients.new, report.patients.rejected + report.rejects),
            (0, if report.patients.rejected == 1 { 2 } else { 1 }),
            "{id:?}: {report:?}"
        );
    }
    let mut note = document(0, None, "n", "2020-01-01T00:00:00Z", "");
    note["content"][0]["attachment"]["data"] = crate::charts::base64(b"before\0after").into();
    let chart = Charts { mark: "nulzq", patients: 1, encounters: 0, notes: 0 };
    let report = import(site, &tenant, &format!("{}{note}\n", chart.ndjson())).await;
    assert_eq!((report.patients.new, report.notes.new, report.notes.rejected), (1, 1, 1), "{report:?}");
    unharmed(site, &tenant, 1).await;
}

#[tokio::test]
async fn poison_in_a_request_is_data_or_an_error() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let tenant = site.tenant(TenancyModel::Schema).await;
    Charts { mark: "wellzq", patients: 1, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    for poison in POISON {
        let literal = Value::from(poison).to_string();
        // Arguments, as variables and as literals; names of operations and variables; members nobody knows.
        let by_number = "query ($s: String!, $v: String!) { patientByIdentifier(system: $s, value: $v) { id } }";
        for (system, value) in [(poison, "x"), (SYSTEM, poison)] {
            assert_eq!(
                server.data(&token, by_number, json!({ "s": system, "v": value })).await,
                json!({ "patientByIdentifier": null })
            );
        }
        let inline = format!("{{ patientByIdentifier(system: {literal}, value: {literal}) {{ id }} }}");
        assert_eq!(server.data(&token, &inline, Value::Null).await, json!({ "patientByIdentifier": null }));
        for root in ["node", "patient", "encounter", "note"] {
            let reply = server
                .reply(&token, &format!("query ($id: ID!) {{ {root}(id: $id) {{ id }} }}"), json!({ "id": poison }))
                .await;
            assert_eq!(reply.outcome(), (200, "INVALID_INPUT".into()), "{root} {poison}");
            plain(&reply, poison);
        }
        for list in ["encounters", "notes"] {
            let query = format!(
                "query ($v: String!, $c: String) {{ patientByIdentifier(system: \"{SYSTEM}\", value: $v) {{ {list}(after: $c) {{ edges {{ cursor }} }} }} }}"
            );
            let reply = server.reply(&token, &query, json!({ "v": "wellzq-mrn-0", "c": poison })).await;
            assert_eq!(reply.outcome(), (200, "INVALID_INPUT".into()), "{list} {poison}");
            plain(&reply, poison);
        }
        let body = json!({ "query": "query A { viewer { id } }", "operationName": poison });
        assert_eq!(Reply::to(server.post(&token).json(&body)).await.outcome(), (400, "INVALID_INPUT".into()));
        let body = json!({ "query": "{ viewer { id } }", "variables": { poison: poison }, "extensions": { poison: poison }, poison: poison });
        assert_eq!(Reply::to(server.post(&token).json(&body)).await.status, 200);
        assert_eq!(
            Reply::to(server.post(&token).json(&json!({ "query": poison }))).await.outcome(),
            (400, "INVALID_INPUT".into()),
            "{poison}"
        );

        // Headers. What is written to the log is what came.
        let request = server.question(
            &token,
            &format!("{{ patientByIdentifier(system: \"{SYSTEM}\", value: \"wellzq-mrn-0\") {{ id }} }}"),
            Value::Null,
        );
        let agent = reqwest::header::HeaderValue::from_bytes(poison.as_bytes()).unwrap();
        let reply = Reply::to(request.header("user-agent", agent.clone())).await;
        assert_eq!(reply.status, 200, "{poison}");
        let row = "select user_agent, subject from SCHEMA.audit_log where request_id = $1::text::uuid";
        assert_eq!(column(site, &tenant, row, &reply.headers["x-request-id"]).await, poison);
        let hinted =
            Reply::to(server.question(&token, "{ viewer { id } }", Value::Null).header("x-tenant-id", agent.clone()))
                .await;
        assert!(
            matches!(hinted.outcome(), (403, code) if code == "TENANT_MISMATCH") || hinted.status == 400,
            "{hinted:?}"
        );
        let accepted = Reply::to(
            server
                .http
                .post(&server.url)
                .bearer_auth(&token)
                .header("accept", agent.clone())
                .json(&json!({ "query": "{ viewer { id } }" })),
        )
        .await;
        assert!([200, 406].contains(&accepted.status), "{accepted:?}");
        let typed = Reply::to(server.post(&token).header("content-type", agent.clone()).body("{}")).await;
        assert_eq!(typed.outcome(), (415, "INVALID_INPUT".into()));
        let hosted = server
            .question(&token, "{ viewer { id } }", Value::Null)
            .header("x-forwarded-for", agent)
            .header("x-request-id", "' or 1=1");
        assert_eq!(Reply::to(hosted).await.status, 200);
    }
    unharmed(site, &tenant, 1).await;
}

/// What a token says of a person goes into the binding, the staff id and the log.
#[tokio::test]
async fn poison_in_a_token_is_data_or_no_token() {
    let site = Site::shared().await;
    let server = Server::of(site);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        Charts { mark: "tokenzq", patients: 1, encounters: 0, notes: 0 }.import(site, &tenant).await;
        let token = |claims: Value| {
            let now = chrono::Utc::now().timestamp();
            let mut all = json!({ "iss": cordon::auth::dev::ISSUER, "aud": "cordon", "sub": "alice", "tenants": [tenant.id], "roles": ["clinician"], "iat": now, "exp": now + 600 });
            all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
            site.issuer
                .sign(
                    &json!({ "alg": "ES256", "typ": "at+jwt", "kid": site.issuer.key_id() }).to_string(),
                    &all.to_string(),
                )
                .unwrap()
        };
        let query = format!(
            "{{ viewer {{ name }} patientByIdentifier(system: \"{SYSTEM}\", value: \"tokenzq-mrn-0\") {{ id }} }}"
        );
        for poison in POISON {
            let reply = server
                .reply(&token(json!({ "sub": poison, "name": poison, "act": { "sub": poison } })), &query, Value::Null)
                .await;
            assert_eq!(reply.status, 200, "{poison}: {reply:?}");
            assert_eq!(reply.json()["data"]["viewer"]["name"], poison);
            assert!(reply.json()["data"]["patientByIdentifier"]["id"].is_string(), "{reply:?}");
            for name in ["subject", "name", "acting"] {
                let text = format!("select {name} from SCHEMA.audit_log where request_id = $1::text::uuid");
                assert_eq!(column(site, &tenant, &text, &reply.headers["x-request-id"]).await, poison, "{name}");
            }
            for claims in [
                json!({ "roles": [poison] }),
                json!({ "iss": poison }),
                json!({ "aud": poison }),
                json!({ "tenants": [poison] }),
                json!({ "exp": poison }),
            ] {
                let refused = server.reply(&token(claims), &query, Value::Null).await;
                assert_eq!(refused.outcome(), (401, "UNAUTHENTICATED".into()), "{poison}");
            }
        }
        for bad in ["a\u{0}b", "line\nline", "\u{7f}"] {
            for claims in [json!({ "sub": bad }), json!({ "name": bad }), json!({ "act": { "sub": bad } })] {
                assert_eq!(server.reply(&token(claims), &query, Value::Null).await.status, 401, "{bad:?}");
            }
        }
        unharmed(site, &tenant, 1).await;
    }
}

/// NUL and half characters, in every spelling: refused by what reads the request, so that PostgreSQL never sees them.
#[tokio::test]
async fn what_is_no_text_is_refused_at_the_door() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = Server::of(site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let query = "query ($v: String!) { patientByIdentifier(system: \\\"s\\\", value: $v) { id } }";
    let mut bodies = Vec::new();
    for bad in ["\\u0000", "a\\u0000", "\\ud800", "\\udfff", "\\ud800\\ud800"] {
        bodies.push(format!("{{\"query\":\"{query}\",\"variables\":{{\"v\":\"{bad}\"}}}}").into_bytes());
        bodies.push(format!("{{\"query\":\"{query}\",\"variables\":{{\"v\":\"x\",\"{bad}\":1}}}}").into_bytes());
        bodies.push(format!("{{\"query\":\"{{ viewer {{ id }} }}\",\"operationName\":\"{bad}\"}}").into_bytes());
        bodies.push(
            format!("{{\"query\":\"{{ patientByIdentifier(system: \\\"s\\\", value: \\\"\\{bad}\\\") {{ id }} }}\"}}")
                .into_bytes(),
        );
        bodies.push(format!("{{\"query\":\"{{ viewer {{ id }} }} # {bad}\"}}").into_bytes());
    }
    bodies.push(b"{\"query\":\"{ viewer { id } } # \xff\"}".to_vec());
    bodies.push(b"{\"query\":\"{ viewer { id } } # \0\"}".to_vec());
    bodies.push(b"{\"query\":\"{ viewer { id } } # \xed\xa0\x80\"}".to_vec());
    for body in bodies {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let reply = Reply::to(server.post(&token).header("content-type", "application/json").body(body)).await;
        assert_eq!(reply.outcome(), (400, "INVALID_INPUT".into()), "{shown}: {reply:?}");
    }
    assert!(!crate::server::Log::lines().contains("invalid byte sequence"), "PostgreSQL was sent what is no text");
}

/// An error says what is wrong, not what was sent.
fn plain(reply: &Reply, poison: &str) {
    assert!(!reply.body.contains(poison), "{reply:?}");
}

/// One text of one row.
async fn column(site: &Site, tenant: &Tenant, text: &str, request: &str) -> String {
    let placement = tenant.placement.as_ref().unwrap();
    let text = text.replace("SCHEMA", placement.schema.as_str());
    site.superuser(&placement.database).await.query_one(&text, &[&request]).await.unwrap().get(0)
}

/// All tables are there, with the patients that belong there.
async fn unharmed(site: &Site, tenant: &Tenant, patients: u64) {
    let placement = tenant.placement.as_ref().unwrap();
    let session = site.superuser(&placement.database).await;
    let text = format!("select count(*) from {}.patients where tenant_id = $1::text::uuid", placement.schema);
    assert_eq!(
        session.query_one(&text, &[&tenant.id.to_string()]).await.unwrap().get::<_, i64>(0),
        i64::try_from(patients).unwrap()
    );
    let tables = "select count(*) from pg_tables where schemaname = $1 and tablename in ('patients', 'encounters', 'clinical_notes', 'note_versions', 'audit_log')";
    assert_eq!(session.query_one(tables, &[&placement.schema.as_str()]).await.unwrap().get::<_, i64>(0), 5);
}
