//! Creates tenants (catalog row, keys, placement and tables), and suspends and resumes them.
//! Every step checks whether it has been done, so that the same call completes an operation that was interrupted.

use super::migrate::{self, TEMPLATE_DATABASE};
use super::note_types;
use super::operation_log::OperationRecord;
use super::operator::{Operator, ServerRow, fresh_password, set_password};
use super::server::{allow_logins, create_database, create_schema, install_binding_key, target};
use super::{OpsError, Result};
use crate::crypto::{KekId, fresh_key};
use crate::db::migrate::{Direction, MigrationSet};
use crate::db::schema::catalog::{placements, tenants, wrapped_keys};
use crate::ids::{PlacementId, TenantId};
use crate::tenant::catalog::{CHANNEL, load_tenants};
use crate::tenant::keys::wrap_context;
use crate::tenant::{Placement, SchemaName, State, TenancyModel, Tenant, is_slug, own_database_name};
use diesel::prelude::*;
use diesel::sql_types::{Array, Integer, Text};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use std::time::Duration;
use uuid::Uuid;

/// The plan of tenants that are created without one.
const DEFAULT_PLAN: &str = "standard";
/// How often copying the template is tried, and the pause between two attempts.
const COPY_ATTEMPTS: u32 = 50;
const COPY_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The properties of a tenant to create.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// The short name, unique among the tenants that are not destroyed.
    pub slug: String,
    /// The name for people.
    pub name: String,
    /// How the tenant's data is isolated.
    pub model: TenancyModel,
    /// The name of the server; the oldest one if it is `None`.
    pub server: Option<String>,
    /// The plan. If it is `None`, a new tenant gets `standard` and an existing one keeps its plan.
    pub plan: Option<String>,
}

/// Creates a tenant, or completes a creation that was interrupted. If the tenant is active already, nothing changes. A
/// tenant with the same slug and other properties is refused.
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
    lock_tenant(&mut control, tenant.id).await?;
    let tenant = find(&mut control, &new.slug).await?;
    let placement = placement_of(&tenant)?.clone();
    if tenant.state == State::Active {
        return Ok(tenant);
    }
    let server = operator.server_by_id(placement.server).await?;
    let log = OperationRecord::begin(&mut control, "tenant.create", Some(tenant.id), &new.slug).await?;
    let outcome = build(operator, &mut control, &log, &tenant, &placement, &server).await;
    log.end(&mut control, outcome).await?;
    find(&mut control, &new.slug).await
}

async fn build(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    log: &OperationRecord,
    tenant: &Tenant,
    placement: &Placement,
    server: &ServerRow,
) -> Result<()> {
    log.step(control, "keys").await?;
    create_keys(operator, control, tenant.id).await?;
    let (database, schema) = (placement.database.as_str(), placement.schema.as_str());
    if placement.model == TenancyModel::Database {
        log.step(control, "database").await?;
        create_own_database(operator, control, server, tenant.id, placement).await?;
    }
    log.step(control, "tables").await?;
    let mut session = operator.session(server, database).await?;
    diesel::sql_query(
        "insert into cordon.tenants (tenant_id, schema_name, generation, state) \
         values ($1, $2, $3, 'provisioning') on conflict do nothing",
    )
    .bind::<diesel::sql_types::Uuid, _>(tenant.id)
    .bind::<Text, _>(schema)
    .bind::<Integer, _>(placement.generation)
    .execute(&mut session)
    .await?;
    if placement.model != TenancyModel::Shared {
        create_schema(&mut session, schema).await?;
        migrate::run(operator, &target(server, database, schema, MigrationSet::Tenant), Direction::Up).await?;
    }
    log.step(control, "note types").await?;
    note_types::add(operator, server, tenant).await?;
    log.step(control, "open").await?;
    set_fence(&mut session, tenant.id, &["provisioning", "active"], "active").await?;
    set_state(control, tenant.id, &[State::Provisioning, State::Active], State::Active).await
}

/// Stops serving a tenant. The fence in the database is changed first, so that the suspension holds from the next
/// transaction on, also on replicas that have not received the notification.
pub async fn suspend(operator: &Operator, slug: &str) -> Result<Tenant> {
    change_state(operator, slug, "tenant.suspend", State::Active, State::Suspended).await
}

/// Serves a suspended tenant again.
pub async fn resume(operator: &Operator, slug: &str) -> Result<Tenant> {
    change_state(operator, slug, "tenant.resume", State::Suspended, State::Active).await
}

async fn change_state(operator: &Operator, slug: &str, kind: &str, from: State, to: State) -> Result<Tenant> {
    let mut control = operator.control().await?;
    let tenant = find(&mut control, slug).await?;
    lock_tenant(&mut control, tenant.id).await?;
    let tenant = find(&mut control, slug).await?;
    if tenant.state != from && tenant.state != to {
        return Err(OpsError::Refused(format!("tenant {slug} is {}", tenant.state)));
    }
    let placement = placement_of(&tenant)?;
    let server = operator.server_by_id(placement.server).await?;
    let log = OperationRecord::begin(&mut control, kind, Some(tenant.id), slug).await?;
    let outcome = async {
        // The fence is closed first and opened last, so that the tenant is not served in between.
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

/// Returns all tenants that are not destroyed, ordered by slug.
pub async fn list(operator: &Operator) -> Result<Vec<Tenant>> {
    let all = load_tenants(&mut operator.control().await?, None).await?;
    Ok(all.into_iter().filter(|tenant| tenant.state != State::Destroyed).collect())
}

/// Returns the tenant with this slug that is not destroyed. A slug that is unknown is a `Usage` error.
pub async fn find(control: &mut AsyncPgConnection, slug: &str) -> Result<Tenant> {
    find_optional(control, slug).await?.ok_or_else(|| OpsError::Usage(format!("there is no tenant {slug}")))
}

async fn find_optional(control: &mut AsyncPgConnection, slug: &str) -> Result<Option<Tenant>> {
    let mut all = load_tenants(control, None).await?.into_iter();
    Ok(all.find(|tenant| tenant.slug == slug && tenant.state != State::Destroyed))
}

/// Inserts the rows of a tenant and its placement in one transaction, unless they exist.
async fn register(control: &mut AsyncPgConnection, new: &NewTenant, server: &ServerRow) -> Result<Tenant> {
    if let Some(tenant) = find_optional(control, &new.slug).await? {
        let placement = placement_of(&tenant)?;
        let matches = placement.model == new.model
            && tenant.name == new.name
            && new.plan.as_ref().is_none_or(|plan| *plan == tenant.plan)
            && (new.server.is_none() || placement.server == server.id);
        return match matches {
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
            tenants::plan.eq(new.plan.as_deref().unwrap_or(DEFAULT_PLAN)),
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

/// Creates data, search and signing key, wrapped with the tenant's own key-encryption key. Existing keys are not
/// changed.
async fn create_keys(operator: &Operator, control: &mut AsyncPgConnection, tenant: TenantId) -> Result<()> {
    operator.kms.create(KekId::Tenant(tenant)).await?;
    for kind in ["data", "search", "signing"] {
        let wrapped = operator.kms.wrap(KekId::Tenant(tenant), &wrap_context(kind, tenant, 1), &fresh_key()).await?;
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

/// Creates the tenant's own login and a database to which no other tenant login may connect, copied from the template,
/// with its binding key.
async fn create_own_database(
    operator: &Operator,
    control: &mut AsyncPgConnection,
    server: &ServerRow,
    tenant: TenantId,
    placement: &Placement,
) -> Result<()> {
    let name = own_database_name(tenant);
    let row = placements::table.filter(placements::id.eq(placement.id));
    let stored: Option<Vec<u8>> = row.select(placements::app_password).first(control).await?;
    let wrapped = match stored {
        Some(wrapped) => wrapped,
        None => {
            let wrapped = operator.wrap_password("own", placement.id, &fresh_password()).await?;
            diesel::update(row).set(placements::app_password.eq(&wrapped)).execute(control).await?;
            wrapped
        }
    };
    let password = operator.unwrap_password("own", placement.id, &wrapped).await?;
    // The session is in the data database, which every server has, because the template must have no session while it
    // is copied.
    let mut session = operator.session(server, &server.data_database).await?;
    session
        .batch_execute(&format!(
            "do $$ begin if not exists (select from pg_roles where rolname = '{name}') then \
             create role {name} login nosuperuser nobypassrls nocreatedb nocreaterole \
             noreplication noinherit; end if; end $$"
        ))
        .await?;
    session.batch_execute(&format!("alter role {name} set lc_messages = 'C'")).await?;
    set_password(&mut session, &name, &password).await?;
    copy_template(&mut session, &name).await?;
    allow_logins(&mut session, &name, &[&name, "cordon_keeper", "cordon_operator"]).await?;
    let mut session = operator.session(server, &name).await?;
    session.batch_execute(&format!("call cordon.adopt('{name}')")).await?;
    install_binding_key(operator, control, server, &name).await
}

/// Copies the template database. PostgreSQL refuses to copy a database that has sessions, so the copy is retried for
/// ten seconds, in which another provisioning or a migration is expected to end.
async fn copy_template(session: &mut AsyncPgConnection, name: &str) -> Result<()> {
    let mut last_error = None;
    for _ in 0..COPY_ATTEMPTS {
        match create_database(session, name, Some(TEMPLATE_DATABASE)).await {
            Err(error @ OpsError::Failed(_)) => last_error = Some(error),
            result => return result,
        }
        tokio::time::sleep(COPY_RETRY_PAUSE).await;
    }
    Err(last_error.unwrap_or_else(|| OpsError::Failed("the template could not be copied".into())))
}

/// Changes the tenant's state in its database under the exclusive lock of the fence. When this returns, no transaction
/// that was bound before is still writing. A state that is not in `from` is refused.
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
    if changed == 1 { Ok(()) } else { Err(state_changed()) }
}

/// Locks a tenant for operations until the session ends. Another operation on the tenant waits.
pub(super) async fn lock_tenant(control: &mut AsyncPgConnection, tenant: TenantId) -> Result<()> {
    let lock = diesel::sql_query("select pg_advisory_lock(hashtextextended('cordon.tenant.' || $1, 7))");
    lock.bind::<Text, _>(tenant.to_string()).execute(control).await?;
    Ok(())
}

fn state_changed() -> OpsError {
    OpsError::Refused("the tenant's state was changed by another operation".into())
}

/// Changes the tenant's state in the catalog and notifies every replica, in one transaction. A state that is not in
/// `from` is refused, so that a slow operation cannot revert a later one.
async fn set_state(control: &mut AsyncPgConnection, tenant: TenantId, from: &[State], to: State) -> Result<()> {
    let from: Vec<_> = from.iter().map(|state| state.as_str()).collect();
    let changed = control
        .transaction::<_, diesel::result::Error, _>(async |control| {
            let row = tenants::table.filter(tenants::id.eq(tenant).and(tenants::state.eq_any(from)));
            let values = (tenants::state.eq(to.as_str()), tenants::updated_at.eq(diesel::dsl::now));
            let changed = diesel::update(row).set(values).execute(control).await?;
            control.batch_execute(&format!("notify {CHANNEL}, '{tenant}'")).await?;
            Ok(changed)
        })
        .await?;
    if changed == 1 { Ok(()) } else { Err(state_changed()) }
}

fn placement_of(tenant: &Tenant) -> Result<&Placement> {
    tenant.placement.as_ref().ok_or_else(|| OpsError::Failed(format!("tenant {} has no placement", tenant.slug)))
}
