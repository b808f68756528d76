//! Search for patients by the beginning of a name. All names are sealed, and the database has only blind indexes of
//! them. The searches use two to four letters of one word, a whole word, and two words. They are compared with the
//! floor: the same SQL with binding and audit row, run by pgbench. `CORDON_BENCH_PATIENTS`, `CORDON_BENCH_SECONDS` (per
//! measurement) and `CORDON_BENCH_ROUNDS` set the size; the full run is 100000, 5, 5.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "not all of the support for benches is used here")]
mod support;

use cordon::tenant::TenancyModel;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use support::floor::{Floor, GuardLevel};
use support::load::{self, Request};
use support::{BenchResult, BenchSite, median, size_from_env};

const SEARCH: &str = "query ($search: String) { patients(search: $search, first: 20) { edges { node { id name { text } \
    birthDate sex } } pageInfo { hasNextPage } } }";
/// The number of different searches of each kind, sent in turn.
const SAMPLES: usize = 32;

fn main() -> BenchResult<()> {
    tokio::runtime::Runtime::new()?.block_on(BenchSite::with_floor("search", measure))
}

async fn measure(site: &BenchSite) -> BenchResult<()> {
    let time = Duration::from_secs(size_from_env("CORDON_BENCH_SECONDS", 1)?.try_into()?);
    let rounds = size_from_env("CORDON_BENCH_ROUNDS", 1)?;
    let tenant = site.tenant("search", TenancyModel::Schema).await?;
    let patients = site.import_sample_patients(&tenant, 1, size_from_env("CORDON_BENCH_PATIENTS", 2000)?).await?;
    site.vacuum(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
    let server = site.serve(support::UNLIMITED)?;
    let token = site.token(&tenant, "clinician", "bench")?;
    let floor = Floor::create(site, &tenant).await?;
    println!(
        "{patients} patients\n{:12} {:>6} {:>5} | {:>9} {:>7} | {:>9} {:>7} {:>7}",
        "", "found", "conns", "floor p50", "p99 ms", "cordon p50", "p99 ms", "per s"
    );
    let data = server.query(&token, "{ patients(first: 200) { edges { node { name { text } } } } }", json!({})).await?;
    let names: Vec<Vec<String>> = data["patients"]["edges"].as_array().into_iter().flatten().map(words).collect();
    type SearchText = fn(&[String]) -> Option<String>;
    let kinds: [(&str, SearchText); 5] = [
        ("2 letters", |words| prefix(words.first()?, 2)),
        ("3 letters", |words| prefix(words.first()?, 3)),
        ("4 letters", |words| prefix(words.first()?, 4)),
        ("a word", |words| words.first().cloned()),
        ("two words", |words| Some(format!("{} {}", prefix(words.first()?, 3)?, prefix(words.last()?, 3)?))),
    ];
    for (kind, search_text) in kinds {
        let searches: Vec<String> = names.iter().filter_map(|words| search_text(words)).take(SAMPLES).collect();
        let mut found = Vec::new();
        for search in &searches {
            let data = server.query(&token, SEARCH, json!({ "search": search })).await?;
            found.push(data["patients"]["edges"].as_array().map_or(0, Vec::len) as f64);
        }
        let requests: Vec<_> = searches
            .iter()
            .map(|search| Request::new(&server.address, &token, SEARCH, &json!({ "search": search })))
            .collect();
        let mut recorded = Vec::new();
        for request in &requests {
            let ask = async || -> BenchResult<()> {
                load::Connection::open(&server.address).await?.send(request).await.map(|_| ())
            };
            recorded.push(floor.record(site, ask).await?);
        }
        let requests = Arc::new(requests);
        for connections in [1, 8] {
            let [mut floor_p50, mut floor_p99, mut p50, mut p99, mut rate] = std::array::from_fn(|_| Vec::new());
            for _ in 0..rounds {
                let run = floor.run(&recorded, GuardLevel::Audited, connections, time)?;
                floor_p50.push(run.quantile(0.5));
                floor_p99.push(run.quantile(0.99));
                let run = load::run(&server.address, &requests, connections, time).await?;
                if run.refused > 0 {
                    return Err(format!("{} requests were refused", run.refused).into());
                }
                p50.push(run.quantile(0.5));
                p99.push(run.quantile(0.99));
                rate.push(run.rate());
            }
            println!(
                "{kind:12} {:>6} {connections:>5} | {:>9.2} {:>7.2} | {:>9.2} {:>7.2} {:>7.0}",
                median(found.clone()),
                median(floor_p50),
                median(floor_p99),
                median(p50),
                median(p99),
                median(rate)
            );
        }
    }
    Ok(())
}

/// Returns the words of a patient's name. A name without spaces is one word.
fn words(edge: &Value) -> Vec<String> {
    edge["node"]["name"]["text"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Returns the first letters of a word, if it has that many.
fn prefix(word: &str, letters: usize) -> Option<String> {
    (word.chars().count() >= letters).then(|| word.chars().take(letters).collect())
}
