//! Audit of reads over HTTP: every read leaves rows in the audit log, and a read whose rows cannot be written is not
//! answered.

use crate::support::fhir_charts::{FhirCharts, SYSTEM};
use crate::support::log::Log;
use crate::support::server::{Response, TestServer};
use crate::support::site::{MODELS, Site};
use cordon::isolation::BootCheck;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};

const ME: &str = "{ viewer { id } }";

/// Creates a tenant with one patient, and the token of a clinician.
async fn tenant_with_chart(site: &Site, model: TenancyModel, mark: &str) -> (Tenant, String) {
    let tenant = site.tenant(model).await;
    FhirCharts { mark, patients: 1, encounters: 2, notes: 2 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, token)
}

fn by_number(mark: &str) -> String {
    format!("{{ patientByIdentifier(system: \"{SYSTEM}\", value: \"{mark}-mrn-0\") {{ id name {{ text }} }} }}")
}

/// One row for each operation, patient and type of record. It names caller, time, address, user agent, records and
/// fields.
#[tokio::test]
async fn every_read_is_in_the_audit_log() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    for model in MODELS {
        let (tenant, token) = tenant_with_chart(site, model, "auditzq").await;
        let query =
            "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) { \
            id name { text }
            encounters { nodes { id reason notes { nodes { id body } } } } notes { nodes { id title } } } }";
        let variables = json!({ "system": SYSTEM, "value": "auditzq-mrn-0" });
        let response =
            Response::of(server.query_request(&token, query, variables).header("user-agent", "Chart/1.0 'quoted'"))
                .await;
        let patient = &response.json()["data"]["patientByIdentifier"];
        let uuids = |list: &Value| -> Vec<String> {
            list.as_array().unwrap().iter().map(|node| uuid_of(&node["id"])).collect()
        };
        let mut notes = uuids(&patient["notes"]["nodes"]);
        notes.sort();
        assert_eq!(notes.len(), 5);
        let mut encounters = uuids(&patient["encounters"]["nodes"]);
        encounters.sort();
        let rows = audit_rows(site, &tenant, &response).await;
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

        // Reads of absent records and denied reads have rows too. The field `viewer` reads no record and has none.
        for (root, kind) in [("patient", 'p'), ("encounter", 'e'), ("note", 'n'), ("node", 'n')] {
            let absent = server
                .send_query(&token, &format!("{{ {root}(id: \"{}\") {{ id }} }}", unknown_id(kind)), Value::Null)
                .await;
            let rows = audit_rows(site, &tenant, &absent).await;
            let named = rows.first().and_then(|row| row["resource_ids"].as_array()).map_or(0, Vec::len);
            assert!(rows.len() == 1 && rows[0]["outcome"] == "not_found" && named == 1, "{root}: {rows:?}");
        }
        let partner = site.token(&[tenant.id], "partner", "machine");
        let denied = server.send_query(&partner, &by_number("auditzq"), Value::Null).await;
        assert_eq!(denied.status_and_code(), (200, "FORBIDDEN".into()));
        let rows = audit_rows(site, &tenant, &denied).await;
        assert!(
            rows.len() == 1 && rows[0]["outcome"] == "denied" && rows[0]["action"] == "patientByIdentifier",
            "{rows:?}"
        );
        assert_eq!(rows[0]["subject"], "machine");
        let me = server.send_query(&token, ME, Value::Null).await;
        assert!(audit_rows(site, &tenant, &me).await.is_empty());

        // No row of the audit log and no line of the server's log contains text of the chart or a token.
        let log = Log::text();
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

/// Without its audit rows, no data of a chart leaves the server.
#[tokio::test]
async fn a_read_that_cannot_be_audited_returns_no_data() {
    let site = Site::shared().await;
    // The boot check is off because the additional trigger would count as a wall that is down.
    let server = TestServer::start(site, site.server_settings(), BootCheck::Off);
    let (tenant, token) = tenant_with_chart(site, TenancyModel::Schema, "failzq").await;
    let schema = tenant.placement.as_ref().unwrap().schema.to_string();
    let session = site.superuser("cordon_data").await;
    session
        .batch_execute(&format!(
            "create function {schema}.fail() returns trigger language plpgsql as $$ begin raise 'no room for failzq'; \
             end $$;
             create constraint trigger fail after insert on {schema}.audit_log deferrable initially deferred for each \
             row execute function {schema}.fail()"
        ))
        .await
        .unwrap();
    let response = server.send_query(&token, &by_number("failzq"), Value::Null).await;
    assert_eq!(response.status_and_code(), (500, "INTERNAL".into()));
    assert!(response.json().get("data").is_none() && !response.contains("failzq"), "{response:?}");
    session
        .batch_execute(&format!("drop trigger fail on {schema}.audit_log; drop function {schema}.fail()"))
        .await
        .unwrap();
    let response = server.send_query(&token, &by_number("failzq"), Value::Null).await;
    assert!(response.status == 200 && response.contains("failzqfamily"), "{response:?}");
}

fn unknown_id(kind: char) -> String {
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

/// Returns the audit rows of one request, by the request id in its response.
async fn audit_rows(site: &Site, tenant: &Tenant, response: &Response) -> Vec<Value> {
    let placement = tenant.placement.as_ref().unwrap();
    let text = format!(
        "select (to_jsonb(a) - 'detail_sealed')::text from {}.audit_log a where tenant_id = $1::text::uuid and \
         request_id = $2::text::uuid",
        placement.schema
    );
    let session = site.superuser(&placement.database).await;
    let rows = session.query(&text, &[&tenant.id.to_string(), &response.headers["x-request-id"]]).await.unwrap();
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
