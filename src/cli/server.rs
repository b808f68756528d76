//! `cordon server add|locate|list`: the PostgreSQL servers that keep tenants.

use super::Context;
use super::output::table;
use crate::ops::operator::{ServerRow, fresh_password};
use crate::ops::{OpsError, init, server};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Register a server and prepare it for tenants
    #[command(after_help = examples!(
        "server add east --admin-url-env EAST_URL": "Register the server of $EAST_URL as east",
    ))]
    Add {
        /// Name of the server: a-z, 0-9 and -
        name: String,
        /// Environment variable with the URL of a superuser of the server
        #[arg(long, value_name = "VAR")]
        admin_url_env: String,
    },
    /// Set the region of a server, by which feature flags may differ
    #[command(after_help = examples!("server locate east eu-east": "Place the server east in the region eu-east"))]
    Locate {
        /// Name of the server
        name: String,
        /// Any name for the region: a-z, 0-9 and -
        region: String,
    },
    /// List the registered servers
    #[command(after_help = examples!("server list": "List all servers", "server list --json": "The same, for scripts"))]
    List,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let operator = context.operator()?;
    match args {
        Args::Add { name, admin_url_env } => {
            if name == init::FIRST_SERVER_NAME {
                return Err(OpsError::Refused(format!(
                    "server {name} is made by `cordon init`, which can be run again"
                )));
            }
            let admin = super::init::admin(&admin_url_env)?;
            let id = server::add(&operator, &name, &admin, &fresh_password()).await?;
            context.answer(&serde_json::json!({ "id": id, "name": name }), || format!("Server {name} is ready."))?;
        }
        Args::Locate { name, region } => {
            let id = server::set_region(&operator, &name, &region).await?;
            context.answer(&serde_json::json!({ "id": id, "name": name, "region": region }), || {
                format!("Server {name} is in {region}.")
            })?;
        }
        Args::List => {
            let all = operator.servers().await?;
            let document = |server: &ServerRow| {
                let ServerRow { id, name, address, region, .. } = server;
                serde_json::json!({ "id": id, "name": name, "address": address, "region": region })
            };
            let row = |ServerRow { name, region, address, .. }: &ServerRow| {
                [name.clone(), region.clone().unwrap_or_else(|| "-".into()), address.clone()]
            };
            context.answer(&all.iter().map(document).collect::<Vec<_>>(), || {
                table(["NAME", "REGION", "ADDRESS"], &[], all.iter().map(row))
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
