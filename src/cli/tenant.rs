//! `cordon tenant create|list|show|set|suspend|resume`: the organisations that Cordon serves.

use super::Context;
use super::output::table;
use crate::ops::OpsError;
use crate::ops::provision::{self, NewTenant};
use crate::ops::settings::{self, SettingValue, SettingsChange};
use crate::tenant::{Origin, TenancyModel, Tenant, TenantSettings};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Create a tenant. Run again, the command completes a creation that was interrupted
    #[command(after_help = examples!(
        "tenant create lakeside --name 'Lakeside Clinic'": "Create a tenant with a schema of its own",
        "tenant create summit --name 'Summit Hospital' --model database --server east":
            "Create one with a database of its own on the server east",
    ))]
    Create {
        /// Short name, unique among the tenants: 2 to 39 of a-z, 0-9 and -, beginning with a letter
        slug: String,
        /// Display name of the organisation
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Isolation: shared (common tables), schema (its own schema) or database (its own database)
        #[arg(long, value_name = "MODEL", default_value = "schema")]
        model: TenancyModel,
        /// Server that keeps the tenant [default: the first server]
        #[arg(long, value_name = "SERVER")]
        server: Option<String>,
        /// Plan, by which feature flags may differ [default: standard]
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
    },
    /// List all tenants
    #[command(after_help = examples!(
        "tenant list": "List all tenants",
        "tenant list --json": "List them with all properties, for scripts",
    ))]
    List,
    /// Show one tenant
    #[command(after_help = examples!("tenant show lakeside": "Show the tenant lakeside"))]
    Show {
        /// Slug of the tenant
        slug: String,
    },
    /// Change the settings of a tenant. Running servers apply them within a second; options that are not given stay as
    /// they are
    #[command(after_help = examples!(
        "tenant set lakeside --origin https://notes.example --origin https://ward.example":
            "Allow the pages of two origins",
        "tenant set lakeside --requests-per-second 100 --concurrency default":
            "Set one limit, and use the server's setting for another",
    ))]
    Set {
        /// Slug of the tenant
        slug: String,
        /// Origin whose web pages may send requests (CORS), such as https://notes.example; repeat the option for
        /// several; the list is replaced
        #[arg(long = "origin", value_name = "URL")]
        origins: Vec<Origin>,
        /// Allow no web page of another origin
        #[arg(long, conflicts_with = "origins")]
        no_origins: bool,
        /// Maximum duration of an SQL statement in milliseconds, or default
        #[arg(long, value_name = "N")]
        statement_timeout_ms: Option<SettingValue>,
        /// Maximum requests per second on each replica, or default
        #[arg(long, value_name = "N")]
        requests_per_second: Option<SettingValue>,
        /// Maximum concurrent requests on each replica, or default
        #[arg(long, value_name = "N")]
        concurrency: Option<SettingValue>,
        /// Plan, by which feature flags may differ
        #[arg(long, value_name = "PLAN")]
        plan: Option<String>,
    },
    /// Stop serving a tenant. Its data stays
    #[command(after_help = examples!("tenant suspend lakeside": "Refuse all requests to lakeside from now on"))]
    Suspend {
        /// Slug of the tenant
        slug: String,
    },
    /// Serve a suspended tenant again
    #[command(after_help = examples!("tenant resume lakeside": "Serve the tenant lakeside again"))]
    Resume {
        /// Slug of the tenant
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
            let change = SettingsChange { plan, origins, statement_timeout_ms, requests_per_second, concurrency };
            settings::set(&operator, &slug, &change).await?
        }
        Args::Suspend { slug } => provision::suspend(&operator, &slug).await?,
        Args::Resume { slug } => provision::resume(&operator, &slug).await?,
        Args::List => {
            let all = provision::list(&operator).await?;
            let rows: Vec<_> = all.iter().map(document).collect();
            context.answer(&rows, || table_of(&all))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    context.answer(&document(&tenant), || {
        format!("{}\n{}", table_of(std::slice::from_ref(&tenant)), settings_of(&tenant))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn document(tenant: &Tenant) -> serde_json::Value {
    let placement = tenant.placement.as_ref().map(|placement| {
        json!({ "model": placement.model, "server": placement.server, "database": placement.database,
                "schema": placement.schema.as_str(), "generation": placement.generation })
    });
    json!({ "id": tenant.id, "slug": tenant.slug, "name": tenant.name, "plan": tenant.plan, "state": tenant.state,
            "settings": tenant.settings, "placement": placement })
}

fn table_of(tenants: &[Tenant]) -> String {
    let row = |tenant: &Tenant| {
        let model = tenant.placement.as_ref().map_or("-", |placement| placement.model.as_str());
        let state = tenant.state.to_string();
        [tenant.slug.clone(), tenant.id.to_string(), state, model.to_owned(), tenant.plan.clone(), tenant.name.clone()]
    };
    table(["SLUG", "ID", "STATE", "MODEL", "PLAN", "NAME"], &[], tenants.iter().map(row))
}

/// The settings that differ from those of the server.
fn settings_of(tenant: &Tenant) -> String {
    let TenantSettings { origins, statement_timeout_ms, requests_per_second, concurrency } = &tenant.settings;
    let mut rows: Vec<_> = origins.iter().map(|origin| ["origin".to_owned(), origin.to_string()]).collect();
    for (name, value) in [
        ("statement-timeout-ms", statement_timeout_ms),
        ("requests-per-second", requests_per_second),
        ("concurrency", concurrency),
    ] {
        rows.extend(value.map(|value| [name.to_owned(), value.to_string()]));
    }
    match rows.is_empty() {
        true => "All settings are those of the server.".into(),
        false => table(["SETTING", "VALUE"], &[], rows),
    }
}
