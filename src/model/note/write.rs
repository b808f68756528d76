//! Changing notes: a draft is begun, revised, discarded or signed. Touches `clinical_notes`, `note_versions`, `note_signers` and
//! `note_signatures`. A version, once written, stays: a revised draft has one more. Whose draft one may not see is not found.

use super::NoteStatus;
use crate::crypto::Sealed;
use crate::db::schema::tenant::{
    clinical_notes as notes, encounters, note_signers as signers, note_types, note_versions as versions,
};
use crate::db::schema::tenant::{patients, staff};
use crate::error::{Error, Result};
use crate::guard::{TenantTx, expect};
use crate::ids::{EncounterId, NoteId, PatientId, StaffId, VersionId};
use crate::model::fields::{NoteBody, NoteTitle};
use crate::model::signature::{self, Content, Meaning, Signing};
use chrono::{DateTime, SubsecRound, Utc};
use diesel::dsl::exists;
use diesel::prelude::*;
use std::collections::BTreeSet;

/// A note to be begun.
#[derive(Debug, Clone)]
pub struct NewNote {
    /// In whose chart.
    pub patient: PatientId,
    /// For which encounter of the same patient.
    pub encounter: Option<EncounterId>,
    /// LOINC document code, one of the organisation's note types.
    pub kind: String,
    /// The title.
    pub title: Option<String>,
    /// The text.
    pub body: String,
    /// Who types it.
    pub writer: StaffId,
    /// Whose note it is: the writer's, or that of whom a scribe writes for.
    pub author: StaffId,
    /// Who besides may see, change and sign the draft.
    pub signers: BTreeSet<StaffId>,
}

impl NewNote {
    /// Every record that must be there for it.
    pub fn named(&self) -> Vec<uuid::Uuid> {
        let others = self.signers.iter().chain([&self.author]).filter(|person| **person != self.writer);
        [self.patient.0].into_iter().chain(self.encounter.map(|id| id.0)).chain(others.map(|person| person.0)).collect()
    }
}

/// What is to change of a draft; `None` leaves as it is, an inner `None` clears.
#[derive(Debug, Clone, Default)]
pub struct DraftEdit {
    /// The title.
    pub title: Option<Option<String>>,
    /// The text.
    pub body: Option<String>,
}

/// What a signature by this person makes of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A signed note.
    Final,
    /// One that waits for a cosigner.
    ToBeCosigned,
}

/// Begins a note.
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

/// Adds a version to a draft. `theirs` tells whether this person writes notes of its type.
pub async fn revise(
    tx: &mut TenantTx,
    id: NoteId,
    expected: i32,
    edit: DraftEdit,
    me: StaffId,
    theirs: impl FnOnce(&str) -> bool,
) -> Result<NoteId> {
    let before = held(tx, id, expected, me).await?;
    if !theirs(&before.type_code) {
        return Err(Error::Forbidden);
    }
    let text = text(tx, id, before.current_version).await?;
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

/// Gives a draft up: it is kept, and nobody sees it. That is for its author and who typed it, not for those named to sign it.
pub async fn discard(tx: &mut TenantTx, id: NoteId, expected: i32, me: StaffId) -> Result<NoteId> {
    let before = held(tx, id, expected, me).await?;
    if before.author_id != Some(me) && before.entered_by != Some(me) {
        return Err(Error::Forbidden);
    }
    let row = diesel::update(notes::table.filter(notes::id.eq(id)));
    let row = row.set((
        notes::status.eq("DISCARDED"),
        notes::version.eq(before.version + 1),
        notes::updated_at.eq(Utc::now()),
    ));
    tx.execute(row).await?;
    Ok(id)
}

/// Signs a draft. From here on the database lets nobody change its text. `standing` is asked with the note's type.
pub async fn sign(
    tx: &mut TenantTx,
    id: NoteId,
    expected: i32,
    me: StaffId,
    standing: impl FnOnce(&str) -> Result<Standing>,
) -> Result<NoteId> {
    let before = held(tx, id, expected, me).await?;
    let standing = standing(&before.type_code)?;
    let meaning = match before.author_id == Some(me) {
        true => Meaning::Author,
        false if is_signer(tx, id, me).await? => Meaning::Signer,
        // Whoever typed it for another may not put it into the other's mouth.
        false => return Err(Error::Forbidden),
    };
    let (text, at) = (text(tx, id, before.current_version).await?, now());
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
    let status = match standing {
        Standing::Final => NoteStatus::Signed,
        Standing::ToBeCosigned => NoteStatus::Uncosigned,
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
#[diesel(table_name = notes)]
struct Held {
    patient_id: PatientId,
    encounter_id: Option<EncounterId>,
    author_id: Option<StaffId>,
    entered_by: Option<StaffId>,
    status: String,
    type_code: String,
    current_version: i32,
    authored_at: DateTime<Utc>,
    version: i32,
}

struct Text {
    title: Option<String>,
    body: String,
}

/// The row of a draft that is mine to change, in the version I saw; nobody else changes it before this transaction ends.
async fn held(tx: &TenantTx, id: NoteId, expected: i32, me: StaffId) -> Result<Held> {
    let row = notes::table.filter(notes::id.eq(id)).select(Held::as_select()).for_update();
    let row: Held = tx.first(row).await?;
    match row.status.as_str() {
        "DISCARDED" => return Err(Error::NotFound),
        "DRAFT" if row.author_id != Some(me) && row.entered_by != Some(me) && !is_signer(tx, id, me).await? => {
            return Err(Error::NotFound);
        }
        _ => expect(expected, row.version)?,
    }
    match row.status.as_str() {
        "DRAFT" => Ok(row),
        _ => Err(Error::Conflict { current_version: Some(row.version), reason: "this note is no draft any more" }),
    }
}

async fn is_signer(tx: &TenantTx, id: NoteId, me: StaffId) -> Result<bool> {
    let named = signers::note_id.eq(id).and(signers::staff_id.eq(me));
    tx.first(diesel::select(exists(signers::table.filter(named)))).await
}

async fn text(tx: &TenantTx, id: NoteId, number: i32) -> Result<Text> {
    type Row = (VersionId, Option<Sealed<NoteTitle>>, Sealed<NoteBody>);
    let row = versions::table.filter(versions::note_id.eq(id).and(versions::number.eq(number)));
    let row = row.select((versions::id, versions::title_sealed, versions::body_sealed));
    let (version, title, body): Row = tx.first(row).await?;
    let title = title.map(|sealed| tx.keys().open(version.0, &sealed)).transpose()?;
    Ok(Text { title, body: tx.keys().open(version.0, &body)? })
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

/// As the database keeps it: to the microsecond.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}
