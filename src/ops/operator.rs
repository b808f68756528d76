//! What every operation starts from: the operator's login to the control database, the KMS, and sessions with any server's databases.
//! Never part of the server process.

use super::{OpsError, Result};
use crate::config::Settings;
use crate::crypto::{KekId, KeyFile, Kms, fresh_key};
use crate::db::connect::{self, Config};
use crate::db::schema::catalog::servers;
use crate::ids::ServerId;
use crate::tenant::keys::context;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use secrecy::{ExposeSecret, SecretString};
use std::path::PathBuf;
use std::sync::Arc;

/// A PostgreSQL server with all its logins.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = servers, check_for_backend(diesel::pg::Pg))]
pub struct ServerRow {
    /// Of the catalog's row.
    pub id: ServerId,
    /// For people.
    pub name: String,
    /// Connection parameters without a login.
    pub address: String,
    /// Where its shared and schema tenants live.
    pub data_database: String,
    /// Of `cordon_app`, wrapped.
    pub app_password: Vec<u8>,
    /// Of `cordon_keeper`, wrapped.
    pub keeper_password: Vec<u8>,
    /// Of `cordon_operator`, wrapped.
    pub operator_password: Vec<u8>,
    /// Where it stands, where that has been said.
    pub region: Option<String>,
}

/// The operator at work.
pub struct Operator {
    control: Config,
    /// Where keys are wrapped.
    pub kms: Arc<dyn Kms>,
}

impl Operator {
    /// From settings; connects to nothing yet.
    pub fn new(settings: &Settings) -> Result<Self> {
        let missing =
            |what: &str| OpsError::Usage(format!("{what} is not set; `cordon init` wrote it to operator.env"));
        let url = settings.catalog.operator_url.as_ref().ok_or_else(|| missing("catalog.operator_url"))?;
        let file: &PathBuf = settings.keys.file.as_ref().ok_or_else(|| missing("keys.file"))?;
        Ok(Self { control: connect::parse(url)?, kms: Arc::new(KeyFile::new(file)) })
    }

    /// From what `init` has at hand.
    pub(super) fn from_parts(control: Config, kms: Arc<dyn Kms>) -> Self {
        Self { control, kms }
    }

    /// A session with the control database.
    pub async fn control(&self) -> Result<AsyncPgConnection> {
        Ok(connect::open(&self.control).await?)
    }

    /// Connection parameters of the control database.
    pub fn control_config(&self) -> Config {
        self.control.clone()
    }

    /// All servers, oldest first.
    pub async fn servers(&self) -> Result<Vec<ServerRow>> {
        let mut control = self.control().await?;
        Ok(servers::table.select(ServerRow::as_select()).order(servers::created_at).load(&mut control).await?)
    }

    /// A server by name; the first one there was where no name is given.
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

    /// A server by id.
    pub async fn server_by_id(&self, id: ServerId) -> Result<ServerRow> {
        let found = self.servers().await?.into_iter().find(|server| server.id == id);
        found.ok_or_else(|| OpsError::Failed("the catalog names a server that it does not have".into()))
    }

    /// A session as `cordon_operator` with a database of a server.
    pub async fn session(&self, server: &ServerRow, database: &str) -> Result<AsyncPgConnection> {
        let password = self.password("operator", server.id, &server.operator_password).await?;
        Ok(connect::open(&login(&server.address, "cordon_operator", &password, database)?).await?)
    }

    /// Connection parameters of `cordon_keeper` for a database of a server.
    pub async fn keeper(&self, server: &ServerRow, database: &str) -> Result<Config> {
        let password = self.password("keeper", server.id, &server.keeper_password).await?;
        login(&server.address, "cordon_keeper", &password, database)
    }

    /// Opens a wrapped password.
    pub async fn password(&self, kind: &str, of: impl std::fmt::Display, wrapped: &[u8]) -> Result<SecretString> {
        let plain = self.kms.unwrap(KekId::System, &context(kind, of, 1), wrapped).await?;
        let text =
            std::str::from_utf8(&plain).map_err(|_| OpsError::Failed("a wrapped password is not text".into()))?;
        Ok(SecretString::from(text))
    }

    /// Wraps a password under the system's key.
    pub async fn wrap_password(
        &self,
        kind: &str,
        of: impl std::fmt::Display,
        password: &SecretString,
    ) -> Result<Vec<u8>> {
        Ok(self.kms.wrap(KekId::System, &context(kind, of, 1), password.expose_secret().as_bytes()).await?)
    }
}

/// 32 random bytes as hex: safe in URLs and SQL.
pub fn fresh_password() -> SecretString {
    SecretString::from(crate::audit::hex(&fresh_key()))
}

/// Connection parameters of one login.
pub fn login(address: &str, user: &str, password: &SecretString, database: &str) -> Result<Config> {
    let mut config = connect::parse(&address.into())?;
    config.user(user).password(password.expose_secret()).dbname(database);
    Ok(config)
}

/// Sets a login's password without PostgreSQL, its log or its statistics seeing it: only the SCRAM verifier travels.
pub async fn set_password(session: &mut AsyncPgConnection, login: &str, password: &SecretString) -> Result<()> {
    let verifier = postgres_protocol::password::scram_sha_256(password.expose_secret().as_bytes());
    diesel::sql_query(format!("alter role {login} password '{verifier}'")).execute(session).await?;
    Ok(())
}
