//! The server's view of the catalog: a copy in memory, kept fresh by NOTIFY and looked up again on a miss.
//! Reads as `cordon_catalog_reader`. A copy that is stale is harmless: the fence in the tenant's database has the last word.

use super::{Origin, Placement, State, TenancyModel, Tenant, TenantSettings};
use crate::db::connect::{self, Config};
use crate::db::fault::classify;
use crate::db::schema::catalog::{placements, servers, tenants, wrapped_keys};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use diesel::prelude::*;
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::StreamExt;
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard};

/// The channel on which changes are told. A payload is a tenant's id, or empty for "look at everything".
pub const CHANNEL: &str = "cordon_catalog";

/// A tenant that is not known is looked up in the catalog at most this often, so that made-up ids do not load it.
const MISS_FLOOR: Duration = Duration::from_millis(200);

/// A PostgreSQL server, as much of it as the server process may know.
#[derive(Debug, Clone)]
pub struct Server {
    /// Of the catalog's row.
    pub id: ServerId,
    /// Connection parameters without a login.
    pub address: String,
    /// Password of `cordon_app`, wrapped.
    pub app_password: Vec<u8>,
}

/// A wrapped key.
#[derive(Debug, Clone, Queryable)]
pub struct WrappedKey {
    /// `data`, `search`, `signing` or `binding`.
    pub kind: String,
    /// Of its kind.
    pub version: i32,
    /// As the KMS gave it.
    pub wrapped: Vec<u8>,
}

#[derive(Default)]
struct Snapshot {
    tenants: HashMap<TenantId, (Arc<Tenant>, Instant)>,
    missed: HashMap<TenantId, Instant>,
    /// Which active tenants allow an origin: asked by whoever likes, so it is one look.
    pages: HashMap<String, HashSet<TenantId>>,
}

impl Snapshot {
    fn put(&mut self, tenant: Arc<Tenant>) {
        self.remove(tenant.id);
        self.missed.remove(&tenant.id);
        if tenant.state == State::Active {
            for origin in &tenant.settings.origins {
                self.pages.entry(origin.as_str().to_owned()).or_default().insert(tenant.id);
            }
        }
        self.tenants.insert(tenant.id, (tenant, Instant::now()));
    }

    fn remove(&mut self, id: TenantId) {
        let Some((before, _)) = self.tenants.remove(&id) else { return };
        for origin in &before.settings.origins {
            if let Some(allowing) = self.pages.get_mut(origin.as_str()) {
                allowing.remove(&id);
            }
        }
        self.pages.retain(|_, allowing| !allowing.is_empty());
    }
}

/// The catalog, read.
pub struct Catalog {
    config: Config,
    copy: RwLock<Snapshot>,
    session: Mutex<Option<AsyncPgConnection>>,
    /// Held from the reading of a row to its place in the copy, so that an older row cannot come in after a newer one.
    refreshing: Mutex<()>,
}

impl Catalog {
    /// A catalog behind `config`; nothing is read yet.
    pub fn new(mut config: Config) -> Arc<Self> {
        // Everyone with an unknown tenant waits for this one session.
        config.options("-c statement_timeout=5000");
        Arc::new(Self { config, copy: RwLock::default(), session: Mutex::new(None), refreshing: Mutex::new(()) })
    }

    /// The tenant, from memory where it is known, else from the catalog. `None`: there is no such tenant.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        if let Some(known) = self.known(id) {
            return Ok(known);
        }
        self.refresh(id).await
    }

    /// Reads the tenant anew, as after the fence said that its placement changed.
    pub async fn refresh(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        let _turn = self.refreshing.lock().await;
        let mut reading = self.reading().await?;
        let rows = in_time(tenant_rows(&mut reading.session, Some(id))).await;
        let found = reading.done(rows)?.into_iter().next().map(Arc::new);
        let mut copy = self.copy.write();
        match &found {
            Some(tenant) => copy.put(Arc::clone(tenant)),
            None => {
                copy.remove(id);
                copy.missed.retain(|_, when| when.elapsed() < MISS_FLOOR);
                copy.missed.insert(id, Instant::now());
            }
        }
        Ok(found)
    }

    /// `Some(None)`: looked up a moment ago and not there. A tenant that is not active is looked at again soon: that it is may have been
    /// told when nobody listened.
    fn known(&self, id: TenantId) -> Option<Option<Arc<Tenant>>> {
        let copy = self.copy.read();
        if let Some((tenant, looked)) = copy.tenants.get(&id) {
            let good = tenant.state == State::Active || looked.elapsed() < MISS_FLOOR;
            return good.then(|| Some(Arc::clone(tenant)));
        }
        copy.missed.get(&id).filter(|when| when.elapsed() < MISS_FLOOR).map(|_| None)
    }

    /// Every tenant, read anew.
    pub async fn refresh_all(&self) -> Result<Vec<Arc<Tenant>>> {
        let _turn = self.refreshing.lock().await;
        let mut reading = self.reading().await?;
        let rows = in_time(tenant_rows(&mut reading.session, None)).await;
        let all: Vec<_> = reading.done(rows)?.into_iter().map(Arc::new).collect();
        let mut copy = self.copy.write();
        *copy = Snapshot::default();
        all.iter().for_each(|tenant| copy.put(Arc::clone(tenant)));
        Ok(all)
    }

    /// Whether an active tenant allows the origin: the one with this slug, or any. Asked before anyone has said who calls, so it reads
    /// nothing but the copy in memory.
    pub fn allows(&self, origin: &str, slug: Option<&str>) -> bool {
        let copy = self.copy.read();
        let named = |id| copy.tenants.get(id).is_some_and(|(tenant, _)| slug.is_none_or(|slug| tenant.slug == slug));
        copy.pages.get(origin).is_some_and(|allowing| allowing.iter().any(named))
    }

    /// Active tenants with a database of their own, as far as they are known, in the order of their making.
    pub fn own_databases(&self) -> Vec<Arc<Tenant>> {
        let copy = self.copy.read();
        let own = |tenant: &&Arc<Tenant>| {
            tenant.state == State::Active
                && tenant.placement.as_ref().is_some_and(|placement| placement.model == TenancyModel::Database)
        };
        let mut found: Vec<_> = copy.tenants.values().map(|(tenant, _)| tenant).filter(own).cloned().collect();
        found.sort_by_key(|tenant| tenant.id);
        found
    }

    /// A server by id.
    pub async fn server(&self, id: ServerId) -> Result<Server> {
        let mut reading = self.reading().await?;
        let wanted =
            servers::table.select((servers::id, servers::address, servers::app_password)).filter(servers::id.eq(id));
        let found = in_time(wanted.first(&mut reading.session)).await.optional();
        let (id, address, app_password) = reading.done(found)?.ok_or(Error::Unavailable)?;
        Ok(Server { id, address, app_password })
    }

    /// The shared schema of each server, by the server's name: what the boot check looks at.
    pub async fn shared_schemas(&self) -> Result<Vec<(String, ServerId, String)>> {
        let mut reading = self.reading().await?;
        let wanted = servers::table.select((servers::name, servers::id, servers::data_database)).order(servers::name);
        let found = in_time(wanted.load(&mut reading.session)).await;
        reading.done(found)
    }

    /// Password of the login a placement has to itself, wrapped.
    pub async fn own_password(&self, placement: PlacementId) -> Result<Vec<u8>> {
        let mut reading = self.reading().await?;
        let wanted = placements::table.select(placements::app_password).filter(placements::id.eq(placement));
        let found: QueryResult<Option<Option<Vec<u8>>>> = in_time(wanted.first(&mut reading.session)).await.optional();
        reading.done(found)?.flatten().ok_or(Error::Unavailable)
    }

    /// All keys of a tenant, wrapped.
    pub async fn tenant_keys(&self, tenant: TenantId) -> Result<Vec<WrappedKey>> {
        let mut reading = self.reading().await?;
        let wanted = wrapped_keys::table
            .select((wrapped_keys::kind, wrapped_keys::version, wrapped_keys::wrapped))
            .filter(wrapped_keys::tenant_id.eq(tenant.0));
        let found = in_time(wanted.load(&mut reading.session)).await;
        reading.done(found)
    }

    /// The newest binding key of a database, wrapped.
    pub async fn binding_key(&self, server: ServerId, database: &str) -> Result<WrappedKey> {
        let mut reading = self.reading().await?;
        let wanted = wrapped_keys::table
            .select((wrapped_keys::kind, wrapped_keys::version, wrapped_keys::wrapped))
            .filter(wrapped_keys::kind.eq("binding").and(wrapped_keys::server_id.eq(server.0)))
            .filter(wrapped_keys::database_name.eq(database))
            .order(wrapped_keys::version.desc());
        let found = in_time(wanted.first(&mut reading.session)).await.optional();
        reading.done(found)?.ok_or(Error::Unavailable)
    }

    /// Counts an event that no verified tenant stands behind.
    pub async fn security_event(&self, kind: &str, times: i64) -> Result<()> {
        use diesel::sql_types::{BigInt, Text};
        let mut reading = self.reading().await?;
        let count = diesel::sql_query("select cordon_catalog.note_security_event($1, '', $2)");
        let counted = count.bind::<Text, _>(kind).bind::<BigInt, _>(times);
        let counted = in_time(counted.execute(&mut reading.session)).await;
        reading.done(counted).map(|_| ())
    }

    /// Listens for changes until the process ends; after every loss of the session everything is read anew.
    pub async fn listen(self: Arc<Self>, on_change: impl Fn(Option<TenantId>) + Send + Sync + 'static) {
        loop {
            if let Err(error) = self.listen_once(&on_change).await {
                tracing::warn!(error = %error, "Lost the catalog's notifications; trying again");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn listen_once(&self, on_change: &(impl Fn(Option<TenantId>) + Send + Sync)) -> Result<()> {
        let mut session = self.connect().await?;
        diesel::sql_query(format!("listen {CHANNEL}"))
            .execute(&mut session)
            .await
            .map_err(|error| classify(&error).error)?;
        self.refresh_all().await?;
        on_change(None);
        let mut changes = pin!(session.notifications_stream());
        while let Some(change) = changes.next().await {
            let change = change.map_err(|error| classify(&error).error)?;
            match change.payload.parse::<TenantId>() {
                Ok(tenant) => {
                    self.refresh(tenant).await?;
                    on_change(Some(tenant));
                }
                Err(_) => {
                    self.refresh_all().await?;
                    on_change(None);
                }
            }
        }
        Err(Error::Unavailable)
    }

    /// The one session kept for reading, opened again when it was lost.
    async fn reading(&self) -> Result<Reading<'_>> {
        let mut slot = self.session.lock().await;
        let kept = slot.take().and_then(|mut session| (!session.is_broken()).then_some(session));
        let session = match kept {
            Some(session) => session,
            None => self.connect().await?,
        };
        Ok(Reading { slot, session })
    }

    async fn connect(&self) -> Result<AsyncPgConnection> {
        let opened = tokio::time::timeout(Duration::from_secs(5), connect::open(&self.config)).await;
        match opened {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "The catalog's database is away");
                Err(Error::Unavailable)
            }
            Err(_) => {
                tracing::warn!("The catalog's database does not answer");
                Err(Error::Unavailable)
            }
        }
    }
}

/// The session is out of its slot while it is used: a cancelled caller drops it instead of leaving half an answer in it.
struct Reading<'a> {
    slot: MutexGuard<'a, Option<AsyncPgConnection>>,
    session: AsyncPgConnection,
}

impl Reading<'_> {
    fn done<T>(self, outcome: QueryResult<T>) -> Result<T> {
        let Self { mut slot, session } = self;
        match outcome {
            Ok(rows) => {
                *slot = Some(session);
                Ok(rows)
            }
            Err(error) => {
                tracing::warn!(error = %error, "The catalog could not be read");
                Err(Error::Unavailable)
            }
        }
    }
}

/// A server that has taken a question and says nothing more must not hold up everyone who waits for the session.
async fn in_time<T>(query: impl Future<Output = QueryResult<T>>) -> QueryResult<T> {
    let late = || diesel::result::Error::QueryBuilderError("the catalog does not answer".into());
    tokio::time::timeout(Duration::from_secs(5), query).await.unwrap_or_else(|_| Err(late()))
}

type TenantRow = (TenantId, String, String, String, String);
type SettingsRow = (Vec<String>, Option<i32>, Option<i32>, Option<i32>);
type PlacementRow = (PlacementId, ServerId, String, String, String, i32);
type Row = (TenantRow, SettingsRow, Option<PlacementRow>, Option<String>);

/// Tenants with their serving placement; all of them, or the one asked for.
pub async fn tenant_rows(session: &mut AsyncPgConnection, only: Option<TenantId>) -> QueryResult<Vec<Tenant>> {
    let mut query = tenants::table
        .left_join(placements::table.on(placements::tenant_id.eq(tenants::id).and(placements::serving)))
        .left_join(servers::table.on(servers::id.eq(placements::server_id)))
        .select((
            (tenants::id, tenants::slug, tenants::name, tenants::plan, tenants::state),
            (tenants::origins, tenants::statement_timeout_ms, tenants::requests_per_second, tenants::concurrency),
            (
                placements::id,
                placements::server_id,
                placements::model,
                placements::database_name,
                placements::schema_name,
                placements::generation,
            )
                .nullable(),
            servers::region.nullable(),
        ))
        .order(tenants::slug)
        .into_boxed();
    if let Some(id) = only {
        query = query.filter(tenants::id.eq(id));
    }
    let rows: Vec<Row> = query.load(session).await?;
    rows.into_iter().map(assemble).collect()
}

fn assemble(((id, slug, name, plan, state), settings, placement, region): Row) -> QueryResult<Tenant> {
    let unreadable = |what: String| diesel::result::Error::DeserializationError(what.into());
    let state: State = state.parse().map_err(unreadable)?;
    let placement = placement
        .map(|(id, server, model, database, schema, generation)| {
            let model: TenancyModel = model.parse().map_err(unreadable)?;
            let schema = schema.parse().map_err(|error: Error| unreadable(error.to_string()))?;
            QueryResult::Ok(Placement { id, server, region, model, database, schema, generation })
        })
        .transpose()?;
    Ok(Tenant { id, slug, name, plan, state, settings: TenantSettings::from(settings), placement })
}

/// An origin that is none allows nobody.
impl From<SettingsRow> for TenantSettings {
    fn from((origins, statement_timeout_ms, requests_per_second, concurrency): SettingsRow) -> Self {
        let number = |set: Option<i32>| set.and_then(|set| u32::try_from(set).ok());
        Self {
            origins: origins.iter().filter_map(|origin| origin.parse::<Origin>().ok()).collect(),
            statement_timeout_ms: number(statement_timeout_ms),
            requests_per_second: number(requests_per_second),
            concurrency: number(concurrency),
        }
    }
}
