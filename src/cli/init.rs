//! `cordon init`: from nothing to a Cordon without tenants.

use super::Context;
use crate::db::connect;
use crate::ops::{OpsError, init};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Args {
    /// Variable that holds a superuser's URL, such as postgres://postgres@/postgres?host=/run/postgresql
    #[arg(long, value_name = "VAR", required_unless_present = "print_sql")]
    admin_url_env: Option<String>,
    /// Where server.env, operator.env and keys.json are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Print what would be run as superuser, and do nothing
    #[arg(long)]
    print_sql: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    if args.print_sql {
        context.answer(&serde_json::json!({ "sql": init::sql() }), init::sql)?;
        return Ok(ExitCode::SUCCESS);
    }
    let admin = admin(args.admin_url_env.as_deref().unwrap_or_default())?;
    let made = init::run(&admin, &args.out).await?;
    context.answer(&made, || {
        let (server, operator, keys) = (made.server_env.display(), made.operator_env.display(), made.key_file.display());
        format!("Ready.\n  {server}: settings of `cordon serve` and `cordon import`\n  {operator}: settings of commands on tenants\n  {keys}: the keys; keep a copy where no database backup goes")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The URL in a variable: secrets do not stand on a command line.
pub fn admin(variable: &str) -> Result<connect::Config, OpsError> {
    let url = std::env::var(variable).map_err(|_| OpsError::Usage(format!("{variable} is not set")))?;
    Ok(connect::parse(&url.into())?)
}
