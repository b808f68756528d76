//! Changing patients: opening a chart, keeping its head up to date. Touches `patients`, `patient_identifiers` and `patient_terms`.
//! An identifier that was taken off a chart stays, retired: it is history.

use super::Sex;
use crate::crypto::Sealed;
use crate::crypto::TenantKeys;
use crate::db::schema::tenant::{patient_identifiers as identifiers, patient_terms, patients};
use crate::error::{Error, Result};
use crate::guard::{TenantTx, expect};
use crate::ids::PatientId;
use crate::model::fields::{IdentifierValue, PatientBirthDate, PatientName, PersonName};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use std::collections::HashSet;
use uuid::Uuid;

/// An identifier to be put on a chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIdentifier {
    /// URI of what hands it out.
    pub system: String,
    /// The identifier.
    pub value: String,
}

/// A chart to be opened.
#[derive(Debug, Clone)]
pub struct NewPatient {
    /// No two of them the same.
    pub identifiers: Vec<NewIdentifier>,
    /// The name in use.
    pub name: Option<PersonName>,
    /// YYYY, YYYY-MM or YYYY-MM-DD.
    pub birth_date: Option<String>,
    /// Administrative sex.
    pub sex: Sex,
}

/// What is to change; `None` leaves as it is, an inner `None` clears.
#[derive(Debug, Clone, Default)]
pub struct PatientEdit {
    /// All of them, in order; who is not among them is retired.
    pub identifiers: Option<Vec<NewIdentifier>>,
    /// The name in use.
    pub name: Option<Option<PersonName>>,
    /// YYYY, YYYY-MM or YYYY-MM-DD.
    pub birth_date: Option<Option<String>>,
    /// Administrative sex.
    pub sex: Option<Sex>,
    /// When the patient died.
    pub deceased_at: Option<Option<DateTime<Utc>>>,
}

/// Opens a chart. An identifier that is on another one is a conflict.
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
    put_on(tx, id, &new.identifiers, &[]).await?;
    index(tx, id, new.name.as_ref(), new.birth_date.as_deref()).await?;
    Ok(id)
}

/// Changes the head of a chart.
pub async fn update(tx: &mut TenantTx, id: PatientId, expected: i32, edit: PatientEdit) -> Result<PatientId> {
    let before = held(tx, id).await?;
    expect(expected, before.version)?;
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
    if let Some(wanted) = &edit.identifiers {
        replace(tx, id, wanted).await?;
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
#[diesel(table_name = patients)]
struct Held {
    version: i32,
    name_sealed: Option<Sealed<PatientName>>,
    birth_date_sealed: Option<Sealed<PatientBirthDate>>,
}

/// The row, which nobody else changes before this transaction ends.
async fn held(tx: &TenantTx, id: PatientId) -> Result<Held> {
    let row = patients::table.filter(patients::id.eq(id)).select(Held::as_select()).for_update();
    tx.first(row).await
}

fn sealed_name(keys: &TenantKeys, id: PatientId, name: Option<&PersonName>) -> Result<Option<Sealed<PatientName>>> {
    name.map(|name| keys.seal(id.0, name)).transpose()
}

fn sealed_date(keys: &TenantKeys, id: PatientId, date: Option<&String>) -> Result<Option<Sealed<PatientBirthDate>>> {
    date.map(|date| keys.seal(id.0, date)).transpose()
}

/// Makes the chart's identifiers those that are wanted.
async fn replace(tx: &TenantTx, id: PatientId, wanted: &[NewIdentifier]) -> Result<()> {
    let own = identifiers::patient_id.eq(id).and(identifiers::retired_at.is_null());
    let there = identifiers::table.filter(own).select((identifiers::id, identifiers::value_hash));
    let there: Vec<(Uuid, Vec<u8>)> = tx.load(there).await?;
    let hashes: HashSet<_> = wanted.iter().map(|number| hash(tx.keys(), number)).collect();
    let (kept, gone): (Vec<_>, Vec<_>) = there.into_iter().partition(|(_, hash)| hashes.contains(hash));
    let gone = identifiers::id.eq_any(gone.into_iter().map(|(id, _)| id).collect::<Vec<_>>());
    let retired = diesel::update(identifiers::table).filter(gone).set(identifiers::retired_at.eq(Utc::now()));
    tx.execute(retired).await?;
    for (number, position) in wanted.iter().zip(0..) {
        let hash = hash(tx.keys(), number);
        if let Some((row, _)) = kept.iter().find(|(_, known)| *known == hash) {
            let moved = diesel::update(identifiers::table.filter(identifiers::id.eq(row)))
                .set(identifiers::position.eq(position));
            tx.execute(moved).await?;
        }
    }
    put_on(tx, id, wanted, &kept.into_iter().map(|(_, hash)| hash).collect::<Vec<_>>()).await
}

/// Adds identifiers, but those that are there, in the order given.
async fn put_on(tx: &TenantTx, id: PatientId, wanted: &[NewIdentifier], there: &[Vec<u8>]) -> Result<()> {
    let keys = tx.keys();
    let new: Vec<_> =
        wanted.iter().zip(0_i32..).map(|(number, position)| (number, position, hash(keys, number))).collect();
    let new: Vec<_> = new.into_iter().filter(|(_, _, hash)| !there.contains(hash)).collect();
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
            // Registered here, so handed out here: nobody else has it, and the index says so where two come at once.
            identifiers::exclusive.eq(true),
            identifiers::value_sealed.eq(keys.seal::<IdentifierValue>(row, &number.value)?),
            identifiers::value_hash.eq(value_hash),
        ))
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    tx.execute(diesel::insert_into(identifiers::table).values(rows)).await.map(|_| ())
}

fn hash(keys: &TenantKeys, number: &NewIdentifier) -> Vec<u8> {
    keys.blind("identifier", &[&number.system, &number.value]).to_vec()
}

/// Makes the patient found by this name and birth date and by the identifiers now on the chart.
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
