//! The front door: GraphQL over HTTP, our own layer. Reads headers and bytes, asks who calls, hands on, and turns what comes back into
//! a status and a body. Knows no schema and no SQL; every answer is JSON and carries the request's id in a header, never in its body.

mod accept;
mod answer;
mod body;
mod caller;
mod graphql;
pub mod metrics;

use crate::app::App;
use crate::graphql::Api;
use actix_web::dev::Server;
use actix_web::{HttpServer, web};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

/// What the front door is made of. Nothing in it belongs to a tenant.
struct Front {
    app: Arc<App>,
    api: Api,
}

/// Serves on a listener until SIGINT or SIGTERM, then lets running requests end.
pub fn serve(app: Arc<App>, listener: TcpListener) -> io::Result<Server> {
    let api = Api::new(&app.settings.limits).map_err(io::Error::other)?;
    let (workers, deadline) = (app.settings.http.workers, app.settings.http.request_timeout_ms);
    let front = web::Data::new(Front { app, api });
    let mut server = HttpServer::new(move || actix_web::App::new().app_data(web::Data::clone(&front)).configure(routes));
    if workers > 0 {
        server = server.workers(workers);
    }
    Ok(server.shutdown_timeout(deadline.div_ceil(1000)).listen(listener)?.run())
}

/// `/graphql` by POST; everything else is refused in the same form.
fn routes(routes: &mut web::ServiceConfig) {
    routes
        .service(web::resource("/graphql").route(web::post().to(graphql::answer)).default_service(web::to(answer::wrong_method)))
        .default_service(web::to(answer::nothing_here));
}
