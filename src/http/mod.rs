//! The front door: GraphQL over HTTP, our own layer. Reads headers and bytes, asks who calls, hands on, and turns what comes back into
//! a status and a body. Knows no schema and no SQL; every answer is JSON and, but for health, carries the request's id in a header, never in
//! its body.

mod accept;
mod body;
mod caller;
mod compress;
mod cors;
mod graphql;
mod health;
mod held;
pub mod metrics;
mod response;
mod socket;
mod stop;
pub mod tls;

pub use stop::{Ended, Signals, until_told};

use crate::app::App;
use crate::config;
use crate::graphql::Api;
use actix_web::dev::Server;
use actix_web::http::Method;
use actix_web::middleware::{Compress, from_fn};
use actix_web::{HttpServer, web};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// What the front door is made of. Nothing in it belongs to a tenant.
struct Front {
    app: Arc<App>,
    api: Api,
}

/// A server on a listener: HTTPS where a certificate is set. It ends when its handle is told to; see `until_told`.
pub fn serve(app: Arc<App>, listener: TcpListener) -> io::Result<Server> {
    let api = Api::new(&app.settings.limits).map_err(io::Error::other)?;
    let config::Http { workers, drain_seconds: drain, stalled_seconds, tls, .. } = app.settings.http.clone();
    let stalled = Duration::from_secs(stalled_seconds);
    let front = web::Data::new(Front { app, api });
    let mut server = HttpServer::new(move || {
        let app = actix_web::App::new().app_data(web::Data::clone(&front)).configure(routes);
        app.wrap(Compress::default()).wrap(from_fn(compress::gzip_or_nothing))
    });
    if workers > 0 {
        server = server.workers(workers);
    }
    // An answer of two writes must not wait for the client to confirm the first.
    let server = server.disable_signals().shutdown_timeout(drain).tcp_nodelay(true);
    let server = server.on_connect(move |socket, _| socket::end_if_stalled(socket, stalled));
    let server = match tls {
        Some(files) => server.listen_rustls_0_23(listener, tls::settings(&files)?)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}

/// `/graphql` by POST, its preflights, and two questions about health; everything else is refused in the same form.
fn routes(routes: &mut web::ServiceConfig) {
    let graphql = web::resource("/graphql").route(web::post().to(graphql::answer));
    routes
        .service(
            graphql
                .route(web::method(Method::OPTIONS).to(cors::preflight))
                .default_service(web::to(response::wrong_method)),
        )
        .configure(health::routes)
        .default_service(web::to(response::nothing_here));
}
