//! Encounters: started, finished and cancelled over HTTP.

use crate::support::chart_writer::{CANCEL, ChartWriter, FINISH, REGISTER, START, global_id};
use crate::support::site::{MODELS, Site};
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn an_encounter_is_started_and_finished_once() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let nurse = writer.token("nurse", "nora");
        let input = json!({ "patientId": writer.patient, "class": "AMB", "reason": "Кашель\nsince \
            Monday", "startedAt": "2024-05-01T08:00:00Z" });
        let encounter = writer.mutate(&nurse, START, input).await.unwrap();
        assert_eq!((&encounter["status"], &encounter["version"]), (&json!("IN_PROGRESS"), &json!(1)));
        assert_eq!(
            (&encounter["reason"], &encounter["patient"]["id"]),
            (&json!("Кашель\nsince Monday"), &json!(writer.patient))
        );
        let id = &encounter["id"];
        let early = json!({ "id": id, "expectedVersion": 1, "endedAt": "2024-05-01T07:59:59Z" });
        assert_eq!(writer.mutate(&nurse, FINISH, early).await.unwrap_err().1["field"], "input.endedAt");
        let done = json!({ "id": id, "expectedVersion": 1, "endedAt": "2024-05-01T08:30:00Z" });
        let finished = writer.mutate(&nurse, FINISH, done).await.unwrap();
        assert_eq!((&finished["status"], &finished["endedAt"]), (&json!("FINISHED"), &json!("2024-05-01T08:30:00Z")));
        let stale = writer.mutate(&nurse, FINISH, json!({ "id": id, "expectedVersion": 1 })).await.unwrap_err();
        assert_eq!(stale, ("CONFLICT".into(), json!({ "code": "CONFLICT", "currentVersion": 2 })));
        let again = writer.mutate(&nurse, FINISH, json!({ "id": id, "expectedVersion": 2 })).await.unwrap_err();
        assert_eq!(again.0, "CONFLICT", "a finished encounter is not finished again");
        assert_eq!(
            writer.mutate(&nurse, CANCEL, json!({ "id": id, "expectedVersion": 2 })).await.unwrap_err().0,
            "CONFLICT"
        );

        let other =
            writer.mutate(&nurse, START, json!({ "patientId": writer.patient, "class": "EMER" })).await.unwrap();
        let cancelled = writer
            .mutate(&nurse, CANCEL, json!({ "id": other["id"], "expectedVersion": 1, "reason": "No show" }))
            .await
            .unwrap();
        assert_eq!((&cancelled["status"], &cancelled["cancelReason"]), (&json!("CANCELLED"), &json!("No show")));
        let words = writer.rows(
            "select from encounters where tenant_id = $tenant and encounters::text ilike '%' || encode('No \
                show', 'hex') || '%'",
        );
        assert_eq!(words.await.len(), 0, "the reason is sealed");
    }
}

#[tokio::test]
async fn invalid_encounters_are_rejected() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let neighbour = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let with = |part: Value| {
        let mut input = json!({ "patientId": writer.patient, "class": "AMB" });
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
        (json!({ "patientId": global_id(b'e', Uuid::now_v7()) }), "input.patientId"),
    ] {
        let refused = writer.mutate(&writer.alice, START, with(part)).await.unwrap_err();
        assert_eq!(refused, ("INVALID_INPUT".into(), json!({ "code": "INVALID_INPUT", "field": field })));
    }
    for patient in [global_id(b'p', Uuid::now_v7()), neighbour.patient.clone()] {
        assert_eq!(
            writer.mutate(&writer.alice, START, with(json!({ "patientId": patient }))).await.unwrap_err().0,
            "NOT_FOUND"
        );
    }
    assert_eq!(writer.rows("select from encounters where tenant_id = $tenant").await.len(), 0);
}

#[tokio::test]
async fn encounters_are_listed_and_filtered() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let other = json!({ "identifiers": [], "sex": "MALE", "name": { "text": "Other" } });
        let other = writer.mutate(&writer.alice, REGISTER, other).await.unwrap();
        for (patient, class, day) in
            [(json!(writer.patient), "AMB", 1), (other["id"].clone(), "EMER", 2), (json!(writer.patient), "AMB", 3)]
        {
            let input =
                json!({ "patientId": patient, "class": class, "startedAt": format!("2024-05-0{day}T08:00:00Z") });
            let started = writer.mutate(&writer.alice, START, input).await.unwrap();
            if day == 3 {
                writer
                    .mutate(&writer.alice, FINISH, json!({ "id": started["id"], "expectedVersion": 1 }))
                    .await
                    .unwrap();
            }
        }
        let list = async |filter: Value| {
            let query = "query ($filter: EncounterFilter) { encounters(filter: $filter) { edges { node { startedAt \
                patient { name { text } } } } } }";
            let data = writer.server.data(&writer.alice, query, json!({ "filter": filter })).await;
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
                json!({ "from": "2024-05-02T00:00:00+02:00", "to": "2024-05-03T00:00:00+02:00", "class": "EMER",
                    "status": ["IN_PROGRESS"] }),
                "2",
            ),
        ] {
            assert_eq!(list(filter.clone()).await, days, "{model}: {filter}");
        }
        let rows = writer
            .rows("select distinct patient_id from audit_log where tenant_id = $tenant and action = 'encounter.read'")
            .await;
        assert_eq!(rows.len(), 2, "each patient whose encounter was shown has a row");
    }
}
