//! One tenant sends twenty times its share of requests. The latency of its neighbours' chart pages at a fixed rate is
//! measured without and with this load, alternately. The server runs with its default limits. `CORDON_BENCH_SECONDS`
//! (per measurement) and `CORDON_BENCH_ROUNDS` set the size; the full run is 10, 5.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "not all of the support for benches is used here")]
mod support;

use cordon::tenant::{TenancyModel, Tenant};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use support::load::{self, Request};
use support::{BenchResult, BenchSite, ServerProcess, median, size_from_env};

const CHART: &str = include_str!("../tests/it/chart.graphql");
/// Requests per second of a tenant that keeps to its share.
const REQUESTS_PER_SECOND: u32 = 20;
/// How many times its share the noisy tenant sends.
const NOISE_FACTOR: u32 = 20;

fn main() -> BenchResult<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let site = BenchSite::create("noisy", &[]).await?;
        let outcome = measure(&site).await;
        site.remove().and(outcome)
    })
}

async fn measure(site: &BenchSite) -> BenchResult<()> {
    let time = Duration::from_secs(size_from_env("CORDON_BENCH_SECONDS", 2)?.try_into()?);
    let rounds = size_from_env("CORDON_BENCH_ROUNDS", 1)?;
    let mut tenants = Vec::new();
    for (slug, model) in [
        ("noisy", TenancyModel::Shared),
        ("quiet-shared", TenancyModel::Shared),
        ("quiet-schema", TenancyModel::Schema),
        ("quiet-database", TenancyModel::Database),
    ] {
        let tenant = site.tenant(slug, model).await?;
        site.import_sample_charts(&tenant, 1, 50).await?;
        site.vacuum(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
        tenants.push(tenant);
    }
    let server = site.serve(&[])?;
    let mut requests = Vec::new();
    for tenant in &tenants {
        let requests_of = chart_requests(site, &server, tenant).await?;
        load::run(&server.address, &requests_of, 2, Duration::from_millis(300)).await?;
        requests.push(requests_of);
    }
    let (noise, quiet) = requests.split_first().ok_or("no tenant")?;
    let (mut alone, mut beside) = (vec![Vec::new(); quiet.len()], vec![Vec::new(); quiet.len()]);
    let mut noisy = load::Run::default();
    for _ in 0..rounds {
        for (nth, run) in measure_neighbours(&server, quiet, time).await?.into_iter().enumerate() {
            alone.get_mut(nth).map(|runs| runs.push(run)).unwrap_or_default();
        }
        let (noise_run, neighbour_runs) = tokio::join!(
            load::paced(&server.address, noise, REQUESTS_PER_SECOND * NOISE_FACTOR, 64, time),
            measure_neighbours(&server, quiet, time)
        );
        let noise_run = noise_run?;
        noisy.answered += noise_run.answered;
        noisy.refused += noise_run.refused;
        for (nth, run) in neighbour_runs?.into_iter().enumerate() {
            beside.get_mut(nth).map(|runs| runs.push(run)).unwrap_or_default();
        }
    }
    println!(
        "{} requests per second of each neighbour, {} of the noisy tenant: {} of these succeeded, {} were rejected",
        REQUESTS_PER_SECOND,
        REQUESTS_PER_SECOND * NOISE_FACTOR,
        noisy.answered,
        noisy.refused
    );
    println!("{:16} {:>9} {:>9} | {:>9} {:>9} | {:>6}", "", "quiet p50", "p99 ms", "noise p50", "p99 ms", "p99 ×");
    for ((tenant, alone), beside) in tenants.iter().skip(1).zip(alone).zip(beside) {
        let of = |runs: &[load::Run], share| median(runs.iter().map(|run| run.quantile(share)).collect());
        let (quiet, noise) = (of(&alone, 0.99), of(&beside, 0.99));
        println!(
            "{:16} {:>9.2} {quiet:>9.2} | {:>9.2} {noise:>9.2} | {:>6.2}",
            tenant.slug,
            of(&alone, 0.5),
            of(&beside, 0.5),
            noise / quiet
        );
        let refused: usize = beside.iter().map(|run| run.refused).sum();
        if refused > 0 {
            return Err(format!("{refused} requests of {} were refused", tenant.slug).into());
        }
    }
    Ok(())
}

/// Sends the requests of all neighbours concurrently, each at its share.
async fn measure_neighbours(
    server: &ServerProcess,
    quiet: &[Arc<Vec<Request>>],
    time: Duration,
) -> BenchResult<Vec<load::Run>> {
    let runs = quiet.iter().map(|requests| load::paced(&server.address, requests, REQUESTS_PER_SECOND, 4, time));
    futures_util::future::try_join_all(runs).await
}

async fn chart_requests(site: &BenchSite, server: &ServerProcess, tenant: &Tenant) -> BenchResult<Arc<Vec<Request>>> {
    let token = site.token(tenant, "clinician", "bench")?;
    let data = server.query(&token, "{ patients(first: 20) { edges { node { id } } } }", json!({})).await?;
    let patients = data["patients"]["edges"].as_array().cloned().unwrap_or_default();
    // Several callers, because the limit of one caller would hide the limit of the tenant.
    let tokens = (0..8)
        .map(|person| site.token(tenant, "clinician", &format!("bench-{person}")))
        .collect::<BenchResult<Vec<_>>>()?;
    let pairs = patients.iter().zip(tokens.iter().cycle());
    Ok(Arc::new(
        pairs
            .map(|(edge, token)| Request::new(&server.address, token, CHART, &json!({ "patient": edge["node"]["id"] })))
            .collect(),
    ))
}
