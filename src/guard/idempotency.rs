//! Changes that a client wants made once, however often it asks: the `Idempotency-Key` of a request, kept for a day with the id of what came
//! of it. Answers are never kept: they are read again, for whoever asks. Keys belong to the person who sent them.

use super::TenantTx;
use crate::db::schema::tenant::idempotency_keys as keys;
use crate::error::{Error, Result};
use crate::ids::StaffId;
use chrono::{Duration, Utc};
use diesel::prelude::*;
use uuid::Uuid;

/// How long a key is remembered.
const HOURS: i64 = 24;
/// How many forgotten keys one claim clears away.
const SWEEP: i64 = 50;

/// One change of one request that carries a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// What the client sent, and which of the request's changes this is.
    pub key: String,
    /// The request's body: the same key with another body is a mistake.
    pub body: Vec<u8>,
}

/// What a claim found.
pub(super) enum Claim {
    /// It was made before.
    Made(Uuid),
    /// It is to be made now; the row that waits for its id.
    Mine(Uuid),
}

/// Takes the key for this transaction. A twin that runs at the same time waits here until this one has ended.
pub(super) async fn claim(tx: &TenantTx, principal: StaffId, idempotency: &IdempotencyKey) -> Result<Claim> {
    let key_hash = tx.keys().blind("idempotency-key", &[&idempotency.key]).to_vec();
    let body_hash = tx.keys().digest("idempotency-body", &idempotency.body).to_vec();
    let old = keys::created_at.lt(Utc::now() - Duration::hours(HOURS));
    let own = keys::principal_id.eq(principal).and(keys::key_hash.eq(key_hash.as_slice()));
    let forgotten =
        keys::table.select(keys::id).filter(old).order(keys::created_at).limit(SWEEP).for_update().skip_locked();
    let forgotten: Vec<Uuid> = tx.load(forgotten).await?;
    tx.execute(diesel::delete(keys::table).filter(keys::id.eq_any(forgotten))).await?;
    tx.execute(diesel::delete(keys::table).filter(old).filter(own)).await?;

    let id = Uuid::now_v7();
    let row = (
        keys::tenant_id.eq(tx.tenant()),
        keys::id.eq(id),
        keys::principal_id.eq(principal),
        keys::key_hash.eq(&key_hash),
        keys::body_hash.eq(&body_hash),
    );
    let added = diesel::insert_into(keys::table).values(row).on_conflict_do_nothing();
    if tx.execute(added).await? == 1 {
        return Ok(Claim::Mine(id));
    }
    let there = keys::table.filter(own).select((keys::body_hash, keys::made));
    let (body, made): (Vec<u8>, Option<Uuid>) = tx.first(there).await?;
    if body != body_hash {
        return Err(Error::Conflict {
            current_version: None,
            reason: "this Idempotency-Key was used for another request",
        });
    }
    made.map(Claim::Made).ok_or_else(|| Error::internal("A key was kept without what was made", id))
}

/// Keeps the id of what was made.
pub(super) async fn fulfil(tx: &TenantTx, claim: Uuid, made: Uuid) -> Result<()> {
    let row = diesel::update(keys::table.filter(keys::id.eq(claim))).set(keys::made.eq(made));
    tx.execute(row).await.map(|_| ())
}
