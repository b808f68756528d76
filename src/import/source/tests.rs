//! Tests of the input as a whole: order of resources, duplicates, malformed files.

use super::batch::MAX_BATCH_RESOURCES;
use super::*;
use serde_json::{Value, json};

/// All messages of a source, sorted by their kind.
#[derive(Default)]
struct Collected {
    practitioners: Vec<ImportedPractitioner>,
    patients: Vec<ImportedPatient>,
    encounters: Vec<ImportedEncounter>,
    notes: Vec<ImportedNote>,
    /// Each as `line type id reason`, with a dash for a missing value.
    rejects: Vec<String>,
    skipped: BTreeMap<String, u64>,
    order: Vec<&'static str>,
}

fn read_all(inputs: Vec<Input>) -> Collected {
    let mut messages = Source { inputs }.read(2).unwrap();
    let mut collected = Collected::default();
    let mut finished = false;
    while let Some(message) = messages.blocking_recv() {
        match message {
            ReaderMessage::Counted(_) => collected.order.push("counts"),
            ReaderMessage::Batch(Batch::Practitioners(batch)) => {
                collected.practitioners.extend(batch.into_iter().map(|one| one.resource))
            }
            ReaderMessage::Batch(Batch::Patients(batch)) => {
                collected.order.push("patients");
                collected.patients.extend(batch.into_iter().map(|one| one.resource));
            }
            ReaderMessage::Batch(Batch::Encounters(batch)) => {
                collected.order.push("encounters");
                collected.encounters.extend(batch.into_iter().map(|one| one.resource));
            }
            ReaderMessage::Batch(Batch::Notes(batch)) => {
                collected.order.push("notes");
                collected.notes.extend(batch.into_iter().map(|one| one.resource));
            }
            ReaderMessage::Rejected(reject) => collected.rejects.push(summary_of(&reject)),
            ReaderMessage::Finished(summary) => {
                finished = true;
                collected.skipped = summary.skipped;
            }
        }
    }
    assert!(finished);
    collected
}

fn summary_of(reject: &Reject) -> String {
    let line = reject.line.map_or("-".into(), |line| line.to_string());
    let or_dash = |text: &Option<String>| text.clone().unwrap_or("-".into());
    format!("{line} {} {} {}", or_dash(&reject.type_name), or_dash(&reject.id), reject.reason.code())
}

fn lines(resources: &[Value]) -> Input {
    let text: Vec<String> = resources.iter().map(Value::to_string).collect();
    Input::spooled(format!("{}\n", text.join("\n")).as_bytes())
}

fn bundle(entries: Value) -> Input {
    Input::spooled(json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries }).to_string().as_bytes())
}

fn patient() -> Value {
    json!({ "resourceType": "Patient", "id": "p" })
}

fn encounter() -> Value {
    json!({ "resourceType": "Encounter", "id": "e", "status": "finished", "subject": { "reference": "Patient/p" } })
}

fn document(id: &str, data: &str) -> Value {
    json!({ "resourceType": "DocumentReference", "id": id, "status": "current", "subject": { "reference": "Patient/p" },
        "content": [{ "attachment": { "contentType": "text/plain", "data": data } }] })
}

fn report(id: &str, data: Option<&str>) -> Value {
    let form: Vec<Value> = data.map(|data| json!({ "contentType": "text/plain", "data": data })).into_iter().collect();
    json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "subject": { "reference": "urn:uuid:p" },
        "presentedForm": form })
}

#[test]
fn referenced_resources_come_first_in_any_order_of_the_input() {
    let collected = read_all(vec![
        lines(&[document("n", "dGV4dA=="), encounter()]),
        lines(&[patient(), json!({ "resourceType": "Observation" })]),
    ]);
    assert_eq!(collected.order, ["counts", "patients", "encounters", "notes"]);
    assert_eq!(collected.skipped, BTreeMap::from([("Observation".into(), 1)]));
    assert!(collected.rejects.is_empty());
}

#[test]
fn references_by_full_url_are_resolved_within_the_bundle() {
    let collected = read_all(vec![bundle(json!([
        { "fullUrl": "urn:uuid:3", "resource": { "resourceType": "DocumentReference", "id": "n",
            "subject": { "reference": "urn:uuid:1" },
            "author": [{ "reference": "urn:uuid:4" }], "context": { "encounter": [{ "reference": "urn:uuid:2" }] },
            "content": [{ "attachment": { "contentType": "text/plain", "data": "dGV4dA==" } }] } },
        { "fullUrl": "urn:uuid:2", "resource": { "resourceType": "Encounter",
            "subject": { "reference": "urn:uuid:1" } } },
        { "fullUrl": "urn:uuid:4", "resource": { "resourceType": "Practitioner", "id": "d" } },
        { "fullUrl": "urn:uuid:1", "resource": { "resourceType": "Patient", "id": "p" }, "request": { "method": "PUT",
            "url": "Patient/p" } }
    ]))]);
    assert!(collected.rejects.is_empty());
    assert_eq!(collected.encounters[0].key, "Encounter/2");
    assert_eq!(collected.encounters[0].patient, SourceRef::Key("Patient/p".into()));
    let note = &collected.notes[0];
    assert_eq!(
        (&note.patient, &note.encounter),
        (&SourceRef::Key("Patient/p".into()), &Some(SourceRef::Key("Encounter/2".into())))
    );
    assert_eq!(note.author.as_ref().unwrap().reference, Some(SourceRef::Key("Practitioner/d".into())));
}

#[test]
fn a_report_that_repeats_a_document_is_skipped() {
    let same =
        [document("n", "dGV4dA=="), report("r1", Some("dGV4dA==")), report("r2", Some("b3RoZXI=")), report("r3", None)];
    let mut bare = report("r4", None);
    bare.as_object_mut().unwrap().remove("presentedForm");
    let collected = read_all(vec![lines(&same), lines(&[bare])]);
    let keys: Vec<_> = collected.notes.iter().map(|note| note.key.as_str()).collect();
    assert_eq!(keys, ["DocumentReference/n", "DiagnosticReport/r2"]);
    assert_eq!(collected.skipped, BTreeMap::from([("DiagnosticReport".into(), 3)]));
}

#[test]
fn each_unreadable_resource_is_rejected_once_and_the_others_are_read() {
    let mut text = Vec::new();
    for line in [
        patient().to_string(),
        "{\"resourceType\":\"Patient\",\"id\":7}".into(),
        "{\"level\":\"info\"}".into(),
        document("n", "%%").to_string(),
    ] {
        text.extend_from_slice(format!("{line}\r\n").as_bytes());
    }
    text.extend_from_slice(b"{\"resourceType\":\"Patient\",\"id\":\"\xff\"}\n");
    text.extend_from_slice(
        b"{\"resourceType\":\"Patient\",\"birthDate\":\"1980-01-01\"}\n{\"resourceType\":\"Encounter\",\"id\":\"e",
    );
    let collected = read_all(vec![Input::spooled(&text)]);
    let expected = [
        "2 Patient - invalid_resource",
        "3 - - not_fhir",
        "5 - - invalid_utf8",
        "7 Encounter - malformed_json",
        "6 Patient - no_id",
        "4 DocumentReference n bad_base64",
    ];
    assert_eq!(collected.rejects, expected);
    assert_eq!(collected.patients.len(), 1);
}

#[test]
fn a_file_without_fhir_is_one_reject() {
    let log = Input::spooled(b"{\"level\":\"info\"}\n{\"level\":\"warn\"}\n{\"level\":\"info\"}\n");
    assert_eq!(read_all(vec![log, lines(&[patient()])]).rejects, ["1 - - not_fhir"]);
    for text in ["<ClinicalDocument/>", "", "MSH|^~\\&|A\rPID|1\r", "[]", "[{\"resourceType\":\"Patient\"}]"] {
        let collected = read_all(vec![Input::spooled(text.as_bytes())]);
        assert_eq!(collected.rejects, ["1 - - not_fhir"], "{text}");
    }
}

#[test]
fn the_entries_before_the_end_of_a_truncated_bundle_are_read() {
    let whole = json!({ "resourceType": "Bundle", "entry": [{ "resource": patient() }, { "resource": encounter() }] })
        .to_string();
    let collected = read_all(vec![Input::spooled(&whole.as_bytes()[..whole.len() - 40])]);
    assert_eq!((collected.patients.len(), collected.encounters.len()), (1, 0));
    assert_eq!(collected.rejects, ["2 - - malformed_json"]);
}

#[test]
fn deletions_are_rejected_and_responses_ignored() {
    let collected = read_all(vec![bundle(json!([
        { "request": { "method": "DELETE", "url": "Patient/p" } },
        { "response": { "status": "201" } },
        { "resource": { "resourceType": "Bundle", "entry": [] } },
        { "resource": patient() }
    ]))]);
    assert_eq!(collected.rejects, ["1 Patient p delete_not_supported"]);
    assert_eq!((collected.patients.len(), collected.skipped.get("Bundle")), (1, Some(&1)));
}

#[test]
fn a_line_may_be_a_bundle() {
    let one = |id: &str| {
        json!({ "resourceType": "Bundle", "entry": [{ "resource": { "resourceType": "Patient",
        "id": id } }, { "resource": { "resourceType": "Patient" } }] })
    };
    let collected = read_all(vec![lines(&[one("a"), one("b")])]);
    assert_eq!(
        collected.patients.iter().map(|patient| patient.key.as_str()).collect::<Vec<_>>(),
        ["Patient/a", "Patient/b"]
    );
    assert_eq!(collected.rejects, ["1 Patient - no_id", "2 Patient - no_id"]);
}

#[test]
fn a_file_that_disappears_is_one_reject() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    std::fs::write(&path, patient().to_string()).unwrap();
    let source = Source::open(std::slice::from_ref(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read_all(source.inputs).rejects, ["- - - unreadable"]);
}

#[test]
fn the_reader_ends_when_the_receiver_is_dropped() {
    let many: Vec<Value> = (0..2000).map(|at| document(&at.to_string(), "dGV4dA==")).collect();
    let mut messages = Source { inputs: vec![lines(&many)] }.read(1).unwrap();
    assert!(matches!(messages.blocking_recv(), Some(ReaderMessage::Counted(_))));
    let Some(ReaderMessage::Batch(Batch::Notes(batch))) = messages.blocking_recv() else { panic!("no batch") };
    assert_eq!(batch.len(), MAX_BATCH_RESOURCES);
    drop(messages);
}
