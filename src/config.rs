//! Settings: one struct, every key with its default in `config/base.yaml`, overridden by `config/<profile>.yaml` and `CORDON__…`.
//! Unknown keys stop the start; secrets come from variables, or from the files that variables ending in `_FILE` name.

use figment::Figment;
use figment::providers::{Env, Format, Yaml};
use secrecy::SecretString;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const BASE: &str = include_str!("../config/base.yaml");
const DEV: &str = include_str!("../config/dev.yaml");

/// The keys that are secrets: each may come from a file, named by its variable with `_FILE` behind it.
const SECRETS: [&str; 3] = ["catalog.url", "catalog.operator_url", "flags.unleash_token"];

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP listener.
    pub http: Http,
    /// What one request may cost.
    pub limits: Limits,
    /// How often callers may ask.
    pub admission: Admission,
    /// The catalog's database.
    pub catalog: Catalog,
    /// Where keys are wrapped.
    pub keys: Keys,
    /// Connections to tenants' databases.
    pub database: Database,
    /// Whose tokens are accepted.
    pub auth: Auth,
    /// Behaviour that differs between tenants.
    pub flags: Flags,
    /// What goes to standard error.
    pub log: Log,
    /// What operators are told.
    pub telemetry: Telemetry,
}

/// The HTTP listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address of `/graphql`.
    pub bind: SocketAddr,
    /// Worker threads; 0 is one a core.
    pub workers: usize,
    /// Domain whose subdomains are slugs of tenants.
    pub domain: Option<String>,
    /// Milliseconds from the first byte of the body to the answer.
    pub request_timeout_ms: u64,
    /// Seconds between a signal to stop, when `/readyz` begins to say 503, and the end of the listener.
    pub notice_seconds: u64,
    /// Seconds that requests in flight then have to end.
    pub drain_seconds: u64,
    /// Seconds after which a client that takes nothing of its answer is cut off.
    pub stalled_seconds: u64,
    /// Certificate and key; without them the listener speaks plain HTTP.
    pub tls: Option<Tls>,
}

/// What the listener shows to its clients. Both files are read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and those between it and its root.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

/// What one request may cost.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of notes' titles and texts in one answer.
    pub answer_bytes: usize,
    /// Levels of nested fields.
    pub depth: usize,
    /// Points of a query: a field is one, a list multiplies by its page.
    pub complexity: usize,
    /// Lexical tokens of a document.
    pub tokens: usize,
    /// Aliases in a document.
    pub aliases: usize,
    /// Directives in a document.
    pub directives: usize,
    /// Whether `__schema` and suggestions are answered.
    pub introspection: bool,
}

/// How often callers may ask, counted by each replica for itself. A tenant's own numbers in the catalog come first.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Requests of one tenant a second.
    pub requests_per_second: u32,
    /// Requests of one tenant at once.
    pub concurrency: u32,
    /// Requests of one principal in one tenant a second.
    pub principal_requests_per_second: u32,
    /// Requests of one principal in one tenant at once.
    pub principal_concurrency: u32,
}

/// The catalog's database.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Login of the server: reads, never writes.
    pub url: Option<SecretString>,
    /// Login of the commands that change tenants.
    pub operator_url: Option<SecretString>,
}

/// Where keys are wrapped.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The local key file.
    pub file: Option<PathBuf>,
    /// Seconds an opened key stays in memory unused.
    pub cache_seconds: u64,
}

/// Connections to tenants' databases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Backends of one PostgreSQL server, over all pools of this process.
    pub backends: usize,
    /// Transactions at once on one PostgreSQL server; 0: two for each core of this machine.
    pub at_once: usize,
    /// Milliseconds to connect, and to wait for a free backend.
    pub connect_timeout_ms: u64,
    /// Seconds a connection lives at most.
    pub lifetime_seconds: u64,
    /// Seconds an idle connection is kept.
    pub idle_seconds: u64,
    /// Milliseconds of one statement.
    pub statement_timeout_ms: u64,
    /// Milliseconds to wait for a lock.
    pub lock_timeout_ms: u64,
}

/// Whose tokens are accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// What `aud` must contain.
    pub audience: String,
    /// Seconds by which clocks may differ.
    pub leeway_seconds: u64,
    /// Seconds `exp` may lie ahead.
    pub max_lifetime_seconds: u64,
    /// The issuers.
    pub issuers: Vec<Issuer>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// `iss`, compared to the letter.
    pub issuer: String,
    /// Where its keys are fetched.
    pub jwks_url: Option<String>,
    /// Or the file that holds them.
    pub jwks_file: Option<PathBuf>,
    /// Algorithms it may sign with; never `none`, never HMAC.
    pub algorithms: Vec<String>,
    /// Accept `typ: JWT` beside `at+jwt`.
    #[serde(default)]
    pub allow_typ_jwt: bool,
    /// Names of its claims.
    #[serde(default)]
    pub claims: ClaimNames,
}

/// How an issuer names the claims that are not registered ones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimNames {
    /// Array of tenant ids.
    pub tenants: String,
    /// Array of roles.
    pub roles: String,
    /// Display name.
    pub name: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { tenants: "tenants".into(), roles: "roles".into(), name: "name".into() }
    }
}

/// Behaviour that differs between tenants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    /// A YAML of the form of the built-in `config/flags.yaml`, which it overrides.
    pub file: Option<PathBuf>,
    /// Unleash's API for clients, as `https://unleash.example/api`.
    pub unleash_url: Option<String>,
    /// A token of Unleash for backends.
    pub unleash_token: Option<SecretString>,
    /// Seconds between two looks at the file and at Unleash.
    pub refresh_seconds: u64,
}

/// What goes to standard error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `json` or `text`.
    pub format: LogFormat,
    /// Directives of the `tracing` filter.
    pub filter: String,
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What operators are told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Address of `/metrics`; none: it is not served.
    pub bind: Option<SocketAddr>,
    /// Collector that takes OTLP over HTTP; none: nothing is sent.
    pub otlp_endpoint: Option<String>,
    /// Share of requests whose spans are recorded, where the client has not decided.
    pub sample_ratio: f64,
    /// Tenants named in labels of metrics at a time; the rest is `other`.
    pub tenants: usize,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key is unknown, missing or of the wrong kind.
    #[error("{0}")]
    Settings(#[from] Box<figment::Error>),
    /// What `--config` names is no directory.
    #[error("--config {}: there is no such directory", .0.display())]
    Directory(PathBuf),
    /// What `--profile` names has no file.
    #[error("--profile {profile}: there is no {}", .file.display())]
    Profile {
        /// The profile.
        profile: String,
        /// Where its settings would be.
        file: PathBuf,
    },
    /// A value that nobody can mean.
    #[error("{key} {must}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// A file named by a `…_FILE` variable cannot be read.
    #[error("{variable} names {path}: {cause}")]
    SecretFile {
        /// The variable.
        variable: String,
        /// The file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
}

impl Settings {
    /// The built-in defaults, then `<dir>/base.yaml` where it exists, then `<dir>/<profile>.yaml`, then `CORDON__…` variables.
    /// Profile `dev` without a file of its own is the built-in one.
    pub fn load(dir: Option<&Path>, profile: Option<&str>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Yaml::string(BASE));
        if let Some(dir) = dir {
            if !dir.is_dir() {
                return Err(ConfigError::Directory(dir.to_owned()));
            }
            let base = dir.join("base.yaml");
            if base.is_file() {
                figment = figment.merge(Yaml::file_exact(base));
            }
        }
        if let Some(profile) = profile {
            let file = dir.unwrap_or(Path::new("config")).join(format!("{profile}.yaml"));
            figment = match dir.is_some() && file.is_file() {
                true => figment.merge(Yaml::file_exact(file)),
                false if profile == "dev" => figment.merge(Yaml::string(DEV)),
                false => return Err(ConfigError::Profile { profile: profile.to_owned(), file }),
            };
        }
        let variables =
            Env::prefixed("CORDON__").filter(|key| SECRETS.iter().all(|secret| *key != file_variable(secret).as_str()));
        figment = figment.merge(variables.split("__"));
        for (key, value) in secret_files()? {
            figment = figment.merge((key, value));
        }
        let settings: Self = figment.extract().map_err(|error| ConfigError::Settings(Box::new(error)))?;
        settings.check()?;
        Ok(settings)
    }

    /// Values with which nothing would be answered.
    fn check(&self) -> Result<(), ConfigError> {
        let Self { http, limits, admission, database, telemetry, .. } = self;
        let zero = [
            ("http.request_timeout_ms", http.request_timeout_ms == 0),
            ("http.stalled_seconds", http.stalled_seconds == 0),
            ("limits.body_bytes", limits.body_bytes == 0),
            ("limits.depth", limits.depth == 0),
            ("limits.complexity", limits.complexity == 0),
            ("limits.tokens", limits.tokens == 0),
            ("admission.requests_per_second", admission.requests_per_second == 0),
            ("admission.concurrency", admission.concurrency == 0),
            ("admission.principal_requests_per_second", admission.principal_requests_per_second == 0),
            ("admission.principal_concurrency", admission.principal_concurrency == 0),
            ("database.backends", database.backends == 0),
            // To PostgreSQL 0 means no limit.
            ("database.statement_timeout_ms", database.statement_timeout_ms == 0),
            ("database.lock_timeout_ms", database.lock_timeout_ms == 0),
        ];
        if let Some((key, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(ConfigError::Value { key, must: "must be more than 0" });
        }
        match (0.0..=1.0).contains(&telemetry.sample_ratio) {
            true => Ok(()),
            false => Err(ConfigError::Value { key: "telemetry.sample_ratio", must: "must be from 0 to 1" }),
        }
    }
}

/// `CORDON__CATALOG__URL_FILE=/run/secrets/x` sets `catalog.url` to the file's text.
fn secret_files() -> Result<Vec<(&'static str, String)>, ConfigError> {
    let mut found = Vec::new();
    for key in SECRETS {
        let variable = format!("CORDON__{}", file_variable(key));
        let Ok(path) = std::env::var(&variable) else { continue };
        match std::fs::read_to_string(&path) {
            Ok(text) => found.push((key, text.trim_end().to_owned())),
            Err(cause) => return Err(ConfigError::SecretFile { variable, path, cause }),
        }
    }
    Ok(found)
}

/// The variable that names a secret's file, without its prefix.
fn file_variable(key: &str) -> String {
    format!("{}_FILE", key.replace('.', "__").to_ascii_uppercase())
}
