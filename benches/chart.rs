//! What a clinic's day costs: the chart page, a note, the list of patients, the timeline and a new note, each beside its floor, which is the
//! same SQL with the guard, row security and the audit row in it, run by pgbench in pipelines. Both sides take turns; medians are printed.
//! `CORDON_BENCH_PATIENTS`, `CORDON_BENCH_SECONDS` (of a cell) and `CORDON_BENCH_ROUNDS` set the size. The full run: 5000, 5, 5.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "what the benches share is made for more than is used here")]
mod rig;

use cordon::crypto::TenantKeys;
use cordon::tenant::{TenancyModel, Tenant};
use rig::cell::Cell;
use rig::floor::{Floor, Guarded, Recorded};
use rig::load::{self, Request};
use rig::{Outcome, Rig, Served, median, sized, spent};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Requests of a kind, gone through in turn.
const SAMPLES: usize = 16;
const CHART: &str = include_str!("../tests/it/chart.graphql");
const NOTE: &str = "query ($id: ID!) { note(id: $id) { id status type { code display } title body author { name } authoredAt signedAt patient { id } encounter { id } } }";
const PATIENTS: &str = "query ($after: String) { patients(first: 50, after: $after) { edges { cursor node { id name { text } birthDate sex } } pageInfo { hasNextPage } } }";
const SEARCH: &str = "query ($search: String) { patients(search: $search, first: 20) { edges { node { id name { text } birthDate sex } } pageInfo { hasNextPage } } }";
const TIMELINE: &str = "query ($after: String) { notes(first: 50, after: $after) { edges { cursor node { id type { code } status authoredAt patient { id name { text } } } } } }";
const DRAFT: &str = "mutation ($input: DraftNoteInput!) { draftNote(input: $input) { note { id status version } } }";

/// One kind of request.
struct OperationKind {
    name: &'static str,
    query: &'static str,
    variables: Vec<Value>,
}

fn main() -> Outcome<()> {
    tokio::runtime::Runtime::new()?.block_on(Rig::with_floor("chart", measure))
}

async fn measure(rig: &Rig) -> Outcome<()> {
    let (patients, seconds, rounds) =
        (sized("CORDON_BENCH_PATIENTS", 60)?, sized("CORDON_BENCH_SECONDS", 1)?, sized("CORDON_BENCH_ROUNDS", 1)?);
    let time = Duration::from_secs(seconds.try_into()?);
    let mut tenants = Vec::new();
    for (slug, model) in
        [("schema", TenancyModel::Schema), ("shared", TenancyModel::Shared), ("database", TenancyModel::Database)]
    {
        let tenant = rig.tenant(slug, model).await?;
        let notes = rig.fill(&tenant, 1, patients).await?;
        rig.settle(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
        println!("{slug}: {patients} patients, {notes} notes");
        tenants.push(tenant);
    }
    let server = rig.serve(rig::UNLIMITED)?;
    let tenant = tenants.first().ok_or("no tenant")?;
    let token = rig.token(tenant, "clinician", "bench")?;
    let kinds = kinds(&server, &token).await?;
    let floor = Floor::make(rig, tenant).await?;
    let limits = [1, 8, 32];

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
        "flights"
    );
    for kind in &kinds {
        let requests = kind.requests(&server, &token);
        warm(&server, &requests).await?;
        let mut recorded = Vec::new();
        for request in requests.iter() {
            let ask = async || -> Outcome<()> {
                load::Connection::open(&server.address).await?.ask(request).await.map(|_| ())
            };
            recorded.push(floor.record(rig, ask).await?);
        }
        for connections in limits {
            let (mut below, mut above) = (Cell::default(), Cell::default());
            for _ in 0..rounds {
                let run = floor.run(&recorded, Guarded::Audited, connections, time)?;
                below.add(run.rate, run.quantile(0.5), run.quantile(0.99), run.cpu, 0.0);
                above.measure(&server.address, [server.pid(), rig.cluster.pid()], &requests, connections, time).await?;
            }
            let flights = server.flights().await?;
            let (bottom, top) =
                (median(below.server.clone()), median(above.server.clone()) + median(above.database.clone()));
            println!(
                "{:10} {connections:>5} | {:>8.0} {:>7.2} {:>7.2} {bottom:>7.0} | {:>8.0} {:>7.2} {:>7.2} {:>7.0} {:>7.0} {top:>7.0} | {:>6.2} {flights:>7.1}",
                kind.name,
                median(below.rate),
                median(below.p50),
                median(below.p99),
                median(above.rate),
                median(above.p50),
                median(above.p99),
                median(above.server),
                median(above.database),
                top / bottom
            );
        }
        if kind.name == "chart" {
            parts(rig, &server, tenant, &floor, &recorded, &requests, (time, rounds)).await?;
        }
    }
    models(rig, &server, &tenants, time, rounds).await?;
    println!(
        "\nmemory: server {:.0} MB; samples of {SAMPLES} requests each, {seconds} s a cell, medians of {rounds}",
        spent::megabytes(server.pid())
    );
    Ok(())
}

impl OperationKind {
    fn requests(&self, server: &Served, token: &str) -> Arc<Vec<Request>> {
        Arc::new(
            self.variables
                .iter()
                .map(|variables| Request::new(&server.address, token, self.query, variables))
                .collect(),
        )
    }
}

async fn kinds(server: &Served, token: &str) -> Outcome<Vec<OperationKind>> {
    let list = |data: &Value, name: &str, field: &str| -> Vec<Value> {
        data[name]["edges"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|edge| edge.pointer(field).cloned().unwrap_or_default())
            .collect()
    };
    let data = server
        .ask(
            token,
            "{ patients(first: 200) { edges { cursor node { id encounters(first: 10) { edges { node { id } } } } } } }",
            json!({}),
        )
        .await?;
    let mut edges = data["patients"]["edges"].as_array().cloned().unwrap_or_default();
    // Patients with as full a chart page as there are.
    edges.sort_by_key(|edge| std::cmp::Reverse(edge["node"]["encounters"]["edges"].as_array().map_or(0, Vec::len)));
    let patients: Vec<Value> = edges.iter().take(SAMPLES).map(|edge| edge["node"]["id"].clone()).collect();
    let cursors = list(&data, "patients", "/cursor");
    let data = server.ask(token, "{ notes(first: 200) { edges { cursor node { id } } } }", json!({})).await?;
    let (notes, places) = (list(&data, "notes", "/node/id"), list(&data, "notes", "/cursor"));
    // The beginning of the first word of each name, as someone at a desk types it.
    let data = server.ask(token, "{ patients(first: 200) { edges { node { name { text } } } } }", json!({})).await?;
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
    let of = |name, query, variables: Vec<Value>| OperationKind { name, query, variables };
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

async fn warm(server: &Served, requests: &Arc<Vec<Request>>) -> Outcome<()> {
    load::run(&server.address, requests, 4, Duration::from_millis(500)).await.map(|_| ())
}

/// Where the time of a chart page goes.
async fn parts(
    rig: &Rig,
    server: &Served,
    tenant: &Tenant,
    floor: &Floor,
    recorded: &[Recorded],
    requests: &Arc<Vec<Request>>,
    (time, rounds): (Duration, usize),
) -> Outcome<()> {
    let ways = [Guarded::Bare, Guarded::Bound, Guarded::Secured, Guarded::Audited];
    let (mut runs, mut whole) = (vec![Vec::new(); ways.len()], Cell::default());
    for _ in 0..rounds {
        for (guarded, runs) in ways.into_iter().zip(&mut runs) {
            runs.push(floor.run(recorded, guarded, 8, time)?.cpu);
        }
        whole.measure(&server.address, [server.pid(), rig.cluster.pid()], requests, 8, time).await?;
    }
    let costs: Vec<f64> = runs.into_iter().map(median).collect();
    let token = rig.token(tenant, "clinician", "bench")?;
    let nothing = Arc::new(vec![Request::new(&server.address, &token, "{ __typename }", &json!({}))]);
    let mut http = Cell::default();
    http.measure(&server.address, [server.pid(), rig.cluster.pid()], &nothing, 8, time).await?;
    let answer = server.ask(&token, CHART, requests_variables(server, &token).await?).await?;
    let texts = answer.to_string().matches("\"body\":").count() * 2 + 4;
    println!("  a chart page, µs of processor time (8 connections):");
    let step = |n: usize| {
        costs.get(n).copied().unwrap_or_default()
            - if n == 0 { 0.0 } else { costs.get(n - 1).copied().unwrap_or_default() }
    };
    for (nth, name) in ["the statements alone", "head and binding", "row security", "audit row"].into_iter().enumerate()
    {
        println!("    {name:32} {:>7.0}", step(nth));
    }
    println!("    {:32} {:>7.0}", "HTTP, token, parsing ({ __typename })", median(http.server.clone()));
    println!("    {:32} {:>7.0}", format!("opening {texts} sealed values"), opening(texts));
    println!("    {:32} {:>7.0}", "the whole: server and PostgreSQL", median(whole.server) + median(whole.database));
    Ok(())
}

async fn requests_variables(server: &Served, token: &str) -> Outcome<Value> {
    let data = server.ask(token, "{ patients(first: 1) { edges { node { id } } } }", json!({})).await?;
    Ok(json!({ "patient": data["patients"]["edges"][0]["node"]["id"] }))
}

/// Microseconds to open that many sealed texts of a note's length.
fn opening(texts: usize) -> f64 {
    use cordon::model::fields::NoteBody;
    let made = TenantKeys::assemble(
        cordon::ids::TenantId::new(),
        vec![(1, cordon::crypto::fresh_key())],
        cordon::crypto::fresh_key(),
        cordon::crypto::fresh_key(),
    );
    let Ok(keys) = made else { return f64::NAN };
    let row = uuid::Uuid::now_v7();
    let Ok(sealed) = keys.seal::<NoteBody>(row, &"A line of a note. ".repeat(60)) else { return f64::NAN };
    let began = Instant::now();
    let rounds = 200;
    for _ in 0..rounds * texts {
        std::hint::black_box(keys.open(row, &sealed).is_ok());
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(rounds as u32)
}

/// The same page in the three models.
async fn models(rig: &Rig, server: &Served, tenants: &[Tenant], time: Duration, rounds: usize) -> Outcome<()> {
    let mut cells: Vec<(Cell, Arc<Vec<Request>>)> = Vec::new();
    for tenant in tenants {
        let token = rig.token(tenant, "clinician", "bench")?;
        let kinds = kinds(server, &token).await?;
        let requests = kinds.first().ok_or("no kind")?.requests(server, &token);
        warm(server, &requests).await?;
        cells.push((Cell::default(), requests));
    }
    for _ in 0..rounds.max(3) {
        for (cell, requests) in &mut cells {
            cell.measure(&server.address, [server.pid(), rig.cluster.pid()], requests, 8, time).await?;
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
