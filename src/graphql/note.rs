//! Clinical notes: resolvers over the rows of `model::note`. Title and body are checked against the roles of
//! `note.text` on every path that leads to a note.

use super::context::{Fields, RecordType, authorize, guard, loaders};
use super::encounter::Encounter;
use super::ids::{self, IdKind};
use super::page::connection::{self, PageArgs};
use super::page::cursor::List;
use super::patient::Patient;
use super::scalars::DateTime;
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::ids::{NoteId, StaffId};
use crate::model::KeysetPage;
use crate::model::note as rows;
use crate::model::note::{NoteReader, NoteText};
use crate::model::signature::Signature;
use async_graphql::connection::Connection;
use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use std::sync::Arc;

/// Root fields for reading notes.
#[derive(Default)]
pub struct NoteQuery;

#[Object]
impl NoteQuery {
    /// Returns the note with this id, or null when the organisation has none or the caller may not see it. A draft is
    /// visible to its author, to the person who typed it, and to the people who are named to sign it; a discarded draft
    /// to nobody.
    #[graphql(complexity = "5 + child_complexity")]
    async fn note(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of a note.")] id: ID,
    ) -> Result<Option<ClinicalNote>> {
        let id = ids::note("id", &id)?;
        ClinicalNote::by_id(ctx, id).await
    }

    /// Returns notes of all patients, newest first by `authoredAt`. Drafts that the caller may not see are left out.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn notes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Conditions on the notes. Default: all notes.")] filter: Option<NoteFilter>,
        #[graphql(desc = "Returns the first *n* items, newest first. Default 20, maximum 200.")] first: Option<i32>,
        #[graphql(desc = "Returns only items after this cursor, which are older.")] after: Option<String>,
        #[graphql(desc = "Returns the last *n* items, newest first. Maximum 200. Not with `first`.")] last: Option<i32>,
        #[graphql(desc = "Returns only items before this cursor, which are newer.")] before: Option<String>,
    ) -> Result<Connection<String, ClinicalNote>> {
        let tx = &authorize(ctx, "notes").await?;
        let page = PageArgs { first, after, last, before }.page(&NOTES, tx.keys())?;
        let reader = guard(ctx)?.staff_id();
        let filter = filter.unwrap_or_default().parse(reader)?;
        let fields = RecordType::Note.node_fields(ctx);
        let (reader, patient) =
            (NoteReader { reader, text: needed_text(&fields) }, filter.patient.map(|patient| patient.0));
        let found = rows::page(tx, filter, page, reader).await?;
        RecordType::Note.record_search(tx, found.len(), patient, fields.clone());
        Ok(recorded_connection(tx, &NOTES, &page, found.into_iter().map(Arc::new).collect(), &fields))
    }
}

const NOTES: List = List::of_tenant("notes");

/// Conditions on notes. A note must satisfy every condition that is given.
#[derive(InputObject, Default)]
pub struct NoteFilter {
    /// The note is in the chart of this patient.
    patient_id: Option<ID>,
    /// The note was written for this encounter.
    encounter_id: Option<ID>,
    /// The note is by this author.
    author_id: Option<ID>,
    /// The type is one of these LOINC codes, at most 50. An empty list matches no note.
    #[graphql(name = "type")]
    kind: Option<Vec<String>>,
    /// The status is one of these, at most 50. An empty list matches no note.
    status: Option<Vec<NoteStatus>>,
    /// `authoredAt` is at this time or later.
    from: Option<DateTime>,
    /// `authoredAt` is before this time.
    to: Option<DateTime>,
    /// When true, the caller is the author of the note or typed it. False has no effect.
    mine: Option<bool>,
    /// When true, the note waits for the caller's signature: a draft of the caller's own, or a draft or uncosigned note
    /// that names the caller to sign and that the caller has not signed. False has no effect.
    awaiting_my_signature: Option<bool>,
}

impl NoteFilter {
    fn parse(self, me: StaffId) -> Result<rows::Filter> {
        let Self { patient_id, encounter_id, author_id, kind, status, from, to, mine, awaiting_my_signature } = self;
        Ok(rows::Filter {
            patient: patient_id.map(|id| ids::patient("filter.patientId", &id)).transpose()?,
            encounter: encounter_id.map(|id| ids::encounter("filter.encounterId", &id)).transpose()?,
            author: author_id.map(|id| ids::staff("filter.authorId", &id)).transpose()?,
            kind: kind.map(|kind| connection::filter_values("filter.type", kind)).transpose()?,
            status: status.map(|status| connection::filter_values("filter.status", status)).transpose()?,
            from: from.map(|at| at.0),
            to: to.map(|at| at.0),
            mine: mine.unwrap_or_default().then_some(me),
            awaiting: awaiting_my_signature.unwrap_or_default().then_some(me),
        })
    }
}

/// A clinical note in its current version. Corrections are new versions; the id stays the same.
pub struct ClinicalNote(pub Arc<rows::Note>);

/// The fields of `ClinicalNote`, in the order of the schema, as access records name them.
pub(super) const FIELDS: &[&str] = &[
    "id",
    "patient",
    "encounter",
    "type",
    "status",
    "title",
    "body",
    "author",
    "authoredAt",
    "signedAt",
    "signatures",
    "version",
];

/// A clinical note in its current version. Corrections are new versions; the id stays the same.
#[Object]
impl ClinicalNote {
    /// The note's id, the same through all its versions.
    pub async fn id(&self) -> ID {
        ids::encode(IdKind::Note, self.0.id.0)
    }

    /// The patient whose chart holds the note.
    async fn patient(&self, ctx: &Context<'_>) -> Result<Patient> {
        Patient::referenced(ctx, self.0.patient_id).await
    }

    /// The encounter that the note was written for, or null when there is none.
    async fn encounter(&self, ctx: &Context<'_>) -> Result<Option<Encounter>> {
        match self.0.encounter_id {
            Some(id) => Encounter::referenced(ctx, id).await.map(Some),
            None => Ok(None),
        }
    }

    /// The type of document.
    #[graphql(name = "type")]
    async fn kind(&self) -> NoteType {
        let rows::Note { type_code, type_display, .. } = self.0.as_ref();
        NoteType { code: type_code.clone(), display: type_display.as_ref().unwrap_or(type_code).clone() }
    }

    /// The note's place in its life cycle.
    async fn status(&self) -> Result<NoteStatus> {
        self.0.status.try_into()
    }

    /// The title, or null when there is none or the note is retracted.
    async fn title(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let title = self.0.title(authorize(ctx, "note.text").await?.keys())?;
        loaders(ctx)?.reserve_text(title.as_deref().unwrap_or_default())?;
        Ok(title)
    }

    /// The text, or null when the note is retracted. LIMIT_EXCEEDED when the texts of one response together become too
    /// large: request fewer notes at once.
    async fn body(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let body = self.0.body(authorize(ctx, "note.text").await?.keys())?;
        loaders(ctx)?.reserve_text(body.as_deref().unwrap_or_default())?;
        Ok(body)
    }

    /// The author, or null for an imported note whose source names none.
    async fn author(&self) -> Option<Author> {
        self.0.author_id.map(|id| Author { id: ids::encode(IdKind::Staff, id.0), name: self.0.author_name.clone() })
    }

    /// When the note was written: when its draft was created, or the time that the source of an imported note gives.
    async fn authored_at(&self) -> Option<DateTime> {
        Some(DateTime(self.0.authored_at))
    }

    /// When the note was signed here, or null for a draft and for an imported note.
    async fn signed_at(&self) -> Option<DateTime> {
        self.0.signed_at.map(DateTime)
    }

    /// The signatures under the current version, oldest first. Empty for drafts and for imported notes.
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn signatures(&self, ctx: &Context<'_>) -> Result<Vec<NoteSignature>> {
        let found = loaders(ctx)?.signatures.load(self.0.id).await?;
        Ok(found.unwrap_or_default().iter().map(|row| NoteSignature::of(row)).collect())
    }

    /// The version of the note: 1 when it is created, one more after each change. Mutations compare it with
    /// `expectedVersion`.
    async fn version(&self) -> i32 {
        self.0.version
    }
}

impl ClinicalNote {
    /// Loads a note and records the access, or that it was not found. Visibility is that of the root field `note`.
    pub async fn by_id(ctx: &Context<'_>, id: NoteId) -> Result<Option<Self>> {
        let tx = &authorize(ctx, "note").await?;
        let fields = RecordType::Note.selected_fields(ctx);
        let note = loaders(ctx)?.notes.load((id, needed_text(&fields))).await?;
        match &note {
            Some(row) => record_access(tx, &[row.as_ref()], &fields),
            None => RecordType::Note.record_not_found(tx, vec![id.0]),
        }
        Ok(note.map(Self))
    }
}

/// Makes a connection of a page of notes and records the access to each patient's notes in it.
pub fn recorded_connection(
    tx: &TenantTx,
    list: &List,
    page: &KeysetPage,
    found: Vec<Arc<rows::Note>>,
    fields: &Fields,
) -> Connection<String, ClinicalNote> {
    let notes = connection::from_rows(list, tx.keys(), page, found, ClinicalNote);
    record_access(tx, &notes.edges.iter().map(|edge| edge.node.0.as_ref()).collect::<Vec<_>>(), fields);
    notes
}

/// Returns whether these fields need the sealed title and text.
pub fn needed_text(fields: &Fields) -> NoteText {
    if fields.iter().any(|field| matches!(*field, "title" | "body")) { NoteText::Included } else { NoteText::Omitted }
}

/// Records the access to notes, with one record for each run of notes of the same patient.
fn record_access(tx: &TenantTx, notes: &[&rows::Note], fields: &Fields) {
    for same_patient in notes.chunk_by(|note, next| note.patient_id == next.patient_id) {
        if let [note, ..] = same_patient {
            let ids = same_patient.iter().map(|note| note.id.0).collect();
            RecordType::Note.record_read(tx, note.patient_id, ids, fields.clone());
        }
    }
}

/// The type of a clinical document.
#[derive(SimpleObject)]
pub struct NoteType {
    /// The LOINC code of the document type, such as `11506-3`.
    code: String,
    /// The name of the type. The code itself when the organisation has no name for it.
    display: String,
}

/// A signature under a version of a note.
#[derive(SimpleObject)]
pub struct NoteSignature {
    /// The person who signed.
    signer: Author,
    /// What the person attests by the signature.
    meaning: SignatureMeaning,
    /// When the signature was made.
    signed_at: DateTime,
}

impl NoteSignature {
    fn of(row: &Signature) -> Self {
        let signer = Author { id: ids::encode(IdKind::Staff, row.signer.0), name: row.signer_name.clone() };
        Self { signer, meaning: row.meaning.into(), signed_at: DateTime(row.signed_at) }
    }
}

/// What a person attests by a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "crate::model::signature::Meaning")]
pub enum SignatureMeaning {
    /// The signer is the author of the note.
    Author,
    /// The signer takes responsibility for a note that someone else wrote.
    Signer,
}

/// A person who wrote or signed a note.
#[derive(SimpleObject)]
pub struct Author {
    /// The person's id in this organisation, the same as `viewer.id` for the caller.
    id: ID,
    /// The person's name, or null when it is not known.
    name: Option<String>,
}

/// A note's place in its life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub enum NoteStatus {
    /// The note is being written. It is visible to its author, to the person who typed it, and to the people named to
    /// sign it.
    Draft,
    /// The note is not final: it is signed by a trainee and waits for a co-signature, or was imported as preliminary.
    Uncosigned,
    /// The note is signed, or was imported as final.
    Signed,
    /// The note was corrected after it had been signed, or was imported as amended.
    Amended,
    /// The note was entered in error. Its title and text are no longer shown.
    Retracted,
}

impl TryFrom<rows::NoteStatus> for NoteStatus {
    type Error = Error;

    /// A discarded note is visible to nobody; one that got here is an integrity error.
    fn try_from(status: rows::NoteStatus) -> Result<Self> {
        match status {
            rows::NoteStatus::Draft => Ok(Self::Draft),
            rows::NoteStatus::Discarded => Err(Error::Integrity),
            rows::NoteStatus::Uncosigned => Ok(Self::Uncosigned),
            rows::NoteStatus::Signed => Ok(Self::Signed),
            rows::NoteStatus::Amended => Ok(Self::Amended),
            rows::NoteStatus::Retracted => Ok(Self::Retracted),
        }
    }
}

impl From<NoteStatus> for rows::NoteStatus {
    fn from(status: NoteStatus) -> Self {
        match status {
            NoteStatus::Draft => Self::Draft,
            NoteStatus::Uncosigned => Self::Uncosigned,
            NoteStatus::Signed => Self::Signed,
            NoteStatus::Amended => Self::Amended,
            NoteStatus::Retracted => Self::Retracted,
        }
    }
}
