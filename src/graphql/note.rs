//! Clinical notes, over the rows of `model::note`. The text of a note is for the roles of `note.text`, wherever the note was found.

use super::context::{Fields, RecordType, admit, guard, loaders};
use super::encounter::Encounter;
use super::ids::{self, IdKind};
use super::page::connection::{self, PageArgs};
use super::page::cursor::List;
use super::patient::Patient;
use super::scalars::DateTime;
use crate::error::Result;
use crate::guard::TenantTx;
use crate::ids::{NoteId, StaffId};
use crate::model::KeysetPage;
use crate::model::note as rows;
use crate::model::note::{Reading, Text};
use crate::model::signature::Signature;
use async_graphql::connection::Connection;
use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use std::sync::Arc;

/// Notes.
#[derive(Default)]
pub struct NoteQuery;

#[Object]
impl NoteQuery {
    /// The note of this id; null when there is none in this organisation, or when it is someone else's draft.
    #[graphql(complexity = "5 + child_complexity")]
    async fn note(&self, ctx: &Context<'_>, #[graphql(desc = "Id of a note.")] id: ID) -> Result<Option<ClinicalNote>> {
        let id = ids::note("id", &id)?;
        ClinicalNote::by_id(ctx, id).await
    }

    /// Notes of all patients, newest first: those that match everything the filter says.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn notes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which notes; all when nothing is said.")] filter: Option<NoteFilter>,
        #[graphql(desc = "How many from the newest on; 20 when nothing is said, at most 200.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the oldest on.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<String, ClinicalNote>> {
        let tx = &admit(ctx, "notes").await?;
        let page = PageArgs { first, after, last, before }.page(&NOTES, tx.keys())?;
        let reader = guard(ctx)?.staff_id();
        let filter = filter.unwrap_or_default().parse(reader)?;
        let fields = RecordType::Note.selected_of_nodes(ctx);
        let (reading, named) = (Reading { reader, text: text(&fields) }, filter.patient.map(|patient| patient.0));
        let found = rows::page(tx, filter, page, reading).await?;
        RecordType::Note.searched(tx, found.len(), named, fields.clone());
        Ok(shown(tx, &NOTES, &page, found.into_iter().map(Arc::new).collect(), &fields))
    }
}

const NOTES: List = List::of_all("notes");

/// Which notes are wanted: those that match everything that is said.
#[derive(InputObject, Default)]
pub struct NoteFilter {
    /// In this patient's chart.
    patient_id: Option<ID>,
    /// Written for this encounter.
    encounter_id: Option<ID>,
    /// Of this author.
    author_id: Option<ID>,
    /// Of one of these types: LOINC codes.
    #[graphql(name = "type")]
    kind: Option<Vec<String>>,
    /// Standing at one of these.
    status: Option<Vec<NoteStatus>>,
    /// Written at this time or later.
    from: Option<DateTime>,
    /// Written before this time.
    to: Option<DateTime>,
    /// When true, only notes the caller wrote or typed.
    mine: Option<bool>,
    /// When true, only what waits for the caller: own drafts, and notes that name the caller to sign.
    awaiting_my_signature: Option<bool>,
}

impl NoteFilter {
    fn parse(self, me: StaffId) -> Result<rows::Filter> {
        let Self { patient_id, encounter_id, author_id, kind, status, from, to, mine, awaiting_my_signature } = self;
        Ok(rows::Filter {
            patient: patient_id.map(|id| ids::patient("filter.patientId", &id)).transpose()?,
            encounter: encounter_id.map(|id| ids::encounter("filter.encounterId", &id)).transpose()?,
            author: author_id.map(|id| ids::staff("filter.authorId", &id)).transpose()?,
            kind: kind.map(|kind| connection::choices("filter.type", kind)).transpose()?,
            status: status.map(|status| connection::choices("filter.status", status)).transpose()?,
            from: from.map(|at| at.0),
            to: to.map(|at| at.0),
            mine: mine.unwrap_or_default().then_some(me),
            awaiting: awaiting_my_signature.unwrap_or_default().then_some(me),
        })
    }
}

/// A clinical note in its current version.
pub struct ClinicalNote(pub Arc<rows::Note>);

/// A clinical note in its current version.
#[Object]
impl ClinicalNote {
    /// The note's id, through all its versions.
    pub async fn id(&self) -> ID {
        ids::encode(IdKind::Note, self.0.id.0)
    }

    /// Whose chart it is in.
    async fn patient(&self, ctx: &Context<'_>) -> Result<Patient> {
        Patient::linked(ctx, self.0.patient_id).await
    }

    /// The encounter it was written for.
    async fn encounter(&self, ctx: &Context<'_>) -> Result<Option<Encounter>> {
        match self.0.encounter_id {
            Some(id) => Encounter::linked(ctx, id).await.map(Some),
            None => Ok(None),
        }
    }

    /// What kind of document it is.
    #[graphql(name = "type")]
    async fn kind(&self) -> NoteType {
        let rows::Note { type_code, type_display, .. } = self.0.as_ref();
        NoteType { code: type_code.clone(), display: type_display.as_ref().unwrap_or(type_code).clone() }
    }

    /// Where it stands.
    async fn status(&self) -> NoteStatus {
        self.0.status.into()
    }

    /// The title; null once retracted.
    async fn title(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let title = self.0.title(admit(ctx, "note.text").await?.keys())?;
        loaders(ctx)?.show(title.as_deref().unwrap_or_default())?;
        Ok(title)
    }

    /// The text; null once retracted.
    async fn body(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        let body = self.0.body(admit(ctx, "note.text").await?.keys())?;
        loaders(ctx)?.show(body.as_deref().unwrap_or_default())?;
        Ok(body)
    }

    /// Who wrote it.
    async fn author(&self) -> Option<Author> {
        self.0.author_id.map(|id| Author { id: ids::encode(IdKind::Staff, id.0), name: self.0.author_name.clone() })
    }

    /// When it was written.
    async fn authored_at(&self) -> Option<DateTime> {
        Some(DateTime(self.0.authored_at))
    }

    /// When it was signed.
    async fn signed_at(&self) -> Option<DateTime> {
        self.0.signed_at.map(DateTime)
    }

    /// The signatures under its current version, in the order of their making.
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn signatures(&self, ctx: &Context<'_>) -> Result<Vec<NoteSignature>> {
        let found = loaders(ctx)?.signatures.load(self.0.id).await?;
        Ok(found.unwrap_or_default().iter().map(|row| NoteSignature::of(row)).collect())
    }

    /// Counts changes, from 1.
    async fn version(&self) -> i32 {
        self.0.version
    }
}

impl ClinicalNote {
    /// The note someone asked for.
    pub async fn by_id(ctx: &Context<'_>, id: NoteId) -> Result<Option<Self>> {
        let tx = &admit(ctx, "note").await?;
        let fields = RecordType::Note.selected(ctx);
        let found = loaders(ctx)?.notes.load((id, text(&fields))).await?;
        match &found {
            Some(row) => record_access(tx, &[row.as_ref()], &fields),
            None => RecordType::Note.not_found(tx, vec![id.0]),
        }
        Ok(found.map(Self))
    }
}

/// A page of notes on its way out, whosever they are.
pub fn shown(
    tx: &TenantTx,
    list: &List,
    page: &KeysetPage,
    found: Vec<Arc<rows::Note>>,
    fields: &Fields,
) -> Connection<String, ClinicalNote> {
    let notes = connection::connection(list, tx.keys(), page, found, ClinicalNote);
    record_access(tx, &notes.edges.iter().map(|edge| edge.node.0.as_ref()).collect::<Vec<_>>(), fields);
    notes
}

/// Whether these fields need the sealed text.
pub fn text(fields: &Fields) -> Text {
    if fields.iter().any(|field| matches!(*field, "title" | "body")) { Text::Read } else { Text::Left }
}

/// Notes go out.
fn record_access(tx: &TenantTx, notes: &[&rows::Note], fields: &Fields) {
    for of_one in notes.chunk_by(|note, next| note.patient_id == next.patient_id) {
        if let [note, ..] = of_one {
            RecordType::Note.found(tx, note.patient_id, of_one.iter().map(|note| note.id.0).collect(), fields.clone());
        }
    }
}

/// Type of a clinical document.
#[derive(SimpleObject)]
pub struct NoteType {
    /// LOINC code.
    code: String,
    /// The code in words.
    display: String,
}

/// A signature under a note.
#[derive(SimpleObject)]
pub struct NoteSignature {
    /// Who signed.
    signer: Author,
    /// What the signature says.
    meaning: SignatureMeaning,
    /// When it was signed.
    signed_at: DateTime,
}

impl NoteSignature {
    fn of(row: &Signature) -> Self {
        let signer = Author { id: ids::encode(IdKind::Staff, row.signer.0), name: row.signer_name.clone() };
        Self { signer, meaning: row.meaning.into(), signed_at: DateTime(row.signed_at) }
    }
}

/// What a signature says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "crate::model::signature::Meaning")]
pub enum SignatureMeaning {
    /// I wrote this.
    Author,
    /// I stand for this, though another wrote it.
    Signer,
}

/// Who wrote or signed a note.
#[derive(SimpleObject)]
pub struct Author {
    /// The author's id in this organisation.
    id: ID,
    /// The author's name.
    name: Option<String>,
}

/// Where a note stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "rows::NoteStatus")]
pub enum NoteStatus {
    /// Being written; seen by its author and those named only.
    Draft,
    /// Signed, waiting for a cosigner.
    Uncosigned,
    /// Signed.
    Signed,
    /// Signed, and corrected since.
    Amended,
    /// Entered in error; its text is not shown.
    Retracted,
}
