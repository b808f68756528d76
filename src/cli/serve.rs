//! `cordon serve`: looks whether the walls are up, then answers.

use super::Context;
use crate::app::{App, refuse_unfit};
use crate::config::Settings;
use crate::http::{self, Ended, Signals};
use crate::isolation::BootCheck;
use crate::ops::OpsError;
use crate::telemetry::Dropped;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;

pub async fn run(context: Context) -> Result<ExitCode, OpsError> {
    refuse_unfit(&context.settings, context.profile.as_deref())?;
    if context.settings.auth.issuers.is_empty() {
        tracing::warn!("auth.issuers is empty: nobody can log in");
    }
    let listeners = Listeners::bind(&context.settings)?;
    let check = context.boot_check();
    let app = App::new(context.settings, check)?;
    answer(app, check, listeners, Signals::listen()?, context.dropped, |_| Ok(())).await
}

/// Where it is to answer, and what is taken already is said before anything else is done.
pub struct Listeners {
    graphql: TcpListener,
    metrics: Option<TcpListener>,
}

/// Where it answers.
pub struct Addresses {
    /// `/graphql`.
    pub graphql: SocketAddr,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
}

impl Listeners {
    pub fn bind(settings: &Settings) -> Result<Self, OpsError> {
        if let Some(files) = &settings.http.tls {
            http::tls::settings(files).map_err(|error| OpsError::Usage(format!("http.tls: {error}")))?;
        }
        let bind = |address: SocketAddr| {
            TcpListener::bind(address).map_err(|error| OpsError::Failed(format!("cannot listen on {address}: {error}")))
        };
        Ok(Self { graphql: bind(settings.http.bind)?, metrics: settings.telemetry.bind.map(bind).transpose()? })
    }
}

/// Serves until told to stop. `ready` is called once it is true that it serves.
pub async fn answer(
    app: Arc<App>,
    check: BootCheck,
    listeners: Listeners,
    mut signals: Signals,
    dropped: Dropped,
    ready: impl FnOnce(Addresses) -> Result<(), OpsError>,
) -> Result<ExitCode, OpsError> {
    let down = tokio::select! {
        biased;
        () = signals.next() => return Ok(ExitCode::from(130)),
        down = app.walls(check) => down?,
    };
    if !down.is_empty() {
        return Err(OpsError::WallDown(format!("refusing to serve, walls are down:\n  {}", down.join("\n  "))));
    }
    app.metrics.watch_export(dropped);
    app.run_beside();
    let Listeners { graphql, metrics } = listeners;
    let addresses = Addresses {
        graphql: graphql.local_addr()?,
        metrics: metrics.as_ref().map(TcpListener::local_addr).transpose()?,
    };
    let scraped = metrics.map(|listener| http::metrics::serve(Arc::clone(&app.metrics), listener)).transpose()?;
    let scheme = if app.settings.http.tls.is_some() { "https" } else { "http" };
    let mut server = http::serve(Arc::clone(&app), graphql)?;
    // The first poll starts its workers: only then is it true that it serves.
    if let Poll::Ready(ended) = futures_util::poll!(&mut server) {
        ended?;
        return Ok(ExitCode::SUCCESS);
    }
    let scraped = scraped.map(|metrics| {
        let handle = metrics.handle();
        tokio::spawn(metrics);
        handle
    });
    tracing::info!("Serving {scheme}://{}/graphql", addresses.graphql);
    if let Some(address) = addresses.metrics {
        tracing::info!("Metrics at http://{address}/metrics");
    }
    ready(addresses)?;
    let ended = http::until_told(server, &app, signals).await?;
    if let Some(metrics) = scraped {
        metrics.stop(false).await;
    }
    app.metrics.close();
    Ok(match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::AtOnce => ExitCode::from(130),
    })
}
