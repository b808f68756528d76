//! `cordon sample`: synthetic charts as NDJSON, for `cordon import fhir`. Asks no database and no key.

use super::Context;
use crate::ops::OpsError;
use crate::sample::{Charts, ENCOUNTERS, UNTIL, Written};
use chrono::NaiveDate;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What is written at a time.
const BUFFER: usize = 256 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// How many patients
    #[arg(long, value_name = "N", default_value_t = 100)]
    patients: u64,
    /// The same seed gives the same charts, and more patients begin with the same
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Encounters of a patient on average
    #[arg(long, value_name = "N", default_value_t = ENCOUNTERS, value_parser = clap::value_parser!(u64).range(0..=1000))]
    encounters: u64,
    /// The day the charts are written on
    #[arg(long, value_name = "YYYY-MM-DD", default_value_t = UNTIL, value_parser = day)]
    until: NaiveDate,
    /// Write a file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    written: Written,
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
    // On a thread of its own, so that an interruption is heard.
    let made = tokio::task::spawn_blocking(move || match file {
        Some(file) => write(charts, file),
        None => write(charts, io::stdout().lock()),
    });
    let written = match made.await.map_err(|error| OpsError::Failed(error.to_string()))? {
        Ok(written) => written,
        // Whoever reads has seen enough.
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

fn write(charts: Charts, out: impl Write) -> io::Result<Written> {
    let mut told = Instant::now();
    charts.write_to(&mut BufWriter::with_capacity(BUFFER, out), |written| {
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            let _ = writeln!(io::stderr().lock(), "sample: {} of {} patients", written.patients, charts.patients);
        }
    })
}

fn line(Report { written, seconds }: &Report) -> String {
    let Written { practitioners, patients, encounters, notes, bytes } = written;
    format!(
        "sample: {patients} patients, {encounters} encounters, {notes} notes, {practitioners} practitioners, {bytes} bytes, {seconds:.1} s"
    )
}

/// A day on which most charts can begin.
fn day(text: &str) -> Result<NaiveDate, String> {
    let sensible = |day: &NaiveDate| (1950..=2200).contains(&chrono::Datelike::year(day));
    text.parse().ok().filter(sensible).ok_or_else(|| "a day between 1950-01-01 and 2200-12-31".into())
}
