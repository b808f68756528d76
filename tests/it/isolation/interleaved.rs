//! Concurrent requests of two tenants whose records have the same ids: loaders and their caches belong to one request.

use crate::support::fhir_charts::FhirCharts;
use crate::support::server::TestServer;
use crate::support::site::Site;
use cordon::isolation::BootCheck;
use cordon::tenant::{TenancyModel, Tenant};
use futures_util::StreamExt;
use serde_json::json;

#[tokio::test]
async fn l19_loaders_are_per_request() {
    let site = Site::shared().await;
    // The boot check is off because the changes to the neighbour's tables below would count as a wall that is down.
    let server = TestServer::start(site, site.server_settings(), BootCheck::Off);
    let (a, b) = (site.tenant(TenancyModel::Schema).await, site.tenant(TenancyModel::Schema).await);
    FhirCharts { mark: "twinowner", patients: 1, encounters: 1, notes: 1 }.import(site, &a).await;
    FhirCharts { mark: "twinneighbour", patients: 1, encounters: 1, notes: 1 }.import(site, &b).await;
    let (token_a, token_b) = (site.token(&[a.id], "clinician", "alice"), site.token(&[b.id], "clinician", "alice"));
    let by_number =
        "query ($value: String!) { patientByIdentifier(system: \"http://hospital.test/mrn\", value: $value) { id } }";
    let data = server.data(&token_a, by_number, json!({ "value": "twinowner-mrn-0" })).await;
    let patient = data["patientByIdentifier"]["id"].as_str().unwrap().to_owned();
    let chart = "query ($id: ID!) { patient(id: $id) { id sex encounters { nodes { id class } } notes { nodes { id \
        author { name } } } } }";
    let expected_a = server.data(&token_a, chart, json!({ "id": patient })).await;
    assert!(expected_a.to_string().contains("twinownerdoc"));
    give_same_ids(site, &a, &b).await;
    let expected_b = server.data(&token_b, chart, json!({ "id": patient })).await;
    assert!(
        expected_b["patient"]["id"] == patient.as_str()
            && expected_b["patient"]["sex"] == "MALE"
            && !expected_b.to_string().contains("twinowner"),
        "{expected_b}"
    );

    let mut answers = futures_util::stream::iter(0..1000)
        .map(async |n| {
            let token = if n % 2 == 0 { &token_a } else { &token_b };
            (n, server.data(token, chart, json!({ "id": patient })).await)
        })
        .buffer_unordered(16);
    while let Some((n, answer)) = answers.next().await {
        assert_eq!(answer, if n % 2 == 0 { expected_a.clone() } else { expected_b.clone() }, "request {n}");
    }
}

/// Gives the patient of `b` the id of the patient of `a`. Only a superuser can do it, with triggers off. The sealed
/// columns of `b` no longer open afterwards.
async fn give_same_ids(site: &Site, a: &Tenant, b: &Tenant) {
    let schema = |tenant: &Tenant| tenant.placement.as_ref().unwrap().schema.to_string();
    let (a, b) = (schema(a), schema(b));
    let text = format!(
        "set session_replication_role = replica;
         update {b}.patients set sex = 'MALE', id = (select id from {a}.patients);
         update {b}.patient_identifiers set patient_id = (select id from {a}.patients);
         update {b}.encounters set patient_id = (select id from {a}.patients);
         update {b}.clinical_notes set patient_id = (select id from {a}.patients)"
    );
    let session = site.superuser("cordon_data").await;
    // Triggers marked ALWAYS fire in replica mode too and would refuse the changes, so they are disabled meanwhile.
    let switch = |word: &str| -> String {
        ["patients", "patient_identifiers", "encounters", "clinical_notes"]
            .map(|table| format!("alter table {b}.{table} {word} trigger all;"))
            .concat()
    };
    let all = format!("begin; {} {text}; {} commit", switch("disable"), switch("enable"));
    session.batch_execute(&all).await.unwrap();
}
