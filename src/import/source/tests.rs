//! The input as a whole: orders, duplicates, odd files.

use super::*;
use serde_json::{Value, json};

/// Everything a source tells, sorted by what it is.
#[derive(Default)]
struct Told {
    practitioners: Vec<ImportedPractitioner>,
    patients: Vec<ImportedPatient>,
    encounters: Vec<ImportedEncounter>,
    notes: Vec<ImportedNote>,
    /// `line type id reason`, a dash for what is not known.
    rejects: Vec<String>,
    skipped: BTreeMap<String, u64>,
    order: Vec<&'static str>,
}

fn tell(inputs: Vec<Input>) -> Told {
    let mut readings = Source { inputs }.read(2).unwrap();
    let mut told = Told::default();
    let mut finished = false;
    while let Some(reading) = readings.blocking_recv() {
        match reading {
            Reading::Surveyed(_) => told.order.push("survey"),
            Reading::Batch(Batch::Practitioners(batch)) => {
                told.practitioners.extend(batch.into_iter().map(|one| one.resource))
            }
            Reading::Batch(Batch::Patients(batch)) => {
                told.order.push("patients");
                told.patients.extend(batch.into_iter().map(|one| one.resource));
            }
            Reading::Batch(Batch::Encounters(batch)) => {
                told.order.push("encounters");
                told.encounters.extend(batch.into_iter().map(|one| one.resource));
            }
            Reading::Batch(Batch::Notes(batch)) => {
                told.order.push("notes");
                told.notes.extend(batch.into_iter().map(|one| one.resource));
            }
            Reading::Rejected(reject) => told.rejects.push(brief(&reject)),
            Reading::Finished(tally) => {
                finished = true;
                told.skipped = tally.skipped;
            }
        }
    }
    assert!(finished);
    told
}

fn brief(reject: &Reject) -> String {
    let line = reject.line.map_or("-".into(), |line| line.to_string());
    let known = |text: &Option<String>| text.clone().unwrap_or("-".into());
    format!("{line} {} {} {}", known(&reject.type_name), known(&reject.id), reject.reason.code())
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
    json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "subject": { "reference": "urn:uuid:p" }, "presentedForm": form })
}

#[test]
fn what_is_referred_to_comes_first_whatever_the_order() {
    let told = tell(vec![
        lines(&[document("n", "dGV4dA=="), encounter()]),
        lines(&[patient(), json!({ "resourceType": "Observation" })]),
    ]);
    assert_eq!(told.order, ["survey", "patients", "encounters", "notes"]);
    assert_eq!(told.skipped, BTreeMap::from([("Observation".into(), 1)]));
    assert!(told.rejects.is_empty());
}

#[test]
fn full_urls_are_the_addresses_within_their_bundle() {
    let told = tell(vec![bundle(json!([
        { "fullUrl": "urn:uuid:3", "resource": { "resourceType": "DocumentReference", "id": "n", "subject": { "reference": "urn:uuid:1" },
            "author": [{ "reference": "urn:uuid:4" }], "context": { "encounter": [{ "reference": "urn:uuid:2" }] },
            "content": [{ "attachment": { "contentType": "text/plain", "data": "dGV4dA==" } }] } },
        { "fullUrl": "urn:uuid:2", "resource": { "resourceType": "Encounter", "subject": { "reference": "urn:uuid:1" } } },
        { "fullUrl": "urn:uuid:4", "resource": { "resourceType": "Practitioner", "id": "d" } },
        { "fullUrl": "urn:uuid:1", "resource": { "resourceType": "Patient", "id": "p" }, "request": { "method": "PUT", "url": "Patient/p" } }
    ]))]);
    assert!(told.rejects.is_empty());
    assert_eq!(told.encounters[0].key, "Encounter/2");
    assert_eq!(told.encounters[0].patient, SourceRef::Key("Patient/p".into()));
    let note = &told.notes[0];
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
    let told = tell(vec![lines(&same), lines(&[bare])]);
    let keys: Vec<_> = told.notes.iter().map(|note| note.key.as_str()).collect();
    assert_eq!(keys, ["DocumentReference/n", "DiagnosticReport/r2"]);
    assert_eq!(told.skipped, BTreeMap::from([("DiagnosticReport".into(), 3)]));
}

#[test]
fn what_cannot_be_read_is_told_once_and_the_rest_goes_on() {
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
    let told = tell(vec![Input::spooled(&text)]);
    let expected = [
        "2 Patient - invalid_resource",
        "3 - - not_fhir",
        "5 - - invalid_utf8",
        "7 Encounter - malformed_json",
        "6 Patient - no_id",
        "4 DocumentReference n bad_base64",
    ];
    assert_eq!(told.rejects, expected);
    assert_eq!(told.patients.len(), 1);
}

#[test]
fn a_file_that_is_not_fhir_is_one_reject() {
    let log = Input::spooled(b"{\"level\":\"info\"}\n{\"level\":\"warn\"}\n{\"level\":\"info\"}\n");
    assert_eq!(tell(vec![log, lines(&[patient()])]).rejects, ["1 - - not_fhir"]);
    for text in ["<ClinicalDocument/>", "", "MSH|^~\\&|A\rPID|1\r", "[]", "[{\"resourceType\":\"Patient\"}]"] {
        let told = tell(vec![Input::spooled(text.as_bytes())]);
        assert_eq!(told.rejects, ["1 - - not_fhir"], "{text}");
    }
}

#[test]
fn a_bundle_cut_short_keeps_what_came_before() {
    let whole = json!({ "resourceType": "Bundle", "entry": [{ "resource": patient() }, { "resource": encounter() }] })
        .to_string();
    let told = tell(vec![Input::spooled(&whole.as_bytes()[..whole.len() - 40])]);
    assert_eq!((told.patients.len(), told.encounters.len()), (1, 0));
    assert_eq!(told.rejects, ["2 - - malformed_json"]);
}

#[test]
fn deletions_are_refused_and_answers_passed_over() {
    let told = tell(vec![bundle(json!([
        { "request": { "method": "DELETE", "url": "Patient/p" } },
        { "response": { "status": "201" } },
        { "resource": { "resourceType": "Bundle", "entry": [] } },
        { "resource": patient() }
    ]))]);
    assert_eq!(told.rejects, ["1 Patient p delete_not_supported"]);
    assert_eq!((told.patients.len(), told.skipped.get("Bundle")), (1, Some(&1)));
}

#[test]
fn bundles_may_stand_in_lines() {
    let one = |id: &str| json!({ "resourceType": "Bundle", "entry": [{ "resource": { "resourceType": "Patient", "id": id } }, { "resource": { "resourceType": "Patient" } }] });
    let told = tell(vec![lines(&[one("a"), one("b")])]);
    assert_eq!(
        told.patients.iter().map(|patient| patient.key.as_str()).collect::<Vec<_>>(),
        ["Patient/a", "Patient/b"]
    );
    assert_eq!(told.rejects, ["1 Patient - no_id", "2 Patient - no_id"]);
}

#[test]
fn a_file_that_goes_away_is_a_reject() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.json");
    std::fs::write(&path, patient().to_string()).unwrap();
    let source = Source::open(std::slice::from_ref(&path)).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(tell(source.inputs).rejects, ["- - - unreadable"]);
}

#[test]
fn the_reader_ends_when_nobody_listens() {
    let many: Vec<Value> = (0..2000).map(|at| document(&at.to_string(), "dGV4dA==")).collect();
    let mut readings = Source { inputs: vec![lines(&many)] }.read(1).unwrap();
    assert!(matches!(readings.blocking_recv(), Some(Reading::Surveyed(_))));
    let Some(Reading::Batch(Batch::Notes(batch))) = readings.blocking_recv() else { panic!("no batch") };
    assert_eq!(batch.len(), BATCH);
    drop(readings);
}
