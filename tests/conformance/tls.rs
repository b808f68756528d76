//! A PostgreSQL that speaks TLS: not every build of it can. The certificates are those of tests/it, good until 2099.

use crate::options;
use crate::run_dir;
use crate::site::{MODELS, Site, names, plant};
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

/// A PostgreSQL that speaks TLS on an address of its own, and the password of its superuser.
fn encrypted(name: &str) -> (Cluster, String, String) {
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
    // The port is fixed, so the address is the run's own.
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
async fn databases_that_are_not_local_are_verified() {
    let (cluster, address, password) = encrypted("encrypted");
    let authority = certificate("authority.pem");
    let url = |host: &str, authority: &Path| -> SecretString {
        let (address, authority) = (&address, authority.display());
        format!("postgres://postgres:{password}@{host}/postgres?hostaddr={address}&sslmode=verify-full&sslrootcert={authority}").into()
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

    // All of an installation, its address kept in the catalog with how it is verified.
    let site = Site::reached_by(&url("db.test", &authority), &cluster, "encrypted-site").await;
    let kept = site.operator.server(None).await.unwrap().address;
    assert!(
        kept.starts_with("postgres://db.test:5432/?hostaddr=127.")
            && kept.contains("&sslmode=verify-full&sslrootcert="),
        "{kept}"
    );
    let app = site.app(BootCheck::Dev);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        plant(&app, tenant.id, Uuid::now_v7(), "someone").await.unwrap();
        assert_eq!(names(&app, tenant.id).await.unwrap(), ["someone"]);
    }
    let superuser = site.superuser("postgres").await;
    let sessions = "select count(*) filter (where s.ssl), count(*) filter (where not s.ssl) from pg_stat_ssl s
        join pg_stat_activity a using (pid) where a.usename like 'cordon%'";
    let row = superuser.query_one(sessions, &[]).await.unwrap();
    let (encrypted, plain): (i64, i64) = (row.get(0), row.get(1));
    assert!(encrypted >= 2 && plain == 0, "{encrypted} sessions encrypted, {plain} not");
    // And cancelling, which opens a connection of its own.
    assert!(tokio::time::timeout(Duration::from_millis(100), server_sleeps(&app, &site)).await.is_err());
    let began = Instant::now();
    let asleep = "select count(*) from pg_stat_activity where query like '%pg_sleep(30)%' and pid <> pg_backend_pid() and state = 'active'";
    while superuser.query_one(asleep, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(began.elapsed() < Duration::from_secs(5), "a dropped request is cancelled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn server_sleeps(app: &cordon::app::App, site: &Site) {
    let tenant = site.tenant(TenancyModel::Shared).await;
    let guard = crate::site::admitted(app, tenant.id).await.unwrap();
    crate::site::statement(&guard.read().await.unwrap(), "select pg_sleep(30)").await.unwrap();
}
