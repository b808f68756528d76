//! `cordon serve`: looks whether the walls are up, then answers.

use super::Context;
use crate::app::{App, refuse_unfit};
use crate::guard::BootCheck;
use crate::http;
use crate::ops::OpsError;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;

pub async fn run(context: Context) -> Result<ExitCode, OpsError> {
    refuse_unfit(&context.settings, context.profile.as_deref())?;
    let app = App::new(context.settings, BootCheck::On)?;
    let down = app.walls().await?;
    if !down.is_empty() {
        return Err(OpsError::WallDown(format!("refusing to serve, walls are down:\n  {}", down.join("\n  "))));
    }
    app.metrics.watch_export(context.dropped);
    app.run_beside();
    let scraped = match app.settings.telemetry.bind {
        Some(address) => {
            let listener = bind(address)?;
            let address = listener.local_addr()?;
            Some((http::metrics::serve(Arc::clone(&app.metrics), listener)?, address))
        }
        None => None,
    };
    let listener = bind(app.settings.http.bind)?;
    let address = listener.local_addr()?;
    let mut server = pin!(http::serve(Arc::clone(&app), listener)?);
    // The first poll starts its workers and listens for signals: only then is it true that it serves and can be told to stop.
    if let Poll::Ready(ended) = futures_util::poll!(server.as_mut()) {
        ended?;
    } else {
        tracing::info!("Serving http://{address}/graphql");
        let metrics = scraped.map(|(metrics, address)| {
            tracing::info!("Metrics at http://{address}/metrics");
            let handle = metrics.handle();
            tokio::spawn(metrics);
            handle
        });
        server.await?;
        if let Some(metrics) = metrics {
            metrics.stop(false).await;
        }
    }
    app.metrics.close();
    Ok(ExitCode::SUCCESS)
}

fn bind(address: SocketAddr) -> Result<TcpListener, OpsError> {
    TcpListener::bind(address).map_err(|error| OpsError::Failed(format!("cannot listen on {address}: {error}")))
}
