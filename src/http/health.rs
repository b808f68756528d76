//! Health checks. `/healthz` says that this process answers; `/readyz` says whether it can serve, as `readiness` judges
//! it. They need no token, and their responses hold nothing that belongs to a tenant.

use super::ServerState;
use crate::readiness::Status;
use actix_web::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, HttpResponseBuilder, web};

const RETRY_AFTER_SECONDS: &str = "2";

/// Registers both checks, by GET and HEAD.
pub fn routes(routes: &mut web::ServiceConfig) {
    let at = |path: &str| web::resource(path.to_owned()).default_service(web::to(method_not_allowed));
    routes
        .service(at("/healthz").route(web::get().to(healthz)).route(web::head().to(healthz)))
        .service(at("/readyz").route(web::get().to(readyz)).route(web::head().to(readyz)));
}

async fn healthz() -> HttpResponse {
    json(HttpResponse::Ok()).body("{\"status\": \"ok\"}\n")
}

/// The report as JSON over several lines, so that a person can read it. 200 when requests may be sent here, else 503.
async fn readyz(state: web::Data<ServerState>) -> HttpResponse {
    let report = state.app.readiness.report().await;
    let body = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    match report.status {
        Status::Ready | Status::Degraded => json(HttpResponse::Ok()).body(body),
        Status::NotReady | Status::Stopping => {
            json(HttpResponse::ServiceUnavailable()).insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS)).body(body)
        }
    }
}

async fn method_not_allowed() -> HttpResponse {
    HttpResponse::MethodNotAllowed().insert_header((ALLOW, "GET, HEAD")).finish()
}

fn json(mut response: HttpResponseBuilder) -> HttpResponseBuilder {
    response
        .insert_header((CONTENT_TYPE, "application/json; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"));
    response
}
