//! Changes made over the API are kept: a later import of the same record is rejected if the source has changed too.

use crate::support::chart_writer::{ChartWriter, FINISH, UPDATE, global_id};
use crate::support::fhir::{encounter, identifier, note, patient, with};
use crate::support::import_tenant::{ImportTenant, counts};
use crate::support::server::TestServer;
use cordon::guard::{Actor, TxKind};
use cordon::ids::RequestId;
use cordon::tenant::TenancyModel;
use diesel::sql_query;
use serde_json::{Value, json};

/// Returns all stored rows of the chart except its notes.
async fn stored_chart(target: &ImportTenant<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for table in ["patients", "patient_identifiers", "patient_terms", "encounters"] {
        let rows =
            target.rows(&format!("select to_jsonb(t)::text from {table} t where tenant_id = $1 order by 1")).await;
        all.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    all
}

#[tokio::test]
async fn local_changes_outlive_the_next_import() {
    for target in ImportTenant::of_each().await {
        let open = with(encounter("e", "Patient/p"), json!({ "status": "in-progress" }));
        target.import(&[patient("p"), patient("q"), open.clone(), note("n", "Patient/p", "stable")]).await;

        let of = async |kind: u8, sql: &str| global_id(kind, target.one::<String>(sql).await.parse().unwrap());
        let p = of(b'p', "select patient_id::text from encounters where tenant_id = $1").await;
        let e = of(b'e', "select id::text from encounters where tenant_id = $1").await;
        let alice = target.site.token(&[target.tenant.id], "clinician", "alice");
        let writer = ChartWriter {
            server: TestServer::of(target.site),
            tenant: target.tenant.clone(),
            alice,
            patient: p.clone(),
        };
        writer.mutate(&writer.alice, FINISH, json!({ "id": e, "expectedVersion": 1 })).await.unwrap();
        let numbers = json!([{ "system": "urn:mrn", "value": "mrn-p" }, { "system": "urn:here", "value": "7" }]);
        let died = json!({ "id": p, "expectedVersion": 1, "sex": "OTHER", "deceasedAt": "2024-06-01T00:00:00Z",
            "identifiers": numbers });
        writer.mutate(&writer.alice, UPDATE, died).await.unwrap();
        let before = stored_chart(&target).await;

        // The same resources as in the last import are unchanged.
        let again = target.import(&[patient("p"), open.clone()]).await;
        assert_eq!((again.report.patients, again.report.encounters), (counts(0, 0, 1, 0), counts(0, 0, 1, 0)));
        // Resources that changed in the source are rejected in every run. The rest of the input is imported.
        let called = with(patient("p"), json!({ "telecom": [{ "system": "phone", "value": "555-0100" }] }));
        let moved = with(open, json!({ "class": { "code": "IMP" } }));
        for notes in [counts(0, 1, 0, 0), counts(0, 0, 1, 0)] {
            let done = target
                .import(&[called.clone(), moved.clone(), note("n", "Patient/p", "stable, discharge today")])
                .await;
            let expected = [("Patient", "p"), ("Encounter", "e")];
            assert_eq!(done.rejects, expected.map(|(kind, id)| (kind.into(), id.into(), "changed_here".into())));
            assert_eq!((done.report.patients, done.report.encounters), (counts(0, 0, 0, 1), counts(0, 0, 0, 1)));
            assert_eq!((done.report.notes, done.report.rejects), (notes, 2));
        }
        assert_eq!(stored_chart(&target).await, before, "nothing of the rejected resources was written");
        // A record number that the rejected resource no longer has is not free for another patient.
        let bare = with(called, json!({ "identifier": [] }));
        let heir = with(
            patient("q"),
            json!({ "identifier": [identifier("MR", "urn:mrn", "mrn-p"), identifier("MR", "urn:mrn", "mrn-q")] }),
        );
        assert_eq!(target.import(&[bare, heir]).await.reasons(), ["changed_here", "duplicate_identifier"]);
        // Another person with the same id is still rejected as such, and nothing is added to this chart.
        let other =
            with(patient("p"), json!({ "name": [{ "family": "Wu", "given": ["Max"] }], "birthDate": "1950-03-04" }));
        let done = target.import(&[other, encounter("of-the-other", "Patient/p")]).await;
        assert_eq!(done.reasons(), ["identity_changed", "patient_refused"]);
        assert_eq!(stored_chart(&target).await, before);
        // A patient without local changes follows the source in every import.
        for phone in ["1", "2"] {
            let called = with(patient("q"), json!({ "telecom": [{ "system": "phone", "value": phone }] }));
            assert_eq!(target.import(&[called]).await.report.patients, counts(0, 1, 0, 0));
        }
    }
}

#[tokio::test]
async fn a_note_signed_here_stays_signed() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let draft = |text: &str, elements: Value| with(note("n", "Patient/p", text), elements);
    target.import(&[patient("p"), draft("first", json!({ "docStatus": "preliminary" }))]).await;
    let (tenant, guards) = (target.tenant.id, &target.app.guards);
    let tx =
        guards.begin_operation(tenant, &Actor::command(tenant, "test"), TxKind::Write, RequestId::new()).await.unwrap();
    let sign = sql_query("update clinical_notes set status = 'SIGNED', version = version + 1");
    tx.execute(sign).await.unwrap();
    tx.commit().await.unwrap();
    for again in
        [draft("second", json!({ "docStatus": "preliminary" })), draft("second", json!({ "docStatus": "final" }))]
    {
        assert_eq!(target.import(&[again]).await.reasons(), ["changed_here"]);
    }
    let stored = &target.notes().await[0];
    assert_eq!((stored.status.as_str(), stored.bodies.clone()), ("SIGNED", vec!["first".to_owned()]));
}
