//! Mutations: each root field is one write transaction. It parses its input, calls `model`, and wraps the id of the
//! record. The record in the payload is read afterwards, in a transaction that sees the mutation, and its access is
//! recorded like that of any read.

/// Declares the payload type of a mutation. It holds the id of the record that was created or changed, and loads the
/// record when the client selects it.
macro_rules! record_payload {
    ($(#[$doc:meta])* $name:ident($id:ty) { $(#[$field_doc:meta])* $field:ident: $object:ty }) => {
        $(#[$doc])*
        pub struct $name($id);

        $(#[$doc])*
        #[Object]
        impl $name {
            $(#[$field_doc])*
            async fn $field(&self, ctx: &Context<'_>) -> Result<Option<$object>> {
                <$object>::by_id(ctx, self.0).await
            }
        }
    };
}

mod encounter;
mod input;
mod note;
mod patient;

use super::context::{RecordType, guard};
use crate::audit::AuditAction;
use crate::error::{Error, Result};
use crate::guard::{IdempotencyKey, RecordId, TenantTx};
use async_graphql::{Context, MergedObject};
use uuid::Uuid;

/// Writes. The mutations of one request run one after the other, each in a transaction of its own; a mutation that
/// fails changes nothing and does not undo the mutations before it. FORBIDDEN when the caller's roles do not allow the
/// mutation, or while the feature `chartWrites` is off for the organisation. When the request has the header
/// `Idempotency-Key`, sending it again within 24 hours returns the record of the first attempt and changes nothing;
/// CONFLICT when the key was used with another body. After UNAVAILABLE or TIMEOUT the mutation may or may not have been
/// committed: send the request again with the same key.
#[derive(MergedObject, Default)]
pub struct Mutation(patient::PatientMutation, encounter::EncounterMutation, note::NoteMutation);

/// Runs a mutation in a write transaction, when the caller's roles allow `operation`. When it fails with `NotFound` or
/// `Forbidden`, the attempt on the records in `targets` is recorded in the audit log.
async fn run_mutation<T: RecordId>(
    ctx: &Context<'_>,
    operation: &'static str,
    action: AuditAction,
    targets: impl Into<TargetRecords>,
    mutation: impl AsyncFnOnce(&mut TenantTx) -> Result<T>,
) -> Result<T> {
    let guard = guard(ctx)?;
    guard.authorize(operation)?;
    let result = guard.write(action, field_idempotency_key(ctx).as_ref(), mutation).await;
    let TargetRecords(record, ids) = targets.into();
    match result {
        Err(Error::NotFound) => guard.record_not_found(action, record.name(), ids),
        Err(Error::Forbidden) => guard.record_denied(action, record.name(), ids),
        _ => {}
    }
    result
}

/// The records that the input of a mutation names. One of them may not exist, or the caller may not be allowed to
/// change it.
struct TargetRecords(RecordType, Vec<Uuid>);

impl From<(RecordType, Uuid)> for TargetRecords {
    fn from((record, id): (RecordType, Uuid)) -> Self {
        Self(record, vec![id])
    }
}

/// Returns the request's idempotency key, extended by the response name of this field, so that each mutation of a
/// request has its own.
fn field_idempotency_key(ctx: &Context<'_>) -> Option<IdempotencyKey> {
    let IdempotencyKey { key, body } = ctx.data::<IdempotencyKey>().ok()?.clone();
    Some(IdempotencyKey { key: format!("{key}\n{}", ctx.item.node.response_key().node), body })
}
