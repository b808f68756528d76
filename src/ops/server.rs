//! Making a PostgreSQL server ready for tenants: roles, the data database and the template, rights taken back from PUBLIC, migrations,
//! binding keys. Needs a superuser once; everything later is the operator's.

use super::log::Operation;
use super::migrate::{self, TEMPLATE, Target};
use super::operator::{Operator, ServerRow, fresh_password, set_password};
use super::{OpsError, Result};
use crate::crypto::{KekId, fresh_key};
use crate::db::connect::{self, Config};
use crate::db::migrate::{Direction, Set};
use crate::db::schema::catalog::{servers, wrapped_keys};
use crate::ids::ServerId;
use crate::tenant::catalog::CHANNEL;
use crate::tenant::keys::context;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Integer, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use secrecy::SecretString;
use uuid::Uuid;

/// Roles of a server; idempotent.
pub const ROLES: &str = include_str!("init/server.sql");
/// What is taken back from PUBLIC in each database; idempotent.
pub const PUBLIC: &str = include_str!("init/public.sql");
/// The database of shared and schema tenants.
pub const DATA: &str = "cordon_data";

/// Registers a server under `name` and makes it ready. Running it again repairs what is missing.
pub async fn add(
    operator: &Operator,
    name: &str,
    admin: &Config,
    operator_password: &SecretString,
) -> Result<ServerId> {
    let mut control = operator.control().await?;
    let log = Operation::begin(&mut control, "server.add", None, name).await?;
    let outcome = prepare(operator, &mut control, &log, name, admin, operator_password).await;
    log.end(&mut control, outcome).await
}

async fn prepare(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    log: &Operation,
    name: &str,
    admin: &Config,
    operator_password: &SecretString,
) -> Result<ServerId> {
    let mut superuser = open_as_admin(admin, "postgres").await?;
    let system = identify(control, &mut superuser, name).await?;
    log.step(control, "roles").await?;
    superuser.batch_execute(ROLES).await?;
    set_password(&mut superuser, "cordon_operator", operator_password).await?;

    log.step(control, "passwords").await?;
    let server = register(operator, control, name, system, &address_of(admin)?, operator_password).await?;
    for (login, kind, wrapped) in
        [("cordon_app", "app", &server.app_password), ("cordon_keeper", "keeper", &server.keeper_password)]
    {
        set_password(&mut superuser, login, &operator.password(kind, server.id, wrapped).await?).await?;
    }

    log.step(control, "databases").await?;
    make_database(&mut superuser, admin, DATA, &["cordon_app", "cordon_keeper", "cordon_operator"]).await?;
    make_database(&mut superuser, admin, TEMPLATE, &["cordon_operator"]).await?;

    log.step(control, "migrations").await?;
    for database in [TEMPLATE, DATA] {
        migrate::run(operator, &target(&server, database, "cordon_migrations", Set::Database), Direction::Up).await?;
    }
    bind_database(operator, control, &server, DATA).await?;
    make_schema(&mut operator.session(&server, DATA).await?, "shared").await?;
    migrate::run(operator, &target(&server, DATA, "shared", Set::Tenant), Direction::Up).await?;
    Ok(server.id)
}

/// Says where a server stands, and tells every replica.
pub async fn locate(operator: &Operator, name: &str, region: &str) -> Result<ServerId> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !(1..=39).contains(&region.len()) || region.starts_with('-') || !region.chars().all(plain) {
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

/// PostgreSQL's identifier of itself. Refused where another name stands for this server, or this name for another server: making it ready
/// again would change the passwords the other relies on.
async fn identify(control: &mut AsyncPgConnection, superuser: &mut AsyncPgConnection, name: &str) -> Result<i64> {
    let ask = diesel::select(diesel::dsl::sql::<BigInt>("(select system_identifier from pg_control_system())"));
    let system: i64 = ask.get_result(superuser).await?;
    let same = servers::name.eq(name).or(servers::system_identifier.eq(system));
    let known: Vec<(String, i64)> =
        servers::table.select((servers::name, servers::system_identifier)).filter(same).load(control).await?;
    match known.into_iter().find(|known| *known != (name.to_owned(), system)) {
        Some((other, _)) if other == name => Err(OpsError::Refused(format!("{name} is the name of another server"))),
        Some((other, _)) => Err(OpsError::Refused(format!("this server is registered already, as {other}"))),
        None => Ok(system),
    }
}

/// The catalog's row, made with fresh passwords where there is none.
async fn register(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    name: &str,
    system: i64,
    address: &str,
    operator_password: &SecretString,
) -> Result<ServerRow> {
    let mine = servers::table.filter(servers::name.eq(name));
    let found: Option<ServerRow> = mine.select(ServerRow::as_select()).first(control).await.optional()?;
    let id = found.as_ref().map_or_else(ServerId::new, |server| server.id);
    let operator_wrapped = operator.wrap_password("operator", id, operator_password).await?;
    match found {
        // The same server, reached another way: the address follows.
        Some(_) => {
            diesel::update(mine)
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
                    servers::data_database.eq(DATA),
                    servers::app_password.eq(app),
                    servers::keeper_password.eq(keeper),
                    servers::operator_password.eq(operator_wrapped),
                ))
                .execute(control)
                .await?;
        }
    }
    Ok(mine.select(ServerRow::as_select()).first(control).await?)
}

/// A database owned by `cordon_owner` into which only `logins` may, with PUBLIC's rights taken back.
pub(super) async fn make_database(
    superuser: &mut AsyncPgConnection,
    admin: &Config,
    name: &str,
    logins: &[&str],
) -> Result<()> {
    create_database(superuser, name, None).await?;
    allow_logins(superuser, name, logins).await?;
    open_as_admin(admin, name).await?.batch_execute(PUBLIC).await?;
    Ok(())
}

/// Creates a database that is not there, open to nobody.
pub(super) async fn create_database(session: &mut AsyncPgConnection, name: &str, template: Option<&str>) -> Result<()> {
    let there: i64 = diesel::select(
        diesel::dsl::sql::<BigInt>("(select count(*) from pg_database where datname = ").bind::<Text, _>(name).sql(")"),
    )
    .get_result(session)
    .await?;
    if there == 0 {
        let template = template.map(|template| format!(" template {template}")).unwrap_or_default();
        session
            .batch_execute(&format!("create database {name} owner cordon_owner{template} allow_connections false"))
            .await?;
    }
    Ok(())
}

/// Takes CONNECT and TEMPORARY from PUBLIC, gives CONNECT to `logins`, and only then lets anyone in.
pub(super) async fn allow_logins(session: &mut AsyncPgConnection, name: &str, logins: &[&str]) -> Result<()> {
    let logins = logins.join(", ");
    session
        .batch_execute(&format!(
            "revoke all on database {name} from public; grant connect on database {name} to {logins}; alter database {name} allow_connections true"
        ))
        .await?;
    Ok(())
}

/// A tenant schema, empty, usable by those who run tenant SQL.
pub(super) async fn make_schema(session: &mut AsyncPgConnection, schema: &str) -> Result<()> {
    session
        .batch_execute(&format!(
            "create schema if not exists {schema} authorization cordon_owner; revoke all on schema {schema} from public; \
             do $$ begin execute format('grant usage on schema {schema} to %I, cordon_keeper, cordon_guard', cordon.app_login()); end $$"
        ))
        .await?;
    Ok(())
}

/// Gives a database its binding key: first wrapped into the catalog, then into the database.
pub(super) async fn bind_database(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    server: &ServerRow,
    database: &str,
) -> Result<()> {
    const VERSION: i32 = 1;
    let about = context("binding", format_args!("{}/{database}", server.id), VERSION);
    let fresh = operator.kms.wrap(KekId::System, &about, &fresh_key()).await?;
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
    let kept: Vec<u8> = wrapped_keys::table
        .select(wrapped_keys::wrapped)
        .filter(wrapped_keys::kind.eq("binding").and(wrapped_keys::version.eq(VERSION)))
        .filter(wrapped_keys::server_id.eq(server.id.0).and(wrapped_keys::database_name.eq(database)))
        .first(control)
        .await?;
    let key = operator.kms.unwrap(KekId::System, &about, &kept).await?;
    let block = |pad: u8| -> Vec<u8> { (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ pad).collect() };
    diesel::sql_query(
        "insert into cordon.binding_keys (kid, ipad, opad) values ($1, $2, $3) on conflict (kid) do nothing",
    )
    .bind::<Integer, _>(VERSION)
    .bind::<Binary, _>(block(0x36))
    .bind::<Binary, _>(block(0x5c))
    .execute(&mut operator.session(server, database).await?)
    .await?;
    Ok(())
}

pub(super) fn target(server: &ServerRow, database: &str, schema: &str, set: Set) -> Target {
    Target { server: Some(server.clone()), database: database.into(), schema: schema.into(), set, slug: None }
}

/// Where a server is, without who logs in.
pub(super) fn address_of(config: &Config) -> Result<String> {
    connect::address(config).ok_or_else(|| OpsError::Usage("the URL names no host".into()))
}

pub(super) async fn open_as_admin(admin: &Config, database: &str) -> Result<AsyncPgConnection> {
    let mut config = admin.clone();
    config.dbname(database);
    Ok(connect::open(&config).await?)
}
