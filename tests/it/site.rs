//! A Cordon to test: made by `init` in a cluster, with tenants of its own for each test, and an HTTP server in front.

use crate::{cluster, run_dir};
use cordon::app::App;
use cordon::auth::dev::{Claims, DevIssuer};
use cordon::config::Settings;
use cordon::db::cluster::Cluster;
use cordon::guard::{Actor, BootCheck};
use cordon::ids::TenantId;
use cordon::ops::init;
use cordon::ops::operator::Operator;
use cordon::ops::provision::{self, NewTenant};
use cordon::tenant::{Model, Tenant};
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// All three ways to keep tenants apart.
pub const MODELS: [Model; 3] = [Model::Shared, Model::Schema, Model::Database];

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
        let admin: tokio_postgres::Config = cluster.superuser_url("postgres").expose_secret().parse().unwrap();
        let directory = run_dir().join(name);
        let made = init::run(&admin, &directory).await.unwrap();
        let issuer = DevIssuer::open(&directory, "cordon").unwrap();
        let settings = Settings::load(Some(&profile(&directory, &made.key_file, &issuer)), Some("test")).unwrap();
        let operator = Operator::new(&settings).unwrap();
        Self { directory, settings, operator, issuer, admin }
    }

    /// A tenant with a slug nobody else has.
    pub async fn tenant(&self, model: Model) -> Tenant {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let slug = format!("clinic-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let new = NewTenant { slug, name: "A clinic".into(), model, server: None, plan: "standard".into() };
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

/// A plain session.
pub async fn open(config: &tokio_postgres::Config) -> tokio_postgres::Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn profile(directory: &Path, key_file: &Path, issuer: &DevIssuer) -> PathBuf {
    let url = |file: &str| {
        let text = std::fs::read_to_string(directory.join(file)).unwrap();
        text.lines()
            .find_map(|line| line.strip_prefix("CORDON__CATALOG__")?.split_once('=').map(|(_, url)| url.trim_matches('\'').to_owned()))
            .unwrap()
    };
    let settings = serde_json::json!({
        "http": { "bind": "127.0.0.1:0", "workers": 2, "domain": "notes.test" },
        "catalog": { "url": url("server.env"), "operator_url": url("operator.env") },
        "keys": { "file": key_file },
        "auth": { "issuers": [{ "issuer": cordon::auth::dev::ISSUER, "jwks_file": issuer.jwks_path(), "algorithms": ["ES256"] }] },
    });
    std::fs::write(directory.join("test.yaml"), settings.to_string()).unwrap();
    directory.to_path_buf()
}
