//! Ten tenants compared with many: throughput, latency, backends and memory when one process serves all of them. The
//! tenants have mixed tenancy models, several of them a database of their own, and the requests are spread over all
//! tenants. `CORDON_BENCH_TENANTS`, `CORDON_BENCH_DATABASES` and `CORDON_BENCH_SECONDS` set the size; the full run is
//! 1000, 20, 20.
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
use std::time::{Duration, Instant};
use support::load::{self, Request};
use support::{BenchResult, BenchSite, ServerProcess, median, process_stats, size_from_env};

const SMALL_FLEET: usize = 10;
const PAGE: &str = "{ patients(first: 10) { edges { node { id name { text } birthDate } } } }";
const REGISTER: &str = "mutation ($input: RegisterPatientInput!) { registerPatient(input: $input) { patient { id } } }";

fn main() -> BenchResult<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let site = BenchSite::create("fleet", &[("shared_buffers", "1GB")]).await?;
        let outcome = measure(&site).await;
        site.remove().and(outcome)
    })
}

async fn measure(site: &BenchSite) -> BenchResult<()> {
    let (many, databases) = (size_from_env("CORDON_BENCH_TENANTS", 20)?, size_from_env("CORDON_BENCH_DATABASES", 2)?);
    let time = Duration::from_secs(size_from_env("CORDON_BENCH_SECONDS", 2)?.try_into()?);
    let mut tenants = Vec::new();
    let mut requests = Vec::new();
    let (mut creation_times, mut first_response_times) = (Vec::new(), Vec::new());
    let server = site.serve(support::UNLIMITED)?;
    println!(
        "{:>7} | {:>9} {:>8} {:>8} | {:>8} {:>9} {:>9} {:>12}",
        "tenants", "answers/s", "p50 ms", "p99 ms", "backends", "server MB", "PG CPU µs", "server CPU µs"
    );
    let mut memory = Vec::new();
    for size in [SMALL_FLEET.min(many), many] {
        while tenants.len() < size {
            let started = Instant::now();
            let tenant =
                site.tenant(&format!("clinic-{}", tenants.len()), model(tenants.len(), many, databases)).await?;
            creation_times.push(started.elapsed().as_secs_f64() * 1e3);
            let started = Instant::now();
            requests.push(prepare_tenant(site, &server, &tenant).await?);
            first_response_times.push(started.elapsed().as_secs_f64() * 1e3);
            tenants.push(tenant);
        }
        let requests_in_order = Arc::new(shuffled(&requests));
        // The first run is a warm-up, in which every tenant is served once.
        load::run(&server.address, &requests_in_order, 8, time).await?;
        let before = (process_stats::cpu_seconds(server.pid()), process_stats::cpu_seconds(site.cluster.pid()));
        let run = load::run(&server.address, &requests_in_order, 8, time).await?;
        let after = (process_stats::cpu_seconds(server.pid()), process_stats::cpu_seconds(site.cluster.pid()));
        if run.refused > 0 {
            return Err(format!("{} requests were refused", run.refused).into());
        }
        let each = |from: f64, to: f64| (to - from) * 1e6 / run.answered as f64;
        let backends = count_backends(site).await?;
        memory.push(process_stats::memory_megabytes(server.pid()));
        println!(
            "{:>7} | {:>9.0} {:>8.2} {:>8.2} | {backends:>8} {:>9.1} {:>9.0} {:>12.0}",
            tenants.len(),
            run.rate(),
            run.quantile(0.5),
            run.quantile(0.99),
            memory.last().copied().unwrap_or_default(),
            each(before.1, after.1),
            each(before.0, after.0)
        );
    }
    // Sessions are closed after a minute without use, so this is the memory of an idle tenant.
    let additional = many.saturating_sub(SMALL_FLEET) as f64;
    if let [few, all] = memory.as_slice()
        && additional > 0.0
    {
        println!("memory of the server per additional tenant: {:.1} kB", (all - few) * 1024.0 / additional);
    }
    println!(
        "a new tenant: {:.0} ms to create, {:.0} ms more until its first response (medians of {})",
        median(creation_times),
        median(first_response_times),
        tenants.len()
    );
    Ok(())
}

/// Returns the tenancy model of a tenant: `databases` of the tenants have a database, the others alternate.
fn model(number: usize, total: usize, databases: usize) -> TenancyModel {
    match number {
        number if number.is_multiple_of((total / databases.max(1)).max(1)) => TenancyModel::Database,
        number if number.is_multiple_of(2) => TenancyModel::Schema,
        _ => TenancyModel::Shared,
    }
}

/// Registers a patient of a new tenant over the API and returns the request for its page.
async fn prepare_tenant(site: &BenchSite, server: &ServerProcess, tenant: &Tenant) -> BenchResult<Request> {
    let token = site.token(tenant, "clinician", "bench")?;
    let input = json!({ "input": { "identifiers": [], "sex": "OTHER", "birthDate": "1980-02-01",
        "name": { "text": format!("Patient of {}", tenant.slug) } } });
    server.query(&token, REGISTER, input).await?;
    Ok(Request::new(&server.address, &token, PAGE, &json!({})))
}

async fn count_backends(site: &BenchSite) -> BenchResult<i64> {
    let superuser = site.superuser("postgres").await?;
    let count = "select count(*) from pg_stat_activity where usename = 'cordon_app' or usename like 'cordon\\_t\\_%'";
    Ok(superuser.query_one(count, &[]).await?.get(0))
}

/// Returns each request three times, in an order that is always the same and puts equal requests far apart.
fn shuffled(requests: &[Request]) -> Vec<Request> {
    (0..requests.len() * 3).filter_map(|nth| requests.get(nth * 7919 % requests.len().max(1)).cloned()).collect()
}
