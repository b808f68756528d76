//! Clinical notes as rows, with what every reader asks for: the current version's text, the author's name, the type's display.
//! Touches `clinical_notes`, `note_versions`, `staff` and `note_types`. Drafts are seen by their author only, and that stands in the SQL
//! of every statement here; title and body are sealed.

pub mod write;

use super::sql::{Statement, text_enum};
use super::{End, HasPosition, KeysetPage, Position};
use crate::crypto::{Sealed, TenantKeys};
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::ids::{EncounterId, NoteId, PatientId, StaffId, VersionId};
use crate::model::fields::{NoteBody, NoteTitle};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Bool, Integer, Nullable, Text as SqlText, Timestamptz, Uuid as SqlUuid};

/// Whether a note may be seen by the person who is bound: drafts by their author, who typed them and who is named to sign them, what was
/// discarded by nobody.
macro_rules! visible {
    () => {
        "(status not in ('DRAFT', 'DISCARDED') or status = 'DRAFT' and exists (select from (values (?)) reader(id)
           where reader.id in (author_id, entered_by) or exists (select from note_signers s
             where s.tenant_id = clinical_notes.tenant_id and s.note_id = clinical_notes.id and s.staff_id = reader.id)))"
    };
}

/// The columns of `Note`, in its order, for the notes that `$rows` calls `n`. What hangs on a note is fetched for it alone:
/// a join would be planned over the whole tenant. The last bind tells whether the version is read.
macro_rules! note {
    ($rows:expr) => {
        concat!(note!(from $rows), note!())
    };
    (from $rows:expr) => {
        concat!(
            "select n.id, n.patient_id, n.encounter_id, n.status, n.type_code, t.display, n.author_id, s.name, n.authored_at, n.signed_at, ",
            "n.version, v.id, v.title_sealed, v.body_sealed from ",
            $rows
        )
    };
    () => {
        concat!(
            " left join lateral (select id, title_sealed, body_sealed from note_versions ",
            "where ? and tenant_id = n.tenant_id and note_id = n.id and number = n.current_version limit 1) v on true ",
            "left join lateral (select name from staff where tenant_id = n.tenant_id and id = n.author_id limit 1) s on true ",
            "left join lateral (select display from note_types where tenant_id = n.tenant_id and code = n.type_code limit 1) t on true"
        )
    };
}

/// One page of the notes of each parent.
macro_rules! page_of_each {
    ($parent:literal, $direction:literal) => {
        concat!(
            "unnest((select ?)::uuid[]) as parent(id) cross join lateral (select * from clinical_notes where ",
            $parent,
            " = parent.id and ",
            visible!(),
            " and (authored_at, id) < (?, ?) and (authored_at, id) > (?, ?) ",
            "order by authored_at ",
            $direction,
            ", id ",
            $direction,
            " limit ?) n"
        )
    };
}

text_enum!(
    /// Where a note stands.
    NoteStatus {
        /// Being written; seen by its author and those named only.
        Draft = "DRAFT",
        /// Signed, waiting for a cosigner.
        Uncosigned = "UNCOSIGNED",
        /// Signed.
        Signed = "SIGNED",
        /// Signed, and corrected since.
        Amended = "AMENDED",
        /// Entered in error; its text is not shown.
        Retracted = "RETRACTED",
    }
);

/// Whether a statement reads the sealed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Text {
    /// Title and body come with the row.
    Read,
    /// They are left where they are.
    Left,
}

/// Who reads, and how much of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Whose drafts are seen.
    pub reader: StaffId,
    /// Whether the text is read.
    pub text: Text,
}

/// A clinical note in its current version.
#[derive(Debug, Queryable)]
pub struct Note {
    /// The note's id, through all its versions.
    pub id: NoteId,
    /// Whose chart it is in.
    pub patient_id: PatientId,
    /// The encounter it was written for.
    pub encounter_id: Option<EncounterId>,
    /// Where it stands.
    pub status: NoteStatus,
    /// LOINC document code.
    pub type_code: String,
    /// The code in words.
    pub type_display: Option<String>,
    /// Who wrote it.
    pub author_id: Option<StaffId>,
    /// The author's name.
    pub author_name: Option<String>,
    /// When it was written.
    pub authored_at: DateTime<Utc>,
    /// When it was signed.
    pub signed_at: Option<DateTime<Utc>>,
    /// Counts changes, from 1.
    pub version: i32,
    version_id: Option<VersionId>,
    title_sealed: Option<Sealed<NoteTitle>>,
    body_sealed: Option<Sealed<NoteBody>>,
}

impl Note {
    /// The title, opened; none once retracted.
    pub fn title(&self, keys: &TenantKeys) -> Result<Option<String>> {
        match (self.status, self.version_id, &self.title_sealed) {
            (NoteStatus::Retracted, ..) | (_, Some(_), None) => Ok(None),
            (_, Some(version), Some(sealed)) => keys.open(version.0, sealed).map(Some),
            (_, None, _) => Err(Error::Integrity),
        }
    }

    /// The text, opened; none once retracted.
    pub fn body(&self, keys: &TenantKeys) -> Result<Option<String>> {
        match (self.status, self.version_id, &self.body_sealed) {
            (NoteStatus::Retracted, ..) => Ok(None),
            (_, Some(version), Some(sealed)) => keys.open(version.0, sealed).map(Some),
            _ => Err(Error::Integrity),
        }
    }
}

impl HasPosition for Note {
    fn position(&self) -> Position {
        Position { at: self.authored_at, id: self.id.0 }
    }
}

/// The notes of these ids, in no order; absent ones and drafts of others are left out.
pub async fn by_ids(tx: &TenantTx, ids: Vec<NoteId>, reading: Reading) -> Result<Vec<Note>> {
    let query = Statement::<Columns>::new(note!(concat!(
        "(select * from clinical_notes where id = any((select ?)::uuid[]) and ",
        visible!(),
        ") n"
    )))
    .bind::<Array<SqlUuid>, _>(ids)
    .bind::<SqlUuid, _>(reading.reader)
    .bind::<Bool, _>(reading.text == Text::Read);
    tx.load(query).await
}

/// The same page of the notes of each of these patients, and one row more where there is more, in no order.
pub async fn of_patients(
    tx: &TenantTx,
    patients: Vec<PatientId>,
    page: KeysetPage,
    reading: Reading,
) -> Result<Vec<Note>> {
    let query = match page.end {
        End::Newest => Statement::<Columns>::new(note!(page_of_each!("patient_id", "desc"))),
        End::Oldest => Statement::<Columns>::new(note!(page_of_each!("patient_id", "asc"))),
    };
    let query = query
        .bind::<Array<SqlUuid>, _>(patients)
        .bind::<SqlUuid, _>(reading.reader)
        .page(&page)
        .bind::<Bool, _>(reading.text == Text::Read);
    tx.load(query).await
}

/// The same page of the notes of each of these encounters, and one row more where there is more, in no order.
pub async fn of_encounters(
    tx: &TenantTx,
    encounters: Vec<EncounterId>,
    page: KeysetPage,
    reading: Reading,
) -> Result<Vec<Note>> {
    let query = match page.end {
        End::Newest => Statement::<Columns>::new(note!(page_of_each!("encounter_id", "desc"))),
        End::Oldest => Statement::<Columns>::new(note!(page_of_each!("encounter_id", "asc"))),
    };
    let query = query
        .bind::<Array<SqlUuid>, _>(encounters)
        .bind::<SqlUuid, _>(reading.reader)
        .page(&page)
        .bind::<Bool, _>(reading.text == Text::Read);
    tx.load(query).await
}

/// Which notes are wanted; what is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this patient's chart.
    pub patient: Option<PatientId>,
    /// Written for this encounter.
    pub encounter: Option<EncounterId>,
    /// Of this author.
    pub author: Option<StaffId>,
    /// Of one of these types: LOINC codes.
    pub kind: Option<Vec<String>>,
    /// One of these.
    pub status: Option<Vec<NoteStatus>>,
    /// Written at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Written before this time.
    pub to: Option<DateTime<Utc>>,
    /// Whether this person wrote or typed it.
    pub mine: Option<StaffId>,
    /// Whether it waits for this person's signature.
    pub awaiting: Option<StaffId>,
}

/// One page of all notes that are wanted, and one row more where there is more, in no order.
pub async fn page(tx: &TenantTx, filter: Filter, page: KeysetPage, reading: Reading) -> Result<Vec<Note>> {
    let all = filter == Filter::default();
    let mut query = Statement::<Columns>::new(note!(from "(select * from clinical_notes where "))
        .and(visible!())
        .bind::<SqlUuid, _>(reading.reader);
    if let Some(patient) = filter.patient {
        query = query.and(" and patient_id = ?").bind::<SqlUuid, _>(patient);
    }
    if let Some(encounter) = filter.encounter {
        query = query.and(" and encounter_id = ?").bind::<SqlUuid, _>(encounter);
    }
    if let Some(author) = filter.author {
        query = query.and(" and author_id = ?").bind::<SqlUuid, _>(author);
    }
    if let Some(kind) = filter.kind {
        query = query.and(" and type_code = any(?)").bind::<Array<SqlText>, _>(kind);
    }
    if let Some(status) = filter.status {
        query = query.and(" and status = any(?)").bind::<Array<SqlText>, _>(status);
    }
    if let Some(from) = filter.from {
        query = query.and(" and authored_at >= ?").bind::<Timestamptz, _>(from);
    }
    if let Some(to) = filter.to {
        query = query.and(" and authored_at < ?").bind::<Timestamptz, _>(to);
    }
    if let Some(me) = filter.mine {
        query = query.and(" and (author_id = ? or entered_by = ?)").bind::<SqlUuid, _>(me).bind::<SqlUuid, _>(me);
    }
    if let Some(me) = filter.awaiting {
        query = query.and(AWAITING).bind::<SqlUuid, _>(me).bind::<SqlUuid, _>(me).bind::<SqlUuid, _>(me);
    }
    let order = match page.end {
        End::Newest => {
            " and (authored_at, id) < (?, ?) and (authored_at, id) > (?, ?) order by authored_at desc, id desc limit ?"
        }
        End::Oldest => {
            " and (authored_at, id) < (?, ?) and (authored_at, id) > (?, ?) order by authored_at, id limit ?"
        }
    };
    let query = if all { query.and(order).page(&page) } else { query.and(order).page_of_many_forms(&page) };
    let query = query.and(") n").and(note!()).bind::<Bool, _>(reading.text == Text::Read);
    tx.load(query).await
}

/// A draft of mine, or a note that I am named to sign, that nobody has signed for good and that I have not signed. The statuses come first, as
/// in the index of what is pending.
const AWAITING: &str = " and status in ('DRAFT', 'UNCOSIGNED') and (status = 'DRAFT' and author_id = ? or exists (select from note_signers s \
     where s.tenant_id = clinical_notes.tenant_id and s.note_id = clinical_notes.id and s.staff_id = ?) and not exists (select from note_signatures g \
     where g.tenant_id = clinical_notes.tenant_id and g.note_id = clinical_notes.id and g.number = current_version and g.signer_id = ?))";

type Columns = (
    SqlUuid,
    SqlUuid,
    Nullable<SqlUuid>,
    SqlText,
    SqlText,
    Nullable<SqlText>,
    Nullable<SqlUuid>,
    Nullable<SqlText>,
    Timestamptz,
    Nullable<Timestamptz>,
    Integer,
    Nullable<SqlUuid>,
    Nullable<Binary>,
    Nullable<Binary>,
);
