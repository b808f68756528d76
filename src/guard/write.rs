//! Writes. Each is a transaction of its own, bound for writing, with its audit action in the ticket, so that the audit
//! rows of its statements name that action. Earlier reads are committed before it, and later reads see it.

use super::idempotency::{self, Claim};
use super::{Guard, IdempotencyKey, TenantTx, TxKind};
use crate::audit::{AccessRecord, AuditAction, Outcome};
use crate::db::schema::tenant::staff;
use crate::error::{Error, Result};
use crate::flags::Flag;
use chrono::Utc;
use diesel::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

/// The typed id of the one record that a write made or changed.
pub trait RecordId {
    /// Returns the typed id for `id`, as `idempotency_keys` keeps it.
    fn from_id(id: Uuid) -> Self;
    /// Returns the untyped id.
    fn id(&self) -> Uuid;
}

macro_rules! record_ids {
    ($($id:ident),+) => {
        $(impl RecordId for crate::ids::$id {
            fn from_id(id: Uuid) -> Self {
                Self(id)
            }
            fn id(&self) -> Uuid {
                self.0
            }
        })+
    };
}

record_ids!(PatientId, EncounterId, NoteId);

#[derive(Queryable, Selectable)]
#[diesel(table_name = staff)]
struct StaffRow {
    roles: Option<Vec<String>>,
    name: Option<String>,
}

impl Guard {
    /// Runs `mutation` in a write transaction and commits it. Where a mutation with the same idempotency key was
    /// committed before, returns the id of its record instead of running it again.
    ///
    /// # Errors
    /// An error means that nothing was written, with one exception: `Unavailable` also follows a connection that was
    /// lost during COMMIT, after which the outcome is unknown. A client that sent an `Idempotency-Key` can repeat the
    /// request.
    pub async fn write<T: RecordId>(
        &self,
        action: AuditAction,
        idempotency: Option<&IdempotencyKey>,
        mutation: impl AsyncFnOnce(&mut TenantTx) -> Result<T>,
    ) -> Result<T> {
        self.require_flag(Flag::ChartWrites)?;
        self.finish().await.inspect_err(|_| self.reads.fail())?;
        self.reads.renew();
        let mut tx = self.begin(TxKind::Write, Some(action)).await?;
        match self.run_once(&mut tx, idempotency, mutation).await {
            Ok(id) => {
                tx.commit().await?;
                self.committed.lock().push(action);
                Ok(id)
            }
            Err(error) => {
                if let Err(error) = tx.rollback().await {
                    tracing::debug!(error = %error, "A failed write could not be rolled back; its session is closed");
                }
                Err(error)
            }
        }
    }

    /// Returns the actions of the writes that this operation has committed, in their order.
    pub fn committed_actions(&self) -> Vec<AuditAction> {
        self.committed.lock().clone()
    }

    /// Records the attempt to change a record that does not exist or that the caller may not see. The audit row is
    /// written by `finish`.
    pub fn record_not_found(&self, action: AuditAction, resource_type: &'static str, resource_ids: Vec<Uuid>) {
        self.record_attempt(action, resource_type, resource_ids, Outcome::NotFound);
    }

    /// Records the attempt to change a record in a way that the caller may not. The audit row is written by `finish`.
    pub fn record_denied(&self, action: AuditAction, resource_type: &'static str, resource_ids: Vec<Uuid>) {
        self.record_attempt(action, resource_type, resource_ids, Outcome::Denied);
    }

    fn record_attempt(
        &self,
        action: AuditAction,
        resource_type: &'static str,
        resource_ids: Vec<Uuid>,
        outcome: Outcome,
    ) {
        self.record_refusal(AccessRecord {
            action: action.as_str(),
            patient: None,
            resource_type,
            resource_ids,
            fields: Vec::new(),
            outcome,
        });
    }

    async fn run_once<T: RecordId>(
        &self,
        tx: &mut TenantTx,
        idempotency: Option<&IdempotencyKey>,
        mutation: impl AsyncFnOnce(&mut TenantTx) -> Result<T>,
    ) -> Result<T> {
        self.upsert_staff(tx).await?;
        let Some(idempotency) = idempotency else { return mutation(tx).await };
        match idempotency::claim(tx, self.staff_id(), idempotency).await? {
            Claim::Completed(id) => Ok(T::from_id(id)),
            Claim::New(claim) => {
                let record = mutation(tx).await?;
                idempotency::complete(tx, claim, record.id()).await?;
                Ok(record)
            }
        }
    }

    /// Creates the caller's staff row with the first write, and updates its name and roles with a later one. A trigger
    /// audits a change of roles.
    async fn upsert_staff(&self, tx: &TenantTx) -> Result<()> {
        let row = staff::table.filter(staff::id.eq(self.actor.id)).select(StaffRow::as_select());
        let (roles, name) = (Some(&self.actor.roles), self.actor.name.as_ref());
        match tx.optional(row).await? {
            Some(StaffRow { roles: stored_roles, name: stored_name })
                if same_roles(stored_roles.as_ref(), roles) && (name.is_none() || stored_name.as_ref() == name) => {}
            Some(_) => {
                let row = diesel::update(staff::table.filter(staff::id.eq(self.actor.id)));
                let row = row.set((
                    name.map(|name| staff::name.eq(name)),
                    staff::roles.eq(roles),
                    staff::updated_at.eq(Utc::now()),
                    staff::version.eq(staff::version + 1),
                ));
                tx.execute(row).await?;
            }
            None => {
                let row = (
                    staff::tenant_id.eq(self.tenant.id),
                    staff::id.eq(self.actor.id),
                    staff::issuer.eq(&self.actor.issuer),
                    staff::subject.eq(&self.actor.subject),
                    staff::name.eq(name),
                    staff::roles.eq(roles),
                );
                // Of two concurrent first writes, the second finds the row of the first.
                let row = diesel::insert_into(staff::table).values(row).on_conflict_do_nothing();
                tx.execute(row).await?;
            }
        }
        Ok(())
    }
}

/// Compares roles regardless of their order.
fn same_roles(stored: Option<&Vec<String>>, current: Option<&Vec<String>>) -> bool {
    let sorted = |roles: Option<&Vec<String>>| roles.map(|roles| roles.iter().cloned().collect::<BTreeSet<_>>());
    sorted(stored) == sorted(current)
}

/// Optimistic locking: fails with `Conflict` unless the version that the client expects is the stored one.
pub fn require_version(expected: i32, current: i32) -> Result<()> {
    match expected == current {
        true => Ok(()),
        false => Err(Error::Conflict { current_version: Some(current), reason: "it was changed in the meantime" }),
    }
}
