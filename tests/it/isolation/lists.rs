//! Cursors and lists: no cursor but those of the list itself, nothing of another patient, and nothing that a neighbour's growth moves.

use super::world::{World, stranger};
use crate::charts::{Charts, SYSTEM, import};
use crate::server::Server;
use crate::site::{MODELS, Site};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// An encounter or a note is found by its own id only in its own organisation, and always leads to its own patient.
#[tokio::test]
async fn l16_nothing_of_another_patient() {
    let world = World::get().await;
    let server = &world.server;
    for (a, b) in world.pairs() {
        for kind in ['e', 'n'] {
            let query = "query ($id: ID!) { found: node(id: $id) { id ... on Encounter { patient { id } } ... on ClinicalNote { patient { id } } } }";
            let own = server.data(&a.token, query, json!({ "id": a.id(kind) })).await;
            assert_eq!(own["found"]["patient"]["id"], a.id('p'));
            let theirs = server.reply(&b.token, query, json!({ "id": a.id(kind) })).await.told();
            assert_eq!(theirs, server.reply(&b.token, query, json!({ "id": stranger(kind) })).await.told());
        }
        // An id of one kind is none of another, foreign or one's own: the answer does not tell which.
        for (root, kind) in [("patient", 'e'), ("encounter", 'n'), ("note", 'p')] {
            let query = format!("query ($id: ID!) {{ {root}(id: $id) {{ id }} }}");
            let theirs = server.reply(&b.token, &query, json!({ "id": a.id(kind) })).await.told();
            assert_eq!(theirs.outcome(), (200, "INVALID_INPUT".into()));
            assert_eq!(theirs, server.reply(&b.token, &query, json!({ "id": b.id(kind) })).await.told());
        }
    }
}

#[tokio::test]
async fn l18_cursor_of_another() {
    let world = World::get().await;
    let server = &world.server;
    let lists = "query ($p: ID!, $e: ID!, $a: String) {
        patient(id: $p) { encounters(first: 1, after: $a) { edges { cursor } } notes(first: 1, after: $a) { edges { cursor } } }
        encounter(id: $e) { notes(first: 1, after: $a) { edges { cursor } } }
        patients(first: 1, after: $a) { edges { cursor } } encounters(first: 1, after: $a) { edges { cursor } } notes(first: 1, after: $a) { edges { cursor } } }";
    let ways = [
        ("patients", "/data/patients"),
        ("encounters", "/data/encounters"),
        ("notes", "/data/notes"),
        ("Patient.encounters", "/data/patient/encounters"),
        ("Patient.notes", "/data/patient/notes"),
        ("Encounter.notes", "/data/encounter/notes"),
    ];
    for (a, b) in world.mine.iter().zip(&world.others) {
        let ask = async |cursor: &str| {
            server.ask(&a.token, lists, json!({ "p": a.id('p'), "e": a.id('e'), "a": cursor })).await.1
        };
        for (list, cursor) in &a.cursors {
            // In its own list it is a place; in all others it is bad input.
            let answer = ask(cursor).await;
            let errors = answer["errors"].as_array().unwrap();
            assert_eq!(errors.len(), ways.len() - 1, "{list}: {answer}");
            assert!(
                errors.iter().all(|error| error["extensions"] == json!({ "code": "INVALID_INPUT", "field": "after" })),
                "{answer}"
            );
            let own = ways.iter().find(|(name, _)| name == list).unwrap().1;
            let path = |error: &Value| {
                format!(
                    "/data/{}",
                    error["path"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect::<Vec<_>>().join("/")
                )
            };
            assert!(errors.iter().all(|error| path(error) != own), "{list}: {answer}");
        }
        // Another parent's, a neighbour's, and every byte of one's own changed.
        let second = "query ($p: ID!) { patient(id: $p) { encounters(first: 2) { edges { node { notes(first: 1) { edges { cursor } } } } } } }";
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
        let refused = ask("not a cursor").await;
        for cursor in bad {
            assert_eq!(ask(&cursor).await, refused, "{cursor}");
        }
    }
}

/// A neighbour a hundred times the size moves nothing: not an id, not a page, not an order, not an end.
#[tokio::test]
async fn l25_neighbours_growth() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let page = "query ($value: String!, $after: String) { patientByIdentifier(system: \"SYSTEM\", value: $value) { id updatedAt version
        encounters { edges { cursor node { id notes { edges { cursor node { id authoredAt } } pageInfo { hasNextPage hasPreviousPage } } } } }
        notes(first: 2, after: $after) { edges { cursor node { id title } } pageInfo { hasNextPage endCursor } } } }"
        .replace("SYSTEM", SYSTEM);
    for model in MODELS {
        let (a, b) = (site.tenant(model).await, site.tenant(model).await);
        let small = Charts { mark: "smallzq", patients: 1, encounters: 2, notes: 2 };
        small.import(site, &a).await;
        Charts { mark: "smallzq", patients: 1, encounters: 1, notes: 3 }.import(site, &b).await;
        let token = site.token(&[a.id], "clinician", "alice");
        let chart = async || {
            let mut pages = Vec::new();
            let mut after = Value::Null;
            loop {
                let data = server.data(&token, &page, json!({ "value": small.number(0), "after": after })).await;
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
        // The same record numbers too: the mark is the same.
        let large = Charts { patients: 12, encounters: 3, notes: 11, ..small };
        let report = import(site, &b, &large.ndjson()).await;
        assert!(report.notes.new + report.notes.updated > 400 && report.rejects == 0, "{report:?}");
        assert_eq!(chart().await, before, "{model}");
    }
}
