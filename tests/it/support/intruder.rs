//! An intruder: a session that runs arbitrary SQL with the server's own database role, and that can sign tickets with
//! the real binding key.

use crate::support::marked_chart::MarkedChart;
use crate::support::site::{Site, connect_session};
use aws_lc_rs::digest::{SHA256, digest};
use cordon::app::App;
use cordon::audit::hex;
use cordon::ids::TenantId;
use cordon::tenant::{TenancyModel, Tenant, own_database_name};
use secrecy::ExposeSecret;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use uuid::Uuid;

/// Returns how to connect to a tenant's database as the role that runs the tenant's SQL.
pub async fn login(site: &Site, app: &App, tenant: &Tenant) -> Config {
    let placement = tenant.placement.as_ref().unwrap();
    let (user, password) = match placement.model {
        TenancyModel::Database => {
            let wrapped = app.catalog.own_password(placement.id).await.unwrap();
            (own_database_name(tenant.id), app.keys.own_password(placement.id, &wrapped).await.unwrap())
        }
        TenancyModel::Shared | TenancyModel::Schema => {
            let server = app.catalog.server(placement.server).await.unwrap();
            ("cordon_app".to_owned(), app.keys.app_password(server.id, &server.app_password).await.unwrap())
        }
    };
    let mut config = site.admin.clone();
    config.user(user).password(password.expose_secret()).dbname(&placement.database);
    config
}

/// The fields of a ticket. Tests change one of them at a time.
#[derive(Clone)]
pub struct TicketFields {
    pub kid: i32,
    pub good_for_ms: i64,
    pub generation: i32,
    pub tenant: TenantId,
    pub roles: &'static str,
    pub purpose: &'static str,
    pub principal: Uuid,
}

impl TicketFields {
    pub fn of(tenant: TenantId, purpose: &'static str) -> Self {
        let principal = Uuid::now_v7();
        Self { kid: 1, good_for_ms: 8_000, generation: 1, tenant, roles: "clinician", purpose, principal }
    }
}

/// What `cordon.bind()` is called with, except for the MAC. Tests change a field after signing.
#[derive(Clone)]
pub struct BindArguments {
    pub kid: i32,
    pub number: i64,
    pub expiry_ms: i64,
    pub generation: i32,
    pub claims: String,
}

impl BindArguments {
    /// Returns the text that the MAC covers, for the backend `pid`.
    pub fn message(&self, pid: i32) -> String {
        let Self { number, expiry_ms, generation, claims, .. } = self;
        format!("bind.v2.{pid}.{number}.{expiry_ms}.{generation}.{claims}")
    }

    /// Returns the statement that binds.
    pub fn call(&self, mac: &str) -> String {
        let Self { kid, number, expiry_ms, generation, claims } = self;
        format!("select cordon.bind({kid}, {number}, {expiry_ms}, {generation}, '{claims}', '{mac}')")
    }
}

/// A hostile session of the server's role, and a superuser's session in the same database.
pub struct Intruder {
    pub session: Client,
    pub superuser: Client,
    pub pid: i32,
    /// The inner and outer block of the HMAC key.
    key: [Vec<u8>; 2],
}

impl Intruder {
    pub async fn connect(site: &Site, login: &Config) -> Self {
        Self::with_session(connect_session(login).await, site.superuser(login.get_dbname().unwrap()).await).await
    }

    /// Creates an intruder from an open session. The superuser reads the binding key of the database.
    pub async fn with_session(session: Client, superuser: Client) -> Self {
        let pid = session.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let row = superuser.query_one("select ipad, opad from cordon.binding_keys", &[]).await.unwrap();
        Self { session, superuser, pid, key: [row.get(0), row.get(1)] }
    }

    /// Returns the arguments that the guard would bind this session with next.
    pub async fn arguments(&self, ticket: &TicketFields) -> BindArguments {
        let opened: i64 = self.session.query_one("select cordon.open_session()", &[]).await.unwrap().get(0);
        Self::arguments_with(ticket, opened + 1)
    }

    fn arguments_with(ticket: &TicketFields, number: i64) -> BindArguments {
        let (id, caller) = (Uuid::now_v7().simple(), hex(br#"["test","intruder",null,null]"#));
        let TicketFields { kid, good_for_ms, generation, tenant, roles, purpose, principal } = ticket;
        let expiry_ms = chrono::Utc::now().timestamp_millis() + good_for_ms;
        let claims = format!("{},{},{roles},{purpose},{id},{caller},", tenant.0.simple(), principal.simple());
        BindArguments { kid: *kid, number, expiry_ms, generation: *generation, claims }
    }

    /// Returns the MAC of a message under the binding key of the database.
    pub fn mac(&self, message: &str) -> String {
        let [inner, outer] = &self.key;
        let sum = |block: &[u8], text: &[u8]| digest(&SHA256, &[block, text].concat());
        hex(sum(outer, sum(inner, message.as_bytes()).as_ref()).as_ref())
    }

    /// Returns the blocks of the binding key, so that a test can search for them in the output of PostgreSQL.
    pub fn key(&self) -> &[Vec<u8>; 2] {
        &self.key
    }

    /// Returns the statement that binds this session once, with a correctly signed ticket.
    pub async fn bind(&self, ticket: &TicketFields) -> String {
        let arguments = self.arguments(ticket).await;
        arguments.call(&self.mac(&arguments.message(self.pid)))
    }

    /// The same for a session that is not the intruder's.
    pub fn bind_other(&self, ticket: &TicketFields, pid: i32, number: i64) -> String {
        let arguments = Self::arguments_with(ticket, number);
        arguments.call(&self.mac(&arguments.message(pid)))
    }

    /// Runs `sql` in a transaction that starts with the statement `bind`; without one the transaction is unbound.
    /// Returns one line per row.
    pub async fn run(&self, path: &str, bind: &str, sql: &str) -> Result<String, SqlError> {
        self.query(&format!("begin; set local search_path = {path}, pg_temp; {bind}; {sql}; commit")).await
    }

    /// Runs `sql` bound to the tenant of `chart`, as the person who wrote it, for `purpose`.
    pub async fn run_as(&self, chart: &MarkedChart, purpose: &'static str, sql: &str) -> Result<String, SqlError> {
        let ticket = TicketFields { principal: chart.staff, ..TicketFields::of(chart.tenant.id, purpose) };
        let bind = self.bind(&ticket).await;
        self.run(chart.schema(), &bind, sql).await
    }

    /// Runs statements as they are, and rolls back after an error.
    pub async fn query(&self, sql: &str) -> Result<String, SqlError> {
        match self.session.simple_query(sql).await {
            Ok(messages) => Ok(messages.iter().filter_map(line).collect()),
            Err(error) => {
                self.session.batch_execute("rollback").await.unwrap();
                let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
                Err(SqlError {
                    code: error.code().code().to_owned(),
                    message: error.message().to_owned(),
                    full_text: format!("{error:?}"),
                })
            }
        }
    }
}

/// An error of PostgreSQL.
#[derive(Debug)]
pub struct SqlError {
    pub code: String,
    pub message: String,
    /// Includes detail, hint and the position in the source.
    pub full_text: String,
}

fn line(message: &SimpleQueryMessage) -> Option<String> {
    match message {
        SimpleQueryMessage::Row(row) => {
            let cells: Vec<_> = (0..row.len()).map(|at| row.get(at).unwrap_or("")).collect();
            Some(cells.join("\t") + "\n")
        }
        _ => None,
    }
}
