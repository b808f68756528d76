//! Two tenants at once on one server, whose ids are the same: what is loaded for one request is for that request.

use crate::charts::Charts;
use crate::server::Server;
use crate::site::Site;
use cordon::isolation::BootCheck;
use cordon::tenant::{TenancyModel, Tenant};
use futures_util::StreamExt;
use serde_json::json;

#[tokio::test]
async fn l19_loaders_are_per_request() {
    let site = Site::shared().await;
    // What is done below to the neighbour's tables would be refused as a wall that is down.
    let server = Server::start(site, site.server_settings(), BootCheck::Off);
    let (a, b) = (site.tenant(TenancyModel::Schema).await, site.tenant(TenancyModel::Schema).await);
    Charts { mark: "twinvor", patients: 1, encounters: 1, notes: 1 }.import(site, &a).await;
    Charts { mark: "twinhin", patients: 1, encounters: 1, notes: 1 }.import(site, &b).await;
    let (token_a, token_b) = (site.token(&[a.id], "clinician", "alice"), site.token(&[b.id], "clinician", "alice"));
    let by_number =
        "query ($value: String!) { patientByIdentifier(system: \"http://hospital.test/mrn\", value: $value) { id } }";
    let data = server.data(&token_a, by_number, json!({ "value": "twinvor-mrn-0" })).await;
    let patient = data["patientByIdentifier"]["id"].as_str().unwrap().to_owned();
    let chart = "query ($id: ID!) { patient(id: $id) { id sex encounters { nodes { id class } } notes { nodes { id author { name } } } } }";
    let alone = server.data(&token_a, chart, json!({ "id": patient })).await;
    assert!(alone.to_string().contains("twinvordoc"));
    same_ids(site, &a, &b).await;
    let twin = server.data(&token_b, chart, json!({ "id": patient })).await;
    assert!(
        twin["patient"]["id"] == patient.as_str()
            && twin["patient"]["sex"] == "MALE"
            && !twin.to_string().contains("twinvor"),
        "{twin}"
    );

    let mut answers = futures_util::stream::iter(0..1000)
        .map(async |n| {
            let token = if n % 2 == 0 { &token_a } else { &token_b };
            (n, server.data(token, chart, json!({ "id": patient })).await)
        })
        .buffer_unordered(16);
    while let Some((n, answer)) = answers.next().await {
        assert_eq!(answer, if n % 2 == 0 { alone.clone() } else { twin.clone() }, "request {n}");
    }
}

/// Gives the one patient of `b` the id that the one of `a` has. Only a superuser with triggers off can; what is sealed no longer opens.
async fn same_ids(site: &Site, a: &Tenant, b: &Tenant) {
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
    // Triggers marked ALWAYS fire even so, and refuse: they are out of the way meanwhile.
    let switch = |word: &str| -> String {
        ["patients", "patient_identifiers", "encounters", "clinical_notes"]
            .map(|table| format!("alter table {b}.{table} {word} trigger all;"))
            .concat()
    };
    let all = format!("begin; {} {text}; {} commit", switch("disable"), switch("enable"));
    session.batch_execute(&all).await.unwrap();
}
