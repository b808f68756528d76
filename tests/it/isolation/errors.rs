//! Error text of PostgreSQL is not disclosed: a test causes errors of every class, with a marker word in the names and
//! values that PostgreSQL quotes. The client gets an error code only. The test has a cluster of its own.

use crate::support::fhir_charts::FhirCharts;
use crate::support::log::Log;
use crate::support::options;
use crate::support::server::{Response, TestServer};
use crate::support::site::Site;
use cordon::cluster::Cluster;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::json;

const MARKER: &str = "plantedzq";
const CHART: &str = "{ patientByIdentifier(system: \"http://hospital.test/mrn\", value: \"innerzq-mrn-0\") { id name { \
    text } notes { nodes { title body } } } }";
/// Words of PostgreSQL and of the schema that no response may contain.
const INTERNAL_WORDS: [&str; 14] = [
    MARKER,
    "relation",
    "column",
    "constraint",
    "duplicate key",
    "statement",
    "sql",
    "postgres",
    "patients_",
    "clinical_notes",
    "audit_log",
    "permission",
    "diesel",
    "innerzq",
];

#[tokio::test]
async fn l24_responses_contain_no_database_error_text() {
    let cluster = Cluster::start(&options("errors")).unwrap();
    let site = Site::create(&cluster, "errors-site").await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    FhirCharts { mark: "innerzq", patients: 1, encounters: 1, notes: 1 }.import(&site, &tenant).await;
    let mut settings = site.server_settings();
    settings.database.statement_timeout_ms = 1_000;
    settings.database.lock_timeout_ms = 300;
    let server = TestServer::start(&site, settings, cordon::isolation::BootCheck::Off);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let before = server.send_query(&token, CHART, json!({})).await;
    assert!(before.status == 200 && before.contains("innerzq"), "{before:?}");

    let audit = "create function SCHEMA.planted() returns trigger language plpgsql as $$ begin RAISE end $$;
        create trigger plantedzq_trigger before insert on SCHEMA.audit_log for each row execute function \
        SCHEMA.planted();";
    let raise = |statement: &str| audit.replace("RAISE", statement);
    let drop_audit = "drop trigger plantedzq_trigger on SCHEMA.audit_log; drop function SCHEMA.planted();".to_owned();
    let rename = |table: &str| {
        (
            format!("alter table SCHEMA.{table} rename to {table}_plantedzq;"),
            format!("alter table SCHEMA.{table}_plantedzq rename to {table};"),
        )
    };
    let (lost_patients, patients_back) = rename("patients");
    let (lost_notes, notes_back) = rename("clinical_notes");
    let cases = [
        ("undefined table", lost_patients, patients_back, 500),
        ("undefined table below", lost_notes, notes_back, 500),
        (
            "undefined column",
            "alter table SCHEMA.patients rename column sex to plantedzq".into(),
            "alter table SCHEMA.patients rename column plantedzq to sex".into(),
            500,
        ),
        (
            "constraint",
            "alter table SCHEMA.audit_log add constraint plantedzq check (action <> 'patient.read') not valid".into(),
            "alter table SCHEMA.audit_log drop constraint plantedzq".into(),
            500,
        ),
        (
            "unique",
            raise(
                "raise unique_violation using message = 'duplicate key plantedzq', constraint = 'plantedzq', detail = \
                 'plantedzq';",
            ),
            drop_audit.clone(),
            409,
        ),
        (
            "foreign key",
            raise("raise foreign_key_violation using message = 'plantedzq', detail = 'plantedzq';"),
            drop_audit.clone(),
            500,
        ),
        ("division", raise("perform 1 / (length('plantedzq') - 9);"), drop_audit.clone(), 500),
        ("data", raise("perform 'plantedzq'::int;"), drop_audit.clone(), 500),
        ("raised", raise("raise 'plantedzq' using hint = 'plantedzq', detail = 'plantedzq';"), drop_audit.clone(), 500),
        ("timeout", raise("perform pg_sleep(3);"), drop_audit.clone(), 504),
        ("memory", raise("raise out_of_memory using message = 'plantedzq';"), drop_audit.clone(), 500),
        (
            "privilege",
            "revoke select on SCHEMA.patients from cordon_app".into(),
            "grant select on SCHEMA.patients to cordon_app".into(),
            500,
        ),
        (
            "policy",
            "revoke execute on function cordon.current_tenant() from cordon_app".into(),
            "grant execute on function cordon.current_tenant() to cordon_app".into(),
            500,
        ),
    ];
    for (what, fault, repair, status) in cases {
        sql(&site, &tenant, &fault).await;
        let response = server.send_query(&token, CHART, json!({})).await;
        sql(&site, &tenant, &repair).await;
        assert_no_internal_words(what, &response);
        assert_eq!(response.status, status, "{what}: {response:?}");
        assert!(response.json().get("data").is_none(), "{what}: {response:?}");
    }
    // A lock that is not released.
    let holder = site.superuser("cordon_data").await;
    let schema = tenant.placement.as_ref().unwrap().schema.to_string();
    holder.batch_execute(&format!("begin; lock table {schema}.patients in access exclusive mode")).await.unwrap();
    let response = server.send_query(&token, CHART, json!({})).await;
    holder.batch_execute("rollback").await.unwrap();
    assert_no_internal_words("lock", &response);
    assert_eq!(response.status_and_code(), (504, "TIMEOUT".into()));
    // A sealed value that was changed is an integrity error of that field.
    sql(
        &site,
        &tenant,
        "set session_replication_role = replica; alter table SCHEMA.note_versions disable trigger all;
        update SCHEMA.note_versions set body_sealed = overlay(body_sealed placing '\\x00' from 30)",
    )
    .await;
    let response = server.send_query(&token, CHART, json!({})).await;
    assert!(response.code() == "INTERNAL" && !response.contains("innerzqbody"), "{response:?}");
    assert!(Log::text().contains(MARKER), "the log contains the error text");
    // The server still answers afterwards.
    let response = server
        .send_query(
            &token,
            "{ patientByIdentifier(system: \"http://hospital.test/mrn\", value: \"innerzq-mrn-0\") { name { text } } }",
            json!({}),
        )
        .await;
    assert!(response.status == 200 && response.contains("innerzqgiven"), "{response:?}");
}

fn assert_no_internal_words(what: &str, response: &Response) {
    for word in INTERNAL_WORDS {
        assert!(!response.contains(word), "{what}: {word} in {response:?}");
    }
    assert!(response.headers["x-request-id"].len() == 36, "{what}: the response has a request id");
}

async fn sql(site: &Site, tenant: &Tenant, text: &str) {
    let schema = tenant.placement.as_ref().unwrap().schema.to_string();
    site.superuser("cordon_data")
        .await
        .batch_execute(&text.replace("SCHEMA", &schema))
        .await
        .unwrap_or_else(|error| panic!("{text}: {error:?}"));
}
