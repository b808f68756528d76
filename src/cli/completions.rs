//! `cordon completions`: prints a completion script for a shell.

use super::Cli;
use crate::ops::OpsError;
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = examples!(
    "completions bash > /etc/bash_completion.d/cordon": "Install the completions for all users of bash",
    "completions zsh > ~/.zfunc/_cordon": "Install the completions for zsh, where ~/.zfunc is in fpath",
    "completions fish > ~/.config/fish/completions/cordon.fish": "Install the completions for fish",
))]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub fn run(args: &Args, json: bool) -> Result<ExitCode, OpsError> {
    if json {
        return Err(OpsError::Usage("--json does not apply: standard output holds the script".into()));
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cordon", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
