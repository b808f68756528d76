//! The command line: one file a command. Answers go to standard output (with `--json` one document), progress and logs to standard error.
//! Exit: 0 done, 1 failed, 2 usage, 3 done with rejects, 4 refused in this state, 5 a wall is down, 6 unreachable, 130 interrupted.

mod dev;
mod import;
mod init;
mod migrate;
mod sample;
mod serve;
mod server;
mod tenant;
mod token;

use crate::app::StartError;
use crate::cluster::ClusterError;
use crate::config::{ConfigError, Settings};
use crate::isolation::BootCheck;
use crate::ops::OpsError;
use crate::ops::operator::Operator;
use crate::telemetry::{self, Dropped, TelemetryError};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Clinical notes for many healthcare organisations, each behind its own cordon.
#[derive(Parser)]
#[command(name = "cordon", version, max_term_width = 100)]
pub struct Cli {
    /// Directory with base.yaml and PROFILE.yaml
    #[arg(long, global = true, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Which PROFILE.yaml overrides the defaults
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// Answer with one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make roles, databases, catalog and key file
    Init(init::Args),
    /// PostgreSQL servers
    #[command(subcommand)]
    Server(server::Args),
    /// Organisations: make, list, show, set, suspend, resume
    #[command(subcommand)]
    Tenant(tenant::Args),
    /// Migrations over everything
    #[command(subcommand)]
    Migrate(migrate::Args),
    /// Bring charts in
    #[command(subcommand)]
    Import(import::Args),
    /// Make synthetic charts to import
    Sample(sample::Args),
    /// Sign a development token
    Token(token::Args),
    /// Answer GraphQL over HTTP
    Serve,
    /// Try it out: a private PostgreSQL, three organisations with sample charts, and the server, in one process
    Dev(dev::Args),
}

/// The profile of development.
const DEV: &str = "dev";

impl Command {
    /// Whether it works on an installation that is there: in a checkout where `dev` has run, on that of `dev`.
    fn needs_installation(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Tenant(_) | Self::Migrate(_) | Self::Import(_))
    }
}

/// What a command needs besides its arguments.
struct Context {
    settings: Settings,
    profile: Option<String>,
    json: bool,
    dropped: Dropped,
}

impl Context {
    fn operator(&self) -> Result<Operator, OpsError> {
        Operator::new(&self.settings)
    }

    /// How strictly the walls are looked at.
    fn boot_check(&self) -> BootCheck {
        match self.profile.as_deref() {
            Some(DEV) => BootCheck::Dev,
            _ => BootCheck::On,
        }
    }

    /// Prints the answer: the document with `--json`, else the lines.
    fn answer(&self, document: &impl serde::Serialize, lines: impl FnOnce() -> String) -> Result<(), OpsError> {
        let text = match self.json {
            true => serde_json::to_string(document).map_err(|error| OpsError::Failed(error.to_string()))?,
            false => lines(),
        };
        writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
        Ok(())
    }
}

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = start(cli);
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "cordon: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode, OpsError> {
    let directory = cli.config.or_else(|| Some(PathBuf::from("config")).filter(|directory| directory.is_dir()));
    let is_dev = matches!(cli.command, Command::Dev(_));
    let profile = cli.profile.or_else(|| is_dev.then(|| DEV.to_owned()));
    let mut settings = Settings::load(directory.as_deref(), profile.as_deref())?;
    let telemetry = telemetry::start(&settings)?;
    let found = if profile.is_none() && cli.command.needs_installation() { dev::Home::found(&settings) } else { None };
    let (profile, _cluster) = match found {
        Some(home) => (Some(DEV.to_owned()), home.enter(&mut settings)?),
        None => (profile, None),
    };
    let context = Context { settings, profile, json: cli.json, dropped: telemetry.dropped() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // The server ends by itself on SIGINT, when it has answered; everything else stops here and goes on when it is run again.
        if is_dev || matches!(cli.command, Command::Serve) {
            return dispatch(cli.command, context).await;
        }
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
            outcome = dispatch(cli.command, context) => outcome,
        }
    });
    telemetry.close();
    // Whoever still waits for standard input is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command, context: Context) -> Result<ExitCode, OpsError> {
    match command {
        Command::Init(args) => init::run(args, &context).await,
        Command::Server(args) => server::run(args, &context).await,
        Command::Tenant(args) => tenant::run(args, &context).await,
        Command::Migrate(args) => migrate::run(args, &context).await,
        Command::Import(args) => import::run(args, &context).await,
        Command::Sample(args) => sample::run(args, &context).await,
        Command::Token(args) => token::run(&args, &context),
        Command::Serve => serve::run(context).await,
        Command::Dev(args) => dev::run(args, context).await,
    }
}

impl From<ConfigError> for OpsError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<TelemetryError> for OpsError {
    fn from(error: TelemetryError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<ClusterError> for OpsError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::InUse { .. } => Self::Refused(error.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl From<StartError> for OpsError {
    fn from(error: StartError) -> Self {
        Self::Usage(error.to_string())
    }
}
