//! Changes of notes. Which types of note a role may write, and for whom, is in the table of roles.

use super::input::{line, prose};
use super::{Named, change};
use crate::error::{Error, Result};
use crate::graphql::context::{RecordType, guard};
use crate::graphql::ids::{self, IdKind};
use crate::graphql::note::ClinicalNote;
use crate::guard::{AuditAction, Guard};
use crate::ids::{NoteId, StaffId};
use crate::model::note::write::{self as rows, DraftEdit, NewNote, Standing};
use async_graphql::{Context, ID, InputObject, MaybeUndefined, Object};

const LONGEST_TITLE: usize = 500;
const LONGEST_BODY: usize = 500_000;
const LONGEST_CODE: usize = 50;
const MOST_SIGNERS: usize = 20;

/// LOINC codes of notes that nurses write and sign.
const NURSES_TYPES: [&str; 1] = ["34746-8"];

/// Changes of notes.
#[derive(Default)]
pub struct NoteMutation;

#[Object]
impl NoteMutation {
    /// Begins a note. Only its author and those named see it before it is signed.
    #[graphql(complexity = "20 + child_complexity")]
    async fn draft_note(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The note.")] input: DraftNoteInput,
    ) -> Result<Option<DraftNotePayload>> {
        let guard = guard(ctx)?;
        guard.may("draftNote")?;
        let new = input.parse(guard.staff_id())?;
        guard.may(if new.author == new.writer { "draftNote.own" } else { "draftNote.forAuthor" })?;
        if !may_write(guard, &new.kind) {
            guard.denied(AuditAction::NoteDrafted, RecordType::Patient.name(), vec![new.patient.0]);
            return Err(Error::Forbidden);
        }
        let named = Named(RecordType::Note, new.named());
        let draft = async |tx: &mut _| rows::draft(tx, new).await;
        let made = change(ctx, "draftNote", AuditAction::NoteDrafted, named, draft).await?;
        Ok(Some(DraftNotePayload(made)))
    }

    /// Changes a draft. What is not sent stays; null clears the title.
    #[graphql(complexity = "20 + child_complexity")]
    async fn revise_draft(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What changes.")] input: ReviseDraftInput,
    ) -> Result<Option<ReviseDraftPayload>> {
        let (id, guard) = (ids::note("input.id", &input.id)?, guard(ctx)?);
        let (expected, edit) = (input.expected_version, input.edit()?);
        let theirs = |kind: &str| may_write(guard, kind);
        let revise = async |tx: &mut _| rows::revise(tx, id, expected, edit, guard.staff_id(), theirs).await;
        let made = change(ctx, "reviseDraft", AuditAction::NoteRevised, (RecordType::Note, id.0), revise).await?;
        Ok(Some(ReviseDraftPayload(made)))
    }

    /// Gives a draft up, which its author and who typed it may. It is kept, and shown to nobody.
    #[graphql(complexity = "20 + child_complexity")]
    async fn discard_draft(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which draft.")] input: DiscardDraftInput,
    ) -> Result<Option<DiscardDraftPayload>> {
        let (id, me) = (ids::note("input.id", &input.id)?, guard(ctx)?.staff_id());
        let discard = async |tx: &mut _| rows::discard(tx, id, input.expected_version, me).await;
        let made = change(ctx, "discardDraft", AuditAction::NoteDiscarded, (RecordType::Note, id.0), discard).await?;
        Ok(Some(DiscardDraftPayload { discarded_note_id: ids::encode(IdKind::Note, made.0) }))
    }

    /// Signs a draft. From here on nobody can change its text. A trainee's note then waits for a cosigner.
    #[graphql(complexity = "20 + child_complexity")]
    async fn sign_note(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which draft.")] input: SignNoteInput,
    ) -> Result<Option<SignNotePayload>> {
        let (id, guard) = (ids::note("input.id", &input.id)?, guard(ctx)?);
        let standing = |kind: &str| {
            if !may_write(guard, kind) {
                return Err(Error::Forbidden);
            }
            Ok(if guard.allows("signNote.final") { Standing::Final } else { Standing::ToBeCosigned })
        };
        let sign = async |tx: &mut _| rows::sign(tx, id, input.expected_version, guard.staff_id(), standing).await;
        let made = change(ctx, "signNote", AuditAction::NoteSigned, (RecordType::Note, id.0), sign).await?;
        Ok(Some(SignNotePayload(made)))
    }
}

/// Whether the caller's roles write notes of this type.
fn may_write(guard: &Guard, kind: &str) -> bool {
    guard.allows(if NURSES_TYPES.contains(&kind) { "note.ofNurses" } else { "note.ofOthers" })
}

/// A note to be begun.
#[derive(InputObject)]
pub struct DraftNoteInput {
    /// In whose chart.
    patient_id: ID,
    /// The encounter it is written for, one of the same patient.
    encounter_id: Option<ID>,
    /// LOINC document code, one of the organisation's note types.
    #[graphql(name = "type")]
    kind: String,
    /// The title.
    title: Option<String>,
    /// The text.
    body: String,
    /// Whose note it is, where a scribe writes it: the author's id, who then signs it. The caller, when nothing is said.
    author_id: Option<ID>,
    /// Who besides the author may see, change and sign it.
    signer_ids: Option<Vec<ID>>,
}

impl DraftNoteInput {
    fn parse(self, me: StaffId) -> Result<NewNote> {
        let signers = self.signer_ids.unwrap_or_default();
        if signers.len() > MOST_SIGNERS {
            return Err(Error::invalid("input.signerIds", format!("must be at most {MOST_SIGNERS}")));
        }
        Ok(NewNote {
            patient: ids::patient("input.patientId", &self.patient_id)?,
            encounter: self.encounter_id.map(|id| ids::encounter("input.encounterId", &id)).transpose()?,
            kind: line("input.type", self.kind, LONGEST_CODE)?,
            title: self.title.map(|title| line("input.title", title, LONGEST_TITLE)).transpose()?,
            body: prose("input.body", self.body, LONGEST_BODY)?,
            writer: me,
            author: self.author_id.map_or(Ok(me), |id| ids::staff("input.authorId", &id))?,
            signers: signers.iter().map(|id| ids::staff("input.signerIds", id)).collect::<Result<_>>()?,
        })
    }
}

/// What changes of a draft.
#[derive(InputObject)]
pub struct ReviseDraftInput {
    /// The note's id.
    id: ID,
    /// The version that was seen; CONFLICT when another is stored.
    expected_version: i32,
    /// The title.
    title: MaybeUndefined<String>,
    /// The text; it cannot be null.
    body: MaybeUndefined<String>,
}

impl ReviseDraftInput {
    fn edit(self) -> Result<DraftEdit> {
        Ok(DraftEdit {
            title: match self.title {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => Some(None),
                MaybeUndefined::Value(title) => Some(Some(line("input.title", title, LONGEST_TITLE)?)),
            },
            body: match self.body {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => return Err(Error::invalid("input.body", "must not be null")),
                MaybeUndefined::Value(body) => Some(prose("input.body", body, LONGEST_BODY)?),
            },
        })
    }
}

/// A draft to be given up.
#[derive(InputObject)]
pub struct DiscardDraftInput {
    /// The note's id.
    id: ID,
    /// The version that was seen; CONFLICT when another is stored.
    expected_version: i32,
}

/// A draft to be signed.
#[derive(InputObject)]
pub struct SignNoteInput {
    /// The note's id.
    id: ID,
    /// The version that was seen; CONFLICT when another is stored.
    expected_version: i32,
}

payload! {
    /// The draft that was begun.
    DraftNotePayload(NoteId) {
        /// The note.
        note: ClinicalNote
    }
}

payload! {
    /// The draft that was changed.
    ReviseDraftPayload(NoteId) {
        /// The note.
        note: ClinicalNote
    }
}

/// The draft that was given up.
#[derive(async_graphql::SimpleObject)]
pub struct DiscardDraftPayload {
    /// Its id, under which nothing is found any more.
    discarded_note_id: ID,
}

payload! {
    /// The note that was signed.
    SignNotePayload(NoteId) {
        /// The note.
        note: ClinicalNote
    }
}
