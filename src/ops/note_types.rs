//! Gives a tenant the standard types of notes (`model::note_type`), through the guard and with the login of the keeper.

use super::Result;
use super::operator::{Operator, ServerRow};
use crate::db::pool::{BackendBudget, Pool, PoolLimits};
use crate::guard::{Actor, TxKind, keeper};
use crate::model::note_type;
use crate::tenant::Tenant;
use crate::tenant::catalog::Catalog;
use crate::tenant::keys::KeyRing;
use std::sync::Arc;
use std::time::Duration;

/// Adds the missing types to a tenant. Existing types are not changed.
pub async fn add(operator: &Operator, server: &ServerRow, tenant: &Tenant) -> Result<()> {
    let Some(placement) = &tenant.placement else { return Ok(()) };
    let keys =
        KeyRing::new(Arc::clone(&operator.kms), Catalog::new(operator.control_config()), Duration::from_secs(60));
    let seconds = Duration::from_secs;
    let limits = PoolLimits {
        max_backends: 1,
        max_transactions: 1,
        connect_timeout: seconds(10),
        max_lifetime: seconds(600),
        idle_timeout: seconds(60),
    };
    let pool = Pool::new(operator.keeper_config(server, &placement.database).await?, &BackendBudget::new(limits));
    let session = pool
        .checkout(placement.schema.as_str())
        .await
        .map_err(|error| super::OpsError::Unreachable(error.to_string()))?;
    let actor = Actor::command(tenant.id, "migrate");
    let tx = keeper::begin(session, &keys, tenant, &actor, TxKind::Migrate).await?;
    note_type::add_standard(&tx).await?;
    Ok(tx.commit().await?)
}
