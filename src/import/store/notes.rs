//! Notes into rows: signed history, each content a version of its own.

use super::{CHANGED_HERE, FoundEncounter, Store, Stored, at_its_version, fingerprint, look_up, without_repeats};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::{clinical_notes, note_types, note_versions};
use crate::error::Result;
use crate::fhir::{Author, ImportedNote, Standing};
use crate::guard::TenantTx;
use crate::ids::{EncounterId, NoteId, PatientId, StaffId, TenantId, VersionId};
use crate::model::fields::{NoteBody, NoteSource, NoteTitle};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{self, Binary, Integer, Nullable};
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

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Binary)]
    key: Vec<u8>,
    #[diesel(sql_type = sql_types::Uuid)]
    id: NoteId,
    #[diesel(sql_type = sql_types::Uuid)]
    patient: PatientId,
    #[diesel(sql_type = Nullable<Binary>)]
    hash: Option<Vec<u8>>,
    #[diesel(sql_type = Integer)]
    number: i32,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Nullable<Integer>)]
    imported: Option<i32>,
}

/// A note with everything it refers to found.
struct Placed<'a> {
    note: &'a ImportedNote,
    patient: PatientId,
    encounter: Option<&'a FoundEncounter>,
    authored_at: DateTime<Utc>,
    author: Option<StaffId>,
    key: Vec<u8>,
    hash: Vec<u8>,
}

impl Store {
    /// Stores a batch of notes whose patients and encounters are there.
    pub async fn notes(&self, batch: &[&ImportedNote]) -> Result<Stored> {
        let (mut stored, mut offset) = (Stored::default(), 0);
        for run in without_repeats(batch, |note| note.key.clone()) {
            stored.absorb(self.transaction(async |tx| self.notes_once(tx, run).await).await?, offset);
            offset += run.len();
        }
        Ok(stored)
    }

    async fn notes_once(&self, tx: &TenantTx, batch: &[&ImportedNote]) -> Result<Stored> {
        let (tenant, keys) = (tx.tenant(), tx.keys());
        let source_keys: Vec<_> = batch.iter().map(|note| self.key(keys, &note.key)).collect();
        let patients: Vec<_> = batch.iter().map(|note| &note.patient).collect();
        let encounters: Vec<_> = batch.iter().filter_map(|note| note.encounter.as_ref()).collect();
        let unsaid: Vec<_> = batch.iter().map(|note| author(note, Standing::Unsaid)).collect();
        let (patients, encounters, known, recognised) = try_join!(
            self.find_patients(tx, &patients),
            self.find_encounters(tx, &encounters),
            known(tx, &source_keys),
            self.find_authors(tx, &unsaid)
        )?;
        let mut stored = Stored::default();

        let (mut placed, mut changed) = (Vec::new(), Vec::new());
        for (index, ((note, key), author)) in batch.iter().zip(source_keys).zip(recognised).enumerate() {
            let Some(patient) = patients.get(&note.patient).copied() else {
                stored.refused.push((index, self.nobody(&note.patient)));
                continue;
            };
            // An encounter that is not in the source leaves the note where it belongs, with its patient; what it said is kept.
            let encounter = note.encounter.as_ref().and_then(|reference| encounters.get(reference));
            if encounter.is_some_and(|encounter| encounter.patient != patient) {
                stored.refused.push((index, "encounter_of_another_patient"));
                continue;
            }
            let Some(authored_at) = note.authored_at.or_else(|| encounter.and_then(|encounter| encounter.started_at))
            else {
                stored.refused.push((index, "no_date"));
                continue;
            };
            let mut hash = fingerprint(keys, "note", note.fingerprint())?;
            // An encounter that has come since is a change, too, and so is an author.
            hash.push(u8::from(encounter.is_some()) | u8::from(author.is_some()) << 1);
            match known.get(&key) {
                Some(before) if before.patient != patient => stored.refused.push((index, "patient_changed")),
                Some(before) if before.hash.as_ref() == Some(&hash) => stored.unchanged += 1,
                Some(before) if before.imported != Some(before.version) => stored.refused.push((index, CHANGED_HERE)),
                before => {
                    changed.push(before);
                    placed.push(Placed { note, patient, encounter, authored_at, author, key, hash });
                }
            }
        }
        if placed.is_empty() {
            return Ok(stored);
        }
        add_types(tx, &placed).await?;
        let authors = self
            .authors(tx, &placed.iter().map(|placed| author(placed.note, Standing::Staff)).collect::<Vec<_>>())
            .await?;
        placed.iter_mut().zip(authors).for_each(|(placed, author)| placed.author = placed.author.or(author));

        let (mut rows, mut versions) = (Vec::new(), Vec::new());
        for (placed, before) in placed.iter().zip(changed) {
            let (id, number) = before.map_or_else(|| (NoteId::new(), 1), |before| (before.id, before.number + 1));
            let content = content(keys, placed, id, number, before.map_or(1, |before| before.version + 1))?;
            versions.push(version(tenant, keys, placed, id, number)?);
            if let Some(before) = before {
                stored.updated += 1;
                let row = clinical_notes::table
                    .filter(clinical_notes::id.eq(id).and(clinical_notes::version.eq(before.version)));
                let bump =
                    (clinical_notes::version.eq(before.version + 1), clinical_notes::updated_at.eq(diesel::dsl::now));
                at_its_version(tx.execute(diesel::update(row).set((content, bump))).await?)?;
            } else {
                stored.new += 1;
                rows.push(NewRow {
                    tenant_id: tenant,
                    id,
                    patient_id: placed.patient,
                    source_key: placed.key.clone(),
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

async fn known(tx: &TenantTx, source_keys: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Known>> {
    let by_source = each!(
        "key, id, patient_id as patient, source_hash as hash, current_version as number, version, source_version as imported",
        "clinical_notes",
        "source_key = key limit 1"
    );
    let rows: Vec<Known> = look_up(tx, by_source, source_keys).await?;
    Ok(rows.into_iter().map(|row| (row.key.clone(), row)).collect())
}

/// The author of a note, if of this standing.
fn author(note: &ImportedNote, standing: Standing) -> Option<&Author> {
    note.author.as_ref().filter(|author| author.standing == standing)
}

/// The kinds of notes that are met for the first time; one that is there keeps its name.
async fn add_types(tx: &TenantTx, placed: &[Placed<'_>]) -> Result<()> {
    let kinds: BTreeMap<_, _> =
        placed.iter().map(|placed| (&placed.note.kind.code, &placed.note.kind.display)).collect();
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
    placed: &Placed<'a>,
    id: NoteId,
    number: i32,
    source_version: i32,
) -> Result<Content<'a>> {
    let note = placed.note;
    Ok(Content {
        encounter_id: placed.encounter.map(|encounter| encounter.id),
        author_id: placed.author,
        status: note.status.name(),
        type_code: &note.kind.code,
        current_version: number,
        authored_at: placed.authored_at,
        source_status: note.source_status.as_deref(),
        source_sealed: Some(keys.seal(id.0, &note.source.clone().into_json())?),
        source_hash: placed.hash.clone(),
        source_version,
    })
}

fn version(
    tenant: TenantId,
    keys: &TenantKeys,
    placed: &Placed<'_>,
    note_id: NoteId,
    number: i32,
) -> Result<VersionRow> {
    let id = VersionId::new();
    Ok(VersionRow {
        tenant_id: tenant,
        id,
        note_id,
        number,
        author_id: placed.author,
        title_sealed: placed.note.title.as_ref().map(|title| keys.seal(id.0, title)).transpose()?,
        body_sealed: keys.seal(id.0, &placed.note.body)?,
    })
}
