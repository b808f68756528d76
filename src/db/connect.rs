//! Opening connections. A server that is not local is spoken to over TLS, its certificate verified for the host's name, or not at all:
//! a URL that asks for less is refused. Touches nothing but sockets and files of certificates; passwords come in as part of a `Config` and
//! are never printed.

use diesel_async::AsyncPgConnection;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::{ExposeSecret, SecretString};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{CancelToken, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Where a database is, who logs in, and how the way there is protected.
#[derive(Debug, Clone)]
pub struct Config {
    pg: tokio_postgres::Config,
    tls: Tls,
}

/// How the way to a server is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Not: the server is on this machine.
    Local,
    /// As `sslmode=verify-full` says.
    Verified {
        /// PEM file with the authorities whose word is taken; the machine's own where none is named.
        authorities: Option<PathBuf>,
    },
}

/// A connection that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Refused, timed out, or login failed.
    #[error("cannot connect to PostgreSQL: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// The session could not be set up.
    #[error("cannot set up a PostgreSQL session: {0}")]
    Session(String),
    /// The machine's trust store cannot be read.
    #[error("cannot verify certificates: {0}")]
    Tls(#[from] rustls::Error),
    /// The file of `sslrootcert` cannot be used.
    #[error("cannot verify certificates: {0}")]
    Authorities(String),
    /// The URL is not one.
    #[error("not a PostgreSQL URL that can be used: {0}")]
    Url(String),
}

impl Deref for Config {
    type Target = tokio_postgres::Config;
    fn deref(&self) -> &tokio_postgres::Config {
        &self.pg
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Config {
        &mut self.pg
    }
}

impl Config {
    /// How the way there is protected.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }
}

/// The configuration in a URL. `sslmode` and `sslrootcert` mean what they mean to libpq, as far as they are accepted.
pub fn parse(url: &SecretString) -> Result<Config, ConnectError> {
    let wrong = |what: String| ConnectError::Url(what);
    let text = url.expose_secret();
    if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(wrong("it must begin with postgres://".into()));
    }
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let (ours, theirs): (Vec<_>, Vec<_>) =
        query.split('&').partition(|pair| matches!(key(pair), "sslmode" | "sslrootcert"));
    let plain = format!("{place}?{}", theirs.join("&"));
    let mut pg: tokio_postgres::Config =
        plain.parse().map_err(|error: tokio_postgres::Error| wrong(error.to_string()))?;
    let asked = |name| ours.iter().rev().find(|pair| key(pair) == name).map(|pair| value(pair)).transpose();
    let tls = protection(is_local(&pg), asked("sslmode")?.as_deref(), asked("sslrootcert")?)?;
    pg.application_name("cordon");
    // Anything weaker goes on in plain text when whoever answers says that there is no TLS.
    pg.ssl_mode(if tls == Tls::Local { SslMode::Disable } else { SslMode::Require });
    // A peer that went away without a word is noticed in seconds, not hours.
    pg.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(10));
    Ok(Config { pg, tls })
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// Read as the driver reads the values of other keys.
fn value(pair: &str) -> Result<String, ConnectError> {
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    let read: Result<tokio_postgres::Config, _> = format!("postgres:///?application_name={value}").parse();
    let read = read.ok().and_then(|config| config.get_application_name().map(str::to_owned));
    read.ok_or_else(|| ConnectError::Url(format!("the value of {} cannot be read", key(pair))))
}

fn protection(local: bool, mode: Option<&str>, authorities: Option<String>) -> Result<Tls, ConnectError> {
    let authorities = authorities.map(PathBuf::from);
    match mode {
        None if !local => Ok(Tls::Verified { authorities }),
        None | Some("disable" | "allow" | "prefer") if local && authorities.is_none() => Ok(Tls::Local),
        Some("verify-full") => Ok(Tls::Verified { authorities }),
        None => {
            Err(ConnectError::Url("sslrootcert means nothing to a local server without sslmode=verify-full".into()))
        }
        Some(weaker @ ("disable" | "allow" | "prefer" | "require" | "verify-ca")) => Err(ConnectError::Url(format!(
            "sslmode={weaker} does not verify who answers: use sslmode=verify-full, with sslrootcert=FILE for an authority of your own"
        ))),
        Some(_) => Err(ConnectError::Url("sslmode must be verify-full, or disable for a local server".into())),
    }
}

/// Where a server is, as a URL without who logs in; `None` where no host is named.
pub fn address(config: &Config) -> Option<String> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut parameters = Vec::new();
    let place = match config.get_hosts().first()? {
        Host::Unix(directory) => {
            parameters.extend([format!("host={}", directory.display()), format!("port={port}")]);
            String::new()
        }
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
        Host::Tcp(name) => format!("{name}:{port}"),
    };
    parameters.extend(config.get_hostaddrs().first().map(|address| format!("hostaddr={address}")));
    if let Tls::Verified { authorities } = &config.tls {
        parameters.push("sslmode=verify-full".into());
        parameters.extend(authorities.as_ref().map(|file| {
            format!("sslrootcert={}", percent_encode(file.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC))
        }));
    }
    let mark = if parameters.is_empty() { "" } else { "?" };
    Some(format!("postgres://{place}/{mark}{}", parameters.join("&")))
}

/// Opens a session for diesel. Its driver runs as a task of the current runtime and ends with it.
pub async fn open(config: &Config) -> Result<AsyncPgConnection, ConnectError> {
    let session = match &config.tls {
        Tls::Local => {
            let (client, connection) = config.connect(NoTls).await?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
        Tls::Verified { authorities } => {
            let (client, connection) = config.connect(verifying(authorities.as_deref())?).await?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
    };
    session.map_err(|error| ConnectError::Session(error.to_string()))
}

/// Asks one question in a session of its own, which ends with the answer: what it says is true of whoever connects now.
pub async fn ask(config: &Config, question: &str) -> Result<i32, ConnectError> {
    use diesel::sql_types::Integer;
    use diesel_async::RunQueryDsl;
    let mut session = open(config).await?;
    let answer = diesel::select(diesel::dsl::sql::<Integer>(question)).get_result(&mut session).await;
    answer.map_err(|error| ConnectError::Session(error.to_string()))
}

/// Asks the server to stop what the session behind `token` is doing. Best effort: the session is closed anyway.
pub async fn cancel(token: CancelToken, tls: &Tls) {
    let outcome = match tls {
        Tls::Local => token.cancel_query(NoTls).await.map_err(ConnectError::from),
        Tls::Verified { authorities } => match verifying(authorities.as_deref()) {
            Ok(tls) => token.cancel_query(tls).await.map_err(ConnectError::from),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "Could not cancel a statement; its session is closed all the same");
    }
}

/// A Unix socket, or the loopback interface: by name and, where one is given, by address. A name that is not local stays so whatever address
/// is given with it, because it is the name that is verified.
fn is_local(config: &tokio_postgres::Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
    });
    hosts && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

/// The files are read for each connection: authorities change while the server runs.
fn verifying(authorities: Option<&Path>) -> Result<MakeRustlsConnect, ConnectError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client =
        rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::DEFAULT_VERSIONS)?;
    let client = match authorities {
        None => client.with_platform_verifier()?,
        Some(file) => client.with_root_certificates(read_authorities(file)?),
    };
    Ok(MakeRustlsConnect::new(client.with_no_client_auth()))
}

fn read_authorities(file: &Path) -> Result<rustls::RootCertStore, ConnectError> {
    let unreadable = |cause: String| ConnectError::Authorities(format!("{}: {cause}", file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))? {
        roots.add(certificate.map_err(|error| unreadable(error.to_string()))?)?;
    }
    if roots.is_empty() {
        return Err(unreadable("no certificate in it".into()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(url: &str) -> Result<Tls, String> {
        parse(&url.to_owned().into()).map(|config| config.tls).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_local_is_verified_or_refused() {
        let verified = |file: Option<&str>| Ok(Tls::Verified { authorities: file.map(PathBuf::from) });
        for place in [
            "u@db.example/x",
            "u@10.0.0.5/x",
            "u@localhost.example/x",
            "u@127.0.0.1,db.example/x",
            "u@[2001:db8::1]:5433/x",
        ] {
            assert_eq!(tls(&format!("postgres://{place}")), verified(None), "{place}");
            assert_eq!(tls(&format!("postgresql://{place}?sslmode=verify-full&connect_timeout=3")), verified(None));
            assert_eq!(
                tls(&format!("postgres://{place}?sslmode=verify-full&sslrootcert=/etc/a%20b.pem")),
                verified(Some("/etc/a b.pem"))
            );
            for weaker in ["disable", "allow", "prefer", "require", "verify-ca"] {
                let refused = tls(&format!("postgres://{place}?sslmode={weaker}")).unwrap_err();
                assert!(refused.contains(weaker) && refused.contains("use sslmode=verify-full"), "{refused}");
            }
            for wrong in [
                "sslmode=verify-full&sslmode=disable",
                "sslmode=",
                "sslmode",
                "sslmode=VERIFY-FULL",
                "sslmode=verify-full%20",
            ] {
                assert!(tls(&format!("postgres://{place}?{wrong}")).is_err(), "{place} {wrong}");
            }
        }
        // An address does not make a name local, and a local name does not make an address so.
        assert_eq!(tls("postgres://u@db.test/x?hostaddr=127.0.0.1"), verified(None));
        assert_eq!(tls("postgres://u@localhost/x?hostaddr=10.0.0.5"), verified(None));
        assert_eq!(tls("postgres://u@/x?hostaddr=10.0.0.5"), verified(None));
        assert!(tls("postgres://u@localhost/x?hostaddr=10.0.0.5&sslmode=disable").is_err());
    }

    #[test]
    fn what_is_local_may_be_plain() {
        for place in [
            "u@127.0.0.1/x",
            "u@[::1]/x",
            "u@localhost:5433/x",
            "u@/x?host=/run/postgresql",
            "u@%2Frun%2Fpostgresql/x",
            "u@127.0.0.1/x?hostaddr=127.0.0.2",
        ] {
            let mark = if place.contains('?') { '&' } else { '?' };
            assert_eq!(tls(&format!("postgres://{place}")), Ok(Tls::Local), "{place}");
            assert_eq!(tls(&format!("postgres://{place}{mark}sslmode=disable")), Ok(Tls::Local));
            assert_eq!(
                tls(&format!("postgres://{place}{mark}sslmode=verify-full")),
                Ok(Tls::Verified { authorities: None })
            );
            assert!(tls(&format!("postgres://{place}{mark}sslmode=require")).is_err(), "less than it says is not done");
            assert!(tls(&format!("postgres://{place}{mark}sslrootcert=/x")).is_err());
        }
        assert!(tls("host=127.0.0.1 sslmode=disable").is_err());
    }

    #[test]
    fn plain_text_is_never_a_way_out() {
        let mode = |url: &str| parse(&url.to_owned().into()).unwrap().get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example/x"), SslMode::Require);
        assert_eq!(mode("postgres://u@127.0.0.1/x?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u@127.0.0.1/x"), SslMode::Disable);
    }

    #[test]
    fn an_address_leads_to_the_same_place() {
        for url in [
            "postgres://db.example:5432/?sslmode=verify-full",
            "postgres://db.test:5433/?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=%2Fetc%2Fa%20b%2Epem",
            "postgres://[2001:db8::1]:5432/?sslmode=verify-full",
            "postgres://127.0.0.1:5432/",
            "postgres:///?host=/run/postgresql&port=5432",
        ] {
            let config = parse(&url.to_owned().into()).unwrap();
            assert_eq!(address(&config).as_deref(), Some(url));
        }
        let short = parse(&"postgres://u:secret@db.example/x".to_owned().into()).unwrap();
        assert_eq!(address(&short).unwrap(), "postgres://db.example:5432/?sslmode=verify-full");
    }
}
