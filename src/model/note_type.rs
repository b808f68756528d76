//! The types of notes that every tenant has from the beginning. They are the LOINC codes of US Core's clinical note
//! types (value set us-core-clinical-note-type), including the two that it encourages. Touches `note_types`. This
//! material contains content from LOINC (loinc.org), copyright Regenstrief Institute, Inc., available at no cost under
//! loinc.org/license.

use crate::db::schema::tenant::note_types;
use crate::error::Result;
use crate::guard::TenantTx;
use diesel::prelude::*;

/// LOINC codes with their display texts.
const NOTE_TYPES: [(&str, &str); 12] = [
    ("11488-4", "Consultation note"),
    ("18842-5", "Discharge summary"),
    ("34117-2", "History and physical note"),
    ("28570-0", "Procedure note"),
    ("11506-3", "Progress note"),
    ("18748-4", "Diagnostic imaging study"),
    ("11502-2", "Laboratory report"),
    ("11526-1", "Pathology study"),
    ("11504-8", "Surgical operation note"),
    ("34111-5", "Emergency department note"),
    ("57133-1", "Referral note"),
    ("34746-8", "Nurse note"),
];

/// Returns the display text of a LOINC code, or `None` if it is not one of these types.
pub fn display(code: &str) -> Option<&'static str> {
    NOTE_TYPES.iter().find(|(known, _)| *known == code).map(|(_, display)| *display)
}

/// Adds the missing types to the tenant. Existing types are not changed.
pub async fn add_standard(tx: &TenantTx) -> Result<()> {
    let rows: Vec<_> = NOTE_TYPES
        .iter()
        .map(|(code, display)| {
            (note_types::tenant_id.eq(tx.tenant()), note_types::code.eq(*code), note_types::display.eq(*display))
        })
        .collect();
    tx.execute(diesel::insert_into(note_types::table).values(rows).on_conflict_do_nothing()).await.map(|_| ())
}
