//! What the database says stays inside: errors of every class are provoked in a cluster of the test's own, with a planted word in the
//! names and values PostgreSQL would quote. The client gets a class and nothing else.

use crate::charts::Charts;
use crate::options;
use crate::server::{Log, Reply, Server};
use crate::site::Site;
use cordon::cluster::Cluster;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::json;

const PLANTED: &str = "plantedzq";
const CHART: &str = "{ patientByIdentifier(system: \"http://hospital.test/mrn\", value: \"innerzq-mrn-0\") { id name { text } notes { nodes { title body } } } }";
/// Words of PostgreSQL and of the schema that no answer may hold.
const INSIDE: [&str; 14] = [
    PLANTED,
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
async fn l24_error_text_stays_inside() {
    let cluster = Cluster::start(&options("errors")).unwrap();
    let site = Site::make(&cluster, "errors-site").await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    Charts { mark: "innerzq", patients: 1, encounters: 1, notes: 1 }.import(&site, &tenant).await;
    let mut settings = site.server_settings();
    settings.database.statement_timeout_ms = 1_000;
    settings.database.lock_timeout_ms = 300;
    let server = Server::start(&site, settings, cordon::isolation::BootCheck::Off);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let fine = server.reply(&token, CHART, json!({})).await;
    assert!(fine.status == 200 && fine.says("innerzq"), "{fine:?}");

    let audit = "create function SCHEMA.planted() returns trigger language plpgsql as $$ begin RAISE end $$;
        create trigger plantedzq_trigger before insert on SCHEMA.audit_log for each row execute function SCHEMA.planted();";
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
                "raise unique_violation using message = 'duplicate key plantedzq', constraint = 'plantedzq', detail = 'plantedzq';",
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
    for (what, breaks, mends, status) in cases {
        sql(&site, &tenant, &breaks).await;
        let reply = server.reply(&token, CHART, json!({})).await;
        sql(&site, &tenant, &mends).await;
        inside(what, &reply);
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        assert!(reply.json().get("data").is_none(), "{what}: {reply:?}");
    }
    // A lock that is not let go of.
    let holder = site.superuser("cordon_data").await;
    let schema = tenant.placement.as_ref().unwrap().schema.to_string();
    holder.batch_execute(&format!("begin; lock table {schema}.patients in access exclusive mode")).await.unwrap();
    let reply = server.reply(&token, CHART, json!({})).await;
    holder.batch_execute("rollback").await.unwrap();
    inside("lock", &reply);
    assert_eq!(reply.outcome(), (504, "TIMEOUT".into()));
    // What was sealed is changed: an integrity error of that field, and no guess at the text.
    sql(
        &site,
        &tenant,
        "set session_replication_role = replica; alter table SCHEMA.note_versions disable trigger all;
        update SCHEMA.note_versions set body_sealed = overlay(body_sealed placing '\\x00' from 30)",
    )
    .await;
    let reply = server.reply(&token, CHART, json!({})).await;
    assert!(reply.code() == "INTERNAL" && !reply.says("innerzqbody"), "{reply:?}");
    assert!(Log::lines().contains(PLANTED), "the log has what the client has not");
    // And after all of it the server answers as before.
    let reply = server
        .reply(
            &token,
            "{ patientByIdentifier(system: \"http://hospital.test/mrn\", value: \"innerzq-mrn-0\") { name { text } } }",
            json!({}),
        )
        .await;
    assert!(reply.status == 200 && reply.says("innerzqgiven"), "{reply:?}");
}

fn inside(what: &str, reply: &Reply) {
    for word in INSIDE {
        assert!(!reply.says(word), "{what}: {word} in {reply:?}");
    }
    assert!(reply.headers["x-request-id"].len() == 36, "{what}: the log is found by the request's id");
}

async fn sql(site: &Site, tenant: &Tenant, text: &str) {
    let schema = tenant.placement.as_ref().unwrap().schema.to_string();
    site.superuser("cordon_data")
        .await
        .batch_execute(&text.replace("SCHEMA", &schema))
        .await
        .unwrap_or_else(|error| panic!("{text}: {error:?}"));
}
