//! A tenant to import FHIR into, and its rows as they are stored.

use crate::support::fhir::{file, ndjson};
use crate::support::run_dir;
use crate::support::site::{MODELS, Site};
use cordon::app::App;
use cordon::crypto::{Field, Sealed, TenantKeys};
use cordon::import::rejects::RejectFile;
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

/// A tenant and the parts of a server that the importer uses.
pub struct ImportTenant<'s> {
    pub site: &'s Site,
    pub app: Arc<App>,
    pub tenant: Tenant,
}

/// The report of an import and the resources it rejected.
pub struct ImportOutcome {
    pub report: Report,
    /// Resource type, id and reason.
    pub rejects: Vec<(String, String, String)>,
}

/// A note as it is stored, decrypted.
#[derive(Debug, PartialEq)]
pub struct StoredNote {
    pub status: String,
    pub current_version: i32,
    pub titles: Vec<Option<String>>,
    pub bodies: Vec<String>,
}

impl ImportTenant<'static> {
    /// Creates a tenant in the shared installation.
    pub async fn of(model: TenancyModel) -> Self {
        Self::at(Site::shared().await, model).await
    }

    /// Creates one tenant of each tenancy model in the shared installation.
    pub async fn of_each() -> Vec<Self> {
        let mut all = Vec::new();
        for model in MODELS {
            all.push(Self::of(model).await);
        }
        all
    }
}

impl<'s> ImportTenant<'s> {
    pub async fn at(site: &'s Site, model: TenancyModel) -> Self {
        let tenant = site.tenant(model).await;
        Self { site, app: site.app(BootCheck::Dev), tenant }
    }

    /// Imports these resources as NDJSON. The import must not fail.
    pub async fn import(&self, resources: &[Value]) -> ImportOutcome {
        self.try_import(&[ndjson(resources)]).await.unwrap()
    }

    /// Imports a transaction Bundle with these entries.
    pub async fn import_bundle(&self, entries: Vec<Value>) -> ImportOutcome {
        let bundle = json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries });
        self.try_import(&[file("json", &bundle.to_string())]).await.unwrap()
    }

    pub async fn try_import(&self, files: &[PathBuf]) -> Result<ImportOutcome, OpsError> {
        self.try_import_from("fhir", files).await
    }

    /// Imports files on behalf of the source system `source`.
    pub async fn try_import_from(&self, source: &str, files: &[PathBuf]) -> Result<ImportOutcome, OpsError> {
        let rejects = run_dir().join(format!("{}.rejects", Uuid::now_v7()));
        let store = Store::new(Arc::clone(&self.app.guards), self.tenant.id, source);
        let report =
            import::run(Source::open(files).unwrap(), store, Some(RejectFile::create(&rejects)?), |_| {}).await?;
        let lines = std::fs::read_to_string(rejects)?;
        let rejects = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (text("type"), text("id"), text("reason"))
        });
        Ok(ImportOutcome { report, rejects: rejects.collect() })
    }

    pub fn store(&self) -> Store {
        Store::new(Arc::clone(&self.app.guards), self.tenant.id, "fhir")
    }

    /// Runs a query as a superuser, with the tenant's schema in the search path. `$1` is the tenant's id.
    pub async fn rows(&self, sql: &str) -> Vec<Row> {
        let placement = self.tenant.placement.as_ref().unwrap();
        let session = self.site.superuser(&placement.database).await;
        session.batch_execute(&format!("set search_path = {}; set timezone = 'UTC'", placement.schema)).await.unwrap();
        session.query(&sql.replace("$1", &format!("uuid '{}'", self.tenant.id)), &[]).await.unwrap()
    }

    /// Returns the first column of the only row.
    pub async fn one<T: for<'a> FromSql<'a>>(&self, sql: &str) -> T {
        let rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}");
        rows[0].get(0)
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.one(&format!("select count(*) from {table} where tenant_id = $1")).await
    }

    /// Returns the id of the newest transaction that changed a row of the tenant.
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

    /// Decrypts a sealed column of a row.
    pub async fn open<F: Field>(&self, row: Uuid, sealed: Vec<u8>) -> F::Plain {
        self.keys().await.open::<F>(row, &Sealed::from_bytes(sealed)).unwrap()
    }

    /// Returns all notes with all their versions, in the order of their creation.
    pub async fn notes(&self) -> Vec<StoredNote> {
        let sql = "select n.id::text, n.status, n.current_version, v.id::text, v.title_sealed, v.body_sealed from \
            clinical_notes n
            join note_versions v on v.tenant_id = n.tenant_id and v.note_id = n.id where n.tenant_id = $1 order by \
            n.id, v.number";
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

impl ImportOutcome {
    /// Returns the reasons of all rejects.
    pub fn reasons(&self) -> Vec<&str> {
        self.rejects.iter().map(|(_, _, reason)| reason.as_str()).collect()
    }
}

pub fn counts(new: u64, updated: u64, unchanged: u64, rejected: u64) -> Counts {
    Counts { new, updated, unchanged, rejected }
}

/// Reads an id that was selected as text.
pub fn id(row: &Row, column: usize) -> Uuid {
    row.get::<_, &str>(column).parse().unwrap()
}
