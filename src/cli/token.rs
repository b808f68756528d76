//! `cordon token`: issues an access token of the development issuer. In production an identity provider issues the
//! tokens.

use super::Context;
use super::dev::Home;
use crate::auth::dev::{Claims, DevIssuer};
use crate::ops::OpsError;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = examples!(
    "token --tenant-id 01890a5d-ac96-774b-bcce-b302099a8057": "Issue a token for a clinician of one tenant",
    "token --tenant-id 01890a5d-ac96-774b-bcce-b302099a8057 --role nurse --minutes 480":
        "Issue one for a nurse, valid for eight hours",
))]
pub struct Args {
    /// Directory of the issuer's key and of dev-jwks.json; the key is created where it is missing [default:
    /// $CORDON_DEV_DIR or .cordon]
    #[arg(long, value_name = "DIR")]
    issuer_dir: Option<PathBuf>,
    /// Id of the tenant; repeat the option for several
    #[arg(long = "tenant-id", value_name = "UUID", required = true)]
    tenants: Vec<crate::ids::TenantId>,
    /// Role; repeat the option for several
    #[arg(long = "role", value_name = "ROLE", default_value = "clinician")]
    roles: Vec<String>,
    /// Subject: the claim `sub`, which identifies the person
    #[arg(long, value_name = "SUB", default_value = "dev")]
    subject: String,
    /// Display name of the person
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Lifetime in minutes
    #[arg(long, value_name = "N", default_value_t = 60)]
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
