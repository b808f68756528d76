//! Opening connections. A server that is not local is spoken to over TLS with its certificate verified, whatever the URL says.
//! Touches nothing but sockets; passwords come in as part of a `Config` and are never printed.

use diesel_async::AsyncPgConnection;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use std::time::Duration;
pub use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::{CancelToken, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

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
    /// The URL is not one.
    #[error("not a PostgreSQL URL: {0}")]
    Url(String),
}

/// The configuration in a URL, without its `sslmode`: that follows from the host.
pub fn parse(url: &SecretString) -> Result<Config, ConnectError> {
    let mut config: Config = url.expose_secret().parse().map_err(|error: tokio_postgres::Error| ConnectError::Url(error.to_string()))?;
    config.application_name("cordon");
    // A peer that went away without a word is noticed in seconds, not hours.
    config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(10));
    Ok(config)
}

/// Where a server is, as a URL without who logs in; `None` where no host is named.
pub fn address(config: &Config) -> Option<String> {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    Some(match config.get_hosts().first()? {
        Host::Unix(directory) => format!("postgres:///?host={}&port={port}", directory.display()),
        Host::Tcp(name) if name.contains(':') => format!("postgres://[{name}]:{port}/"),
        Host::Tcp(name) => format!("postgres://{name}:{port}/"),
    })
}

/// Opens a session for diesel. Its driver runs as a task of the current runtime and ends with it.
pub async fn open(config: &Config) -> Result<AsyncPgConnection, ConnectError> {
    let session = if is_local(config) {
        let (client, connection) = config.connect(NoTls).await?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    } else {
        let (client, connection) = config.connect(tls()?).await?;
        AsyncPgConnection::try_from_client_and_connection(client, connection).await
    };
    session.map_err(|error| ConnectError::Session(error.to_string()))
}

/// Asks the server to stop what the session behind `token` is doing. Best effort: the session is closed anyway.
pub async fn cancel(token: CancelToken, local: bool) {
    let outcome = match local {
        true => token.cancel_query(NoTls).await.map_err(ConnectError::from),
        false => match tls() {
            Ok(tls) => token.cancel_query(tls).await.map_err(ConnectError::from),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "Could not cancel a statement; its session is closed all the same");
    }
}

/// A Unix socket, or the loopback interface.
pub fn is_local(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
    })
}

fn tls() -> Result<MakeRustlsConnect, ConnectError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(client))
}
