//! Clinical notes as rows and the queries that read them, with what every reader asks for: the current version's text,
//! the author's name, the type's display. Touches `clinical_notes`, `note_versions`, `staff` and `note_types`; title
//! and text are sealed. Every query here leaves out drafts that the reader may not see.

mod query;
pub mod rules;
pub mod write;

use super::sql::{IdList, each_key, is_any_of, lateral, text_enum, unnest};
use super::{HasPosition, KeysetPage, Position};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::{clinical_notes as notes, note_types, note_versions as versions, staff};
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::ids::{EncounterId, NoteId, PatientId, StaffId, VersionId};
use crate::model::fields::{NoteBody, NoteTitle};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Nullable, Uuid as SqlUuid};
use query::visible_to;

text_enum!(
    /// The status of a note.
    NoteStatus {
        /// The note is being written; visible to its author, who typed it and who is named to sign it.
        Draft = "DRAFT",
        /// The draft was discarded; it is kept and visible to nobody.
        Discarded = "DISCARDED",
        /// The note is signed and waits for a co-signature.
        Uncosigned = "UNCOSIGNED",
        /// The note is signed.
        Signed = "SIGNED",
        /// The note was signed and corrected since.
        Amended = "AMENDED",
        /// The note was entered in error; its text is not shown.
        Retracted = "RETRACTED",
    }
);

/// Whether a query reads the sealed title and text of its notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoteText {
    /// Title and text come with the note.
    Included,
    /// They are not read.
    Omitted,
}

/// For whom notes are read, and how much of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NoteReader {
    /// The person whose drafts are visible.
    pub reader: StaffId,
    /// Whether the text is read.
    pub text: NoteText,
}

/// A clinical note in its current version, with what every reader asks for: its text, the author's name, the type's
/// display.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = notes, check_for_backend(Pg))]
pub struct Note {
    /// The note's id, the same through all its versions.
    pub id: NoteId,
    /// The patient whose chart it is in.
    pub patient_id: PatientId,
    /// The encounter it was written for.
    pub encounter_id: Option<EncounterId>,
    /// The note's status.
    pub status: NoteStatus,
    /// LOINC document code.
    pub type_code: String,
    /// The type's display text; `None` where the organisation does not know the code.
    #[diesel(select_expression = note_types::display.nullable())]
    pub type_display: Option<String>,
    /// Who wrote it; `None` where the source of an imported note does not say.
    pub author_id: Option<StaffId>,
    /// The author's name.
    #[diesel(select_expression = staff::name.nullable())]
    pub author_name: Option<String>,
    /// When it was written.
    pub authored_at: DateTime<Utc>,
    /// When it was signed.
    pub signed_at: Option<DateTime<Utc>>,
    /// Counts changes of the note, from 1: what `expectedVersion` is compared with.
    pub version: i32,
    #[diesel(embed)]
    current: Option<CurrentText>,
}

/// The sealed title and text of the current version of a note; opened by `Note::title` and `Note::body`.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = versions, check_for_backend(Pg))]
pub struct CurrentText {
    id: VersionId,
    title_sealed: Option<Sealed<NoteTitle>>,
    body_sealed: Sealed<NoteBody>,
}

impl Note {
    /// Opens the title. `None` where there is none, or the note is retracted.
    ///
    /// # Errors
    /// `Integrity` where the text was not read or does not open.
    pub fn title(&self, keys: &TenantKeys) -> Result<Option<String>> {
        match (self.status, &self.current) {
            (NoteStatus::Retracted, _) => Ok(None),
            (_, Some(CurrentText { id, title_sealed, .. })) => {
                title_sealed.as_ref().map(|sealed| keys.open(id.0, sealed)).transpose()
            }
            (_, None) => Err(Error::Integrity),
        }
    }

    /// Opens the text. `None` where the note is retracted.
    ///
    /// # Errors
    /// `Integrity` where the text was not read or does not open.
    pub fn body(&self, keys: &TenantKeys) -> Result<Option<String>> {
        match (self.status, &self.current) {
            (NoteStatus::Retracted, _) => Ok(None),
            (_, Some(CurrentText { id, body_sealed, .. })) => keys.open(id.0, body_sealed).map(Some),
            (_, None) => Err(Error::Integrity),
        }
    }
}

impl HasPosition for Note {
    fn position(&self) -> Position {
        Position { at: self.authored_at, id: self.id.0 }
    }
}

/// Returns the notes of these ids, in no order, without those that do not exist or that the reader may not see.
pub async fn by_ids(tx: &TenantTx, ids: Vec<NoteId>, reader: NoteReader) -> Result<Vec<Note>> {
    let rows =
        notes::table.select(notes::all_columns).filter(is_any_of(notes::id, ids)).filter(visible_to(reader.reader));
    tx.load(query::with_details(rows, reader.text)).await
}

/// Returns the same page of the notes of each of these patients, in no order, with one row more where there is more.
pub async fn of_patients(
    tx: &TenantTx,
    patients: Vec<PatientId>,
    page: KeysetPage,
    reader: NoteReader,
) -> Result<Vec<Note>> {
    let rows = notes::table.select(notes::all_columns).filter(notes::patient_id.eq(each_key::<SqlUuid>()));
    let rows = page.of(rows.filter(visible_to(reader.reader)).into_boxed(), notes::authored_at, notes::id);
    tx.load(query::with_details(lateral(unnest(IdList::new(patients)), rows), reader.text)).await
}

/// Returns the same page of the notes of each of these encounters, in no order, with one row more where there is more.
pub async fn of_encounters(
    tx: &TenantTx,
    encounters: Vec<EncounterId>,
    page: KeysetPage,
    reader: NoteReader,
) -> Result<Vec<Note>> {
    let rows = notes::table.select(notes::all_columns).filter(notes::encounter_id.eq(each_key::<Nullable<SqlUuid>>()));
    let rows = page.of(rows.filter(visible_to(reader.reader)).into_boxed(), notes::authored_at, notes::id);
    tx.load(query::with_details(lateral(unnest(IdList::new(encounters)), rows), reader.text)).await
}

/// A filter of notes; all conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The note is in this patient's chart.
    pub patient: Option<PatientId>,
    /// The note was written for this encounter.
    pub encounter: Option<EncounterId>,
    /// The author is this person.
    pub author: Option<StaffId>,
    /// The type is one of these LOINC codes.
    pub kind: Option<Vec<String>>,
    /// The status is one of these.
    pub status: Option<Vec<NoteStatus>>,
    /// The note was written at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// The note was written before this time.
    pub to: Option<DateTime<Utc>>,
    /// This person wrote or typed the note.
    pub mine: Option<StaffId>,
    /// The note waits for this person's signature.
    pub awaiting: Option<StaffId>,
}

/// Returns a page of the notes that match a filter, in no order, with one row more where there is more.
pub async fn page(tx: &TenantTx, filter: Filter, page: KeysetPage, reader: NoteReader) -> Result<Vec<Note>> {
    let unfiltered = filter == Filter::default();
    let Filter { patient, encounter, author, kind, status, from, to, mine, awaiting } = filter;
    let mut rows = notes::table.select(notes::all_columns).filter(visible_to(reader.reader)).into_boxed();
    if let Some(patient) = patient {
        rows = rows.filter(notes::patient_id.eq(patient));
    }
    if let Some(encounter) = encounter {
        rows = rows.filter(notes::encounter_id.eq(encounter));
    }
    if let Some(author) = author {
        rows = rows.filter(notes::author_id.eq(author));
    }
    if let Some(codes) = kind {
        rows = rows.filter(notes::type_code.eq_any(codes));
    }
    if let Some(status) = status {
        rows = rows.filter(notes::status.eq_any(status));
    }
    if let Some(from) = from {
        rows = rows.filter(notes::authored_at.ge(from));
    }
    if let Some(to) = to {
        rows = rows.filter(notes::authored_at.lt(to));
    }
    if let Some(me) = mine {
        rows = rows.filter(notes::author_id.eq(me).or(notes::entered_by.eq(me)));
    }
    if let Some(me) = awaiting {
        rows = query::awaiting(rows, me);
    }
    let rows = match unfiltered {
        true => page.of(rows, notes::authored_at, notes::id),
        false => page.of_many_forms(rows, notes::authored_at, notes::id),
    };
    tx.load(query::with_details(rows, reader.text)).await
}
