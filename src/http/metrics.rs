//! `/metrics` on a listener of its own, which only operators can reach. It serves the process's metrics in Prometheus'
//! text format and nothing else.

use crate::telemetry::Metrics;
use actix_web::dev::Server;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{App, HttpResponse, HttpServer, web};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

/// Builds a server with one worker for the listener. It runs until its handle is told to stop.
///
/// # Errors
/// Fails when the listener cannot be registered.
pub fn serve(metrics: Arc<Metrics>, listener: TcpListener) -> io::Result<Server> {
    let metrics = web::Data::from(metrics);
    let app = move || App::new().app_data(web::Data::clone(&metrics)).route("/metrics", web::get().to(render));
    Ok(HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(1).listen(listener)?.run())
}

async fn render(metrics: web::Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .body(metrics.render())
}
