//! The binary: arguments in, exit code out. What each command does is in `cli`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cordon::cli::run(cordon::cli::Cli::parse())
}
