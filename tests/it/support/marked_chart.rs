//! The chart of one patient in which every sensitive text carries the id of its tenant, so that a test finds it
//! wherever it leaks to.

use crate::support::site::{Site, actor};
use cordon::app::App;
use cordon::audit::hex;
use cordon::db::schema::tenant::{
    clinical_notes, encounters, note_versions, patient_identifiers, patient_terms, patients, staff,
};
use cordon::db::schema::tenant::{idempotency_keys, note_signatures, note_signers};
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::model::fields::{
    EncounterReason, IdentifierValue, NoteBody, NoteTitle, PatientBirthDate, PatientName, PersonName, SignatureSalt,
};
use cordon::tenant::{Placement, TenancyModel, Tenant};
use diesel::ExpressionMethods;
use tokio_postgres::Client;
use uuid::Uuid;

/// The tables with rows of a tenant, and the columns that the server's role may select.
pub const TABLES: [(&str, &str); 12] = [
    ("staff", "*"),
    ("patients", "*"),
    ("patient_identifiers", "*"),
    ("patient_terms", "tenant_id, patient_id"),
    ("encounters", "*"),
    ("note_types", "*"),
    ("clinical_notes", "*"),
    ("note_versions", "*"),
    ("note_signers", "*"),
    ("note_signatures", "*"),
    ("idempotency_keys", "*"),
    ("audit_log", "*"),
];

/// The ids of one chart: one row in each table of `TABLES`, and the texts that must not leak.
pub struct MarkedChart {
    pub tenant: Tenant,
    pub staff: Uuid,
    pub patient: Uuid,
    pub identifier: Uuid,
    pub encounter: Uuid,
    pub note: Uuid,
    pub version: Uuid,
    /// The sensitive texts of the chart.
    secrets: Vec<String>,
}

impl MarkedChart {
    /// Writes the chart in a transaction of kind `Import`.
    pub async fn write(app: &App, tenant: Tenant) -> Self {
        let id = Uuid::now_v7;
        let mark = tenant.id.to_string();
        let secret = |text: &str| format!("{text} {mark}");
        let mut chart = Self {
            staff: id(),
            patient: id(),
            identifier: id(),
            encounter: id(),
            note: id(),
            version: id(),
            secrets: ["Nightshade", "1931-02-03", "MRN", "palpitations", "Consult", "Ischaemic", "Salt"]
                .map(secret)
                .to_vec(),
            tenant,
        };
        let [family, birth, number, reason, title, body, salt] = chart.secrets.clone().try_into().unwrap();
        let tenant = chart.tenant.id;
        let tx = app
            .guards
            .begin_operation(tenant, &actor(tenant, "import"), TxKind::Import, RequestId::new())
            .await
            .unwrap();
        let (keys, tenant_id, now) = (tx.keys(), tenant.0, chrono::Utc::now());
        let name = PersonName {
            family: Some(family.clone()),
            given: vec!["Belladonna".into()],
            text: format!("Belladonna {family}"),
        };
        let terms = cordon::model::patient::terms::of_patient(keys, Some(&name), None, []);
        let rows = diesel::insert_into(staff::table).values((
            staff::tenant_id.eq(tenant_id),
            staff::id.eq(chart.staff),
            staff::issuer.eq("test"),
            staff::subject.eq("author"),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(patients::table).values((
            patients::tenant_id.eq(tenant_id),
            patients::id.eq(chart.patient),
            patients::sex.eq("FEMALE"),
            patients::name_sealed.eq(keys.seal::<PatientName>(chart.patient, &name).unwrap()),
            patients::birth_date_sealed.eq(keys.seal::<PatientBirthDate>(chart.patient, &birth).unwrap()),
            patients::source_key.eq(keys.blind_index("patient", &["p-1"]).to_vec()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(patient_identifiers::table).values((
            patient_identifiers::tenant_id.eq(tenant_id),
            patient_identifiers::id.eq(chart.identifier),
            patient_identifiers::patient_id.eq(chart.patient),
            patient_identifiers::position.eq(0),
            patient_identifiers::system.eq("urn:mrn"),
            patient_identifiers::exclusive.eq(true),
            patient_identifiers::value_sealed.eq(keys.seal::<IdentifierValue>(chart.identifier, &number).unwrap()),
            patient_identifiers::value_hash.eq(keys.blind_index("identifier", &["urn:mrn", &number]).to_vec()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(patient_terms::table).values((
            patient_terms::tenant_id.eq(tenant_id),
            patient_terms::patient_id.eq(chart.patient),
            patient_terms::terms.eq(terms),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(encounters::table).values((
            encounters::tenant_id.eq(tenant_id),
            encounters::id.eq(chart.encounter),
            encounters::patient_id.eq(chart.patient),
            encounters::status.eq("FINISHED"),
            encounters::ordered_at.eq(now),
            encounters::reason_sealed.eq(keys.seal::<EncounterReason>(chart.encounter, &reason).unwrap()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(clinical_notes::table).values((
            clinical_notes::tenant_id.eq(tenant_id),
            clinical_notes::id.eq(chart.note),
            clinical_notes::patient_id.eq(chart.patient),
            clinical_notes::encounter_id.eq(chart.encounter),
            clinical_notes::author_id.eq(chart.staff),
            clinical_notes::status.eq("SIGNED"),
            clinical_notes::type_code.eq("11506-3"),
            clinical_notes::authored_at.eq(now),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(note_versions::table).values((
            note_versions::tenant_id.eq(tenant_id),
            note_versions::id.eq(chart.version),
            note_versions::note_id.eq(chart.note),
            note_versions::number.eq(1),
            note_versions::title_sealed.eq(keys.seal::<NoteTitle>(chart.version, &title).unwrap()),
            note_versions::body_sealed.eq(keys.seal::<NoteBody>(chart.version, &body).unwrap()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(note_signers::table).values((
            note_signers::tenant_id.eq(tenant_id),
            note_signers::note_id.eq(chart.note),
            note_signers::staff_id.eq(chart.staff),
        ));
        tx.execute(rows).await.unwrap();
        let signature = id();
        let rows = diesel::insert_into(note_signatures::table).values((
            note_signatures::tenant_id.eq(tenant_id),
            note_signatures::id.eq(signature),
            note_signatures::note_id.eq(chart.note),
            note_signatures::number.eq(1),
            note_signatures::signer_id.eq(chart.staff),
            note_signatures::meaning.eq("AUTHOR"),
            note_signatures::signed_at.eq(now),
            note_signatures::salt_sealed.eq(keys.seal::<SignatureSalt>(signature, &salt).unwrap()),
            note_signatures::hash.eq(vec![0; 32]),
            note_signatures::signature.eq(vec![0; 64]),
            note_signatures::verify_key.eq(keys.verify_key().to_vec()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(idempotency_keys::table).values((
            idempotency_keys::tenant_id.eq(tenant_id),
            idempotency_keys::id.eq(id()),
            idempotency_keys::principal_id.eq(chart.staff),
            idempotency_keys::key_hash.eq(vec![1; 32]),
            idempotency_keys::body_hash.eq(vec![2; 32]),
            idempotency_keys::record_id.eq(chart.note),
        ));
        tx.execute(rows).await.unwrap();
        tx.commit().await.unwrap();
        chart.secrets.push("Belladonna".into());
        chart
    }

    /// Creates a tenant and writes a chart in it.
    pub async fn of(site: &Site, app: &App, model: TenancyModel) -> Self {
        Self::write(app, site.tenant(model).await).await
    }

    pub fn placement(&self) -> &Placement {
        self.tenant.placement.as_ref().unwrap()
    }

    pub fn schema(&self) -> &str {
        self.placement().schema.as_str()
    }

    /// Whether `output` contains a sensitive text of this chart, in clear or in hexadecimal.
    pub fn leaks_into(&self, output: &str) -> bool {
        self.secrets.iter().any(|secret| output.contains(secret) || output.contains(&hex(secret.as_bytes())))
    }

    /// Counts the rows of this tenant in `output`: the lines that contain its id.
    pub fn count_rows_in(&self, output: &str) -> usize {
        let id = self.tenant.id.to_string();
        output.lines().filter(|line| line.contains(&id)).count()
    }

    /// Returns a digest of all rows of the tenant, read as a superuser. Equal digests mean that no row was inserted,
    /// changed or deleted.
    pub async fn fingerprint(&self, superuser: &Client) -> String {
        let mut all = String::new();
        for (table, _) in TABLES {
            let query = format!(
                "select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) || count(*) from {}.{table} t \
                 where tenant_id = '{}'",
                self.schema(),
                self.tenant.id
            );
            all += &superuser.query_one(&query, &[]).await.unwrap().get::<_, String>(0);
        }
        all
    }
}
