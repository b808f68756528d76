//! Writing encounters: start, finish and cancel. Touches `encounters`.

use super::EncounterStatus;
use crate::db::schema::tenant::{encounters, patients};
use crate::error::{Error, Result};
use crate::guard::{TenantTx, require_version};
use crate::ids::{EncounterId, PatientId};
use crate::model::fields::{EncounterCancelReason, EncounterReason};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;

/// An encounter to be started.
#[derive(Debug, Clone)]
pub struct NewEncounter {
    /// The patient who is seen.
    pub patient: PatientId,
    /// HL7 v3 ActCode of the class: AMB, EMER, IMP, …
    pub class: String,
    /// The reason for the encounter, in plain text; it is sealed when it is stored.
    pub reason: Option<String>,
    /// When the encounter started.
    pub started_at: DateTime<Utc>,
}

/// Starts an encounter.
///
/// # Errors
/// `NotFound` where the patient does not exist.
pub async fn start(tx: &mut TenantTx, new: NewEncounter) -> Result<EncounterId> {
    let patient = patients::table.filter(patients::id.eq(new.patient)).select(patients::id);
    let _: PatientId = tx.first(patient).await?;
    let id = EncounterId::new();
    let row = (
        encounters::tenant_id.eq(tx.tenant()),
        encounters::id.eq(id),
        encounters::patient_id.eq(new.patient),
        encounters::status.eq(EncounterStatus::InProgress),
        encounters::class.eq(&new.class),
        encounters::reason_sealed
            .eq(new.reason.map(|reason| tx.keys().seal::<EncounterReason>(id.0, &reason)).transpose()?),
        encounters::started_at.eq(new.started_at),
        encounters::ordered_at.eq(new.started_at),
    );
    tx.execute(diesel::insert_into(encounters::table).values(row)).await?;
    Ok(id)
}

/// Finishes an encounter. Optimistic locking: fails with `Conflict` unless `expected` equals the stored version.
pub async fn finish(tx: &mut TenantTx, id: EncounterId, expected: i32, ended_at: DateTime<Utc>) -> Result<EncounterId> {
    let before = lock(tx, id, expected).await?;
    if before.started_at.is_some_and(|started| ended_at < started) {
        return Err(Error::invalid("input.endedAt", "lies before the begin of the encounter"));
    }
    let row = diesel::update(encounters::table.filter(encounters::id.eq(id))).set((
        encounters::status.eq(EncounterStatus::Finished),
        encounters::ended_at.eq(ended_at),
        encounters::version.eq(before.version + 1),
        encounters::updated_at.eq(Utc::now()),
    ));
    tx.execute(row).await?;
    Ok(id)
}

/// Cancels an encounter that did not take place, or not to its end. Optimistic locking as in `finish`.
pub async fn cancel(tx: &mut TenantTx, id: EncounterId, expected: i32, reason: Option<String>) -> Result<EncounterId> {
    let before = lock(tx, id, expected).await?;
    let row = diesel::update(encounters::table.filter(encounters::id.eq(id))).set((
        encounters::status.eq(EncounterStatus::Cancelled),
        encounters::cancel_reason_sealed
            .eq(reason.map(|reason| tx.keys().seal::<EncounterCancelReason>(id.0, &reason)).transpose()?),
        encounters::version.eq(before.version + 1),
        encounters::updated_at.eq(Utc::now()),
    ));
    tx.execute(row).await?;
    Ok(id)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = encounters, check_for_backend(Pg))]
struct LockedEncounter {
    status: EncounterStatus,
    started_at: Option<DateTime<Utc>>,
    version: i32,
}

/// Locks the row until the transaction ends.
///
/// # Errors
/// `NotFound` where there is none, `Conflict` where its version is not `expected` or the encounter is over.
async fn lock(tx: &TenantTx, id: EncounterId, expected: i32) -> Result<LockedEncounter> {
    let row = encounters::table.filter(encounters::id.eq(id)).select(LockedEncounter::as_select()).for_update();
    let row: LockedEncounter = tx.first(row).await?;
    require_version(expected, row.version)?;
    match row.status {
        EncounterStatus::Planned | EncounterStatus::InProgress | EncounterStatus::Unknown => Ok(row),
        EncounterStatus::Finished | EncounterStatus::Cancelled | EncounterStatus::EnteredInError => {
            Err(Error::Conflict { current_version: Some(row.version), reason: "this encounter is over" })
        }
    }
}
