//! `cordon dev`: everything in one process, for trying out and for building front ends. A private PostgreSQL, three organisations, one in
//! each model, with sample charts, and the server. What it needs beside PostgreSQL's programs, it makes; a second start finds it.

mod home;

pub use home::Home;

use super::Context;
use super::serve::{Addresses, Listeners, answer};
use crate::app::App;
use crate::auth::dev::{Claims, DevIssuer};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::db::connect;
use crate::http::Signals;
use crate::import::source::Source;
use crate::import::{self, Store};
use crate::isolation::BootCheck;
use crate::ops::migrate;
use crate::ops::operator::Operator;
use crate::ops::provision::{self, NewTenant};
use crate::ops::{OpsError, init};
use crate::sample::Charts;
use crate::tenant::{TenancyModel, Tenant};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const TENANTS: [(&str, &str, TenancyModel); 3] = [
    ("riverside", "Riverside Practice", TenancyModel::Shared),
    ("lakeside", "Lakeside Clinic", TenancyModel::Schema),
    ("summit", "Summit Hospital", TenancyModel::Database),
];
const ROLES: [&str; 8] = ["clinician", "trainee", "nurse", "scribe", "admin", "records", "auditor", "partner"];
/// Sample patients of each organisation.
const PATIENTS: u64 = 25;
/// As long as a token may be good for.
const TOKEN: Duration = Duration::from_secs(12 * 60 * 60 - 60);
/// What the printed line asks.
const QUERY: &str = "{ viewer { name tenant { name } } patients(first: 3) { edges { node { name { text } birthDate notes(first: 1) { edges { node { title body } } } } } } }";

#[derive(clap::Args)]
pub struct Args {
    /// Port on 127.0.0.1, instead of that of http.bind; 0: any free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Organisations without charts
    #[arg(long)]
    empty: bool,
}

pub async fn run(args: Args, context: Context) -> Result<ExitCode, OpsError> {
    let mut settings = context.settings;
    if let Some(port) = args.port {
        settings.http.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    }
    // One of any port has any port for its metrics too.
    if let (Some(0), Some(bind)) = (args.port, &mut settings.telemetry.bind) {
        bind.set_port(0);
    }
    let listeners = Listeners::bind(&settings).map_err(|error| match error {
        OpsError::Failed(taken) => OpsError::Failed(format!("{taken}; choose another port with --port")),
        other => other,
    })?;
    let home = Arc::new(Home::make()?);
    let mut signals = Signals::listen()?;
    let made = tokio::select! {
        biased;
        () = signals.next() => return Ok(ExitCode::from(130)),
        made = make(&home, settings, args.empty) => made?,
    };
    let Made { cluster, app, .. } = &made;
    answer(Arc::clone(app), BootCheck::Dev, listeners, signals, context.dropped, |at| {
        made.tell(&home, &at, cluster, context.json)
    })
    .await
}

/// What is there when all is made.
struct Made {
    cluster: Cluster,
    app: Arc<App>,
    issuer: DevIssuer,
    tenants: Vec<Tenant>,
}

/// Makes what is missing, from PostgreSQL to the last chart.
async fn make(home: &Arc<Home>, mut settings: Settings, empty: bool) -> Result<Made, OpsError> {
    let starting = Arc::clone(home);
    let started = tokio::task::spawn_blocking(move || starting.start()).await;
    let cluster = started.map_err(|error| OpsError::Failed(error.to_string()))??;
    tracing::info!(
        "PostgreSQL runs in {}; server, operator and keeper share this process, which `cordon serve` never does",
        home.cluster.display()
    );
    init::run(&connect::parse(&cluster.superuser_url("postgres"))?, &home.dir).await?;
    let issuer = home.fill(&mut settings)?;
    let operator = Operator::new(&settings)?;
    for target in migrate::targets(&operator).await? {
        migrate::run(&operator, &target, crate::db::migrate::Direction::Up).await?;
    }
    let mut tenants = Vec::new();
    for (slug, name, model) in TENANTS {
        let new = NewTenant { slug: slug.into(), name: name.into(), model, server: None, plan: None };
        tenants.push(provision::create(&operator, &new).await?);
    }
    settings.catalog.operator_url = None;
    let app = App::new(settings, BootCheck::Dev)?;
    if !empty {
        for (tenant, seed) in tenants.iter().zip(1..) {
            fill(home, &app, tenant, seed).await?;
        }
    }
    Ok(Made { cluster, app, issuer, tenants })
}

/// Brings sample charts in, once.
async fn fill(home: &Home, app: &App, tenant: &Tenant, seed: u64) -> Result<(), OpsError> {
    // Beside the data, so that they go together.
    let done = home.cluster.join(format!("charts-{}", tenant.slug));
    if done.exists() {
        return Ok(());
    }
    let file = home.dir.join(format!("charts-{}.ndjson", tenant.slug));
    let mut out = BufWriter::new(std::fs::File::create(&file)?);
    Charts::new(seed, PATIENTS).write_to(&mut out, |_| ())?;
    out.flush()?;
    drop(out);
    let input = Source::open(std::slice::from_ref(&file)).map_err(|error| OpsError::Failed(error.to_string()))?;
    let report = import::run(input, Store::new(Arc::clone(&app.guards), tenant.id, "sample"), None, |_| ()).await?;
    std::fs::remove_file(file)?;
    std::fs::write(done, "")?;
    let (patients, notes) = (report.patients.new, report.notes.new);
    tracing::info!(tenant.id = %tenant.id, "{} has {patients} patients with {notes} notes", tenant.name);
    Ok(())
}

impl Made {
    /// Says where everything is: one line of JSON, or a text with a question to paste for each organisation.
    fn tell(&self, home: &Home, at: &Addresses, cluster: &Cluster, json: bool) -> Result<(), OpsError> {
        let url = format!("http://{}/graphql", at.graphql);
        let mut text = format!("\nCordon answers at {url}. Ask it something:\n");
        let mut tenants = Vec::new();
        for tenant in &self.tenants {
            let model = tenant.placement.as_ref().map(|placement| placement.model.as_str());
            let tokens = self.tokens(tenant)?;
            if let Some(token) = tokens.get(ROLES[0]).and_then(Value::as_str) {
                let _ = write!(
                    text,
                    "\n# {} ({})\ncurl -s {url} -H 'Content-Type: application/json' -d '{}' -H 'Authorization: Bearer {token}'\n",
                    tenant.name,
                    model.unwrap_or_default(),
                    json!({ "query": QUERY })
                );
            }
            keep(&home.dir.join(format!("tokens-{}.json", tenant.slug)), &Value::from(tokens.clone()).to_string())?;
            tenants.push(json!({ "slug": tenant.slug, "id": tenant.id, "model": model, "tokens": tokens }));
        }
        let _ = write!(
            text,
            "\nTokens of all roles: {}/tokens-*.json, good for 12 hours. Ctrl-C stops everything; nothing is lost.\n",
            home.dir.display()
        );
        if json {
            let document = json!({
                "graphqlUrl": url,
                "metricsUrl": at.metrics.map(|address| format!("http://{address}/metrics")),
                "databaseUrl": cluster.superuser_url("postgres").expose_secret(),
                "issuer": crate::auth::dev::ISSUER,
                "jwksUrl": format!("file://{}", self.issuer.jwks_path().display()),
                "tenants": tenants,
            });
            text = format!("{document}\n");
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// One a role.
    fn tokens(&self, tenant: &Tenant) -> Result<Map<String, Value>, OpsError> {
        let mut tokens = Map::new();
        for role in ROLES {
            let claims = Claims {
                subject: format!("dev-{role}"),
                name: Some(format!("Dev {role}")),
                tenants: vec![tenant.id],
                roles: vec![role.to_owned()],
                acting: None,
                lifetime: TOKEN,
            };
            tokens.insert(role.to_owned(), self.issuer.mint(&claims)?.into());
        }
        Ok(tokens)
    }
}

/// Writes a file for its owner alone.
fn keep(path: &Path, text: &str) -> Result<(), OpsError> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
