//! Imports into tenants of the three models, from FHIR that the tests write: what goes in, what became of it, row by row.

mod again;
mod changed_here;
mod identity;
mod interrupted;
mod odd;
mod record;
mod references;

use crate::run_dir;
use crate::site::{MODELS, Site};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cordon::app::App;
use cordon::crypto::{Field, Sealed, TenantKeys};
use cordon::import::rejects::Rejects;
use cordon::import::source::Source;
use cordon::import::{self, Counts, Report, Store};
use cordon::isolation::BootCheck;
use cordon::model::fields::{NoteBody, NoteTitle};
use cordon::ops::OpsError;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

/// A tenant to import into.
pub struct Clinic<'s> {
    pub site: &'s Site,
    pub app: Arc<App>,
    pub tenant: Tenant,
}

/// What an import says it did.
pub struct Outcome {
    pub report: Report,
    /// Type, id and reason of each reject.
    pub rejects: Vec<(String, String, String)>,
}

/// A note as it lies in the database, opened.
#[derive(Debug, PartialEq)]
pub struct StoredNote {
    pub status: String,
    pub current_version: i32,
    pub titles: Vec<Option<String>>,
    pub bodies: Vec<String>,
}

impl Clinic<'static> {
    /// A clinic of its own in the installation that tests share.
    pub async fn of(model: TenancyModel) -> Self {
        Self::at(Site::shared().await, model).await
    }

    /// One of each model.
    pub async fn of_each() -> Vec<Self> {
        let mut all = Vec::new();
        for model in MODELS {
            all.push(Self::of(model).await);
        }
        all
    }
}

impl<'s> Clinic<'s> {
    pub async fn at(site: &'s Site, model: TenancyModel) -> Self {
        let tenant = site.tenant(model).await;
        Self { site, app: site.app(BootCheck::Dev), tenant }
    }

    /// Imports NDJSON; it must not fail.
    pub async fn import(&self, resources: &[Value]) -> Outcome {
        self.try_import(&[ndjson(resources)]).await.unwrap()
    }

    /// Imports a Bundle of these entries.
    pub async fn import_bundle(&self, entries: Vec<Value>) -> Outcome {
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        self.try_import(&[file("json", &bundle.to_string())]).await.unwrap()
    }

    pub async fn try_import(&self, files: &[PathBuf]) -> Result<Outcome, OpsError> {
        self.try_import_from("fhir", files).await
    }

    /// Imports what another system sends.
    pub async fn try_import_from(&self, source: &str, files: &[PathBuf]) -> Result<Outcome, OpsError> {
        let rejects = run_dir().join(format!("{}.rejects", Uuid::now_v7()));
        let store = Store::new(Arc::clone(&self.app.guards), self.tenant.id, source);
        let report = import::run(Source::open(files).unwrap(), store, Some(Rejects::create(&rejects)?), |_| {}).await?;
        let lines = std::fs::read_to_string(rejects)?;
        let rejects = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (text("type"), text("id"), text("reason"))
        });
        Ok(Outcome { report, rejects: rejects.collect() })
    }

    pub fn store(&self) -> Store {
        Store::new(Arc::clone(&self.app.guards), self.tenant.id, "fhir")
    }

    /// Rows as a superuser sees them, with the tenant's tables first in the path; `$1` is the tenant.
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        let placement = self.tenant.placement.as_ref().unwrap();
        let session = self.site.superuser(&placement.database).await;
        session.batch_execute(&format!("set search_path = {}; set timezone = 'UTC'", placement.schema)).await.unwrap();
        session.query(&sql.replace("$1", &format!("uuid '{}'", self.tenant.id)), &[]).await.unwrap()
    }

    /// The first column of the only row.
    pub async fn one<T: for<'a> FromSql<'a>>(&self, sql: &str) -> T {
        let rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}");
        rows[0].get(0)
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.one(&format!("select count(*) from {table} where tenant_id = $1")).await
    }

    /// The newest transaction that changed anything.
    pub async fn last_change(&self) -> i64 {
        let tables = [
            "staff",
            "patients",
            "patient_identifiers",
            "patient_terms",
            "encounters",
            "note_types",
            "clinical_notes",
            "note_versions",
        ];
        let newest =
            tables.map(|table| format!("select max(changed_in::text::bigint) from {table} where tenant_id = $1"));
        self.one(&format!("select max(max) from ({}) as all_of_them", newest.join(" union all "))).await
    }

    pub async fn keys(&self) -> Arc<TenantKeys> {
        self.app.keys.tenant(self.tenant.id).await.unwrap()
    }

    /// Opens a sealed column of a row.
    pub async fn open<F: Field>(&self, row: Uuid, sealed: Vec<u8>) -> F::Plain {
        self.keys().await.open::<F>(row, &Sealed::from_bytes(sealed)).unwrap()
    }

    /// All notes with all their versions, in the order they were first stored.
    pub async fn notes(&self) -> Vec<StoredNote> {
        let sql = "select n.id::text, n.status, n.current_version, v.id::text, v.title_sealed, v.body_sealed from clinical_notes n
            join note_versions v on v.tenant_id = n.tenant_id and v.note_id = n.id where n.tenant_id = $1 order by n.id, v.number";
        let mut notes: Vec<(Uuid, StoredNote)> = Vec::new();
        for row in self.rows(sql).await {
            let (note, version) = (id(&row, 0), id(&row, 3));
            if notes.last().is_none_or(|(last, _)| *last != note) {
                let stored = StoredNote {
                    status: row.get(1),
                    current_version: row.get(2),
                    titles: Vec::new(),
                    bodies: Vec::new(),
                };
                notes.push((note, stored));
            }
            let title = match row.get::<_, Option<Vec<u8>>>(4) {
                Some(sealed) => Some(self.open::<NoteTitle>(version, sealed).await),
                None => None,
            };
            let stored = &mut notes.last_mut().unwrap().1;
            stored.titles.push(title);
            stored.bodies.push(self.open::<NoteBody>(version, row.get(5)).await);
        }
        notes.into_iter().map(|(_, note)| note).collect()
    }
}

impl Outcome {
    /// Reasons of all rejects.
    pub fn reasons(&self) -> Vec<&str> {
        self.rejects.iter().map(|(_, _, reason)| reason.as_str()).collect()
    }
}

pub fn counts(new: u64, updated: u64, unchanged: u64, rejected: u64) -> Counts {
    Counts { new, updated, unchanged, rejected }
}

/// An id that was selected as text.
pub fn id(row: &Row, column: usize) -> Uuid {
    row.get::<_, &str>(column).parse().unwrap()
}

/// A file of this run.
pub fn file(extension: &str, text: &str) -> PathBuf {
    let path = run_dir().join(format!("{}.{extension}", Uuid::now_v7()));
    std::fs::write(&path, text).unwrap();
    path
}

pub fn ndjson(resources: &[Value]) -> PathBuf {
    file("ndjson", &resources.iter().map(|resource| format!("{resource}\n")).collect::<String>())
}

/// A resource with some elements other than usual; `null` takes one away.
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
    json!({ "resourceType": "Patient", "id": id, "name": [{ "family": "Lee", "given": ["Ann"] }], "birthDate": "1980-02-01",
            "gender": "female", "identifier": [number("MR", "urn:mrn", &format!("mrn-{id}"))] })
}

pub fn number(kind: &str, system: &str, value: &str) -> Value {
    let coding = json!([{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": kind }]);
    json!({ "type": { "coding": coding }, "system": system, "value": value })
}

pub fn encounter(id: &str, patient: &str) -> Value {
    json!({ "resourceType": "Encounter", "id": id, "status": "finished", "class": { "code": "AMB" }, "subject": { "reference": patient },
            "period": { "start": "2024-05-06T07:08:09+02:00" }, "reasonCode": [{ "text": "Fever" }] })
}

pub fn practitioner(id: &str, npi: &str, family: &str) -> Value {
    json!({ "resourceType": "Practitioner", "id": id, "identifier": [{ "system": "http://hl7.org/fhir/sid/us-npi", "value": npi }],
            "name": [{ "prefix": ["Dr."], "given": ["Max"], "family": family }] })
}

/// A document of a patient, with this text.
pub fn note(id: &str, patient: &str, text: &str) -> Value {
    json!({ "resourceType": "DocumentReference", "id": id, "status": "current", "date": "2024-05-06T07:30:00.123+02:00",
            "type": { "coding": [{ "system": "http://loinc.org", "code": "34117-2", "display": "History and physical note" }] },
            "subject": { "reference": patient }, "content": [attachment(text)] })
}

/// A report with a presented form.
pub fn report(id: &str, patient: &str, text: &str) -> Value {
    json!({ "resourceType": "DiagnosticReport", "id": id, "status": "final", "issued": "2024-05-06T08:00:00Z",
            "code": { "coding": [{ "system": "http://loinc.org", "code": "34117-2" }] },
            "subject": { "reference": patient }, "presentedForm": [attachment(text)["attachment"].clone()] })
}

pub fn attachment(text: &str) -> Value {
    json!({ "attachment": { "contentType": "text/plain; charset=utf-8", "data": STANDARD.encode(text) } })
}
