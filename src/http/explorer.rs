//! The explorer: a page on which developers try queries. It is GraphiQL with this server's schema and the examples of
//! the documentation. All of it is in the binary, and its content security policy forbids the page to load or send
//! anything elsewhere. It is served where `http.explorer` is on. The page has no rights of its own: each query carries
//! a token that the developer has chosen.

use super::response;
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use actix_web::{HttpRequest, HttpResponse, web};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

/// Scripts come from this server only. Styles may be inline, because GraphiQL's menus and dialogs add style elements
/// while they are open.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The page names the version of these files, so that a browser may keep them.
const CACHE_FOR_A_YEAR: &str = "public, max-age=31536000, immutable";
const REVALIDATE: &str = "no-cache";

const PAGE: &str = include_str!("explorer/page.html");
const PAGE_SCRIPT: &str = include_str!("explorer/page.js");
const PAGE_STYLE: &str = include_str!("explorer/page.css");
/// GraphiQL and React, compressed; see `explorer/vendor`.
const VENDOR_SCRIPT: &[u8] = include_bytes!("explorer/vendor.js.gz");
const VENDOR_STYLE: &[u8] = include_bytes!("explorer/vendor.css.gz");
const LICENSES: &str = include_str!("explorer/LICENSES.txt");
const SCHEMA: &str = include_str!("../../schema.graphql");

/// The examples of `docs/api.md`, each with the variables that its operations take.
const EXAMPLES: [(&str, &str); 3] = [
    (include_str!("../../docs/examples/chart-page.graphql"), "{}"),
    (
        include_str!("../../docs/examples/draft-and-sign.graphql"),
        "{\n  \"patientId\": \"\",\n  \"noteId\": \"\",\n  \"expectedVersion\": 1\n}",
    ),
    (include_str!("../../docs/examples/search-and-work-list.graphql"), "{\n  \"search\": \"th\"\n}"),
];

/// Tokens that `cordon dev` hands to its own explorer. They are given only to a page that knows the key, which `dev`
/// prints as part of the explorer's link: a browser page of another origin, or another user of the machine, gets none.
pub struct DevTokens {
    key: SecretString,
    list: Box<dyn Fn() -> Option<Value> + Send + Sync>,
}

impl DevTokens {
    /// `list` returns the organisations with a fresh token for each role: `[{"slug", "name", "tokens": {role:
    /// token}}]`. `None` means that signing failed.
    pub fn new(key: SecretString, list: impl Fn() -> Option<Value> + Send + Sync + 'static) -> Self {
        Self { key, list: Box::new(list) }
    }

    fn opens_with(&self, request: &HttpRequest) -> bool {
        let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(sent.as_bytes(), self.key.expose_secret().as_bytes()).is_ok()
    }
}

/// `/explorer` and the files of its page.
pub(super) fn routes(routes: &mut web::ServiceConfig) {
    routes
        .route("/explorer", web::get().to(async || file("text/html; charset=utf-8", REVALIDATE, PAGE)))
        .route("/explorer/page.js", web::get().to(async || file("text/javascript", REVALIDATE, PAGE_SCRIPT)))
        .route("/explorer/page.css", web::get().to(async || file("text/css", REVALIDATE, PAGE_STYLE)))
        .route("/explorer/vendor.js", web::get().to(async || compressed("text/javascript", VENDOR_SCRIPT)))
        .route("/explorer/vendor.css", web::get().to(async || compressed("text/css", VENDOR_STYLE)))
        .route(
            "/explorer/LICENSES.txt",
            web::get().to(async || file("text/plain; charset=utf-8", REVALIDATE, LICENSES)),
        )
        .route(
            "/explorer/schema.graphql",
            web::get().to(async || file("text/plain; charset=utf-8", REVALIDATE, SCHEMA)),
        )
        .route("/explorer/examples.json", web::get().to(examples))
        .route("/explorer/tokens", web::get().to(tokens));
}

fn file(content_type: &'static str, cache: &'static str, body: impl Into<web::Bytes>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, content_type))
        .insert_header((CACHE_CONTROL, cache))
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .body(body.into())
}

/// A file that is stored with gzip, and sent so: every browser that can run the page takes it.
fn compressed(content_type: &'static str, body: &'static [u8]) -> HttpResponse {
    let mut response = file(content_type, CACHE_FOR_A_YEAR, body);
    response.headers_mut().insert(CONTENT_ENCODING, actix_web::http::header::HeaderValue::from_static("gzip"));
    response
}

/// The examples in the form of GraphiQL's tabs.
async fn examples() -> HttpResponse {
    let tabs: Vec<Value> =
        EXAMPLES.iter().map(|(query, variables)| json!({ "query": query, "variables": variables })).collect();
    file("application/json", REVALIDATE, Value::from(tabs).to_string())
}

/// The tokens of `cordon dev`. 404 without its key, and in every other server.
async fn tokens(request: HttpRequest, tokens: Option<web::Data<DevTokens>>) -> HttpResponse {
    match tokens.filter(|tokens| tokens.opens_with(&request)).and_then(|tokens| (tokens.list)()) {
        Some(list) => file("application/json", "no-store", list.to_string()),
        None => response::not_found().await,
    }
}
