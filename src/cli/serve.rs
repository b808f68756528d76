//! `cordon serve`: checks that the walls between tenants are in place, then serves requests until it is told to stop.

use super::Context;
use crate::app::{App, check_serve_settings};
use crate::config::Settings;
use crate::http::explorer::DevTokens;
use crate::http::{self, Shutdown, Signals};
use crate::isolation::BootCheck;
use crate::ops::OpsError;
use crate::telemetry::DroppedRecords;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;

pub async fn run(context: Context) -> Result<ExitCode, OpsError> {
    check_serve_settings(&context.settings, context.profile.as_deref())?;
    if context.settings.auth.issuers.is_empty() {
        tracing::warn!("auth.issuers is empty: nobody can log in");
    }
    let listeners = Listeners::bind(&context.settings)?;
    let check = context.boot_check();
    let server = Prepared { app: App::new(context.settings, check)?, check, listeners, tokens: None };
    server.run(Signals::listen()?, context.dropped, |_| Ok(())).await
}

/// Bound before anything else is done, so that an address that is in use is reported at once.
pub struct Listeners {
    graphql: TcpListener,
    metrics: Option<TcpListener>,
}

/// The addresses of a running server.
pub struct Addresses {
    /// Of `/graphql`, the health checks and the explorer.
    pub graphql: SocketAddr,
    /// Of `/metrics`, where it is served.
    pub metrics: Option<SocketAddr>,
}

/// Everything that a server needs to start.
pub struct Prepared {
    pub app: Arc<App>,
    pub check: BootCheck,
    pub listeners: Listeners,
    /// Tokens that the explorer of `dev` offers.
    pub tokens: Option<DevTokens>,
}

impl Listeners {
    pub fn bind(settings: &Settings) -> Result<Self, OpsError> {
        if let Some(files) = &settings.http.tls {
            http::tls::server_config(files).map_err(|error| OpsError::Usage(format!("http.tls: {error}")))?;
        }
        let bind = |address: SocketAddr| {
            TcpListener::bind(address).map_err(|error| OpsError::Failed(format!("cannot listen on {address}: {error}")))
        };
        Ok(Self { graphql: bind(settings.http.bind)?, metrics: settings.telemetry.bind.map(bind).transpose()? })
    }
}

impl Prepared {
    /// Serves until a signal tells it to stop. `ready` is called as soon as requests are served.
    pub async fn run(
        self,
        mut signals: Signals,
        dropped: DroppedRecords,
        ready: impl FnOnce(Addresses) -> Result<(), OpsError>,
    ) -> Result<ExitCode, OpsError> {
        let Self { app, check, listeners: Listeners { graphql, metrics }, tokens } = self;
        let down = tokio::select! {
            biased;
            () = signals.next() => return Ok(ExitCode::from(130)),
            down = app.check_isolation(check) => down?,
        };
        if !down.is_empty() {
            return Err(OpsError::WallDown(format!("refusing to serve, walls are down:\n  {}", down.join("\n  "))));
        }
        app.metrics.observe_dropped(dropped);
        app.start_background_tasks();
        let addresses = Addresses {
            graphql: graphql.local_addr()?,
            metrics: metrics.as_ref().map(TcpListener::local_addr).transpose()?,
        };
        let metrics_server =
            metrics.map(|listener| http::metrics::serve(Arc::clone(&app.metrics), listener)).transpose()?;
        let scheme = if app.settings.http.tls.is_some() { "https" } else { "http" };
        let mut server = http::serve_with_tokens(Arc::clone(&app), graphql, tokens)?;
        // The first poll starts the workers: no request is served before.
        if let Poll::Ready(ended) = futures_util::poll!(&mut server) {
            ended?;
            return Ok(ExitCode::SUCCESS);
        }
        let metrics_server = metrics_server.map(|metrics| {
            let handle = metrics.handle();
            tokio::spawn(metrics);
            handle
        });
        tracing::info!("Serving {scheme}://{}/graphql", addresses.graphql);
        if let Some(address) = addresses.metrics {
            tracing::info!("Metrics at http://{address}/metrics");
        }
        if app.settings.http.explorer {
            tracing::info!("Explorer at {scheme}://{}/explorer", addresses.graphql);
        }
        ready(addresses)?;
        let ended = http::run_until_signal(server, &app, signals).await?;
        if let Some(metrics) = metrics_server {
            metrics.stop(false).await;
        }
        app.metrics.close();
        Ok(match ended {
            Shutdown::Drained => ExitCode::SUCCESS,
            Shutdown::Immediate => ExitCode::from(130),
        })
    }
}
