//! `cordon man`: writes the manual pages, one for each command.

use super::Cli;
use crate::ops::OpsError;
use clap::CommandFactory;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = examples!(
    "man --out /usr/local/share/man/man1": "Install the manual pages, then try: man cordon-tenant-create",
))]
pub struct Args {
    /// Directory to write to; it is created where it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn run(args: &Args, json: bool) -> Result<ExitCode, OpsError> {
    let failed = |error| OpsError::file(&args.out, &error);
    std::fs::create_dir_all(&args.out).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.out).map_err(failed)?;
    let line = match json {
        true => json!({ "out": args.out }).to_string(),
        false => format!("The manual pages are in {}.", args.out.display()),
    };
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(ExitCode::SUCCESS)
}
