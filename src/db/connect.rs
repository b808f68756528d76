//! Opens connections to PostgreSQL. A server that is not local is reached only over TLS with its certificate verified
//! for the host name; a URL that asks for less is refused. Touches nothing but sockets and certificate files. Passwords
//! are part of a `Config` and are never printed.

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

/// The address of a database, the login, and how the connection is protected.
#[derive(Debug, Clone)]
pub struct Config {
    pg: tokio_postgres::Config,
    tls: Tls,
}

/// How the connection to a server is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Without TLS, because the server is on this machine.
    Local,
    /// With TLS; the server's certificate is verified as libpq does for `sslmode=verify-full`.
    Verified {
        /// PEM file with the trusted root certificates (`sslrootcert`). `None` means the trust store of the machine.
        root_certificates: Option<PathBuf>,
    },
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection was refused or timed out, or the login failed.
    #[error("cannot connect to PostgreSQL: {0}")]
    Postgres(#[from] tokio_postgres::Error),
    /// The session could not be set up.
    #[error("cannot set up a PostgreSQL session: {0}")]
    Session(String),
    /// A certificate was rejected, or the machine's trust store cannot be read.
    #[error("cannot verify certificates: {0}")]
    Tls(#[from] rustls::Error),
    /// The file of `sslrootcert` cannot be used.
    #[error("cannot verify certificates: {0}")]
    RootCertificates(String),
    /// The URL is malformed, or asks for less protection than is allowed.
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
    /// How connections with this configuration are protected.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }
}

/// Parses a `postgres://` URL. The accepted values of `sslmode` and `sslrootcert` mean the same as to libpq. Fails with
/// `ConnectError::Url` when the URL is malformed or asks for less protection than is allowed.
pub fn parse(url: &SecretString) -> Result<Config, ConnectError> {
    let text = url.expose_secret();
    if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(ConnectError::Url("it must begin with postgres://".into()));
    }
    // The driver does not know these two parameters in full, so they are taken out of the URL before it parses the
    // rest.
    let (base, query) = text.split_once('?').unwrap_or((text, ""));
    let (tls_parameters, other_parameters): (Vec<_>, Vec<_>) =
        query.split('&').partition(|pair| matches!(key(pair), "sslmode" | "sslrootcert"));
    let without_tls = format!("{base}?{}", other_parameters.join("&"));
    let mut pg: tokio_postgres::Config =
        without_tls.parse().map_err(|error: tokio_postgres::Error| ConnectError::Url(error.to_string()))?;
    let parameter =
        |name| tls_parameters.iter().rev().find(|pair| key(pair) == name).map(|pair| value(pair)).transpose();
    let tls = choose_tls(is_local(&pg), parameter("sslmode")?.as_deref(), parameter("sslrootcert")?)?;
    pg.application_name("cordon");
    // With any mode weaker than `Require` the driver falls back to plain text when the peer says that it has no TLS.
    pg.ssl_mode(if tls == Tls::Local { SslMode::Disable } else { SslMode::Require });
    // A peer that disappears without closing the connection is noticed in seconds instead of hours.
    pg.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(10));
    Ok(Config { pg, tls })
}

fn key(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// Decodes the value of a parameter in the same way as the driver decodes the others.
fn value(pair: &str) -> Result<String, ConnectError> {
    let value = pair.split_once('=').map_or("", |(_, value)| value);
    let parsed: Result<tokio_postgres::Config, _> = format!("postgres:///?application_name={value}").parse();
    let decoded = parsed.ok().and_then(|config| config.get_application_name().map(str::to_owned));
    decoded.ok_or_else(|| ConnectError::Url(format!("the value of {} cannot be read", key(pair))))
}

fn choose_tls(local: bool, mode: Option<&str>, root_certificates: Option<String>) -> Result<Tls, ConnectError> {
    let root_certificates = root_certificates.map(PathBuf::from);
    match mode {
        None if !local => Ok(Tls::Verified { root_certificates }),
        None | Some("disable" | "allow" | "prefer") if local && root_certificates.is_none() => Ok(Tls::Local),
        Some("verify-full") => Ok(Tls::Verified { root_certificates }),
        None => {
            Err(ConnectError::Url("sslrootcert means nothing to a local server without sslmode=verify-full".into()))
        }
        Some(weaker @ ("disable" | "allow" | "prefer" | "require" | "verify-ca")) => Err(ConnectError::Url(format!(
            "sslmode={weaker} does not verify who answers: use sslmode=verify-full, \
             with sslrootcert=FILE for an authority of your own"
        ))),
        Some(_) => Err(ConnectError::Url("sslmode must be verify-full, or disable for a local server".into())),
    }
}

/// Returns the address of a server as a URL without login and database, in the form that `parse` reads. `None` when the
/// configuration names no host.
pub fn address(config: &Config) -> Option<String> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let mut parameters = Vec::new();
    let authority = match config.get_hosts().first()? {
        Host::Unix(directory) => {
            parameters.extend([format!("host={}", directory.display()), format!("port={port}")]);
            String::new()
        }
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
        Host::Tcp(name) => format!("{name}:{port}"),
    };
    parameters.extend(config.get_hostaddrs().first().map(|address| format!("hostaddr={address}")));
    if let Tls::Verified { root_certificates } = &config.tls {
        parameters.push("sslmode=verify-full".into());
        parameters.extend(root_certificates.as_ref().map(|file| {
            format!("sslrootcert={}", percent_encode(file.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC))
        }));
    }
    let separator = if parameters.is_empty() { "" } else { "?" };
    Some(format!("postgres://{authority}/{separator}{}", parameters.join("&")))
}

/// Opens a connection for diesel. Its driver runs as a task of the current Tokio runtime and ends with that runtime.
pub async fn open(config: &Config) -> Result<AsyncPgConnection, ConnectError> {
    let session = match &config.tls {
        Tls::Local => {
            let (client, connection) = config.connect(NoTls).await?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
        Tls::Verified { root_certificates } => {
            let (client, connection) = config.connect(verifying_tls(root_certificates.as_deref())?).await?;
            AsyncPgConnection::try_from_client_and_connection(client, connection).await
        }
    };
    session.map_err(|error| ConnectError::Session(error.to_string()))
}

/// Evaluates an SQL expression of type `integer` in a session of its own, which is closed afterwards. The answer holds
/// for anyone who connects now, because no pooled session's state takes part. `expression` becomes part of the
/// statement: never pass it input.
pub async fn query_integer(config: &Config, expression: &str) -> Result<i32, ConnectError> {
    use diesel::sql_types::Integer;
    use diesel_async::RunQueryDsl;
    let mut session = open(config).await?;
    let value = diesel::select(diesel::dsl::sql::<Integer>(expression)).get_result(&mut session).await;
    value.map_err(|error| ConnectError::Session(error.to_string()))
}

/// Asks the server to cancel the running statement of the session that `token` belongs to. A failure is only logged,
/// because the caller closes the session anyway.
pub async fn cancel(token: CancelToken, tls: &Tls) {
    let outcome = match tls {
        Tls::Local => token.cancel_query(NoTls).await.map_err(ConnectError::from),
        Tls::Verified { root_certificates } => match verifying_tls(root_certificates.as_deref()) {
            Ok(tls) => token.cancel_query(tls).await.map_err(ConnectError::from),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "Could not cancel a statement; its session is closed all the same");
    }
}

/// Whether all hosts are Unix sockets or the loopback interface, by name and, where given, by `hostaddr`. A name that
/// is not local counts as remote even with a loopback `hostaddr`, because the certificate is verified for the name.
fn is_local(config: &tokio_postgres::Config) -> bool {
    let hosts = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
    });
    hosts && config.get_hostaddrs().iter().all(std::net::IpAddr::is_loopback)
}

/// Builds the TLS connector. The certificate file is read for each connection, because it may be replaced while the
/// server runs.
fn verifying_tls(root_certificates: Option<&Path>) -> Result<MakeRustlsConnect, ConnectError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client =
        rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::DEFAULT_VERSIONS)?;
    let client = match root_certificates {
        None => client.with_platform_verifier()?,
        Some(file) => client.with_root_certificates(read_root_certificates(file)?),
    };
    Ok(MakeRustlsConnect::new(client.with_no_client_auth()))
}

fn read_root_certificates(file: &Path) -> Result<rustls::RootCertStore, ConnectError> {
    let unreadable = |cause: String| ConnectError::RootCertificates(format!("{}: {cause}", file.display()));
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
    fn a_remote_server_is_verified_or_refused() {
        let verified = |file: Option<&str>| Ok(Tls::Verified { root_certificates: file.map(PathBuf::from) });
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
        // Neither a loopback address makes a remote name local, nor a local name a remote address.
        assert_eq!(tls("postgres://u@db.test/x?hostaddr=127.0.0.1"), verified(None));
        assert_eq!(tls("postgres://u@localhost/x?hostaddr=10.0.0.5"), verified(None));
        assert_eq!(tls("postgres://u@/x?hostaddr=10.0.0.5"), verified(None));
        assert!(tls("postgres://u@localhost/x?hostaddr=10.0.0.5&sslmode=disable").is_err());
    }

    #[test]
    fn a_local_server_needs_no_tls() {
        for place in [
            "u@127.0.0.1/x",
            "u@[::1]/x",
            "u@localhost:5433/x",
            "u@/x?host=/run/postgresql",
            "u@%2Frun%2Fpostgresql/x",
            "u@127.0.0.1/x?hostaddr=127.0.0.2",
        ] {
            let separator = if place.contains('?') { '&' } else { '?' };
            assert_eq!(tls(&format!("postgres://{place}")), Ok(Tls::Local), "{place}");
            assert_eq!(tls(&format!("postgres://{place}{separator}sslmode=disable")), Ok(Tls::Local));
            assert_eq!(
                tls(&format!("postgres://{place}{separator}sslmode=verify-full")),
                Ok(Tls::Verified { root_certificates: None })
            );
            assert!(
                tls(&format!("postgres://{place}{separator}sslmode=require")).is_err(),
                "a mode that cannot be kept is refused"
            );
            assert!(tls(&format!("postgres://{place}{separator}sslrootcert=/x")).is_err());
        }
        assert!(tls("host=127.0.0.1 sslmode=disable").is_err());
    }

    #[test]
    fn the_driver_never_falls_back_to_plain_text() {
        let mode = |url: &str| parse(&url.to_owned().into()).unwrap().get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example/x"), SslMode::Require);
        assert_eq!(mode("postgres://u@127.0.0.1/x?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u@127.0.0.1/x"), SslMode::Disable);
    }

    #[test]
    fn an_address_survives_a_round_trip() {
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
