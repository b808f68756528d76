//! A Cordon installation under test: roles, catalog and keys that `cordon init` created in a cluster. Each test creates
//! its own tenants in it. Also functions that use the guard directly, without HTTP.

use crate::support::{cluster, options, run_dir};
use cordon::app::App;
use cordon::audit::{AccessRecord, ClientInfo, Outcome};
use cordon::auth::Principal;
use cordon::auth::dev::{Claims, DevIssuer};
use cordon::cluster::Cluster;
use cordon::config::Settings;
use cordon::crypto::Sealed;
use cordon::db::connect;
use cordon::db::schema::tenant::patients;
use cordon::error::Result;
use cordon::guard::{Actor, Guard, RequestInfo, TenantHint, TenantTx, TxKind};
use cordon::ids::{RequestId, TenantId};
use cordon::isolation::BootCheck;
use cordon::model::fields::{PatientName, PersonName};
use cordon::ops::init;
use cordon::ops::operator::Operator;
use cordon::ops::provision::{self, NewTenant};
use cordon::tenant::{TenancyModel, Tenant};
use diesel::prelude::*;
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// The three tenancy models.
pub const MODELS: [TenancyModel; 3] = [TenancyModel::Shared, TenancyModel::Schema, TenancyModel::Database];

/// One installation, with the operator's login and an issuer of tokens.
pub struct Site {
    /// Holds the files of `init` and the settings of the profile `test`.
    pub directory: PathBuf,
    pub settings: Settings,
    pub operator: Operator,
    pub issuer: DevIssuer,
    /// How a superuser connects.
    pub admin: tokio_postgres::Config,
}

impl Site {
    /// Returns the installation in the shared cluster. It is created at the first call.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Site> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::create(cluster(), "site")).await
    }

    /// Creates an installation in `cluster`. `name` is its directory in the directory of the run.
    pub async fn create(cluster: &Cluster, name: &str) -> Self {
        Self::create_at(&cluster.superuser_url("postgres"), cluster, name).await
    }

    /// Creates an installation that connects to the cluster by this URL of a superuser.
    pub async fn create_at(url: &SecretString, cluster: &Cluster, name: &str) -> Self {
        let admin: tokio_postgres::Config = cluster.superuser_url("postgres").expose_secret().parse().unwrap();
        let directory = run_dir().join(name);
        let init = init::run(&connect::parse(url).unwrap(), &directory).await.unwrap();
        let issuer = DevIssuer::open(&directory, "cordon").unwrap();
        let settings = Settings::load(Some(&profile(&directory, &init.key_file, &issuer)), Some("test")).unwrap();
        let operator = Operator::new(&settings).unwrap();
        Self { directory, settings, operator, issuer, admin }
    }

    /// Creates an installation in a cluster of its own. The cluster runs until the returned `Cluster` is dropped.
    pub async fn with_own_cluster(name: &str) -> (Cluster, Self) {
        let cluster = Cluster::start(&options(name)).unwrap();
        let site = Self::create(&cluster, &format!("{name}-site")).await;
        (cluster, site)
    }

    /// Creates a tenant with a unique slug.
    pub async fn tenant(&self, model: TenancyModel) -> Tenant {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let slug = format!("clinic-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let new = NewTenant { slug, name: "A clinic".into(), model, server: None, plan: None };
        provision::create(&self.operator, &new).await.unwrap()
    }

    /// Returns the settings of `cordon serve`, which has no operator's login.
    pub fn server_settings(&self) -> Settings {
        let mut settings = self.settings.clone();
        settings.catalog.operator_url = None;
        settings
    }

    /// Builds what a server consists of, without HTTP.
    pub fn app(&self, boot_check: BootCheck) -> Arc<App> {
        App::new(self.server_settings(), boot_check).unwrap()
    }

    /// Signs an access token that is valid for ten minutes.
    pub fn token(&self, tenants: &[TenantId], role: &str, subject: &str) -> String {
        let claims = Claims {
            acting: None,
            tenants: tenants.to_vec(),
            roles: vec![role.into()],
            subject: subject.into(),
            name: Some(format!("Dr. {subject}")),
            lifetime: Duration::from_secs(600),
        };
        self.issuer.mint(&claims).unwrap()
    }

    /// Opens a superuser's session in a database.
    pub async fn superuser(&self, database: &str) -> tokio_postgres::Client {
        let mut config = self.admin.clone();
        config.dbname(database);
        connect_session(&config).await
    }
}

/// An actor for transactions without HTTP.
pub fn actor(tenant: TenantId, role: &str) -> Actor {
    Actor {
        id: Actor::id_of(tenant, "test", "someone"),
        issuer: "test".into(),
        subject: "someone".into(),
        name: Some("Some One".into()),
        acting: None,
        roles: vec![role.into()],
    }
}

/// A clinician of one tenant, as token verification returns one.
pub fn clinician(tenant: TenantId) -> Principal {
    Principal {
        issuer: "test".into(),
        subject: "someone".into(),
        name: None,
        tenants: vec![tenant],
        roles: vec!["clinician".into()],
        acting: None,
        expires_at: chrono::Utc::now() + Duration::from_secs(600),
    }
}

/// Admits a clinician to a tenant and returns the guard of one operation, as the HTTP layer does.
pub async fn admitted_guard(app: &App, tenant: TenantId) -> Result<Guard> {
    let info = RequestInfo { request: RequestId::new(), client: ClientInfo::default(), stats: Arc::default() };
    app.guards.open_guard(&clinician(tenant), TenantHint::default(), info).await
}

/// Inserts a patient with this name in a transaction of kind `Import`.
pub async fn insert_patient(app: &App, tenant: TenantId, id: Uuid, name: &str) -> Result<()> {
    let tx = app.guards.begin_operation(tenant, &actor(tenant, "clinician"), TxKind::Import, RequestId::new()).await?;
    let inserted = insert_patient_row(&tx, id, name).await;
    match inserted {
        Ok(()) => tx.commit().await,
        Err(error) => tx.rollback().await.and(Err(error)),
    }
}

/// Inserts a patient with this name in an open transaction.
pub async fn insert_patient_row(tx: &TenantTx, id: Uuid, name: &str) -> Result<()> {
    let sealed =
        tx.keys().seal::<PatientName>(id, &PersonName { family: None, given: Vec::new(), text: name.into() })?;
    let row = (patients::tenant_id.eq(tx.tenant().0), patients::id.eq(id), patients::name_sealed.eq(Some(sealed)));
    tx.execute(diesel::insert_into(patients::table).values(row)).await.map(|_| ())
}

/// Reads the names of the tenant's patients through a guard. The names are decrypted and their audit row is committed.
pub async fn patient_names(app: &App, tenant: TenantId) -> Result<Vec<String>> {
    let guard = admitted_guard(app, tenant).await?;
    let names = patient_names_in(&*guard.read().await?).await;
    match names {
        Ok(names) => guard.finish().await.map(|()| names),
        Err(error) => {
            guard.rollback().await;
            Err(error)
        }
    }
}

/// Reads and decrypts the names of the patients that are visible to a transaction, and records the access.
pub async fn patient_names_in(tx: &TenantTx) -> Result<Vec<String>> {
    let query = patients::table.select((patients::id, patients::name_sealed)).order(patients::id);
    let rows: Vec<(Uuid, Option<Sealed<PatientName>>)> = tx.load(query).await?;
    tx.record_access(AccessRecord {
        action: "patient.read",
        patient: None,
        resource_type: "patient",
        resource_ids: rows.iter().map(|(id, _)| *id).collect(),
        fields: vec!["name"],
        outcome: Outcome::Success,
    });
    rows.iter().filter_map(|(id, sealed)| Some(tx.keys().open(*id, sealed.as_ref()?).map(|name| name.text))).collect()
}

/// Returns the process id of the backend that runs the transaction.
pub async fn backend_pid(tx: &TenantTx) -> Result<i32> {
    let query = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"));
    tx.first(query).await
}

/// Executes SQL of the test in a transaction and returns the number of rows affected.
pub async fn execute_sql(tx: &TenantTx, text: &str) -> Result<usize> {
    tx.execute(diesel::sql_query(text)).await
}

/// Opens a session without TLS.
pub async fn connect_session(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Admission limits that no test reaches by accident.
pub fn generous_admission() -> serde_json::Value {
    let (rate, concurrency) = (100_000, 1000);
    serde_json::json!({ "requests_per_second": rate, "concurrency": concurrency, "principal_requests_per_second": rate,
        "principal_concurrency": concurrency })
}

fn profile(directory: &Path, key_file: &Path, issuer: &DevIssuer) -> PathBuf {
    let url = |file: &str| {
        let text = std::fs::read_to_string(directory.join(file)).unwrap();
        text.lines()
            .find_map(|line| {
                line.strip_prefix("CORDON__CATALOG__")?
                    .split_once('=')
                    .map(|(_, url)| url.trim_matches('\'').to_owned())
            })
            .unwrap()
    };
    let settings = serde_json::json!({
        "http": { "bind": "127.0.0.1:0", "workers": 2, "domain": "notes.test" },
        "admission": generous_admission(),
        "database": { "at_once": 60 },
        "catalog": { "url": url("server.env"), "operator_url": url("operator.env") },
        "keys": { "file": key_file },
        "telemetry": { "bind": "127.0.0.1:0" },
        "auth": { "issuers": [{ "issuer": cordon::auth::dev::ISSUER, "jwks_file": issuer.jwks_path(),
            "algorithms": ["ES256"] }] },
    });
    std::fs::write(directory.join("test.yaml"), settings.to_string()).unwrap();
    directory.to_path_buf()
}
