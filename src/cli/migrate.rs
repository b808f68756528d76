//! `cordon migrate up|down|status`: migrations of the catalog, the databases and the tenants' schemas.

use super::Context;
use super::output::{Bar, table};
use crate::db::migrate::{Direction, MigrationSet};
use crate::ops::migrate::{self, MigrationRun, MigrationTarget};
use crate::ops::provision;
use crate::ops::{OpsError, operator::Operator};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Run all pending migrations
    #[command(after_help = examples!(
        "migrate up": "Migrate the catalog, all databases and all tenants",
        "migrate up --tenant lakeside": "Migrate the schema of one tenant",
    ))]
    Up {
        /// Migrate the schema of this tenant only
        #[arg(long, value_name = "SLUG")]
        tenant: Option<String>,
    },
    /// Revert the newest migration. The tables and columns that it added are dropped with their data.
    #[command(after_help = examples!(
        "migrate down --tenant lakeside --yes": "Revert the newest migration of one tenant",
        "migrate down --set catalog --yes": "Revert the newest migration of the catalog",
    ))]
    Down {
        /// Set of migrations: catalog, database or tenant
        #[arg(long, value_name = "SET", default_value = "tenant")]
        set: MigrationSet,
        /// Revert in the schema of this tenant only
        #[arg(long, value_name = "SLUG")]
        tenant: Option<String>,
        /// Confirm that the data of the dropped tables and columns is lost
        #[arg(long)]
        yes: bool,
    },
    /// Show the applied and the pending migrations
    #[command(after_help = examples!(
        "migrate status": "Show all targets",
        "migrate status --tenant lakeside --json": "Show one tenant, with the version of each migration",
    ))]
    Status {
        /// Show the schema of this tenant only
        #[arg(long, value_name = "SLUG")]
        tenant: Option<String>,
    },
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let operator = context.operator()?;
    match args {
        Args::Up { tenant } => {
            let (mut runs, mut failures) = (Vec::new(), Vec::new());
            let mut exit_code = ExitCode::SUCCESS;
            let targets = chosen(&operator, tenant.as_deref()).await?;
            let bar = Bar::new("Migrating", context.json);
            for (done, target) in (0..).zip(&targets) {
                bar.show(done, targets.len() as u64, format!("{}.{}", target.database, target.schema));
                match migrate::run(&operator, target, Direction::Up).await {
                    Ok(more) => runs.extend(more),
                    Err(error) => {
                        failures.push(error.to_string());
                        // A tenant that fails does not keep the others from being migrated, but what tenants share is
                        // migrated before them.
                        if target.slug.is_none() {
                            exit_code = ExitCode::from(error.exit_code());
                            break;
                        }
                        exit_code = ExitCode::from(3);
                    }
                }
            }
            drop(bar);
            context.answer(&json!({ "ran": runs, "failures": failures }), || match runs.is_empty() {
                true if failures.is_empty() => "No migration is pending.".into(),
                true => failures.join("\n"),
                false => format!("{}{}", table_of_runs(&runs), failures.join("\n")),
            })?;
            Ok(exit_code)
        }
        Args::Down { set, tenant, yes } => {
            if !yes {
                return Err(OpsError::Refused(
                    "this drops tables or columns with their data; confirm it with --yes".into(),
                ));
            }
            let mut runs = Vec::new();
            let targets = chosen(&operator, tenant.as_deref()).await?;
            for target in targets.into_iter().filter(|target| target.set == set) {
                runs.extend(migrate::run(&operator, &target, Direction::Down).await?);
            }
            context.answer(&json!({ "ran": runs }), || match runs.is_empty() {
                true => "No migration is applied.".into(),
                false => format!("Reverted:\n\n{}", table_of_runs(&runs)),
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Args::Status { tenant } => {
            let (mut documents, mut rows) = (Vec::new(), Vec::new());
            let targets = chosen(&operator, tenant.as_deref()).await?;
            let bar = Bar::new("Reading", context.json);
            for (done, target) in (0..).zip(&targets) {
                bar.show(done, targets.len() as u64, format!("{}.{}", target.database, target.schema));
                let status = migrate::status(&operator, target).await?;
                documents.push(json!({ "database": target.database, "schema": target.schema, "tenant": target.slug,
                                       "applied": status.applied, "pending": status.pending }));
                rows.push([
                    target.database.clone(),
                    target.schema.clone(),
                    target.slug.clone().unwrap_or_else(|| "-".into()),
                    status.applied.len().to_string(),
                    status.pending.len().to_string(),
                    status.applied.last().cloned().unwrap_or_else(|| "-".into()),
                ]);
            }
            drop(bar);
            let headings = ["DATABASE", "SCHEMA", "TENANT", "APPLIED", "PENDING", "NEWEST APPLIED"];
            context.answer(&documents, || table(headings, &[3, 4], rows))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn table_of_runs(runs: &[MigrationRun]) -> String {
    let row = |run: &MigrationRun| [run.database.clone(), run.schema.clone(), run.version.clone(), run.ms.to_string()];
    table(["DATABASE", "SCHEMA", "MIGRATION", "MS"], &[3], runs.iter().map(row))
}

/// The targets that a command works on: all of them, or the schema of one tenant.
async fn chosen(operator: &Operator, tenant: Option<&str>) -> Result<Vec<MigrationTarget>, OpsError> {
    let all = migrate::targets(operator).await?;
    let Some(slug) = tenant else { return Ok(all) };
    let own: Vec<_> = all
        .into_iter()
        .filter(|target| target.set == MigrationSet::Tenant && target.slug.as_deref() == Some(slug))
        .collect();
    if own.is_empty() {
        provision::find(&mut operator.control().await?, slug).await?;
        return Err(OpsError::Usage(format!("tenant {slug} has no schema of its own")));
    }
    Ok(own)
}
