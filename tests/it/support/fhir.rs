//! FHIR resources for import tests, and files of them.

use crate::support::run_dir;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::PathBuf;
use uuid::Uuid;

/// Writes a file with a unique name in the directory of the run.
pub fn file(extension: &str, text: &str) -> PathBuf {
    let path = run_dir().join(format!("{}.{extension}", Uuid::now_v7()));
    std::fs::write(&path, text).unwrap();
    path
}

/// Writes the resources to a file, one per line.
pub fn ndjson(resources: &[Value]) -> PathBuf {
    file("ndjson", &resources.iter().map(|resource| format!("{resource}\n")).collect::<String>())
}

/// Replaces elements of a resource. The value `null` removes an element.
pub fn with(mut resource: Value, elements: Value) -> Value {
    let object = resource.as_object_mut().unwrap();
    for (name, element) in elements.as_object().unwrap() {
        match element {
            Value::Null => object.remove(name),
            element => object.insert(name.clone(), element.clone()),
        };
    }
    resource
}

pub fn patient(id: &str) -> Value {
    json!({ "resourceType": "Patient", "id": id, "name": [{ "family": "Lee", "given": ["Ann"] }],
        "birthDate": "1980-02-01",
            "gender": "female", "identifier": [identifier("MR", "urn:mrn", &format!("mrn-{id}"))] })
}

/// An `Identifier` whose type has this code of HL7 v2 table 0203.
pub fn identifier(kind: &str, system: &str, value: &str) -> Value {
    let coding = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": kind }]);
    json!({ "type": { "coding": coding }, "system": system, "value": value })
}

pub fn encounter(id: &str, patient: &str) -> Value {
    json!({ "resourceType": "Encounter", "id": id, "status": "finished", "class": { "code": "AMB" },
        "subject": { "reference": patient },
            "period": { "start": "2024-05-06T07:08:09+02:00" }, "reasonCode": [{ "text": "Fever" }] })
}

pub fn practitioner(id: &str, npi: &str, family: &str) -> Value {
    json!({ "resourceType": "Practitioner", "id": id, "identifier": [{ "system": "http://hl7.org/fhir/sid/us-npi",
        "value": npi }],
            "name": [{ "prefix": ["Dr."], "given": ["Max"], "family": family }] })
}

/// A `DocumentReference` of a patient with this text.
pub fn note(id: &str, patient: &str, text: &str) -> Value {
    json!({ "resourceType": "DocumentReference", "id": id, "status": "current", "date": "2024-05-06T07:30:00.123+02:00",
            "type": { "coding": [{ "system": "http://loinc.org", "code": "34117-2", "display": "History and physical \
                note" }] },
            "subject": { "reference": patient }, "content": [attachment(text)] })
}

/// A `DiagnosticReport` with this text as presented form.
pub fn report(id: &str, patient: &str, text: &str) -> Value {
    json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "issued": "2024-05-06T08:00:00Z",
            "code": { "coding": [{ "system": "http://loinc.org", "code": "34117-2" }] },
            "subject": { "reference": patient }, "presentedForm": [attachment(text)["attachment"].clone()] })
}

pub fn attachment(text: &str) -> Value {
    json!({ "attachment": { "contentType": "text/plain; charset=utf-8", "data": STANDARD.encode(text) } })
}
