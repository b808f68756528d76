//! What the benches of the server share: a private PostgreSQL, organisations with sample charts, `cordon serve` as a process of its own, a
//! client that keeps connections busy, and what each side spent of the processor. Everything ends with the bench.
pub mod cell;
pub mod floor;
pub mod load;
pub mod spent;

use cordon::app::App;
use cordon::auth::dev::{Claims, DevIssuer};
use cordon::cluster::{Cluster, Durability, Options};
use cordon::config::Settings;
use cordon::db::connect;
use cordon::import::source::Source;
use cordon::import::{self, Report, Store};
use cordon::isolation::BootCheck;
use cordon::ops::init;
use cordon::ops::operator::Operator;
use cordon::ops::provision::{self, NewTenant};
use cordon::sample::Charts;
use cordon::tenant::{TenancyModel, Tenant};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Admission that holds nobody up.
pub const UNLIMITED: &[(&str, &str)] = &[
    ("CORDON__ADMISSION__REQUESTS_PER_SECOND", "1000000"),
    ("CORDON__ADMISSION__CONCURRENCY", "1000000"),
    ("CORDON__ADMISSION__PRINCIPAL_REQUESTS_PER_SECOND", "1000000"),
    ("CORDON__ADMISSION__PRINCIPAL_CONCURRENCY", "1000000"),
];

/// A number that a variable sets, or the small one that suits a quick check.
pub fn sized(variable: &str, small: usize) -> Outcome<usize> {
    Ok(std::env::var(variable).ok().map(|text| text.parse()).transpose()?.unwrap_or(small))
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// An installation on this machine.
pub struct Rig {
    pub directory: PathBuf,
    pub cluster: Cluster,
    pub operator: Operator,
    issuer: DevIssuer,
}

impl Rig {
    /// Makes PostgreSQL, roles and catalog. Durable, as in production.
    pub async fn make(name: &str, settings: &[(&str, &str)]) -> Outcome<Self> {
        let directory = std::env::temp_dir().join(format!("cordon-bench-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options =
            Options { dir: directory.join("cluster"), durability: Durability::Durable, binaries: None, settings };
        let cluster = Cluster::start(&options)?;
        let admin = connect::parse(&cluster.superuser_url("postgres"))?;
        let made = init::run(&admin, &directory.join("site")).await?;
        let variables: Vec<_> = [&made.server_env, &made.operator_env].into_iter().flat_map(settings_of).collect();
        let issuer = DevIssuer::open(&directory, "cordon")?;
        let mut profile = json!({
            "catalog": { "url": value(&variables, "CORDON__CATALOG__URL") },
            "keys": { "file": made.key_file },
            "auth": { "issuers": [{ "issuer": cordon::auth::dev::ISSUER, "jwks_file": issuer.jwks_path(), "algorithms": ["ES256"] }] },
        });
        std::fs::create_dir(directory.join("serve"))?;
        std::fs::write(directory.join("serve/dev.yaml"), profile.to_string())?;
        profile["catalog"]["operator_url"] = json!(value(&variables, "CORDON__CATALOG__OPERATOR_URL"));
        std::fs::write(directory.join("dev.yaml"), profile.to_string())?;
        let operator = Operator::new(&Settings::load(Some(&directory), Some("dev"))?)?;
        Ok(Self { directory, cluster, operator, issuer })
    }

    /// The same with a PostgreSQL whose log tells all that a floor needs, for as long as `measure` takes.
    pub async fn with_floor(name: &str, measure: impl AsyncFnOnce(&Self) -> Outcome<()>) -> Outcome<()> {
        let settings =
            [("log_error_verbosity", "default"), ("log_parameter_max_length", "-1"), ("shared_buffers", "1GB")];
        let rig = Self::make(name, &settings).await?;
        let outcome = measure(&rig).await;
        rig.clear().and(outcome)
    }

    /// Stops PostgreSQL and removes everything.
    pub fn clear(self) -> Outcome<()> {
        let Self { directory, cluster, .. } = self;
        cluster.stop();
        Ok(std::fs::remove_dir_all(directory)?)
    }

    /// An organisation.
    pub async fn tenant(&self, slug: &str, model: TenancyModel) -> Outcome<Tenant> {
        let new = NewTenant { slug: slug.into(), name: "Bench".into(), model, server: None, plan: None };
        Ok(provision::create(&self.operator, &new).await?)
    }

    /// Sample charts for an organisation; how many notes there are.
    pub async fn fill(&self, tenant: &Tenant, seed: u64, patients: usize) -> Outcome<u64> {
        let file = self.sample(seed, patients, |_| true)?;
        Ok(self.import(tenant, file).await?.notes.new)
    }

    /// The patients of sample charts, without their charts.
    pub async fn register(&self, tenant: &Tenant, seed: u64, patients: usize) -> Outcome<u64> {
        let file = self.sample(seed, patients, |line| line.starts_with(b"{\"resourceType\":\"Patient\""))?;
        Ok(self.import(tenant, file).await?.patients.new)
    }

    /// Those lines of sample charts that are `wanted`, in a file.
    fn sample(&self, seed: u64, patients: usize, wanted: fn(&[u8]) -> bool) -> Outcome<PathBuf> {
        let file = self.directory.join("sample.ndjson");
        let mut out =
            Sieve { wanted, line: Vec::new(), out: BufWriter::with_capacity(1 << 20, std::fs::File::create(&file)?) };
        Charts::new(seed, patients.try_into()?).write_to(&mut out, |_| ())?;
        out.flush()?;
        Ok(file)
    }

    /// Charts from a file, which is removed.
    pub async fn import(&self, tenant: &Tenant, file: PathBuf) -> Outcome<Report> {
        let mut settings = Settings::load(Some(&self.directory), Some("dev"))?;
        settings.catalog.operator_url = None;
        let app = App::new(settings, BootCheck::Dev)?;
        let input = Source::open(std::slice::from_ref(&file)).map_err(|error| error.to_string())?;
        let report = import::run(input, Store::new(Arc::clone(&app.guards), tenant.id, "sample"), None, |_| ()).await?;
        std::fs::remove_file(file)?;
        match report.rejects {
            0 => Ok(report),
            n => Err(format!("{n} resources were rejected").into()),
        }
    }

    /// Statistics as autovacuum would have made them by now.
    pub async fn settle(&self, database: &str) -> Outcome<()> {
        let superuser = self.superuser(database).await?;
        superuser.batch_execute("vacuum analyze").await?;
        Ok(superuser.batch_execute("checkpoint").await?)
    }

    /// A superuser's session.
    pub async fn superuser(&self, database: &str) -> Outcome<tokio_postgres::Client> {
        let (client, connection) =
            tokio_postgres::connect(self.cluster.superuser_url(database).expose_secret(), tokio_postgres::NoTls)
                .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// A token of somebody with one role in one organisation.
    pub fn token(&self, tenant: &Tenant, role: &str, subject: &str) -> Outcome<String> {
        Ok(self.issuer.mint(&Claims {
            subject: subject.into(),
            name: Some("Dr. Bench".into()),
            tenants: vec![tenant.id],
            roles: vec![role.into()],
            acting: None,
            lifetime: Duration::from_secs(11 * 3600),
        })?)
    }

    /// `cordon serve`, the binary, with these variables on top.
    pub fn serve(&self, variables: &[(&str, &str)]) -> Outcome<Served> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.args(["serve", "--profile", "dev", "--config"]).arg(self.directory.join("serve"));
        command.envs(variables.iter().copied());
        command.env("CORDON__HTTP__BIND", "127.0.0.1:0").env("CORDON__TELEMETRY__BIND", "127.0.0.1:0");
        command.env("CORDON__LOG__FILTER", "warn,cordon::cli=info");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines().map_while(Result::ok);
        let mut said = Vec::new();
        let address = lines.by_ref().find_map(|line| {
            let found = line.split("Serving http://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
            said.push(line);
            found
        });
        let metrics = lines
            .by_ref()
            .find_map(|line| line.split("Metrics at http://").nth(1)?.split('/').next().map(str::to_owned));
        let Some(address) = address else {
            return Err(format!("cordon serve did not start: {}", said.join("\n")).into());
        };
        // Whoever logs must be read.
        std::thread::spawn(move || lines.for_each(|line| eprintln!("server: {line}")));
        Ok(Served { child, address, metrics: metrics.ok_or("no metrics")?, flown: Mutex::default() })
    }
}

/// Lets through the lines that are wanted.
struct Sieve<W> {
    wanted: fn(&[u8]) -> bool,
    line: Vec<u8>,
    out: W,
}

impl<W: Write> Write for Sieve<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                if (self.wanted)(&self.line) {
                    self.out.write_all(&self.line)?;
                }
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// A running server.
pub struct Served {
    child: Child,
    pub address: String,
    metrics: String,
    /// Flights and requests when they were last asked for.
    flown: Mutex<(f64, f64)>,
}

impl Served {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Flights to PostgreSQL of a request, on average since they were last asked for, as the server counts them.
    pub async fn flights(&self) -> Outcome<f64> {
        let mut socket = TcpStream::connect(&self.metrics).await?;
        socket
            .write_all(
                format!("GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.metrics).as_bytes(),
            )
            .await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let now = (sum("cordon_request_flights_sum"), sum("cordon_request_flights_count"));
        let before = std::mem::replace(&mut *self.flown.lock(), now);
        Ok((now.0 - before.0) / (now.1 - before.1))
    }

    /// One question, which must be answered without errors.
    pub async fn ask(&self, token: &str, query: &str, variables: Value) -> Outcome<Value> {
        let request = load::Request::new(&self.address, token, query, &variables);
        let (_, body) = load::Connection::open(&self.address).await?.ask(&request).await?;
        let mut answer: Value = serde_json::from_slice(&body)?;
        match answer.get("errors") {
            None => Ok(answer["data"].take()),
            Some(errors) => Err(format!("{query}: {errors}").into()),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The variables in a file that `init` wrote.
fn settings_of(path: impl AsRef<Path>) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.trim_matches('\'').into()))
        .collect()
}

fn value<'v>(variables: &'v [(String, String)], name: &str) -> Option<&'v str> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
