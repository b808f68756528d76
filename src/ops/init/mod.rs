//! Installs Cordon without tenants: key file, logins, control database, catalog, and the first server. Secrets are
//! written to files before they are used, so that running the command again completes an installation that was
//! interrupted.

use super::migrate::{self, CONTROL_DATABASE, MigrationTarget};
use super::operator::{Operator, fresh_password, set_password};
use super::server::{self, open_as_admin, prepare_database};
use super::{OpsError, Result};
use crate::crypto::{KekId, KeyFile, Kms};
use crate::db::connect::{self, Config};
use crate::db::migrate::{Direction, MigrationSet};
use crate::tenant::keys::wrap_context;
use diesel::OptionalExtension;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name under which the first server is registered.
pub const FIRST_SERVER_NAME: &str = "main";

/// The files that `init` writes.
#[derive(Debug, serde::Serialize)]
pub struct InitFiles {
    /// The settings of `cordon serve` and `cordon import`.
    pub server_env: PathBuf,
    /// The settings of commands for servers, tenants and migrations.
    pub operator_env: PathBuf,
    /// The key file. Whoever has it and the databases can read everything; without it the databases cannot be
    /// decrypted.
    pub key_file: PathBuf,
}

/// Creates everything that is missing. `admin` is a superuser's login, and the files are written to `directory`.
pub async fn run(admin: &Config, directory: &Path) -> Result<InitFiles> {
    std::fs::create_dir_all(directory)?;
    let directory = directory.canonicalize()?;
    let files = InitFiles {
        server_env: directory.join("server.env"),
        operator_env: directory.join("operator.env"),
        key_file: directory.join("keys.json"),
    };
    require_matching_key_file(admin, &files.key_file).await?;
    if !files.key_file.exists() {
        KeyFile::init(&files.key_file)?;
    }
    let address = server::address_of(admin)?;
    let reader =
        write_env(&files.server_env, &files.key_file, "CORDON__CATALOG__URL", "cordon_catalog_reader", &address)?;
    let operator_password =
        write_env(&files.operator_env, &files.key_file, "CORDON__CATALOG__OPERATOR_URL", "cordon_operator", &address)?;

    let mut superuser = open_as_admin(admin, "postgres").await?;
    superuser.batch_execute(server::ROLES_SQL).await?;
    set_password(&mut superuser, "cordon_catalog_reader", &reader).await?;
    set_password(&mut superuser, "cordon_operator", &operator_password).await?;
    prepare_database(&mut superuser, admin, CONTROL_DATABASE, &["cordon_catalog_reader", "cordon_operator"]).await?;

    let kms: Arc<dyn Kms> = Arc::new(KeyFile::new(&files.key_file));
    let control = super::operator::login_config(&address, "cordon_operator", &operator_password, CONTROL_DATABASE)?;
    let operator = Operator::from_parts(control, kms);
    let catalog = MigrationTarget {
        server: None,
        database: CONTROL_DATABASE.into(),
        schema: migrate::HISTORY_SCHEMA.into(),
        set: MigrationSet::Catalog,
        slug: None,
    };
    migrate::run(&operator, &catalog, Direction::Up).await?;
    server::add(&operator, FIRST_SERVER_NAME, admin, &operator_password).await?;
    Ok(files)
}

/// Refuses an existing installation that has another key file: its passwords would be changed, and its keys could not
/// be unwrapped.
async fn require_matching_key_file(admin: &Config, key_file: &Path) -> Result<()> {
    #[derive(diesel::QueryableByName)]
    struct FirstServer {
        #[diesel(sql_type = diesel::sql_types::Uuid)]
        id: uuid::Uuid,
        #[diesel(sql_type = diesel::sql_types::Binary)]
        app_password: Vec<u8>,
    }
    let mut superuser = open_as_admin(admin, "postgres").await?;
    let control_database = "select datname::text from pg_database where datname = 'cordon_control' and datallowconn";
    if diesel::sql_query(control_database).execute(&mut superuser).await? == 0 {
        return Ok(());
    }
    let mut control = open_as_admin(admin, CONTROL_DATABASE).await?;
    let servers_table = "select 1 from pg_class where oid = to_regclass('cordon_catalog.servers')";
    if diesel::sql_query(servers_table).execute(&mut control).await? == 0 {
        return Ok(());
    }
    let first = "select id, app_password from cordon_catalog.servers order by created_at limit 1";
    let Some(FirstServer { id, app_password }) = diesel::sql_query(first).get_result(&mut control).await.optional()?
    else {
        return Ok(());
    };
    let opened = KeyFile::new(key_file).unwrap(KekId::System, &wrap_context("app", id, 1), &app_password).await;
    opened.map(|_| ()).map_err(|_| {
        let file = key_file.display();
        OpsError::Refused(format!(
            "Cordon is installed here, and {file} is not its key file: name the directory that has it with --out"
        ))
    })
}

/// Returns the SQL that `init` runs as a superuser, for a DBA to review.
pub fn sql() -> String {
    let databases = [CONTROL_DATABASE, server::DATA_DATABASE, migrate::TEMPLATE_DATABASE];
    let create: String = databases
        .iter()
        .map(|name| {
            format!(
                "create database {name} owner cordon_owner allow_connections false;\n\
                 revoke all on database {name} from public;\n"
            )
        })
        .collect();
    let revoke: String =
        databases.iter().map(|name| format!("-- in database {name}:\n{}", server::REVOKE_PUBLIC_SQL)).collect();
    format!("{}\n{create}\n{revoke}", server::ROLES_SQL)
}

/// Writes a file of settings that only its owner can read, and returns the password in it. An existing file keeps its
/// password. The file is renamed into place when it is complete.
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
        Some((before, parameters)) => format!("{before}/{CONTROL_DATABASE}?{parameters}"),
        None => format!("{url}{CONTROL_DATABASE}"),
    };
    let text = format!("{variable}='{url}'\nCORDON__KEYS__FILE='{}'\n", key_file.display());
    let temporary = path.with_extension("part");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    Ok(password)
}
