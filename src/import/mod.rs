//! Imports charts from FHIR files of any size and order into one tenant. `source` reads the input in passes, so that a
//! resource comes after those that it refers to. `store` turns resources into rows, `run` connects the two, and
//! `rejects` lists what was not stored.

mod input;
pub mod rejects;
mod run;
pub mod source;
mod split;
mod spool;
mod store;

pub use run::{Progress, run};
pub use store::Store;

use crate::error::Error;
use crate::fhir::ResourceKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// Why an import ended early. What was stored before remains, and running the same import again continues from there.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The database or the keys failed.
    #[error(transparent)]
    Store(#[from] Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The reader stopped before the end of the input.
    #[error("the input could not be read to its end; what was read is stored, run it again")]
    Incomplete,
}

/// The result of an import, which `cordon import --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The slug of the tenant.
    pub tenant: String,
    /// The number of files that were read. Standard input counts as one.
    pub files: u64,
    /// The patients.
    pub patients: Counts,
    /// The encounters.
    pub encounters: Counts,
    /// The notes: documents, and reports whose text no document repeats.
    pub notes: Counts,
    /// The practitioners.
    pub practitioners: Counts,
    /// The number of resources that were skipped, by type.
    pub skipped: BTreeMap<String, u64>,
    /// The number of lines in the file of rejects. It includes rejects without a known type, which no other count
    /// includes.
    pub rejects: u64,
    /// The duration in seconds, with a precision of a millisecond.
    pub seconds: f64,
    /// Stored and unchanged notes per second, rounded to a whole number.
    pub notes_per_second: f64,
}

/// The outcomes of the resources of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Resources that were not stored before.
    pub new: u64,
    /// Stored resources whose content had changed.
    pub updated: u64,
    /// Stored resources with the same content.
    pub unchanged: u64,
    /// Resources that were not stored.
    pub rejected: u64,
}

impl Counts {
    /// Returns the difference from earlier counts.
    fn since(self, before: Self) -> Self {
        Self {
            new: self.new - before.new,
            updated: self.updated - before.updated,
            unchanged: self.unchanged - before.unchanged,
            rejected: self.rejected - before.rejected,
        }
    }
}

impl Report {
    /// Returns the counts for resources of this kind.
    pub fn counts(&mut self, kind: ResourceKind) -> &mut Counts {
        match kind {
            ResourceKind::Practitioner => &mut self.practitioners,
            ResourceKind::Patient => &mut self.patients,
            ResourceKind::Encounter => &mut self.encounters,
            ResourceKind::DocumentReference | ResourceKind::DiagnosticReport => &mut self.notes,
        }
    }

    /// Counts a reject in total, and under its kind if that is known.
    pub fn reject(&mut self, reject: &rejects::Reject) {
        self.rejects += 1;
        if let Some(kind) = reject.type_name.as_deref().and_then(ResourceKind::from_name) {
            self.counts(kind).rejected += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_report_serialises_to_the_documented_json() {
        let mut report =
            Report { tenant: "lakeside".into(), files: 2, seconds: 0.5, notes_per_second: 2.0, ..Report::default() };
        report.counts(ResourceKind::DiagnosticReport).new = 1;
        report.skipped.insert("Observation".into(), 3);
        let zero = json!({ "new": 0, "updated": 0, "unchanged": 0, "rejected": 0 });
        let expected = json!({ "tenant": "lakeside", "files": 2, "patients": zero, "encounters": zero,
            "practitioners": zero,
            "notes": { "new": 1, "updated": 0, "unchanged": 0, "rejected": 0 }, "skipped": { "Observation": 3 },
                "rejects": 0,
            "seconds": 0.5, "notesPerSecond": 2.0 });
        assert_eq!(serde_json::to_value(report).unwrap(), expected);
    }
}
