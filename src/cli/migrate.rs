//! `cordon migrate up|down|status`: migrations over everything that has them.

use super::Context;
use crate::db::migrate::{Direction, Set};
use crate::ops::migrate::{self, Target};
use crate::ops::provision;
use crate::ops::{OpsError, operator::Operator};
use serde_json::json;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Args {
    /// Run what is pending, everywhere
    Up {
        /// Only this tenant's schema
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Undo the newest migration: what it added is gone, with its data
    Down {
        /// catalog, database or tenant
        #[arg(long, default_value = "tenant")]
        set: Set,
        /// Only this tenant's schema
        #[arg(long)]
        tenant: Option<String>,
        /// Yes, with its data
        #[arg(long)]
        yes: bool,
    },
    /// What ran and what is pending
    Status {
        /// Only this tenant's schema
        #[arg(long)]
        tenant: Option<String>,
    },
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, OpsError> {
    let operator = context.operator()?;
    match args {
        Args::Up { tenant } => {
            let (mut runs, mut failures) = (Vec::new(), Vec::new());
            for target in chosen(&operator, tenant.as_deref()).await? {
                match migrate::run(&operator, &target, Direction::Up).await {
                    Ok(more) => runs.extend(more),
                    // One tenant's failure does not keep the others from what they need.
                    Err(error) if target.slug.is_some() => failures.push(error.to_string()),
                    Err(error) => return Err(error),
                }
            }
            context.answer(&json!({ "ran": runs, "failures": failures }), || {
                let ran: String = runs
                    .iter()
                    .map(|run| format!("{}.{} {} in {} ms\n", run.database, run.schema, run.version, run.ms))
                    .collect();
                format!(
                    "{ran}{}",
                    if runs.is_empty() && failures.is_empty() { "Nothing to do.".into() } else { failures.join("\n") }
                )
            })?;
            Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(3) })
        }
        Args::Down { set, tenant, yes } => {
            if !yes {
                return Err(OpsError::Refused("this removes tables or columns with their data; say --yes".into()));
            }
            let mut runs = Vec::new();
            let targets = chosen(&operator, tenant.as_deref()).await?;
            for target in targets.into_iter().filter(|target| target.set == set) {
                runs.extend(migrate::run(&operator, &target, Direction::Down).await?);
            }
            context.answer(&json!({ "ran": runs }), || {
                runs.iter().map(|run| format!("{}.{} {} undone\n", run.database, run.schema, run.version)).collect()
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Args::Status { tenant } => {
            let mut rows = Vec::new();
            for target in chosen(&operator, tenant.as_deref()).await? {
                let status = migrate::status(&operator, &target).await?;
                rows.push(json!({ "database": target.database, "schema": target.schema, "tenant": target.slug,
                                  "applied": status.applied, "pending": status.pending }));
            }
            context.answer(&rows, || rows.iter().map(|row| format!("{row}\n")).collect())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn chosen(operator: &Operator, tenant: Option<&str>) -> Result<Vec<Target>, OpsError> {
    let all = migrate::targets(operator).await?;
    let Some(slug) = tenant else { return Ok(all) };
    let mine: Vec<_> =
        all.into_iter().filter(|target| target.set == Set::Tenant && target.slug.as_deref() == Some(slug)).collect();
    if mine.is_empty() {
        provision::find(&mut operator.control().await?, slug).await?;
        return Err(OpsError::Usage(format!("tenant {slug} has no schema of its own")));
    }
    Ok(mine)
}
