//! Idempotency: a mutation with an `Idempotency-Key` is performed once, however often the client repeats the request.
//! The key is kept for a day with the id of the record that was made or changed. Responses are not kept: a repeated
//! request reads the record again, with the rights of its caller. A key is valid for the principal who sent it.

use super::TenantTx;
use crate::db::schema::tenant::idempotency_keys as keys;
use crate::error::{Error, Result};
use crate::ids::StaffId;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Integer, Uuid as SqlUuid};
use uuid::Uuid;

/// The number of expired keys of all principals that one claim deletes at most.
const MAX_EXPIRED_DELETED: i32 = 50;

diesel::define_sql_function! {
    /// Deletes keys that are older than a day: this one of the principal, and up to `max_rows` others.
    #[sql_name = "cordon.delete_expired_keys"]
    fn delete_expired_keys(principal: SqlUuid, key: Binary, max_rows: Integer) -> Integer;
}

/// The key of one mutation field of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The client's key, together with the response key of the mutation field.
    pub key: String,
    /// The request's body. The same key with another body is refused with `Conflict`.
    pub body: Vec<u8>,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = keys)]
struct ClaimedKey {
    body_hash: Vec<u8>,
    record_id: Option<Uuid>,
}

/// The result of claiming a key.
pub(super) enum Claim {
    /// An earlier request with the key made or changed this record.
    Completed(Uuid),
    /// The key is new. Its row has this id and waits for the id of the record.
    New(Uuid),
}

/// Claims the key for this transaction. A concurrent request with the same key waits here until this transaction ends.
///
/// # Errors
/// `Conflict` where the key was used with another body.
pub(super) async fn claim(tx: &TenantTx, principal: StaffId, idempotency: &IdempotencyKey) -> Result<Claim> {
    let key_hash = tx.keys().blind_index("idempotency-key", &[&idempotency.key]).to_vec();
    let body_hash = tx.keys().digest("idempotency-body", &idempotency.body).to_vec();
    let own = keys::principal_id.eq(principal).and(keys::key_hash.eq(key_hash.as_slice()));
    let expired = delete_expired_keys(principal, key_hash.as_slice(), MAX_EXPIRED_DELETED);
    tx.execute(diesel::select(expired)).await?;

    let id = Uuid::now_v7();
    let row = (
        keys::tenant_id.eq(tx.tenant()),
        keys::id.eq(id),
        keys::principal_id.eq(principal),
        keys::key_hash.eq(&key_hash),
        keys::body_hash.eq(&body_hash),
    );
    let insert = diesel::insert_into(keys::table).values(row).on_conflict_do_nothing();
    if tx.execute(insert).await? == 1 {
        return Ok(Claim::New(id));
    }
    let existing = tx.first(keys::table.filter(own).select(ClaimedKey::as_select())).await?;
    if existing.body_hash != body_hash {
        return Err(Error::Conflict {
            current_version: None,
            reason: "this Idempotency-Key was used for another request",
        });
    }
    existing.record_id.map(Claim::Completed).ok_or_else(|| Error::internal("An idempotency key has no record id", id))
}

/// Stores the id of the record that was made or changed under a new key.
pub(super) async fn complete(tx: &TenantTx, claim: Uuid, record: Uuid) -> Result<()> {
    let row = diesel::update(keys::table.filter(keys::id.eq(claim))).set(keys::record_id.eq(record));
    tx.execute(row).await.map(|_| ())
}
