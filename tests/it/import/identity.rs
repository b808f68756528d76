//! Whose chart it is: numbers that two patients must not share and numbers they may, encounters of someone else, doctors with one number.

use super::{Clinic, counts, encounter, note, number, patient, practitioner, with};
use cordon::tenant::TenancyModel;
use serde_json::{Value, json};

fn numbered(id: &str, numbers: Value) -> Value {
    with(patient(id), json!({ "identifier": numbers }))
}

#[tokio::test]
async fn one_record_number_belongs_to_one_patient() {
    for clinic in Clinic::of_each().await {
        let (mrn, licence) = (number("MR", "urn:mrn", "7"), number("DL", "urn:dl", "S99912132"));
        let done = clinic
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
        assert_eq!(clinic.count("patient_identifiers").await, 3, "nothing of the refused patient was written");
        assert_eq!(clinic.count("patient_terms").await, 2);
        // Refused in a later run, too, and in every run.
        let later = clinic.import(&[numbered("c", json!([mrn]))]).await;
        assert_eq!((later.report.patients, later.reasons()), (counts(0, 0, 0, 1), vec!["duplicate_identifier"]));
        // The same number in another system, or the same chart under it, is no duplicate.
        let fine = clinic
            .import(&[numbered("d", json!([number("MR", "urn:other", "7")])), numbered("a", json!([mrn, licence]))])
            .await;
        assert_eq!(fine.report.patients, counts(1, 0, 1, 0));
    }
}

#[tokio::test]
async fn two_people_under_one_id_do_not_become_one_chart() {
    for clinic in Clinic::of_each().await {
        let stranger = |numbers: Value| {
            let other = json!({ "name": [{ "family": "Wu", "given": ["Max"] }], "birthDate": "1950-03-04", "identifier": numbers });
            with(patient("p"), other)
        };
        let (visit, written) = (encounter("e2", "Patient/p"), note("n2", "Patient/p", "of the stranger"));
        clinic.import(&[patient("p"), encounter("e", "Patient/p"), note("n", "Patient/p", "of Ann")]).await;
        let before = clinic.last_change().await;
        // With another record number, with the same one, with none.
        for numbers in [json!([number("MR", "urn:other", "1")]), json!([number("MR", "urn:mrn", "mrn-p")]), json!([])] {
            let done = clinic.import(&[stranger(numbers), visit.clone(), written.clone()]).await;
            assert_eq!((done.report.patients, done.report.notes), (counts(0, 0, 0, 1), counts(0, 0, 0, 1)));
            assert_eq!(done.reasons(), ["identity_changed", "patient_refused", "patient_refused"]);
        }
        assert_eq!(clinic.last_change().await, before, "nothing of the stranger was written");
        // Under the name of another source they have charts of their own.
        let files = [super::ndjson(&[stranger(json!([number("MR", "urn:other", "1")])), visit, written])];
        let elsewhere = clinic.try_import_from("lakeside", &files).await.unwrap();
        assert_eq!((elsewhere.report.patients, elsewhere.report.notes), (counts(1, 0, 0, 0), counts(1, 0, 0, 0)));
        // Ann may marry, and may get another number.
        let married = with(patient("p"), json!({ "name": [{ "family": "Wolf", "given": ["Ann"] }] }));
        let renumbered = with(married.clone(), json!({ "identifier": [number("MR", "urn:new", "9")] }));
        for changed in [married, renumbered] {
            assert_eq!(
                clinic.import(&[changed, note("n", "Patient/p", "of Ann")]).await.report.patients,
                counts(0, 1, 0, 0)
            );
        }
    }
}

#[tokio::test]
async fn two_files_of_one_run_keep_two_people_apart() {
    let clinic = Clinic::of(TenancyModel::Shared).await;
    let other = json!({ "name": [{ "family": "Wu" }], "birthDate": "1950-03-04", "identifier": [number("MR", "urn:other", "1")] });
    let files = [
        super::ndjson(&[patient("p"), patient("q"), note("nq", "Patient/q", "x")]),
        super::ndjson(&[with(patient("p"), other), note("np", "Patient/p", "whose?")]),
    ];
    let done = clinic.try_import(&files).await.unwrap();
    assert_eq!((done.report.patients, done.report.notes), (counts(2, 0, 0, 1), counts(1, 0, 0, 1)));
    assert_eq!(done.reasons(), ["identity_changed", "patient_refused"]);
}

#[tokio::test]
async fn a_number_given_up_may_be_taken_over() {
    for clinic in Clinic::of_each().await {
        let with_number = |id: &str, value: &str| numbered(id, json!([number("MR", "urn:mrn", value)]));
        clinic.import(&[with_number("a", "1"), with_number("b", "2"), with_number("c", "3")]).await;
        // Whoever comes first; a new chart, too; and two that change numbers.
        let done = clinic
            .import(&[with_number("new", "1"), with_number("b", "3"), with_number("c", "2"), with_number("a", "4")])
            .await;
        assert_eq!((done.report.patients, done.rejects.len()), (counts(1, 3, 0, 0), 0), "{:?}", done.rejects);
        // Who is refused gives nothing up.
        let refused = clinic
            .import(&[with_number("a", "5"), with_number("b", "4"), with_number("c", "4"), with_number("d", "2")])
            .await;
        assert_eq!(refused.report.patients, counts(0, 2, 0, 2), "{:?}", refused.rejects);
        assert_eq!(refused.reasons(), ["duplicate_identifier", "duplicate_identifier"]);
        let living = "select count(*) from patient_identifiers where tenant_id = $1 and retired_at is null";
        assert_eq!(clinic.one::<i64>(living).await, 4);
    }
}

#[tokio::test]
async fn an_encounter_of_someone_else_takes_no_note() {
    for clinic in Clinic::of_each().await {
        let context = json!({ "context": { "encounter": [{ "reference": "Encounter/e" }] } });
        let input =
            [patient("p"), patient("q"), encounter("e", "Patient/q"), with(note("n", "Patient/p", "x"), context)];
        let done = clinic.import(&input).await;
        assert_eq!((done.report.notes, done.reasons()), (counts(0, 0, 0, 1), vec!["encounter_of_another_patient"]));
        // Neither does a note or an encounter change its patient.
        clinic.import(&[note("m", "Patient/p", "x")]).await;
        let moved = clinic.import(&[note("m", "Patient/q", "x"), encounter("e", "Patient/p")]).await;
        assert_eq!(moved.reasons(), ["patient_changed", "patient_changed"]);
        assert_eq!((moved.report.notes.updated, moved.report.encounters.updated), (0, 0));
    }
}

#[tokio::test]
async fn one_number_and_two_names_are_two_doctors() {
    let clinic = Clinic::of(TenancyModel::Schema).await;
    let by = |id: &str, name: &str| {
        let author =
            json!([{ "reference": "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9", "display": name }]);
        with(note(id, "Patient/p", id), json!({ "author": author }))
    };
    let done = clinic
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
    let rows =
        clinic.rows("select s.name from clinical_notes n join staff s on s.id = n.author_id where n.tenant_id = $1 order by n.id").await;
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["Dr. Max Wolf", "Dr. Max Berg", "Dr. Max Wolf", "Dr. Eva Wolf"]);
    // They are the same people next time, with or without their resources.
    let again = clinic.import(&[practitioner("d1", "9", "Wolf"), by("n5", "Dr. Max Berg")]).await;
    assert_eq!((again.report.practitioners, clinic.count("staff").await), (counts(0, 0, 1, 0), 3));
}

#[tokio::test]
async fn two_sources_and_two_tenants_are_kept_apart() {
    let (here, there) = (Clinic::of(TenancyModel::Shared).await, Clinic::of(TenancyModel::Shared).await);
    let chart = [patient("p"), note("n", "Patient/p", "the same in both")];
    for clinic in [&here, &there] {
        let done = clinic.import(&chart).await;
        assert_eq!((done.report.patients, done.report.notes), (counts(1, 0, 0, 0), counts(1, 0, 0, 0)));
    }
    // Equal numbers and keys look different in two tenants.
    let hash = "select value_hash from patient_identifiers where tenant_id = $1";
    assert_ne!(here.one::<Vec<u8>>(hash).await, there.one::<Vec<u8>>(hash).await);
    let key = "select source_key from clinical_notes where tenant_id = $1";
    assert_ne!(here.one::<Vec<u8>>(key).await, there.one::<Vec<u8>>(key).await);
}
