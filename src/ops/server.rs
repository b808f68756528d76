//! Prepares a PostgreSQL server for tenants: roles, the data database and the template, rights revoked from PUBLIC,
//! migrations and binding keys. It needs a superuser once. Later operations use the operator's login.

use super::migrate::{self, MigrationTarget, TEMPLATE_DATABASE};
use super::operation_log::OperationRecord;
use super::operator::{Operator, ServerRow, fresh_password, set_password};
use super::{OpsError, Result};
use crate::crypto::{KekId, fresh_key};
use crate::db::connect::{self, Config};
use crate::db::migrate::{Direction, MigrationSet};
use crate::db::schema::catalog::{servers, wrapped_keys};
use crate::ids::ServerId;
use crate::tenant::catalog::CHANNEL;
use crate::tenant::keys::wrap_context;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Integer, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use secrecy::SecretString;
use uuid::Uuid;

/// The SQL that creates the roles of a server. It is idempotent.
pub const ROLES_SQL: &str = include_str!("init/server.sql");
/// The SQL that revokes rights from PUBLIC in a database. It is idempotent.
pub const REVOKE_PUBLIC_SQL: &str = concat!(
    "create or replace temporary view reaching as\n",
    include_str!("../isolation/reaching_functions.sql"),
    ";\n",
    include_str!("init/public.sql")
);
/// The name of the database of shared and schema tenants.
pub const DATA_DATABASE: &str = "cordon_data";

/// Registers a server under `name` and prepares it. Running it again adds what is missing. `admin` is a superuser's
/// login.
pub async fn add(
    operator: &Operator,
    name: &str,
    admin: &Config,
    operator_password: &SecretString,
) -> Result<ServerId> {
    let mut control = operator.control().await?;
    let log = OperationRecord::begin(&mut control, "server.add", None, name).await?;
    let outcome = prepare(operator, &mut control, &log, name, admin, operator_password).await;
    log.end(&mut control, outcome).await
}

async fn prepare(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    log: &OperationRecord,
    name: &str,
    admin: &Config,
    operator_password: &SecretString,
) -> Result<ServerId> {
    let mut superuser = open_as_admin(admin, "postgres").await?;
    let system = system_identifier(control, &mut superuser, name).await?;
    log.step(control, "roles").await?;
    superuser.batch_execute(ROLES_SQL).await?;
    set_password(&mut superuser, "cordon_operator", operator_password).await?;

    log.step(control, "passwords").await?;
    let server = register(operator, control, name, system, &address_of(admin)?, operator_password).await?;
    for (login, kind, wrapped) in
        [("cordon_app", "app", &server.app_password), ("cordon_keeper", "keeper", &server.keeper_password)]
    {
        set_password(&mut superuser, login, &operator.unwrap_password(kind, server.id, wrapped).await?).await?;
    }

    log.step(control, "databases").await?;
    prepare_database(&mut superuser, admin, DATA_DATABASE, &["cordon_app", "cordon_keeper", "cordon_operator"]).await?;
    prepare_database(&mut superuser, admin, TEMPLATE_DATABASE, &["cordon_operator"]).await?;

    log.step(control, "migrations").await?;
    for database in [TEMPLATE_DATABASE, DATA_DATABASE] {
        migrate::run(
            operator,
            &target(&server, database, migrate::HISTORY_SCHEMA, MigrationSet::Database),
            Direction::Up,
        )
        .await?;
    }
    install_binding_key(operator, control, &server, DATA_DATABASE).await?;
    create_schema(&mut operator.session(&server, DATA_DATABASE).await?, "shared").await?;
    migrate::run(operator, &target(&server, DATA_DATABASE, "shared", MigrationSet::Tenant), Direction::Up).await?;
    Ok(server.id)
}

/// Sets the region of a server and notifies every replica.
pub async fn set_region(operator: &Operator, name: &str, region: &str) -> Result<ServerId> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(1..=39).contains(&region.len()) || region.starts_with('-') || !region.chars().all(is_allowed) {
        return Err(OpsError::Usage("a region is written in a-z, 0-9 and -".into()));
    }
    let server = operator.server(Some(name)).await?;
    let mut control = operator.control().await?;
    control
        .transaction::<_, diesel::result::Error, _>(async |control| {
            let row = servers::table.filter(servers::id.eq(server.id));
            diesel::update(row).set(servers::region.eq(region)).execute(control).await?;
            control.batch_execute(&format!("notify {CHANNEL}")).await
        })
        .await?;
    Ok(server.id)
}

/// Returns PostgreSQL's system identifier. A server that is registered under another name is refused, and so is the
/// name of another server, because preparing it again would change passwords that the other registration uses.
async fn system_identifier(
    control: &mut AsyncPgConnection,
    superuser: &mut AsyncPgConnection,
    name: &str,
) -> Result<i64> {
    let query = diesel::select(diesel::dsl::sql::<BigInt>("(select system_identifier from pg_control_system())"));
    let system: i64 = query.get_result(superuser).await?;
    let same_name_or_system = servers::name.eq(name).or(servers::system_identifier.eq(system));
    let known: Vec<(String, i64)> = servers::table
        .select((servers::name, servers::system_identifier))
        .filter(same_name_or_system)
        .load(control)
        .await?;
    match known.into_iter().find(|known| *known != (name.to_owned(), system)) {
        Some((other, _)) if other == name => Err(OpsError::Refused(format!("{name} is the name of another server"))),
        Some((other, _)) => Err(OpsError::Refused(format!("this server is registered already, as {other}"))),
        None => Ok(system),
    }
}

/// Returns the catalog's row of the server. A new row gets fresh passwords for the app and keeper logins.
async fn register(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    name: &str,
    system: i64,
    address: &str,
    operator_password: &SecretString,
) -> Result<ServerRow> {
    let row = servers::table.filter(servers::name.eq(name));
    let found: Option<ServerRow> = row.select(ServerRow::as_select()).first(control).await.optional()?;
    let id = found.as_ref().map_or_else(ServerId::new, |server| server.id);
    let operator_wrapped = operator.wrap_password("operator", id, operator_password).await?;
    match found {
        // The server may have a new address.
        Some(_) => {
            diesel::update(row)
                .set((servers::operator_password.eq(operator_wrapped), servers::address.eq(address)))
                .execute(control)
                .await?;
        }
        None => {
            let app = operator.wrap_password("app", id, &fresh_password()).await?;
            let keeper = operator.wrap_password("keeper", id, &fresh_password()).await?;
            diesel::insert_into(servers::table)
                .values((
                    servers::id.eq(id),
                    servers::name.eq(name),
                    servers::system_identifier.eq(system),
                    servers::address.eq(address),
                    servers::data_database.eq(DATA_DATABASE),
                    servers::app_password.eq(app),
                    servers::keeper_password.eq(keeper),
                    servers::operator_password.eq(operator_wrapped),
                ))
                .execute(control)
                .await?;
        }
    }
    Ok(row.select(ServerRow::as_select()).first(control).await?)
}

/// Creates a database owned by `cordon_owner` to which only `logins` may connect, and revokes the rights of PUBLIC in
/// it.
pub(super) async fn prepare_database(
    superuser: &mut AsyncPgConnection,
    admin: &Config,
    name: &str,
    logins: &[&str],
) -> Result<()> {
    create_database(superuser, name, None).await?;
    allow_logins(superuser, name, logins).await?;
    open_as_admin(admin, name).await?.batch_execute(REVOKE_PUBLIC_SQL).await?;
    Ok(())
}

/// Creates a database unless it exists. No login can connect to a new database.
pub(super) async fn create_database(session: &mut AsyncPgConnection, name: &str, template: Option<&str>) -> Result<()> {
    let existing: i64 = diesel::select(
        diesel::dsl::sql::<BigInt>("(select count(*) from pg_database where datname = ").bind::<Text, _>(name).sql(")"),
    )
    .get_result(session)
    .await?;
    if existing == 0 {
        let template = template.map(|template| format!(" template {template}")).unwrap_or_default();
        session
            .batch_execute(&format!("create database {name} owner cordon_owner{template} allow_connections false"))
            .await?;
    }
    Ok(())
}

/// Revokes CONNECT and TEMPORARY from PUBLIC, grants CONNECT to `logins`, and only then allows connections.
pub(super) async fn allow_logins(session: &mut AsyncPgConnection, name: &str, logins: &[&str]) -> Result<()> {
    let logins = logins.join(", ");
    session
        .batch_execute(&format!(
            "revoke all on database {name} from public; grant connect on database {name} to {logins}; \
             alter database {name} allow_connections true"
        ))
        .await?;
    Ok(())
}

/// Creates an empty tenant schema that the logins that run tenant SQL may use.
pub(super) async fn create_schema(session: &mut AsyncPgConnection, schema: &str) -> Result<()> {
    session
        .batch_execute(&format!(
            "create schema if not exists {schema} authorization cordon_owner; \
             revoke all on schema {schema} from public; \
             do $$ begin execute format('grant usage on schema {schema} to %I, cordon_keeper, cordon_guard', \
             cordon.app_login()); end $$"
        ))
        .await?;
    Ok(())
}

/// Installs the binding key of a database: a new key is first stored in the catalog, wrapped, and then in the database.
/// An existing key is not changed.
pub(super) async fn install_binding_key(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    server: &ServerRow,
    database: &str,
) -> Result<()> {
    const VERSION: i32 = 1;
    let context = wrap_context("binding", format_args!("{}/{database}", server.id), VERSION);
    let fresh = operator.kms.wrap(KekId::System, &context, &fresh_key()).await?;
    diesel::insert_into(wrapped_keys::table)
        .values((
            wrapped_keys::id.eq(Uuid::now_v7()),
            wrapped_keys::server_id.eq(server.id.0),
            wrapped_keys::database_name.eq(database),
            wrapped_keys::kind.eq("binding"),
            wrapped_keys::version.eq(VERSION),
            wrapped_keys::wrapped.eq(fresh),
        ))
        .on_conflict_do_nothing()
        .execute(control)
        .await?;
    let stored: Vec<u8> = wrapped_keys::table
        .select(wrapped_keys::wrapped)
        .filter(wrapped_keys::kind.eq("binding").and(wrapped_keys::version.eq(VERSION)))
        .filter(wrapped_keys::server_id.eq(server.id.0).and(wrapped_keys::database_name.eq(database)))
        .first(control)
        .await?;
    let key = operator.kms.unwrap(KekId::System, &context, &stored).await?;
    // The database holds the two padded blocks of HMAC instead of the key.
    let padded = |pad: u8| -> Vec<u8> { (0..64).map(|index| key.get(index).copied().unwrap_or(0) ^ pad).collect() };
    diesel::sql_query(
        "insert into cordon.binding_keys (kid, ipad, opad) values ($1, $2, $3) on conflict (kid) do nothing",
    )
    .bind::<Integer, _>(VERSION)
    .bind::<Binary, _>(padded(0x36))
    .bind::<Binary, _>(padded(0x5c))
    .execute(&mut operator.session(server, database).await?)
    .await?;
    Ok(())
}

pub(super) fn target(server: &ServerRow, database: &str, schema: &str, set: MigrationSet) -> MigrationTarget {
    MigrationTarget { server: Some(server.clone()), database: database.into(), schema: schema.into(), set, slug: None }
}

/// Returns the connection URL of a server without login and database.
pub(super) fn address_of(config: &Config) -> Result<String> {
    connect::address(config).ok_or_else(|| OpsError::Usage("the URL names no host".into()))
}

pub(super) async fn open_as_admin(admin: &Config, database: &str) -> Result<AsyncPgConnection> {
    let mut config = admin.clone();
    config.dbname(database);
    Ok(connect::open(&config).await?)
}
