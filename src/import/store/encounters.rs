//! Stores imported encounters. Touches `encounters`.

use super::{CHANGED_HERE, Store, Stored, encounter_number, fingerprint, look_up, require_updated};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::encounters;
use crate::error::Result;
use crate::fhir::ImportedEncounter;
use crate::guard::TenantTx;
use crate::ids::{EncounterId, PatientId, TenantId};
use crate::model::fields::{EncounterReason, EncounterSource};
use crate::model::sql::{each_key, limited};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable};
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

/// The row that an encounter of the source has already.
#[derive(Queryable, Selectable)]
#[diesel(table_name = encounters, check_for_backend(Pg))]
struct Existing {
    id: EncounterId,
    patient_id: PatientId,
    source_hash: Option<Vec<u8>>,
    ordered_at: DateTime<Utc>,
    version: i32,
    source_version: Option<i32>,
}

impl Store {
    /// Stores a batch of encounters. One whose patient is not stored is refused.
    pub async fn encounters(&self, batch: &[&ImportedEncounter]) -> Result<Stored> {
        let key = |encounter: &&ImportedEncounter| encounter.key.clone();
        self.in_runs(batch, key, async |tx, run| self.encounters_once(tx, run).await).await
    }

    async fn encounters_once(&self, tx: &TenantTx, batch: &[&ImportedEncounter]) -> Result<Stored> {
        let keys = tx.keys();
        let source_keys: Vec<_> = batch.iter().map(|encounter| self.key(keys, &encounter.key)).collect();
        let patients: Vec<_> = batch.iter().map(|encounter| &encounter.patient).collect();
        let (patients, existing) = try_join!(self.find_patients(tx, &patients), existing(tx, &source_keys))?;
        let (mut stored, mut new) = (Stored::default(), Vec::new());
        for (index, (encounter, source_key)) in batch.iter().zip(source_keys).enumerate() {
            let Some(patient_id) = patients.get(&encounter.patient).copied() else {
                stored.refused.push((index, self.not_found_reason(&encounter.patient)));
                continue;
            };
            let hash = fingerprint(keys, "encounter", *encounter)?;
            match existing.get(&source_key) {
                Some(before) if before.patient_id != patient_id => stored.refused.push((index, "patient_changed")),
                Some(before) if before.source_hash.as_ref() == Some(&hash) => stored.unchanged += 1,
                Some(before) if before.source_version != Some(before.version) => {
                    stored.refused.push((index, CHANGED_HERE))
                }
                Some(before) => {
                    let version = before.version + 1;
                    let content = content(keys, encounter, before.id, (hash, version), before.ordered_at)?;
                    let row = encounters::table
                        .filter(encounters::id.eq(before.id).and(encounters::version.eq(before.version)));
                    let bump = (encounters::version.eq(version), encounters::updated_at.eq(diesel::dsl::now));
                    require_updated(tx.execute(diesel::update(row).set((content, bump))).await?)?;
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

async fn existing(tx: &TenantTx, source_keys: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Existing>> {
    let by_source = encounters::table
        .filter(encounters::tenant_id.eq(tx.tenant()))
        .filter(encounters::source_key.eq(each_key::<Nullable<Binary>>()))
        .select(Existing::as_select());
    look_up(tx, source_keys.to_vec(), limited(by_source, 1)).await.map(HashMap::from_iter)
}

/// An encounter without a start is listed at `otherwise`, the time at which it was first imported.
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
