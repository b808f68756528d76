//! The way in and the way to the databases, encrypted: what is shown and what is believed. Certificates are the test's own, good until 2099.
//! A PostgreSQL that speaks TLS is a part of tests/conformance: not every build of it can.

use crate::run_dir;
use crate::server::Server;
use crate::site::Site;
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
    let tenant = site.tenant(TenancyModel::Shared).await;
    let (files, mut settings) = (served_files("https"), site.server_settings());
    settings.http.tls = Some(files.clone());
    let server = Server::start(site, settings, BootCheck::Dev);
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
        let app = cordon::app::App::new(settings, BootCheck::Dev).unwrap();
        let refused = cordon::http::serve(app, std::net::TcpListener::bind("127.0.0.1:0").unwrap()).err().expect(wrong);
        assert!(refused.to_string().contains("key.pem"), "{wrong}: {refused}");
    }
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
    let named = format!(
        "postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1&sslrootcert={}",
        authority.display()
    );
    let refused = connect::open(&connect::parse(&named.into()).unwrap()).await.err().unwrap().to_string();
    assert!(refused.contains("TLS"), "{refused}");
    // Nor is such a server ever registered.
    let weak = format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1&sslmode=prefer");
    assert!(connect::parse(&weak.into()).is_err());
    let config =
        connect::parse(&format!("postgres://postgres:{password}@db.test:{port}/postgres?hostaddr=127.0.0.1").into())
            .unwrap();
    assert!(server::add(&site.operator, "elsewhere", &config, &password.into()).await.is_err());
}
