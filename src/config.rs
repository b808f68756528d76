//! The settings: one struct, whose keys and defaults are in `config/base.yaml`. A profile's file and `CORDON__…`
//! variables override them. An unknown key stops the start. Secrets come from variables, or from the files that
//! variables ending in `_FILE` name.

use figment::Figment;
use figment::providers::{Env, Format, Yaml};
use secrecy::SecretString;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const BASE: &str = include_str!("../config/base.yaml");
const DEV: &str = include_str!("../config/dev.yaml");

/// The keys of secrets. The value of each may be in a file, which the variable of the key with the suffix `_FILE`
/// names.
const SECRETS: [&str; 3] = ["catalog.url", "catalog.operator_url", "flags.unleash_token"];

/// All settings of the process.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP server.
    pub http: Http,
    /// Limits on the size and cost of one request.
    pub limits: Limits,
    /// Limits on the rate and concurrency of requests.
    pub admission: Admission,
    /// The logins for the catalog's database.
    pub catalog: Catalog,
    /// The KMS that unwraps keys, and the cache of unwrapped keys.
    pub keys: Keys,
    /// Connections to the databases of tenants.
    pub database: Database,
    /// The issuers whose tokens are accepted, and the rules for tokens.
    pub auth: Auth,
    /// The sources of feature flags.
    pub flags: Flags,
    /// Logs on standard error.
    pub log: Log,
    /// Metrics, and the export of spans, metrics and logs.
    pub telemetry: Telemetry,
}

/// The settings of the HTTP server, section `http`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// The address on which `/graphql`, `/healthz` and `/readyz` are served.
    pub bind: SocketAddr,
    /// The number of worker threads. 0 starts one for each core.
    pub workers: usize,
    /// The domain whose subdomains name tenants by slug. `None`: the host of a request names no tenant.
    pub domain: Option<String>,
    /// The milliseconds that a request may take, from its head to its response. More than 0.
    pub request_timeout_ms: u64,
    /// The seconds from a stop signal, when `/readyz` starts to respond with 503, until the listener closes.
    pub notice_seconds: u64,
    /// The seconds that running requests then have to end.
    pub drain_seconds: u64,
    /// The seconds after which the connection of a client that does not read its response is closed. More than 0.
    pub stalled_seconds: u64,
    /// Whether `/explorer` is served: a page on which developers try queries.
    pub explorer: bool,
    /// The certificate and its key. `None` serves plain HTTP.
    pub tls: Option<Tls>,
}

/// The certificate that the server presents. Both files are read again when they change.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// A PEM file with the private key of the certificate.
    pub key: PathBuf,
}

/// Limits on the size and cost of one request, section `limits`. A request over one of them fails with
/// `LIMIT_EXCEEDED`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The most bytes of a request body. More than 0.
    pub body_bytes: usize,
    /// The most bytes of note titles and bodies in one response.
    pub answer_bytes: usize,
    /// The most levels of nested fields in a document. More than 0.
    pub depth: usize,
    /// The most points of a document: a field costs one, a list the points of its selection for each row of the page.
    /// More than 0.
    pub complexity: usize,
    /// The most lexical tokens of a document. More than 0.
    pub tokens: usize,
    /// The most aliases and repeated fields of a document.
    pub aliases: usize,
    /// The most directives of a document.
    pub directives: usize,
    /// Whether introspection is allowed and error messages suggest names of the schema.
    pub introspection: bool,
}

/// Limits on the rate and concurrency of requests, section `admission`. Each replica counts for itself. The catalog may
/// give a tenant limits of its own, in place of `requests_per_second` and `concurrency`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// Requests of one tenant in a second. More than 0.
    pub requests_per_second: u32,
    /// The most requests of one tenant that run at the same time. More than 0.
    pub concurrency: u32,
    /// Requests of one principal in one tenant in a second. More than 0.
    pub principal_requests_per_second: u32,
    /// The most requests of one principal in one tenant that run at the same time. More than 0.
    pub principal_concurrency: u32,
}

/// The logins for the catalog's database, section `catalog`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// The connection URL of the server's login, which only reads.
    pub url: Option<SecretString>,
    /// The connection URL of the login of commands that change servers and tenants. `serve` refuses to start with it.
    pub operator_url: Option<SecretString>,
}

/// The KMS and the cache of keys, section `keys`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The path of the local key file, which `cordon init` creates.
    pub file: Option<PathBuf>,
    /// The seconds that an unwrapped key is kept in memory.
    pub cache_seconds: u64,
}

/// Connections to the databases of tenants, section `database`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The most connections to one PostgreSQL server, over all pools of this process. More than 0.
    pub backends: usize,
    /// The most transactions that run on one PostgreSQL server at the same time. 0 allows two for each core of this
    /// machine.
    pub at_once: usize,
    /// The milliseconds that opening a connection may take, and that a request waits for a free one.
    pub connect_timeout_ms: u64,
    /// The seconds after which a connection is closed, however active it is.
    pub lifetime_seconds: u64,
    /// The seconds after which an idle connection is closed.
    pub idle_seconds: u64,
    /// The milliseconds that a statement may run. More than 0.
    pub statement_timeout_ms: u64,
    /// The milliseconds that a statement waits for a lock. More than 0.
    pub lock_timeout_ms: u64,
}

/// The rules for access tokens, section `auth`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// The value that the claim `aud` must contain. Not empty.
    pub audience: String,
    /// The seconds by which the clock of an issuer may be ahead of this server's.
    pub leeway_seconds: u64,
    /// The most seconds that the claim `exp` may lie in the future.
    pub max_lifetime_seconds: u64,
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
}

/// One issuer of tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The exact value of the claim `iss`.
    pub issuer: String,
    /// The URL of the issuer's JWK set. Exactly one of `jwks_url` and `jwks_file` is set.
    pub jwks_url: Option<String>,
    /// The path of a file with the issuer's JWK set.
    pub jwks_file: Option<PathBuf>,
    /// The algorithms that the issuer signs with. At least one; `none` and HMAC are refused.
    pub algorithms: Vec<String>,
    /// Whether the header `typ: JWT` is accepted beside `at+jwt`. Default false.
    #[serde(default)]
    pub allow_typ_jwt: bool,
    /// The names of the issuer's claims.
    #[serde(default)]
    pub claims: ClaimNames,
}

/// The names that an issuer gives to claims. Those of registered claims, such as `sub`, are fixed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimNames {
    /// The claim with an array of tenant ids. Default `tenants`.
    pub tenants: String,
    /// The claim with an array of roles. Default `roles`.
    pub roles: String,
    /// The claim with the display name. Default `name`.
    pub name: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self { tenants: "tenants".into(), roles: "roles".into(), name: "name".into() }
    }
}

/// The sources of feature flags, section `flags`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    /// The path of a YAML file that overrides the built-in `config/flags.yaml` and has the same form.
    pub file: Option<PathBuf>,
    /// The URL of Unleash's client API, such as `https://unleash.example/api`. It is set together with `unleash_token`
    /// or not at all.
    pub unleash_url: Option<String>,
    /// A backend token of Unleash.
    pub unleash_token: Option<SecretString>,
    /// The seconds between two reads of the file and between two requests to Unleash. 1 or more.
    pub refresh_seconds: u64,
}

/// Logs on standard error, section `log`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// The format of log records.
    pub format: LogFormat,
    /// Filter directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
}

/// The format of log records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object on one line for each record.
    Json,
    /// Text for people to read, in colour on a terminal.
    Text,
}

/// Metrics, and the export of telemetry, section `telemetry`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The address on which `/metrics` is served. `None` does not serve it.
    pub bind: Option<SocketAddr>,
    /// The URL of a collector that receives OTLP over HTTP. `None` sends nothing.
    pub otlp_endpoint: Option<String>,
    /// The share of requests, from 0 to 1, whose spans are recorded. The `traceparent` of a client decides first.
    pub sample_ratio: f64,
    /// The most tenants that metric labels name at a time. All others are `other`.
    pub tenants: usize,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key is unknown or missing, or its value has the wrong type.
    #[error("{0}")]
    Settings(#[from] Box<figment::Error>),
    /// The directory that `--config` names does not exist.
    #[error("--config {}: there is no such directory", .0.display())]
    Directory(PathBuf),
    /// The profile that `--profile` names has no file.
    #[error("--profile {profile}: there is no {}", .file.display())]
    Profile {
        /// The name of the profile.
        profile: String,
        /// The path at which its file was expected.
        file: PathBuf,
    },
    /// A value is out of its range.
    #[error("{key} {requirement}")]
    Value {
        /// The key, such as `limits.depth`.
        key: &'static str,
        /// The range of the value, as the end of a sentence that starts with the key.
        requirement: &'static str,
    },
    /// A file named by a `…_FILE` variable cannot be read.
    #[error("{variable} names {path}: {cause}")]
    SecretFile {
        /// The name of the variable.
        variable: String,
        /// The path of the file.
        path: String,
        /// The error of reading it.
        cause: std::io::Error,
    },
}

impl Settings {
    /// Loads the settings. Each source overrides those before it: the built-in defaults, `<dir>/base.yaml` if it
    /// exists, `<dir>/<profile>.yaml`, and `CORDON__…` variables. The profile `dev` is built in, and is used when it
    /// has no file.
    ///
    /// # Errors Fails when the directory or the file of the profile does not exist, a file of a secret cannot be read,
    /// a key is unknown, or a value is invalid.
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

    /// Checks the ranges of values, so that a setting which would refuse every request, or disable a timeout, stops the
    /// start.
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
            // PostgreSQL reads 0 as no limit.
            ("database.statement_timeout_ms", database.statement_timeout_ms == 0),
            ("database.lock_timeout_ms", database.lock_timeout_ms == 0),
        ];
        if let Some((key, _)) = zero.into_iter().find(|(_, zero)| *zero) {
            return Err(ConfigError::Value { key, requirement: "must be more than 0" });
        }
        match (0.0..=1.0).contains(&telemetry.sample_ratio) {
            true => Ok(()),
            false => Err(ConfigError::Value { key: "telemetry.sample_ratio", requirement: "must be from 0 to 1" }),
        }
    }
}

/// Returns the secrets that come from files: `CORDON__CATALOG__URL_FILE=/run/secrets/x` sets `catalog.url` to the text
/// of that file, without whitespace at its end.
fn secret_files() -> Result<Vec<(&'static str, String)>, ConfigError> {
    let mut secrets = Vec::new();
    for key in SECRETS {
        let variable = format!("CORDON__{}", file_variable(key));
        let Ok(path) = std::env::var(&variable) else { continue };
        match std::fs::read_to_string(&path) {
            Ok(text) => secrets.push((key, text.trim_end().to_owned())),
            Err(cause) => return Err(ConfigError::SecretFile { variable, path, cause }),
        }
    }
    Ok(secrets)
}

/// Returns the variable that names the file of a secret, without the prefix `CORDON__`.
fn file_variable(key: &str) -> String {
    format!("{}_FILE", key.replace('.', "__").to_ascii_uppercase())
}
