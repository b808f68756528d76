//! The keeper's door: a data step of an operation, for one tenant and one purpose at a time. Row security applies to it like to everyone.

use super::tx::Opening;
use super::{Actor, TenantTx, Timeouts, TxKind};
use crate::audit::ClientInfo;
use crate::db::pool::PooledSession;
use crate::error::{Error, Result};
use crate::ids::RequestId;
use crate::tenant::Tenant;
use crate::tenant::keys::KeyRing;
use std::sync::Arc;

/// A data step may read and write a lot.
const TIMEOUTS: Timeouts = Timeouts { statement_ms: 600_000, lock_ms: 10_000 };

/// Opens a transaction in `session`, which must be the keeper's with the tenant's database.
pub async fn open(
    session: PooledSession,
    keys: &KeyRing,
    tenant: &Tenant,
    actor: &Actor,
    purpose: TxKind,
) -> Result<TenantTx> {
    let placement = tenant.placement.as_ref().ok_or(Error::Unavailable)?;
    let binding = keys.binding(placement.server, &placement.database).await?;
    Ok(TenantTx::open(Opening {
        session,
        binding: &binding,
        keys: keys.tenant(tenant.id).await?,
        tenant: tenant.id,
        placement,
        actor,
        purpose,
        event: None,
        request: RequestId::new(),
        client: ClientInfo::default(),
        stats: Arc::default(),
        statement_timeout_ms: TIMEOUTS.statement_ms,
        lock_timeout_ms: TIMEOUTS.lock_ms,
    }))
}
