//! Support for the benches of the server: a private PostgreSQL cluster, tenants with sample charts, `cordon serve` as a
//! separate process, an HTTP client that generates load, and the processor time of each process. Everything is removed
//! when the bench ends.
pub mod floor;
pub mod load;
pub mod measurements;
pub mod process_stats;

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

pub type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

/// Admission limits that no bench reaches.
pub const UNLIMITED: &[(&str, &str)] = &[
    ("CORDON__ADMISSION__REQUESTS_PER_SECOND", "1000000"),
    ("CORDON__ADMISSION__CONCURRENCY", "1000000"),
    ("CORDON__ADMISSION__PRINCIPAL_REQUESTS_PER_SECOND", "1000000"),
    ("CORDON__ADMISSION__PRINCIPAL_CONCURRENCY", "1000000"),
];

/// Returns the number in an environment variable, or the small default of a quick check.
pub fn size_from_env(variable: &str, small: usize) -> BenchResult<usize> {
    Ok(std::env::var(variable).ok().map(|text| text.parse()).transpose()?.unwrap_or(small))
}

/// Returns the median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// An installation with a cluster of its own.
pub struct BenchSite {
    pub directory: PathBuf,
    pub cluster: Cluster,
    pub operator: Operator,
    issuer: DevIssuer,
}

impl BenchSite {
    /// Creates a durable cluster, as in production, with roles and catalog.
    pub async fn create(name: &str, settings: &[(&str, &str)]) -> BenchResult<Self> {
        let directory = std::env::temp_dir().join(format!("cordon-bench-{name}-{}", std::process::id()));
        std::fs::create_dir(&directory)?;
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options =
            Options { dir: directory.join("cluster"), durability: Durability::Durable, binaries: None, settings };
        let cluster = Cluster::start(&options)?;
        let admin = connect::parse(&cluster.superuser_url("postgres"))?;
        let init = init::run(&admin, &directory.join("site")).await?;
        let variables: Vec<_> = [&init.server_env, &init.operator_env].into_iter().flat_map(settings_of).collect();
        let issuer = DevIssuer::open(&directory, "cordon")?;
        let mut profile = json!({
            "catalog": { "url": value(&variables, "CORDON__CATALOG__URL") },
            "keys": { "file": init.key_file },
            "auth": { "issuers": [{ "issuer": cordon::auth::dev::ISSUER, "jwks_file": issuer.jwks_path(),
                "algorithms": ["ES256"] }] },
        });
        std::fs::create_dir(directory.join("serve"))?;
        std::fs::write(directory.join("serve/dev.yaml"), profile.to_string())?;
        profile["catalog"]["operator_url"] = json!(value(&variables, "CORDON__CATALOG__OPERATOR_URL"));
        std::fs::write(directory.join("dev.yaml"), profile.to_string())?;
        let operator = Operator::new(&Settings::load(Some(&directory), Some("dev"))?)?;
        Ok(Self { directory, cluster, operator, issuer })
    }

    /// Creates an installation whose PostgreSQL log has what [`floor`] needs, runs `measure`, and removes the
    /// installation.
    pub async fn with_floor(name: &str, measure: impl AsyncFnOnce(&Self) -> BenchResult<()>) -> BenchResult<()> {
        let settings =
            [("log_error_verbosity", "default"), ("log_parameter_max_length", "-1"), ("shared_buffers", "1GB")];
        let site = Self::create(name, &settings).await?;
        let outcome = measure(&site).await;
        site.remove().and(outcome)
    }

    /// Stops PostgreSQL and removes all files.
    pub fn remove(self) -> BenchResult<()> {
        let Self { directory, cluster, .. } = self;
        cluster.stop();
        Ok(std::fs::remove_dir_all(directory)?)
    }

    /// Creates a tenant.
    pub async fn tenant(&self, slug: &str, model: TenancyModel) -> BenchResult<Tenant> {
        let new = NewTenant { slug: slug.into(), name: "Bench".into(), model, server: None, plan: None };
        Ok(provision::create(&self.operator, &new).await?)
    }

    /// Imports sample charts into a tenant and returns the number of notes.
    pub async fn import_sample_charts(&self, tenant: &Tenant, seed: u64, patients: usize) -> BenchResult<u64> {
        let file = self.write_sample(seed, patients, |_| true)?;
        Ok(self.import(tenant, file).await?.notes.new)
    }

    /// Imports only the patients of sample charts into a tenant and returns their number.
    pub async fn import_sample_patients(&self, tenant: &Tenant, seed: u64, patients: usize) -> BenchResult<u64> {
        let file = self.write_sample(seed, patients, |line| line.starts_with(b"{\"resourceType\":\"Patient\""))?;
        Ok(self.import(tenant, file).await?.patients.new)
    }

    /// Writes the lines of sample charts that match `filter` to a file.
    fn write_sample(&self, seed: u64, patients: usize, filter: fn(&[u8]) -> bool) -> BenchResult<PathBuf> {
        let file = self.directory.join("sample.ndjson");
        let mut out = LineFilter {
            filter,
            line: Vec::new(),
            out: BufWriter::with_capacity(1 << 20, std::fs::File::create(&file)?),
        };
        Charts::new(seed, patients.try_into()?).write_to(&mut out, |_| ())?;
        out.flush()?;
        Ok(file)
    }

    /// Imports a file into a tenant and removes the file.
    pub async fn import(&self, tenant: &Tenant, file: PathBuf) -> BenchResult<Report> {
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

    /// Runs VACUUM, ANALYZE and a checkpoint, as autovacuum would have done after some time.
    pub async fn vacuum(&self, database: &str) -> BenchResult<()> {
        let superuser = self.superuser(database).await?;
        superuser.batch_execute("vacuum analyze").await?;
        Ok(superuser.batch_execute("checkpoint").await?)
    }

    /// Opens a superuser's session.
    pub async fn superuser(&self, database: &str) -> BenchResult<tokio_postgres::Client> {
        let (client, connection) =
            tokio_postgres::connect(self.cluster.superuser_url(database).expose_secret(), tokio_postgres::NoTls)
                .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Signs a token of a caller with one role in one tenant.
    pub fn token(&self, tenant: &Tenant, role: &str, subject: &str) -> BenchResult<String> {
        Ok(self.issuer.mint(&Claims {
            subject: subject.into(),
            name: Some("Dr. Bench".into()),
            tenants: vec![tenant.id],
            roles: vec![role.into()],
            acting: None,
            lifetime: Duration::from_secs(11 * 3600),
        })?)
    }

    /// Starts `cordon serve` with these environment variables in addition.
    pub fn serve(&self, variables: &[(&str, &str)]) -> BenchResult<ServerProcess> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.args(["serve", "--profile", "dev", "--config"]).arg(self.directory.join("serve"));
        command.envs(variables.iter().copied());
        command.env("CORDON__HTTP__BIND", "127.0.0.1:0").env("CORDON__TELEMETRY__BIND", "127.0.0.1:0");
        command.env("CORDON__LOG__FILTER", "warn,cordon::cli=info");
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines().map_while(Result::ok);
        let mut log = Vec::new();
        let address = lines.by_ref().find_map(|line| {
            let found = line.split("Serving http://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
            log.push(line);
            found
        });
        let metrics = lines
            .by_ref()
            .find_map(|line| line.split("Metrics at http://").nth(1)?.split('/').next().map(str::to_owned));
        let Some(address) = address else {
            return Err(format!("cordon serve did not start: {}", log.join("\n")).into());
        };
        // The log is read to its end, so that the process never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(|line| eprintln!("server: {line}")));
        Ok(ServerProcess { child, address, metrics: metrics.ok_or("no metrics")?, last_round_trips: Mutex::default() })
    }
}

/// Writes only the lines that match the filter.
struct LineFilter<W> {
    filter: fn(&[u8]) -> bool,
    line: Vec<u8>,
    out: W,
}

impl<W: Write> Write for LineFilter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                if (self.filter)(&self.line) {
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

/// A running `cordon serve`. It is killed when it is dropped.
pub struct ServerProcess {
    child: Child,
    pub address: String,
    metrics: String,
    /// The sum of round trips and the number of requests at the last call of `round_trips`.
    last_round_trips: Mutex<(f64, f64)>,
}

impl ServerProcess {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the average number of round trips to PostgreSQL per request since the last call, as the server counts
    /// them.
    pub async fn round_trips(&self) -> BenchResult<f64> {
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
        let now = (sum("cordon_request_round_trips_sum"), sum("cordon_request_round_trips_count"));
        let before = std::mem::replace(&mut *self.last_round_trips.lock(), now);
        Ok((now.0 - before.0) / (now.1 - before.1))
    }

    /// Sends a GraphQL request that must succeed without errors, and returns its data.
    pub async fn query(&self, token: &str, query: &str, variables: Value) -> BenchResult<Value> {
        let request = load::Request::new(&self.address, token, query, &variables);
        let (_, body) = load::Connection::open(&self.address).await?.send(&request).await?;
        let mut response: Value = serde_json::from_slice(&body)?;
        match response.get("errors") {
            None => Ok(response["data"].take()),
            Some(errors) => Err(format!("{query}: {errors}").into()),
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the environment variables from a file that `init` wrote.
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
