//! The integration tests: one binary, and one PostgreSQL for the whole run, which ends with it.
#![cfg(test)]

mod admission;
mod at_rest;
mod attacks;
mod boot;
mod boot_grants;
mod cancel;
mod chart;
mod charts;
mod cli;
mod cluster;
mod compress;
mod cors;
mod dev;
mod encounter;
mod faults;
mod fence;
mod fresh;
mod full_disk;
mod health;
mod http;
mod import;
mod injection;
mod intruder;
mod isolation;
mod migrate;
mod note;
mod patient;
mod planted;
mod pool;
mod process;
mod proxy;
mod run;
mod sample;
mod server;
mod shared_data;
mod sights;
mod site;
mod stop;
mod telemetry;
mod terms;
mod tidy;
mod tls;
mod walls;
mod write;

use run::{cluster, cluster_of_own, options, run_dir};
