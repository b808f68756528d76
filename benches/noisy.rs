//! One organisation at twenty times its share, and what its neighbours notice of it: their chart pages, paced, first alone and then beside
//! the noise, in turns. The server runs with its own limits. `CORDON_BENCH_SECONDS` (of a turn) and `CORDON_BENCH_ROUNDS` set the size; the
//! full run: 10, 5.
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
use rig::{Outcome, Rig, Served, median, sized};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const CHART: &str = include_str!("../tests/it/chart.graphql");
/// Requests a second of an organisation that keeps to its share.
const SHARE: u32 = 20;
const TIMES: u32 = 20;

fn main() -> Outcome<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let rig = Rig::make("noisy", &[]).await?;
        let outcome = measure(&rig).await;
        rig.clear().and(outcome)
    })
}

async fn measure(rig: &Rig) -> Outcome<()> {
    let time = Duration::from_secs(sized("CORDON_BENCH_SECONDS", 2)?.try_into()?);
    let rounds = sized("CORDON_BENCH_ROUNDS", 1)?;
    let mut tenants = Vec::new();
    for (slug, model) in [
        ("noisy", TenancyModel::Shared),
        ("quiet-shared", TenancyModel::Shared),
        ("quiet-schema", TenancyModel::Schema),
        ("quiet-database", TenancyModel::Database),
    ] {
        let tenant = rig.tenant(slug, model).await?;
        rig.fill(&tenant, 1, 50).await?;
        rig.settle(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
        tenants.push(tenant);
    }
    let server = rig.serve(&[])?;
    let mut requests = Vec::new();
    for tenant in &tenants {
        let requests_of = charts(rig, &server, tenant).await?;
        load::run(&server.address, &requests_of, 2, Duration::from_millis(300)).await?;
        requests.push(requests_of);
    }
    let (noise, quiet) = requests.split_first().ok_or("no tenant")?;
    let (mut alone, mut beside) = (vec![Vec::new(); quiet.len()], vec![Vec::new(); quiet.len()]);
    let mut noisy = load::Run::default();
    for _ in 0..rounds {
        for (nth, run) in neighbours(&server, quiet, time).await?.into_iter().enumerate() {
            alone.get_mut(nth).map(|runs| runs.push(run)).unwrap_or_default();
        }
        let (said, heard) = tokio::join!(
            load::paced(&server.address, noise, SHARE * TIMES, 64, time),
            neighbours(&server, quiet, time)
        );
        let said = said?;
        noisy.answered += said.answered;
        noisy.refused += said.refused;
        for (nth, run) in heard?.into_iter().enumerate() {
            beside.get_mut(nth).map(|runs| runs.push(run)).unwrap_or_default();
        }
    }
    println!(
        "{} requests a second of each neighbour, {} of the noisy one: {} of those answered, {} refused",
        SHARE,
        SHARE * TIMES,
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

/// All neighbours at once, each at its share.
async fn neighbours(server: &Served, quiet: &[Arc<Vec<Request>>], time: Duration) -> Outcome<Vec<load::Run>> {
    let runs = quiet.iter().map(|requests| load::paced(&server.address, requests, SHARE, 4, time));
    futures_util::future::try_join_all(runs).await
}

async fn charts(rig: &Rig, server: &Served, tenant: &Tenant) -> Outcome<Arc<Vec<Request>>> {
    let token = rig.token(tenant, "clinician", "bench")?;
    let data = server.ask(&token, "{ patients(first: 20) { edges { node { id } } } }", json!({})).await?;
    let patients = data["patients"]["edges"].as_array().cloned().unwrap_or_default();
    // Of several people: the limit of one would hide that of the organisation.
    let tokens =
        (0..8).map(|person| rig.token(tenant, "clinician", &format!("bench-{person}"))).collect::<Outcome<Vec<_>>>()?;
    let pairs = patients.iter().zip(tokens.iter().cycle());
    Ok(Arc::new(
        pairs
            .map(|(edge, token)| Request::new(&server.address, token, CHART, &json!({ "patient": edge["node"]["id"] })))
            .collect(),
    ))
}
