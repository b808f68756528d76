//! Finding a patient among many by the beginning of a name, while every name is sealed and the database knows only blind terms: by two to four
//! letters of one word, by a whole word and by two words, beside the floor, which is the same SQL with guard and audit row by pgbench.
//! `CORDON_BENCH_PATIENTS`, `CORDON_BENCH_SECONDS` (of a cell) and `CORDON_BENCH_ROUNDS` set the size; the full run: 100000, 5, 5.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "what the benches share is made for more than is used here")]
mod rig;

use cordon::tenant::TenancyModel;
use rig::floor::{Floor, Guarded};
use rig::load::{self, Request};
use rig::{Outcome, Rig, median, sized};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const SEARCH: &str = "query ($search: String) { patients(search: $search, first: 20) { edges { node { id name { text } birthDate sex } } pageInfo { hasNextPage } } }";
/// Searches of a kind, gone through in turn.
const SAMPLES: usize = 32;

fn main() -> Outcome<()> {
    tokio::runtime::Runtime::new()?.block_on(Rig::with_floor("search", measure))
}

async fn measure(rig: &Rig) -> Outcome<()> {
    let time = Duration::from_secs(sized("CORDON_BENCH_SECONDS", 1)?.try_into()?);
    let rounds = sized("CORDON_BENCH_ROUNDS", 1)?;
    let tenant = rig.tenant("search", TenancyModel::Schema).await?;
    let patients = rig.register(&tenant, 1, sized("CORDON_BENCH_PATIENTS", 2000)?).await?;
    rig.settle(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
    let server = rig.serve(rig::UNLIMITED)?;
    let token = rig.token(&tenant, "clinician", "bench")?;
    let floor = Floor::make(rig, &tenant).await?;
    println!(
        "{patients} patients\n{:12} {:>6} {:>5} | {:>9} {:>7} | {:>9} {:>7} {:>7}",
        "", "found", "conns", "floor p50", "p99 ms", "cordon p50", "p99 ms", "per s"
    );
    let data = server.ask(&token, "{ patients(first: 200) { edges { node { name { text } } } } }", json!({})).await?;
    let names: Vec<Vec<String>> = data["patients"]["edges"].as_array().into_iter().flatten().map(words).collect();
    type Typed = fn(&[String]) -> Option<String>;
    let kinds: [(&str, Typed); 5] = [
        ("2 letters", |words| beginning(words.first()?, 2)),
        ("3 letters", |words| beginning(words.first()?, 3)),
        ("4 letters", |words| beginning(words.first()?, 4)),
        ("a word", |words| words.first().cloned()),
        ("two words", |words| Some(format!("{} {}", beginning(words.first()?, 3)?, beginning(words.last()?, 3)?))),
    ];
    for (kind, typed) in kinds {
        let searches: Vec<String> = names.iter().filter_map(|words| typed(words)).take(SAMPLES).collect();
        let mut found = Vec::new();
        for search in &searches {
            let data = server.ask(&token, SEARCH, json!({ "search": search })).await?;
            found.push(data["patients"]["edges"].as_array().map_or(0, Vec::len) as f64);
        }
        let requests: Vec<_> = searches
            .iter()
            .map(|search| Request::new(&server.address, &token, SEARCH, &json!({ "search": search })))
            .collect();
        let mut recorded = Vec::new();
        for request in &requests {
            let ask = async || -> Outcome<()> {
                load::Connection::open(&server.address).await?.ask(request).await.map(|_| ())
            };
            recorded.push(floor.record(rig, ask).await?);
        }
        let requests = Arc::new(requests);
        for connections in [1, 8] {
            let [mut below, mut below99, mut p50, mut p99, mut rate] = std::array::from_fn(|_| Vec::new());
            for _ in 0..rounds {
                let run = floor.run(&recorded, Guarded::Audited, connections, time)?;
                below.push(run.quantile(0.5));
                below99.push(run.quantile(0.99));
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
                median(below),
                median(below99),
                median(p50),
                median(p99),
                median(rate)
            );
        }
    }
    Ok(())
}

/// The words of a patient's name as a desk types them; names without spaces are one.
fn words(edge: &Value) -> Vec<String> {
    edge["node"]["name"]["text"].as_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// The first letters of a word that has as many.
fn beginning(word: &str, letters: usize) -> Option<String> {
    (word.chars().count() >= letters).then(|| word.chars().take(letters).collect())
}
