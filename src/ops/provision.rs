//! Making tenants, in one call: catalog, keys, placement, tables. And suspending and resuming them.
//! Every step looks whether it has been done; what was killed half way is finished by the same call.

use super::log::Operation;
use super::migrate::{self, TEMPLATE};
use super::note_types;
use super::operator::{Operator, ServerRow, fresh_password, set_password};
use super::server::{allow_logins, bind_database, create_database, make_schema, target};
use super::{OpsError, Result};
use crate::crypto::{KekId, fresh_key};
use crate::db::migrate::{Direction, Set};
use crate::db::schema::catalog::{placements, tenants, wrapped_keys};
use crate::ids::{PlacementId, TenantId};
use crate::tenant::catalog::{CHANNEL, tenant_rows};
use crate::tenant::keys::context;
use crate::tenant::{Placement, SchemaName, State, TenancyModel, Tenant, is_slug, own_database_name};
use diesel::prelude::*;
use diesel::sql_types::{Array, Integer, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use uuid::Uuid;

/// What a tenant has ordered where nothing else is said.
const PLAN: &str = "standard";

/// What to make.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// Unique among the living.
    pub slug: String,
    /// For people.
    pub name: String,
    /// How to isolate it.
    pub model: TenancyModel,
    /// On which server; the first one where none is named.
    pub server: Option<String>,
    /// What it has ordered; where none is named, `standard` or what it has.
    pub plan: Option<String>,
}

/// Makes a tenant, or finishes one whose making was interrupted. Done already: nothing changes.
pub async fn create(operator: &Operator, new: &NewTenant) -> Result<Tenant> {
    if !is_slug(&new.slug) {
        return Err(OpsError::Usage("a slug is 2 to 39 characters: a-z, 0-9 and -, letter first".into()));
    }
    if new.name.trim().is_empty() || new.name.chars().any(char::is_control) {
        return Err(OpsError::Usage("a name for people is needed (--name)".into()));
    }
    let mut control = operator.control().await?;
    let server = operator.server(new.server.as_deref()).await?;
    let tenant = register(&mut control, new, &server).await?;
    take_turn(&mut control, tenant.id).await?;
    let tenant = find(&mut control, &new.slug).await?;
    let placement = placed(&tenant)?.clone();
    if tenant.state == State::Active {
        return Ok(tenant);
    }
    let server = operator.server_by_id(placement.server).await?;
    let log = Operation::begin(&mut control, "tenant.create", Some(tenant.id), &new.slug).await?;
    let outcome = build(operator, &mut control, &log, &tenant, &placement, &server).await;
    log.end(&mut control, outcome).await?;
    find(&mut control, &new.slug).await
}

async fn build(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    log: &Operation,
    tenant: &Tenant,
    placement: &Placement,
    server: &ServerRow,
) -> Result<()> {
    log.step(control, "keys").await?;
    make_keys(operator, control, tenant.id).await?;
    let (database, schema) = (placement.database.as_str(), placement.schema.as_str());
    if placement.model == TenancyModel::Database {
        log.step(control, "database").await?;
        make_own_database(operator, control, server, tenant.id, placement).await?;
    }
    log.step(control, "tables").await?;
    let mut session = operator.session(server, database).await?;
    diesel::sql_query(
        "insert into cordon.tenants (tenant_id, schema_name, generation, state) values ($1, $2, $3, 'provisioning') on conflict do nothing",
    )
    .bind::<diesel::sql_types::Uuid, _>(tenant.id)
    .bind::<Text, _>(schema)
    .bind::<Integer, _>(placement.generation)
    .execute(&mut session)
    .await?;
    if placement.model != TenancyModel::Shared {
        make_schema(&mut session, schema).await?;
        migrate::run(operator, &target(server, database, schema, Set::Tenant), Direction::Up).await?;
    }
    log.step(control, "note types").await?;
    note_types::add(operator, server, tenant).await?;
    log.step(control, "open").await?;
    set_fence(&mut session, tenant.id, &["provisioning", "active"], "active").await?;
    set_state(control, tenant.id, &[State::Provisioning, State::Active], State::Active).await
}

/// Stops serving a tenant: the fence first, so that it holds from the next transaction on, whoever hears of it.
pub async fn suspend(operator: &Operator, slug: &str) -> Result<Tenant> {
    flip(operator, slug, "tenant.suspend", State::Active, State::Suspended).await
}

/// Serves a suspended tenant again.
pub async fn resume(operator: &Operator, slug: &str) -> Result<Tenant> {
    flip(operator, slug, "tenant.resume", State::Suspended, State::Active).await
}

async fn flip(operator: &Operator, slug: &str, kind: &str, from: State, to: State) -> Result<Tenant> {
    let mut control = operator.control().await?;
    let tenant = find(&mut control, slug).await?;
    take_turn(&mut control, tenant.id).await?;
    let tenant = find(&mut control, slug).await?;
    if tenant.state != from && tenant.state != to {
        return Err(OpsError::Refused(format!("tenant {slug} is {}", tenant.state)));
    }
    let placement = placed(&tenant)?;
    let server = operator.server_by_id(placement.server).await?;
    let log = Operation::begin(&mut control, kind, Some(tenant.id), slug).await?;
    let outcome = async {
        // Suspending, the catalog follows the fence; resuming, the fence comes last: in between nobody is served.
        let mut session = operator.session(&server, &placement.database).await?;
        if to == State::Suspended {
            set_fence(&mut session, tenant.id, &["active", "suspended"], to.as_str()).await?;
            set_state(&mut control, tenant.id, &[from, to], to).await
        } else {
            set_state(&mut control, tenant.id, &[from, to], to).await?;
            set_fence(&mut session, tenant.id, &["active", "suspended"], to.as_str()).await
        }
    }
    .await;
    log.end(&mut control, outcome).await?;
    find(&mut control, slug).await
}

/// All tenants that are not destroyed, by slug.
pub async fn list(operator: &Operator) -> Result<Vec<Tenant>> {
    let all = tenant_rows(&mut operator.control().await?, None).await?;
    Ok(all.into_iter().filter(|tenant| tenant.state != State::Destroyed).collect())
}

/// A living tenant by slug.
pub async fn find(control: &mut AsyncPgConnection, slug: &str) -> Result<Tenant> {
    look(control, slug).await?.ok_or_else(|| OpsError::Usage(format!("there is no tenant {slug}")))
}

async fn look(control: &mut AsyncPgConnection, slug: &str) -> Result<Option<Tenant>> {
    let mut all = tenant_rows(control, None).await?.into_iter();
    Ok(all.find(|tenant| tenant.slug == slug && tenant.state != State::Destroyed))
}

/// The tenant's row and its placement's, made in one transaction where they are not there.
async fn register(control: &mut AsyncPgConnection, new: &NewTenant, server: &ServerRow) -> Result<Tenant> {
    if let Some(tenant) = look(control, &new.slug).await? {
        let placement = placed(&tenant)?;
        let asked = placement.model == new.model
            && tenant.name == new.name
            && new.plan.as_ref().is_none_or(|plan| *plan == tenant.plan)
            && (new.server.is_none() || placement.server == server.id);
        return match asked {
            true => Ok(tenant),
            false => Err(OpsError::Refused(format!(
                "tenant {} is there already, with another name, model, server or plan",
                new.slug
            ))),
        };
    }
    let id = TenantId::new();
    let (database, schema) = match new.model {
        TenancyModel::Shared => (server.data_database.clone(), SchemaName::shared()),
        TenancyModel::Schema => (server.data_database.clone(), SchemaName::of(id)),
        TenancyModel::Database => (own_database_name(id), SchemaName::own_database()),
    };
    let (tenant, placement) = (
        (
            tenants::id.eq(id),
            tenants::slug.eq(&new.slug),
            tenants::name.eq(&new.name),
            tenants::plan.eq(new.plan.as_deref().unwrap_or(PLAN)),
            tenants::state.eq(State::Provisioning.as_str()),
        ),
        (
            placements::id.eq(PlacementId::new()),
            placements::tenant_id.eq(id),
            placements::server_id.eq(server.id),
            placements::model.eq(new.model.as_str()),
            placements::database_name.eq(database),
            placements::schema_name.eq(schema.as_str().to_owned()),
            placements::generation.eq(1),
            placements::serving.eq(true),
        ),
    );
    control
        .transaction::<_, diesel::result::Error, _>(async |control| {
            diesel::insert_into(tenants::table).values(tenant).execute(control).await?;
            diesel::insert_into(placements::table).values(placement).execute(control).await
        })
        .await?;
    find(control, &new.slug).await
}

/// Data, search and signing key, wrapped under the tenant's own key-encryption key. Keys that are there stay.
async fn make_keys(operator: &Operator, control: &mut AsyncPgConnection, tenant: TenantId) -> Result<()> {
    operator.kms.create(KekId::Tenant(tenant)).await?;
    for kind in ["data", "search", "signing"] {
        let wrapped = operator.kms.wrap(KekId::Tenant(tenant), &context(kind, tenant, 1), &fresh_key()).await?;
        diesel::insert_into(wrapped_keys::table)
            .values((
                wrapped_keys::id.eq(Uuid::now_v7()),
                wrapped_keys::tenant_id.eq(tenant.0),
                wrapped_keys::kind.eq(kind),
                wrapped_keys::version.eq(1),
                wrapped_keys::wrapped.eq(wrapped),
            ))
            .on_conflict_do_nothing()
            .execute(control)
            .await?;
    }
    Ok(())
}

/// A login and a database that nobody else may enter, copied from the template, with its binding key.
async fn make_own_database(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    server: &ServerRow,
    tenant: TenantId,
    placement: &Placement,
) -> Result<()> {
    let name = own_database_name(tenant);
    let mine = placements::table.filter(placements::id.eq(placement.id));
    let kept: Option<Vec<u8>> = mine.select(placements::app_password).first(control).await?;
    let wrapped = match kept {
        Some(wrapped) => wrapped,
        None => {
            let wrapped = operator.wrap_password("own", placement.id, &fresh_password()).await?;
            diesel::update(mine).set(placements::app_password.eq(&wrapped)).execute(control).await?;
            wrapped
        }
    };
    let password = operator.password("own", placement.id, &wrapped).await?;
    // From the data database: it is there on every server, and copying the template wants nobody in the template.
    let mut session = operator.session(server, &server.data_database).await?;
    session
        .batch_execute(&format!(
            "do $$ begin if not exists (select from pg_roles where rolname = '{name}') then \
             create role {name} login nosuperuser nobypassrls nocreatedb nocreaterole noreplication noinherit; end if; end $$"
        ))
        .await?;
    session.batch_execute(&format!("alter role {name} set lc_messages = 'C'")).await?;
    set_password(&mut session, &name, &password).await?;
    copy_template(&mut session, &name).await?;
    allow_logins(&mut session, &name, &[&name, "cordon_keeper", "cordon_operator"]).await?;
    let mut inside = operator.session(server, &name).await?;
    inside.batch_execute(&format!("call cordon.adopt('{name}')")).await?;
    bind_database(operator, control, server, &name).await
}

/// PostgreSQL refuses to copy a database that someone is connected to: another provisioning or a migration ends soon.
async fn copy_template(session: &mut AsyncPgConnection, name: &str) -> Result<()> {
    let mut last = None;
    for _ in 0..50 {
        match create_database(session, name, Some(TEMPLATE)).await {
            Err(error @ OpsError::Failed(_)) => last = Some(error),
            done => return done,
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    Err(last.unwrap_or_else(|| OpsError::Failed("the template could not be copied".into())))
}

/// Flips the fence under its exclusive lock: when this returns, no transaction bound before is still writing.
async fn set_fence(session: &mut AsyncPgConnection, tenant: TenantId, from: &[&str], state: &str) -> Result<()> {
    let changed = session
        .transaction::<_, diesel::result::Error, _>(async |session| {
            diesel::sql_query(
                "select set_config('lock_timeout', '30s', true), pg_advisory_xact_lock(hashtextextended($1, 7))",
            )
            .bind::<Text, _>(tenant.to_string())
            .execute(session)
            .await?;
            diesel::sql_query("update cordon.tenants set state = $2 where tenant_id = $1 and state = any ($3)")
                .bind::<diesel::sql_types::Uuid, _>(tenant)
                .bind::<Text, _>(state)
                .bind::<Array<Text>, _>(from)
                .execute(session)
                .await
        })
        .await?;
    if changed == 1 { Ok(()) } else { Err(elsewhere()) }
}

/// Operations on one tenant run one after the other, as long as the session lives.
pub(super) async fn take_turn(control: &mut AsyncPgConnection, tenant: TenantId) -> Result<()> {
    let turn = diesel::sql_query("select pg_advisory_lock(hashtextextended('cordon.tenant.' || $1, 7))");
    turn.bind::<Text, _>(tenant.to_string()).execute(control).await?;
    Ok(())
}

fn elsewhere() -> OpsError {
    OpsError::Refused("the tenant's state was changed by another operation".into())
}

/// Writes the state and tells every replica: both, or neither. Only from `from`, so that a slow operation cannot undo a later one.
async fn set_state(control: &mut AsyncPgConnection, tenant: TenantId, from: &[State], to: State) -> Result<()> {
    let from: Vec<_> = from.iter().map(|state| state.as_str()).collect();
    let changed = control
        .transaction::<_, diesel::result::Error, _>(async |control| {
            let row = tenants::table.filter(tenants::id.eq(tenant).and(tenants::state.eq_any(from)));
            let set = (tenants::state.eq(to.as_str()), tenants::updated_at.eq(diesel::dsl::now));
            let changed = diesel::update(row).set(set).execute(control).await?;
            control.batch_execute(&format!("notify {CHANNEL}, '{tenant}'")).await?;
            Ok(changed)
        })
        .await?;
    if changed == 1 { Ok(()) } else { Err(elsewhere()) }
}

fn placed(tenant: &Tenant) -> Result<&Placement> {
    tenant.placement.as_ref().ok_or_else(|| OpsError::Failed(format!("tenant {} has no placement", tenant.slug)))
}
