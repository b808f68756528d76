//! Stores imported notes, each content as a version of its own. Touches `clinical_notes`, `note_versions` and
//! `note_types`.

use super::{CHANGED_HERE, FoundEncounter, Store, Stored, fingerprint, look_up, require_updated};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::{clinical_notes, note_types, note_versions};
use crate::error::Result;
use crate::fhir::{Author, ImportedNote, StaffStatus};
use crate::guard::TenantTx;
use crate::ids::{EncounterId, NoteId, PatientId, StaffId, TenantId, VersionId};
use crate::model::fields::{NoteBody, NoteSource, NoteTitle};
use crate::model::sql::{each_key, limited};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable};
use futures_util::try_join;
use std::collections::{BTreeMap, HashMap};

#[derive(Insertable)]
#[diesel(table_name = clinical_notes)]
struct NewRow<'a> {
    tenant_id: TenantId,
    id: NoteId,
    patient_id: PatientId,
    source_key: Vec<u8>,
    #[diesel(embed)]
    content: Content<'a>,
}

#[derive(Insertable, AsChangeset)]
#[diesel(table_name = clinical_notes, treat_none_as_null = true)]
struct Content<'a> {
    encounter_id: Option<EncounterId>,
    author_id: Option<StaffId>,
    status: &'static str,
    type_code: &'a str,
    current_version: i32,
    authored_at: DateTime<Utc>,
    source_status: Option<&'a str>,
    source_sealed: Option<Sealed<NoteSource>>,
    source_hash: Vec<u8>,
    source_version: i32,
}

#[derive(Insertable)]
#[diesel(table_name = note_versions)]
struct VersionRow {
    tenant_id: TenantId,
    id: VersionId,
    note_id: NoteId,
    number: i32,
    author_id: Option<StaffId>,
    title_sealed: Option<Sealed<NoteTitle>>,
    body_sealed: Sealed<NoteBody>,
}

/// The row that a note of the source has already.
#[derive(Queryable, Selectable)]
#[diesel(table_name = clinical_notes, check_for_backend(Pg))]
struct Existing {
    id: NoteId,
    patient_id: PatientId,
    source_hash: Option<Vec<u8>>,
    current_version: i32,
    version: i32,
    source_version: Option<i32>,
}

/// A note with the rows that it refers to.
struct Resolved<'a> {
    note: &'a ImportedNote,
    patient: PatientId,
    encounter: Option<&'a FoundEncounter>,
    authored_at: DateTime<Utc>,
    author: Option<StaffId>,
    key: Vec<u8>,
    hash: Vec<u8>,
}

impl Store {
    /// Stores a batch of notes. One whose patient is not stored is refused; one whose encounter is not stored is stored
    /// without it.
    pub async fn notes(&self, batch: &[&ImportedNote]) -> Result<Stored> {
        let key = |note: &&ImportedNote| note.key.clone();
        self.in_runs(batch, key, async |tx, run| self.notes_once(tx, run).await).await
    }

    async fn notes_once(&self, tx: &TenantTx, batch: &[&ImportedNote]) -> Result<Stored> {
        let (tenant, keys) = (tx.tenant(), tx.keys());
        let source_keys: Vec<_> = batch.iter().map(|note| self.key(keys, &note.key)).collect();
        let patients: Vec<_> = batch.iter().map(|note| &note.patient).collect();
        let encounters: Vec<_> = batch.iter().filter_map(|note| note.encounter.as_ref()).collect();
        let unsaid: Vec<_> = batch.iter().map(|note| author(note, StaffStatus::Unconfirmed)).collect();
        let (patients, encounters, existing, recognised) = try_join!(
            self.find_patients(tx, &patients),
            self.find_encounters(tx, &encounters),
            existing(tx, &source_keys),
            self.find_authors(tx, &unsaid)
        )?;
        let mut stored = Stored::default();

        let (mut resolved, mut changed) = (Vec::new(), Vec::new());
        for (index, ((note, key), author)) in batch.iter().zip(source_keys).zip(recognised).enumerate() {
            let Some(patient) = patients.get(&note.patient).copied() else {
                stored.refused.push((index, self.not_found_reason(&note.patient)));
                continue;
            };
            // The note of an encounter that the source does not hold is stored with its patient; its reference is kept
            // in `source_sealed`.
            let encounter = note.encounter.as_ref().and_then(|reference| encounters.get(reference));
            if encounter.is_some_and(|encounter| encounter.patient_id != patient) {
                stored.refused.push((index, "encounter_of_another_patient"));
                continue;
            }
            let Some(authored_at) = note.authored_at.or_else(|| encounter.and_then(|encounter| encounter.started_at))
            else {
                stored.refused.push((index, "no_date"));
                continue;
            };
            let mut hash = fingerprint(keys, "note", *note)?;
            // An encounter or author that was imported since the note is a change of the note.
            hash.push(u8::from(encounter.is_some()) | u8::from(author.is_some()) << 1);
            match existing.get(&key) {
                Some(before) if before.patient_id != patient => stored.refused.push((index, "patient_changed")),
                Some(before) if before.source_hash.as_ref() == Some(&hash) => stored.unchanged += 1,
                Some(before) if before.source_version != Some(before.version) => {
                    stored.refused.push((index, CHANGED_HERE))
                }
                before => {
                    changed.push(before);
                    resolved.push(Resolved { note, patient, encounter, authored_at, author, key, hash });
                }
            }
        }
        if resolved.is_empty() {
            return Ok(stored);
        }
        add_types(tx, &resolved).await?;
        let authors = self
            .authors(
                tx,
                &resolved.iter().map(|resolved| author(resolved.note, StaffStatus::Confirmed)).collect::<Vec<_>>(),
            )
            .await?;
        resolved.iter_mut().zip(authors).for_each(|(resolved, author)| resolved.author = resolved.author.or(author));

        let (mut rows, mut versions) = (Vec::new(), Vec::new());
        for (resolved, before) in resolved.iter().zip(changed) {
            let (id, number) =
                before.map_or_else(|| (NoteId::new(), 1), |before| (before.id, before.current_version + 1));
            let content = content(keys, resolved, id, number, before.map_or(1, |before| before.version + 1))?;
            versions.push(version(tenant, keys, resolved, id, number)?);
            if let Some(before) = before {
                stored.updated += 1;
                let row = clinical_notes::table
                    .filter(clinical_notes::id.eq(id).and(clinical_notes::version.eq(before.version)));
                let bump =
                    (clinical_notes::version.eq(before.version + 1), clinical_notes::updated_at.eq(diesel::dsl::now));
                require_updated(tx.execute(diesel::update(row).set((content, bump))).await?)?;
            } else {
                stored.new += 1;
                rows.push(NewRow {
                    tenant_id: tenant,
                    id,
                    patient_id: resolved.patient,
                    source_key: resolved.key.clone(),
                    content,
                });
            }
        }
        if !rows.is_empty() {
            tx.execute(diesel::insert_into(clinical_notes::table).values(rows)).await?;
        }
        tx.execute(diesel::insert_into(note_versions::table).values(versions)).await?;
        Ok(stored)
    }
}

async fn existing(tx: &TenantTx, source_keys: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Existing>> {
    let by_source = clinical_notes::table
        .filter(clinical_notes::tenant_id.eq(tx.tenant()))
        .filter(clinical_notes::source_key.eq(each_key::<Nullable<Binary>>()))
        .select(Existing::as_select());
    look_up(tx, source_keys.to_vec(), limited(by_source, 1)).await.map(HashMap::from_iter)
}

/// Returns the author of a note if the source says this of the person.
fn author(note: &ImportedNote, staff_status: StaffStatus) -> Option<&Author> {
    note.author.as_ref().filter(|author| author.staff_status == staff_status)
}

/// Adds the types of notes that the tenant does not have yet; an existing type keeps its display text.
async fn add_types(tx: &TenantTx, resolved: &[Resolved<'_>]) -> Result<()> {
    let kinds: BTreeMap<_, _> =
        resolved.iter().map(|resolved| (&resolved.note.kind.code, &resolved.note.kind.display)).collect();
    let rows: Vec<_> = kinds
        .into_iter()
        .map(|(code, display)| {
            (note_types::tenant_id.eq(tx.tenant()), note_types::code.eq(code), note_types::display.eq(display))
        })
        .collect();
    tx.execute(diesel::insert_into(note_types::table).values(rows).on_conflict_do_nothing()).await?;
    Ok(())
}

fn content<'a>(
    keys: &TenantKeys,
    resolved: &Resolved<'a>,
    id: NoteId,
    number: i32,
    source_version: i32,
) -> Result<Content<'a>> {
    let note = resolved.note;
    Ok(Content {
        encounter_id: resolved.encounter.map(|encounter| encounter.id),
        author_id: resolved.author,
        status: note.status.name(),
        type_code: &note.kind.code,
        current_version: number,
        authored_at: resolved.authored_at,
        source_status: note.source_status.as_deref(),
        source_sealed: Some(keys.seal(id.0, &note.source.clone().into_json())?),
        source_hash: resolved.hash.clone(),
        source_version,
    })
}

fn version(
    tenant: TenantId,
    keys: &TenantKeys,
    resolved: &Resolved<'_>,
    note_id: NoteId,
    number: i32,
) -> Result<VersionRow> {
    let id = VersionId::new();
    Ok(VersionRow {
        tenant_id: tenant,
        id,
        note_id,
        number,
        author_id: resolved.author,
        title_sealed: resolved.note.title.as_ref().map(|title| keys.seal(id.0, title)).transpose()?,
        body_sealed: keys.seal(id.0, &resolved.note.body)?,
    })
}
