//! Lists and cursors: a list accepts its own cursors only, shows records of its own parent only, and does not change
//! when another tenant grows.

use super::fixtures::{Fixtures, unknown_id};
use crate::support::fhir_charts::{FhirCharts, SYSTEM, import};
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// An encounter or a note is found by its id in its own tenant only, and always belongs to its own patient.
#[tokio::test]
async fn l16_records_belong_to_their_own_patient() {
    let fixtures = Fixtures::shared().await;
    let server = &fixtures.server;
    for (a, b) in fixtures.pairs() {
        for kind in ['e', 'n'] {
            let query = "query ($id: ID!) { found: node(id: $id) { id ... on Encounter { patient { id } } ... on \
                ClinicalNote { patient { id } } } }";
            let own = server.data(&a.token, query, json!({ "id": a.id(kind) })).await;
            assert_eq!(own["found"]["patient"]["id"], a.id('p'));
            let foreign = server.send_query(&b.token, query, json!({ "id": a.id(kind) })).await.comparable();
            assert_eq!(
                foreign,
                server.send_query(&b.token, query, json!({ "id": unknown_id(kind) })).await.comparable()
            );
        }
        // An id of another kind is invalid input. The response does not tell whether the id is the caller's own or a
        // foreign one.
        for (root, kind) in [("patient", 'e'), ("encounter", 'n'), ("note", 'p')] {
            let query = format!("query ($id: ID!) {{ {root}(id: $id) {{ id }} }}");
            let foreign = server.send_query(&b.token, &query, json!({ "id": a.id(kind) })).await.comparable();
            assert_eq!(foreign.status_and_code(), (200, "INVALID_INPUT".into()));
            assert_eq!(foreign, server.send_query(&b.token, &query, json!({ "id": b.id(kind) })).await.comparable());
        }
    }
}

#[tokio::test]
async fn l18_cursors_of_other_lists_are_rejected() {
    let fixtures = Fixtures::shared().await;
    let server = &fixtures.server;
    let lists = "query ($p: ID!, $e: ID!, $a: String) {
        patient(id: $p) { encounters(first: 1, after: $a) { edges { cursor } } notes(first: 1, after: $a) { edges { \
        cursor } } }
        encounter(id: $e) { notes(first: 1, after: $a) { edges { cursor } } }
        patients(first: 1, after: $a) { edges { cursor } } encounters(first: 1, after: $a) { edges { cursor } } \
        notes(first: 1, after: $a) { edges { cursor } } }";
    let lists_and_paths = [
        ("patients", "/data/patients"),
        ("encounters", "/data/encounters"),
        ("notes", "/data/notes"),
        ("Patient.encounters", "/data/patient/encounters"),
        ("Patient.notes", "/data/patient/notes"),
        ("Encounter.notes", "/data/encounter/notes"),
    ];
    for (a, b) in fixtures.owners.iter().zip(&fixtures.neighbours) {
        let query = async |cursor: &str| {
            server.query(&a.token, lists, json!({ "p": a.id('p'), "e": a.id('e'), "a": cursor })).await.1
        };
        for (list, cursor) in &a.cursors {
            // The cursor is valid in its own list and invalid input in all others.
            let answer = query(cursor).await;
            let errors = answer["errors"].as_array().unwrap();
            assert_eq!(errors.len(), lists_and_paths.len() - 1, "{list}: {answer}");
            assert!(
                errors.iter().all(|error| error["extensions"] == json!({ "code": "INVALID_INPUT", "field": "after" })),
                "{answer}"
            );
            let own = lists_and_paths.iter().find(|(name, _)| name == list).unwrap().1;
            let path = |error: &Value| {
                format!(
                    "/data/{}",
                    error["path"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect::<Vec<_>>().join("/")
                )
            };
            assert!(errors.iter().all(|error| path(error) != own), "{list}: {answer}");
        }
        // Cursors of another parent, of another tenant, and the own cursor with one bit changed in each byte.
        let second = "query ($p: ID!) { patient(id: $p) { encounters(first: 2) { edges { node { notes(first: 1) { \
            edges { cursor } } } } } } }";
        let data = server.data(&a.token, second, json!({ "p": a.id('p') })).await;
        let other_parent = data
            .pointer("/patient/encounters/edges/1/node/notes/edges/0/cursor")
            .and_then(Value::as_str)
            .unwrap()
            .to_owned();
        let mut bad = vec![other_parent];
        bad.extend(b.cursors.values().cloned());
        let good = URL_SAFE_NO_PAD.decode(&a.cursors["Encounter.notes"]).unwrap();
        for byte in 0..good.len() {
            let mut tampered = good.clone();
            tampered[byte] ^= 1;
            bad.push(URL_SAFE_NO_PAD.encode(tampered));
        }
        let refused = query("not a cursor").await;
        for cursor in bad {
            assert_eq!(query(&cursor).await, refused, "{cursor}");
        }
    }
}

/// Another tenant that is a hundred times larger changes no id, page, order or end of a list.
#[tokio::test]
async fn l25_another_tenants_growth_changes_no_page() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let page = "query ($value: String!, $after: String) { patientByIdentifier(system: \"SYSTEM\", value: $value) { id \
        updatedAt version
        encounters { edges { cursor node { id notes { edges { cursor node { id authoredAt } } pageInfo { hasNextPage \
        hasPreviousPage } } } } }
        notes(first: 2, after: $after) { edges { cursor node { id title } } pageInfo { hasNextPage endCursor } } } }"
        .replace("SYSTEM", SYSTEM);
    for model in MODELS {
        let (a, b) = (site.tenant(model).await, site.tenant(model).await);
        let small = FhirCharts { mark: "smallzq", patients: 1, encounters: 2, notes: 2 };
        small.import(site, &a).await;
        FhirCharts { mark: "smallzq", patients: 1, encounters: 1, notes: 3 }.import(site, &b).await;
        let token = site.token(&[a.id], "clinician", "alice");
        let chart = async || {
            let mut pages = Vec::new();
            let mut after = Value::Null;
            loop {
                let data = server.data(&token, &page, json!({ "value": small.record_number(0), "after": after })).await;
                after = data["patientByIdentifier"]["notes"]["pageInfo"]["endCursor"].clone();
                let more = data["patientByIdentifier"]["notes"]["pageInfo"]["hasNextPage"] == true;
                pages.push(data);
                if !more {
                    return pages;
                }
            }
        };
        let before = chart().await;
        assert_eq!(before.len(), 3, "five notes in pages of two");
        // The mark is the same, and therefore the record numbers are the same too.
        let large = FhirCharts { patients: 12, encounters: 3, notes: 11, ..small };
        let report = import(site, &b, &large.ndjson()).await;
        assert!(report.notes.new + report.notes.updated > 400 && report.rejects == 0, "{report:?}");
        assert_eq!(chart().await, before, "{model}");
    }
}
