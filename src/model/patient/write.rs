//! Writing patients: registration and updates of the chart's head. Touches `patients`, `patient_identifiers` and
//! `patient_terms`. An identifier that is taken off a chart is kept as retired, because the chart's history refers to
//! it.

use super::Sex;
use crate::crypto::Sealed;
use crate::crypto::TenantKeys;
use crate::db::schema::tenant::{patient_identifiers as identifiers, patient_terms, patients};
use crate::error::{Error, Result};
use crate::guard::{TenantTx, require_version};
use crate::ids::PatientId;
use crate::model::fields::{IdentifierValue, PatientBirthDate, PatientName, PersonName};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use std::collections::HashSet;
use uuid::Uuid;

/// An identifier to be added to a chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIdentifier {
    /// URI of the system that issues identifiers of this kind.
    pub system: String,
    /// The identifier's value.
    pub value: String,
}

/// A patient to be registered.
#[derive(Debug, Clone)]
pub struct NewPatient {
    /// The identifiers, without repeats.
    pub identifiers: Vec<NewIdentifier>,
    /// The name in use.
    pub name: Option<PersonName>,
    /// The birth date: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub birth_date: Option<String>,
    /// Administrative sex.
    pub sex: Sex,
}

/// Changes of a chart's head. `None` leaves a value as it is; an inner `None` clears it.
#[derive(Debug, Clone, Default)]
pub struct PatientEdit {
    /// The complete list in its order; identifiers that are missing from it are retired.
    pub identifiers: Option<Vec<NewIdentifier>>,
    /// The name in use.
    pub name: Option<Option<PersonName>>,
    /// The birth date: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub birth_date: Option<Option<String>>,
    /// Administrative sex.
    pub sex: Option<Sex>,
    /// When the patient died.
    pub deceased_at: Option<Option<DateTime<Utc>>>,
}

/// Registers a patient.
///
/// # Errors
/// `Conflict` where another chart carries one of the identifiers.
pub async fn register(tx: &mut TenantTx, new: NewPatient) -> Result<PatientId> {
    let (id, keys) = (PatientId::new(), tx.keys());
    let row = (
        patients::tenant_id.eq(tx.tenant()),
        patients::id.eq(id),
        patients::sex.eq(new.sex),
        patients::name_sealed.eq(sealed_name(keys, id, new.name.as_ref())?),
        patients::birth_date_sealed.eq(sealed_date(keys, id, new.birth_date.as_ref())?),
    );
    tx.execute(diesel::insert_into(patients::table).values(row)).await?;
    add_identifiers(tx, id, &new.identifiers, &[]).await?;
    index(tx, id, new.name.as_ref(), new.birth_date.as_deref()).await?;
    Ok(id)
}

/// Updates the head of a chart. Optimistic locking: fails with `Conflict` unless `expected` equals the stored version.
///
/// # Errors
/// `NotFound` where there is no such patient, `Conflict` as above or where another chart carries one of the
/// identifiers.
pub async fn update(tx: &mut TenantTx, id: PatientId, expected: i32, edit: PatientEdit) -> Result<PatientId> {
    let before = lock(tx, id).await?;
    require_version(expected, before.version)?;
    let keys = tx.keys();
    let row = diesel::update(patients::table.filter(patients::id.eq(id))).set((
        edit.sex.map(|sex| patients::sex.eq(sex)),
        edit.deceased_at.map(|at| patients::deceased_at.eq(at)),
        edit.name
            .as_ref()
            .map(|name| sealed_name(keys, id, name.as_ref()))
            .transpose()?
            .map(|name| patients::name_sealed.eq(name)),
        edit.birth_date
            .as_ref()
            .map(|date| sealed_date(keys, id, date.as_ref()))
            .transpose()?
            .map(|date| patients::birth_date_sealed.eq(date)),
        patients::version.eq(before.version + 1),
        patients::updated_at.eq(Utc::now()),
    ));
    tx.execute(row).await?;
    if let Some(requested) = &edit.identifiers {
        replace_identifiers(tx, id, requested).await?;
    }
    let name = match edit.name {
        Some(name) => name,
        None => before.name_sealed.map(|sealed| tx.keys().open(id.0, &sealed)).transpose()?,
    };
    let birth_date = match edit.birth_date {
        Some(date) => date,
        None => before.birth_date_sealed.map(|sealed| tx.keys().open(id.0, &sealed)).transpose()?,
    };
    index(tx, id, name.as_ref(), birth_date.as_deref()).await?;
    Ok(id)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = patients, check_for_backend(Pg))]
struct LockedPatient {
    version: i32,
    name_sealed: Option<Sealed<PatientName>>,
    birth_date_sealed: Option<Sealed<PatientBirthDate>>,
}

/// An identifier in use on the chart.
#[derive(Queryable, Selectable)]
#[diesel(table_name = identifiers, check_for_backend(Pg))]
struct ExistingIdentifier {
    id: Uuid,
    value_hash: Vec<u8>,
}

/// Locks the row until the transaction ends.
async fn lock(tx: &TenantTx, id: PatientId) -> Result<LockedPatient> {
    let row = patients::table.filter(patients::id.eq(id)).select(LockedPatient::as_select()).for_update();
    tx.first(row).await
}

fn sealed_name(keys: &TenantKeys, id: PatientId, name: Option<&PersonName>) -> Result<Option<Sealed<PatientName>>> {
    name.map(|name| keys.seal(id.0, name)).transpose()
}

fn sealed_date(keys: &TenantKeys, id: PatientId, date: Option<&String>) -> Result<Option<Sealed<PatientBirthDate>>> {
    date.map(|date| keys.seal(id.0, date)).transpose()
}

/// Replaces the chart's identifiers: adds new ones, retires missing ones, renumbers the others.
async fn replace_identifiers(tx: &TenantTx, id: PatientId, requested: &[NewIdentifier]) -> Result<()> {
    let own = identifiers::patient_id.eq(id).and(identifiers::retired_at.is_null());
    let existing = identifiers::table.filter(own).select(ExistingIdentifier::as_select());
    let existing: Vec<ExistingIdentifier> = tx.load(existing).await?;
    let hashes: HashSet<_> = requested.iter().map(|number| hash(tx.keys(), number)).collect();
    let (kept, gone): (Vec<_>, Vec<_>) = existing.into_iter().partition(|row| hashes.contains(&row.value_hash));
    let gone = identifiers::id.eq_any(gone.into_iter().map(|row| row.id).collect::<Vec<_>>());
    let retired = diesel::update(identifiers::table).filter(gone).set(identifiers::retired_at.eq(Utc::now()));
    tx.execute(retired).await?;
    for (number, position) in requested.iter().zip(0..) {
        let hash = hash(tx.keys(), number);
        if let Some(row) = kept.iter().find(|row| row.value_hash == hash) {
            let moved = diesel::update(identifiers::table.filter(identifiers::id.eq(row.id)))
                .set(identifiers::position.eq(position));
            tx.execute(moved).await?;
        }
    }
    add_identifiers(tx, id, requested, &kept.into_iter().map(|row| row.value_hash).collect::<Vec<_>>()).await
}

/// Adds the identifiers whose hashes are not among `existing`, in the order given.
async fn add_identifiers(
    tx: &TenantTx,
    id: PatientId,
    requested: &[NewIdentifier],
    existing: &[Vec<u8>],
) -> Result<()> {
    let keys = tx.keys();
    let new: Vec<_> =
        requested.iter().zip(0_i32..).map(|(number, position)| (number, position, hash(keys, number))).collect();
    let new: Vec<_> = new.into_iter().filter(|(_, _, hash)| !existing.contains(hash)).collect();
    let hashes: Vec<_> = new.iter().map(|(_, _, hash)| hash).collect();
    let taken = identifiers::value_hash.eq_any(hashes).and(identifiers::retired_at.is_null());
    let taken: i64 = tx.first(identifiers::table.filter(taken).count()).await?;
    if taken > 0 {
        return Err(Error::Conflict { current_version: None, reason: "an identifier is in use" });
    }
    let rows = new.into_iter().map(|(number, position, value_hash)| {
        let row = Uuid::now_v7();
        Ok((
            identifiers::tenant_id.eq(tx.tenant()),
            identifiers::id.eq(row),
            identifiers::patient_id.eq(id),
            identifiers::position.eq(position),
            identifiers::system.eq(&number.system),
            // An identifier registered here was issued here, so no other chart may carry it; a unique index decides
            // races.
            identifiers::exclusive.eq(true),
            identifiers::value_sealed.eq(keys.seal::<IdentifierValue>(row, &number.value)?),
            identifiers::value_hash.eq(value_hash),
        ))
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    tx.execute(diesel::insert_into(identifiers::table).values(rows)).await.map(|_| ())
}

fn hash(keys: &TenantKeys, number: &NewIdentifier) -> Vec<u8> {
    keys.blind_index("identifier", &[&number.system, &number.value]).to_vec()
}

/// Rewrites the search terms from this name and birth date and the identifiers now on the chart.
async fn index(tx: &TenantTx, id: PatientId, name: Option<&PersonName>, birth_date: Option<&str>) -> Result<()> {
    let own = identifiers::patient_id.eq(id).and(identifiers::retired_at.is_null());
    let numbers: Vec<Vec<u8>> = tx.load(identifiers::table.filter(own).select(identifiers::value_hash)).await?;
    let terms = super::terms::of_patient(tx.keys(), name, birth_date, numbers.iter().map(Vec::as_slice));
    let known = diesel::update(patient_terms::table.filter(patient_terms::patient_id.eq(id)))
        .set(patient_terms::terms.eq(&terms));
    if tx.execute(known).await? == 0 {
        let row = (
            patient_terms::tenant_id.eq(tx.tenant()),
            patient_terms::patient_id.eq(id),
            patient_terms::terms.eq(&terms),
        );
        tx.execute(diesel::insert_into(patient_terms::table).values(row)).await?;
    }
    Ok(())
}
