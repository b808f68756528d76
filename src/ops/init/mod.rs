//! From nothing to a Cordon without tenants: key file, logins, control database, catalog, and the first server.
//! Secrets are written before they are used, so a run that was killed is finished by running it again.

use super::migrate::{self, CONTROL, Target};
use super::operator::{Operator, fresh_password, set_password};
use super::server::{self, make_database, open_as_admin};
use super::{OpsError, Result};
use crate::crypto::{KekId, KeyFile, Kms};
use crate::db::connect::{self, Config};
use crate::db::migrate::{Direction, Set};
use crate::tenant::keys::context;
use diesel::OptionalExtension;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name under which the first server is registered.
pub const FIRST_SERVER: &str = "main";

/// Files that `init` leaves behind.
#[derive(Debug, serde::Serialize)]
pub struct Made {
    /// Settings of `cordon serve` and `cordon import`.
    pub server_env: PathBuf,
    /// Settings of commands on tenants.
    pub operator_env: PathBuf,
    /// The key file. Whoever has it and the databases has everything; without it the databases are noise.
    pub key_file: PathBuf,
}

/// Makes everything that is missing. `admin` is a superuser's login; `directory` receives the files.
pub async fn run(admin: &Config, directory: &Path) -> Result<Made> {
    std::fs::create_dir_all(directory)?;
    let directory = directory.canonicalize()?;
    let made = Made {
        server_env: directory.join("server.env"),
        operator_env: directory.join("operator.env"),
        key_file: directory.join("keys.json"),
    };
    refuse_strange_keys(admin, &made.key_file).await?;
    if !made.key_file.exists() {
        KeyFile::init(&made.key_file)?;
    }
    let address = server::address_of(admin)?;
    let reader =
        write_env(&made.server_env, &made.key_file, "CORDON__CATALOG__URL", "cordon_catalog_reader", &address)?;
    let operator_password =
        write_env(&made.operator_env, &made.key_file, "CORDON__CATALOG__OPERATOR_URL", "cordon_operator", &address)?;

    let mut superuser = open_as_admin(admin, "postgres").await?;
    superuser.batch_execute(server::ROLES).await?;
    set_password(&mut superuser, "cordon_catalog_reader", &reader).await?;
    set_password(&mut superuser, "cordon_operator", &operator_password).await?;
    make_database(&mut superuser, admin, CONTROL, &["cordon_catalog_reader", "cordon_operator"]).await?;

    let kms: Arc<dyn Kms> = Arc::new(KeyFile::new(&made.key_file));
    let control = super::operator::login(&address, "cordon_operator", &operator_password, CONTROL)?;
    let operator = Operator::from_parts(control, kms);
    let catalog = Target {
        server: None,
        database: CONTROL.into(),
        schema: "cordon_migrations".into(),
        set: Set::Catalog,
        slug: None,
    };
    migrate::run(&operator, &catalog, Direction::Up).await?;
    server::add(&operator, FIRST_SERVER, admin, &operator_password).await?;
    Ok(made)
}

/// An installation that is there was made with a key file; with another one, its passwords would be changed and its keys be lost to it.
async fn refuse_strange_keys(admin: &Config, key_file: &Path) -> Result<()> {
    #[derive(diesel::QueryableByName)]
    struct First {
        #[diesel(sql_type = diesel::sql_types::Uuid)]
        id: uuid::Uuid,
        #[diesel(sql_type = diesel::sql_types::Binary)]
        app_password: Vec<u8>,
    }
    let mut superuser = open_as_admin(admin, "postgres").await?;
    let there = "select datname::text from pg_database where datname = 'cordon_control' and datallowconn";
    if diesel::sql_query(there).execute(&mut superuser).await? == 0 {
        return Ok(());
    }
    let mut control = open_as_admin(admin, CONTROL).await?;
    let made = "select 1 from pg_class where oid = to_regclass('cordon_catalog.servers')";
    if diesel::sql_query(made).execute(&mut control).await? == 0 {
        return Ok(());
    }
    let first = "select id, app_password from cordon_catalog.servers order by created_at limit 1";
    let Some(First { id, app_password }) = diesel::sql_query(first).get_result(&mut control).await.optional()? else {
        return Ok(());
    };
    let opened = KeyFile::new(key_file).unwrap(KekId::System, &context("app", id, 1), &app_password).await;
    opened.map(|_| ()).map_err(|_| {
        let file = key_file.display();
        OpsError::Refused(format!(
            "Cordon is installed here, and {file} is not its key file: name the directory that has it with --out"
        ))
    })
}

/// What `init` runs as superuser, for a DBA to read first; databases are made beside it.
pub fn sql() -> String {
    let databases = [CONTROL, server::DATA, migrate::TEMPLATE];
    let make: String = databases
        .iter()
        .map(|name| {
            format!("create database {name} owner cordon_owner allow_connections false;\nrevoke all on database {name} from public;\n")
        })
        .collect();
    let take_back: String =
        databases.iter().map(|name| format!("-- in database {name}:\n{}", server::PUBLIC)).collect();
    format!("{}\n{make}\n{take_back}", server::ROLES)
}

/// Writes a file of settings with a fresh password, readable by its owner only. One that is there keeps its password.
fn write_env(path: &Path, key_file: &Path, variable: &str, login: &str, address: &str) -> Result<SecretString> {
    if let Ok(text) = std::fs::read_to_string(path) {
        let url = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix("="));
        let config = url.and_then(|url| connect::parse(&url.trim_matches('\'').into()).ok());
        let password = config
            .and_then(|config| config.get_password().map(<[u8]>::to_vec))
            .and_then(|bytes| String::from_utf8(bytes).ok());
        return password
            .map(SecretString::from)
            .ok_or_else(|| OpsError::Refused(format!("{} is there but holds no {variable}", path.display())));
    }
    let password = fresh_password();
    let url = address.replacen("postgres://", &format!("postgres://{login}:{}@", password.expose_secret()), 1);
    let url = match url.split_once("/?") {
        Some((before, parameters)) => format!("{before}/{CONTROL}?{parameters}"),
        None => format!("{url}{CONTROL}"),
    };
    let text = format!("{variable}='{url}'\nCORDON__KEYS__FILE='{}'\n", key_file.display());
    let part = path.with_extension("part");
    let _ = std::fs::remove_file(&part);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    Ok(password)
}
