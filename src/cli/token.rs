//! `cordon token`: a token of the development issuer, for trying things out. Production issues tokens elsewhere.

use super::Context;
use super::dev::Home;
use crate::auth::dev::{Claims, DevIssuer};
use crate::ops::OpsError;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Args {
    /// Directory of the issuer's key, made where it is missing, with dev-jwks.json beside it [default: CORDON_DEV_DIR, else .cordon]
    #[arg(long, value_name = "DIR")]
    issuer_dir: Option<PathBuf>,
    /// Tenant id; repeat for several
    #[arg(long = "tenant-id", value_name = "UUID", required = true)]
    tenants: Vec<crate::ids::TenantId>,
    /// Role; repeat for several
    #[arg(long = "role", default_value = "clinician")]
    roles: Vec<String>,
    /// Who: `sub`
    #[arg(long, default_value = "dev")]
    subject: String,
    /// Name for people
    #[arg(long)]
    name: Option<String>,
    /// Minutes it is good for
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

pub fn run(args: &Args, context: &Context) -> Result<ExitCode, OpsError> {
    let directory = args.issuer_dir.clone().unwrap_or_else(Home::directory);
    std::fs::create_dir_all(&directory)?;
    let issuer = DevIssuer::open(&directory, &context.settings.auth.audience)?;
    let claims = Claims {
        acting: None,
        tenants: args.tenants.clone(),
        roles: args.roles.clone(),
        subject: args.subject.clone(),
        name: args.name.clone(),
        lifetime: Duration::from_secs(args.minutes.saturating_mul(60)),
    };
    let token = issuer.mint(&claims)?;
    context.answer(&json!({ "token": token }), || token.clone())?;
    Ok(ExitCode::SUCCESS)
}
