//! Cordon with the real parts it meets in production, one module a part. Not part of `cargo test`: `tests/conformance/run` installs the
//! parts, says where they are in `CORDON_PARTS`, and runs this. A part that is missing is a failure, never a skip.
#![cfg(test)]
#![expect(dead_code, reason = "what tests/it shares is made for more than is used here")]

#[path = "../it/charts.rs"]
mod charts;
mod http;
mod pgbouncer;
#[path = "../it/process.rs"]
mod process;
#[path = "../it/run.rs"]
mod run;
mod sdl;
#[path = "../it/server.rs"]
mod server;
#[path = "../it/site.rs"]
mod site;
mod telemetry;
mod tls;
mod unleash;

use run::{cluster, options, run_dir};
use std::path::PathBuf;

/// Where `tests/conformance/run` put what it installed.
pub fn parts() -> PathBuf {
    std::env::var_os("CORDON_PARTS").expect("run tests/conformance/run").into()
}
