//! The measurements of one cell of a result table, one value per round.

use super::load::{self, Request};
use super::{BenchResult, process_stats};
use std::sync::Arc;
use std::time::Duration;

/// The values of all rounds. `server` and `database` are microseconds of processor time per request.
#[derive(Default)]
pub struct Measurements {
    pub rate: Vec<f64>,
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
    pub server: Vec<f64>,
    pub database: Vec<f64>,
}

impl Measurements {
    pub fn add(&mut self, rate: f64, p50: f64, p99: f64, server: f64, database: f64) {
        self.rate.push(rate);
        self.p50.push(p50);
        self.p99.push(p99);
        self.server.push(server);
        self.database.push(database);
    }

    /// Keeps a server busy and measures the processor time of the server and of its PostgreSQL.
    pub async fn measure(
        &mut self,
        address: &str,
        [server, database]: [u32; 2],
        requests: &Arc<Vec<Request>>,
        connections: usize,
        time: Duration,
    ) -> BenchResult<()> {
        let before = [server, database].map(process_stats::cpu_seconds);
        let run = load::run(address, requests, connections, time).await?;
        let after = [server, database].map(process_stats::cpu_seconds);
        if run.refused > 0 || run.answered == 0 {
            return Err(
                format!("{address}: {} of {} requests were refused", run.refused, run.refused + run.answered).into()
            );
        }
        let each = |from: f64, to: f64| (to - from) * 1e6 / run.answered as f64;
        self.add(
            run.rate(),
            run.quantile(0.5),
            run.quantile(0.99),
            each(before[0], after[0]),
            each(before[1], after[1]),
        );
        Ok(())
    }
}
