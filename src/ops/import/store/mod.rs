//! The importer's database half: batches of mapped resources become rows of one tenant, each batch in one import transaction.
//! What is there with the same content is left alone; what changed becomes a new version; what cannot be placed is refused by name.

mod encounters;
mod notes;
mod patients;
mod staff;

use crate::crypto::TenantKeys;
use crate::db::schema::tenant::{encounters as encounters_table, patient_identifiers, patients as patients_table};
use crate::error::{Error, Result};
use crate::fhir::{Identifier, SourceRef};
use crate::guard::{Actor, Door, Purpose, TenantTx};
use crate::ids::{EncounterId, PatientId, RequestId, StaffId, TenantId};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// How long a batch that lost a race waits before it is tried again.
const PAUSES: [Duration; 4] = [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Where imported rows go.
pub struct Store {
    door: Arc<Door>,
    tenant: TenantId,
    actor: Actor,
    request: RequestId,
    source: String,
    /// Practitioners of this input, by their key in the source.
    practitioners: HashMap<String, StaffId>,
}

/// What became of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Rows that were not there.
    pub new: u64,
    /// Rows whose content had changed.
    pub updated: u64,
    /// Rows with the same content.
    pub unchanged: u64,
    /// Resources that could not be placed: index in the batch and reason code.
    pub refused: Vec<(usize, &'static str)>,
}

impl Store {
    /// A store for one run. `source` keeps the ids of one sending system apart from those of another.
    pub fn new(door: Arc<Door>, tenant: TenantId, source: &str) -> Self {
        let actor = Actor::command(tenant, "import");
        Self { door, tenant, actor, request: RequestId::new(), source: source.to_owned(), practitioners: HashMap::new() }
    }

    /// Runs a batch in a transaction of its own; again, if it lost a race.
    async fn transaction<T>(&self, batch: impl AsyncFn(&TenantTx) -> Result<T>) -> Result<T> {
        for pause in PAUSES {
            match self.attempt(&batch).await {
                Err(Error::Conflict { .. } | Error::PlacementChanged | Error::Timeout) => tokio::time::sleep(pause).await,
                ended => return ended,
            }
        }
        self.attempt(&batch).await
    }

    /// Two imports into one tenant take turns, batch by batch (see `cordon.bind`): what one has stored the other finds.
    async fn attempt<T>(&self, batch: &impl AsyncFn(&TenantTx) -> Result<T>) -> Result<T> {
        let tx = self.door.work(self.tenant, &self.actor, Purpose::Import, self.request).await?;
        let done = batch(&tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Blind index of a resource's key in the source.
    fn key(&self, keys: &TenantKeys, key: &str) -> Vec<u8> {
        keys.blind("source", &[&self.source, key]).to_vec()
    }

    /// The patients that references mean; an identifier that several patients carry means none.
    async fn find_patients(&self, tx: &TenantTx, wanted: &[&SourceRef]) -> Result<HashMap<SourceRef, PatientId>> {
        let (mut by_key, mut by_identifier) = (HashMap::new(), HashMap::new());
        for reference in wanted {
            match reference {
                SourceRef::Key(key) => by_key.insert(self.key(tx.keys(), key), *reference),
                SourceRef::Identifier(identifier) => by_identifier.insert(identifier_hash(tx.keys(), identifier), *reference),
            };
        }
        let mut found = HashMap::new();
        let keys: Vec<_> = by_key.keys().cloned().collect();
        let query = patients_table::table
            .select((patients_table::source_key.assume_not_null(), patients_table::id))
            .filter(patients_table::source_key.eq_any(keys));
        let rows: Vec<(Vec<u8>, PatientId)> = tx.run(query.load(&mut tx.conn())).await?;
        found.extend(rows.into_iter().filter_map(|(key, id)| Some(((*by_key.get(&key)?).clone(), id))));
        if !by_identifier.is_empty() {
            let hashes: Vec<_> = by_identifier.keys().cloned().collect();
            let query = patient_identifiers::table
                .select((patient_identifiers::value_hash, patient_identifiers::patient_id))
                .filter(patient_identifiers::value_hash.eq_any(hashes).and(patient_identifiers::retired_at.is_null()));
            let rows: Vec<(Vec<u8>, PatientId)> = tx.run(query.load(&mut tx.conn())).await?;
            let mut carriers: HashMap<Vec<u8>, HashSet<PatientId>> = HashMap::new();
            rows.into_iter().for_each(|(hash, id)| {
                carriers.entry(hash).or_default().insert(id);
            });
            for (hash, ids) in carriers {
                if let (Some(reference), 1, Some(id)) = (by_identifier.get(&hash), ids.len(), ids.iter().next()) {
                    found.insert((*reference).clone(), *id);
                }
            }
        }
        Ok(found)
    }

    /// The encounters that references mean, with whose they are and when they began.
    async fn find_encounters(&self, tx: &TenantTx, wanted: &[&SourceRef]) -> Result<HashMap<SourceRef, FoundEncounter>> {
        let by_key: HashMap<Vec<u8>, &SourceRef> = wanted
            .iter()
            .filter_map(|reference| match reference {
                SourceRef::Key(key) => Some((self.key(tx.keys(), key), *reference)),
                SourceRef::Identifier(_) => None,
            })
            .collect();
        let keys: Vec<_> = by_key.keys().cloned().collect();
        let query = encounters_table::table
            .select((
                encounters_table::source_key.assume_not_null(),
                encounters_table::id,
                encounters_table::patient_id,
                encounters_table::started_at,
            ))
            .filter(encounters_table::source_key.eq_any(keys));
        let rows: Vec<(Vec<u8>, EncounterId, PatientId, Option<DateTime<Utc>>)> = tx.run(query.load(&mut tx.conn())).await?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, id, patient, started_at)| Some(((*by_key.get(&key)?).clone(), FoundEncounter { id, patient, started_at })))
            .collect())
    }
}

/// An encounter a note refers to.
struct FoundEncounter {
    id: EncounterId,
    patient: PatientId,
    started_at: Option<DateTime<Utc>>,
}

/// Blind index of an identifier: the same that `patientByIdentifier` looks for.
fn identifier_hash(keys: &TenantKeys, identifier: &Identifier) -> Vec<u8> {
    keys.blind("identifier", &[&identifier.system, &identifier.value]).to_vec()
}

/// Cuts a batch into runs in which no key repeats, so that a resource that comes twice meets its first self in the database.
fn without_repeats<T, K: Hash + Eq>(batch: &[T], key: impl Fn(&T) -> K) -> Vec<&[T]> {
    let (mut runs, mut seen, mut begin) = (Vec::new(), HashSet::new(), 0);
    for (index, item) in batch.iter().enumerate() {
        if !seen.insert(key(item)) {
            runs.extend(batch.get(begin..index));
            seen = HashSet::from([key(item)]);
            begin = index;
        }
    }
    runs.extend(batch.get(begin..).filter(|rest| !rest.is_empty()));
    runs
}

/// A resource whose fingerprint cannot be written is a fault of ours.
fn fingerprint(keys: &TenantKeys, domain: &str, bytes: Result<Vec<u8>, crate::fhir::Defect>) -> Result<Vec<u8>> {
    let bytes = bytes.map_err(|defect| Error::internal("A resource could not be fingerprinted", defect))?;
    Ok(keys.digest(domain, &bytes).to_vec())
}

impl Stored {
    fn absorb(&mut self, other: Self, offset: usize) {
        self.new += other.new;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.refused.extend(other.refused.into_iter().map(|(index, reason)| (index + offset, reason)));
    }
}
