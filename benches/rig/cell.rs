//! A row of a table in the making: what the rounds of one cell measured.

use super::load::{self, Request};
use super::{Outcome, spent};
use std::sync::Arc;
use std::time::Duration;

/// One value a round; microseconds of processor time are of a request.
#[derive(Default)]
pub struct Cell {
    pub rate: Vec<f64>,
    pub p50: Vec<f64>,
    pub p99: Vec<f64>,
    pub server: Vec<f64>,
    pub database: Vec<f64>,
}

impl Cell {
    pub fn add(&mut self, rate: f64, p50: f64, p99: f64, server: f64, database: f64) {
        self.rate.push(rate);
        self.p50.push(p50);
        self.p99.push(p99);
        self.server.push(server);
        self.database.push(database);
    }

    /// Keeps a server busy, and looks at what it and the PostgreSQL behind it spent.
    pub async fn measure(
        &mut self,
        address: &str,
        [server, database]: [u32; 2],
        requests: &Arc<Vec<Request>>,
        connections: usize,
        time: Duration,
    ) -> Outcome<()> {
        let before = [server, database].map(spent::seconds);
        let run = load::run(address, requests, connections, time).await?;
        let after = [server, database].map(spent::seconds);
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
