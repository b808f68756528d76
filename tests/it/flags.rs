//! Feature flags from the file and from Unleash. They are evaluated for the tenant of the token, and an Unleash that is
//! down, hangs or sends invalid responses affects no request. `tests/conformance` uses a real Unleash.

use crate::support::log::Log;
use crate::support::run_dir;
use crate::support::server::{Response, TestServer};
use crate::support::site::{MODELS, Site, admitted_guard};
use cordon::app::App;
use cordon::config::Settings;
use cordon::flags::Flag;
use cordon::ids::TenantId;
use cordon::isolation::BootCheck;
use cordon::tenant::Tenant;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ALL: &str = "{ viewer { features { name enabled variant } } }";
const FLAG_TIMEOUT: Duration = Duration::from_secs(5);

/// A flag file of one test.
struct FlagFile(PathBuf);

impl FlagFile {
    fn new(name: &str, text: &str) -> Self {
        let file = Self(run_dir().join(format!("{name}-flags.yaml")));
        file.write(text);
        file
    }

    /// Replaces the file atomically, as tools of operators do.
    fn write(&self, text: &str) {
        let part = self.0.with_extension("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, &self.0).unwrap();
    }
}

fn settings(site: &Site, file: Option<&FlagFile>, unleash: Option<&FakeUnleash>) -> Settings {
    let mut settings = site.server_settings();
    settings.flags.file = file.map(|file| file.0.clone());
    settings.flags.unleash_url = unleash.map(|fake| fake.url.clone());
    settings.flags.unleash_token = unleash.map(|_| "default:development.secret-of-flags".to_owned().into());
    settings.flags.refresh_seconds = 1;
    settings
}

fn token(site: &Site, tenant: &Tenant) -> String {
    site.token(&[tenant.id], "clinician", "alice")
}

/// Returns a rule that switches a flag off for one tenant.
fn off_for(flag: &str, tenant: TenantId) -> String {
    format!("{flag}: {{ rules: [{{ tenant: {tenant}, enabled: false, variant: never }}] }}")
}

async fn feature(server: &TestServer<'_>, tenant: &Tenant, name: &str) -> Value {
    let query = "query ($name: String!) { feature(name: $name) { name enabled variant } }";
    server.data(&token(server.site, tenant), query, json!({ "name": name })).await["feature"].take()
}

async fn is_on(server: &TestServer<'_>, tenant: &Tenant, flag: &str) -> bool {
    feature(server, tenant, flag).await["enabled"].as_bool().unwrap()
}

/// Waits until the flag has this value for the tenant.
async fn wait_for_flag(server: &TestServer<'_>, tenant: &Tenant, flag: &str, expected: bool) {
    let started = Instant::now();
    while is_on(server, tenant, flag).await != expected {
        assert!(started.elapsed() < FLAG_TIMEOUT, "{flag} is not {expected} after {FLAG_TIMEOUT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn l31_clients_cannot_influence_flags() {
    let site = Site::shared().await;
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for model in MODELS {
        ones.push(site.tenant(model).await);
        others.push(site.tenant(model).await);
    }
    let rules: Vec<_> = ones.iter().map(|one| format!("{{ tenant: {}, enabled: false }}", one.id)).collect();
    let file = FlagFile::new("l31", &format!("patientSearch: {{ variant: words, rules: [{}] }}", rules.join(", ")));
    let server = TestServer::start(site, settings(site, Some(&file), None), BootCheck::Dev);
    let features = |search: Value| {
        json!({ "viewer": { "features": [{ "name": "chartWrites", "enabled": true,
        "variant": null }, search] } })
    };
    for (one, other) in ones.iter().zip(&others) {
        let off = features(json!({ "name": "patientSearch", "enabled": false, "variant": null }));
        let on = features(json!({ "name": "patientSearch", "enabled": true, "variant": "words" }));
        assert_eq!(server.data(&token(site, one), ALL, json!({})).await, off);
        assert_eq!(server.data(&token(site, other), ALL, json!({})).await, on);

        // Claims to be the other tenant, in every part of a request, have no effect.
        let plain = server.send_query(&token(site, one), ALL, json!({})).await.comparable();
        let (id, slug) = (other.id.to_string(), other.slug.as_str());
        let context = json!({ "tenantId": id, "userId": id, "plan": "x", "properties": { "tenantId": id } });
        let body = json!({ "query": ALL, "variables": context, "extensions": { "unleash": { "context": context },
            "features": { "patientSearch": true } } });
        for (name, value) in [
            ("unleash-appname", slug),
            ("unleash-context", &context.to_string()),
            ("x-unleash-context", &context.to_string()),
            ("x-unleash-userid", &id),
            ("x-unleash-tenantid", &id),
            ("x-feature-flags", "patientSearch=true"),
            ("baggage", &format!("tenant.id={id},feature_flag.patientSearch=true")),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            let response = Response::of(server.post(&token(site, one)).header(name, value).json(&body)).await;
            assert_eq!(response.comparable(), plain, "{name}");
        }
        // The header `X-Tenant-ID` may only confirm the token.
        let response = Response::of(server.post(&token(site, one)).header("x-tenant-id", &id).json(&body)).await;
        assert_eq!(response.status_and_code(), (403, "TENANT_MISMATCH".into()));
        let both = site.token(&[one.id, other.id], "clinician", "alice");
        for (header, expected) in [(one.id, &off), (other.id, &on)] {
            let response = Response::of(server.post(&both).header("x-tenant-id", header.to_string()).json(&body)).await;
            assert_eq!(&response.json()["data"], expected);
        }
        for unknown in ["", "patientsearch", "nobody-has-heard-of-it", slug, &id] {
            let nothing = json!({ "name": unknown, "enabled": false, "variant": null });
            assert_eq!(feature(&server, other, unknown).await, nothing);
        }
    }
    let metrics = server.app.metrics.render();
    for (flag, enabled) in [("chartWrites", true), ("patientSearch", true), ("patientSearch", false)] {
        let counted = format!("cordon_flag_evaluations_total{{enabled=\"{enabled}\",flag=\"{flag}\"");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

/// An operation keeps the flag values it has read; the next operation sees new values.
#[tokio::test]
async fn l31_flags_are_constant_during_an_operation() {
    let site = Site::shared().await;
    let tenant = site.tenant(MODELS[1]).await;
    let file = FlagFile::new("l31-steady", "{}");
    let app = App::new(settings(site, Some(&file), None), BootCheck::Dev).unwrap();
    app.start_background_tasks();
    let operation = admitted_guard(&app, tenant.id).await.unwrap();
    let not_yet_evaluated = admitted_guard(&app, tenant.id).await.unwrap();
    let before = operation.features().clone();
    assert!(before.is_on(Flag::ChartWrites));
    file.write(&off_for("chartWrites", tenant.id));
    let started = Instant::now();
    while admitted_guard(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites) {
        assert!(started.elapsed() < FLAG_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(operation.features(), &before);
    assert!(!not_yet_evaluated.features().is_on(Flag::ChartWrites));

    // A file that has become invalid or was removed changes nothing.
    file.write("chartWrites: { enabled: perhaps }");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!admitted_guard(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites));
    std::fs::remove_file(&file.0).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!admitted_guard(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites));
    file.write("{}");
    let started = Instant::now();
    while !admitted_guard(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites) {
        assert!(started.elapsed() < FLAG_TIMEOUT);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn operations_are_disabled_for_one_tenant_only() {
    let site = Site::shared().await;
    let (one, other) = (site.tenant(MODELS[0]).await, site.tenant(MODELS[0]).await);
    let file =
        FlagFile::new("off", &format!("{}\n{}", off_for("chartWrites", one.id), off_for("patientSearch", one.id)));
    let server = TestServer::start(site, settings(site, Some(&file), None), BootCheck::Dev);
    let register = r#"mutation { registerPatient(input: { identifiers: [], sex: FEMALE, name: { text: "Ada Off" } }) {
        patient { id } } }"#;
    let search = "{ patients(search: \"ada\") { nodes { id } } }";
    let everyone = "{ patients { nodes { id } } }";
    let count = async |tenant: &Tenant, query: &str| {
        server.data(&token(site, tenant), query, json!({})).await["patients"]["nodes"].as_array().unwrap().len()
    };
    for query in [register, search] {
        let response = server.send_query(&token(site, &one), query, json!({})).await;
        assert_eq!(response.status_and_code(), (200, "FORBIDDEN".into()));
        assert!(response.contains("not switched on for this organisation"), "{response:?}");
        let response = server.send_query(&token(site, &other), query, json!({})).await;
        assert_eq!(response.status_and_code(), (200, String::new()), "{response:?}");
    }
    assert_eq!((count(&one, everyone).await, count(&other, everyone).await, count(&other, search).await), (0, 1, 1));
    // A role that may not call the operation gets the same error as without the flag.
    let auditor = site.token(&[one.id], "auditor", "odd");
    assert!(server.send_query(&auditor, register, json!({})).await.contains("not allowed for your roles"));
}

/// The region comes from the catalog, and a change takes effect while the server runs.
#[tokio::test]
async fn the_region_of_a_rule_comes_from_the_catalog() {
    let (_cluster, site) = Site::with_own_cluster("flags-region").await;
    let tenant = site.tenant(MODELS[1]).await;
    let file =
        FlagFile::new("region", "chartWrites: { enabled: false, rules: [{ region: eu-central, enabled: true }] }");
    let server = TestServer::start(&site, settings(&site, Some(&file), None), BootCheck::Dev);
    assert!(!is_on(&server, &tenant, "chartWrites").await);
    cordon::ops::server::set_region(&site.operator, "main", "eu-central").await.unwrap();
    wait_for_flag(&server, &tenant, "chartWrites", true).await;
    assert!(cordon::ops::server::set_region(&site.operator, "main", "EU Central").await.is_err());
}

#[tokio::test]
async fn failures_of_unleash_affect_no_request() {
    let site = Site::shared().await;
    let (one, other) = (site.tenant(MODELS[0]).await, site.tenant(MODELS[2]).await);
    let unleash = FakeUnleash::start(Behaviour::Hangs).await;
    let file = FlagFile::new("unleash", &off_for("patientSearch", one.id));
    let server = TestServer::start(site, settings(site, Some(&file), Some(&unleash)), BootCheck::Dev);
    let assert_constant = async |search_of_one: bool| {
        let polls = unleash.count_polls();
        let started = Instant::now();
        while unleash.count_polls() < polls + 2 {
            assert!(started.elapsed() < FLAG_TIMEOUT * 2, "Unleash is polled again");
            let one_request = Instant::now();
            assert_eq!(is_on(&server, &one, "patientSearch").await, search_of_one);
            assert!(is_on(&server, &other, "patientSearch").await && is_on(&server, &one, "chartWrites").await);
            assert!(
                one_request.elapsed() < Duration::from_millis(900),
                "no request waits for Unleash, whose timeout is one second"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // From the start on, the file decides.
    assert_constant(false).await;
    // Unleash responds and knows one of the flags: it is on for both tenants.
    let on_for_one = json!([{ "name": "patientSearch", "enabled": true, "strategies": [{ "name": "default",
        "constraints": [
        { "contextName": "tenantId", "operator": "IN", "values": [one.id, other.id] },
        { "contextName": "plan", "operator": "IN", "values": ["standard"] },
        { "contextName": "model", "operator": "IN", "values": ["shared", "database"] }] }],
        "variants": [{ "name": "wide", "weight": 1000, "stickiness": "default" }] }]);
    unleash.set_behaviour(Behaviour::with_features(on_for_one));
    wait_for_flag(&server, &one, "patientSearch", true).await;
    let wide = json!({ "name": "patientSearch", "enabled": true, "variant": "wide" });
    assert_eq!(feature(&server, &one, "patientSearch").await, wide);
    for failure in [
        Behaviour::Hangs,
        Behaviour::Responds("401 Unauthorized", json!({ "name": "AuthenticationRequired" }).to_string()),
        Behaviour::Responds("200 OK", "<html>not here</html>".into()),
        Behaviour::Responds("200 OK", json!({ "version": 2, "features": [{ "name": "patientSearch" }] }).to_string()),
        Behaviour::Responds("500 Internal Server Error", String::new()),
        Behaviour::Responds("302 Found\r\nlocation: http://127.0.0.1:1/", String::new()),
    ] {
        unleash.set_behaviour(failure);
        assert_constant(true).await;
    }
    // Unleash has recovered and no longer knows the flag, so the file decides again.
    unleash.set_behaviour(Behaviour::with_features(
        json!([{ "name": "chartWrites", "enabled": false, "strategies": [] }]),
    ));
    wait_for_flag(&server, &one, "patientSearch", false).await;
    wait_for_flag(&server, &other, "chartWrites", false).await;
    assert!(
        unleash.requests().iter().all(|request| !request.contains(&one.id.to_string())),
        "only counters are sent, no id of a tenant"
    );
    assert!(!Log::text().contains("secret-of-flags"));
}

#[tokio::test]
async fn invalid_flag_configuration_stops_the_start() {
    let site = Site::shared().await;
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = site.server_settings();
        change(&mut settings);
        App::new(settings, BootCheck::Dev).err().expect("a refusal").to_string()
    };
    for (text, problem) in [
        ("chartWrite: { enabled: true }", "chartWrite is no flag; there are chartWrites, patientSearch"),
        ("chartWrites: { enabled: 'on' }", "expected a boolean for key \"default.chartWrites.enabled\""),
        ("chartWrites: { rules: [{ tenant: riverside, enabled: true }] }", "the id of an organisation"),
    ] {
        let file = FlagFile::new("unfit", text);
        let error = refused(&|settings| settings.flags.file = Some(file.0.clone()));
        assert!(error.contains("unfit-flags.yaml") && error.contains(problem), "{error}");
    }
    let error = refused(&|settings| settings.flags.file = Some("/no/such/file".into()));
    assert!(error.contains("/no/such/file") && error.contains("No such file"), "{error}");
    let error = refused(&|settings| settings.flags.unleash_url = Some("http://127.0.0.1:1/api".into()));
    assert!(error.contains("unleash_token"), "{error}");
    let error = refused(&|settings| settings.flags.refresh_seconds = 0);
    assert!(error.contains("refresh_seconds"), "{error}");
    for url in ["unleash.example", "ftp://unleash.example", "http://"] {
        let error = refused(&|settings| {
            settings.flags.unleash_url = Some(url.into());
            settings.flags.unleash_token = Some("t".to_owned().into());
        });
        assert!(error.contains("unleash_url"), "{error}");
    }
}

/// An HTTP server in place of Unleash, which can misbehave.
struct FakeUnleash {
    url: String,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Behaviour {
    /// Accepts the connection and never responds.
    Hangs,
    /// Responds with this status and body.
    Responds(&'static str, String),
}

impl Behaviour {
    fn with_features(features: Value) -> Self {
        Self::Responds("200 OK", json!({ "version": 2, "features": features }).to_string())
    }
}

impl FakeUnleash {
    async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let fake = Self { url, behaviour: Arc::new(Mutex::new(behaviour)), requests: Arc::default() };
        let (behaviour, requests) = (Arc::clone(&fake.behaviour), Arc::clone(&fake.requests));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(handle_connection(socket, Arc::clone(&behaviour), Arc::clone(&requests)));
            }
        });
        fake
    }

    fn set_behaviour(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Counts the requests for flags.
    fn count_polls(&self) -> usize {
        self.requests().iter().filter(|request| request.starts_with("GET /api/client/features ")).count()
    }
}

async fn handle_connection(mut socket: TcpStream, behaviour: Arc<Mutex<Behaviour>>, requests: Arc<Mutex<Vec<String>>>) {
    let mut request = String::new();
    while !complete(&request) {
        let mut bytes = [0; 4_096];
        match socket.read(&mut bytes).await {
            Ok(read @ 1..) => request += &String::from_utf8_lossy(&bytes[..read]),
            _ => return,
        }
    }
    assert!(request.contains("authorization: default:development.secret-of-flags"), "{request}");
    requests.lock().unwrap().push(request);
    let behaviour = behaviour.lock().unwrap().clone();
    match behaviour {
        Behaviour::Hangs => tokio::time::sleep(Duration::from_secs(600)).await,
        Behaviour::Responds(status, body) => {
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: \
                 {}\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
        }
    }
}

/// Whether the request has been received completely.
fn complete(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
