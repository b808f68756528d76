//! What was changed here since the last import stays, whatever the source says next.

use super::{Clinic, counts, encounter, note, number, patient, with};
use crate::server::Server;
use crate::write::{FINISH, UPDATE, Ward, opaque};
use cordon::guard::{Actor, TxKind};
use cordon::ids::RequestId;
use cordon::tenant::TenancyModel;
use diesel::sql_query;
use serde_json::{Value, json};

/// The whole chart as it lies in the database, but its notes.
async fn chart(clinic: &Clinic<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for table in ["patients", "patient_identifiers", "patient_terms", "encounters"] {
        let rows =
            clinic.rows(&format!("select to_jsonb(t)::text from {table} t where tenant_id = $1 order by 1")).await;
        all.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    all
}

#[tokio::test]
async fn a_change_made_here_outlives_the_next_import() {
    for clinic in Clinic::of_each().await {
        let open = with(encounter("e", "Patient/p"), json!({ "status": "in-progress" }));
        clinic.import(&[patient("p"), patient("q"), open.clone(), note("n", "Patient/p", "stable")]).await;

        let of = async |kind: u8, sql: &str| opaque(kind, clinic.one::<String>(sql).await.parse().unwrap());
        let p = of(b'p', "select patient_id::text from encounters where tenant_id = $1").await;
        let e = of(b'e', "select id::text from encounters where tenant_id = $1").await;
        let alice = clinic.site.token(&[clinic.tenant.id], "clinician", "alice");
        let ward = Ward { server: Server::of(clinic.site), tenant: clinic.tenant.clone(), alice, patient: p.clone() };
        ward.change(&ward.alice, FINISH, json!({ "id": e, "expectedVersion": 1 })).await.unwrap();
        let numbers = json!([{ "system": "urn:mrn", "value": "mrn-p" }, { "system": "urn:here", "value": "7" }]);
        let died = json!({ "id": p, "expectedVersion": 1, "sex": "OTHER", "deceasedAt": "2024-06-01T00:00:00Z", "identifiers": numbers });
        ward.change(&ward.alice, UPDATE, died).await.unwrap();
        let before = chart(&clinic).await;

        // As it came the last time, it says nothing new.
        let again = clinic.import(&[patient("p"), open.clone()]).await;
        assert_eq!((again.report.patients, again.report.encounters), (counts(0, 0, 1, 0), counts(0, 0, 1, 0)));
        // Changed there, too: rejected, in every run, with what else is in the input taken in.
        let called = with(patient("p"), json!({ "telecom": [{ "system": "phone", "value": "555-0100" }] }));
        let moved = with(open, json!({ "class": { "code": "IMP" } }));
        for notes in [counts(0, 1, 0, 0), counts(0, 0, 1, 0)] {
            let done = clinic
                .import(&[called.clone(), moved.clone(), note("n", "Patient/p", "stable, discharge today")])
                .await;
            let expected = [("Patient", "p"), ("Encounter", "e")];
            assert_eq!(done.rejects, expected.map(|(kind, id)| (kind.into(), id.into(), "changed_here".into())));
            assert_eq!((done.report.patients, done.report.encounters), (counts(0, 0, 0, 1), counts(0, 0, 0, 1)));
            assert_eq!((done.report.notes, done.report.rejects), (notes, 2));
        }
        assert_eq!(chart(&clinic).await, before, "nothing of the rejected was written");
        // A number that the rejected one no longer has is not given up for another to take.
        let bare = with(called, json!({ "identifier": [] }));
        let heir = with(
            patient("q"),
            json!({ "identifier": [number("MR", "urn:mrn", "mrn-p"), number("MR", "urn:mrn", "mrn-q")] }),
        );
        assert_eq!(clinic.import(&[bare, heir]).await.reasons(), ["changed_here", "duplicate_identifier"]);
        // Somebody else under its id is still somebody else, and nothing of theirs goes into this chart.
        let other =
            with(patient("p"), json!({ "name": [{ "family": "Wu", "given": ["Max"] }], "birthDate": "1950-03-04" }));
        let done = clinic.import(&[other, encounter("of-the-other", "Patient/p")]).await;
        assert_eq!(done.reasons(), ["identity_changed", "patient_refused"]);
        assert_eq!(chart(&clinic).await, before);
        // Who was not touched here follows the source, again and again.
        for phone in ["1", "2"] {
            let called = with(patient("q"), json!({ "telecom": [{ "system": "phone", "value": phone }] }));
            assert_eq!(clinic.import(&[called]).await.report.patients, counts(0, 1, 0, 0));
        }
    }
}

#[tokio::test]
async fn a_note_signed_here_stays_signed() {
    let clinic = Clinic::of(TenancyModel::Schema).await;
    let draft = |text: &str, elements: Value| with(note("n", "Patient/p", text), elements);
    clinic.import(&[patient("p"), draft("first", json!({ "docStatus": "preliminary" }))]).await;
    let (tenant, guards) = (clinic.tenant.id, &clinic.app.guards);
    let tx = guards.work(tenant, &Actor::command(tenant, "test"), TxKind::Write, RequestId::new()).await.unwrap();
    let sign = sql_query("update clinical_notes set status = 'SIGNED', version = version + 1");
    tx.execute(sign).await.unwrap();
    tx.commit().await.unwrap();
    for again in
        [draft("second", json!({ "docStatus": "preliminary" })), draft("second", json!({ "docStatus": "final" }))]
    {
        assert_eq!(clinic.import(&[again]).await.reasons(), ["changed_here"]);
    }
    let stored = &clinic.notes().await[0];
    assert_eq!((stored.status.as_str(), stored.bodies.clone()), ("SIGNED", vec!["first".to_owned()]));
}
