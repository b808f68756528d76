//! Mutations of notes. Which types of note a role may write, and for whom, is in the table of roles.

use super::input::{line, prose};
use super::{TargetRecords, run_mutation};
use crate::audit::AuditAction;
use crate::error::{Error, Result};
use crate::graphql::context::{RecordType, guard};
use crate::graphql::ids::{self, IdKind};
use crate::graphql::note::ClinicalNote;
use crate::guard::Guard;
use crate::ids::{NoteId, StaffId};
use crate::model::note::rules::{
    MAX_BODY_CHARS, MAX_SIGNERS, MAX_TITLE_CHARS, MAX_TYPE_CHARS, drafting_operation, writing_operation,
};
use crate::model::note::write::{self as rows, DraftEdit, NewNote, SignatureEffect};
use async_graphql::{Context, ID, InputObject, MaybeUndefined, Object};

/// Root fields for changing notes.
#[derive(Default)]
pub struct NoteMutation;

#[Object]
impl NoteMutation {
    /// Creates a draft. Until it is signed, only its author, the person who typed it and the people named to sign it
    /// can see it. FORBIDDEN when the caller's roles do not write notes of this type, or not for this author; NOT_FOUND
    /// when the patient, the encounter of that patient, the author or a signer does not exist.
    #[graphql(complexity = "20 + child_complexity")]
    async fn draft_note(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The new draft.")] input: DraftNoteInput,
    ) -> Result<Option<DraftNotePayload>> {
        let guard = guard(ctx)?;
        guard.authorize("draftNote")?;
        let new = input.parse(guard.staff_id())?;
        guard.authorize(drafting_operation(new.writer, new.author))?;
        if !may_write(guard, &new.kind) {
            guard.record_denied(AuditAction::NoteDrafted, RecordType::Patient.name(), vec![new.patient.0]);
            return Err(Error::Forbidden);
        }
        let targets = TargetRecords(RecordType::Note, new.named());
        let draft = async |tx: &mut _| rows::draft(tx, new).await;
        let id = run_mutation(ctx, "draftNote", AuditAction::NoteDrafted, targets, draft).await?;
        Ok(Some(DraftNotePayload(id)))
    }

    /// Changes a draft, which adds a version to it. Absent fields stay as they are; null clears the title. NOT_FOUND
    /// when the caller cannot see the draft; FORBIDDEN when the caller's roles do not write notes of its type; CONFLICT
    /// when it has changed or is no longer a draft.
    #[graphql(complexity = "20 + child_complexity")]
    async fn revise_draft(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The draft, and the fields to change.")] input: ReviseDraftInput,
    ) -> Result<Option<ReviseDraftPayload>> {
        let (id, guard) = (ids::note("input.id", &input.id)?, guard(ctx)?);
        let (expected, edit) = (input.expected_version, input.edit()?);
        let may_write = |kind: &str| may_write(guard, kind);
        let revise = async |tx: &mut _| rows::revise(tx, id, expected, edit, guard.staff_id(), may_write).await;
        let id = run_mutation(ctx, "reviseDraft", AuditAction::NoteRevised, (RecordType::Note, id.0), revise).await?;
        Ok(Some(ReviseDraftPayload(id)))
    }

    /// Discards a draft. The draft is kept for the record and visible to nobody. Only its author and the person who
    /// typed it may do this, else FORBIDDEN. NOT_FOUND when the caller cannot see the draft; CONFLICT when it has
    /// changed or is no longer a draft.
    #[graphql(complexity = "20 + child_complexity")]
    async fn discard_draft(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The draft to discard.")] input: DiscardDraftInput,
    ) -> Result<Option<DiscardDraftPayload>> {
        let (id, me) = (ids::note("input.id", &input.id)?, guard(ctx)?.staff_id());
        let discard = async |tx: &mut _| rows::discard(tx, id, input.expected_version, me).await;
        let id =
            run_mutation(ctx, "discardDraft", AuditAction::NoteDiscarded, (RecordType::Note, id.0), discard).await?;
        Ok(Some(DiscardDraftPayload { discarded_note_id: ids::encode(IdKind::Note, id.0) }))
    }

    /// Signs the current version of a draft, as its author or as a person who is named to sign it. From then on nobody
    /// can change its text. A note signed by a trainee becomes UNCOSIGNED and waits for a co-signature. NOT_FOUND when
    /// the caller cannot see the draft; FORBIDDEN when the caller only typed it, or the caller's roles do not sign
    /// notes of its type; CONFLICT when it has changed or is no longer a draft.
    #[graphql(complexity = "20 + child_complexity")]
    async fn sign_note(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The draft to sign.")] input: SignNoteInput,
    ) -> Result<Option<SignNotePayload>> {
        let (id, guard) = (ids::note("input.id", &input.id)?, guard(ctx)?);
        let effect = |kind: &str| {
            if !may_write(guard, kind) {
                return Err(Error::Forbidden);
            }
            Ok(if guard.allows("signNote.final") { SignatureEffect::Final } else { SignatureEffect::ToBeCosigned })
        };
        let sign = async |tx: &mut _| rows::sign(tx, id, input.expected_version, guard.staff_id(), effect).await;
        let id = run_mutation(ctx, "signNote", AuditAction::NoteSigned, (RecordType::Note, id.0), sign).await?;
        Ok(Some(SignNotePayload(id)))
    }
}

/// Whether the caller's roles may write and sign notes of this type.
fn may_write(guard: &Guard, kind: &str) -> bool {
    guard.allows(writing_operation(kind))
}

/// A new draft.
#[derive(InputObject)]
pub struct DraftNoteInput {
    /// The id of the patient whose chart holds the note.
    patient_id: ID,
    /// The id of the encounter that the note is written for, one of the same patient.
    encounter_id: Option<ID>,
    /// The LOINC code of the document type, one of the organisation's note types; INVALID_INPUT otherwise.
    #[graphql(name = "type")]
    kind: String,
    /// The title, one line of at most 500 characters.
    title: Option<String>,
    /// The text, at most 500,000 characters. Not blank.
    body: String,
    /// The id of the author. A scribe must name the person who will sign the note; anyone else can only be the author.
    /// FORBIDDEN otherwise. Default: the caller.
    author_id: Option<ID>,
    /// The ids of further people who may see, change and sign the draft. At most 20.
    signer_ids: Option<Vec<ID>>,
}

impl DraftNoteInput {
    fn parse(self, me: StaffId) -> Result<NewNote> {
        let signers = self.signer_ids.unwrap_or_default();
        if signers.len() > MAX_SIGNERS {
            return Err(Error::invalid("input.signerIds", format!("must have at most {MAX_SIGNERS} entries")));
        }
        Ok(NewNote {
            patient: ids::patient("input.patientId", &self.patient_id)?,
            encounter: self.encounter_id.map(|id| ids::encounter("input.encounterId", &id)).transpose()?,
            kind: line("input.type", self.kind, MAX_TYPE_CHARS)?,
            title: self.title.map(|title| line("input.title", title, MAX_TITLE_CHARS)).transpose()?,
            body: prose("input.body", self.body, MAX_BODY_CHARS)?,
            writer: me,
            author: self.author_id.map_or(Ok(me), |id| ids::staff("input.authorId", &id))?,
            signers: signers.iter().map(|id| ids::staff("input.signerIds", id)).collect::<Result<_>>()?,
        })
    }
}

/// A draft, and the fields to change. Absent fields stay as they are.
#[derive(InputObject)]
pub struct ReviseDraftInput {
    /// The id of the note.
    id: ID,
    /// The version that the client has read. CONFLICT when the stored version differs; `extensions.currentVersion` is
    /// the stored one.
    expected_version: i32,
    /// The title, one line of at most 500 characters. Null clears it.
    title: MaybeUndefined<String>,
    /// The text, at most 500,000 characters. Null is refused with INVALID_INPUT.
    body: MaybeUndefined<String>,
}

impl ReviseDraftInput {
    fn edit(self) -> Result<DraftEdit> {
        Ok(DraftEdit {
            title: match self.title {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => Some(None),
                MaybeUndefined::Value(title) => Some(Some(line("input.title", title, MAX_TITLE_CHARS)?)),
            },
            body: match self.body {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => return Err(Error::invalid("input.body", "must not be null")),
                MaybeUndefined::Value(body) => Some(prose("input.body", body, MAX_BODY_CHARS)?),
            },
        })
    }
}

/// A draft to discard.
#[derive(InputObject)]
pub struct DiscardDraftInput {
    /// The id of the note.
    id: ID,
    /// The version that the client has read. CONFLICT when the stored version differs; `extensions.currentVersion` is
    /// the stored one.
    expected_version: i32,
}

/// A draft to sign.
#[derive(InputObject)]
pub struct SignNoteInput {
    /// The id of the note.
    id: ID,
    /// The version that the client has read. CONFLICT when the stored version differs; `extensions.currentVersion` is
    /// the stored one.
    expected_version: i32,
}

record_payload! {
    /// The result of `draftNote`.
    DraftNotePayload(NoteId) {
        /// The note as stored. Null, with an error, when it cannot be read; the mutation is committed nevertheless.
        note: ClinicalNote
    }
}

record_payload! {
    /// The result of `reviseDraft`.
    ReviseDraftPayload(NoteId) {
        /// The note as stored. Null, with an error, when it cannot be read; the mutation is committed nevertheless.
        note: ClinicalNote
    }
}

/// The result of `discardDraft`.
#[derive(async_graphql::SimpleObject)]
pub struct DiscardDraftPayload {
    /// The id of the discarded draft. No query returns it any more.
    discarded_note_id: ID,
}

record_payload! {
    /// The result of `signNote`.
    SignNotePayload(NoteId) {
        /// The note as stored. Null, with an error, when it cannot be read; the mutation is committed nevertheless.
        note: ClinicalNote
    }
}
