//! The cost of typical requests: the chart page, a note, the list of patients, a search, the timeline and a new note.
//! Each is compared with its floor: the same SQL, with binding, row security and audit row, run by pgbench in
//! pipelines. Server and floor are measured alternately, and medians are printed. `CORDON_BENCH_PATIENTS`,
//! `CORDON_BENCH_SECONDS` (per measurement) and `CORDON_BENCH_ROUNDS` set the size; the full run is 5000, 5, 5.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "not all of the support for benches is used here")]
mod support;

use cordon::crypto::TenantKeys;
use cordon::tenant::{TenancyModel, Tenant};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::floor::{Floor, GuardLevel, RecordedRequest};
use support::load::{self, Request};
use support::measurements::Measurements;
use support::{BenchResult, BenchSite, ServerProcess, median, process_stats, size_from_env};

/// The number of different requests of each kind, sent in turn.
const SAMPLES: usize = 16;
const CHART: &str = include_str!("../tests/it/chart.graphql");
const NOTE: &str = "query ($id: ID!) { note(id: $id) { id status type { code display } title body author { name } \
    authoredAt signedAt patient { id } encounter { id } } }";
const PATIENTS: &str = "query ($after: String) { patients(first: 50, after: $after) { edges { cursor node { id name { \
    text } birthDate sex } } pageInfo { hasNextPage } } }";
const SEARCH: &str = "query ($search: String) { patients(search: $search, first: 20) { edges { node { id name { text } \
    birthDate sex } } pageInfo { hasNextPage } } }";
const TIMELINE: &str = "query ($after: String) { notes(first: 50, after: $after) { edges { cursor node { id type { \
    code } status authoredAt patient { id name { text } } } } } }";
const DRAFT: &str = "mutation ($input: DraftNoteInput!) { draftNote(input: $input) { note { id status version } } }";

/// A kind of request, with the variables of its requests.
struct RequestKind {
    name: &'static str,
    query: &'static str,
    variables: Vec<Value>,
}

fn main() -> BenchResult<()> {
    tokio::runtime::Runtime::new()?.block_on(BenchSite::with_floor("chart", measure))
}

async fn measure(site: &BenchSite) -> BenchResult<()> {
    let (patients, seconds, rounds) = (
        size_from_env("CORDON_BENCH_PATIENTS", 60)?,
        size_from_env("CORDON_BENCH_SECONDS", 1)?,
        size_from_env("CORDON_BENCH_ROUNDS", 1)?,
    );
    let time = Duration::from_secs(seconds.try_into()?);
    let mut tenants = Vec::new();
    for (slug, model) in
        [("schema", TenancyModel::Schema), ("shared", TenancyModel::Shared), ("database", TenancyModel::Database)]
    {
        let tenant = site.tenant(slug, model).await?;
        let notes = site.import_sample_charts(&tenant, 1, patients).await?;
        site.vacuum(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
        println!("{slug}: {patients} patients, {notes} notes");
        tenants.push(tenant);
    }
    let server = site.serve(support::UNLIMITED)?;
    let tenant = tenants.first().ok_or("no tenant")?;
    let token = site.token(tenant, "clinician", "bench")?;
    let kinds = kinds(&server, &token).await?;
    let floor = Floor::create(site, tenant).await?;
    let connection_counts = [1, 8, 32];

    println!(
        "\n{:10} {:>5} | {:>8} {:>7} {:>7} {:>7} | {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} | {:>6} {:>7}",
        "",
        "conns",
        "floor/s",
        "p50 ms",
        "p99 ms",
        "CPU µs",
        "cordon/s",
        "p50 ms",
        "p99 ms",
        "server",
        "PG µs",
        "total",
        "ratio",
        "trips"
    );
    for kind in &kinds {
        let requests = kind.requests(&server, &token);
        warm_up(&server, &requests).await?;
        let mut recorded = Vec::new();
        for request in requests.iter() {
            let ask = async || -> BenchResult<()> {
                load::Connection::open(&server.address).await?.send(request).await.map(|_| ())
            };
            recorded.push(floor.record(site, ask).await?);
        }
        for connections in connection_counts {
            let (mut floor_cell, mut server_cell) = (Measurements::default(), Measurements::default());
            for _ in 0..rounds {
                let run = floor.run(&recorded, GuardLevel::Audited, connections, time)?;
                floor_cell.add(run.rate, run.quantile(0.5), run.quantile(0.99), run.cpu, 0.0);
                server_cell
                    .measure(&server.address, [server.pid(), site.cluster.pid()], &requests, connections, time)
                    .await?;
            }
            let round_trips = server.round_trips().await?;
            let (bottom, top) = (
                median(floor_cell.server.clone()),
                median(server_cell.server.clone()) + median(server_cell.database.clone()),
            );
            println!(
                "{:10} {connections:>5} | {:>8.0} {:>7.2} {:>7.2} {bottom:>7.0} | {:>8.0} {:>7.2} {:>7.2} {:>7.0} \
                 {:>7.0} {top:>7.0} | {:>6.2} {round_trips:>7.1}",
                kind.name,
                median(floor_cell.rate),
                median(floor_cell.p50),
                median(floor_cell.p99),
                median(server_cell.rate),
                median(server_cell.p50),
                median(server_cell.p99),
                median(server_cell.server),
                median(server_cell.database),
                top / bottom
            );
        }
        if kind.name == "chart" {
            print_breakdown(site, &server, tenant, &floor, &recorded, &requests, (time, rounds)).await?;
        }
    }
    compare_models(site, &server, &tenants, time, rounds).await?;
    println!(
        "\nmemory: server {:.0} MB; samples of {SAMPLES} requests each, {seconds} s per measurement, medians of \
         {rounds}",
        process_stats::memory_megabytes(server.pid())
    );
    Ok(())
}

impl RequestKind {
    fn requests(&self, server: &ServerProcess, token: &str) -> Arc<Vec<Request>> {
        Arc::new(
            self.variables
                .iter()
                .map(|variables| Request::new(&server.address, token, self.query, variables))
                .collect(),
        )
    }
}

async fn kinds(server: &ServerProcess, token: &str) -> BenchResult<Vec<RequestKind>> {
    let list = |data: &Value, name: &str, field: &str| -> Vec<Value> {
        data[name]["edges"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|edge| edge.pointer(field).cloned().unwrap_or_default())
            .collect()
    };
    let data = server
        .query(
            token,
            "{ patients(first: 200) { edges { cursor node { id encounters(first: 10) { edges { node { id } } } } } } }",
            json!({}),
        )
        .await?;
    let mut edges = data["patients"]["edges"].as_array().cloned().unwrap_or_default();
    // The patients with the most encounters come first.
    edges.sort_by_key(|edge| std::cmp::Reverse(edge["node"]["encounters"]["edges"].as_array().map_or(0, Vec::len)));
    let patients: Vec<Value> = edges.iter().take(SAMPLES).map(|edge| edge["node"]["id"].clone()).collect();
    let cursors = list(&data, "patients", "/cursor");
    let data = server.query(token, "{ notes(first: 200) { edges { cursor node { id } } } }", json!({})).await?;
    let (notes, places) = (list(&data, "notes", "/node/id"), list(&data, "notes", "/cursor"));
    // The first four letters of the first word of each name, as a user types them.
    let data = server.query(token, "{ patients(first: 200) { edges { node { name { text } } } } }", json!({})).await?;
    let names = list(&data, "patients", "/node/name/text");
    let prefixes = names.iter().filter_map(|name| {
        name.as_str()?.split_whitespace().next().map(|word| word.chars().take(4).collect::<String>())
    });
    let searches: Vec<Value> = prefixes
        .filter(|prefix| prefix.chars().count() > 2)
        .take(SAMPLES)
        .map(|search| json!({ "search": search }))
        .collect();
    let body = "Patient seen and examined. ".repeat(60);
    let of = |name, query, variables: Vec<Value>| RequestKind { name, query, variables };
    Ok(vec![
        of("chart", CHART, patients.iter().map(|id| json!({ "patient": id })).collect()),
        of("note", NOTE, notes.iter().take(SAMPLES).map(|id| json!({ "id": id })).collect()),
        of("patients", PATIENTS, cursors.iter().take(SAMPLES.min(8)).map(|after| json!({ "after": after })).collect()),
        of("search", SEARCH, searches),
        of("timeline", TIMELINE, places.iter().take(SAMPLES).map(|after| json!({ "after": after })).collect()),
        of(
            "draft",
            DRAFT,
            patients
                .iter()
                .map(|id| json!({ "input": { "patientId": id, "type": "34117-2", "body": body } }))
                .collect(),
        ),
    ])
}

async fn warm_up(server: &ServerProcess, requests: &Arc<Vec<Request>>) -> BenchResult<()> {
    load::run(&server.address, requests, 4, Duration::from_millis(500)).await.map(|_| ())
}

/// Prints the parts of the processor time of a chart page.
async fn print_breakdown(
    site: &BenchSite,
    server: &ServerProcess,
    tenant: &Tenant,
    floor: &Floor,
    recorded: &[RecordedRequest],
    requests: &Arc<Vec<Request>>,
    (time, rounds): (Duration, usize),
) -> BenchResult<()> {
    let levels = [GuardLevel::Bare, GuardLevel::Bound, GuardLevel::Secured, GuardLevel::Audited];
    let (mut runs, mut whole) = (vec![Vec::new(); levels.len()], Measurements::default());
    for _ in 0..rounds {
        for (level, runs) in levels.into_iter().zip(&mut runs) {
            runs.push(floor.run(recorded, level, 8, time)?.cpu);
        }
        whole.measure(&server.address, [server.pid(), site.cluster.pid()], requests, 8, time).await?;
    }
    let costs: Vec<f64> = runs.into_iter().map(median).collect();
    let token = site.token(tenant, "clinician", "bench")?;
    let empty = Arc::new(vec![Request::new(&server.address, &token, "{ __typename }", &json!({}))]);
    let mut http = Measurements::default();
    http.measure(&server.address, [server.pid(), site.cluster.pid()], &empty, 8, time).await?;
    let response = server.query(&token, CHART, chart_variables(server, &token).await?).await?;
    let texts = response.to_string().matches("\"body\":").count() * 2 + 4;
    println!("  a chart page, µs of processor time (8 connections):");
    let step = |n: usize| {
        costs.get(n).copied().unwrap_or_default()
            - if n == 0 { 0.0 } else { costs.get(n - 1).copied().unwrap_or_default() }
    };
    for (nth, name) in
        ["the statements alone", "transaction start and binding", "row security", "audit row"].into_iter().enumerate()
    {
        println!("    {name:32} {:>7.0}", step(nth));
    }
    println!("    {:32} {:>7.0}", "HTTP, token, parsing ({ __typename })", median(http.server.clone()));
    println!("    {:32} {:>7.0}", format!("opening {texts} sealed values"), decryption_micros(texts));
    println!("    {:32} {:>7.0}", "total: server and PostgreSQL", median(whole.server) + median(whole.database));
    Ok(())
}

async fn chart_variables(server: &ServerProcess, token: &str) -> BenchResult<Value> {
    let data = server.query(token, "{ patients(first: 1) { edges { node { id } } } }", json!({})).await?;
    Ok(json!({ "patient": data["patients"]["edges"][0]["node"]["id"] }))
}

/// Measures the microseconds that are needed to decrypt this number of sealed texts of the length of a note.
fn decryption_micros(texts: usize) -> f64 {
    use cordon::model::fields::NoteBody;
    let keys = TenantKeys::assemble(
        cordon::ids::TenantId::new(),
        vec![(1, cordon::crypto::fresh_key())],
        cordon::crypto::fresh_key(),
        cordon::crypto::fresh_key(),
    );
    let Ok(keys) = keys else { return f64::NAN };
    let row = uuid::Uuid::now_v7();
    let Ok(sealed) = keys.seal::<NoteBody>(row, &"A line of a note. ".repeat(60)) else { return f64::NAN };
    let started = Instant::now();
    let rounds = 200;
    for _ in 0..rounds * texts {
        std::hint::black_box(keys.open(row, &sealed).is_ok());
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(rounds as u32)
}

/// Measures the chart page in the three tenancy models.
async fn compare_models(
    site: &BenchSite,
    server: &ServerProcess,
    tenants: &[Tenant],
    time: Duration,
    rounds: usize,
) -> BenchResult<()> {
    let mut cells: Vec<(Measurements, Arc<Vec<Request>>)> = Vec::new();
    for tenant in tenants {
        let token = site.token(tenant, "clinician", "bench")?;
        let kinds = kinds(server, &token).await?;
        let requests = kinds.first().ok_or("no kind")?.requests(server, &token);
        warm_up(server, &requests).await?;
        cells.push((Measurements::default(), requests));
    }
    for _ in 0..rounds.max(3) {
        for (cell, requests) in &mut cells {
            cell.measure(&server.address, [server.pid(), site.cluster.pid()], requests, 8, time).await?;
        }
    }
    println!(
        "\n{:10} {:>9} {:>7} {:>9}   the chart page by model, 8 connections",
        "", "answers/s", "p50 ms", "total µs"
    );
    for (tenant, (cell, _)) in tenants.iter().zip(cells) {
        let total = median(cell.server) + median(cell.database);
        println!("{:10} {:>9.0} {:>7.2} {total:>9.0}", tenant.slug, median(cell.rate), median(cell.p50));
    }
    Ok(())
}
