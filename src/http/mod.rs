//! The HTTP server: GraphQL over HTTP, health checks and metrics. It reads headers and bytes, authenticates the caller,
//! calls `graphql` through the guard, and turns the outcome into a status and a body. It knows no schema and no SQL.
//! Every response of `/graphql` is JSON and carries the request id in the header `x-request-id`, never in its body.

mod accept;
mod body;
mod caller;
mod compress;
mod cors;
pub mod explorer;
mod graphql;
mod health;
pub mod metrics;
mod permit_body;
mod response;
mod socket;
mod stop;
pub mod tls;

pub use stop::{Shutdown, Signals, run_until_signal};

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

/// State that all handlers share. Nothing in it belongs to a tenant.
struct ServerState {
    app: Arc<App>,
    api: Api,
}

/// Builds the server for a listener: HTTPS when `http.tls` is configured, plain HTTP otherwise. Its workers start when
/// the returned future is first polled. It runs until its handle is told to stop; see `run_until_signal`.
///
/// # Errors
/// Fails when the schema cannot be built, when the certificate cannot be used, or when the listener cannot be
/// registered.
pub fn serve(app: Arc<App>, listener: TcpListener) -> io::Result<Server> {
    serve_with_tokens(app, listener, None)
}

/// Like `serve`, with tokens for the explorer of `cordon dev`.
///
/// # Errors
/// As `serve`.
pub fn serve_with_tokens(
    app: Arc<App>,
    listener: TcpListener,
    tokens: Option<explorer::DevTokens>,
) -> io::Result<Server> {
    let api = Api::new(&app.settings.limits).map_err(io::Error::other)?;
    let config::Http { workers, drain_seconds, stalled_seconds, tls, explorer, .. } = app.settings.http.clone();
    let stall_timeout = Duration::from_secs(stalled_seconds);
    let state = web::Data::new(ServerState { app, api });
    let tokens = tokens.map(web::Data::new);
    let mut server = HttpServer::new(move || {
        let mut app = actix_web::App::new().app_data(web::Data::clone(&state)).configure(routes);
        if explorer {
            app = app.configure(explorer::routes);
        }
        if let Some(tokens) = &tokens {
            app = app.app_data(web::Data::clone(tokens));
        }
        app.wrap(Compress::default()).wrap(from_fn(compress::offer_only_gzip))
    });
    if workers > 0 {
        server = server.workers(workers);
    }
    // TCP_NODELAY: a response of two writes must not wait until the client has acknowledged the first.
    let server = server.disable_signals().shutdown_timeout(drain_seconds).tcp_nodelay(true);
    let server = server.on_connect(move |connection, _| socket::set_stall_timeout(connection, stall_timeout));
    let server = match tls {
        Some(files) => server.listen_rustls_0_23(listener, tls::server_config(&files)?)?,
        None => server.listen(listener)?,
    };
    Ok(server.run())
}

/// `POST /graphql` with its CORS preflight, and the health checks. Any other path or method gets an error in the same
/// JSON form.
fn routes(routes: &mut web::ServiceConfig) {
    let graphql = web::resource("/graphql").route(web::post().to(graphql::post));
    routes
        .service(
            graphql
                .route(web::method(Method::OPTIONS).to(cors::preflight))
                .default_service(web::to(response::method_not_allowed)),
        )
        .configure(health::routes)
        .default_service(web::to(response::not_found));
}
