//! Telemetry with real receivers: Rotel receives OTLP and prints it, Prometheus scrapes the metrics, and `promtool`
//! checks them. The charts, requests and tokens contain a marker, and the marker is in none of the received data.

use crate::parts;
use crate::support::fhir_charts::{FhirCharts, SYSTEM};
use crate::support::run_dir;
use crate::support::serve_process::ServeProcess;
use crate::support::site::Site;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const MARK: &str = "partzq";
const PART_TIMEOUT: Duration = Duration::from_secs(30);
const PATIENTS: &str =
    "query Chart { patients(first: 5) { nodes { name { text } birthDate notes(first: 5) { nodes { title body } } } } }";

/// A receiver that runs until it is dropped, and its output.
struct Receiver {
    child: Child,
    printed: Arc<Mutex<Vec<u8>>>,
}

impl Receiver {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tests/conformance/run");
        let printed = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for mut output in outputs {
            let printed = Arc::clone(&printed);
            std::thread::spawn(move || {
                let mut bytes = [0; 8192];
                while let Ok(read @ 1..) = output.read(&mut bytes) {
                    printed.lock().unwrap().extend_from_slice(&bytes[..read]);
                }
            });
        }
        Self { child, printed }
    }

    fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed.lock().unwrap()).into_owned()
    }

    async fn wait_for_output(&self, text: &str) {
        let started = Instant::now();
        while !self.printed().contains(text) {
            assert!(started.elapsed() < PART_TIMEOUT, "{text} is not in the output:\n{}", self.printed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn rotel_receives_spans_metrics_and_logs() {
    let site = Site::shared().await;
    let (http, grpc) = (free_address(), free_address());
    let mut rotel = Command::new(parts().join("rotel/rotel/rotel-agent"));
    rotel.args([
        "start",
        "--exporter",
        "blackhole",
        "--debug-log",
        "traces",
        "--debug-log",
        "metrics",
        "--debug-log",
        "logs",
        "--debug-log-verbosity",
        "detailed",
    ]);
    rotel.args(["--batch-timeout", "100ms", "--otlp-http-endpoint", &http, "--otlp-grpc-endpoint", &grpc]);
    let rotel = Receiver::start(&mut rotel);
    wait_until_listening(&http).await;
    let process =
        ServeProcess::start(site, "rotel", json!({ "otlp_endpoint": format!("http://{http}"), "sample_ratio": 1.0 }));
    let tenant = send_requests(site, &process).await;
    let (_, printed) = process.stop();
    for text in [
        "POST /graphql",
        "sql commit",
        "resolvers notes of patients",
        "cordon_requests_total",
        "Serving http://",
        "tenant.id",
        "tenant_id",
    ] {
        rotel.wait_for_output(text).await;
    }
    rotel.wait_for_output(&tenant.id.to_string()).await;
    for (what, text) in [("the output of Rotel", rotel.printed()), ("the log", printed)] {
        assert!(!text.contains(MARK), "marked text is in {what}");
    }
}

#[tokio::test]
async fn prometheus_scrapes_metrics_per_tenant() {
    let site = Site::shared().await;
    let process = ServeProcess::start(site, "prometheus", json!({}));
    let tenant = send_requests(site, &process).await;
    let metrics = process.metrics().await;
    check_with_promtool(&metrics);
    assert!(!metrics.contains(MARK), "marked text is in /metrics");

    let directory = run_dir().join("prometheus");
    std::fs::create_dir(&directory).unwrap();
    let target = process.metrics_url.trim_start_matches("http://").trim_end_matches("/metrics");
    let config = json!({ "global": { "scrape_interval": "200ms" },
        "scrape_configs": [{ "job_name": "cordon", "static_configs": [{ "targets": [target] }] }] });
    std::fs::write(directory.join("prometheus.yml"), config.to_string()).unwrap();
    let address = free_address();
    let mut prometheus = Command::new(program("prometheus"));
    prometheus.current_dir(&directory).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
    let _prometheus = Receiver::start(prometheus.arg(format!("--web.listen-address={address}")));
    wait_until_listening(&address).await;
    let query = format!("cordon_requests_total{{tenant_id=\"{}\",kind=\"query\",status=\"200\"}}", tenant.id);
    let found = query_prometheus(&address, &query).await;
    assert_eq!(found["value"][1], "3", "{found}");
    let errors = format!("cordon_request_errors_total{{tenant_id=\"{}\",code=\"INVALID_INPUT\"}}", tenant.id);
    assert_eq!(query_prometheus(&address, &errors).await["value"][1], "1");
    let quantile = "histogram_quantile(0.9, sum by (le, tenant_id) (cordon_request_duration_seconds_bucket))";
    assert!(query_prometheus(&address, quantile).await["metric"]["tenant_id"].is_string());
}

/// Creates a tenant whose chart contains the mark, and sends successful and failing requests with the mark in every
/// part.
async fn send_requests(site: &Site, process: &ServeProcess) -> Tenant {
    let tenant = site.tenant(TenancyModel::Schema).await;
    FhirCharts { mark: MARK, patients: 2, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let token = site.token(&[tenant.id], "clinician", &format!("{MARK}subject"));
    let by_number = "query ByNumber($system: String!, $value: String!) { patientByIdentifier(system: $system, value: \
        $value) { birthDate } }";
    let search = "query Search($words: String) { patients(search: $words) { nodes { name { text } } } }";
    for (query, variables, status) in [
        (PATIENTS, json!({}), 200),
        (by_number, json!({ "system": SYSTEM, "value": format!("{MARK}-mrn-0") }), 200),
        (search, json!({ "words": format!("{MARK}family") }), 200),
        (&*format!("{{ {MARK}field }}"), json!({}), 400),
    ] {
        let (actual, body) = process.query(&token, query, variables).await;
        assert_eq!(actual, status, "{body}");
    }
    assert_eq!(process.query(&format!("{MARK}a.{MARK}b.{MARK}c"), PATIENTS, json!({})).await.0, 401);
    tenant
}

/// Checks the metrics with `promtool`, which must print nothing.
fn check_with_promtool(metrics: &str) {
    let mut promtool = Command::new(program("promtool"));
    let promtool =
        promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("tests/conformance/run");
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let result = promtool.wait_with_output().unwrap();
    let text = [result.stdout, result.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(result.status.success() && text.is_empty(), "{text}\n{metrics}");
}

/// Returns the first result of a Prometheus query. Waits until there is one.
async fn query_prometheus(address: &str, query: &str) -> Value {
    let started = Instant::now();
    loop {
        let url =
            reqwest::Url::parse_with_params(&format!("http://{address}/api/v1/query"), [("query", query)]).unwrap();
        let mut answer: Value = reqwest::Client::new().get(url).send().await.unwrap().json().await.unwrap();
        if answer["data"]["result"][0].is_object() {
            return answer["data"]["result"][0].take();
        }
        assert!(started.elapsed() < PART_TIMEOUT, "{query}: {answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn wait_until_listening(address: &str) {
    let started = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(started.elapsed() < PART_TIMEOUT, "nobody listens on {address}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns an address on which no process listens.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn program(name: &str) -> PathBuf {
    let program = parts().join("prometheus/usr/bin").join(name);
    assert!(Path::new(&program).is_file(), "{program:?} is missing: run tests/conformance/run");
    program
}
