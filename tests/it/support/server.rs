//! An HTTP server in front of an installation, and its responses as a client receives them.

use super::log::Log;
use super::site::Site;
use cordon::app::App;
use cordon::config::Settings;
use cordon::isolation::BootCheck;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server in this process. It stops when it is dropped.
pub struct TestServer<'a> {
    pub site: &'a Site,
    pub app: Arc<App>,
    pub url: String,
    handle: actix_web::dev::ServerHandle,
    pub http: reqwest::Client,
}

impl<'a> TestServer<'a> {
    /// Starts a server with the settings of `cordon serve`, on a free port.
    pub fn of(site: &'a Site) -> Self {
        Self::start(site, site.server_settings(), BootCheck::Dev)
    }

    /// Starts a server with these settings, on a free port.
    pub fn start(site: &'a Site, settings: Settings, boot_check: BootCheck) -> Self {
        Log::text();
        let app = App::new(settings, boot_check).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/graphql", listener.local_addr().unwrap());
        let (send, receive) = std::sync::mpsc::channel();
        let served = Arc::clone(&app);
        // The server has a runtime of its own because it may outlive the runtime of the test that started it.
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                served.start_background_tasks();
                let server = cordon::http::serve(served, listener).unwrap();
                send.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        let handle = receive.recv().unwrap();
        // Pooled connections would belong to the runtime of one test, and tests share servers.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { site, app, url, handle, http }
    }

    /// Sends a GraphQL request and returns the status and body of the response.
    pub async fn query(&self, token: &str, query: &str, variables: Value) -> (u16, Value) {
        let response = self.send_query(token, query, variables).await;
        (response.status, response.json())
    }

    /// Sends a GraphQL request and returns the whole response.
    pub async fn send_query(&self, token: &str, query: &str, variables: Value) -> Response {
        Response::of(self.query_request(token, query, variables)).await
    }

    /// Builds a GraphQL request. The caller may add headers and sends it.
    pub fn query_request(&self, token: &str, query: &str, variables: Value) -> reqwest::RequestBuilder {
        self.post(token).json(&serde_json::json!({ "query": query, "variables": variables }))
    }

    /// Builds an authenticated POST request without a body.
    pub fn post(&self, token: &str) -> reqwest::RequestBuilder {
        self.http.post(&self.url).bearer_auth(token).header("accept", "application/graphql-response+json")
    }

    /// Sends a GraphQL request that must succeed without errors, and returns its data.
    pub async fn data(&self, token: &str, query: &str, variables: Value) -> Value {
        let (status, mut body) = self.query(token, query, variables).await;
        assert_eq!((status, body.get("errors")), (200, None), "{body}");
        body["data"].take()
    }

    /// Sends these bytes on a new connection and returns what the server sends until it closes the connection. Status
    /// 0: no response.
    pub async fn send_raw(&self, request: &[u8]) -> Response {
        let address = self.url.trim_start_matches("http://").trim_end_matches("/graphql");
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        // The write fails when the server refuses the request before it has read all of it.
        let _ = socket.write_all(request).await;
        let mut bytes = Vec::new();
        // The read may end with a reset. What was received before it is the response.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(15), socket.read_to_end(&mut bytes)).await;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let headers = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(k, v)| (k.to_lowercase(), v.to_owned()))
            .collect();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Response { status, headers, body: body.to_owned() }
    }
}

impl Drop for TestServer<'_> {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// A response. The names of its headers are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Response {
    /// Sends the request and reads the response.
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let received = request.send().await.unwrap();
        let status = received.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = received.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { status, headers, body: received.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Returns the code of the first error, or an empty string when there is no error.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the status and the code of the first error.
    pub fn status_and_code(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// Returns the response without what differs between equal requests: the time, the request id, and the header
    /// `connection`, which depends on whether the server had read the whole request before it responded.
    pub fn comparable(&self) -> Self {
        let mut comparable = self.clone();
        comparable.headers.remove("date");
        comparable.headers.remove("connection");
        comparable.headers.remove("x-request-id").expect("every response has a request id");
        comparable
    }

    /// Whether the word occurs anywhere in the headers or the body, regardless of case.
    pub fn contains(&self, word: &str) -> bool {
        let text = format!("{:?} {}", self.headers, self.body).to_lowercase();
        text.contains(&word.to_lowercase())
    }
}
