//! TLS of the HTTP listener and of connections to PostgreSQL. The certificates in `tests/it/certificates` are valid
//! until 2099. Tests with a PostgreSQL that has TLS are in `tests/conformance`, because not every build of PostgreSQL
//! has it.

use crate::support::run_dir;
use crate::support::server::TestServer;
use crate::support::site::Site;
use cordon::config::Tls;
use cordon::db::connect;
use cordon::isolation::BootCheck;
use cordon::ops::server;
use cordon::tenant::TenancyModel;
use reqwest::tls::{TlsInfo, Version as TlsVersion};
use reqwest::{Certificate, Client, ClientBuilder, Version};
use secrecy::ExposeSecret;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixStream};

fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/certificates").join(name)
}

/// Creates a directory with a certificate and key for a server.
fn server_files(name: &str) -> Tls {
    let directory = run_dir().join(name);
    std::fs::create_dir(&directory).unwrap();
    let files = Tls { certificate: directory.join("chain.pem"), key: directory.join("key.pem") };
    std::fs::copy(certificate("server.pem"), &files.certificate).unwrap();
    std::fs::copy(certificate("server.key"), &files.key).unwrap();
    files
}

/// Replaces a file atomically, as certificate renewal clients do.
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
async fn certificates_are_renewed_without_a_restart() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let (files, mut settings) = (server_files("https"), site.server_settings());
    settings.http.tls = Some(files.clone());
    let server = TestServer::start(site, settings, BootCheck::Dev);
    let address: std::net::SocketAddr =
        server.url.trim_start_matches("http://").trim_end_matches("/graphql").parse().unwrap();
    let url = format!("https://notes.test:{}/graphql", address.port());
    let authority = Certificate::from_pem(&std::fs::read(certificate("authority.pem")).unwrap()).unwrap();
    let client = |set: fn(ClientBuilder) -> ClientBuilder| -> Client {
        let builder =
            Client::builder().resolve("notes.test", address).tls_certs_only([authority.clone()]).tls_info(true);
        set(builder).build().unwrap()
    };
    let token = site.token(&[tenant.id], "clinician", "alice");
    let query = async |client: &Client| {
        let body = serde_json::json!({ "query": "{ viewer { id } }" });
        let answer = client.post(&url).bearer_auth(&token).json(&body).send().await.unwrap();
        let certificate = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate).map(<[u8]>::to_vec);
        (answer.status().as_u16(), answer.version(), certificate)
    };
    let (old, new) = (Some(der("server.pem")), Some(der("next.pem")));
    let connected = client(|builder| builder);
    assert_eq!(query(&connected).await, (200, Version::HTTP_2, old.clone()));
    assert_eq!(query(&client(ClientBuilder::http1_only)).await, (200, Version::HTTP_11, old.clone()));
    assert_eq!(query(&client(|builder| builder.tls_version_max(TlsVersion::TLS_1_2))).await.0, 200);
    assert!(Client::new().post(&server.url).send().await.is_err(), "plain HTTP is not served");
    let other_client = Client::builder().resolve("notes.test", address).build().unwrap();
    assert!(other_client.post(&url).send().await.is_err(), "other clients do not trust the authority");

    // While certificate and key do not match, or the certificate is invalid, the previous pair is served.
    replace("next.pem", &files.certificate);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(query(&client(|builder| builder)).await, (200, Version::HTTP_2, old.clone()));
    replace("next.key", &files.key);
    let started = Instant::now();
    while query(&client(|builder| builder)).await.2 != new {
        assert!(started.elapsed() < Duration::from_secs(5), "the new certificate is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(query(&connected).await, (200, Version::HTTP_2, old), "an open connection keeps its certificate");
    std::fs::write(&files.certificate, "nothing").unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(query(&client(|builder| builder)).await.2, new);
}

#[tokio::test]
async fn a_listener_does_not_start_without_a_matching_pair() {
    let site = Site::shared().await;
    let files = server_files("https-half");
    for (wrong, with) in [("other key", Some("next.key")), ("no key", Some("server.pem")), ("absent", None)] {
        match with {
            Some(with) => replace(with, &files.key),
            None => std::fs::remove_file(&files.key).unwrap(),
        }
        let mut settings = site.server_settings();
        settings.http.tls = Some(files.clone());
        let app = cordon::app::App::new(settings, BootCheck::Dev).unwrap();
        let refused = cordon::http::serve(app, std::net::TcpListener::bind("127.0.0.1:0").unwrap()).err().expect(wrong);
        assert!(refused.to_string().contains("key.pem"), "{wrong}: {refused}");
    }
}

/// The server in place of the database has no TLS: the connection is closed before the password is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remote_databases_without_tls_are_rejected() {
    let site = Site::shared().await;
    let cluster = crate::support::cluster();
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
    // The proxy works, and connections to a local address may be without TLS.
    let local = connect::parse(&format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres").into()).unwrap();
    connect::open(&local).await.unwrap();
    let authority = certificate("authority.pem");
    let named = format!(
        "postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1&sslrootcert={}",
        authority.display()
    );
    let refused = connect::open(&connect::parse(&named.into()).unwrap()).await.err().unwrap().to_string();
    assert!(refused.contains("TLS"), "{refused}");
    // Such a server cannot be registered either.
    let weak = format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1&sslmode=prefer");
    assert!(connect::parse(&weak.into()).is_err());
    let config =
        connect::parse(&format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1").into())
            .unwrap();
    assert!(server::add(&site.operator, "elsewhere", &config, &password.into()).await.is_err());
}
