//! Encounters: started, finished and cancelled over HTTP.

use crate::site::{MODELS, Site};
use crate::write::{CANCEL, FINISH, REGISTER, START, Ward, opaque};
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn an_encounter_starts_and_ends_once() {
    let site = Site::shared().await;
    for model in MODELS {
        let ward = Ward::open(site, site.tenant(model).await).await;
        let nurse = ward.token("nurse", "nora");
        let input = json!({ "patientId": ward.patient, "class": "AMB", "reason": "Кашель\nsince Monday", "startedAt": "2024-05-01T08:00:00Z" });
        let encounter = ward.change(&nurse, START, input).await.unwrap();
        assert_eq!((&encounter["status"], &encounter["version"]), (&json!("IN_PROGRESS"), &json!(1)));
        assert_eq!(
            (&encounter["reason"], &encounter["patient"]["id"]),
            (&json!("Кашель\nsince Monday"), &json!(ward.patient))
        );
        let id = &encounter["id"];
        let early = json!({ "id": id, "expectedVersion": 1, "endedAt": "2024-05-01T07:59:59Z" });
        assert_eq!(ward.change(&nurse, FINISH, early).await.unwrap_err().1["field"], "input.endedAt");
        let done = json!({ "id": id, "expectedVersion": 1, "endedAt": "2024-05-01T08:30:00Z" });
        let finished = ward.change(&nurse, FINISH, done).await.unwrap();
        assert_eq!((&finished["status"], &finished["endedAt"]), (&json!("FINISHED"), &json!("2024-05-01T08:30:00Z")));
        let stale = ward.change(&nurse, FINISH, json!({ "id": id, "expectedVersion": 1 })).await.unwrap_err();
        assert_eq!(stale, ("CONFLICT".into(), json!({ "code": "CONFLICT", "currentVersion": 2 })));
        let again = ward.change(&nurse, FINISH, json!({ "id": id, "expectedVersion": 2 })).await.unwrap_err();
        assert_eq!(again.0, "CONFLICT", "a finished encounter is not finished again");
        assert_eq!(
            ward.change(&nurse, CANCEL, json!({ "id": id, "expectedVersion": 2 })).await.unwrap_err().0,
            "CONFLICT"
        );

        let other = ward.change(&nurse, START, json!({ "patientId": ward.patient, "class": "EMER" })).await.unwrap();
        let cancelled = ward
            .change(&nurse, CANCEL, json!({ "id": other["id"], "expectedVersion": 1, "reason": "No show" }))
            .await
            .unwrap();
        assert_eq!((&cancelled["status"], &cancelled["cancelReason"]), (&json!("CANCELLED"), &json!("No show")));
        let words =
            ward.rows("select from encounters where tenant_id = $tenant and encounters::text ilike '%' || encode('No show', 'hex') || '%'");
        assert_eq!(words.await.len(), 0, "why is sealed");
    }
}

#[tokio::test]
async fn what_is_no_encounter_is_refused() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[0]).await).await;
    let neighbour = Ward::open(site, site.tenant(MODELS[0]).await).await;
    let with = |part: Value| {
        let mut input = json!({ "patientId": ward.patient, "class": "AMB" });
        input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        input
    };
    for (part, field) in [
        (json!({ "class": "" }), "input.class"),
        (json!({ "class": "A\nB" }), "input.class"),
        (json!({ "class": "x".repeat(51) }), "input.class"),
        (json!({ "reason": "r".repeat(4_001) }), "input.reason"),
        (json!({ "reason": "\u{8}" }), "input.reason"),
        (json!({ "startedAt": "2999-01-01T00:00:00Z" }), "input.startedAt"),
        (json!({ "startedAt": "0001-01-01T00:00:00Z" }), "input.startedAt"),
        (json!({ "patientId": opaque(b'e', Uuid::now_v7()) }), "input.patientId"),
    ] {
        let refused = ward.change(&ward.alice, START, with(part)).await.unwrap_err();
        assert_eq!(refused, ("INVALID_INPUT".into(), json!({ "code": "INVALID_INPUT", "field": field })));
    }
    for patient in [opaque(b'p', Uuid::now_v7()), neighbour.patient.clone()] {
        assert_eq!(
            ward.change(&ward.alice, START, with(json!({ "patientId": patient }))).await.unwrap_err().0,
            "NOT_FOUND"
        );
    }
    assert_eq!(ward.rows("select from encounters where tenant_id = $tenant").await.len(), 0);
}

#[tokio::test]
async fn the_days_encounters_are_listed() {
    let site = Site::shared().await;
    for model in MODELS {
        let ward = Ward::open(site, site.tenant(model).await).await;
        let other = json!({ "identifiers": [], "sex": "MALE", "name": { "text": "Other" } });
        let other = ward.change(&ward.alice, REGISTER, other).await.unwrap();
        for (patient, class, day) in
            [(json!(ward.patient), "AMB", 1), (other["id"].clone(), "EMER", 2), (json!(ward.patient), "AMB", 3)]
        {
            let input =
                json!({ "patientId": patient, "class": class, "startedAt": format!("2024-05-0{day}T08:00:00Z") });
            let started = ward.change(&ward.alice, START, input).await.unwrap();
            if day == 3 {
                ward.change(&ward.alice, FINISH, json!({ "id": started["id"], "expectedVersion": 1 })).await.unwrap();
            }
        }
        let list = async |filter: Value| {
            let query = "query ($filter: EncounterFilter) { encounters(filter: $filter) { edges { node { startedAt patient { name { text } } } } } }";
            let data = ward.server.data(&ward.alice, query, json!({ "filter": filter })).await;
            let edges = data["encounters"]["edges"].as_array().unwrap().clone();
            edges
                .iter()
                .map(|edge| edge["node"]["startedAt"].as_str().unwrap()[8..10].trim_start_matches('0').to_owned())
                .collect::<String>()
        };
        for (filter, days) in [
            (Value::Null, "321"),
            (json!({}), "321"),
            (json!({ "class": "EMER" }), "2"),
            (json!({ "class": "' or true --" }), ""),
            (json!({ "status": ["IN_PROGRESS"] }), "21"),
            (json!({ "status": ["FINISHED", "PLANNED"] }), "3"),
            (json!({ "status": [] }), ""),
            (json!({ "from": "2024-05-02T08:00:00Z" }), "32"),
            (json!({ "to": "2024-05-02T08:00:00Z" }), "1"),
            (
                json!({ "from": "2024-05-02T00:00:00+02:00", "to": "2024-05-03T00:00:00+02:00", "class": "EMER", "status": ["IN_PROGRESS"] }),
                "2",
            ),
        ] {
            assert_eq!(list(filter.clone()).await, days, "{model}: {filter}");
        }
        let rows = ward
            .rows("select distinct patient_id from audit_log where tenant_id = $tenant and action = 'encounter.read'")
            .await;
        assert_eq!(rows.len(), 2, "each patient whose encounter was shown has a row");
    }
}
