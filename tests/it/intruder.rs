//! An intruder: sessions under the server's own logins, tickets made with the real key, and charts worth stealing.

use crate::site::{Site, actor, open};
use aws_lc_rs::digest::{SHA256, digest};
use cordon::app::App;
use cordon::audit::hex;
use cordon::db::schema::tenant::{
    clinical_notes, encounters, note_versions, patient_identifiers, patient_terms, patients, staff,
};
use cordon::db::schema::tenant::{idempotency_keys, note_signatures, note_signers};
use cordon::guard::TxKind;
use cordon::ids::{RequestId, TenantId};
use cordon::model::fields::{
    EncounterReason, IdentifierValue, NoteBody, NoteTitle, PatientBirthDate, PatientName, PersonName, SignatureSalt,
};
use cordon::tenant::{Placement, TenancyModel, Tenant, own_database_name};
use diesel::ExpressionMethods;

use secrecy::ExposeSecret;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use uuid::Uuid;

/// Tables with rows of a tenant, and what of them the server may select.
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

/// One patient's chart, of one tenant.
pub struct Chart {
    pub tenant: Tenant,
    pub staff: Uuid,
    pub patient: Uuid,
    pub identifier: Uuid,
    pub encounter: Uuid,
    pub note: Uuid,
    pub version: Uuid,
    words: Vec<String>,
}

impl Chart {
    /// Written through the guard, as an import would.
    pub async fn write(app: &App, tenant: Tenant) -> Self {
        let id = Uuid::now_v7;
        let mark = tenant.id.to_string();
        let secret = |what: &str| format!("{what} {mark}");
        let mut chart = Self {
            staff: id(),
            patient: id(),
            identifier: id(),
            encounter: id(),
            note: id(),
            version: id(),
            words: ["Nightshade", "1931-02-03", "MRN", "palpitations", "Consult", "Ischaemic", "Salt"]
                .map(secret)
                .to_vec(),
            tenant,
        };
        let [family, birth, number, reason, title, body, salt] = chart.words.clone().try_into().unwrap();
        let tenant = chart.tenant.id;
        let tx = app.guards.work(tenant, &actor(tenant, "import"), TxKind::Import, RequestId::new()).await.unwrap();
        let (keys, mine, now) = (tx.keys(), tenant.0, chrono::Utc::now());
        let name = PersonName {
            family: Some(family.clone()),
            given: vec!["Belladonna".into()],
            text: format!("Belladonna {family}"),
        };
        let terms = cordon::model::patient::terms::of_patient(keys, Some(&name), None, []);
        let rows = diesel::insert_into(staff::table).values((
            staff::tenant_id.eq(mine),
            staff::id.eq(chart.staff),
            staff::issuer.eq("test"),
            staff::subject.eq("author"),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(patients::table).values((
            patients::tenant_id.eq(mine),
            patients::id.eq(chart.patient),
            patients::sex.eq("FEMALE"),
            patients::name_sealed.eq(keys.seal::<PatientName>(chart.patient, &name).unwrap()),
            patients::birth_date_sealed.eq(keys.seal::<PatientBirthDate>(chart.patient, &birth).unwrap()),
            patients::source_key.eq(keys.blind("patient", &["p-1"]).to_vec()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(patient_identifiers::table).values((
            patient_identifiers::tenant_id.eq(mine),
            patient_identifiers::id.eq(chart.identifier),
            patient_identifiers::patient_id.eq(chart.patient),
            patient_identifiers::position.eq(0),
            patient_identifiers::system.eq("urn:mrn"),
            patient_identifiers::exclusive.eq(true),
            patient_identifiers::value_sealed.eq(keys.seal::<IdentifierValue>(chart.identifier, &number).unwrap()),
            patient_identifiers::value_hash.eq(keys.blind("identifier", &["urn:mrn", &number]).to_vec()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(patient_terms::table).values((
            patient_terms::tenant_id.eq(mine),
            patient_terms::patient_id.eq(chart.patient),
            patient_terms::terms.eq(terms),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(encounters::table).values((
            encounters::tenant_id.eq(mine),
            encounters::id.eq(chart.encounter),
            encounters::patient_id.eq(chart.patient),
            encounters::status.eq("FINISHED"),
            encounters::ordered_at.eq(now),
            encounters::reason_sealed.eq(keys.seal::<EncounterReason>(chart.encounter, &reason).unwrap()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(clinical_notes::table).values((
            clinical_notes::tenant_id.eq(mine),
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
            note_versions::tenant_id.eq(mine),
            note_versions::id.eq(chart.version),
            note_versions::note_id.eq(chart.note),
            note_versions::number.eq(1),
            note_versions::title_sealed.eq(keys.seal::<NoteTitle>(chart.version, &title).unwrap()),
            note_versions::body_sealed.eq(keys.seal::<NoteBody>(chart.version, &body).unwrap()),
        ));
        tx.execute(rows).await.unwrap();
        let rows = diesel::insert_into(note_signers::table).values((
            note_signers::tenant_id.eq(mine),
            note_signers::note_id.eq(chart.note),
            note_signers::staff_id.eq(chart.staff),
        ));
        tx.execute(rows).await.unwrap();
        let signature = id();
        let rows = diesel::insert_into(note_signatures::table).values((
            note_signatures::tenant_id.eq(mine),
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
            idempotency_keys::tenant_id.eq(mine),
            idempotency_keys::id.eq(id()),
            idempotency_keys::principal_id.eq(chart.staff),
            idempotency_keys::key_hash.eq(vec![1; 32]),
            idempotency_keys::body_hash.eq(vec![2; 32]),
            idempotency_keys::made.eq(chart.note),
        ));
        tx.execute(rows).await.unwrap();
        tx.commit().await.unwrap();
        chart.words.push("Belladonna".into());
        chart
    }

    /// A tenant of its own with a chart.
    pub async fn of(site: &Site, app: &App, model: TenancyModel) -> Self {
        Self::write(app, site.tenant(model).await).await
    }

    pub fn placement(&self) -> &Placement {
        self.tenant.placement.as_ref().unwrap()
    }

    pub fn schema(&self) -> &str {
        self.placement().schema.as_str()
    }

    /// Whether `said` holds a planted word, in clear or as the hexadecimal of its bytes.
    pub fn shows_in(&self, said: &str) -> bool {
        self.words.iter().any(|word| said.contains(word) || said.contains(&hex(word.as_bytes())))
    }

    /// Rows of this tenant in `said`: the lines that name it.
    pub fn rows_in(&self, said: &str) -> usize {
        let id = self.tenant.id.to_string();
        said.lines().filter(|line| line.contains(&id)).count()
    }

    /// Everything the tenant has, as a superuser sees it: equal before and after means that nothing was changed.
    pub async fn fingerprint(&self, superuser: &Client) -> String {
        let mut all = String::new();
        for (table, _) in TABLES {
            let query = format!(
                "select md5(coalesce(string_agg(t::text, '|' order by t::text), '')) || count(*) from {}.{table} t where tenant_id = '{}'",
                self.schema(),
                self.tenant.id
            );
            all += &superuser.query_one(&query, &[]).await.unwrap().get::<_, String>(0);
        }
        all
    }
}

/// The login that runs a tenant's SQL, with its database.
pub async fn login(site: &Site, app: &App, tenant: &Tenant) -> Config {
    let placement = tenant.placement.as_ref().unwrap();
    let (user, password) = match placement.model {
        TenancyModel::Database => {
            let wrapped = app.catalog.own_password(placement.id).await.unwrap();
            (own_database_name(tenant.id), app.keys.own_password(placement.id, &wrapped).await.unwrap())
        }
        TenancyModel::Shared | TenancyModel::Schema => {
            let server = app.catalog.server(placement.server).await.unwrap();
            ("cordon_app".to_owned(), app.keys.app_password(server.id, &server.app_password).await.unwrap())
        }
    };
    let mut config = site.admin.clone();
    config.user(user).password(password.expose_secret()).dbname(&placement.database);
    config
}

/// What a ticket says; tests change one thing at a time.
#[derive(Clone)]
pub struct Ticket {
    pub kid: i32,
    pub good_for_ms: i64,
    pub generation: i32,
    pub tenant: TenantId,
    pub roles: &'static str,
    pub purpose: &'static str,
}

impl Ticket {
    pub fn of(tenant: TenantId, purpose: &'static str) -> Self {
        Self { kid: 1, good_for_ms: 8_000, generation: 1, tenant, roles: "clinician", purpose }
    }
}

/// A session of the server's, in hostile hands, and a superuser who lends it the binding key of its database.
pub struct Intruder {
    pub session: Client,
    pub superuser: Client,
    pub pid: i32,
    /// The blocks of the HMAC key: inner and outer.
    key: [Vec<u8>; 2],
}

impl Intruder {
    pub async fn enter(site: &Site, login: &Config) -> Self {
        Self::take(open(login).await, site.superuser(login.get_dbname().unwrap()).await).await
    }

    /// With a session that is there.
    pub async fn take(session: Client, superuser: Client) -> Self {
        let pid = session.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let row = superuser.query_one("select ipad, opad from cordon.binding_keys", &[]).await.unwrap();
        Self { session, superuser, pid, key: [row.get(0), row.get(1)] }
    }

    /// A ticket as the guard writes it.
    pub fn ticket(&self, ticket: &Ticket) -> String {
        let (id, who) = (Uuid::now_v7(), hex(br#"["test","intruder",null,null]"#));
        let Ticket { kid, good_for_ms, generation, tenant, roles, purpose } = ticket;
        let expiry = chrono::Utc::now().timestamp_millis() + good_for_ms;
        format!("v1.{kid}.{expiry}.{generation}.{tenant}.{id}.{roles}.{purpose}.{id}.{who}.")
    }

    /// The MAC of a message under the database's key.
    pub fn mac(&self, message: &str) -> String {
        let [inner, outer] = &self.key;
        let sum = |block: &[u8], text: &[u8]| digest(&SHA256, &[block, text].concat());
        hex(sum(outer, sum(inner, message.as_bytes()).as_ref()).as_ref())
    }

    /// The key's blocks, to look for in what PostgreSQL says.
    pub fn key(&self) -> &[Vec<u8>; 2] {
        &self.key
    }

    /// The statement that binds this session.
    pub fn bind(&self, ticket: &Ticket) -> String {
        let text = self.ticket(ticket);
        let mac = self.mac(&format!("ticket.{text}.{}", self.pid));
        format!("select cordon.bind('{text}', '{mac}')")
    }

    /// Runs `sql` in a transaction bound by `bind` (nothing: unbound). What came back as text, one row a line, or the refusal.
    pub async fn run(&self, path: &str, bind: &str, sql: &str) -> Result<String, Refusal> {
        self.say(&format!("begin; set local search_path = {path}, pg_temp; {bind}; {sql}; commit")).await
    }

    /// Bound to a tenant for `purpose`.
    pub async fn run_as(&self, chart: &Chart, purpose: &'static str, sql: &str) -> Result<String, Refusal> {
        let bind = self.bind(&Ticket::of(chart.tenant.id, purpose));
        self.run(chart.schema(), &bind, sql).await
    }

    /// Statements as they are. After an error the transaction is over.
    pub async fn say(&self, sql: &str) -> Result<String, Refusal> {
        match self.session.simple_query(sql).await {
            Ok(messages) => Ok(messages.iter().filter_map(line).collect()),
            Err(error) => {
                self.session.batch_execute("rollback").await.unwrap();
                let said = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
                Err(Refusal {
                    code: said.code().code().to_owned(),
                    message: said.message().to_owned(),
                    all: format!("{said:?}"),
                })
            }
        }
    }
}

/// What PostgreSQL said instead.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    /// With detail, hint and place.
    pub all: String,
}

fn line(message: &SimpleQueryMessage) -> Option<String> {
    match message {
        SimpleQueryMessage::Row(row) => {
            let cells: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("")).collect();
            Some(cells.join("\t") + "\n")
        }
        _ => None,
    }
}
