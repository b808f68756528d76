//! `cordon serve`: looks whether the walls are up, then answers.

use super::Context;
use crate::app::{App, refuse_unfit};
use crate::guard::BootCheck;
use crate::http;
use crate::ops::OpsError;
use std::pin::pin;
use std::process::ExitCode;
use std::task::Poll;

pub async fn run(context: Context) -> Result<ExitCode, OpsError> {
    refuse_unfit(&context.settings, context.profile.as_deref())?;
    let app = App::new(context.settings, BootCheck::On)?;
    let down = app.walls().await?;
    if !down.is_empty() {
        return Err(OpsError::WallDown(format!("refusing to serve, walls are down:\n  {}", down.join("\n  "))));
    }
    app.run_beside();
    let listener = std::net::TcpListener::bind(app.settings.http.bind)?;
    let address = listener.local_addr()?;
    let mut server = pin!(http::serve(app, listener)?);
    // The first poll starts its workers and listens for signals: only then is it true that it serves and can be told to stop.
    if let Poll::Ready(ended) = futures_util::poll!(server.as_mut()) {
        ended?;
    } else {
        tracing::info!("Serving http://{address}/graphql");
        server.await?;
    }
    Ok(ExitCode::SUCCESS)
}
