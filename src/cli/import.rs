//! `cordon import fhir`: charts from FHIR R4 files into one tenant.

use super::Context;
use crate::app::App;
use crate::import::rejects::Rejects;
use crate::import::source::Source;
use crate::import::{self, Counts, Progress, Store};
use crate::ops::OpsError;
use crate::telemetry::Metrics;
use crate::tenant::State;
use std::cell::Cell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(clap::Subcommand)]
pub enum Args {
    /// FHIR R4: Bundles or NDJSON with patients, encounters, documents and practitioners
    Fhir {
        /// Whose charts they are
        #[arg(long, value_name = "SLUG")]
        tenant: String,
        /// Files, directories, or - for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where to list what was not taken, as NDJSON; it holds ids, no content
        #[arg(long, value_name = "FILE")]
        rejects: Option<PathBuf>,
        /// Name of the sending system: keeps its ids apart from another system's
        #[arg(long, value_name = "NAME", default_value = "fhir")]
        source: String,
    },
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let Args::Fhir { tenant: slug, files, rejects, source } = args;
    let app = App::new(context.settings.clone(), context.boot_check())?;
    let all = app.catalog.refresh_all().await?;
    let tenant = all.into_iter().find(|tenant| tenant.slug == slug && tenant.state != State::Destroyed);
    let tenant = tenant.ok_or_else(|| OpsError::Usage(format!("there is no tenant {slug}")))?;
    if tenant.state != State::Active {
        return Err(OpsError::Refused(format!("tenant {slug} is {}", tenant.state)));
    }
    let rejects =
        rejects.map(|path| Rejects::create(&path).map_err(|error| OpsError::file(&path, &error))).transpose()?;
    let input = tokio::task::spawn_blocking(move || Source::open(&files))
        .await
        .map_err(|error| OpsError::Failed(error.to_string()))?;
    let input = input.map_err(|error| OpsError::Usage(error.to_string()))?;
    let store = Store::new(Arc::clone(&app.guards), tenant.id, &source);
    let told = Cell::new(Instant::now());
    let report = import::run(input, store, rejects, |progress| {
        count(&app.metrics, progress);
        tell(&told, progress);
    })
    .await;
    app.metrics.close();
    let mut report = report?;
    report.tenant = slug;
    let clean = report.rejects == 0;
    context.answer(&report, || {
        let line = |what: &str, counts: &Counts| {
            format!(
                "{what:14} {:>9} new {:>9} updated {:>9} unchanged {:>9} rejected\n",
                counts.new, counts.updated, counts.unchanged, counts.rejected
            )
        };
        let counts = [
            ("patients", &report.patients),
            ("encounters", &report.encounters),
            ("notes", &report.notes),
            ("practitioners", &report.practitioners),
        ];
        let skipped: String = report.skipped.iter().map(|(kind, count)| format!("{count} {kind}  ")).collect();
        let table: String = counts.into_iter().map(|(what, counts)| line(what, counts)).collect();
        format!("{table}skipped: {skipped}\n{:.1} s, {} notes/s", report.seconds, report.notes_per_second)
    })?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn count(metrics: &Metrics, progress: Progress) {
    let (kind, Counts { new, updated, unchanged, rejected }) = (progress.kind.name(), progress.latest);
    for (outcome, count) in [("new", new), ("updated", updated), ("unchanged", unchanged), ("rejected", rejected)] {
        metrics.imported(kind, outcome, count);
    }
}

/// A line a second for whoever waits.
fn tell(told: &Cell<Instant>, progress: Progress) {
    if told.get().elapsed() >= Duration::from_secs(1) {
        told.set(Instant::now());
        let _ =
            writeln!(std::io::stderr().lock(), "import: {} of {} {}", progress.done, progress.of, progress.kind.name());
    }
}
