//! Clinical rules of notes: the limits of their texts, and which entry of the table of roles allows someone to write or
//! sign a note. Constants and pure functions; nothing here reads the database.

use crate::ids::StaffId;

/// Limit for a title, in Unicode characters.
pub const MAX_TITLE_CHARS: usize = 500;
/// Limit for the text of a note, in Unicode characters.
pub const MAX_BODY_CHARS: usize = 500_000;
/// Limit for the LOINC code of a note's type, in characters.
pub const MAX_TYPE_CHARS: usize = 50;
/// Limit for the people who are named to sign a draft besides its author.
pub const MAX_SIGNERS: usize = 20;

/// LOINC codes of the note types that nurses write and sign. 34746-8 is the nurse note.
const NURSE_NOTE_TYPES: [&str; 1] = ["34746-8"];

/// Returns the operation whose roles may write, change and sign notes of this type.
pub fn writing_operation(type_code: &str) -> &'static str {
    if NURSE_NOTE_TYPES.contains(&type_code) { "note.ofNurses" } else { "note.ofOthers" }
}

/// Returns the operation whose roles may create a draft with this author: a note of one's own, or one typed for its
/// author.
pub fn drafting_operation(writer: StaffId, author: StaffId) -> &'static str {
    if writer == author { "draftNote.own" } else { "draftNote.forAuthor" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operation_follows_type_and_author() {
        assert_eq!(writing_operation("34746-8"), "note.ofNurses");
        assert_eq!(writing_operation("11506-3"), "note.ofOthers");
        let (scribe, clinician) = (StaffId(uuid::Uuid::nil()), StaffId(uuid::Uuid::max()));
        assert_eq!(drafting_operation(clinician, clinician), "draftNote.own");
        assert_eq!(drafting_operation(scribe, clinician), "draftNote.forAuthor");
    }
}
