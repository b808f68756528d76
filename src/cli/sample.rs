//! `cordon sample`: writes synthetic charts as NDJSON, for `cordon import fhir`. It needs no database and no key.

use super::Context;
use super::output::Bar;
use crate::ops::OpsError;
use crate::sample::{ChartCounts, Charts, DEFAULT_ENCOUNTERS, DEFAULT_UNTIL};
use chrono::NaiveDate;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

const BUFFER_BYTES: usize = 256 << 10;

#[derive(clap::Args)]
#[command(after_help = examples!(
    "sample --patients 50 --out charts.ndjson": "Write the charts of 50 patients to a file",
    "sample --seed 7 | cordon import fhir --tenant lakeside -": "Import the charts of 100 other patients",
))]
pub struct Args {
    /// Number of patients
    #[arg(long, value_name = "N", default_value_t = 100)]
    patients: u64,
    /// Seed: the same seed always gives the same charts; a larger number of patients adds to them
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Average number of encounters of a patient
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ENCOUNTERS)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=1000))]
    encounters: u64,
    /// Last day of the charts; appointments are later
    #[arg(long, value_name = "YYYY-MM-DD", default_value_t = DEFAULT_UNTIL, value_parser = day)]
    until: NaiveDate,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    written: ChartCounts,
    seconds: f64,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    if context.json && args.out.is_none() {
        return Err(OpsError::Usage("--json needs --out FILE: standard output holds the charts".into()));
    }
    let charts = Charts { seed: args.seed, patients: args.patients, encounters: args.encounters, until: args.until };
    let to_file = args.out.is_some();
    let file = args.out.map(|path| File::create(&path).map_err(|error| OpsError::file(&path, &error))).transpose()?;
    let began = Instant::now();
    // On a thread of its own, so that SIGINT ends the command at once.
    let json = context.json;
    let writing = tokio::task::spawn_blocking(move || match file {
        Some(file) => write(charts, file, json),
        None => write(charts, io::stdout().lock(), json),
    });
    let written = match writing.await.map_err(|error| OpsError::Failed(error.to_string()))? {
        Ok(written) => written,
        // The reader of the pipe has closed it, as `head` does.
        Err(error) if !to_file && error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error.into()),
    };
    let report = Report { written, seconds: (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0 };
    match to_file {
        true => context.answer(&report, || line(&report))?,
        false => writeln!(io::stderr().lock(), "{}", line(&report))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write(charts: Charts, out: impl Write, json: bool) -> io::Result<ChartCounts> {
    let bar = Bar::new("Writing", json);
    charts.write_to(&mut BufWriter::with_capacity(BUFFER_BYTES, out), |written| {
        bar.show(written.patients, charts.patients, "patients");
    })
}

fn line(Report { written, seconds }: &Report) -> String {
    let ChartCounts { practitioners, patients, encounters, notes, bytes } = written;
    format!(
        "sample: {patients} patients, {encounters} encounters, {notes} notes, {practitioners} practitioners, \
         {bytes} bytes, {seconds:.1} s"
    )
}

/// Parses a day. The charts of old patients begin a century before it, so its year is limited.
fn day(text: &str) -> Result<NaiveDate, String> {
    let in_range = |day: &NaiveDate| (1950..=2200).contains(&chrono::Datelike::year(day));
    text.parse().ok().filter(in_range).ok_or_else(|| "a day between 1950-01-01 and 2200-12-31".into())
}
