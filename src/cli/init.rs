//! `cordon init`: sets up an installation without tenants.

use super::Context;
use super::output::table;
use crate::db::connect;
use crate::ops::{OpsError, init};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = examples!(
    "init --admin-url-env ADMIN_URL --out /etc/cordon":
        "Set up the server of $ADMIN_URL; write the settings to /etc/cordon",
    "init --print-sql": "Show the statements, for a database administrator",
))]
pub struct Args {
    /// Environment variable with a superuser's URL, such as postgres://postgres@/postgres?host=/run/postgresql
    #[arg(long, value_name = "VAR", required_unless_present = "print_sql")]
    admin_url_env: Option<String>,
    /// Directory for server.env, operator.env and keys.json
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print the statements that need a superuser, and change nothing
    #[arg(long)]
    print_sql: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    if args.print_sql {
        context.answer(&serde_json::json!({ "sql": init::sql() }), init::sql)?;
        return Ok(ExitCode::SUCCESS);
    }
    let admin = admin(args.admin_url_env.as_deref().unwrap_or_default())?;
    let files = init::run(&admin, &args.out).await?;
    context.answer(&files, || {
        let rows = [
            (&files.server_env, "settings of `cordon serve` and `cordon import`"),
            (&files.operator_env, "settings of the commands on servers, tenants and migrations"),
            (&files.key_file, "the keys; keep a copy apart from the backups of the databases"),
        ];
        let rows = rows.map(|(path, purpose)| [path.display().to_string(), purpose.to_owned()]);
        format!("The installation is ready.\n\n{}", table(["FILE", "PURPOSE"], &[], rows))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the URL from a variable. A command line would show the password to every user of the machine.
pub fn admin(variable: &str) -> Result<connect::Config, OpsError> {
    let url = std::env::var(variable).map_err(|_| OpsError::Usage(format!("{variable} is not set")))?;
    Ok(connect::parse(&url.into())?)
}
