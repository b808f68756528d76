//! A PostgreSQL with TLS, which not every build of PostgreSQL has. The certificates are those of `tests/it`, valid
//! until 2099.

use crate::support::options;
use crate::support::run_dir;
use crate::support::site::{MODELS, Site, insert_patient, patient_names};
use cordon::cluster::{Cluster, Options};
use cordon::db::connect;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;
use secrecy::{ExposeSecret, SecretString};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/certificates").join(name)
}

/// Starts a PostgreSQL with TLS. Returns it with its address and the password of its superuser.
fn cluster_with_tls(name: &str) -> (Cluster, String, String) {
    let options = options(name);
    std::fs::create_dir(&options.dir).unwrap();
    let key = run_dir().join(format!("{name}.key"));
    std::fs::copy(certificate("server.key"), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner =
        nix::unistd::User::from_name("postgres").unwrap().or(nix::unistd::User::from_name("nobody").unwrap()).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(&key, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
    }
    let public = run_dir().join(format!("{name}.pem"));
    std::fs::copy(certificate("server.pem"), &public).unwrap();
    // The port is fixed, so each run uses an address of its own.
    let pid = std::process::id();
    let address = format!("127.{}.{}.{}", 64 + (pid >> 16) % 64, (pid >> 8) % 256, 1 + pid % 250);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let more = [
        ("listen_addresses", address.clone()),
        ("ssl", "on".into()),
        ("ssl_cert_file", text(&public)),
        ("ssl_key_file", text(&key)),
    ];
    let settings = options.settings.iter().cloned().chain(more.map(|(name, value)| (name.to_owned(), value))).collect();
    let cluster = Cluster::start(&Options { settings, ..options }).unwrap();
    let url = cluster.superuser_url("postgres");
    let password = url.expose_secret().split(['@', ':']).nth(2).unwrap().to_owned();
    (cluster, address, password)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_databases_are_verified() {
    let (cluster, address, password) = cluster_with_tls("encrypted");
    let authority = certificate("authority.pem");
    let url = |host: &str, authority: &Path| -> SecretString {
        let (address, authority) = (&address, authority.display());
        let options = format!("hostaddr={address}&sslmode=verify-full&sslrootcert={authority}");
        format!("postgres://postgres:{password}@{host}/postgres?{options}").into()
    };
    let opens = async |url: SecretString| connect::open(&connect::parse(&url).unwrap()).await.map(|_| ());
    opens(url("db.test", &authority)).await.unwrap();
    for (wrong, host, authority) in [
        ("another name", "other.test", authority.as_path()),
        ("another authority", "db.test", &certificate("next.pem")),
        ("no authority", "db.test", Path::new("/nonexistent")),
        ("a file without certificates", "db.test", &certificate("next.key")),
    ] {
        assert!(opens(url(host, authority)).await.is_err(), "{wrong}");
    }

    // A whole installation. The address in the catalog contains how the server is verified.
    let site = Site::create_at(&url("db.test", &authority), &cluster, "encrypted-site").await;
    let address = site.operator.server(None).await.unwrap().address;
    assert!(
        address.starts_with("postgres://db.test:5432/?hostaddr=127.")
            && address.contains("&sslmode=verify-full&sslrootcert="),
        "{address}"
    );
    let app = site.app(BootCheck::Dev);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        insert_patient(&app, tenant.id, Uuid::now_v7(), "someone").await.unwrap();
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), ["someone"]);
    }
    let superuser = site.superuser("postgres").await;
    let sessions = "select count(*) filter (where s.ssl), count(*) filter (where not s.ssl) from pg_stat_ssl s
        join pg_stat_activity a using (pid) where a.usename like 'cordon%'";
    let row = superuser.query_one(sessions, &[]).await.unwrap();
    let (encrypted, plain): (i64, i64) = (row.get(0), row.get(1));
    assert!(encrypted >= 2 && plain == 0, "{encrypted} sessions encrypted, {plain} not");
    // A cancel request, which uses a connection of its own, works too.
    assert!(tokio::time::timeout(Duration::from_millis(100), run_sleeping_statement(&app, &site)).await.is_err());
    let started = Instant::now();
    let sleeping = "select count(*) from pg_stat_activity where query like '%pg_sleep(30)%' and pid <> \
        pg_backend_pid() and state = 'active'";
    while superuser.query_one(sleeping, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "the statement of a dropped request is not cancelled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn run_sleeping_statement(app: &cordon::app::App, site: &Site) {
    let tenant = site.tenant(TenancyModel::Shared).await;
    let guard = crate::support::site::admitted_guard(app, tenant.id).await.unwrap();
    crate::support::site::execute_sql(&guard.read().await.unwrap(), "select pg_sleep(30)").await.unwrap();
}
