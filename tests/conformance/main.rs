//! Tests with the real software that Cordon works with in production, one module each. `cargo test` does not run them:
//! `tests/conformance/run` installs the software, sets `CORDON_PARTS` to its directory, and runs the tests. A missing
//! program is a failure; no test is skipped.
#![cfg(test)]
#![expect(dead_code, reason = "not all of the support for tests/it is used here")]

mod explorer;
mod http;
mod pgbouncer;
mod sdl;
#[path = "../it/support/mod.rs"]
mod support;
mod telemetry;
mod tls;
mod unleash;

use std::path::PathBuf;

/// Returns the directory in which `tests/conformance/run` has installed the software.
pub fn parts() -> PathBuf {
    std::env::var_os("CORDON_PARTS").expect("run tests/conformance/run").into()
}
