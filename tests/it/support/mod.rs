//! Support for the tests: PostgreSQL clusters, Cordon installations, HTTP servers, charts to import, and an intruder.
//! There are no tests here. `tests/conformance` uses the same modules.

pub mod chart_writer;
pub mod cluster;
pub mod counting_proxy;
pub mod fhir;
pub mod fhir_charts;
pub mod import_tenant;
pub mod intruder;
pub mod log;
pub mod marked_chart;
pub mod serve_process;
pub mod server;
pub mod site;
pub mod source_text;

pub use cluster::{cluster, cluster_of_own, options, run_dir};
