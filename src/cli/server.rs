//! `cordon server add|locate|list`: PostgreSQL servers.

use super::Context;
use crate::ops::operator::{ServerRow, fresh_password};
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
    /// Say where a server stands: feature flags may differ by region
    Locate {
        /// Its name
        name: String,
        /// The region, in your words: a-z, 0-9 and -
        region: String,
    },
    /// Registered servers
    List,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let operator = context.operator()?;
    match args {
        Args::Add { name, admin_url_env } => {
            if name == init::FIRST_SERVER {
                return Err(OpsError::Refused(format!(
                    "server {name} is made by `cordon init`, which can be run again"
                )));
            }
            let admin = super::init::admin(&admin_url_env)?;
            let id = server::add(&operator, &name, &admin, &fresh_password()).await?;
            context.answer(&serde_json::json!({ "id": id, "name": name }), || format!("Server {name} is ready."))?;
        }
        Args::Locate { name, region } => {
            let id = server::locate(&operator, &name, &region).await?;
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
            let line = |server: &ServerRow| {
                format!("{:20} {:15} {}\n", server.name, server.region.as_deref().unwrap_or("-"), server.address)
            };
            context.answer(&all.iter().map(document).collect::<Vec<_>>(), || all.iter().map(line).collect())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
