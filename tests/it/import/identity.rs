//! Identity of patients and practitioners: exclusive and shared identifiers, ids that change their person, encounters
//! of other patients, and practitioners with the same number.

use crate::support::fhir::{encounter, identifier, note, patient, practitioner, with};
use crate::support::import_tenant::{ImportTenant, counts};
use cordon::tenant::TenancyModel;
use serde_json::{Value, json};

fn numbered(id: &str, numbers: Value) -> Value {
    with(patient(id), json!({ "identifier": numbers }))
}

#[tokio::test]
async fn a_record_number_belongs_to_one_patient() {
    for target in ImportTenant::of_each().await {
        let (mrn, licence) = (identifier("MR", "urn:mrn", "7"), identifier("DL", "urn:dl", "S99912132"));
        let done = target
            .import(&[
                numbered("a", json!([mrn, licence])),
                numbered("b", json!([licence])),
                numbered("c", json!([licence, mrn])),
                encounter("ec", "Patient/c"),
                note("nc", "Patient/c", "of the one who was refused"),
                note("nb", "Patient/b", "of the one with the same licence"),
            ])
            .await;
        assert_eq!((done.report.patients, done.report.notes), (counts(2, 0, 0, 1), counts(1, 0, 0, 1)));
        let expected = [
            ("Patient", "c", "duplicate_identifier"),
            ("Encounter", "ec", "patient_not_found"),
            ("DocumentReference", "nc", "patient_not_found"),
        ];
        assert_eq!(done.rejects, expected.map(|(kind, id, reason)| (kind.into(), id.into(), reason.into())));
        assert_eq!(target.count("patient_identifiers").await, 3, "nothing of the rejected patient was written");
        assert_eq!(target.count("patient_terms").await, 2);
        // The patient is rejected in later runs too.
        let later = target.import(&[numbered("c", json!([mrn]))]).await;
        assert_eq!((later.report.patients, later.reasons()), (counts(0, 0, 0, 1), vec!["duplicate_identifier"]));
        // The same number in another system, or of the same patient, is no duplicate.
        let fine = target
            .import(&[numbered("d", json!([identifier("MR", "urn:other", "7")])), numbered("a", json!([mrn, licence]))])
            .await;
        assert_eq!(fine.report.patients, counts(1, 0, 1, 0));
    }
}

#[tokio::test]
async fn another_person_with_the_same_id_is_rejected() {
    for target in ImportTenant::of_each().await {
        let other_person = |numbers: Value| {
            let other = json!({ "name": [{ "family": "Wu", "given": ["Max"] }], "birthDate": "1950-03-04",
                "identifier": numbers });
            with(patient("p"), other)
        };
        let (visit, written) = (encounter("e2", "Patient/p"), note("n2", "Patient/p", "of the other person"));
        target.import(&[patient("p"), encounter("e", "Patient/p"), note("n", "Patient/p", "of Ann")]).await;
        let before = target.last_change().await;
        // The other person has another record number, the same one, or none.
        for numbers in
            [json!([identifier("MR", "urn:other", "1")]), json!([identifier("MR", "urn:mrn", "mrn-p")]), json!([])]
        {
            let done = target.import(&[other_person(numbers), visit.clone(), written.clone()]).await;
            assert_eq!((done.report.patients, done.report.notes), (counts(0, 0, 0, 1), counts(0, 0, 0, 1)));
            assert_eq!(done.reasons(), ["identity_changed", "patient_refused", "patient_refused"]);
        }
        assert_eq!(target.last_change().await, before, "nothing of the other person was written");
        // Imported from another source, the other person has a chart of their own.
        let files = [crate::support::fhir::ndjson(&[
            other_person(json!([identifier("MR", "urn:other", "1")])),
            visit,
            written,
        ])];
        let elsewhere = target.try_import_from("lakeside", &files).await.unwrap();
        assert_eq!((elsewhere.report.patients, elsewhere.report.notes), (counts(1, 0, 0, 0), counts(1, 0, 0, 0)));
        // A patient may change the name or get another record number.
        let married = with(patient("p"), json!({ "name": [{ "family": "Wolf", "given": ["Ann"] }] }));
        let renumbered = with(married.clone(), json!({ "identifier": [identifier("MR", "urn:new", "9")] }));
        for changed in [married, renumbered] {
            assert_eq!(
                target.import(&[changed, note("n", "Patient/p", "of Ann")]).await.report.patients,
                counts(0, 1, 0, 0)
            );
        }
    }
}

#[tokio::test]
async fn identities_are_checked_across_files_of_one_run() {
    let target = ImportTenant::of(TenancyModel::Shared).await;
    let other = json!({ "name": [{ "family": "Wu" }], "birthDate": "1950-03-04", "identifier": [identifier("MR",
        "urn:other", "1")] });
    let files = [
        crate::support::fhir::ndjson(&[patient("p"), patient("q"), note("nq", "Patient/q", "x")]),
        crate::support::fhir::ndjson(&[with(patient("p"), other), note("np", "Patient/p", "whose?")]),
    ];
    let done = target.try_import(&files).await.unwrap();
    assert_eq!((done.report.patients, done.report.notes), (counts(2, 0, 0, 1), counts(1, 0, 0, 1)));
    assert_eq!(done.reasons(), ["identity_changed", "patient_refused"]);
}

#[tokio::test]
async fn a_retired_record_number_can_be_reused() {
    for target in ImportTenant::of_each().await {
        let with_number = |id: &str, value: &str| numbered(id, json!([identifier("MR", "urn:mrn", value)]));
        target.import(&[with_number("a", "1"), with_number("b", "2"), with_number("c", "3")]).await;
        // A new patient gets a retired number, and two patients exchange their numbers.
        let done = target
            .import(&[with_number("new", "1"), with_number("b", "3"), with_number("c", "2"), with_number("a", "4")])
            .await;
        assert_eq!((done.report.patients, done.rejects.len()), (counts(1, 3, 0, 0), 0), "{:?}", done.rejects);
        // A rejected patient keeps its number.
        let refused = target
            .import(&[with_number("a", "5"), with_number("b", "4"), with_number("c", "4"), with_number("d", "2")])
            .await;
        assert_eq!(refused.report.patients, counts(0, 2, 0, 2), "{:?}", refused.rejects);
        assert_eq!(refused.reasons(), ["duplicate_identifier", "duplicate_identifier"]);
        let living = "select count(*) from patient_identifiers where tenant_id = $1 and retired_at is null";
        assert_eq!(target.one::<i64>(living).await, 4);
    }
}

#[tokio::test]
async fn notes_and_encounters_keep_their_patient() {
    for target in ImportTenant::of_each().await {
        let context = json!({ "context": { "encounter": [{ "reference": "Encounter/e" }] } });
        let input =
            [patient("p"), patient("q"), encounter("e", "Patient/q"), with(note("n", "Patient/p", "x"), context)];
        let done = target.import(&input).await;
        assert_eq!((done.report.notes, done.reasons()), (counts(0, 0, 0, 1), vec!["encounter_of_another_patient"]));
        // An existing note or encounter cannot be moved to another patient either.
        target.import(&[note("m", "Patient/p", "x")]).await;
        let moved = target.import(&[note("m", "Patient/q", "x"), encounter("e", "Patient/p")]).await;
        assert_eq!(moved.reasons(), ["patient_changed", "patient_changed"]);
        assert_eq!((moved.report.notes.updated, moved.report.encounters.updated), (0, 0));
    }
}

#[tokio::test]
async fn one_number_with_two_names_is_two_practitioners() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let by = |id: &str, name: &str| {
        let author =
            json!([{ "reference": "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9", "display": name }]);
        with(note(id, "Patient/p", id), json!({ "author": author }))
    };
    let done = target
        .import(&[
            practitioner("d1", "9", "Wolf"),
            practitioner("d2", "9", "Berg"),
            patient("p"),
            by("n1", "Dr. Max Wolf"),
            by("n2", "Dr. Max Berg"),
            by("n3", "max  wolf"),
            by("n4", "Dr. Eva Wolf"),
        ])
        .await;
    assert_eq!((done.report.practitioners, done.report.notes), (counts(2, 0, 0, 0), counts(4, 0, 0, 0)));
    let rows = target
        .rows(
            "select s.name from clinical_notes n join staff s on s.id = n.author_id where n.tenant_id = $1 \
            order by n.id",
        )
        .await;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["Dr. Max Wolf", "Dr. Max Berg", "Dr. Max Wolf", "Dr. Eva Wolf"]);
    // The next import finds the same practitioners, with or without their resources.
    let again = target.import(&[practitioner("d1", "9", "Wolf"), by("n5", "Dr. Max Berg")]).await;
    assert_eq!((again.report.practitioners, target.count("staff").await), (counts(0, 0, 1, 0), 3));
}

#[tokio::test]
async fn tenants_are_independent() {
    let (first, second) = (ImportTenant::of(TenancyModel::Shared).await, ImportTenant::of(TenancyModel::Shared).await);
    let chart = [patient("p"), note("n", "Patient/p", "the same in both")];
    for target in [&first, &second] {
        let done = target.import(&chart).await;
        assert_eq!((done.report.patients, done.report.notes), (counts(1, 0, 0, 0), counts(1, 0, 0, 0)));
    }
    // The blind indexes of equal values differ between tenants.
    let hash = "select value_hash from patient_identifiers where tenant_id = $1";
    assert_ne!(first.one::<Vec<u8>>(hash).await, second.one::<Vec<u8>>(hash).await);
    let key = "select source_key from clinical_notes where tenant_id = $1";
    assert_ne!(first.one::<Vec<u8>>(key).await, second.one::<Vec<u8>>(key).await);
}
