//! `cordon serve` as a separate process, with telemetry as in production.

use crate::support::site::{Site, generous_admission};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running `cordon serve`. It is killed when it is dropped.
pub struct ServeProcess {
    child: Child,
    pub url: String,
    pub metrics_url: String,
    printed: Option<JoinHandle<String>>,
    http: reqwest::Client,
}

impl ServeProcess {
    /// Starts a server for this installation. `name` is the directory of its settings, and `telemetry` that section of
    /// them.
    pub fn start(site: &Site, name: &str, mut telemetry: Value) -> Self {
        let settings = &site.settings;
        let directory = site.directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        telemetry["bind"] = json!("127.0.0.1:0");
        let profile = json!({
            "admission": generous_admission(),
            "http": { "bind": "127.0.0.1:0", "workers": 2 },
            "catalog": { "url": settings.catalog.url.as_ref().unwrap().expose_secret() },
            "keys": { "file": std::path::absolute(settings.keys.file.as_ref().unwrap()).unwrap() },
            "auth": { "issuers": [{ "issuer": cordon::auth::dev::ISSUER, "jwks_file": site.issuer.jwks_path(),
                "algorithms": ["ES256"] }] },
            "log": { "filter": "trace" },
            "telemetry": telemetry,
        });
        std::fs::write(directory.join("dev.yaml"), profile.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command
            .args(["serve", "--profile", "dev", "--config"])
            .arg(&directory)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let (send, addresses) = channel();
        // The log is read to its end, so that the process never blocks on a full pipe.
        let printed = std::thread::spawn(move || {
            let mut all = String::new();
            for line in lines {
                let _ = address(&line).map(|address| send.send(address));
                all.push_str(&line);
                all.push('\n');
            }
            all
        });
        let (url, metrics_url) = (next(&addresses), next(&addresses));
        Self { child, url, metrics_url, printed: Some(printed), http: reqwest::Client::new() }
    }

    /// Builds a GraphQL request. The caller may add headers and sends it.
    pub fn query_request(&self, token: &str, query: &str, variables: Value) -> reqwest::RequestBuilder {
        let body = json!({ "query": query, "variables": variables });
        self.http.post(&self.url).bearer_auth(token).header("accept", "application/graphql-response+json").json(&body)
    }

    /// Sends a GraphQL request and returns the status and body of the response.
    pub async fn query(&self, token: &str, query: &str, variables: Value) -> (u16, Value) {
        let answer = self.query_request(token, query, variables).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Returns its metrics in the Prometheus text format.
    pub async fn metrics(&self) -> String {
        let answer = self.http.get(&self.metrics_url).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        answer.text().await.unwrap()
    }

    /// Sends SIGTERM and waits for the end. Returns how long that took, and the whole log.
    pub fn stop(mut self) -> (Duration, String) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(30), "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        (started.elapsed(), self.printed.take().unwrap().join().unwrap())
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn next(addresses: &Receiver<String>) -> String {
    addresses.recv_timeout(Duration::from_secs(30)).expect("an address")
}

fn address(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let message = line["message"].as_str()?;
    ["Serving ", "Metrics at "].iter().find_map(|start| message.strip_prefix(start)).map(str::to_owned)
}
