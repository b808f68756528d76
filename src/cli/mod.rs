//! The command line, one file for each command. Results go to standard output, as one JSON document with `--json`.
//! Progress and logs go to standard error. The help of each command ends with examples and the exit codes.

/// The end of a command's help: examples, each a line without the program's name and a line that says what it does, and
/// the exit codes.
macro_rules! examples {
    ($($example:literal: $result:literal),+ $(,)?) => {
        concat!(
            "Examples:\n",
            $("  cordon ", $example, "\n      ", $result, "\n",)+
            "\nExit codes:\n",
            "  0    done, or nothing to do\n",
            "  1    failed; run the command again to continue where it stopped\n",
            "  2    wrong usage or configuration\n",
            "  3    done, except for some records or tenants\n",
            "  4    refused in the present state\n",
            "  5    a wall between tenants is down\n",
            "  6    PostgreSQL or the key store is unreachable\n",
            "  130  interrupted",
        )
    };
}

mod completions;
mod dev;
mod import;
mod init;
mod man;
mod migrate;
mod output;
mod sample;
mod serve;
mod server;
mod tenant;
mod token;

use crate::app::StartError;
use crate::cluster::ClusterError;
use crate::config::{ConfigError, Log, LogFormat, Settings};
use crate::isolation::BootCheck;
use crate::ops::OpsError;
use crate::ops::operator::Operator;
use crate::telemetry::{self, DroppedRecords, TelemetryError};
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Heading of the options that every command has.
const GLOBAL: &str = "Global options";
/// The version and, where the program was built in a checkout, the commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("CORDON_COMMIT"));

/// Clinical notes for many healthcare organisations, each behind its own cordon.
#[derive(Parser)]
#[command(name = "cordon", version = VERSION, max_term_width = 100, after_help = examples!(
    "dev": "Try everything on this machine: a private PostgreSQL, sample charts and the server",
    "init --admin-url-env ADMIN_URL": "Set up an installation on a PostgreSQL server",
    "help tenant create": "Show the help of a command",
))]
pub struct Cli {
    /// Directory with base.yaml and PROFILE.yaml [default: config, where it exists]
    #[arg(long, global = true, value_name = "DIR", help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// Profile whose file PROFILE.yaml overrides base.yaml
    #[arg(long, global = true, value_name = "PROFILE", help_heading = GLOBAL)]
    profile: Option<String>,
    /// Print the result as one JSON document, for scripts
    #[arg(long, global = true, help_heading = GLOBAL)]
    json: bool,
    /// Log the steps of operations; without it, a terminal shows warnings and errors only
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the roles, the databases, the catalog and the key file of an installation
    Init(init::Args),
    /// Manage PostgreSQL servers
    #[command(subcommand, after_help = examples!("server list": "List the registered servers"))]
    Server(server::Args),
    /// Manage organisations, which are called tenants
    #[command(subcommand, after_help = examples!("tenant list": "List all tenants"))]
    Tenant(tenant::Args),
    /// Run the migrations of the catalog, the databases and the tenants
    #[command(subcommand, after_help = examples!("migrate status": "Show which migrations are pending"))]
    Migrate(migrate::Args),
    /// Import charts
    #[command(subcommand, after_help = examples!(
        "import fhir --tenant lakeside charts.ndjson": "Import FHIR R4 resources from a file",
    ))]
    Import(import::Args),
    /// Write synthetic charts as FHIR R4, for imports and tests
    Sample(sample::Args),
    /// Issue an access token of the development issuer
    Token(token::Args),
    /// Serve GraphQL over HTTP
    #[command(after_help = examples!(
        "serve": "Serve with the settings in config/base.yaml and the environment",
        "serve --config /etc/cordon --profile production": "Serve with the settings in /etc/cordon/production.yaml",
    ))]
    Serve,
    /// Run everything in one process, for development: a private PostgreSQL, three organisations with sample charts,
    /// and the server
    Dev(dev::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Write the manual pages
    Man(man::Args),
}

/// The profile of development.
const DEV: &str = "dev";

impl Command {
    /// Whether the command works on an existing installation. In a checkout where `dev` has run, that is the
    /// installation of `dev`.
    fn needs_installation(&self) -> bool {
        matches!(self, Self::Server(_) | Self::Tenant(_) | Self::Migrate(_) | Self::Import(_))
    }
}

struct Context {
    settings: Settings,
    profile: Option<String>,
    json: bool,
    dropped: DroppedRecords,
}

impl Context {
    fn operator(&self) -> Result<Operator, OpsError> {
        Operator::new(&self.settings)
    }

    /// How strictly the walls are checked before the server starts.
    fn boot_check(&self) -> BootCheck {
        match self.profile.as_deref() {
            Some(DEV) => BootCheck::Dev,
            _ => BootCheck::On,
        }
    }

    /// Prints the result: the document with `--json`, the lines otherwise.
    fn answer(&self, document: &impl serde::Serialize, lines: impl FnOnce() -> String) -> Result<(), OpsError> {
        let text = match self.json {
            true => serde_json::to_string(document).map_err(|error| OpsError::Failed(error.to_string()))?,
            false => lines(),
        };
        writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
        Ok(())
    }
}

/// Runs a command and returns the exit code of the process. An error is printed to standard error.
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
    // These need no settings.
    match &cli.command {
        Command::Completions(args) => return completions::run(args, cli.json),
        Command::Man(args) => return man::run(args, cli.json),
        _ => {}
    }
    let directory = cli.config.clone().or_else(|| Some(PathBuf::from("config")).filter(|directory| directory.is_dir()));
    let is_dev = matches!(cli.command, Command::Dev(_));
    let profile = cli.profile.clone().or_else(|| is_dev.then(|| DEV.to_owned()));
    let mut settings = Settings::load(directory.as_deref(), profile.as_deref())?;
    if is_quiet(&cli) {
        log_for_people(&mut settings.log);
    }
    let telemetry = telemetry::start(&settings)?;
    let found = if profile.is_none() && cli.command.needs_installation() { dev::Home::found(&settings) } else { None };
    let (profile, _cluster) = match found {
        Some(home) => (Some(DEV.to_owned()), home.enter(&mut settings)?),
        None => (profile, None),
    };
    let context = Context { settings, profile, json: cli.json, dropped: telemetry.dropped() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        // The server handles SIGINT itself and first answers the requests in flight. Any other command stops at once,
        // and continues when it is run again.
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
    // A thread may be blocked on standard input: do not wait for it.
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
        Command::Completions(args) => completions::run(&args, context.json),
        Command::Man(args) => man::run(&args, context.json),
    }
}

/// Whether a person reads the output of this command, who is not interested in each step. A server's log is always
/// complete.
fn is_quiet(cli: &Cli) -> bool {
    let for_people = match cli.command {
        Command::Serve => false,
        Command::Dev(_) => true,
        _ => std::io::stderr().is_terminal(),
    };
    for_people && !cli.json && !cli.verbose
}

/// Warnings and errors as text. A filter other than the default stays. With `--verbose` the settings hold as they are.
fn log_for_people(log: &mut Log) {
    if log.filter == "info" {
        log.filter = "warn".into();
    }
    log.format = LogFormat::Text;
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
