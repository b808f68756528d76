//! What changes charts: one root field, one write transaction. A change parses its input, calls and wraps; the payload is read afterwards,
//! in a transaction of its own that sees the change, and audited like any read.

/// Declares the payload of a change: the record it made or changed, read afterwards.
macro_rules! payload {
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
use crate::error::{Error, Result};
use crate::guard::{AuditAction, IdempotencyKey, RecordId, TenantTx};
use async_graphql::{Context, MergedObject};
use uuid::Uuid;

/// What can be changed.
#[derive(MergedObject, Default)]
pub struct Mutation(patient::PatientMutation, encounter::EncounterMutation, note::NoteMutation);

/// Makes a change for those whose roles allow `operation`. `named` goes into the audit log when nothing comes of it.
async fn change<T: RecordId>(
    ctx: &Context<'_>,
    operation: &'static str,
    event: AuditAction,
    named: impl Into<Named>,
    change: impl AsyncFnOnce(&mut TenantTx) -> Result<T>,
) -> Result<T> {
    let guard = guard(ctx)?;
    guard.may(operation)?;
    let made = guard.write(event, idempotency(ctx).as_ref(), change).await;
    let Named(record, ids) = named.into();
    match made {
        Err(Error::NotFound) => guard.missed(event, record.name(), ids),
        Err(Error::Forbidden) => guard.denied(event, record.name(), ids),
        _ => {}
    }
    made
}

/// The records that a change names, one of which may not be there, or not be the caller's to change.
struct Named(RecordType, Vec<Uuid>);

impl From<(RecordType, Uuid)> for Named {
    fn from((record, id): (RecordType, Uuid)) -> Self {
        Self(record, vec![id])
    }
}

/// The request's key, if it has one, for this field of it.
fn idempotency(ctx: &Context<'_>) -> Option<IdempotencyKey> {
    let IdempotencyKey { key, body } = ctx.data::<IdempotencyKey>().ok()?.clone();
    Some(IdempotencyKey { key: format!("{key}\n{}", ctx.item.node.response_key().node), body })
}
