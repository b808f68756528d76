//! Rows of the catalog and their queries. Each query names its columns by a struct, so that a renamed column breaks the
//! build.

use crate::db::schema::catalog::{placements, servers, tenants, wrapped_keys};
use crate::error::Error;
use crate::ids::{PlacementId, ServerId, TenantId};
use crate::tenant::{Origin, Placement, State, TenancyModel, Tenant, TenantSettings};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// A PostgreSQL server, as much of it as the server process may know.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = servers)]
pub struct Server {
    /// Key of the catalog's row.
    pub id: ServerId,
    /// Connection parameters without a login.
    pub address: String,
    /// The wrapped password of `cordon_app`.
    pub app_password: Vec<u8>,
}

/// The database of a server in which its shared and schema tenants are.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = servers)]
pub struct ServerDatabase {
    /// Key of the server's row.
    #[diesel(column_name = id)]
    pub server: ServerId,
    /// The server's unique name, for log lines.
    pub name: String,
    /// The database's name.
    #[diesel(column_name = data_database)]
    pub database: String,
}

/// A key as the catalog keeps it: encrypted by the KMS.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = wrapped_keys)]
pub struct WrappedKey {
    /// `data`, `search`, `signing` or `binding`.
    pub kind: String,
    /// Counts the keys of one kind of a tenant or of a database.
    pub version: i32,
    /// The ciphertext that the KMS returned.
    pub wrapped: Vec<u8>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = tenants)]
struct TenantRow {
    id: TenantId,
    slug: String,
    name: String,
    plan: String,
    state: String,
    #[diesel(embed)]
    settings: SettingsRow,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = tenants)]
struct SettingsRow {
    origins: Vec<String>,
    statement_timeout_ms: Option<i32>,
    requests_per_second: Option<i32>,
    concurrency: Option<i32>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = placements)]
struct PlacementRow {
    id: PlacementId,
    server_id: ServerId,
    model: String,
    database_name: String,
    schema_name: String,
    generation: i32,
}

/// Loads tenants with their serving placement, ordered by slug: all of them, or the one with the id `only`.
pub async fn load_tenants(session: &mut AsyncPgConnection, only: Option<TenantId>) -> QueryResult<Vec<Tenant>> {
    let mut query = tenants::table
        .left_join(placements::table.on(placements::tenant_id.eq(tenants::id).and(placements::serving)))
        .left_join(servers::table.on(servers::id.eq(placements::server_id)))
        .select((TenantRow::as_select(), Option::<PlacementRow>::as_select(), servers::region.nullable()))
        .order(tenants::slug)
        .into_boxed();
    if let Some(id) = only {
        query = query.filter(tenants::id.eq(id));
    }
    let rows: Vec<(TenantRow, Option<PlacementRow>, Option<String>)> = query.load(session).await?;
    rows.into_iter().map(|(tenant, placement, region)| tenant.assemble(placement, region)).collect()
}

pub(super) async fn server(session: &mut AsyncPgConnection, id: ServerId) -> QueryResult<Option<Server>> {
    servers::table.filter(servers::id.eq(id)).select(Server::as_select()).first(session).await.optional()
}

pub(super) async fn server_databases(session: &mut AsyncPgConnection) -> QueryResult<Vec<ServerDatabase>> {
    servers::table.order(servers::name).select(ServerDatabase::as_select()).load(session).await
}

pub(super) async fn own_password(
    session: &mut AsyncPgConnection,
    placement: PlacementId,
) -> QueryResult<Option<Vec<u8>>> {
    let password = placements::table.filter(placements::id.eq(placement)).select(placements::app_password);
    password.first::<Option<Vec<u8>>>(session).await.optional().map(Option::flatten)
}

pub(super) async fn tenant_keys(session: &mut AsyncPgConnection, tenant: TenantId) -> QueryResult<Vec<WrappedKey>> {
    let keys = wrapped_keys::table.filter(wrapped_keys::tenant_id.eq(tenant.0));
    keys.select(WrappedKey::as_select()).load(session).await
}

pub(super) async fn binding_key(
    session: &mut AsyncPgConnection,
    server: ServerId,
    database: &str,
) -> QueryResult<Option<WrappedKey>> {
    wrapped_keys::table
        .filter(wrapped_keys::kind.eq("binding").and(wrapped_keys::server_id.eq(server.0)))
        .filter(wrapped_keys::database_name.eq(database))
        .order(wrapped_keys::version.desc())
        .select(WrappedKey::as_select())
        .first(session)
        .await
        .optional()
}

pub(super) async fn add_security_event(session: &mut AsyncPgConnection, kind: &str, times: i64) -> QueryResult<()> {
    let count = diesel::sql_query("select cordon_catalog.note_security_event($1, '', $2)");
    count.bind::<Text, _>(kind).bind::<BigInt, _>(times).execute(session).await.map(|_| ())
}

impl TenantRow {
    fn assemble(self, placement: Option<PlacementRow>, region: Option<String>) -> QueryResult<Tenant> {
        let Self { id, slug, name, plan, state, settings } = self;
        let placement = placement.map(|row| row.assemble(region)).transpose()?;
        let state: State = state.parse().map_err(unreadable)?;
        Ok(Tenant { id, slug, name, plan, state, settings: settings.into(), placement })
    }
}

impl PlacementRow {
    fn assemble(self, region: Option<String>) -> QueryResult<Placement> {
        let Self { id, server_id: server, model, database_name: database, schema_name, generation } = self;
        let model: TenancyModel = model.parse().map_err(unreadable)?;
        let schema = schema_name.parse().map_err(|error: Error| unreadable(error.to_string()))?;
        Ok(Placement { id, server, region, model, database, schema, generation })
    }
}

/// A stored origin that is malformed is left out, so that it allows nobody.
impl From<SettingsRow> for TenantSettings {
    fn from(row: SettingsRow) -> Self {
        let number = |column: Option<i32>| column.and_then(|column| u32::try_from(column).ok());
        Self {
            origins: row.origins.iter().filter_map(|origin| origin.parse::<Origin>().ok()).collect(),
            statement_timeout_ms: number(row.statement_timeout_ms),
            requests_per_second: number(row.requests_per_second),
            concurrency: number(row.concurrency),
        }
    }
}

fn unreadable(what: String) -> diesel::result::Error {
    diesel::result::Error::DeserializationError(what.into())
}
