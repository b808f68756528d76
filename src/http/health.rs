//! `/healthz`: this process answers. `/readyz`: it can serve, as `readiness` sees it. No token, and nothing of a tenant's.

use super::Front;
use crate::readiness::Status;
use actix_web::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use actix_web::{HttpResponse, HttpResponseBuilder, web};

/// Seconds after which it is worth looking again.
const LOOK_AGAIN: &str = "2";

/// Both, by GET and HEAD.
pub fn routes(routes: &mut web::ServiceConfig) {
    let at = |path: &str| web::resource(path.to_owned()).default_service(web::to(wrong_method));
    routes
        .service(at("/healthz").route(web::get().to(alive)).route(web::head().to(alive)))
        .service(at("/readyz").route(web::get().to(ready)).route(web::head().to(ready)));
}

async fn alive() -> HttpResponse {
    json(HttpResponse::Ok()).body("{\"status\": \"ok\"}\n")
}

/// One line for each check.
async fn ready(front: web::Data<Front>) -> HttpResponse {
    let report = front.app.readiness.report().await;
    let body = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
    match report.status {
        Status::Ready | Status::Degraded => json(HttpResponse::Ok()).body(body),
        Status::NotReady | Status::Stopping => {
            json(HttpResponse::ServiceUnavailable()).insert_header((RETRY_AFTER, LOOK_AGAIN)).body(body)
        }
    }
}

async fn wrong_method() -> HttpResponse {
    HttpResponse::MethodNotAllowed().insert_header((ALLOW, "GET, HEAD")).finish()
}

fn json(mut answer: HttpResponseBuilder) -> HttpResponseBuilder {
    answer.insert_header((CONTENT_TYPE, "application/json; charset=utf-8")).insert_header((CACHE_CONTROL, "no-store"));
    answer
}
