//! What the resolvers of one request load together: all parents of a level in one statement. Made for each request from its guard and gone
//! with it; nothing here is spawned, so a request that is dropped takes its loads with it.

use super::engine::batch::Batch;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::ids::{EncounterId, NoteId, PatientId};
use crate::model::KeysetPage;
use crate::model::encounter::{self, Encounter};
use crate::model::note::{self, Note, Reading, Text};
use crate::model::patient::{self, Identifier, Patient};
use crate::model::signature::{self, Signature};
use crate::telemetry::span;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, try_join_all};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::Instrument;

/// One page of the list of one parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageOf<P> {
    /// Whose list.
    pub parent: P,
    /// Which page of it.
    pub page: KeysetPage,
}

/// Everything one request loads by batches, and how much text it may still show.
pub struct Loaders {
    left: AtomicUsize,
    /// Whether a level may load what the next will ask for. Not where something is changed between them.
    pub ahead: bool,
    /// Patients by id.
    pub patients: Batch<PatientId, Arc<Patient>>,
    /// Identifiers of a patient.
    pub identifiers: Batch<PatientId, Vec<Arc<Identifier>>>,
    /// Encounters by id.
    pub encounters: Batch<EncounterId, Arc<Encounter>>,
    /// Encounters of a patient.
    pub encounters_of_patient: Batch<PageOf<PatientId>, Vec<Arc<Encounter>>>,
    /// Notes by id.
    pub notes: Batch<(NoteId, Text), Arc<Note>>,
    /// Signatures under a note.
    pub signatures: Batch<NoteId, Vec<Arc<Signature>>>,
    /// Notes of a patient.
    pub notes_of_patient: Batch<(PageOf<PatientId>, Text), Vec<Arc<Note>>>,
    /// Notes of an encounter.
    pub notes_of_encounter: Batch<(PageOf<EncounterId>, Text), Vec<Arc<Note>>>,
}

impl Loaders {
    /// For one request, which changes nothing if it may look `ahead`.
    pub fn new(guard: &Arc<Guard>, most_text: usize, ahead: bool) -> Self {
        Self {
            left: AtomicUsize::new(most_text),
            ahead,
            patients: Batch::new(guard, |guard, ids| traced("patients", guard, ids, patients)),
            identifiers: Batch::new(guard, |guard, ids| traced("identifiers", guard, ids, identifiers)),
            encounters: Batch::new(guard, |guard, ids| traced("encounters", guard, ids, encounters)),
            encounters_of_patient: Batch::new(guard, |guard, keys| {
                traced("encounters of patients", guard, keys, encounters_of_patients)
            }),
            notes: Batch::new(guard, |guard, keys| traced("notes", guard, keys, notes)),
            signatures: Batch::new(guard, |guard, ids| traced("signatures", guard, ids, signatures)),
            notes_of_patient: Batch::new(guard, |guard, keys| {
                traced("notes of patients", guard, keys, notes_of_patients)
            }),
            notes_of_encounter: Batch::new(guard, |guard, keys| {
                traced("notes of encounters", guard, keys, notes_of_encounters)
            }),
        }
    }

    /// Takes a text into the answer. Beyond its bound an answer would fill the memory that all requests share.
    pub fn show(&self, text: &str) -> Result<()> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(text.len()));
        taken
            .map(|_| ())
            .map_err(|_| Error::LimitExceeded("the answer has more text than one may have: ask for fewer notes".into()))
    }
}

/// A load in a span that says what is loaded, and how many of it.
fn traced<K, V, F>(
    of: &'static str,
    guard: Arc<Guard>,
    keys: Vec<K>,
    load: fn(Arc<Guard>, Vec<K>) -> F,
) -> BoxFuture<'static, Result<V>>
where
    F: Future<Output = Result<V>> + Send + 'static,
{
    let span = span::resolvers(guard.tenant().id, of, keys.len());
    load(guard, keys).instrument(span).boxed()
}

async fn patients(guard: Arc<Guard>, ids: Vec<PatientId>) -> Result<HashMap<PatientId, Arc<Patient>>> {
    let rows = patient::by_ids(&*guard.read().await?, &ids).await?;
    Ok(rows.into_iter().map(|row| (row.id, Arc::new(row))).collect())
}

async fn identifiers(guard: Arc<Guard>, ids: Vec<PatientId>) -> Result<HashMap<PatientId, Vec<Arc<Identifier>>>> {
    let rows = patient::identifiers(&*guard.read().await?, &ids).await?;
    Ok(by(rows, |row| row.patient_id))
}

async fn encounters(guard: Arc<Guard>, ids: Vec<EncounterId>) -> Result<HashMap<EncounterId, Arc<Encounter>>> {
    let rows = encounter::by_ids(&*guard.read().await?, &ids).await?;
    Ok(rows.into_iter().map(|row| (row.id, Arc::new(row))).collect())
}

type EncounterPages = HashMap<PageOf<PatientId>, Vec<Arc<Encounter>>>;

async fn encounters_of_patients(guard: Arc<Guard>, keys: Vec<PageOf<PatientId>>) -> Result<EncounterPages> {
    let tx = &guard.read().await?;
    let pages = group(keys, |key| (key.page, key.parent)).into_iter().map(async |(page, parents)| {
        let rows = encounter::of_patients(tx, parents, page).await?;
        Ok(by(rows, |row| PageOf { parent: row.patient_id, page }))
    });
    Ok(try_join_all(pages).await?.into_iter().flatten().collect())
}

async fn notes(guard: Arc<Guard>, keys: Vec<(NoteId, Text)>) -> Result<HashMap<(NoteId, Text), Arc<Note>>> {
    let tx = &guard.read().await?;
    let found = group(keys, |(id, text)| (text, id)).into_iter().map(async |(text, ids)| {
        let rows = note::by_ids(tx, ids, Reading { reader: guard.staff_id(), text }).await?;
        Ok(rows.into_iter().map(|row| ((row.id, text), Arc::new(row))).collect::<Vec<_>>())
    });
    Ok(try_join_all(found).await?.into_iter().flatten().collect())
}

async fn signatures(guard: Arc<Guard>, ids: Vec<NoteId>) -> Result<HashMap<NoteId, Vec<Arc<Signature>>>> {
    let rows = signature::of_notes(&*guard.read().await?, &ids).await?;
    Ok(by(rows, |row| row.note))
}

type NotePages<P> = HashMap<(PageOf<P>, Text), Vec<Arc<Note>>>;

async fn notes_of_patients(guard: Arc<Guard>, keys: Vec<(PageOf<PatientId>, Text)>) -> Result<NotePages<PatientId>> {
    let tx = &guard.read().await?;
    let pages =
        group(keys, |(key, text)| ((key.page, text), key.parent)).into_iter().map(async |((page, text), parents)| {
            let rows = note::of_patients(tx, parents, page, Reading { reader: guard.staff_id(), text }).await?;
            Ok(by(rows, |row| (PageOf { parent: row.patient_id, page }, text)))
        });
    Ok(try_join_all(pages).await?.into_iter().flatten().collect())
}

async fn notes_of_encounters(
    guard: Arc<Guard>,
    keys: Vec<(PageOf<EncounterId>, Text)>,
) -> Result<NotePages<EncounterId>> {
    let tx = &guard.read().await?;
    let pages =
        group(keys, |(key, text)| ((key.page, text), key.parent)).into_iter().map(async |((page, text), parents)| {
            let rows = note::of_encounters(tx, parents, page, Reading { reader: guard.staff_id(), text }).await?;
            let rows = rows.into_iter().filter_map(|row| Some((row.encounter_id?, row)));
            let mut found = HashMap::<_, Vec<_>>::new();
            for (parent, row) in rows {
                found.entry((PageOf { parent, page }, text)).or_default().push(Arc::new(row));
            }
            Ok(found)
        });
    Ok(try_join_all(pages).await?.into_iter().flatten().collect())
}

/// Rows by what they belong to, in the order they came.
fn by<K: Hash + Eq, R>(rows: Vec<R>, key: impl Fn(&R) -> K) -> HashMap<K, Vec<Arc<R>>> {
    let mut found = HashMap::<K, Vec<Arc<R>>>::new();
    for row in rows {
        found.entry(key(&row)).or_default().push(Arc::new(row));
    }
    found
}

/// Keys by what one statement has in common.
fn group<K, G: Hash + Eq, V>(keys: Vec<K>, split: impl Fn(K) -> (G, V)) -> HashMap<G, Vec<V>> {
    let mut groups = HashMap::<G, Vec<V>>::new();
    for key in keys {
        let (common, own) = split(key);
        groups.entry(common).or_default().push(own);
    }
    groups
}
