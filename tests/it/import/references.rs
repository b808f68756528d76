//! References in every notation, and resources in any order within and across files.

use crate::support::fhir::{encounter, file, identifier, ndjson, note, patient, practitioner, with};
use crate::support::import_tenant::{ImportTenant, counts};
use cordon::tenant::TenancyModel;
use serde_json::{Value, json};

/// Checks that all notes have the same patient, encounter and author, however these were referenced.
async fn assert_same_chart(target: &ImportTenant<'_>, notes: i64) {
    let sql = "select count(*) from clinical_notes n join patients p on p.id = n.patient_id join encounters e on e.id \
        = n.encounter_id
        join staff s on s.id = n.author_id and s.name = 'Dr. Max Wolf' where n.tenant_id = $1";
    assert_eq!(target.one::<i64>(sql).await, notes);
    assert_eq!(
        (target.count("patients").await, target.count("encounters").await, target.count("staff").await),
        (1, 1, 1)
    );
}

fn written(id: &str, patient: &str, encounter: &str, author: &str) -> Value {
    let context = json!({ "encounter": [{ "reference": encounter }] });
    with(
        note(id, patient, id),
        json!({ "context": context, "author": [{ "reference": author, "display": "Dr. Max Wolf" }] }),
    )
}

#[tokio::test]
async fn all_notations_refer_to_the_same_resource() {
    for target in ImportTenant::of_each().await {
        let npi = "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|1";
        let done = target
            .import(&[
                written("relative", "Patient/p", "Encounter/e", "Practitioner/d"),
                written("urn", "urn:uuid:p", "urn:uuid:e", "urn:uuid:d"),
                written("versioned", "Patient/p/_history/3", "Encounter/e/_history/2", npi),
                written(
                    "conditional",
                    "Patient?identifier=urn:mrn|mrn-p",
                    "Encounter/e",
                    "Practitioner?identifier=http%3A%2F%2Fhl7.org/fhir/sid/us-npi%7C1",
                ),
                with(
                    written("logical", "Patient/p", "Encounter/e", "Practitioner/d"),
                    json!({ "subject": { "identifier": { "system": "urn:mrn", "value": "mrn-p" } } }),
                ),
                encounter("e", "Patient?identifier=urn:mrn|mrn-p"),
                patient("p"),
                practitioner("d", "1", "Wolf"),
            ])
            .await;
        assert_eq!((done.report.notes, done.rejects.len()), (counts(5, 0, 0, 0), 0), "{:?}", done.rejects);
        assert_same_chart(&target, 5).await;
    }
}

#[tokio::test]
async fn absolute_references_refer_to_their_own_server() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let entry = |url: &str, resource: Value| json!({ "fullUrl": url, "resource": resource });
    let (own, other) = ("https://a.example/fhir", "https://b.example/fhir");
    let at = |server: &str, kind: &str, id: &str| format!("{server}/{kind}/{id}");
    let by = |id: &str, server: &str| {
        let (p, e, d) = (at(server, "Patient", "p"), at(server, "Encounter", "e"), at(server, "Practitioner", "d"));
        written(id, &p, &e, &d)
    };
    let chart = vec![
        entry(&at(own, "Patient", "p"), patient("p")),
        entry(&at(own, "Encounter", "e"), encounter("e", &at(own, "Patient", "p"))),
        entry(&at(own, "Practitioner", "d"), practitioner("d", "1", "Wolf")),
        entry(&at(own, "DocumentReference", "n"), by("n", own)),
        entry("urn:uuid:0f000000-0000-4000-8000-000000000001", by("m", own)),
        entry(&at(own, "DocumentReference", "x"), by("x", other)),
    ];
    let done = target.import_bundle(chart).await;
    assert_eq!(done.report.notes, counts(2, 0, 0, 1));
    assert_eq!(done.rejects, [("DocumentReference".into(), "x".into(), "patient_not_found".into())]);
    assert_same_chart(&target, 2).await;
    // In a later import of a single note, references are resolved for a resource with a URL, but not for one without.
    let later = target.import_bundle(vec![entry(&at(own, "DocumentReference", "n"), by("n", own))]).await;
    assert_eq!((later.report.notes.rejected, later.report.notes.new), (0, 0));
    assert_eq!(target.import(&[by("y", own)]).await.reasons(), ["patient_not_found"]);
}

#[tokio::test]
async fn encounters_are_found_by_their_identifier() {
    for target in ImportTenant::of_each().await {
        let visit = |id: &str, value: &str| {
            let numbers = json!([{ "value": "of nobody" }, { "system": "urn:visit", "value": value }]);
            with(encounter(id, "Patient/p"), json!({ "identifier": numbers }))
        };
        let at = |id: &str, encounter: Value| {
            with(note(id, "Patient/p", id), json!({ "context": { "encounter": [encounter] } }))
        };
        let by_query = |value: &str| json!({ "reference": format!("Encounter?identifier=urn:visit|{value}") });
        let input = [
            at("conditional", by_query("1")),
            at("logical", json!({ "identifier": { "system": "urn:visit", "value": "1" } })),
            at("either", by_query("2")),
            at("neither", by_query("3")),
            patient("p"),
            visit("e", "1"),
            visit("f", "2"),
            visit("g", "2"),
        ];
        let done = target.import(&input).await;
        assert_eq!((done.report.notes, done.rejects.len()), (counts(4, 0, 0, 0), 0), "{:?}", done.rejects);
        let with_encounter =
            "select count(*) from clinical_notes n join encounters e on e.id = n.encounter_id where n.tenant_id = $1";
        assert_eq!(target.one::<i64>(with_encounter).await, 2);
        let encounters = "select count(distinct encounter_id) from clinical_notes where tenant_id = $1";
        assert_eq!(target.one::<i64>(encounters).await, 1);
        assert_eq!(target.import(&input).await.report.notes, counts(0, 0, 4, 0));
    }
}

#[tokio::test]
async fn full_urls_may_differ_from_ids() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let entry = |url: &str, resource: Value| {
        json!({ "fullUrl": url, "resource": resource,
        "request": { "method": "POST", "url": "x" } })
    };
    let (p, e, d) = (
        "urn:uuid:0f000000-0000-4000-8000-000000000001",
        "urn:uuid:0f000000-0000-4000-8000-000000000002",
        "urn:uuid:0f000000-0000-4000-8000-000000000003",
    );
    let entries = vec![
        entry("urn:uuid:0f000000-0000-4000-8000-000000000004", written("n", p, e, d)),
        entry(e, encounter("visit-7", p)),
        entry(d, practitioner("doctor-7", "1", "Wolf")),
        entry(p, patient("patient-7")),
    ];
    let done = target.import_bundle(entries.clone()).await;
    assert_eq!((done.report.notes, done.rejects.len()), (counts(1, 0, 0, 0), 0), "{:?}", done.rejects);
    assert_same_chart(&target, 1).await;
    // The same chart from a server that uses the ids in references.
    let later = target.import(&[written("n", "Patient/patient-7", "Encounter/visit-7", "Practitioner/doctor-7")]).await;
    assert_eq!(later.report.notes.rejected, 0);
    assert_same_chart(&target, 1).await;
}

#[tokio::test]
async fn files_and_resources_may_be_in_any_order() {
    let resources = [
        patient("p"),
        encounter("e", "Patient/p"),
        practitioner("d", "1", "Wolf"),
        written("n", "Patient/p", "Encounter/e", "Practitioner/d"),
    ];
    for turn in 0..resources.len() {
        let target = ImportTenant::of(TenancyModel::Shared).await;
        let mut order = resources.to_vec();
        order.rotate_left(turn);
        let one_each: Vec<_> = order.iter().map(|resource| ndjson(std::slice::from_ref(resource))).collect();
        let done = target.try_import(&one_each).await.unwrap();
        assert_eq!((done.report.files, done.report.notes, done.rejects.len()), (4, counts(1, 0, 0, 0), 0));
        assert_same_chart(&target, 1).await;
        // All resources in one file, in reverse order.
        order.reverse();
        assert_eq!(target.import(&order).await.report.notes, counts(0, 0, 1, 0));
    }
}

#[tokio::test]
async fn unresolved_references_are_reported() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let twin = |id: &str| with(patient(id), json!({ "identifier": [identifier("DL", "urn:dl", "1")] }));
    let group = with(note("g", "Group/g", "x"), json!({}));
    let done = target
        .import(&[
            patient("p"),
            twin("a"),
            twin("b"),
            note("nobody", "Patient/none", "x"),
            note("either", "Patient?identifier=urn:dl|1", "x"),
            group,
            encounter("lost", "Patient/none"),
            // A note whose encounter is missing is imported without it.
            with(
                note("loose", "Patient/p", "x"),
                json!({ "context": { "encounter": [{ "reference": "Encounter/none" }] } }),
            ),
        ])
        .await;
    assert_eq!(done.report.notes, counts(1, 0, 0, 3));
    let mut rejects = done.rejects.clone();
    rejects.sort();
    let expected = [
        ("DocumentReference", "either", "patient_not_found"),
        ("DocumentReference", "g", "subject_not_patient"),
        ("DocumentReference", "nobody", "patient_not_found"),
        ("Encounter", "lost", "patient_not_found"),
    ];
    assert_eq!(rejects, expected.map(|(kind, id, reason)| (kind.into(), id.into(), reason.into())));
    // When the encounter is imported, the note is assigned to it.
    let later = target
        .import(&[
            encounter("none", "Patient/p"),
            with(
                note("loose", "Patient/p", "x"),
                json!({ "context": { "encounter": [{ "reference": "Encounter/none" }] } }),
            ),
        ])
        .await;
    assert_eq!((later.report.encounters, later.report.notes), (counts(1, 0, 0, 0), counts(0, 1, 0, 0)));
    assert_eq!(
        target
            .one::<i64>("select count(*) from clinical_notes where tenant_id = $1 and encounter_id is not null")
            .await,
        1
    );
}

#[tokio::test]
async fn valid_resources_of_broken_files_are_imported() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let cut = format!(
        "{}\n{}\n{}",
        patient("p"),
        note("n", "Patient/p", "kept"),
        &note("m", "Patient/p", "lost").to_string()[..120]
    );
    let files = [
        file("ndjson", &cut),
        file("json", "%PDF-1.4 not at all"),
        file("ndjson", ""),
        file("json", "{\"resourceType\":\"Bundle\",\"entry\":["),
    ];
    let done = target.try_import(&files).await.unwrap();
    assert_eq!((done.report.patients, done.report.notes.new), (counts(1, 0, 0, 0), 1), "{:?}", done.rejects);
    assert!(done.reasons().contains(&"malformed_json") && done.reasons().contains(&"not_fhir"), "{:?}", done.rejects);
    assert_eq!(done.report.rejects as usize, done.rejects.len());
}
