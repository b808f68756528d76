//! Injection: texts that end strings, statements or lines in other languages are sent in every field of requests,
//! tokens and FHIR files. They are stored as data or rejected with an error code. Invalid text never reaches
//! PostgreSQL.

use crate::support::fhir_charts::{FhirCharts, SYSTEM, document, import};
use crate::support::server::{Response, TestServer};
use crate::support::site::{MODELS, Site};
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};

/// Quotes, backslashes, statement ends, dollar quotes, comments, line separators, direction marks, format strings and
/// template tags.
const PAYLOADS: [&str; 12] = [
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

/// The chart returns exactly what was imported, in every field and every tenancy model.
#[tokio::test]
async fn payloads_in_fhir_are_data() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        let token = site.token(&[tenant.id], "clinician", "alice");
        let lines: String = PAYLOADS.iter().enumerate().map(|(n, payload)| resources_with(n, payload)).collect();
        let report = import(site, &tenant, &lines).await;
        let all = PAYLOADS.len() as u64;
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
        for payload in PAYLOADS {
            let query = "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: \
                $value) {
                identifiers { system value } name { family given text }
                encounters { nodes { reason class } } notes { nodes { title body type { code display } author { name } \
                } } } }";
            let data =
                server.data(&token, query, json!({ "system": format!("urn:x:{payload}"), "value": payload })).await;
            let patient = &data["patientByIdentifier"];
            assert_eq!(patient["identifiers"], json!([{ "system": format!("urn:x:{payload}"), "value": payload }]));
            assert_eq!(
                (&patient["name"]["family"], &patient["name"]["given"]),
                (&json!(payload), &json!([payload])),
                "{model}"
            );
            assert_eq!(patient["encounters"]["nodes"][0]["reason"], payload);
            let note = &patient["notes"]["nodes"][0];
            assert_eq!(
                (&note["title"], &note["body"], &note["author"]["name"]),
                (&json!(payload), &json!(payload), &json!(payload)),
                "{model}"
            );
            // The display of a known type code comes from the built-in table, not from the sender. An invalid code is
            // never returned.
            assert!(note["type"]["code"].as_str().is_some_and(|code| !code.contains(['\'', '\\', '$'])), "{note}");
        }
        assert_intact(site, &tenant, all).await;
    }
}

/// Returns a patient, encounter, author and note with the payload in every text.
fn resources_with(n: usize, payload: &str) -> String {
    let coded = json!({ "coding": [{ "system": format!("http://loinc.org{payload}"), "code": payload,
        "display": payload, "version": payload }], "text": payload });
    let mut note = document(n, Some(&format!("e{n}")), &format!("n{n}"), "2020-01-01T00:00:00Z", "");
    note["content"] = json!([{ "attachment": { "contentType": "text/plain", "title": payload,
        "data": crate::support::fhir_charts::base64(payload.as_bytes()), "url": payload } }]);
    note["type"] = coded.clone();
    note["author"] = json!([{ "reference": format!("Practitioner/d{n}"), "display": payload }]);
    note["description"] = payload.into();
    note["masterIdentifier"] = json!({ "system": payload, "value": payload });
    note["docStatus"] = payload.into();
    note["status"] = payload.into();
    let resources = [
        json!({ "resourceType": "Practitioner", "id": format!("d{n}"), "name": [{ "text": payload }],
            "identifier": [{ "system": payload, "value": payload }] }),
        json!({ "resourceType": "Patient", "id": format!("p{n}"), "gender": payload, "name": [{ "family": payload,
            "given": [payload] }],
            "identifier": [{ "system": format!("urn:x:{payload}"), "value": payload, "type": coded.clone() }],
            "telecom": [{ "system": payload, "value": payload }], "address": [{ "text": payload, "line": [payload] }],
                "meta": { "source": payload } }),
        json!({ "resourceType": "Encounter", "id": format!("e{n}"), "status": payload, "class": { "code": payload },
            "type": [coded],
            "subject": { "reference": format!("Patient/p{n}") }, "reasonCode": [{ "text": payload }],
                "serviceProvider": { "display": payload } }),
        note,
    ];
    resources.iter().map(|resource| format!("{resource}\n")).collect()
}

/// Ids with payloads, NUL characters and unpaired surrogates are rejected.
#[tokio::test]
async fn the_importer_rejects_invalid_text() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let patient = |text: &str| {
        format!(
            "{{\"resourceType\":\"Patient\",\"id\":\"x\",\"name\":[{{\"family\":\"{text}\"}}],\
            \"identifier\":[{{\"system\":\"s\",\"value\":\"{text}\"}}]}}\n"
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
    note["content"][0]["attachment"]["data"] = crate::support::fhir_charts::base64(b"before\0after").into();
    let chart = FhirCharts { mark: "nulzq", patients: 1, encounters: 0, notes: 0 };
    let report = import(site, &tenant, &format!("{}{note}\n", chart.ndjson())).await;
    assert_eq!((report.patients.new, report.notes.new, report.notes.rejected), (1, 1, 1), "{report:?}");
    assert_intact(site, &tenant, 1).await;
}

#[tokio::test]
async fn payloads_in_requests_are_data_or_an_error() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let tenant = site.tenant(TenancyModel::Schema).await;
    FhirCharts { mark: "wellzq", patients: 1, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    for payload in PAYLOADS {
        let literal = Value::from(payload).to_string();
        // Arguments as variables and as literals, names of operations and variables, and unknown members.
        let by_number = "query ($s: String!, $v: String!) { patientByIdentifier(system: $s, value: $v) { id } }";
        for (system, value) in [(payload, "x"), (SYSTEM, payload)] {
            assert_eq!(
                server.data(&token, by_number, json!({ "s": system, "v": value })).await,
                json!({ "patientByIdentifier": null })
            );
        }
        let inline = format!("{{ patientByIdentifier(system: {literal}, value: {literal}) {{ id }} }}");
        assert_eq!(server.data(&token, &inline, Value::Null).await, json!({ "patientByIdentifier": null }));
        for root in ["node", "patient", "encounter", "note"] {
            let response = server
                .send_query(
                    &token,
                    &format!("query ($id: ID!) {{ {root}(id: $id) {{ id }} }}"),
                    json!({ "id": payload }),
                )
                .await;
            assert_eq!(response.status_and_code(), (200, "INVALID_INPUT".into()), "{root} {payload}");
            assert_not_repeated(&response, payload);
        }
        for list in ["encounters", "notes"] {
            let query = format!(
                "query ($v: String!, $c: String) {{ patientByIdentifier(system: \"{SYSTEM}\", value: $v) {{ \
                 {list}(after: $c) {{ edges {{ cursor }} }} }} }}"
            );
            let response = server.send_query(&token, &query, json!({ "v": "wellzq-mrn-0", "c": payload })).await;
            assert_eq!(response.status_and_code(), (200, "INVALID_INPUT".into()), "{list} {payload}");
            assert_not_repeated(&response, payload);
        }
        let body = json!({ "query": "query A { viewer { id } }", "operationName": payload });
        assert_eq!(
            Response::of(server.post(&token).json(&body)).await.status_and_code(),
            (400, "INVALID_INPUT".into())
        );
        let body = json!({ "query": "{ viewer { id } }", "variables": { payload: payload },
            "extensions": { payload: payload }, payload: payload });
        assert_eq!(Response::of(server.post(&token).json(&body)).await.status, 200);
        assert_eq!(
            Response::of(server.post(&token).json(&json!({ "query": payload }))).await.status_and_code(),
            (400, "INVALID_INPUT".into()),
            "{payload}"
        );

        // Headers. The audit log contains the user agent as it was sent.
        let request = server.query_request(
            &token,
            &format!("{{ patientByIdentifier(system: \"{SYSTEM}\", value: \"wellzq-mrn-0\") {{ id }} }}"),
            Value::Null,
        );
        let agent = reqwest::header::HeaderValue::from_bytes(payload.as_bytes()).unwrap();
        let response = Response::of(request.header("user-agent", agent.clone())).await;
        assert_eq!(response.status, 200, "{payload}");
        let row = "select user_agent, subject from SCHEMA.audit_log where request_id = $1::text::uuid";
        assert_eq!(query_text(site, &tenant, row, &response.headers["x-request-id"]).await, payload);
        let hinted = Response::of(
            server.query_request(&token, "{ viewer { id } }", Value::Null).header("x-tenant-id", agent.clone()),
        )
        .await;
        assert!(
            matches!(hinted.status_and_code(), (403, code) if code == "TENANT_MISMATCH") || hinted.status == 400,
            "{hinted:?}"
        );
        let accepted = Response::of(
            server
                .http
                .post(&server.url)
                .bearer_auth(&token)
                .header("accept", agent.clone())
                .json(&json!({ "query": "{ viewer { id } }" })),
        )
        .await;
        assert!([200, 406].contains(&accepted.status), "{accepted:?}");
        let typed = Response::of(server.post(&token).header("content-type", agent.clone()).body("{}")).await;
        assert_eq!(typed.status_and_code(), (415, "INVALID_INPUT".into()));
        let hosted = server
            .query_request(&token, "{ viewer { id } }", Value::Null)
            .header("x-forwarded-for", agent)
            .header("x-request-id", "' or 1=1");
        assert_eq!(Response::of(hosted).await.status, 200);
    }
    assert_intact(site, &tenant, 1).await;
}

/// The claims about a person are used in the binding, the staff id and the audit log.
#[tokio::test]
async fn payloads_in_tokens_are_data_or_rejected() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        FhirCharts { mark: "tokenzq", patients: 1, encounters: 0, notes: 0 }.import(site, &tenant).await;
        let token = |claims: Value| {
            let now = chrono::Utc::now().timestamp();
            let mut all = json!({ "iss": cordon::auth::dev::ISSUER, "aud": "cordon", "sub": "alice",
                "tenants": [tenant.id], "roles": ["clinician"], "iat": now, "exp": now + 600 });
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
        for payload in PAYLOADS {
            let response = server
                .send_query(
                    &token(json!({ "sub": payload, "name": payload, "act": { "sub": payload } })),
                    &query,
                    Value::Null,
                )
                .await;
            assert_eq!(response.status, 200, "{payload}: {response:?}");
            assert_eq!(response.json()["data"]["viewer"]["name"], payload);
            assert!(response.json()["data"]["patientByIdentifier"]["id"].is_string(), "{response:?}");
            for name in ["subject", "name", "acting"] {
                let text = format!("select {name} from SCHEMA.audit_log where request_id = $1::text::uuid");
                assert_eq!(
                    query_text(site, &tenant, &text, &response.headers["x-request-id"]).await,
                    payload,
                    "{name}"
                );
            }
            for claims in [
                json!({ "roles": [payload] }),
                json!({ "iss": payload }),
                json!({ "aud": payload }),
                json!({ "tenants": [payload] }),
                json!({ "exp": payload }),
            ] {
                let refused = server.send_query(&token(claims), &query, Value::Null).await;
                assert_eq!(refused.status_and_code(), (401, "UNAUTHENTICATED".into()), "{payload}");
            }
        }
        for bad in ["a\u{0}b", "line\nline", "\u{7f}"] {
            for claims in [json!({ "sub": bad }), json!({ "name": bad }), json!({ "act": { "sub": bad } })] {
                assert_eq!(server.send_query(&token(claims), &query, Value::Null).await.status, 401, "{bad:?}");
            }
        }
        assert_intact(site, &tenant, 1).await;
    }
}

/// NUL characters and unpaired surrogates, in every notation, are rejected when the request is parsed, and never reach
/// PostgreSQL.
#[tokio::test]
async fn the_http_layer_rejects_invalid_text() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = TestServer::of(site);
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
        let text = String::from_utf8_lossy(&body).into_owned();
        let response = Response::of(server.post(&token).header("content-type", "application/json").body(body)).await;
        assert_eq!(response.status_and_code(), (400, "INVALID_INPUT".into()), "{text}: {response:?}");
    }
    assert!(!crate::support::log::Log::text().contains("invalid byte sequence"), "PostgreSQL received invalid text");
}

/// Checks that the error does not repeat what was sent.
fn assert_not_repeated(response: &Response, payload: &str) {
    assert!(!response.body.contains(payload), "{response:?}");
}

/// Runs a query that returns one text. `SCHEMA` is the schema of the tenant.
async fn query_text(site: &Site, tenant: &Tenant, text: &str, request: &str) -> String {
    let placement = tenant.placement.as_ref().unwrap();
    let text = text.replace("SCHEMA", placement.schema.as_str());
    site.superuser(&placement.database).await.query_one(&text, &[&request]).await.unwrap().get(0)
}

/// Checks that the tables exist and that the tenant has this number of patients.
async fn assert_intact(site: &Site, tenant: &Tenant, patients: u64) {
    let placement = tenant.placement.as_ref().unwrap();
    let session = site.superuser(&placement.database).await;
    let text = format!("select count(*) from {}.patients where tenant_id = $1::text::uuid", placement.schema);
    assert_eq!(
        session.query_one(&text, &[&tenant.id.to_string()]).await.unwrap().get::<_, i64>(0),
        i64::try_from(patients).unwrap()
    );
    let tables = "select count(*) from pg_tables where schemaname = $1 and tablename in ('patients', 'encounters', \
        'clinical_notes', 'note_versions', 'audit_log')";
    assert_eq!(session.query_one(tables, &[&placement.schema.as_str()]).await.unwrap().get::<_, i64>(0), 5);
}
