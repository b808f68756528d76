//! `cordon import fhir`: imports charts from FHIR R4 files into one tenant.

use super::Context;
use super::output::{Bar, table};
use crate::app::App;
use crate::import::rejects::RejectFile;
use crate::import::source::Source;
use crate::import::{self, Counts, ImportError, Progress, Store};
use crate::ops::OpsError;
use crate::telemetry::Metrics;
use crate::tenant::State;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Import FHIR R4 resources: patients, encounters, documents, reports and practitioners, in Bundles or NDJSON.
    ///
    /// A resource that was imported before is updated if it has changed in its source, also a signed note. A record
    /// that was changed in Cordon since then is rejected instead (`changed_here`).
    #[command(after_help = examples!(
        "import fhir --tenant lakeside charts.ndjson": "Import the charts of a file",
        "import fhir --tenant lakeside bundles/ --rejects rejects.ndjson":
            "Import a directory, and list what was rejected",
        "sample --patients 50 | cordon import fhir --tenant lakeside -": "Import synthetic charts from standard input",
    ))]
    Fhir {
        /// Tenant that gets the charts
        #[arg(long, value_name = "SLUG")]
        tenant: String,
        /// Files or directories; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// List rejected resources in this file, as NDJSON: ids and reasons, without content
        #[arg(long, value_name = "FILE")]
        rejects: Option<PathBuf>,
        /// Name of the sending system, which keeps its ids apart from those of other systems
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
        rejects.map(|path| RejectFile::create(&path).map_err(|error| OpsError::file(&path, &error))).transpose()?;
    let input = tokio::task::spawn_blocking(move || Source::open(&files))
        .await
        .map_err(|error| OpsError::Failed(error.to_string()))?;
    let input = input.map_err(|error| OpsError::Usage(error.to_string()))?;
    let store = Store::new(Arc::clone(&app.guards), tenant.id, &source);
    let bar = Bar::new("Importing", context.json);
    let report = import::run(input, store, rejects, |progress| {
        count(&app.metrics, progress);
        bar.show(progress.done, progress.total, progress.kind.name());
    })
    .await;
    drop(bar);
    app.metrics.close();
    let mut report = report?;
    report.tenant = slug;
    let clean = report.rejects == 0;
    context.answer(&report, || {
        let counts = [
            ("patients", &report.patients),
            ("encounters", &report.encounters),
            ("notes", &report.notes),
            ("practitioners", &report.practitioners),
        ];
        let rows = counts.map(|(name, counts)| {
            let Counts { new, updated, unchanged, rejected } = counts;
            [name.to_owned(), new.to_string(), updated.to_string(), unchanged.to_string(), rejected.to_string()]
        });
        let counts = table(["", "NEW", "UPDATED", "UNCHANGED", "REJECTED"], &[1, 2, 3, 4], rows);
        let skipped: Vec<String> = report.skipped.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let skipped = match skipped.is_empty() {
            true => String::new(),
            false => format!("Not imported, because Cordon keeps no such resources: {}\n", skipped.join(", ")),
        };
        format!("{counts}\n{skipped}{:.1} s, {} notes/s", report.seconds, report.notes_per_second)
    })?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

fn count(metrics: &Metrics, progress: Progress) {
    let (kind, Counts { new, updated, unchanged, rejected }) = (progress.kind.name(), progress.delta);
    for (outcome, count) in [("new", new), ("updated", updated), ("unchanged", unchanged), ("rejected", rejected)] {
        metrics.count_imported(kind, outcome, count);
    }
}

impl From<ImportError> for OpsError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::File(error) => error.into(),
            ImportError::Incomplete => Self::Failed(error.to_string()),
        }
    }
}
