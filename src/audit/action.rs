//! The words of the audit log: what was done (`action`) and to which kind of record (`resource_type`). The database
//! adds only the words of what no request names: `staff.roles`, and the statement's own verb where a ticket names no
//! action.

/// What a write does, as the audit rows of its statements say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAction {
    /// A patient's chart was created.
    PatientRegistered,
    /// A patient's demographics or identifiers were changed.
    PatientUpdated,
    /// An encounter was created.
    EncounterStarted,
    /// An encounter was finished.
    EncounterFinished,
    /// An encounter was cancelled.
    EncounterCancelled,
    /// A note was created as a draft.
    NoteDrafted,
    /// The text of a draft was changed.
    NoteRevised,
    /// A draft was discarded; its row is kept and hidden.
    NoteDiscarded,
    /// A draft was signed, by its author or by a cosigner.
    NoteSigned,
}

impl AuditAction {
    /// The value of the column `action`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PatientRegistered => "patient.registered",
            Self::PatientUpdated => "patient.updated",
            Self::EncounterStarted => "encounter.started",
            Self::EncounterFinished => "encounter.finished",
            Self::EncounterCancelled => "encounter.cancelled",
            Self::NoteDrafted => "note.drafted",
            Self::NoteRevised => "note.revised",
            Self::NoteDiscarded => "note.discarded",
            Self::NoteSigned => "note.signed",
        }
    }
}

/// A kind of clinical record. `audit_write()` in the database derives the same names from the tables' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    /// A row of `patients`.
    Patient,
    /// A row of `encounters`.
    Encounter,
    /// A row of `clinical_notes`.
    Note,
}

impl RecordType {
    /// The value of the column `resource_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Patient => "patient",
            Self::Encounter => "encounter",
            Self::Note => "note",
        }
    }

    /// The action of showing such records, or of asking for one by its id.
    pub fn read_action(self) -> &'static str {
        match self {
            Self::Patient => "patient.read",
            Self::Encounter => "encounter.read",
            Self::Note => "note.read",
        }
    }

    /// The action of searching among the records of all patients.
    pub fn search_action(self) -> &'static str {
        match self {
            Self::Patient => "patient.search",
            Self::Encounter => "encounter.search",
            Self::Note => "note.search",
        }
    }
}

/// The `resource_type` of a row about an operation that the caller's roles do not allow. Its `action` is the
/// operation's name in the table of roles.
pub const OPERATION: &str = "operation";
