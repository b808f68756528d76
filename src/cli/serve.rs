//! `cordon serve`: looks whether the walls are up, then answers.

use super::Context;
use crate::app::{App, refuse_unfit};
use crate::guard::BootCheck;
use crate::http;
use crate::ops::OpsError;
use std::process::ExitCode;

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
    tracing::info!("Serving http://{address}/graphql");
    http::serve(app, listener)?.await?;
    Ok(ExitCode::SUCCESS)
}
