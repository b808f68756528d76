//! Writing notes: a draft is created, revised, discarded or signed. Touches `clinical_notes`, `note_versions`,
//! `note_signers` and `note_signatures`. Versions are append-only: revising a draft adds one. A draft that the caller
//! may not see is `NotFound`.

use super::{CurrentText, NoteStatus};
use crate::db::schema::tenant::{
    clinical_notes as notes, encounters, note_signers as signers, note_types, note_versions as versions,
};
use crate::db::schema::tenant::{patients, staff};
use crate::error::{Error, Result};
use crate::guard::{TenantTx, require_version};
use crate::ids::{EncounterId, NoteId, PatientId, StaffId, VersionId};
use crate::model::fields::{NoteBody, NoteTitle};
use crate::model::signature::{self, Content, Meaning, Signing};
use chrono::{DateTime, SubsecRound, Utc};
use diesel::dsl::exists;
use diesel::pg::Pg;
use diesel::prelude::*;
use std::collections::BTreeSet;

/// A draft to be created.
#[derive(Debug, Clone)]
pub struct NewNote {
    /// The patient whose chart it goes into.
    pub patient: PatientId,
    /// The encounter it is written for, one of the same patient.
    pub encounter: Option<EncounterId>,
    /// LOINC document code, one of the organisation's note types.
    pub kind: String,
    /// The title, in plain text; sealed when it is stored.
    pub title: Option<String>,
    /// The text, in plain text; sealed when it is stored.
    pub body: String,
    /// The person who types it.
    pub writer: StaffId,
    /// The note's author: the writer, or the person for whom a scribe writes.
    pub author: StaffId,
    /// Further people who may see, change and sign the draft.
    pub signers: BTreeSet<StaffId>,
}

impl NewNote {
    /// The ids of all records that the draft refers to and that must exist.
    pub fn named(&self) -> Vec<uuid::Uuid> {
        let others = self.signers.iter().chain([&self.author]).filter(|person| **person != self.writer);
        [self.patient.0].into_iter().chain(self.encounter.map(|id| id.0)).chain(others.map(|person| person.0)).collect()
    }
}

/// Changes of a draft. `None` leaves a value as it is; an inner `None` clears it.
#[derive(Debug, Clone, Default)]
pub struct DraftEdit {
    /// The new title.
    pub title: Option<Option<String>>,
    /// The new text.
    pub body: Option<String>,
}

/// What the signature of a person makes of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureEffect {
    /// The note is signed.
    Final,
    /// The note waits for a co-signature.
    ToBeCosigned,
}

/// Creates a draft.
///
/// # Errors
/// `NotFound` where a record it refers to does not exist, `Invalid` where the organisation has no such note type.
pub async fn draft(tx: &mut TenantTx, new: NewNote) -> Result<NoteId> {
    let patient = patients::table.filter(patients::id.eq(new.patient)).select(patients::id);
    let _: PatientId = tx.first(patient).await?;
    if let Some(encounter) = new.encounter {
        let own = encounters::id.eq(encounter).and(encounters::patient_id.eq(new.patient));
        let _: EncounterId = tx.first(encounters::table.filter(own).select(encounters::id)).await?;
    }
    let known = diesel::select(exists(note_types::table.filter(note_types::code.eq(&new.kind))));
    if !tx.first(known).await? {
        return Err(Error::invalid("input.type", "not a note type of this organisation"));
    }
    let others: BTreeSet<_> =
        new.signers.iter().chain([&new.author]).filter(|id| **id != new.writer).copied().collect();
    let people = staff::table.filter(staff::id.eq_any(&others)).count();
    let people: i64 = tx.first(people).await?;
    if usize::try_from(people) != Ok(others.len()) {
        return Err(Error::NotFound);
    }
    let id = NoteId::new();
    let row = (
        notes::tenant_id.eq(tx.tenant()),
        notes::id.eq(id),
        notes::patient_id.eq(new.patient),
        notes::encounter_id.eq(new.encounter),
        notes::author_id.eq(new.author),
        notes::entered_by.eq((new.writer != new.author).then_some(new.writer)),
        notes::status.eq(NoteStatus::Draft),
        notes::type_code.eq(&new.kind),
        notes::authored_at.eq(now()),
    );
    tx.execute(diesel::insert_into(notes::table).values(row)).await?;
    add_version(tx, id, 1, new.writer, new.title.as_ref(), &new.body).await?;
    let named = new.signers.iter().filter(|signer| **signer != new.author);
    let named: Vec<_> = named
        .map(|signer| (signers::tenant_id.eq(tx.tenant()), signers::note_id.eq(id), signers::staff_id.eq(*signer)))
        .collect();
    tx.execute(diesel::insert_into(signers::table).values(named)).await?;
    Ok(id)
}

/// Adds a version to a draft. Optimistic locking: fails with `Conflict` unless `expected` equals the stored version.
/// `may_write` tells whether the person writes notes of the draft's type; `Forbidden` otherwise.
pub async fn revise(
    tx: &mut TenantTx,
    id: NoteId,
    expected: i32,
    edit: DraftEdit,
    me: StaffId,
    may_write: impl FnOnce(&str) -> bool,
) -> Result<NoteId> {
    let before = lock_draft(tx, id, expected, me).await?;
    if !may_write(&before.type_code) {
        return Err(Error::Forbidden);
    }
    let text = draft_text(tx, id, before.current_version).await?;
    let title = edit.title.unwrap_or(text.title);
    let number = before.current_version + 1;
    add_version(tx, id, number, me, title.as_ref(), &edit.body.unwrap_or(text.body)).await?;
    let row = diesel::update(notes::table.filter(notes::id.eq(id)));
    let row = row.set((
        notes::current_version.eq(number),
        notes::version.eq(before.version + 1),
        notes::updated_at.eq(Utc::now()),
    ));
    tx.execute(row).await?;
    Ok(id)
}

/// Discards a draft. The row is kept and visible to nobody. Only the author and the typist may discard it; for the
/// named signers it is `Forbidden`. Optimistic locking as in `revise`.
pub async fn discard(tx: &mut TenantTx, id: NoteId, expected: i32, me: StaffId) -> Result<NoteId> {
    let before = lock_draft(tx, id, expected, me).await?;
    if before.author_id != Some(me) && before.entered_by != Some(me) {
        return Err(Error::Forbidden);
    }
    let row = diesel::update(notes::table.filter(notes::id.eq(id)));
    let row = row.set((
        notes::status.eq(NoteStatus::Discarded),
        notes::version.eq(before.version + 1),
        notes::updated_at.eq(Utc::now()),
    ));
    tx.execute(row).await?;
    Ok(id)
}

/// Signs a draft; from then on the database refuses every change of its text. `effect` gets the note's type and says
/// what the signature makes of it, or `Forbidden`. Optimistic locking as in `revise`.
pub async fn sign(
    tx: &mut TenantTx,
    id: NoteId,
    expected: i32,
    me: StaffId,
    effect: impl FnOnce(&str) -> Result<SignatureEffect>,
) -> Result<NoteId> {
    let before = lock_draft(tx, id, expected, me).await?;
    let effect = effect(&before.type_code)?;
    let meaning = match before.author_id == Some(me) {
        true => Meaning::Author,
        false if is_signer(tx, id, me).await? => Meaning::Signer,
        // A scribe does not sign for the author.
        false => return Err(Error::Forbidden),
    };
    let (text, at) = (draft_text(tx, id, before.current_version).await?, now());
    let content = Content {
        tenant: tx.tenant(),
        note: id,
        number: before.current_version,
        patient: before.patient_id,
        encounter: before.encounter_id,
        kind: &before.type_code,
        authored_at: before.authored_at,
        author: before.author_id,
        title: text.title.as_deref(),
        body: &text.body,
    };
    signature::add(tx, &content, Signing { signer: me, meaning, at }).await?;
    let status = match effect {
        SignatureEffect::Final => NoteStatus::Signed,
        SignatureEffect::ToBeCosigned => NoteStatus::Uncosigned,
    };
    let row = diesel::update(notes::table.filter(notes::id.eq(id)));
    let row = row.set((
        notes::status.eq(status),
        notes::signed_at.eq(at),
        notes::version.eq(before.version + 1),
        notes::updated_at.eq(at),
    ));
    tx.execute(row).await?;
    Ok(id)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = notes, check_for_backend(Pg))]
struct LockedNote {
    patient_id: PatientId,
    encounter_id: Option<EncounterId>,
    author_id: Option<StaffId>,
    entered_by: Option<StaffId>,
    status: NoteStatus,
    type_code: String,
    current_version: i32,
    authored_at: DateTime<Utc>,
    version: i32,
}

struct DraftText {
    title: Option<String>,
    body: String,
}

/// Locks the row of a draft until the transaction ends.
///
/// # Errors
/// `NotFound` where there is none or `me` may not see it, `Conflict` where its version is not `expected` or it is no
/// draft any more.
async fn lock_draft(tx: &TenantTx, id: NoteId, expected: i32, me: StaffId) -> Result<LockedNote> {
    let row = notes::table.filter(notes::id.eq(id)).select(LockedNote::as_select()).for_update();
    let row: LockedNote = tx.first(row).await?;
    match row.status {
        NoteStatus::Discarded => return Err(Error::NotFound),
        NoteStatus::Draft
            if row.author_id != Some(me) && row.entered_by != Some(me) && !is_signer(tx, id, me).await? =>
        {
            return Err(Error::NotFound);
        }
        _ => require_version(expected, row.version)?,
    }
    match row.status {
        NoteStatus::Draft => Ok(row),
        _ => Err(Error::Conflict { current_version: Some(row.version), reason: "this note is no draft any more" }),
    }
}

async fn is_signer(tx: &TenantTx, id: NoteId, me: StaffId) -> Result<bool> {
    let named = signers::note_id.eq(id).and(signers::staff_id.eq(me));
    tx.first(diesel::select(exists(signers::table.filter(named)))).await
}

async fn draft_text(tx: &TenantTx, id: NoteId, number: i32) -> Result<DraftText> {
    let row = versions::table.filter(versions::note_id.eq(id).and(versions::number.eq(number)));
    let row: CurrentText = tx.first(row.select(CurrentText::as_select())).await?;
    let title = row.title_sealed.map(|sealed| tx.keys().open(row.id.0, &sealed)).transpose()?;
    Ok(DraftText { title, body: tx.keys().open(row.id.0, &row.body_sealed)? })
}

async fn add_version(
    tx: &TenantTx,
    id: NoteId,
    number: i32,
    writer: StaffId,
    title: Option<&String>,
    body: &String,
) -> Result<()> {
    let (version, keys) = (VersionId::new(), tx.keys());
    let row = (
        versions::tenant_id.eq(tx.tenant()),
        versions::id.eq(version),
        versions::note_id.eq(id),
        versions::number.eq(number),
        versions::author_id.eq(writer),
        versions::title_sealed.eq(title.map(|title| keys.seal::<NoteTitle>(version.0, title)).transpose()?),
        versions::body_sealed.eq(keys.seal::<NoteBody>(version.0, body)?),
    );
    tx.execute(diesel::insert_into(versions::table).values(row)).await.map(|_| ())
}

/// Returns the current time in the database's resolution of one microsecond.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
