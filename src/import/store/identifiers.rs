//! The identifiers of imported patients: which are in use, which are retired, which are added. Touches
//! `patient_identifiers`.

use super::patients::Planned;
use super::{Carrier, identifier_hash, look_up};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::patient_identifiers;
use crate::error::Result;
use crate::fhir::ImportedPatient;
use crate::guard::TenantTx;
use crate::ids::{PatientId, TenantId};
use crate::model::fields::IdentifierValue;
use crate::model::sql::{each_key, limited};
use chrono::Utc;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Binary;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

#[derive(Insertable)]
#[diesel(table_name = patient_identifiers)]
pub(super) struct IdentifierRow<'a> {
    tenant_id: TenantId,
    id: Uuid,
    patient_id: PatientId,
    position: i32,
    system: &'a str,
    kind: Option<&'a str>,
    pub(super) exclusive: bool,
    value_sealed: Sealed<IdentifierValue>,
    pub(super) value_hash: Vec<u8>,
}

/// An identifier in use on an existing chart.
#[derive(Queryable, Selectable)]
#[diesel(table_name = patient_identifiers, check_for_backend(Pg))]
pub(super) struct CurrentIdentifier {
    patient_id: PatientId,
    id: Uuid,
    pub(super) value_hash: Vec<u8>,
    pub(super) exclusive: bool,
}

/// The identifiers in use of these existing patients.
pub(super) async fn current_identifiers(
    tx: &TenantTx,
    ids: &[PatientId],
) -> Result<HashMap<PatientId, Vec<CurrentIdentifier>>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = patient_identifiers::table
        .filter(patient_identifiers::patient_id.eq_any(ids))
        .filter(patient_identifiers::retired_at.is_null())
        .select(CurrentIdentifier::as_select());
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for row in tx.load(rows).await? {
        found.entry(row.patient_id).or_default().push(row);
    }
    Ok(found)
}

/// Retires the identifiers that changed patients no longer have.
pub(super) async fn retire(tx: &TenantTx, plans: &[Planned<'_>]) -> Result<()> {
    let mut gone = Vec::new();
    for plan in plans {
        let hashes = plan
            .patient
            .identifiers
            .iter()
            .map(|number| (identifier_hash(tx.keys(), &number.identifier), number.exclusive));
        let wanted: HashSet<_> = hashes.collect();
        let before = plan.before.unwrap_or_default().iter();
        gone.extend(
            before
                .filter(|number| !wanted.contains(&(number.value_hash.clone(), number.exclusive)))
                .map(|number| number.id),
        );
    }
    if !gone.is_empty() {
        let retired = diesel::update(patient_identifiers::table.filter(patient_identifiers::id.eq_any(gone)));
        tx.execute(retired.set(patient_identifiers::retired_at.eq(Utc::now()))).await?;
    }
    Ok(())
}

pub(super) async fn add_identifiers(tx: &TenantTx, rows: &[IdentifierRow<'_>]) -> Result<()> {
    // PostgreSQL accepts at most 65,535 parameters in a statement.
    for some in rows.chunks(5_000) {
        tx.execute(diesel::insert_into(patient_identifiers::table).values(some)).await?;
    }
    Ok(())
}

/// Returns the patients who carry the exclusive identifiers that a batch brings.
pub(super) async fn owners(tx: &TenantTx, batch: &[&ImportedPatient]) -> Result<HashMap<Vec<u8>, PatientId>> {
    let hashes: Vec<_> = batch.iter().flat_map(|patient| exclusive(tx.keys(), patient)).collect();
    let holding = patient_identifiers::table
        .filter(patient_identifiers::tenant_id.eq(tx.tenant()))
        .filter(patient_identifiers::value_hash.eq(each_key::<Binary>()))
        .filter(patient_identifiers::exclusive)
        .filter(patient_identifiers::retired_at.is_null())
        .select(Carrier::as_select());
    let rows: Vec<(_, Carrier)> = look_up(tx, hashes, limited(holding, 1)).await?;
    Ok(rows.into_iter().map(|(hash, row)| (hash, row.patient_id)).collect())
}

pub(super) fn exclusive(keys: &TenantKeys, patient: &ImportedPatient) -> impl Iterator<Item = Vec<u8>> {
    patient.identifiers.iter().filter(|number| number.exclusive).map(|number| identifier_hash(keys, &number.identifier))
}

pub(super) fn identifier_rows<'a>(
    tenant: TenantId,
    keys: &TenantKeys,
    plan: &Planned<'a>,
) -> Result<Vec<IdentifierRow<'a>>> {
    let mut seen = HashSet::new();
    let numbers = plan.patient.identifiers.iter().filter(|number| seen.insert(&number.identifier));
    numbers
        .zip(0..)
        .map(|(number, position)| {
            let id = Uuid::now_v7();
            Ok(IdentifierRow {
                tenant_id: tenant,
                id,
                patient_id: plan.id,
                position,
                system: &number.identifier.system,
                kind: number.kind.as_deref(),
                exclusive: number.exclusive,
                value_sealed: keys.seal(id, &number.identifier.value)?,
                value_hash: identifier_hash(keys, &number.identifier),
            })
        })
        .collect()
}
