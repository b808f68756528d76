//! Transactions in sessions of the database role `cordon_keeper`, for the data steps of operations. Each is bound to
//! one tenant and one purpose, and row security applies to it as to every other transaction.

use super::tx::Opening;
use super::{Actor, TenantTx, Timeouts, TxKind};
use crate::audit::ClientInfo;
use crate::db::pool::PooledSession;
use crate::error::{Error, Result};
use crate::ids::RequestId;
use crate::tenant::Tenant;
use crate::tenant::keys::KeyRing;
use std::sync::Arc;

/// A data step may read and write many rows.
const TIMEOUTS: Timeouts = Timeouts { statement_ms: 600_000, lock_ms: 10_000 };

/// Begins a transaction in `session`, which must be a session of `cordon_keeper` with the tenant's database.
///
/// # Errors
/// `Unavailable` where the tenant has no placement; otherwise the errors of reading the catalog and of the KMS.
pub async fn begin(
    session: PooledSession,
    keys: &KeyRing,
    tenant: &Tenant,
    actor: &Actor,
    kind: TxKind,
) -> Result<TenantTx> {
    let placement = tenant.placement.as_ref().ok_or(Error::Unavailable)?;
    let binding = keys.binding(placement.server, &placement.database).await?;
    Ok(TenantTx::begin(Opening {
        session,
        binding: &binding,
        keys: keys.tenant(tenant.id).await?,
        tenant: tenant.id,
        placement,
        actor,
        kind,
        action: None,
        request: RequestId::new(),
        client: ClientInfo::default(),
        stats: Arc::default(),
        statement_timeout_ms: TIMEOUTS.statement_ms,
        lock_timeout_ms: TIMEOUTS.lock_ms,
    }))
}
