//! An HTTP server in front of a site, as a client sees it, and what it writes to its log.

use crate::site::Site;
use cordon::app::App;
use cordon::config::Settings;
use cordon::isolation::BootCheck;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A server that answers until it is dropped.
pub struct Server<'a> {
    pub site: &'a Site,
    pub app: Arc<App>,
    pub url: String,
    handle: actix_web::dev::ServerHandle,
    pub http: reqwest::Client,
}

impl<'a> Server<'a> {
    /// A server on a free port.
    pub fn of(site: &'a Site) -> Self {
        Self::start(site, site.server_settings(), BootCheck::Dev)
    }

    /// A server with settings of the test's own.
    pub fn start(site: &'a Site, settings: Settings, boot_check: BootCheck) -> Self {
        Log::lines();
        let app = App::new(settings, boot_check).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/graphql", listener.local_addr().unwrap());
        let (send, receive) = std::sync::mpsc::channel();
        let served = Arc::clone(&app);
        // A runtime of its own: it outlives the test's.
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                served.run_beside();
                let server = cordon::http::serve(served, listener).unwrap();
                send.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        let handle = receive.recv().unwrap();
        // A kept connection would belong to the runtime of one test, and tests share servers.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { site, app, url, handle, http }
    }

    /// A query as someone of one tenant; the answer's status and body.
    pub async fn ask(&self, token: &str, query: &str, variables: Value) -> (u16, Value) {
        let reply = self.reply(token, query, variables).await;
        (reply.status, reply.json())
    }

    /// The same, with everything that came.
    pub async fn reply(&self, token: &str, query: &str, variables: Value) -> Reply {
        Reply::to(self.question(token, query, variables)).await
    }

    /// A query to be sent by the caller, with headers of its own.
    pub fn question(&self, token: &str, query: &str, variables: Value) -> reqwest::RequestBuilder {
        self.post(token).json(&serde_json::json!({ "query": query, "variables": variables }))
    }

    /// A request to be finished by the caller.
    pub fn post(&self, token: &str) -> reqwest::RequestBuilder {
        self.http.post(&self.url).bearer_auth(token).header("accept", "application/graphql-response+json")
    }

    /// A query that must succeed; its data.
    pub async fn data(&self, token: &str, query: &str, variables: Value) -> Value {
        let (status, mut body) = self.ask(token, query, variables).await;
        assert_eq!((status, body.get("errors")), (200, None), "{body}");
        body["data"].take()
    }

    /// Bytes that no decent client would send; what came back, until the server closed.
    pub async fn raw(&self, request: &[u8]) -> Reply {
        let address = self.url.trim_start_matches("http://").trim_end_matches("/graphql");
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        // Whoever is refused early may not get rid of the rest.
        let _ = socket.write_all(request).await;
        let mut bytes = Vec::new();
        // A refused request may end in a reset; what came before it counts.
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
        Reply { status, headers, body: body.to_owned() }
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Reply {
    /// The answer to a request.
    pub async fn to(request: reqwest::RequestBuilder) -> Self {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Self { status, headers, body: answer.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The code of its first error; empty when it has none.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["extensions"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Status and code.
    pub fn outcome(&self) -> (u16, String) {
        (self.status, self.code())
    }

    /// All that could tell one thing from another: everything but the clock, the request's own id, and whether the server had read
    /// to the end of what was sent by the time it answered.
    pub fn told(&self) -> Self {
        let mut told = self.clone();
        told.headers.remove("date");
        told.headers.remove("connection");
        told.headers.remove("x-request-id").expect("every answer names its request");
        told
    }

    /// Whether a word is anywhere in it.
    pub fn says(&self, word: &str) -> bool {
        let everything = format!("{:?} {}", self.headers, self.body).to_lowercase();
        everything.contains(&word.to_lowercase())
    }
}

/// What all servers of this run logged, at level trace.
#[derive(Clone)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Everything up to now.
    pub fn lines() -> String {
        static LOG: OnceLock<Log> = OnceLock::new();
        let log = LOG.get_or_init(|| {
            let log = Log(Arc::default());
            let writer = log.clone();
            let settings =
                cordon::config::Log { format: cordon::config::LogFormat::Json, filter: "info,cordon=trace".into() };
            let lines = cordon::telemetry::lines(&settings, move || writer.clone()).unwrap();
            tracing_subscriber::registry().with(lines).try_init().expect("one log for the run");
            log
        });
        String::from_utf8_lossy(&log.0.lock()).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
