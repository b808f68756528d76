//! An HTTP server in front of a site, as a client sees it.

use crate::site::Site;
use cordon::app::App;
use cordon::config::Settings;
use cordon::guard::BootCheck;
use serde_json::Value;
use std::sync::Arc;

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
        Self::start(site, site.server_settings(), BootCheck::On)
    }

    /// A server with settings of the test's own.
    pub fn start(site: &'a Site, settings: Settings, boot_check: BootCheck) -> Self {
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
        Self { site, app, url, handle, http: reqwest::Client::new() }
    }

    /// A query as someone of one tenant; the answer's status and body.
    pub async fn ask(&self, token: &str, query: &str, variables: Value) -> (u16, Value) {
        let answer = self.post(token).json(&serde_json::json!({ "query": query, "variables": variables })).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap())
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
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}
