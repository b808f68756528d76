//! Whose chart it is: numbers that two patients must not share and numbers they may, encounters of someone else, doctors with one number.

use super::{Clinic, counts, encounter, note, number, patient, practitioner, with};
use cordon::tenant::Model;
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
        let fine = clinic.import(&[numbered("d", json!([number("MR", "urn:other", "7")])), numbered("a", json!([mrn, licence]))]).await;
        assert_eq!(fine.report.patients, counts(1, 0, 1, 0));
    }
}

#[tokio::test]
async fn an_encounter_of_someone_else_takes_no_note() {
    for clinic in Clinic::of_each().await {
        let context = json!({ "context": { "encounter": [{ "reference": "Encounter/e" }] } });
        let input = [patient("p"), patient("q"), encounter("e", "Patient/q"), with(note("n", "Patient/p", "x"), context)];
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
    let clinic = Clinic::of(Model::Schema).await;
    let by = |id: &str, name: &str| {
        let author = json!([{ "reference": "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9", "display": name }]);
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
    let (here, there) = (Clinic::of(Model::Shared).await, Clinic::of(Model::Shared).await);
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
