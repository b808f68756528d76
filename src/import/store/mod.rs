//! The importer's database half: batches of mapped resources become rows of one tenant, each batch in one import transaction.
//! What is there with the same content is left alone; what changed becomes a new version; what cannot be placed is refused by name,
//! and so is what would undo a change made here.

/// Looks keys up one by one. `= any(…)` reads all of a tenant's rows, batch after batch, while PostgreSQL has no statistics of a new tenant.
macro_rules! each {
    ($columns:literal, $table:literal, $condition:literal) => {
        concat!(
            "select ",
            $columns,
            " from unnest($1) as wanted(key) cross join lateral (select * from ",
            $table,
            " where tenant_id = $2 and ",
            $condition,
            ") there"
        )
    };
}

mod encounters;
mod identity;
mod notes;
mod patients;
mod staff;

use crate::crypto::TenantKeys;
use crate::error::{Error, Result};
use crate::fhir::{Identifier, SourceRef};
use crate::guard::{Actor, GuardFactory, TenantTx, TxKind};
use crate::ids::{EncounterId, PatientId, RequestId, StaffId, TenantId};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::sql_types::{self, Array, Binary, Nullable, Timestamptz};
use diesel::{QueryableByName, sql_query};
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// How long a batch that lost a race waits before it is tried again.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// The source has another content, and so have we: which holds is for people to decide, and until then ours stays.
const CHANGED_HERE: &str = "changed_here";

/// Where imported rows go.
pub struct Store {
    guards: Arc<GuardFactory>,
    tenant: TenantId,
    actor: Actor,
    request: RequestId,
    source: String,
    /// Practitioners of this input, by their key in the source.
    practitioners: HashMap<String, StaffId>,
    /// Keys under which this input had somebody other than the one who is there: nothing more of this run is taken under them.
    refused: HashSet<String>,
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

    /// Runs a batch in a transaction of its own; again, if it lost a race.
    async fn transaction<T>(&self, batch: impl AsyncFn(&TenantTx) -> Result<T>) -> Result<T> {
        for pause in PAUSES {
            match self.attempt(&batch).await {
                Err(Error::Conflict { .. } | Error::PlacementChanged | Error::Timeout) => {
                    tokio::time::sleep(pause).await
                }
                ended => return ended,
            }
        }
        self.attempt(&batch).await
    }

    /// Two imports into one tenant take turns, batch by batch (see `cordon.bind`): what one has stored the other finds.
    async fn attempt<T>(&self, batch: &impl AsyncFn(&TenantTx) -> Result<T>) -> Result<T> {
        let tx = self.guards.work(self.tenant, &self.actor, TxKind::Import, self.request).await?;
        let done = batch(&tx).await?;
        tx.commit().await?;
        Ok(done)
    }

    /// Blind index of a resource's key in the source.
    fn key(&self, keys: &TenantKeys, key: &str) -> Vec<u8> {
        keys.blind("source", &[&self.source, key]).to_vec()
    }

    /// Why nobody is found for a reference.
    fn nobody(&self, reference: &SourceRef) -> &'static str {
        if self.is_refused(reference) { "patient_refused" } else { "patient_not_found" }
    }

    fn is_refused(&self, reference: &SourceRef) -> bool {
        matches!(reference, SourceRef::Key(key) if self.refused.contains(key))
    }

    /// The patients that references mean; an identifier that several patients carry means none, nor does a key refused in this run.
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
        let by_source = each!("key, id", "patients", "source_key = key limit 1");
        let carrying =
            each!("key, patient_id as id", "patient_identifiers", "value_hash = key and retired_at is null limit 2");
        let (rows, carriers): (Vec<FoundPatient>, Vec<FoundPatient>) = futures_util::try_join!(
            look_up(tx, by_source, by_key.keys()),
            look_up(tx, carrying, by_identifier.keys())
        )?;
        let mut found: HashMap<SourceRef, PatientId> =
            rows.into_iter().filter_map(|row| Some(((*by_key.get(&row.key)?).clone(), row.id))).collect();
        let mut ids: HashMap<Vec<u8>, HashSet<PatientId>> = HashMap::new();
        carriers.into_iter().for_each(|row| {
            ids.entry(row.key).or_default().insert(row.id);
        });
        for (hash, ids) in ids {
            if let (Some(reference), 1, Some(id)) = (by_identifier.get(&hash), ids.len(), ids.iter().next()) {
                found.insert((*reference).clone(), *id);
            }
        }
        Ok(found)
    }

    /// The encounters that references mean, with whose they are and when they began; a number that several have means none.
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
        let by_source = each!("key, id, patient_id as patient, started_at", "encounters", "source_key = key limit 1");
        let carrying =
            each!("key, id, patient_id as patient, started_at", "encounters", "identifier_key = key limit 2");
        let (rows, carriers): (Vec<FoundEncounter>, Vec<FoundEncounter>) =
            futures_util::try_join!(look_up(tx, by_source, by_key.keys()), look_up(tx, carrying, by_number.keys()))?;
        let mut found: HashMap<_, _> =
            rows.into_iter().filter_map(|row| Some(((*by_key.get(&row.key)?).clone(), row))).collect();
        let mut numbered: HashMap<Vec<u8>, Vec<FoundEncounter>> = HashMap::new();
        carriers.into_iter().for_each(|row| numbered.entry(row.key.clone()).or_default().push(row));
        for (number, mut carriers) in numbered {
            if let (Some(reference), 1, Some(only)) = (by_number.get(&number), carriers.len(), carriers.pop()) {
                found.insert((*reference).clone(), only);
            }
        }
        Ok(found)
    }
}

/// Runs a statement of `each!`.
async fn look_up<'k, R>(tx: &TenantTx, text: &str, keys: impl IntoIterator<Item = &'k Vec<u8>>) -> Result<Vec<R>>
where
    R: QueryableByName<Pg> + Send + 'static,
{
    let keys: Vec<&[u8]> = keys.into_iter().map(Vec::as_slice).collect();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let query = sql_query(text).bind::<Array<Binary>, _>(keys).bind::<sql_types::Uuid, _>(tx.tenant());
    tx.load(query).await
}

/// A row that somebody changed after this batch looked at it is not overwritten: the batch looks again.
fn at_its_version(updated: usize) -> Result<()> {
    match updated {
        0 => Err(Error::Conflict { current_version: None, reason: "changed while it was imported" }),
        _ => Ok(()),
    }
}

/// A patient by one of its keys.
#[derive(QueryableByName)]
struct FoundPatient {
    #[diesel(sql_type = Binary)]
    key: Vec<u8>,
    #[diesel(sql_type = sql_types::Uuid)]
    id: PatientId,
}

/// An encounter a note refers to.
#[derive(QueryableByName)]
struct FoundEncounter {
    #[diesel(sql_type = Binary)]
    key: Vec<u8>,
    #[diesel(sql_type = sql_types::Uuid)]
    id: EncounterId,
    #[diesel(sql_type = sql_types::Uuid)]
    patient: PatientId,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    started_at: Option<DateTime<Utc>>,
}

/// Blind index of an identifier: the same that `patientByIdentifier` looks for.
fn identifier_hash(keys: &TenantKeys, identifier: &Identifier) -> Vec<u8> {
    keys.blind("identifier", &[&identifier.system, &identifier.value]).to_vec()
}

/// Blind index of an encounter's number, which may be anybody's: it is not the one of patients.
fn encounter_number(keys: &TenantKeys, number: &Identifier) -> Vec<u8> {
    keys.blind("encounter-number", &[&number.system, &number.value]).to_vec()
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
