//! `cordon dev`: everything in one process, for development: a private PostgreSQL, three organisations with sample
//! charts, one in each tenancy model, and the server. It creates what is missing, so that a second start finds what the
//! first has made.

mod home;
mod welcome;

pub use home::Home;

use super::Context;
use super::output::Bar;
use super::serve::{Addresses, Listeners, Prepared};
use crate::app::App;
use crate::auth::dev::{Claims, DevIssuer};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::db::connect;
use crate::http::Signals;
use crate::http::explorer::DevTokens;
use crate::import::source::Source;
use crate::import::{self, Store};
use crate::isolation::BootCheck;
use crate::ops::migrate;
use crate::ops::operator::Operator;
use crate::ops::provision::{self, NewTenant};
use crate::ops::settings::{self, SettingsChange};
use crate::ops::{OpsError, init};
use crate::sample::Charts;
use crate::tenant::{Origin, State, TenancyModel, Tenant};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::io::{BufWriter, Write};
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
/// A minute less than `auth.max_lifetime_seconds` allows.
const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60 - 60);
/// Ports of the development servers of front ends, whose pages on this machine may send requests to the organisations.
const FRONT_END_PORTS: [u16; 12] = [3000, 3001, 4000, 4173, 4200, 5000, 5173, 5174, 8000, 8081, 8888, 9000];

#[derive(clap::Args)]
#[command(after_help = examples!(
    "dev": "Start on http://127.0.0.1:8080, and print what to try",
    "dev --port 0 --empty --verbose": "Start on any free port, without sample charts, and log each step",
    "dev --json": "Print the addresses and a token for each role as one line of JSON, then serve",
))]
pub struct Args {
    /// Port on 127.0.0.1; 0 is any free port [default: that of http.bind, 8080]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Create the organisations without sample charts
    #[arg(long)]
    empty: bool,
}

pub async fn run(args: Args, context: Context) -> Result<ExitCode, OpsError> {
    let mut settings = context.settings;
    if let Some(port) = args.port {
        settings.http.bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    }
    // With any free port for GraphQL, the metrics get any free port too.
    if let (Some(0), Some(bind)) = (args.port, &mut settings.telemetry.bind) {
        bind.set_port(0);
    }
    let listeners = Listeners::bind(&settings).map_err(|error| match error {
        OpsError::Failed(reason) => OpsError::Failed(format!("{reason}; choose another port with --port")),
        other => other,
    })?;
    let home = Arc::new(Home::make()?);
    let mut signals = Signals::listen()?;
    let progress = Bar::steps(context.json);
    let installation = tokio::select! {
        biased;
        () = signals.next() => return Ok(ExitCode::from(130)),
        installation = prepare(&home, settings, args.empty, &progress) => installation?,
    };
    drop(progress);
    let key = home.explorer_key()?;
    let tokens = DevTokens::new(key.clone(), {
        let organisations = Arc::clone(&installation.organisations);
        move || organisations.list().map_err(|error| tracing::error!("{error}")).ok()
    });
    let app = Arc::clone(&installation.app);
    let server = Prepared { app, check: BootCheck::Dev, listeners, tokens: Some(tokens) };
    let ready = |addresses: Addresses| installation.announce(&home, &addresses, &key, context.json);
    server.run(signals, context.dropped, ready).await
}

/// The running parts of a `dev`.
struct Installation {
    cluster: Cluster,
    app: Arc<App>,
    organisations: Arc<Organisations>,
}

/// The tenants, and the issuer of their tokens.
struct Organisations {
    tenants: Vec<Tenant>,
    issuer: DevIssuer,
}

/// Creates what is missing, from the PostgreSQL cluster to the sample charts.
async fn prepare(
    home: &Arc<Home>,
    mut settings: Settings,
    empty: bool,
    progress: &Bar,
) -> Result<Installation, OpsError> {
    progress.say("Starting PostgreSQL");
    let starting = Arc::clone(home);
    let started = tokio::task::spawn_blocking(move || starting.start()).await;
    let cluster = started.map_err(|error| OpsError::Failed(error.to_string()))??;
    tracing::info!(
        "PostgreSQL runs in {}; server, operator and keeper share this process, which `cordon serve` never does",
        home.cluster.display()
    );
    progress.say("Creating the databases");
    init::run(&connect::parse(&cluster.superuser_url("postgres"))?, &home.dir).await?;
    let issuer = home.fill(&mut settings)?;
    let operator = Operator::new(&settings)?;
    for target in migrate::targets(&operator).await? {
        migrate::run(&operator, &target, crate::db::migrate::Direction::Up).await?;
    }
    let existing = provision::list(&operator).await?;
    let mut tenants = Vec::new();
    for (slug, name, model) in TENANTS {
        progress.say(format!("Creating {name}"));
        let new = NewTenant { slug: slug.into(), name: name.into(), model, server: None, plan: None };
        let mut tenant = provision::create(&operator, &new).await?;
        // Only once: afterwards the origins are what `cordon tenant set` made of them.
        if !existing.iter().any(|existing| existing.id == tenant.id && existing.state == State::Active) {
            let change = SettingsChange { origins: Some(local_origins()?), ..SettingsChange::default() };
            tenant = settings::set(&operator, slug, &change).await?;
        }
        tenants.push(tenant);
    }
    settings.catalog.operator_url = None;
    let app = App::new(settings, BootCheck::Dev)?;
    if !empty {
        for (tenant, seed) in tenants.iter().zip(1..) {
            progress.say(format!("Importing sample charts into {}", tenant.name));
            import_samples(home, &app, tenant, seed).await?;
        }
    }
    Ok(Installation { cluster, app, organisations: Arc::new(Organisations { tenants, issuer }) })
}

/// The origins of pages that a front end's development server on this machine serves.
fn local_origins() -> Result<Vec<Origin>, OpsError> {
    let hosts = ["localhost", "127.0.0.1"].into_iter();
    let origins = hosts.flat_map(|host| FRONT_END_PORTS.map(|port| format!("http://{host}:{port}").parse::<Origin>()));
    origins.collect::<Result<_, _>>().map_err(OpsError::Failed)
}

/// Imports sample charts into a tenant, once.
async fn import_samples(home: &Home, app: &App, tenant: &Tenant, seed: u64) -> Result<(), OpsError> {
    // Beside the data: whoever removes the cluster's directory removes this mark with it.
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

impl Installation {
    /// Prints where everything is: one line of JSON, or a text for people.
    fn announce(&self, home: &Home, at: &Addresses, key: &SecretString, json: bool) -> Result<(), OpsError> {
        let url = format!("http://{}/graphql", at.graphql);
        let mut tenants = Vec::new();
        for tenant in &self.organisations.tenants {
            let model = tenant.placement.as_ref().map(|placement| placement.model.as_str());
            let tokens = self.organisations.tokens(tenant)?;
            let file = Value::from(tokens.clone()).to_string();
            write_private(&home.dir.join(format!("tokens-{}.json", tenant.slug)), &file)?;
            if let Some(token) = tokens.get(ROLES[0]).and_then(Value::as_str) {
                let headers = format!("Authorization: Bearer {token}\nContent-Type: application/json\n");
                write_private(&home.headers_file(&tenant.slug), &headers)?;
            }
            tenants.push(json!({ "slug": tenant.slug, "id": tenant.id, "model": model, "tokens": tokens }));
        }
        if !json {
            let explorer = self
                .app
                .settings
                .http
                .explorer
                .then(|| format!("http://{}/explorer#key={}", at.graphql, key.expose_secret()));
            return welcome::print(&url, explorer.as_deref(), home, &self.organisations.tenants, &tenants);
        }
        let document = json!({
            "graphqlUrl": url,
            "metricsUrl": at.metrics.map(|address| format!("http://{address}/metrics")),
            "databaseUrl": self.cluster.superuser_url("postgres").expose_secret(),
            "issuer": crate::auth::dev::ISSUER,
            "jwksUrl": format!("file://{}", self.organisations.issuer.jwks_path().display()),
            "tenants": tenants,
        });
        let mut out = std::io::stdout().lock();
        out.write_all(format!("{document}\n").as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Organisations {
    /// The organisations with a fresh token for each role, in the form that the explorer reads.
    fn list(&self) -> Result<Value, OpsError> {
        let one =
            |tenant: &Tenant| Ok(json!({ "slug": tenant.slug, "name": tenant.name, "tokens": self.tokens(tenant)? }));
        self.tenants.iter().map(one).collect()
    }

    /// A token for each role.
    fn tokens(&self, tenant: &Tenant) -> Result<Map<String, Value>, OpsError> {
        let mut tokens = Map::new();
        for role in ROLES {
            let claims = Claims {
                subject: format!("dev-{role}"),
                name: Some(format!("Dev {role}")),
                tenants: vec![tenant.id],
                roles: vec![role.to_owned()],
                acting: None,
                lifetime: TOKEN_LIFETIME,
            };
            tokens.insert(role.to_owned(), self.issuer.mint(&claims)?.into());
        }
        Ok(tokens)
    }
}

/// Writes a file that only its owner can read.
fn write_private(path: &Path, text: &str) -> Result<(), OpsError> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
