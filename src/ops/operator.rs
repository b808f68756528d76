//! The operator: the login to the control database, the KMS, and sessions in the databases of all servers. Every
//! operation starts from it, and the server process never has it.

use super::{OpsError, Result};
use crate::config::Settings;
use crate::crypto::{KekId, KeyFile, Kms, fresh_key};
use crate::db::connect::{self, Config};
use crate::db::schema::catalog::servers;
use crate::ids::ServerId;
use crate::tenant::keys::wrap_context;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::sync::Arc;

/// The catalog's row of a PostgreSQL server, with the passwords of its logins.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = servers, check_for_backend(diesel::pg::Pg))]
pub struct ServerRow {
    /// The id of the catalog's row.
    pub id: ServerId,
    /// The unique name, by which operators refer to the server.
    pub name: String,
    /// A connection URL without login and database.
    pub address: String,
    /// The database of the server's shared and schema tenants.
    pub data_database: String,
    /// The password of `cordon_app`, wrapped with the system's key.
    pub app_password: Vec<u8>,
    /// The password of `cordon_keeper`, wrapped with the system's key.
    pub keeper_password: Vec<u8>,
    /// The password of `cordon_operator`, wrapped with the system's key.
    pub operator_password: Vec<u8>,
    /// The region of the server, if the operator has set it.
    pub region: Option<String>,
}

/// The access that operations have: the operator's login to the control database, and the KMS.
pub struct Operator {
    control: Config,
    /// The KMS that wraps keys and passwords.
    pub kms: Arc<dyn Kms>,
}

impl Operator {
    /// Creates the operator from the settings. It does not connect. A missing setting is a `Usage` error.
    pub fn new(settings: &Settings) -> Result<Self> {
        let missing =
            |what: &str| OpsError::Usage(format!("{what} is not set; `cordon init` wrote it to operator.env"));
        let url = settings.catalog.operator_url.as_ref().ok_or_else(|| missing("catalog.operator_url"))?;
        let file: &PathBuf = settings.keys.file.as_ref().ok_or_else(|| missing("keys.file"))?;
        Ok(Self { control: connect::parse(url)?, kms: Arc::new(KeyFile::new(file)) })
    }

    /// Creates the operator from its parts, for `init`, which has no settings yet.
    pub(super) fn from_parts(control: Config, kms: Arc<dyn Kms>) -> Self {
        Self { control, kms }
    }

    /// Opens a session in the control database.
    pub async fn control(&self) -> Result<AsyncPgConnection> {
        Ok(connect::open(&self.control).await?)
    }

    /// Returns the connection parameters of the control database.
    pub fn control_config(&self) -> Config {
        self.control.clone()
    }

    /// Returns all servers, oldest first.
    pub async fn servers(&self) -> Result<Vec<ServerRow>> {
        let mut control = self.control().await?;
        Ok(servers::table.select(ServerRow::as_select()).order(servers::created_at).load(&mut control).await?)
    }

    /// Returns the server with this name, or the oldest one without a name.
    pub async fn server(&self, name: Option<&str>) -> Result<ServerRow> {
        let all = self.servers().await?;
        let found = match name {
            Some(name) => all.into_iter().find(|server| server.name == name),
            None => all.into_iter().next(),
        };
        found.ok_or_else(|| {
            OpsError::Usage(format!("there is no server {}; see `cordon server list`", name.unwrap_or("yet")))
        })
    }

    /// Returns the server with this id.
    pub async fn server_by_id(&self, id: ServerId) -> Result<ServerRow> {
        let found = self.servers().await?.into_iter().find(|server| server.id == id);
        found.ok_or_else(|| OpsError::Failed("the catalog names a server that it does not have".into()))
    }

    /// Opens a session as `cordon_operator` in a database of a server.
    pub async fn session(&self, server: &ServerRow, database: &str) -> Result<AsyncPgConnection> {
        let password = self.unwrap_password("operator", server.id, &server.operator_password).await?;
        Ok(connect::open(&login_config(&server.address, "cordon_operator", &password, database)?).await?)
    }

    /// Returns the connection parameters of `cordon_keeper` for a database of a server.
    pub async fn keeper_config(&self, server: &ServerRow, database: &str) -> Result<Config> {
        let password = self.unwrap_password("keeper", server.id, &server.keeper_password).await?;
        login_config(&server.address, "cordon_keeper", &password, database)
    }

    /// Unwraps a password that `wrap_password` has wrapped for the same kind and owner.
    pub async fn unwrap_password(
        &self,
        kind: &str,
        owner: impl std::fmt::Display,
        wrapped: &[u8],
    ) -> Result<SecretString> {
        let plain = self.kms.unwrap(KekId::System, &wrap_context(kind, owner, 1), wrapped).await?;
        let text =
            std::str::from_utf8(&plain).map_err(|_| OpsError::Failed("a wrapped password is not text".into()))?;
        Ok(SecretString::from(text))
    }

    /// Wraps a password with the system's key. `kind` and `owner`, the id of a server or placement, are authenticated
    /// with it.
    pub async fn wrap_password(
        &self,
        kind: &str,
        owner: impl std::fmt::Display,
        password: &SecretString,
    ) -> Result<Vec<u8>> {
        Ok(self.kms.wrap(KekId::System, &wrap_context(kind, owner, 1), password.expose_secret().as_bytes()).await?)
    }
}

/// Returns 32 random bytes in hexadecimal, which need no escaping in URLs and SQL.
pub fn fresh_password() -> SecretString {
    SecretString::from(crate::audit::hex(&fresh_key()))
}

/// Returns the connection parameters of a login to a database.
pub fn login_config(address: &str, user: &str, password: &SecretString, database: &str) -> Result<Config> {
    let mut config = connect::parse(&address.into())?;
    config.user(user).password(password.expose_secret()).dbname(database);
    Ok(config)
}

/// Sets the password of a login. Only the SCRAM verifier is sent, so that the password does not reach PostgreSQL, its
/// log or its statistics.
pub async fn set_password(session: &mut AsyncPgConnection, login: &str, password: &SecretString) -> Result<()> {
    let verifier = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
    diesel::sql_query(format!("alter role {login} password '{verifier}'")).execute(session).await?;
    Ok(())
}
