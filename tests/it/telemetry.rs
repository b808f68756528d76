//! Metrics, traces and logs: they name the tenant and the trace and contain no text of a chart, and exporting them
//! delays no request.

use crate::support::fhir_charts::{FhirCharts, SYSTEM};
use crate::support::log::Log;
use crate::support::serve_process::ServeProcess;
use crate::support::server::TestServer;
use crate::support::site::Site;
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

/// Creates a tenant with a chart whose texts all contain the mark, and the token of a clinician.
async fn tenant_with_chart(site: &Site, mark: &str) -> (Tenant, String) {
    let tenant = site.tenant(TenancyModel::Schema).await;
    FhirCharts { mark, patients: 2, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", "someone");
    (tenant, token)
}

/// Returns the value of a metric with all of these labels.
fn metric_value(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let of =
        |line: &&str| line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label));
    metrics.lines().find(of)?.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn requests_are_counted_by_tenant_kind_and_error() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let (tenant, token) = tenant_with_chart(site, "countzq").await;
    for _ in 0..3 {
        server.data(&token, PATIENTS, json!({})).await;
    }
    assert_eq!(
        server
            .query(&token, "mutation { signNote(input: {id: \"x\", expectedVersion: 1}) { note { id } } }", json!({}))
            .await
            .0,
        200
    );
    assert_eq!(server.query(&token, "{ nothing }", json!({})).await.0, 400);
    assert_eq!(server.query("a.b.c", PATIENTS, json!({})).await.0, 401);

    let metrics = server.app.metrics.render();
    let (id, of) = (tenant.id.to_string(), |name: &str, labels: &[(&str, &str)]| metric_value(&metrics, name, labels));
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
    // Three requests with three round trips each: the patients, their notes, the commit.
    assert_eq!(of("cordon_request_round_trips_sum", &[("kind", "query")]), Some(9.0), "{metrics}");
    assert_eq!(
        of("cordon_audit_rows_total", &[query[0]]),
        Some(15.0),
        "three requests with five rows each: for each of two patients the patient and its notes, and the search"
    );
    assert_eq!(of("cordon_pool_wait_seconds_count", &[]), Some(3.0));
    assert!(
        of("cordon_pool_backends", &[("state", "idle")]) >= Some(1.0)
            && of("cordon_pool_backends_limit", &[]) == Some(60.0)
    );
    assert!(of("cordon_sealed_values_total", &[("direction", "open")]) >= Some(15.0));
    assert_eq!(
        of("cordon_key_cache_misses_total", &[]),
        Some(2.0),
        "one miss for the tenant's keys and one for the keys of the database"
    );

    server.app.metrics.count_flag_evaluation("new-chart", true, None);
    let metrics = server.app.metrics.render();
    assert_eq!(
        metric_value(&metrics, "cordon_flag_evaluations_total", &[("flag", "new-chart"), ("enabled", "true")]),
        Some(1.0)
    );
}

#[tokio::test]
async fn the_number_of_tenant_labels_is_limited() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    settings.telemetry.tenants = 1;
    let server = TestServer::start(site, settings, BootCheck::Dev);
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
async fn requests_of_disconnected_clients_are_counted() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let (_, token) = tenant_with_chart(site, "gonezq").await;
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: \
         application/json\r\ncontent-length: 50\r\n\r\n{{"
    );
    let mut socket = TcpStream::connect(server.url.trim_start_matches("http://").trim_end_matches("/graphql")).unwrap();
    socket.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(socket);
    let started = Instant::now();
    let counted = || metric_value(&server.app.metrics.render(), "cordon_requests_total", &[("kind", "none")]);
    while counted() != Some(1.0) {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", server.app.metrics.render());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_trace_id_is_in_audit_rows() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let (tenant, token) = tenant_with_chart(site, "tracezq").await;
    let sent = server.query_request(&token, PATIENTS, json!({})).header("traceparent", PARENT).send().await.unwrap();
    let with_trace = request_id(&sent);
    let sent = server.query_request(&token, PATIENTS, json!({})).send().await.unwrap();
    let without_trace = request_id(&sent);
    let refused = server
        .query_request("x", PATIENTS, json!({}))
        .header("traceparent", PARENT)
        .header("traceparent", PARENT)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 401, "two trace headers are ignored and do not cause an error");

    let rows = traces(site, &tenant).await;
    assert!(
        rows.iter().filter(|(request, _)| *request == with_trace).all(|(_, trace)| trace.as_deref() == Some(TRACE)),
        "{rows:?}"
    );
    assert!(rows.iter().any(|(request, _)| *request == with_trace));
    let own = without_trace.replace('-', "");
    assert!(
        rows.iter().any(|(request, trace)| *request == without_trace && trace.as_deref() == Some(&own)),
        "{rows:?}"
    );
}

#[tokio::test]
async fn every_log_line_of_a_request_names_tenant_request_and_trace() {
    let (cluster, site) = Site::with_own_cluster("lines").await;
    let server = TestServer::of(&site);
    let (tenant, token) = tenant_with_chart(&site, "linezq").await;
    server.data(&token, "{ viewer { id } }", json!({})).await;
    cluster.stop();
    let sent = server.query_request(&token, PATIENTS, json!({})).header("traceparent", PARENT).send().await.unwrap();
    assert_eq!(sent.status(), 503);
    let id = request_id(&sent);
    let lines: Vec<Value> = Log::text()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|line: &Value| line["request.id"] == id.as_str())
        .collect();
    assert!(lines.len() >= 2, "one line with the reason and one about the failed request: {lines:?}");
    for line in &lines {
        assert_eq!((&line["tenant.id"], &line["trace_id"]), (&json!(tenant.id), &json!(TRACE)), "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
}

/// The metrics and spans in the code and in the documentation are the same.
#[tokio::test]
async fn metrics_and_spans_are_documented() {
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

/// All telemetry of a server, exported to a collector, while every part of the requests and of the chart contains a
/// marker.
#[tokio::test]
async fn telemetry_contains_no_text_of_charts_or_clients() {
    let site = Site::shared().await;
    let (tenant, token) = tenant_with_chart(site, "tellzq").await;
    let collector = Collector::start();
    let process =
        ServeProcess::start(site, "telemetry", json!({ "otlp_endpoint": collector.url, "sample_ratio": 1.0 }));
    let token_of_auditor = site.token(&[tenant.id], "auditor", "tellzqsubject");
    let words = json!({ "words": "tellzqfamily", "value": "tellzq-mrn-0", "system": SYSTEM });
    let by_value = "query ByNumber($system: String!, $value: String!) { patientByIdentifier(system: $system, value: \
        $value) { id birthDate } }";
    let requests = [
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
            json!({ "input": { "sex": "FEMALE", "birthDate": "1970-02-03", "name": { "text": "tellzqname",
                "family": "tellzqnew" },
                            "identifiers": [{ "system": SYSTEM, "value": "tellzqnumber" }] } }),
            200,
        ),
    ];
    for (token, query, variables, status) in requests {
        let request = process.query_request(token, query, variables).header("traceparent", PARENT);
        let request = request
            .header("tracestate", "a=tellzqstate")
            .header("user-agent", "tellzqagent")
            .header("baggage", "a=tellzqbag");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{query}: {}", answer.text().await.unwrap());
    }
    let named = json!({ "query": "query Plain { viewer { id } }", "operationName": "tellzq name" });
    assert_eq!(process.query_request(&token, "", json!({})).json(&named).send().await.unwrap().status(), 400);

    let metrics = process.metrics().await;
    let (took, printed) = process.stop();
    assert!(took < Duration::from_secs(8), "the server stopped after {took:?}");
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
            assert!(contains(&sent, word), "{word} is not in {signal}");
        }
        assert!(!contains(&sent, "tellzq"), "marked text is in {signal}: {}", String::from_utf8_lossy(&sent));
        assert!(!contains(&sent, &token) && !contains(&sent, "1970-02-03"), "{signal}");
        assert!(signal == "/v1/logs" || contains(&sent, &tenant.id.to_string()), "the tenant is not in {signal}");
    }
    // A trace id is encoded as bytes.
    let trace: Vec<u8> =
        (0..TRACE.len()).step_by(2).map(|at| u8::from_str_radix(&TRACE[at..at + 2], 16).unwrap()).collect();
    assert!(collector.sent("/v1/traces").windows(16).any(|window| window == trace), "the client's trace");
    for (what, text) in [("/metrics", &metrics), ("the log", &printed)] {
        assert!(
            !text.contains("tellzq") && !text.contains(&token) && !text.contains("1970-02-03"),
            "marked text is in {what}: {text}"
        );
    }
    assert!(metric_value(&metrics, "cordon_requests_total", &[("tenant_id", &tenant.id.to_string())]).is_some());
}

/// The collector accepts connections and never responds.
#[tokio::test]
async fn a_hanging_collector_delays_no_request() {
    let site = Site::shared().await;
    let (_, token) = tenant_with_chart(site, "hangzq").await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://{}", listener.local_addr().unwrap());
    let quick = ServeProcess::start(site, "quick", json!({}));
    let slow = ServeProcess::start(site, "hanging", json!({ "otlp_endpoint": hanging, "sample_ratio": 1.0 }));
    let mut times = [Duration::ZERO; 2];
    let pages = 700;
    for (process, time) in [&quick, &slow].into_iter().zip(&mut times) {
        assert_eq!(process.query(&token, PATIENTS, json!({})).await.0, 200);
        let started = Instant::now();
        let mut worst = Duration::ZERO;
        for _ in 0..pages {
            let sent_at = Instant::now();
            assert_eq!(process.query(&token, PATIENTS, json!({})).await.0, 200);
            worst = worst.max(sent_at.elapsed());
        }
        *time = started.elapsed() / pages;
        assert!(worst < Duration::from_secs(2), "the slowest took {worst:?}");
    }
    println!("a page takes {:?} without a collector, {:?} with one that hangs", times[0], times[1]);
    assert!(times[1] < times[0] * 2 + Duration::from_millis(2), "{times:?}");
    let dropped =
        metric_value(&slow.metrics().await, "cordon_telemetry_dropped_total", &[("signal", "spans")]).unwrap();
    assert!(dropped > 0.0, "{pages} requests create more spans than the queue holds");
    let (took, _) = slow.stop();
    println!("the server stopped after {took:?}, {dropped} spans were dropped");
    assert!(took < Duration::from_secs(9), "the server stopped after {took:?}");
    drop(listener);
}

fn request_id(answer: &reqwest::Response) -> String {
    answer.headers()["x-request-id"].to_str().unwrap().to_owned()
}

/// Returns the request id and trace id of each audit row of a read.
async fn traces(site: &Site, tenant: &Tenant) -> Vec<(String, Option<String>)> {
    let placement = tenant.placement.as_ref().unwrap();
    let superuser = site.superuser(&placement.database).await;
    let rows =
        format!("select request_id::text, trace_id from {}.audit_log where action like '%.read'", placement.schema);
    superuser.query(&rows, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The path and body of each received request.
type ReceivedRequests = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// Receives OTLP over HTTP and stores the bytes. Strings are not encoded in them, so they can be searched.
struct Collector {
    url: String,
    received: ReceivedRequests,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let received = ReceivedRequests::default();
        let all = Arc::clone(&received);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let all = Arc::clone(&all);
                std::thread::spawn(move || handle_connection(socket, &all));
            }
        });
        Self { url, received }
    }

    fn sent(&self, path: &str) -> Vec<u8> {
        self.received.lock().unwrap().iter().filter(|(to, _)| to == path).flat_map(|(_, body)| body.clone()).collect()
    }
}

fn handle_connection(socket: TcpStream, all: &ReceivedRequests) {
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
