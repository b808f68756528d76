//! Feature flags: answered for the organisation of the token and for nobody else, by the file, and by an Unleash that may be away,
//! hang or talk nonsense without anyone noticing. `tests/conformance` has the real one.

use crate::run_dir;
use crate::server::{Log, Reply, Server};
use crate::site::{MODELS, Site, admitted};
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
const SOON: Duration = Duration::from_secs(5);

/// A file of flags that this test alone has.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let file = Self(run_dir().join(format!("{name}-flags.yaml")));
        file.says(text);
        file
    }

    /// In one step, as an operator's tool does it.
    fn says(&self, text: &str) {
        let part = self.0.with_extension("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(part, &self.0).unwrap();
    }
}

fn settings(site: &Site, file: Option<&File>, unleash: Option<&Fake>) -> Settings {
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

/// Off for one tenant.
fn off_for(flag: &str, tenant: TenantId) -> String {
    format!("{flag}: {{ rules: [{{ tenant: {tenant}, enabled: false, variant: never }}] }}")
}

async fn feature(server: &Server<'_>, tenant: &Tenant, name: &str) -> Value {
    let query = "query ($name: String!) { feature(name: $name) { name enabled variant } }";
    server.data(&token(server.site, tenant), query, json!({ "name": name })).await["feature"].take()
}

async fn is_on(server: &Server<'_>, tenant: &Tenant, flag: &str) -> bool {
    feature(server, tenant, flag).await["enabled"].as_bool().unwrap()
}

/// Waits for an answer to change, five seconds at most.
async fn becomes(server: &Server<'_>, tenant: &Tenant, flag: &str, wanted: bool) {
    let began = Instant::now();
    while is_on(server, tenant, flag).await != wanted {
        assert!(began.elapsed() < SOON, "{flag} is not {wanted} after {SOON:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn l31_nothing_a_client_says_changes_an_answer() {
    let site = Site::shared().await;
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for model in MODELS {
        ones.push(site.tenant(model).await);
        others.push(site.tenant(model).await);
    }
    let rules: Vec<_> = ones.iter().map(|one| format!("{{ tenant: {}, enabled: false }}", one.id)).collect();
    let file = File::new("l31", &format!("patientSearch: {{ variant: words, rules: [{}] }}", rules.join(", ")));
    let server = Server::start(site, settings(site, Some(&file), None), BootCheck::Dev);
    let features = |search: Value| json!({ "viewer": { "features": [{ "name": "chartWrites", "enabled": true, "variant": null }, search] } });
    for (one, other) in ones.iter().zip(&others) {
        let off = features(json!({ "name": "patientSearch", "enabled": false, "variant": null }));
        let on = features(json!({ "name": "patientSearch", "enabled": true, "variant": "words" }));
        assert_eq!(server.data(&token(site, one), ALL, json!({})).await, off);
        assert_eq!(server.data(&token(site, other), ALL, json!({})).await, on);

        // Whoever wants to be the other says so in every way there is.
        let plain = server.reply(&token(site, one), ALL, json!({})).await.told();
        let (id, slug) = (other.id.to_string(), other.slug.as_str());
        let said = json!({ "tenantId": id, "userId": id, "plan": "x", "properties": { "tenantId": id } });
        let body = json!({ "query": ALL, "variables": said, "extensions": { "unleash": { "context": said }, "features": { "patientSearch": true } } });
        for (name, value) in [
            ("unleash-appname", slug),
            ("unleash-context", &said.to_string()),
            ("x-unleash-context", &said.to_string()),
            ("x-unleash-userid", &id),
            ("x-unleash-tenantid", &id),
            ("x-feature-flags", "patientSearch=true"),
            ("baggage", &format!("tenant.id={id},feature_flag.patientSearch=true")),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            let reply = Reply::to(server.post(&token(site, one)).header(name, value).json(&body)).await;
            assert_eq!(reply.told(), plain, "{name}");
        }
        // The tenant's own header may only confirm the token.
        let reply = Reply::to(server.post(&token(site, one)).header("x-tenant-id", &id).json(&body)).await;
        assert_eq!(reply.outcome(), (403, "TENANT_MISMATCH".into()));
        let both = site.token(&[one.id, other.id], "clinician", "alice");
        for (header, wanted) in [(one.id, &off), (other.id, &on)] {
            let reply = Reply::to(server.post(&both).header("x-tenant-id", header.to_string()).json(&body)).await;
            assert_eq!(&reply.json()["data"], wanted);
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

/// An operation keeps the answers it has; the next one has new ones.
#[tokio::test]
async fn l31_answers_last_as_long_as_the_operation() {
    let site = Site::shared().await;
    let tenant = site.tenant(MODELS[1]).await;
    let file = File::new("l31-steady", "{}");
    let app = App::new(settings(site, Some(&file), None), BootCheck::Dev).unwrap();
    app.run_beside();
    let operation = admitted(&app, tenant.id).await.unwrap();
    let not_yet_asked = admitted(&app, tenant.id).await.unwrap();
    let before = operation.features().clone();
    assert!(before.is_on(Flag::ChartWrites));
    file.says(&off_for("chartWrites", tenant.id));
    let began = Instant::now();
    while admitted(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites) {
        assert!(began.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(operation.features(), &before);
    assert!(!not_yet_asked.features().is_on(Flag::ChartWrites));

    // A file that cannot be read any more changes nothing.
    file.says("chartWrites: { enabled: perhaps }");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!admitted(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites));
    std::fs::remove_file(&file.0).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!admitted(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites));
    file.says("{}");
    let began = Instant::now();
    while !admitted(&app, tenant.id).await.unwrap().features().is_on(Flag::ChartWrites) {
        assert!(began.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_is_switched_off_is_refused_to_that_organisation_alone() {
    let site = Site::shared().await;
    let (one, other) = (site.tenant(MODELS[0]).await, site.tenant(MODELS[0]).await);
    let file = File::new("off", &format!("{}\n{}", off_for("chartWrites", one.id), off_for("patientSearch", one.id)));
    let server = Server::start(site, settings(site, Some(&file), None), BootCheck::Dev);
    let register = r#"mutation { registerPatient(input: { identifiers: [], sex: FEMALE, name: { text: "Ada Off" } }) { patient { id } } }"#;
    let search = "{ patients(search: \"ada\") { nodes { id } } }";
    let everyone = "{ patients { nodes { id } } }";
    let count = async |tenant: &Tenant, query: &str| {
        server.data(&token(site, tenant), query, json!({})).await["patients"]["nodes"].as_array().unwrap().len()
    };
    for query in [register, search] {
        let reply = server.reply(&token(site, &one), query, json!({})).await;
        assert_eq!(reply.outcome(), (200, "FORBIDDEN".into()));
        assert!(reply.says("not switched on for this organisation"), "{reply:?}");
        let reply = server.reply(&token(site, &other), query, json!({})).await;
        assert_eq!(reply.outcome(), (200, String::new()), "{reply:?}");
    }
    assert_eq!((count(&one, everyone).await, count(&other, everyone).await, count(&other, search).await), (0, 1, 1));
    // Who may not do it at all is told so, whatever is switched on.
    let auditor = site.token(&[one.id], "auditor", "odd");
    assert!(server.reply(&auditor, register, json!({})).await.says("not allowed for your roles"));
}

/// The catalog's word on where a server stands, heard while serving.
#[tokio::test]
async fn a_region_is_what_the_operator_said() {
    let (_cluster, site) = Site::alone("flags-region").await;
    let tenant = site.tenant(MODELS[1]).await;
    let file = File::new("region", "chartWrites: { enabled: false, rules: [{ region: eu-central, enabled: true }] }");
    let server = Server::start(&site, settings(&site, Some(&file), None), BootCheck::Dev);
    assert!(!is_on(&server, &tenant, "chartWrites").await);
    cordon::ops::server::locate(&site.operator, "main", "eu-central").await.unwrap();
    becomes(&server, &tenant, "chartWrites", true).await;
    assert!(cordon::ops::server::locate(&site.operator, "main", "EU Central").await.is_err());
}

#[tokio::test]
async fn an_unleash_that_is_away_hangs_or_talks_nonsense_changes_nothing() {
    let site = Site::shared().await;
    let (one, other) = (site.tenant(MODELS[0]).await, site.tenant(MODELS[2]).await);
    let unleash = Fake::start(Mood::Hangs).await;
    let file = File::new("unleash", &off_for("patientSearch", one.id));
    let server = Server::start(site, settings(site, Some(&file), Some(&unleash)), BootCheck::Dev);
    let steady = async |search_of_one: bool| {
        let asked = unleash.asked();
        let began = Instant::now();
        while unleash.asked() < asked + 2 {
            assert!(began.elapsed() < SOON * 2, "Unleash is asked again");
            let one_request = Instant::now();
            assert_eq!(is_on(&server, &one, "patientSearch").await, search_of_one);
            assert!(is_on(&server, &other, "patientSearch").await && is_on(&server, &one, "chartWrites").await);
            assert!(
                one_request.elapsed() < Duration::from_millis(900),
                "no request waits for Unleash, whose time-out is a second"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // From the start on, as the file says.
    steady(false).await;
    // It is there, and knows one of the flags: on for one tenant, and for the other as ever.
    let on_for_one = json!([{ "name": "patientSearch", "enabled": true, "strategies": [{ "name": "default", "constraints": [
        { "contextName": "tenantId", "operator": "IN", "values": [one.id, other.id] },
        { "contextName": "plan", "operator": "IN", "values": ["standard"] },
        { "contextName": "model", "operator": "IN", "values": ["shared", "database"] }] }],
        "variants": [{ "name": "wide", "weight": 1000, "stickiness": "default" }] }]);
    unleash.becomes(Mood::says(on_for_one));
    becomes(&server, &one, "patientSearch", true).await;
    let wide = json!({ "name": "patientSearch", "enabled": true, "variant": "wide" });
    assert_eq!(feature(&server, &one, "patientSearch").await, wide);
    for nonsense in [
        Mood::Hangs,
        Mood::Answers("401 Unauthorized", json!({ "name": "AuthenticationRequired" }).to_string()),
        Mood::Answers("200 OK", "<html>not here</html>".into()),
        Mood::Answers("200 OK", json!({ "version": 2, "features": [{ "name": "patientSearch" }] }).to_string()),
        Mood::Answers("500 Internal Server Error", String::new()),
        Mood::Answers("302 Found\r\nlocation: http://127.0.0.1:1/", String::new()),
    ] {
        unleash.becomes(nonsense);
        steady(true).await;
    }
    // Back, and it no longer knows the flag: the file's word again.
    unleash.becomes(Mood::says(json!([{ "name": "chartWrites", "enabled": false, "strategies": [] }])));
    becomes(&server, &one, "patientSearch", false).await;
    becomes(&server, &other, "chartWrites", false).await;
    assert!(
        unleash.heard().iter().all(|request| !request.contains(&one.id.to_string())),
        "only counts leave, no tenant's id"
    );
    assert!(!Log::lines().contains("secret-of-flags"));
}

#[tokio::test]
async fn flags_that_cannot_be_used_stop_the_start() {
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
        let file = File::new("unfit", text);
        let said = refused(&|settings| settings.flags.file = Some(file.0.clone()));
        assert!(said.contains("unfit-flags.yaml") && said.contains(problem), "{said}");
    }
    let said = refused(&|settings| settings.flags.file = Some("/no/such/file".into()));
    assert!(said.contains("/no/such/file") && said.contains("No such file"), "{said}");
    let said = refused(&|settings| settings.flags.unleash_url = Some("http://127.0.0.1:1/api".into()));
    assert!(said.contains("unleash_token"), "{said}");
    let said = refused(&|settings| settings.flags.refresh_seconds = 0);
    assert!(said.contains("refresh_seconds"), "{said}");
    for url in ["unleash.example", "ftp://unleash.example", "http://"] {
        let said = refused(&|settings| {
            settings.flags.unleash_url = Some(url.into());
            settings.flags.unleash_token = Some("t".to_owned().into());
        });
        assert!(said.contains("unleash_url"), "{said}");
    }
}

/// Stands in for Unleash where the real one would not misbehave.
struct Fake {
    url: String,
    mood: Arc<Mutex<Mood>>,
    heard: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Mood {
    /// Takes the connection and never answers.
    Hangs,
    /// Status and body.
    Answers(&'static str, String),
}

impl Mood {
    fn says(features: Value) -> Self {
        Self::Answers("200 OK", json!({ "version": 2, "features": features }).to_string())
    }
}

impl Fake {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let fake = Self { url, mood: Arc::new(Mutex::new(mood)), heard: Arc::default() };
        let (mood, heard) = (Arc::clone(&fake.mood), Arc::clone(&fake.heard));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(converse(socket, Arc::clone(&mood), Arc::clone(&heard)));
            }
        });
        fake
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// How often it was asked for flags.
    fn asked(&self) -> usize {
        self.heard().iter().filter(|request| request.starts_with("GET /api/client/features ")).count()
    }
}

async fn converse(mut socket: TcpStream, mood: Arc<Mutex<Mood>>, heard: Arc<Mutex<Vec<String>>>) {
    let mut request = String::new();
    while !complete(&request) {
        let mut bytes = [0; 4_096];
        match socket.read(&mut bytes).await {
            Ok(read @ 1..) => request += &String::from_utf8_lossy(&bytes[..read]),
            _ => return,
        }
    }
    assert!(request.contains("authorization: default:development.secret-of-flags"), "{request}");
    heard.lock().unwrap().push(request);
    let mood = mood.lock().unwrap().clone();
    match mood {
        Mood::Hangs => tokio::time::sleep(Duration::from_secs(600)).await,
        Mood::Answers(status, body) => {
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
        }
    }
}

/// Whether a request is all there.
fn complete(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    body.len() >= length.unwrap_or(0)
}
