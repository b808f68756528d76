//! A Cordon to test: made by `init` in a cluster, with tenants of its own for each test, and an HTTP server in front.

use crate::{cluster, options, run_dir};
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

/// All three ways to keep tenants apart.
pub const MODELS: [TenancyModel; 3] = [TenancyModel::Shared, TenancyModel::Schema, TenancyModel::Database];

/// One installation.
pub struct Site {
    pub directory: PathBuf,
    pub settings: Settings,
    pub operator: Operator,
    pub issuer: DevIssuer,
    pub admin: tokio_postgres::Config,
}

impl Site {
    /// The installation that tests share, each with tenants of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Site> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::make(cluster(), "site")).await
    }

    /// An installation in a cluster of the test's own.
    pub async fn make(cluster: &Cluster, name: &str) -> Self {
        Self::reached_by(&cluster.superuser_url("postgres"), cluster, name).await
    }

    /// An installation whose servers are reached as this superuser's URL says.
    pub async fn reached_by(url: &SecretString, cluster: &Cluster, name: &str) -> Self {
        let admin: tokio_postgres::Config = cluster.superuser_url("postgres").expose_secret().parse().unwrap();
        let directory = run_dir().join(name);
        let made = init::run(&connect::parse(url).unwrap(), &directory).await.unwrap();
        let issuer = DevIssuer::open(&directory, "cordon").unwrap();
        let settings = Settings::load(Some(&profile(&directory, &made.key_file, &issuer)), Some("test")).unwrap();
        let operator = Operator::new(&settings).unwrap();
        Self { directory, settings, operator, issuer, admin }
    }

    /// An installation in a cluster of the test's own, which lives as long as the first value.
    pub async fn alone(name: &str) -> (Cluster, Self) {
        let cluster = Cluster::start(&options(name)).unwrap();
        let site = Self::make(&cluster, &format!("{name}-site")).await;
        (cluster, site)
    }

    /// A tenant with a slug nobody else has.
    pub async fn tenant(&self, model: TenancyModel) -> Tenant {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let slug = format!("clinic-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let new = NewTenant { slug, name: "A clinic".into(), model, server: None, plan: None };
        provision::create(&self.operator, &new).await.unwrap()
    }

    /// Settings as `serve` has them: without the operator's login.
    pub fn server_settings(&self) -> Settings {
        let mut settings = self.settings.clone();
        settings.catalog.operator_url = None;
        settings
    }

    /// The parts of a server, without HTTP.
    pub fn app(&self, boot_check: BootCheck) -> Arc<App> {
        App::new(self.server_settings(), boot_check).unwrap()
    }

    /// A token.
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

    /// A superuser's session with a database.
    pub async fn superuser(&self, database: &str) -> tokio_postgres::Client {
        let mut config = self.admin.clone();
        config.dbname(database);
        open(&config).await
    }
}

/// Someone who does things without HTTP.
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

/// A clinician of one tenant, as the verifier names one.
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

/// A guard for one operation, as HTTP gets it.
pub async fn admitted(app: &App, tenant: TenantId) -> Result<Guard> {
    let info = RequestInfo { request: RequestId::new(), client: ClientInfo::default(), stats: Arc::default() };
    app.guards.admit(&clinician(tenant), TenantHint::default(), info).await
}

/// Writes a patient of this name, as an import does.
pub async fn plant(app: &App, tenant: TenantId, id: Uuid, name: &str) -> Result<()> {
    let tx = app.guards.work(tenant, &actor(tenant, "clinician"), TxKind::Import, RequestId::new()).await?;
    let planted = insert(&tx, id, name).await;
    match planted {
        Ok(()) => tx.commit().await,
        Err(error) => tx.rollback().await.and(Err(error)),
    }
}

/// One row in an open transaction.
pub async fn insert(tx: &TenantTx, id: Uuid, name: &str) -> Result<()> {
    let sealed =
        tx.keys().seal::<PatientName>(id, &PersonName { family: None, given: Vec::new(), text: name.into() })?;
    let row = (patients::tenant_id.eq(tx.tenant().0), patients::id.eq(id), patients::name_sealed.eq(Some(sealed)));
    tx.execute(diesel::insert_into(patients::table).values(row)).await.map(|_| ())
}

/// Names of the tenant's patients, read, opened and audited as an answer is.
pub async fn names(app: &App, tenant: TenantId) -> Result<Vec<String>> {
    let guard = admitted(app, tenant).await?;
    let seen = seen(&*guard.read().await?).await;
    match seen {
        Ok(names) => guard.finish().await.map(|()| names),
        Err(error) => {
            guard.abandon().await;
            Err(error)
        }
    }
}

/// Names of the patients that a transaction sees.
pub async fn seen(tx: &TenantTx) -> Result<Vec<String>> {
    let wanted = patients::table.select((patients::id, patients::name_sealed)).order(patients::id);
    let rows: Vec<(Uuid, Option<Sealed<PatientName>>)> = tx.load(wanted).await?;
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

/// The process id of the backend behind a transaction.
pub async fn pid(tx: &TenantTx) -> Result<i32> {
    let wanted = diesel::select(diesel::dsl::sql::<diesel::sql_types::Integer>("pg_backend_pid()"));
    tx.first(wanted).await
}

/// A statement of the test's own, inside a transaction.
pub async fn statement(tx: &TenantTx, text: &str) -> Result<usize> {
    tx.execute(diesel::sql_query(text)).await
}

/// A plain session.
pub async fn open(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Tests ask as fast as they can.
pub fn unhurried() -> serde_json::Value {
    let (rate, concurrency) = (100_000, 1000);
    serde_json::json!({ "requests_per_second": rate, "concurrency": concurrency, "principal_requests_per_second": rate, "principal_concurrency": concurrency })
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
        "admission": unhurried(),
        "database": { "at_once": 60 },
        "catalog": { "url": url("server.env"), "operator_url": url("operator.env") },
        "keys": { "file": key_file },
        "telemetry": { "bind": "127.0.0.1:0" },
        "auth": { "issuers": [{ "issuer": cordon::auth::dev::ISSUER, "jwks_file": issuer.jwks_path(), "algorithms": ["ES256"] }] },
    });
    std::fs::write(directory.join("test.yaml"), settings.to_string()).unwrap();
    directory.to_path_buf()
}
