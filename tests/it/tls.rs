//! The way in and the way to the databases, encrypted: what is shown and what is believed. Certificates are the test's own, good until 2099.

use crate::options;
use crate::run_dir;
use crate::server::Server;
use crate::site::{MODELS, Site, names, plant};
use cordon::config::Tls;
use cordon::db::cluster::{Cluster, Options};
use cordon::db::connect;
use cordon::guard::BootCheck;
use cordon::ops::server;
use cordon::tenant::Model;
use reqwest::tls::{TlsInfo, Version as TlsVersion};
use reqwest::{Certificate, Client, ClientBuilder, Version};
use secrecy::{ExposeSecret, SecretString};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixStream};
use uuid::Uuid;

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/certificates").join(name)
}

/// A directory with the certificate and key that a server reads.
fn served_files(name: &str) -> Tls {
    let directory = run_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    let files = Tls { certificate: directory.join("chain.pem"), key: directory.join("key.pem") };
    std::fs::copy(certificate("server.pem"), &files.certificate).unwrap();
    std::fs::copy(certificate("server.key"), &files.key).unwrap();
    files
}

/// Puts a file in the place of another, as certificate clients do.
fn replace(with: &str, file: &Path) {
    let next = file.with_extension("next");
    std::fs::copy(certificate(with), &next).unwrap();
    std::fs::rename(next, file).unwrap();
}

fn der(name: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_file(certificate(name)).unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_with_a_certificate_that_can_be_renewed() {
    let site = Site::shared().await;
    let tenant = site.tenant(Model::Shared).await;
    let (files, mut settings) = (served_files("https"), site.server_settings());
    settings.http.tls = Some(files.clone());
    let server = Server::start(site, settings, BootCheck::On);
    let address: std::net::SocketAddr = server.url.trim_start_matches("http://").trim_end_matches("/graphql").parse().unwrap();
    let url = format!("https://notes.test:{}/graphql", address.port());
    let authority = Certificate::from_pem(&std::fs::read(certificate("authority.pem")).unwrap()).unwrap();
    let client = |set: fn(ClientBuilder) -> ClientBuilder| -> Client {
        let builder = Client::builder().resolve("notes.test", address).tls_certs_only([authority.clone()]).tls_info(true);
        set(builder).build().unwrap()
    };
    let token = site.token(&[tenant.id], "clinician", "alice");
    let ask = async |client: &Client| {
        let body = serde_json::json!({ "query": "{ viewer { id } }" });
        let answer = client.post(&url).bearer_auth(&token).json(&body).send().await.unwrap();
        let shown = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate).map(<[u8]>::to_vec);
        (answer.status().as_u16(), answer.version(), shown)
    };
    let (old, new) = (Some(der("server.pem")), Some(der("next.pem")));
    let kept = client(|builder| builder);
    assert_eq!(ask(&kept).await, (200, Version::HTTP_2, old.clone()));
    assert_eq!(ask(&client(ClientBuilder::http1_only)).await, (200, Version::HTTP_11, old.clone()));
    assert_eq!(ask(&client(|builder| builder.tls_version_max(TlsVersion::TLS_1_2))).await.0, 200);
    assert!(Client::new().post(&server.url).send().await.is_err(), "no plain HTTP beside it");
    let distrustful = Client::builder().resolve("notes.test", address).build().unwrap();
    assert!(distrustful.post(&url).send().await.is_err(), "the test's authority is nobody's but the test's");

    // Half a pair, and no certificate at all, leave what is served.
    replace("next.pem", &files.certificate);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(ask(&client(|builder| builder)).await, (200, Version::HTTP_2, old.clone()));
    replace("next.key", &files.key);
    let began = Instant::now();
    while ask(&client(|builder| builder)).await.2 != new {
        assert!(began.elapsed() < Duration::from_secs(5), "the new certificate is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ask(&kept).await, (200, Version::HTTP_2, old), "a connection that was open is still the same one");
    std::fs::write(&files.certificate, "nothing").unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(ask(&client(|builder| builder)).await.2, new);
}

#[tokio::test]
async fn a_listener_does_not_begin_without_a_whole_pair() {
    let site = Site::shared().await;
    let files = served_files("https-half");
    for (wrong, with) in [("other key", Some("next.key")), ("no key", Some("server.pem")), ("absent", None)] {
        match with {
            Some(with) => replace(with, &files.key),
            None => std::fs::remove_file(&files.key).unwrap(),
        }
        let mut settings = site.server_settings();
        settings.http.tls = Some(files.clone());
        let app = cordon::app::App::new(settings, BootCheck::On).unwrap();
        let refused = cordon::http::serve(app, std::net::TcpListener::bind("127.0.0.1:0").unwrap()).err().expect(wrong);
        assert!(refused.to_string().contains("key.pem"), "{wrong}: {refused}");
    }
}

/// A PostgreSQL that speaks TLS on an address of its own, and the password of its superuser.
fn encrypted(name: &str) -> (Cluster, String, String) {
    let options = options(name);
    std::fs::create_dir(&options.dir).unwrap();
    let key = run_dir().join(format!("{name}.key"));
    std::fs::copy(certificate("server.key"), &key).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = nix::unistd::User::from_name("postgres").unwrap().or(nix::unistd::User::from_name("nobody").unwrap()).unwrap();
    if nix::unistd::geteuid().is_root() {
        chown(&key, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).unwrap();
    }
    let public = run_dir().join(format!("{name}.pem"));
    std::fs::copy(certificate("server.pem"), &public).unwrap();
    // The port is fixed, so the address is the run's own.
    let pid = std::process::id();
    let address = format!("127.{}.{}.{}", 64 + (pid >> 16) % 64, (pid >> 8) % 256, 1 + pid % 250);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let more =
        [("listen_addresses", address.clone()), ("ssl", "on".into()), ("ssl_cert_file", text(&public)), ("ssl_key_file", text(&key))];
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
    assert!(kept.starts_with("postgres://db.test:5432/?hostaddr=127.") && kept.contains("&sslmode=verify-full&sslrootcert="), "{kept}");
    let app = site.app(BootCheck::On);
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
    let tenant = site.tenant(Model::Shared).await;
    let guard = crate::site::admitted(app, tenant.id).await.unwrap();
    crate::site::statement(&guard.read().await.unwrap(), "select pg_sleep(30)").await.unwrap();
}

/// Whoever answers in the database's place says that it has no TLS: nothing more is said to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_said_in_plain_text() {
    let site = Site::shared().await;
    let cluster = crate::cluster();
    let url = cluster.superuser_url("postgres");
    let password = url.expose_secret().split(['@', ':']).nth(2).unwrap().to_owned();
    let socket = cluster.socket_dir().join(".s.PGSQL.5432");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    // It is a way to PostgreSQL, and a local one may be plain.
    let local = connect::parse(&format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres").into()).unwrap();
    connect::open(&local).await.unwrap();
    let authority = certificate("authority.pem");
    let named = format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1&sslrootcert={}", authority.display());
    let refused = connect::open(&connect::parse(&named.into()).unwrap()).await.err().unwrap().to_string();
    assert!(refused.contains("TLS"), "{refused}");
    // Nor is such a server ever registered.
    let weak = format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1&sslmode=prefer");
    assert!(connect::parse(&weak.into()).is_err());
    let config = connect::parse(&format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1").into()).unwrap();
    assert!(server::add(&site.operator, "elsewhere", &config, &password.into()).await.is_err());
}
