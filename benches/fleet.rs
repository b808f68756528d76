//! Ten organisations against many: what a fleet costs when all of it is served by one process. Mixed models, several of them with a database
//! of their own; random traffic over all of them. `CORDON_BENCH_TENANTS`, `CORDON_BENCH_DATABASES` and `CORDON_BENCH_SECONDS` set the size;
//! the full run: 1000, 20, 20.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "what the benches share is made for more than is used here")]
mod rig;

use cordon::tenant::{TenancyModel, Tenant};
use rig::load::{self, Request};
use rig::{Outcome, Rig, Served, median, sized, spent};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FEW: usize = 10;
const PAGE: &str = "{ patients(first: 10) { edges { node { id name { text } birthDate } } } }";
const REGISTER: &str = "mutation ($input: RegisterPatientInput!) { registerPatient(input: $input) { patient { id } } }";

fn main() -> Outcome<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let rig = Rig::make("fleet", &[("shared_buffers", "1GB")]).await?;
        let outcome = measure(&rig).await;
        rig.clear().and(outcome)
    })
}

async fn measure(rig: &Rig) -> Outcome<()> {
    let (many, databases) = (sized("CORDON_BENCH_TENANTS", 20)?, sized("CORDON_BENCH_DATABASES", 2)?);
    let time = Duration::from_secs(sized("CORDON_BENCH_SECONDS", 2)?.try_into()?);
    let mut tenants = Vec::new();
    let mut requests = Vec::new();
    let (mut made, mut served) = (Vec::new(), Vec::new());
    let server = rig.serve(rig::UNLIMITED)?;
    println!(
        "{:>7} | {:>9} {:>8} {:>8} | {:>8} {:>9} {:>9} {:>12}",
        "tenants", "answers/s", "p50 ms", "p99 ms", "backends", "server MB", "PG CPU µs", "server CPU µs"
    );
    let mut memory = Vec::new();
    for size in [FEW.min(many), many] {
        while tenants.len() < size {
            let began = Instant::now();
            let tenant =
                rig.tenant(&format!("clinic-{}", tenants.len()), model(tenants.len(), many, databases)).await?;
            made.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            requests.push(open(rig, &server, &tenant).await?);
            served.push(began.elapsed().as_secs_f64() * 1e3);
            tenants.push(tenant);
        }
        let turns = Arc::new(shuffled(&requests));
        // Everyone was there once; then it is measured.
        load::run(&server.address, &turns, 8, time).await?;
        let before = (spent::seconds(server.pid()), spent::seconds(rig.cluster.pid()));
        let run = load::run(&server.address, &turns, 8, time).await?;
        let after = (spent::seconds(server.pid()), spent::seconds(rig.cluster.pid()));
        if run.refused > 0 {
            return Err(format!("{} requests were refused", run.refused).into());
        }
        let each = |from: f64, to: f64| (to - from) * 1e6 / run.answered as f64;
        let backends = backends(rig).await?;
        memory.push(spent::megabytes(server.pid()));
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
    // Sessions that nobody used for a minute are closed; what is left is what a tenant costs that nobody asks for.
    let more = many.saturating_sub(FEW) as f64;
    if let [few, all] = memory.as_slice()
        && more > 0.0
    {
        println!("memory of the server for each tenant more: {:.1} kB", (all - few) * 1024.0 / more);
    }
    println!(
        "a new tenant: {:.0} ms to make, {:.0} ms more until its first answer (medians of {})",
        median(made),
        median(served),
        tenants.len()
    );
    Ok(())
}

/// The first of every so many has a database of its own, the others take turns.
fn model(number: usize, of: usize, databases: usize) -> TenancyModel {
    match number {
        number if number.is_multiple_of((of / databases.max(1)).max(1)) => TenancyModel::Database,
        number if number.is_multiple_of(2) => TenancyModel::Schema,
        _ => TenancyModel::Shared,
    }
}

/// A patient for a new tenant, through the API; how its page is asked for.
async fn open(rig: &Rig, server: &Served, tenant: &Tenant) -> Outcome<Request> {
    let token = rig.token(tenant, "clinician", "bench")?;
    let input = json!({ "input": { "identifiers": [], "sex": "OTHER", "birthDate": "1980-02-01", "name": { "text": format!("Patient of {}", tenant.slug) } } });
    server.ask(&token, REGISTER, input).await?;
    Ok(Request::new(&server.address, &token, PAGE, &json!({})))
}

async fn backends(rig: &Rig) -> Outcome<i64> {
    let superuser = rig.superuser("postgres").await?;
    let count = "select count(*) from pg_stat_activity where usename = 'cordon_app' or usename like 'cordon\\_t\\_%'";
    Ok(superuser.query_one(count, &[]).await?.get(0))
}

/// The same disorder every time: each several times, far from itself.
fn shuffled(requests: &[Request]) -> Vec<Request> {
    (0..requests.len() * 3).filter_map(|nth| requests.get(nth * 7919 % requests.len().max(1)).cloned()).collect()
}
