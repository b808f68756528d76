//! `cordon server add|list`: PostgreSQL servers.

use super::Context;
use crate::ops::operator::fresh_password;
use crate::ops::{OpsError, init, server};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Register a server and make it ready for tenants
    Add {
        /// Short name: a-z, 0-9 and -
        name: String,
        /// Variable that holds a superuser's URL
        #[arg(long, value_name = "VAR")]
        admin_url_env: String,
    },
    /// Registered servers
    List,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let operator = context.operator()?;
    match args {
        Args::Add { name, admin_url_env } => {
            if name == init::FIRST_SERVER {
                return Err(OpsError::Refused(format!("server {name} is made by `cordon init`, which can be run again")));
            }
            let admin = super::init::admin(&admin_url_env)?;
            let id = server::add(&operator, &name, &admin, &fresh_password()).await?;
            context.answer(&serde_json::json!({ "id": id, "name": name }), || format!("Server {name} is ready."))?;
        }
        Args::List => {
            let all = operator.servers().await?;
            let rows: Vec<_> =
                all.iter().map(|server| serde_json::json!({ "id": server.id, "name": server.name, "address": server.address })).collect();
            context.answer(&rows, || all.iter().map(|server| format!("{:20} {}\n", server.name, server.address)).collect())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
