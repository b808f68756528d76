//! Encounters into rows.

use super::{CHANGED_HERE, Store, Stored, at_its_version, encounter_number, fingerprint, look_up, without_repeats};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::encounters;
use crate::error::Result;
use crate::fhir::ImportedEncounter;
use crate::guard::TenantTx;
use crate::ids::{EncounterId, PatientId, TenantId};
use crate::model::fields::{EncounterReason, EncounterSource};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{self, Binary, Integer, Nullable, Timestamptz};
use futures_util::try_join;
use std::collections::HashMap;

#[derive(Insertable)]
#[diesel(table_name = encounters)]
struct NewRow<'a> {
    tenant_id: TenantId,
    id: EncounterId,
    patient_id: PatientId,
    source_key: Vec<u8>,
    #[diesel(embed)]
    content: Content<'a>,
}

#[derive(Insertable, AsChangeset)]
#[diesel(table_name = encounters, treat_none_as_null = true)]
struct Content<'a> {
    status: &'static str,
    class: Option<&'a str>,
    reason_sealed: Option<Sealed<EncounterReason>>,
    started_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    ordered_at: DateTime<Utc>,
    identifier_key: Option<Vec<u8>>,
    source_sealed: Option<Sealed<EncounterSource>>,
    source_hash: Vec<u8>,
    source_version: i32,
}

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Binary)]
    key: Vec<u8>,
    #[diesel(sql_type = sql_types::Uuid)]
    id: EncounterId,
    #[diesel(sql_type = sql_types::Uuid)]
    patient: PatientId,
    #[diesel(sql_type = Nullable<Binary>)]
    hash: Option<Vec<u8>>,
    #[diesel(sql_type = Timestamptz)]
    ordered_at: DateTime<Utc>,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Nullable<Integer>)]
    imported: Option<i32>,
}

impl Store {
    /// Stores a batch of encounters whose patients are there.
    pub async fn encounters(&self, batch: &[&ImportedEncounter]) -> Result<Stored> {
        let (mut stored, mut offset) = (Stored::default(), 0);
        for run in without_repeats(batch, |encounter| encounter.key.clone()) {
            stored.absorb(self.transaction(async |tx| self.encounters_once(tx, run).await).await?, offset);
            offset += run.len();
        }
        Ok(stored)
    }

    async fn encounters_once(&self, tx: &TenantTx, batch: &[&ImportedEncounter]) -> Result<Stored> {
        let keys = tx.keys();
        let source_keys: Vec<_> = batch.iter().map(|encounter| self.key(keys, &encounter.key)).collect();
        let patients: Vec<_> = batch.iter().map(|encounter| &encounter.patient).collect();
        let (patients, known) = try_join!(self.find_patients(tx, &patients), known(tx, &source_keys))?;
        let (mut stored, mut new) = (Stored::default(), Vec::new());
        for (index, (encounter, source_key)) in batch.iter().zip(source_keys).enumerate() {
            let Some(patient_id) = patients.get(&encounter.patient).copied() else {
                stored.refused.push((index, self.nobody(&encounter.patient)));
                continue;
            };
            let hash = fingerprint(keys, "encounter", encounter.fingerprint())?;
            match known.get(&source_key) {
                Some(before) if before.patient != patient_id => stored.refused.push((index, "patient_changed")),
                Some(before) if before.hash.as_ref() == Some(&hash) => stored.unchanged += 1,
                Some(before) if before.imported != Some(before.version) => stored.refused.push((index, CHANGED_HERE)),
                Some(before) => {
                    let version = before.version + 1;
                    let content = content(keys, encounter, before.id, (hash, version), before.ordered_at)?;
                    let row = encounters::table
                        .filter(encounters::id.eq(before.id).and(encounters::version.eq(before.version)));
                    let bump = (encounters::version.eq(version), encounters::updated_at.eq(diesel::dsl::now));
                    at_its_version(tx.execute(diesel::update(row).set((content, bump))).await?)?;
                    stored.updated += 1;
                }
                None => {
                    let id = EncounterId::new();
                    let content = content(keys, encounter, id, (hash, 1), Utc::now())?;
                    new.push(NewRow { tenant_id: tx.tenant(), id, patient_id, source_key, content });
                }
            }
        }
        if !new.is_empty() {
            stored.new = new.len() as u64;
            tx.execute(diesel::insert_into(encounters::table).values(new)).await?;
        }
        Ok(stored)
    }
}

async fn known(tx: &TenantTx, source_keys: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Known>> {
    let by_source = each!(
        "key, id, patient_id as patient, source_hash as hash, ordered_at, version, source_version as imported",
        "encounters",
        "source_key = key limit 1"
    );
    let rows: Vec<Known> = look_up(tx, by_source, source_keys).await?;
    Ok(rows.into_iter().map(|row| (row.key.clone(), row)).collect())
}

/// One without a beginning is listed where it was first seen.
fn content<'a>(
    keys: &TenantKeys,
    encounter: &'a ImportedEncounter,
    id: EncounterId,
    (source_hash, source_version): (Vec<u8>, i32),
    otherwise: DateTime<Utc>,
) -> Result<Content<'a>> {
    Ok(Content {
        status: encounter.status.name(),
        class: encounter.class.as_deref(),
        reason_sealed: encounter.reason.as_ref().map(|reason| keys.seal(id.0, reason)).transpose()?,
        started_at: encounter.started_at,
        ended_at: encounter.ended_at,
        ordered_at: encounter.started_at.unwrap_or(otherwise),
        identifier_key: encounter.identifier.as_ref().map(|number| encounter_number(keys, number)),
        source_sealed: Some(keys.seal(id.0, &encounter.source.clone().into_json())?),
        source_hash,
        source_version,
    })
}
