//! Charts in FHIR for tests, loaded by the importer. Every text in them contains a mark, a word that occurs nowhere
//! else, so that a test can check whether any text of the chart was disclosed.

use crate::support::run_dir;
use crate::support::site::Site;
use cordon::import::source::Source;
use cordon::import::{self, Report, Store};
use cordon::isolation::BootCheck;
use cordon::tenant::Tenant;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The identifier system in which every patient of every tenant has a record number.
pub const SYSTEM: &str = "http://hospital.test/mrn";

/// How many charts, and with what content.
#[derive(Debug, Clone, Copy)]
pub struct FhirCharts<'a> {
    /// The word in every text.
    pub mark: &'a str,
    pub patients: usize,
    /// The number of encounters of each patient.
    pub encounters: usize,
    /// The number of notes of each encounter. Each patient has one more note, the oldest, without an encounter.
    pub notes: usize,
}

impl FhirCharts<'_> {
    /// Returns the resources as NDJSON.
    pub fn ndjson(&self) -> String {
        let mark = self.mark;
        let mut lines =
            vec![json!({ "resourceType": "Practitioner", "id": "doc", "name": [{ "family": format!("{mark}doc") }] })];
        for p in 0..self.patients {
            lines.push(json!({ "resourceType": "Patient", "id": format!("p{p}"), "gender": "female",
                "birthDate": "1970-02-03",
                "identifier": [{ "system": SYSTEM, "value": self.record_number(p) }, { "system": self.system(),
                    "value": format!("common-{p}") }],
                "name": [{ "family": format!("{mark}family"), "given": [format!("{mark}given")] }] }));
            for e in 0..self.encounters {
                let id = format!("p{p}e{e}");
                lines.push(json!({ "resourceType": "Encounter", "id": id, "status": "finished",
                    "class": { "code": "AMB" },
                    "subject": { "reference": format!("Patient/p{p}") },
                        "reasonCode": [{ "text": format!("{mark}reason") }],
                    "period": { "start": time(e, 0), "end": time(e, 59) } }));
                for n in 0..self.notes {
                    lines.push(document(p, Some(&id), &format!("{id}n{n}"), &time(e, n), mark));
                }
            }
            lines.push(document(p, None, &format!("p{p}loose"), "2019-06-01T08:00:00Z", mark));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Returns the record number of a patient in `SYSTEM`.
    pub fn record_number(&self, patient: usize) -> String {
        format!("{}-mrn-{patient}", self.mark)
    }

    /// Returns an identifier system that is used by these charts only.
    pub fn system(&self) -> String {
        format!("http://{}.test/id", self.mark)
    }

    /// Imports the charts and checks that nothing was rejected.
    pub async fn import(&self, site: &Site, tenant: &Tenant) {
        let report = import(site, tenant, &self.ndjson()).await;
        let notes = self.patients * (self.encounters * self.notes + 1);
        assert_eq!(
            (report.patients.new, report.notes.new, report.rejects),
            (self.patients as u64, notes as u64, 0),
            "{report:?}"
        );
    }
}

/// A note as a FHIR `DocumentReference`.
pub fn document(patient: usize, encounter: Option<&str>, id: &str, date: &str, mark: &str) -> Value {
    let mut note = json!({ "resourceType": "DocumentReference", "id": id, "status": "current", "date": date,
        "subject": { "reference": format!("Patient/p{patient}") }, "author": [{ "reference": "Practitioner/doc" }],
        "type": { "coding": [{ "system": "http://loinc.org", "code": "34117-2", "display": "History and physical \
            note" }] },
        "content": [{ "attachment": { "contentType": "text/plain; charset=utf-8", "title": format!("{mark}title {id}"),
            "data": base64(format!("{mark}body of {id}.").as_bytes()) } }] });
    if let Some(encounter) = encounter {
        note["context"] = json!({ "encounter": [{ "reference": format!("Encounter/{encounter}") }] });
    }
    note
}

/// Encodes bytes as FHIR attachments carry them.
pub fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Runs the importer with NDJSON.
pub async fn import(site: &Site, tenant: &Tenant, ndjson: &str) -> Report {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let file = run_dir().join(format!("charts-{}.ndjson", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&file, ndjson).unwrap();
    let app = site.app(BootCheck::Dev);
    let store = Store::new(Arc::clone(&app.guards), tenant.id, "fhir");
    import::run(Source::open(&[file]).unwrap(), store, None, |_| ()).await.unwrap()
}

/// Returns a distinct time: one day per encounter, one minute per note.
fn time(day: usize, minute: usize) -> String {
    let (month, day) = (day / 28 + 1, day % 28 + 1);
    let (hour, minute) = (minute / 60, minute % 60);
    format!("2020-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z")
}
