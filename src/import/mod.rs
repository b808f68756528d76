//! Import: charts from FHIR files into one tenant, however large, in whatever order.
//! `source` reads the input in passes so that what is referred to comes before what refers to it, `store` makes rows of it, `run` joins the
//! two, and `rejects` says what was not taken.

mod input;
pub mod rejects;
mod run;
pub mod source;
mod split;
mod spool;
mod store;

pub use run::{Progress, run};
pub use store::Store;

use crate::fhir::ResourceKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// What an import did. `cordon import --json` prints it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Slug of the tenant.
    pub tenant: String,
    /// Files read; standard input is one.
    pub files: u64,
    /// Patients.
    pub patients: Counts,
    /// Encounters.
    pub encounters: Counts,
    /// Notes: documents, and reports with a text of their own.
    pub notes: Counts,
    /// Practitioners.
    pub practitioners: Counts,
    /// Resources that were not read, by type.
    pub skipped: BTreeMap<String, u64>,
    /// Lines of the file of rejects, those without a known type included.
    pub rejects: u64,
    /// How long it took, to the millisecond.
    pub seconds: f64,
    /// Notes read, new or not, by the time it took.
    pub notes_per_second: f64,
}

/// What became of the resources of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Not known before.
    pub new: u64,
    /// Known, and changed since.
    pub updated: u64,
    /// Known, and the same.
    pub unchanged: u64,
    /// Not taken.
    pub rejected: u64,
}

impl Counts {
    /// What was added to what there was.
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
    /// The counts that resources of this kind belong to.
    pub fn counts(&mut self, kind: ResourceKind) -> &mut Counts {
        match kind {
            ResourceKind::Practitioner => &mut self.practitioners,
            ResourceKind::Patient => &mut self.patients,
            ResourceKind::Encounter => &mut self.encounters,
            ResourceKind::DocumentReference | ResourceKind::DiagnosticReport => &mut self.notes,
        }
    }

    /// Counts a reject under its kind, if it has one.
    pub fn reject(&mut self, reject: &rejects::Reject) {
        self.rejects += 1;
        if let Some(kind) = reject.type_name.as_deref().and_then(ResourceKind::named) {
            self.counts(kind).rejected += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_report_has_the_shape_that_is_promised() {
        let mut report =
            Report { tenant: "lakeside".into(), files: 2, seconds: 0.5, notes_per_second: 2.0, ..Report::default() };
        report.counts(ResourceKind::DiagnosticReport).new = 1;
        report.skipped.insert("Observation".into(), 3);
        let zero = json!({ "new": 0, "updated": 0, "unchanged": 0, "rejected": 0 });
        let expected = json!({ "tenant": "lakeside", "files": 2, "patients": zero, "encounters": zero, "practitioners": zero,
            "notes": { "new": 1, "updated": 0, "unchanged": 0, "rejected": 0 }, "skipped": { "Observation": 3 }, "rejects": 0,
            "seconds": 0.5, "notesPerSecond": 2.0 });
        assert_eq!(serde_json::to_value(report).unwrap(), expected);
    }
}
