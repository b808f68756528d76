//! What operators are told: whom it is about, in whose trace, and nothing of what is in a chart; and that telling holds nothing up.

use crate::charts::{Charts, SYSTEM};
use crate::process::Process;
use crate::server::{Log, Server};
use crate::site::Site;
use cordon::isolation::BootCheck;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENTS: &str =
    "query Names { patients(first: 5) { nodes { id name { text } notes(first: 5) { nodes { title body } } } } }";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A tenant with a chart whose every text carries the mark, and a clinician's token.
async fn clinic(site: &Site, mark: &str) -> (Tenant, String) {
    let tenant = site.tenant(TenancyModel::Schema).await;
    Charts { mark, patients: 2, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "someone");
    (tenant, token)
}

/// The value of a metric with all of these labels.
fn value(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let of =
        |line: &&str| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label));
    metrics.lines().find(of)?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn requests_are_counted_by_tenant_kind_and_error() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let (tenant, token) = clinic(site, "countzq").await;
    for _ in 0..3 {
        server.data(&token, PATIENTS, json!({})).await;
    }
    assert_eq!(
        server
            .ask(&token, "mutation { signNote(input: {id: \"x\", expectedVersion: 1}) { note { id } } }", json!({}))
            .await
            .0,
        200
    );
    assert_eq!(server.ask(&token, "{ nothing }", json!({})).await.0, 400);
    assert_eq!(server.ask("a.b.c", PATIENTS, json!({})).await.0, 401);

    let metrics = server.app.metrics.render();
    let (id, of) = (tenant.id.to_string(), |name: &str, labels: &[(&str, &str)]| value(&metrics, name, labels));
    let query = [("tenant_id", id.as_str()), ("kind", "query")];
    assert_eq!(of("cordon_requests_total", &[query[0], query[1], ("status", "200")]), Some(3.0), "{metrics}");
    assert_eq!(of("cordon_requests_total", &[query[0], query[1], ("status", "400")]), Some(1.0));
    assert_eq!(of("cordon_requests_total", &[query[0], ("kind", "mutation"), ("status", "200")]), Some(1.0));
    assert_eq!(of("cordon_requests_total", &[("tenant_id", "none"), ("kind", "none"), ("status", "401")]), Some(1.0));
    assert_eq!(
        of("cordon_request_errors_total", &[query[0], ("kind", "mutation"), ("code", "INVALID_INPUT")]),
        Some(1.0)
    );
    assert_eq!(of("cordon_request_errors_total", &[("tenant_id", "none"), ("code", "UNAUTHENTICATED")]), Some(1.0));
    assert_eq!(of("cordon_request_duration_seconds_count", &query), Some(4.0));
    // Patients, then their notes, then the commit.
    assert_eq!(of("cordon_request_flights_sum", &[("kind", "query")]), Some(9.0), "{metrics}");
    assert_eq!(
        of("cordon_audit_rows_total", &[query[0]]),
        Some(15.0),
        "two patients, of each the patient and its notes, and that they were looked for, three times"
    );
    assert_eq!(of("cordon_pool_wait_seconds_count", &[]), Some(3.0));
    assert!(
        of("cordon_pool_backends", &[("state", "idle")]) >= Some(1.0)
            && of("cordon_pool_backends_limit", &[]) == Some(60.0)
    );
    assert!(of("cordon_sealed_values_total", &[("direction", "open")]) >= Some(15.0));
    assert_eq!(of("cordon_key_cache_misses_total", &[]), Some(2.0), "the tenant's keys and the database's, once each");

    server.app.metrics.flag("new-chart", true, None);
    let metrics = server.app.metrics.render();
    assert_eq!(
        value(&metrics, "cordon_flag_evaluations_total", &[("flag", "new-chart"), ("enabled", "true")]),
        Some(1.0)
    );
}

#[tokio::test]
async fn few_tenants_are_named() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    settings.telemetry.tenants = 1;
    let server = Server::start(site, settings, BootCheck::Dev);
    for _ in 0..2 {
        let tenant = site.tenant(TenancyModel::Schema).await;
        let token = site.token(&[tenant.id], "clinician", "someone");
        server.data(&token, "{ viewer { id } }", json!({})).await;
    }
    let metrics = server.app.metrics.render();
    let tenants: std::collections::BTreeSet<_> =
        metrics.split("tenant_id=\"").skip(1).filter_map(|text| text.split('"').next()).collect();
    assert_eq!(tenants.len(), 2, "{tenants:?}");
    assert!(tenants.contains("other"));
}

#[tokio::test]
async fn a_client_that_goes_is_counted() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let (_, token) = clinic(site, "gonezq").await;
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{{"
    );
    let mut socket = TcpStream::connect(server.url.trim_start_matches("http://").trim_end_matches("/graphql")).unwrap();
    socket.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(socket);
    let began = Instant::now();
    let gone = || value(&server.app.metrics.render(), "cordon_requests_total", &[("kind", "none")]);
    while gone() != Some(1.0) {
        assert!(began.elapsed() < Duration::from_secs(10), "{}", server.app.metrics.render());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_trace_is_carried_into_audit_rows_and_lines() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let (tenant, token) = clinic(site, "tracezq").await;
    let sent = server.question(&token, PATIENTS, json!({})).header("traceparent", PARENT).send().await.unwrap();
    let carried = request_id(&sent);
    let sent = server.question(&token, PATIENTS, json!({})).send().await.unwrap();
    let begun = request_id(&sent);
    let refused = server
        .question("x", PATIENTS, json!({}))
        .header("traceparent", PARENT)
        .header("traceparent", PARENT)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 401, "a trace that is given twice is nobody's, and no reason to refuse");

    let rows = traces(site, &tenant).await;
    assert!(
        rows.iter().filter(|(request, _)| *request == carried).all(|(_, trace)| trace.as_deref() == Some(TRACE)),
        "{rows:?}"
    );
    assert!(rows.iter().any(|(request, _)| *request == carried));
    let own = begun.replace('-', "");
    assert!(rows.iter().any(|(request, trace)| *request == begun && trace.as_deref() == Some(&own)), "{rows:?}");
}

#[tokio::test]
async fn every_line_of_a_request_names_tenant_request_and_trace() {
    let (cluster, site) = Site::alone("lines").await;
    let server = Server::of(&site);
    let (tenant, token) = clinic(&site, "linezq").await;
    server.data(&token, "{ viewer { id } }", json!({})).await;
    cluster.stop();
    let sent = server.question(&token, PATIENTS, json!({})).header("traceparent", PARENT).send().await.unwrap();
    assert_eq!(sent.status(), 503);
    let id = request_id(&sent);
    let lines: Vec<Value> = Log::lines()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["request.id"] == id.as_str())
        .collect();
    assert!(lines.len() >= 2, "what went wrong, and that the request failed: {lines:?}");
    for line in &lines {
        assert_eq!((&line["tenant.id"], &line["trace_id"]), (&json!(tenant.id), &json!(TRACE)), "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

/// The names that are counted and those that are written down are the same.
#[tokio::test]
async fn what_is_counted_is_documented() {
    let documented = include_str!("../../docs/telemetry.md");
    let source = include_str!("../../src/telemetry/metrics.rs");
    let names = |text: &str, around: char| -> std::collections::BTreeSet<String> {
        let words = text
            .split(around)
            .filter(|word| word.starts_with("cordon_") && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        words.map(str::to_owned).collect()
    };
    assert_eq!(names(documented, '`'), names(source, '"'));
    let spans = include_str!("../../src/telemetry/span.rs");
    for span in spans.split("debug_span!(\"").skip(1).filter_map(|text| text.split('"').next()) {
        assert!(documented.contains(&format!("`{span}`")), "{span}");
    }
}

/// All signals of a process that serves, told to a collector, with planted text in everything that a client or a chart can bring.
#[tokio::test]
async fn nothing_of_a_chart_is_told() {
    let site = Site::shared().await;
    let (tenant, token) = clinic(site, "tellzq").await;
    let collector = Collector::start();
    let process = Process::serve(site, "told", json!({ "otlp_endpoint": collector.url, "sample_ratio": 1.0 }));
    let token_of_auditor = site.token(&[tenant.id], "auditor", "tellzqsubject");
    let words = json!({ "words": "tellzqfamily", "value": "tellzq-mrn-0", "system": SYSTEM });
    let by_value = "query ByNumber($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) { id birthDate } }";
    let asked = [
        (token.as_str(), PATIENTS, json!({}), 200),
        (
            &token,
            "query Search($words: String) { patients(search: $words) { nodes { name { text } } } }",
            words.clone(),
            200,
        ),
        (&token, by_value, words.clone(), 200),
        (&token, "{ patient(id: \"tellzqid\") { id } }", json!({}), 200),
        (&token, "{ tellzqfield }", json!({}), 400),
        (&token, "{ tellzqsyntax(", json!({}), 400),
        (&token, "query Q($x: Int!) { patients(first: $x) { nodes { id } } }", json!({ "x": "tellzqvariable" }), 400),
        (&token_of_auditor, PATIENTS, json!({}), 200),
        ("tellzqhead.tellzqbody.tellzqmac", PATIENTS, json!({}), 401),
        (
            &token,
            "mutation Register($input: RegisterPatientInput!) { registerPatient(input: $input) { patient { id } } }",
            json!({ "input": { "sex": "FEMALE", "birthDate": "1970-02-03", "name": { "text": "tellzqname", "family": "tellzqnew" },
                            "identifiers": [{ "system": SYSTEM, "value": "tellzqnumber" }] } }),
            200,
        ),
    ];
    for (token, query, variables, status) in asked {
        let question = process.question(token, query, variables).header("traceparent", PARENT);
        let question = question
            .header("tracestate", "a=tellzqstate")
            .header("user-agent", "tellzqagent")
            .header("baggage", "a=tellzqbag");
        let answer = question.send().await.unwrap();
        assert_eq!(answer.status(), status, "{query}: {}", answer.text().await.unwrap());
    }
    let named = json!({ "query": "query Plain { viewer { id } }", "operationName": "tellzq name" });
    assert_eq!(process.question(&token, "", json!({})).json(&named).send().await.unwrap().status(), 400);

    let metrics = process.metrics().await;
    let (took, printed) = process.stop();
    assert!(took < Duration::from_secs(8), "it stopped after {took:?}");
    for (signal, known) in [
        (
            "/v1/traces",
            vec![
                "POST /graphql",
                "operation",
                "ByNumber",
                "resolvers notes of patients",
                "sql model/",
                "sql commit",
                "pool wait",
            ],
        ),
        ("/v1/metrics", vec!["cordon_requests_total", "tenant_id"]),
        ("/v1/logs", vec!["Serving http://"]),
    ] {
        let sent = collector.sent(signal);
        for word in known {
            assert!(holds(&sent, word), "{word} is not in {signal}");
        }
        assert!(!holds(&sent, "tellzq"), "planted text is in {signal}: {}", String::from_utf8_lossy(&sent));
        assert!(!holds(&sent, &token) && !holds(&sent, "1970-02-03"), "{signal}");
        assert!(signal == "/v1/logs" || holds(&sent, &tenant.id.to_string()), "the tenant is not in {signal}");
    }
    // A trace id goes as bytes.
    let trace: Vec<u8> =
        (0..TRACE.len()).step_by(2).map(|at| u8::from_str_radix(&TRACE[at..at + 2], 16).unwrap()).collect();
    assert!(collector.sent("/v1/traces").windows(16).any(|window| window == trace), "the client's trace");
    for (what, text) in [("/metrics", &metrics), ("the log", &printed)] {
        assert!(
            !text.contains("tellzq") && !text.contains(&token) && !text.contains("1970-02-03"),
            "planted text is in {what}: {text}"
        );
    }
    assert!(value(&metrics, "cordon_requests_total", &[("tenant_id", &tenant.id.to_string())]).is_some());
}

/// A collector that takes the connection and never says a word.
#[tokio::test]
async fn a_collector_that_hangs_holds_nothing_up() {
    let site = Site::shared().await;
    let (_, token) = clinic(site, "hangzq").await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://{}", listener.local_addr().unwrap());
    let quick = Process::serve(site, "quick", json!({}));
    let slow = Process::serve(site, "hanging", json!({ "otlp_endpoint": hanging, "sample_ratio": 1.0 }));
    let mut times = [Duration::ZERO; 2];
    let pages = 700;
    for (process, time) in [&quick, &slow].into_iter().zip(&mut times) {
        assert_eq!(process.ask(&token, PATIENTS, json!({})).await.0, 200);
        let began = Instant::now();
        let mut worst = Duration::ZERO;
        for _ in 0..pages {
            let asked = Instant::now();
            assert_eq!(process.ask(&token, PATIENTS, json!({})).await.0, 200);
            worst = worst.max(asked.elapsed());
        }
        *time = began.elapsed() / pages;
        assert!(worst < Duration::from_secs(2), "the slowest took {worst:?}");
    }
    println!("a page takes {:?} without a collector, {:?} with one that hangs", times[0], times[1]);
    assert!(times[1] < times[0] * 2 + Duration::from_millis(2), "{times:?}");
    let dropped = value(&slow.metrics().await, "cordon_telemetry_dropped_total", &[("signal", "spans")]).unwrap();
    assert!(dropped > 0.0, "{pages} pages have more spans than the queue holds");
    let (took, _) = slow.stop();
    println!("it stopped after {took:?}, {dropped} spans were dropped");
    assert!(took < Duration::from_secs(9), "it stopped after {took:?}");
    drop(listener);
}

fn request_id(answer: &reqwest::Response) -> String {
    answer.headers()["x-request-id"].to_str().unwrap().to_owned()
}

/// Request and trace of each audit row that names one.
async fn traces(site: &Site, tenant: &Tenant) -> Vec<(String, Option<String>)> {
    let placement = tenant.placement.as_ref().unwrap();
    let superuser = site.superuser(&placement.database).await;
    let rows =
        format!("select request_id::text, trace_id from {}.audit_log where action like '%.read'", placement.schema);
    superuser.query(&rows, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Path and body of each request.
type Kept = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Takes OTLP over HTTP and keeps the bytes: strings stand in them as they are.
struct Collector {
    url: String,
    kept: Kept,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Kept::default();
        let all = Arc::clone(&kept);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let all = Arc::clone(&all);
                std::thread::spawn(move || take(socket, &all));
            }
        });
        Self { url, kept }
    }

    fn sent(&self, path: &str) -> Vec<u8> {
        self.kept.lock().unwrap().iter().filter(|(to, _)| to == path).flat_map(|(_, body)| body.clone()).collect()
    }
}

fn take(socket: TcpStream, all: &Kept) {
    let mut answers = socket.try_clone().unwrap();
    let mut reader = BufReader::new(socket);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        all.lock().unwrap().push((first.split(' ').nth(1).unwrap().to_owned(), body));
        answers
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
    }
}
