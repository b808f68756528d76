//! Charts made for a test, as FHIR, brought in by the importer. Every text in them carries the chart's mark, a word that occurs nowhere
//! else, so that a test can ask whether anything of it came out.

use crate::run_dir;
use crate::site::Site;
use cordon::import::source::Source;
use cordon::import::{self, Report, Store};
use cordon::isolation::BootCheck;
use cordon::tenant::Tenant;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What every patient has an identifier of, in every tenant.
pub const SYSTEM: &str = "http://hospital.test/mrn";

/// Charts to be made.
#[derive(Debug, Clone, Copy)]
pub struct Charts<'a> {
    /// In every text.
    pub mark: &'a str,
    pub patients: usize,
    /// Of each patient.
    pub encounters: usize,
    /// Of each encounter; and one of none, the oldest.
    pub notes: usize,
}

impl Charts<'_> {
    /// One resource a line.
    pub fn ndjson(&self) -> String {
        let mark = self.mark;
        let mut lines =
            vec![json!({ "resourceType": "Practitioner", "id": "doc", "name": [{ "family": format!("{mark}doc") }] })];
        for p in 0..self.patients {
            lines.push(json!({ "resourceType": "Patient", "id": format!("p{p}"), "gender": "female", "birthDate": "1970-02-03",
                "identifier": [{ "system": SYSTEM, "value": self.number(p) }, { "system": self.system(), "value": format!("common-{p}") }],
                "name": [{ "family": format!("{mark}family"), "given": [format!("{mark}given")] }] }));
            for e in 0..self.encounters {
                let id = format!("p{p}e{e}");
                lines.push(json!({ "resourceType": "Encounter", "id": id, "status": "finished", "class": { "code": "AMB" },
                    "subject": { "reference": format!("Patient/p{p}") }, "reasonCode": [{ "text": format!("{mark}reason") }],
                    "period": { "start": time(e, 0), "end": time(e, 59) } }));
                for n in 0..self.notes {
                    lines.push(document(p, Some(&id), &format!("{id}n{n}"), &time(e, n), mark));
                }
            }
            lines.push(document(p, None, &format!("p{p}loose"), "2019-06-01T08:00:00Z", mark));
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The record number of a patient.
    pub fn number(&self, patient: usize) -> String {
        format!("{}-mrn-{patient}", self.mark)
    }

    /// A system that no other chart knows.
    pub fn system(&self) -> String {
        format!("http://{}.test/id", self.mark)
    }

    /// Brings them in.
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

/// A note in FHIR.
pub fn document(patient: usize, encounter: Option<&str>, id: &str, date: &str, mark: &str) -> Value {
    let mut note = json!({ "resourceType": "DocumentReference", "id": id, "status": "current", "date": date,
        "subject": { "reference": format!("Patient/p{patient}") }, "author": [{ "reference": "Practitioner/doc" }],
        "type": { "coding": [{ "system": "http://loinc.org", "code": "34117-2", "display": "History and physical note" }] },
        "content": [{ "attachment": { "contentType": "text/plain; charset=utf-8", "title": format!("{mark}title {id}"),
            "data": base64(format!("{mark}body of {id}.").as_bytes()) } }] });
    if let Some(encounter) = encounter {
        note["context"] = json!({ "encounter": [{ "reference": format!("Encounter/{encounter}") }] });
    }
    note
}

/// As FHIR carries texts.
pub fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Runs the importer over a text.
pub async fn import(site: &Site, tenant: &Tenant, ndjson: &str) -> Report {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let file = run_dir().join(format!("charts-{}.ndjson", NUMBER.fetch_add(1, Ordering::Relaxed)));
    std::fs::write(&file, ndjson).unwrap();
    let app = site.app(BootCheck::Dev);
    let store = Store::new(Arc::clone(&app.guards), tenant.id, "fhir");
    import::run(Source::open(&[file]).unwrap(), store, None, |_| ()).await.unwrap()
}

/// A time of its own for everything: an encounter a day, a note a minute.
fn time(day: usize, minute: usize) -> String {
    let (month, day) = (day / 28 + 1, day % 28 + 1);
    let (hour, minute) = (minute / 60, minute % 60);
    format!("2020-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z")
}
