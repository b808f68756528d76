//! The importer's database half: batches of mapped resources become rows of one tenant, each batch in one import
//! transaction. A resource whose content is stored already is left alone, and one that changed becomes a new version. A
//! resource that refers to something absent is refused with a reason, and so is one that would undo a change made here.

mod encounters;
mod identifiers;
mod identity;
mod notes;
mod patients;
mod staff;

use crate::crypto::TenantKeys;
use crate::db::schema::tenant::{encounters as encounter_rows, patient_identifiers, patients as patient_rows};
use crate::error::{Error, Result};
use crate::fhir::{Identifier, ImportedResource, SourceRef};
use crate::guard::{Actor, GuardFactory, TenantQuery, TenantTx, TxKind};
use crate::ids::{EncounterId, PatientId, RequestId, StaffId, TenantId};
use crate::model::sql::{KeyedLateral, each_key, keyed_lateral, limited, unnest};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::Query;
use diesel::sql_types::{Binary, Nullable};
use futures_util::try_join;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// Waiting times before a batch that lost a race is tried again.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// The resource changed in the source and in Cordon. People decide which holds; until then Cordon's content stays.
const CHANGED_HERE: &str = "changed_here";

/// Stores imported resources in one tenant.
pub struct Store {
    guards: Arc<GuardFactory>,
    tenant: TenantId,
    actor: Actor,
    request: RequestId,
    source: String,
    /// The practitioners of this input by their key in the source.
    practitioners: HashMap<String, StaffId>,
    /// Patient keys under which this input holds another person than the stored one. The run takes nothing more under
    /// these keys.
    refused: HashSet<String>,
}

/// The outcome of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The number of rows that were added.
    pub new: u64,
    /// The number of rows whose content had changed.
    pub updated: u64,
    /// The number of rows with the same content.
    pub unchanged: u64,
    /// Resources that were refused: index in the batch and reason code.
    pub refused: Vec<(usize, &'static str)>,
}

impl Store {
    /// Returns a store for one run. `source` names the sending system and keeps its ids apart from those of others.
    pub fn new(guards: Arc<GuardFactory>, tenant: TenantId, source: &str) -> Self {
        let actor = Actor::command(tenant, "import");
        Self {
            guards,
            tenant,
            actor,
            request: RequestId::new(),
            source: source.to_owned(),
            practitioners: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// Runs a batch in a transaction of its own, and again where it lost a race.
    async fn transaction<T>(&self, batch: impl AsyncFn(&TenantTx) -> Result<T>) -> Result<T> {
        for pause in RETRY_PAUSES {
            match self.attempt(&batch).await {
                Err(Error::Conflict { .. } | Error::PlacementChanged | Error::Timeout) => {
                    tokio::time::sleep(pause).await
                }
                ended => return ended,
            }
        }
        self.attempt(&batch).await
    }

    /// Runs `store` over a batch, cut into runs in which no key repeats, each in a transaction of its own.
    async fn in_runs<T, K: Hash + Eq>(
        &self,
        batch: &[T],
        key: impl Fn(&T) -> K,
        store: impl AsyncFn(&TenantTx, &[T]) -> Result<Stored>,
    ) -> Result<Stored> {
        let (mut stored, mut offset) = (Stored::default(), 0);
        for run in without_repeats(batch, key) {
            stored.absorb(self.transaction(async |tx| store(tx, run).await).await?, offset);
            offset += run.len();
        }
        Ok(stored)
    }

    /// Imports into one tenant run one batch at a time (see `cordon.bind`), so that each finds what another has stored.
    async fn attempt<T>(&self, batch: &impl AsyncFn(&TenantTx) -> Result<T>) -> Result<T> {
        let tx = self.guards.begin_operation(self.tenant, &self.actor, TxKind::Import, self.request).await?;
        let done = batch(&tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Returns the blind index of a resource's key in the source.
    fn key(&self, keys: &TenantKeys, key: &str) -> Vec<u8> {
        keys.blind_index("source", &[&self.source, key]).to_vec()
    }

    /// Returns the reason code for a reference to a patient that was not found.
    fn not_found_reason(&self, reference: &SourceRef) -> &'static str {
        if self.is_refused(reference) { "patient_refused" } else { "patient_not_found" }
    }

    fn is_refused(&self, reference: &SourceRef) -> bool {
        matches!(reference, SourceRef::Key(key) if self.refused.contains(key))
    }

    /// Finds the patients that references mean. An identifier that several patients carry means none of them, and
    /// neither does a key that was refused in this run.
    async fn find_patients(&self, tx: &TenantTx, wanted: &[&SourceRef]) -> Result<HashMap<SourceRef, PatientId>> {
        let (mut by_key, mut by_identifier) = (HashMap::new(), HashMap::new());
        for reference in wanted.iter().filter(|reference| !self.is_refused(reference)) {
            match reference {
                SourceRef::Key(key) => by_key.insert(self.key(tx.keys(), key), *reference),
                SourceRef::Identifier(identifier) => {
                    by_identifier.insert(identifier_hash(tx.keys(), identifier), *reference)
                }
            };
        }
        let by_source = patient_rows::table
            .filter(patient_rows::tenant_id.eq(tx.tenant()))
            .filter(patient_rows::source_key.eq(each_key::<Nullable<Binary>>()))
            .select(FoundPatient::as_select());
        let carrying = patient_identifiers::table
            .filter(patient_identifiers::tenant_id.eq(tx.tenant()))
            .filter(patient_identifiers::value_hash.eq(each_key::<Binary>()))
            .filter(patient_identifiers::retired_at.is_null())
            .select(Carrier::as_select());
        let (rows, carriers): (Vec<(_, FoundPatient)>, Vec<(_, Carrier)>) = try_join!(
            look_up(tx, by_key.keys().cloned().collect(), limited(by_source, 1)),
            look_up(tx, by_identifier.keys().cloned().collect(), limited(carrying, 2)),
        )?;
        let mut found: HashMap<SourceRef, PatientId> =
            rows.into_iter().filter_map(|(key, row)| Some(((*by_key.get(&key)?).clone(), row.id))).collect();
        let mut ids: HashMap<Vec<u8>, HashSet<PatientId>> = HashMap::new();
        carriers.into_iter().for_each(|(hash, row)| {
            ids.entry(hash).or_default().insert(row.patient_id);
        });
        for (hash, ids) in ids {
            if let (Some(reference), 1, Some(id)) = (by_identifier.get(&hash), ids.len(), ids.iter().next()) {
                found.insert((*reference).clone(), *id);
            }
        }
        Ok(found)
    }

    /// Finds the encounters that references mean, with patient and start. A number that several encounters have means
    /// none of them.
    async fn find_encounters(
        &self,
        tx: &TenantTx,
        wanted: &[&SourceRef],
    ) -> Result<HashMap<SourceRef, FoundEncounter>> {
        let (mut by_key, mut by_number) = (HashMap::new(), HashMap::new());
        for reference in wanted {
            match reference {
                SourceRef::Key(key) => by_key.insert(self.key(tx.keys(), key), *reference),
                SourceRef::Identifier(number) => by_number.insert(encounter_number(tx.keys(), number), *reference),
            };
        }
        let found_encounters =
            encounter_rows::table.filter(encounter_rows::tenant_id.eq(tx.tenant())).select(FoundEncounter::as_select());
        let by_source = found_encounters.filter(encounter_rows::source_key.eq(each_key::<Nullable<Binary>>()));
        let carrying = found_encounters.filter(encounter_rows::identifier_key.eq(each_key::<Nullable<Binary>>()));
        let (rows, carriers): (Vec<(_, FoundEncounter)>, Vec<(_, FoundEncounter)>) = try_join!(
            look_up(tx, by_key.keys().cloned().collect(), limited(by_source, 1)),
            look_up(tx, by_number.keys().cloned().collect(), limited(carrying, 2)),
        )?;
        let mut found: HashMap<_, _> =
            rows.into_iter().filter_map(|(key, row)| Some(((*by_key.get(&key)?).clone(), row))).collect();
        let mut numbered: HashMap<Vec<u8>, Vec<FoundEncounter>> = HashMap::new();
        carriers.into_iter().for_each(|(number, row)| numbered.entry(number).or_default().push(row));
        for (number, mut carriers) in numbered {
            if let (Some(reference), 1, Some(only)) = (by_number.get(&number), carriers.len(), carriers.pop()) {
                found.insert((*reference).clone(), only);
            }
        }
        Ok(found)
    }
}

/// Rows with the keys under which they were found.
type Found<R> = Vec<(Vec<u8>, R)>;

/// Looks rows up by their keys, one by one: `rows` gives those of `each_key`. `= ANY(…)` would read all of a tenant's
/// rows, batch after batch, while PostgreSQL has no statistics of a new tenant.
async fn look_up<R, Q>(tx: &TenantTx, keys: Vec<Vec<u8>>, rows: Q) -> Result<Found<R>>
where
    R: Send + 'static,
    Q: Query + Send + 'static,
    KeyedLateral<unnest<Binary, Vec<Vec<u8>>>, Q>: TenantQuery<(Vec<u8>, R)>,
{
    match keys.is_empty() {
        true => Ok(Vec::new()),
        false => tx.load(keyed_lateral(unnest(keys), rows)).await,
    }
}

/// Fails with `Conflict` where no row was updated: somebody changed it after this batch read it, and the batch runs
/// again.
fn require_updated(updated: usize) -> Result<()> {
    match updated {
        0 => Err(Error::Conflict { current_version: None, reason: "changed while it was imported" }),
        _ => Ok(()),
    }
}

/// A patient whom a reference means.
#[derive(Queryable, Selectable)]
#[diesel(table_name = patient_rows, check_for_backend(Pg))]
struct FoundPatient {
    id: PatientId,
}

/// A patient who carries an identifier.
#[derive(Queryable, Selectable)]
#[diesel(table_name = patient_identifiers, check_for_backend(Pg))]
struct Carrier {
    patient_id: PatientId,
}

/// An encounter that a note refers to.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = encounter_rows, check_for_backend(Pg))]
struct FoundEncounter {
    id: EncounterId,
    patient_id: PatientId,
    started_at: Option<DateTime<Utc>>,
}

/// Returns the blind index of a patient's identifier, the same that `patientByIdentifier` looks for.
fn identifier_hash(keys: &TenantKeys, identifier: &Identifier) -> Vec<u8> {
    keys.blind_index("identifier", &[&identifier.system, &identifier.value]).to_vec()
}

/// Returns the blind index of an encounter's number. Its domain is not that of patients' identifiers.
fn encounter_number(keys: &TenantKeys, number: &Identifier) -> Vec<u8> {
    keys.blind_index("encounter-number", &[&number.system, &number.value]).to_vec()
}

/// Cuts a batch into runs in which no key repeats, so that a resource that comes twice finds its first occurrence in
/// the database.
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

/// Returns a keyed digest of a resource's content. A resource that cannot be serialised is an internal error.
fn fingerprint(keys: &TenantKeys, domain: &str, resource: &impl ImportedResource) -> Result<Vec<u8>> {
    let bytes =
        resource.fingerprint().map_err(|error| Error::internal("A resource could not be fingerprinted", error))?;
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
