//! `cordon tenant create|list|show|set|suspend|resume`: organisations.

use super::Context;
use crate::ops::OpsError;
use crate::ops::provision::{self, NewTenant};
use crate::ops::terms::{self, Change, Value};
use crate::tenant::{Origin, TenancyModel, Tenant, TenantSettings};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Make a tenant; run again, it finishes what was interrupted
    Create {
        /// Short name, unique among the living: a-z, 0-9 and -
        slug: String,
        /// Name for people
        #[arg(long)]
        name: String,
        /// shared: common tables; schema: a schema of its own; database: a database of its own
        #[arg(long, default_value = "schema")]
        model: TenancyModel,
        /// Server that keeps it; the first one where none is named
        #[arg(long)]
        server: Option<String>,
        /// What it has ordered; standard where nothing is said
        #[arg(long)]
        plan: Option<String>,
    },
    /// All tenants
    List,
    /// One tenant
    Show {
        /// Its slug
        slug: String,
    },
    /// Set what is a tenant's own; running servers hear of it within a second. What is not named stays
    Set {
        /// Its slug
        slug: String,
        /// Origin of a web page that may ask for it, as in https://notes.example; repeat it for each: together they replace those before
        #[arg(long = "origin", value_name = "URL")]
        origins: Vec<Origin>,
        /// No web page of another host may ask for it
        #[arg(long, conflicts_with = "origins")]
        no_origins: bool,
        /// Milliseconds of one statement, or default
        #[arg(long, value_name = "N")]
        statement_timeout_ms: Option<Value>,
        /// Requests a second on each replica, or default
        #[arg(long, value_name = "N")]
        requests_per_second: Option<Value>,
        /// Requests at once on each replica, or default
        #[arg(long, value_name = "N")]
        concurrency: Option<Value>,
        /// What it has ordered
        #[arg(long)]
        plan: Option<String>,
    },
    /// Stop serving a tenant; nothing of it is lost
    Suspend {
        /// Its slug
        slug: String,
    },
    /// Serve a suspended tenant again
    Resume {
        /// Its slug
        slug: String,
    },
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let operator = context.operator()?;
    let tenant = match args {
        Args::Create { slug, name, model, server, plan } => {
            provision::create(&operator, &NewTenant { slug, name, model, server, plan }).await?
        }
        Args::Show { slug } => provision::find(&mut operator.control().await?, &slug).await?,
        Args::Set { slug, origins, no_origins, statement_timeout_ms, requests_per_second, concurrency, plan } => {
            let origins = (no_origins || !origins.is_empty()).then_some(origins);
            let change = Change { plan, origins, statement_timeout_ms, requests_per_second, concurrency };
            terms::set(&operator, &slug, &change).await?
        }
        Args::Suspend { slug } => provision::suspend(&operator, &slug).await?,
        Args::Resume { slug } => provision::resume(&operator, &slug).await?,
        Args::List => {
            let all = provision::list(&operator).await?;
            let rows: Vec<_> = all.iter().map(document).collect();
            context.answer(&rows, || all.iter().map(|tenant| line(tenant) + "\n").collect())?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    context.answer(&document(&tenant), || format!("{}\n{}", line(&tenant), terms_in_words(&tenant)))?;
    Ok(ExitCode::SUCCESS)
}

fn document(tenant: &Tenant) -> serde_json::Value {
    let placement = tenant.placement.as_ref().map(|placement| {
        json!({ "model": placement.model, "server": placement.server, "database": placement.database,
                "schema": placement.schema.as_str(), "generation": placement.generation })
    });
    json!({ "id": tenant.id, "slug": tenant.slug, "name": tenant.name, "plan": tenant.plan, "state": tenant.state,
            "terms": tenant.settings, "placement": placement })
}

fn line(tenant: &Tenant) -> String {
    let model = tenant.placement.as_ref().map_or("-", |placement| placement.model.as_str());
    format!("{:20} {:36} {:12} {:9} {}", tenant.slug, tenant.id, tenant.state.as_str(), model, tenant.name)
}

/// What differs from the server's settings.
fn terms_in_words(tenant: &Tenant) -> String {
    let Tenant {
        plan,
        settings: TenantSettings { origins, statement_timeout_ms, requests_per_second, concurrency },
        ..
    } = tenant;
    let mut said = vec![format!("plan {plan}")];
    said.extend(origins.iter().map(|origin| format!("origin {origin}")));
    for (what, value) in [
        ("statement-timeout-ms", statement_timeout_ms),
        ("requests-per-second", requests_per_second),
        ("concurrency", concurrency),
    ] {
        said.extend(value.map(|value| format!("{what} {value}")));
    }
    said.iter().map(|line| format!("  {line}\n")).collect()
}
