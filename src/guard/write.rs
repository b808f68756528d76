//! Writes: each one transaction of its own, bound for writing, with its event in the ticket, so that the rows its statements leave in the
//! audit log say what it was. What was read before it is committed first; what is read after it sees it.

use super::{AuditAction, Guard, IdempotencyKey, TenantTx, TxKind, idempotency};
use crate::audit::{AccessRecord, Outcome};
use crate::db::schema::tenant::staff;
use crate::error::{Error, Result};
use crate::flags::Flag;
use chrono::Utc;
use diesel::prelude::*;
use std::collections::BTreeSet;
use uuid::Uuid;

/// What a write made or changed: one record.
pub trait RecordId {
    /// From its id.
    fn from_id(id: Uuid) -> Self;
    /// Its id.
    fn id(&self) -> Uuid;
}

macro_rules! made {
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

made!(PatientId, EncounterId, NoteId);

impl Guard {
    /// Runs `change` in a write transaction and commits it. An error means that nothing was written; after a lost connection at COMMIT nobody
    /// knows, which `Error::Unavailable` says too: a client that sent an Idempotency-Key asks again. With `idempotency`, what was made before under
    /// the same key is found instead of made again.
    pub async fn write<T: RecordId>(
        &self,
        event: AuditAction,
        idempotency: Option<&IdempotencyKey>,
        change: impl AsyncFnOnce(&mut TenantTx) -> Result<T>,
    ) -> Result<T> {
        self.needs(Flag::ChartWrites)?;
        self.finish().await.inspect_err(|_| self.reads.fail())?;
        self.reads.begin_anew();
        let mut tx = self.open(TxKind::Write, Some(event)).await?;
        match self.make(&mut tx, idempotency, change).await {
            Ok(made) => {
                tx.commit().await?;
                self.written.lock().push(event);
                Ok(made)
            }
            Err(error) => {
                if let Err(error) = tx.rollback().await {
                    tracing::debug!(error = %error, "A failed write could not be rolled back; its session is closed");
                }
                Err(error)
            }
        }
    }

    /// What this operation has changed for good, in order.
    pub fn written(&self) -> Vec<AuditAction> {
        self.written.lock().clone()
    }

    /// Someone wanted to change a record that is not there, or not theirs to see: the audit log keeps that they tried.
    pub fn missed(&self, event: AuditAction, resource_type: &'static str, resource_ids: Vec<Uuid>) {
        self.tried(event, resource_type, resource_ids, Outcome::NotFound);
    }

    /// Someone wanted to change a record in a way that is not theirs.
    pub fn denied(&self, event: AuditAction, resource_type: &'static str, resource_ids: Vec<Uuid>) {
        self.tried(event, resource_type, resource_ids, Outcome::Denied);
    }

    fn tried(&self, event: AuditAction, resource_type: &'static str, resource_ids: Vec<Uuid>, outcome: Outcome) {
        self.refuse(AccessRecord {
            action: event.as_str(),
            patient: None,
            resource_type,
            resource_ids,
            fields: Vec::new(),
            outcome,
        });
    }

    async fn make<T: RecordId>(
        &self,
        tx: &mut TenantTx,
        idempotency: Option<&IdempotencyKey>,
        change: impl AsyncFnOnce(&mut TenantTx) -> Result<T>,
    ) -> Result<T> {
        self.introduce(tx).await?;
        let Some(idempotency) = idempotency else { return change(tx).await };
        match idempotency::claim(tx, self.staff_id(), idempotency).await? {
            idempotency::Claim::Made(id) => Ok(T::from_id(id)),
            idempotency::Claim::Mine(claim) => {
                let made = change(tx).await?;
                idempotency::fulfil(tx, claim, made.id()).await?;
                Ok(made)
            }
        }
    }

    /// The caller's row among the staff: there from the first write on, with the roles of the latest. A trigger audits a change of roles.
    async fn introduce(&self, tx: &TenantTx) -> Result<()> {
        let me = staff::table.filter(staff::id.eq(self.actor.id)).select((staff::roles, staff::name));
        let known: Option<(Option<Vec<String>>, Option<String>)> = tx.optional(me).await?;
        let (roles, name) = (Some(&self.actor.roles), self.actor.name.as_ref());
        match known {
            Some((before, called)) if same(before.as_ref(), roles) && (name.is_none() || called.as_ref() == name) => {}
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
                // Two first writes at once: the second finds the row of the first.
                let row = diesel::insert_into(staff::table).values(row).on_conflict_do_nothing();
                tx.execute(row).await?;
            }
        }
        Ok(())
    }
}

/// Whether these are the same roles, in whatever order a token names them.
fn same(before: Option<&Vec<String>>, now: Option<&Vec<String>>) -> bool {
    let sorted = |roles: Option<&Vec<String>>| roles.map(|roles| roles.iter().cloned().collect::<BTreeSet<_>>());
    sorted(before) == sorted(now)
}

/// The version a client saw is the one that is there, or its change is refused.
pub fn expect(expected: i32, current: i32) -> Result<()> {
    match expected == current {
        true => Ok(()),
        false => Err(Error::Conflict { current_version: Some(current), reason: "it was changed in the meantime" }),
    }
}
