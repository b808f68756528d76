//! Batch loaders of one request: each loads what all parents of a level need in one statement. They are created for
//! each request from its guard and dropped with it. Nothing here is spawned, so dropping a request also stops its
//! loads.

use super::engine::batch::BatchLoader;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::ids::{EncounterId, NoteId, PatientId};
use crate::model::KeysetPage;
use crate::model::encounter::{self, Encounter};
use crate::model::note::{self, Note, NoteReader, NoteText};
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

/// One page of the list of one parent record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageOf<P> {
    /// The record that the list belongs to.
    pub parent: P,
    /// The page to load.
    pub page: KeysetPage,
}

/// The loaders of one request, and its budget for note text.
pub struct Loaders {
    remaining_text_bytes: AtomicUsize,
    /// Whether a level may load what the next level will ask for. False for mutations, which write between the two.
    pub may_preload: bool,
    /// Patients by id.
    pub patients: BatchLoader<PatientId, Arc<Patient>>,
    /// Identifiers in use of a patient.
    pub identifiers: BatchLoader<PatientId, Vec<Arc<Identifier>>>,
    /// Encounters by id.
    pub encounters: BatchLoader<EncounterId, Arc<Encounter>>,
    /// Pages of the encounters of a patient.
    pub encounters_of_patient: BatchLoader<PageOf<PatientId>, Vec<Arc<Encounter>>>,
    /// Notes by id, with or without their text.
    pub notes: BatchLoader<(NoteId, NoteText), Arc<Note>>,
    /// Signatures of a note.
    pub signatures: BatchLoader<NoteId, Vec<Arc<Signature>>>,
    /// Pages of the notes of a patient.
    pub notes_of_patient: BatchLoader<(PageOf<PatientId>, NoteText), Vec<Arc<Note>>>,
    /// Pages of the notes of an encounter.
    pub notes_of_encounter: BatchLoader<(PageOf<EncounterId>, NoteText), Vec<Arc<Note>>>,
}

impl Loaders {
    /// Creates the loaders of one request. `max_text_bytes` limits the note text in its response; `may_preload` must be
    /// false for mutations.
    pub fn new(guard: &Arc<Guard>, max_text_bytes: usize, may_preload: bool) -> Self {
        Self {
            remaining_text_bytes: AtomicUsize::new(max_text_bytes),
            may_preload,
            patients: BatchLoader::new(guard, |guard, ids| traced("patients", guard, ids, patients)),
            identifiers: BatchLoader::new(guard, |guard, ids| traced("identifiers", guard, ids, identifiers)),
            encounters: BatchLoader::new(guard, |guard, ids| traced("encounters", guard, ids, encounters)),
            encounters_of_patient: BatchLoader::new(guard, |guard, keys| {
                traced("encounters of patients", guard, keys, encounters_of_patients)
            }),
            notes: BatchLoader::new(guard, |guard, keys| traced("notes", guard, keys, notes)),
            signatures: BatchLoader::new(guard, |guard, ids| traced("signatures", guard, ids, signatures)),
            notes_of_patient: BatchLoader::new(guard, |guard, keys| {
                traced("notes of patients", guard, keys, notes_of_patients)
            }),
            notes_of_encounter: BatchLoader::new(guard, |guard, keys| {
                traced("notes of encounters", guard, keys, notes_of_encounters)
            }),
        }
    }

    /// Counts a note's text against the budget of the response, which protects the memory that all requests share.
    ///
    /// # Errors
    /// `LimitExceeded` when the response would exceed `limits.answer_bytes`.
    pub fn reserve_text(&self, text: &str) -> Result<()> {
        let budget = &self.remaining_text_bytes;
        budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |remaining| remaining.checked_sub(text.len()))
            .map(|_| ())
            .map_err(|_| Error::LimitExceeded("the response has too much note text: request fewer notes".into()))
    }
}

/// Runs a load in a span with the name of what is loaded and the number of keys.
fn traced<K, V, F>(
    name: &'static str,
    guard: Arc<Guard>,
    keys: Vec<K>,
    load: fn(Arc<Guard>, Vec<K>) -> F,
) -> BoxFuture<'static, Result<V>>
where
    F: Future<Output = Result<V>> + Send + 'static,
{
    let span = span::resolvers(guard.tenant().id, name, keys.len());
    load(guard, keys).instrument(span).boxed()
}

async fn patients(guard: Arc<Guard>, ids: Vec<PatientId>) -> Result<HashMap<PatientId, Arc<Patient>>> {
    let rows = patient::by_ids(&*guard.read().await?, &ids).await?;
    Ok(rows.into_iter().map(|row| (row.id, Arc::new(row))).collect())
}

async fn identifiers(guard: Arc<Guard>, ids: Vec<PatientId>) -> Result<HashMap<PatientId, Vec<Arc<Identifier>>>> {
    let rows = patient::identifiers(&*guard.read().await?, &ids).await?;
    Ok(group_by(rows, |row| row.patient_id))
}

async fn encounters(guard: Arc<Guard>, ids: Vec<EncounterId>) -> Result<HashMap<EncounterId, Arc<Encounter>>> {
    let rows = encounter::by_ids(&*guard.read().await?, &ids).await?;
    Ok(rows.into_iter().map(|row| (row.id, Arc::new(row))).collect())
}

type EncounterPages = HashMap<PageOf<PatientId>, Vec<Arc<Encounter>>>;

async fn encounters_of_patients(guard: Arc<Guard>, keys: Vec<PageOf<PatientId>>) -> Result<EncounterPages> {
    let tx = &guard.read().await?;
    let pages = partition(keys, |key| (key.page, key.parent)).into_iter().map(async |(page, parents)| {
        let rows = encounter::of_patients(tx, parents, page).await?;
        Ok(group_by(rows, |row| PageOf { parent: row.patient_id, page }))
    });
    Ok(try_join_all(pages).await?.into_iter().flatten().collect())
}

async fn notes(guard: Arc<Guard>, keys: Vec<(NoteId, NoteText)>) -> Result<HashMap<(NoteId, NoteText), Arc<Note>>> {
    let tx = &guard.read().await?;
    let loads = partition(keys, |(id, text)| (text, id)).into_iter().map(async |(text, ids)| {
        let rows = note::by_ids(tx, ids, NoteReader { reader: guard.staff_id(), text }).await?;
        Ok(rows.into_iter().map(|row| ((row.id, text), Arc::new(row))).collect::<Vec<_>>())
    });
    Ok(try_join_all(loads).await?.into_iter().flatten().collect())
}

async fn signatures(guard: Arc<Guard>, ids: Vec<NoteId>) -> Result<HashMap<NoteId, Vec<Arc<Signature>>>> {
    let rows = signature::of_notes(&*guard.read().await?, &ids).await?;
    Ok(group_by(rows, |row| row.note))
}

type NotePages<P> = HashMap<(PageOf<P>, NoteText), Vec<Arc<Note>>>;

async fn notes_of_patients(
    guard: Arc<Guard>,
    keys: Vec<(PageOf<PatientId>, NoteText)>,
) -> Result<NotePages<PatientId>> {
    let tx = &guard.read().await?;
    let pages = partition(keys, |(key, text)| ((key.page, text), key.parent)).into_iter().map(
        async |((page, text), parents)| {
            let rows = note::of_patients(tx, parents, page, NoteReader { reader: guard.staff_id(), text }).await?;
            Ok(group_by(rows, |row| (PageOf { parent: row.patient_id, page }, text)))
        },
    );
    Ok(try_join_all(pages).await?.into_iter().flatten().collect())
}

async fn notes_of_encounters(
    guard: Arc<Guard>,
    keys: Vec<(PageOf<EncounterId>, NoteText)>,
) -> Result<NotePages<EncounterId>> {
    let tx = &guard.read().await?;
    let pages = partition(keys, |(key, text)| ((key.page, text), key.parent)).into_iter().map(
        async |((page, text), parents)| {
            let rows = note::of_encounters(tx, parents, page, NoteReader { reader: guard.staff_id(), text }).await?;
            let rows = rows.into_iter().filter_map(|row| Some((row.encounter_id?, row)));
            let mut by_page = HashMap::<_, Vec<_>>::new();
            for (parent, row) in rows {
                by_page.entry((PageOf { parent, page }, text)).or_default().push(Arc::new(row));
            }
            Ok(by_page)
        },
    );
    Ok(try_join_all(pages).await?.into_iter().flatten().collect())
}

/// Groups rows by the record they belong to and keeps their order.
fn group_by<K: Hash + Eq, R>(rows: Vec<R>, key: impl Fn(&R) -> K) -> HashMap<K, Vec<Arc<R>>> {
    let mut groups = HashMap::<K, Vec<Arc<R>>>::new();
    for row in rows {
        groups.entry(key(&row)).or_default().push(Arc::new(row));
    }
    groups
}

/// Splits each key into what one statement has in common, and the rest; returns the rests by the common part.
fn partition<K, G: Hash + Eq, V>(keys: Vec<K>, split: impl Fn(K) -> (G, V)) -> HashMap<G, Vec<V>> {
    let mut groups = HashMap::<G, Vec<V>>::new();
    for key in keys {
        let (common, rest) = split(key);
        groups.entry(common).or_default().push(rest);
    }
    groups
}
