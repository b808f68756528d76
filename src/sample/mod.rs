//! Sample charts: synthetic FHIR R4 for trials, tests and benchmarks. No person in them is real.
//!
//! The same seed gives the same bytes on every machine: random numbers come from `random`, times are counted back from
//! a given day, and no collection without an order is iterated. Patient number n depends on the seed and n only. Charts
//! of few patients are therefore the beginning of charts of many, and memory does not grow with their number, because
//! each chart is written before the next is created.
//!
//! The files in `texts/` hold phrases and templates for each language, which `phrases` reads. `organisation` holds the
//! languages and the staff, `patient` the demographics, `history` the encounters and notes, and `resources` the FHIR. A
//! change of any of them changes the charts of a seed, and a test that compares a hash of the output fails.

mod history;
mod organisation;
mod patient;
mod phrases;
mod random;
mod resources;
mod speciality;

use chrono::NaiveDate;
use history::HistoryWriter;
use organisation::Organisation;
use resources::Resource;
use serde::Serialize;
use std::io::{self, Write};

/// The default of [`Charts::until`].
pub const DEFAULT_UNTIL: NaiveDate = match NaiveDate::from_ymd_opt(2026, 6, 30) {
    Some(day) => day,
    None => NaiveDate::MAX,
};
/// The default of [`Charts::encounters`].
pub const DEFAULT_ENCOUNTERS: u64 = 5;

/// The charts to write.
#[derive(Debug, Clone, Copy)]
pub struct Charts {
    /// The seed of all random numbers. Charts of different seeds have different ids, so that they can be imported into
    /// one tenant.
    pub seed: u64,
    /// The number of patients.
    pub patients: u64,
    /// The mean number of encounters of a patient.
    pub encounters: u64,
    /// The last day of the charts. Only appointments are later.
    pub until: NaiveDate,
}

/// The number of resources that were written, by type, and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ChartCounts {
    /// The number of practitioners.
    pub practitioners: u64,
    /// The number of patients.
    pub patients: u64,
    /// The number of encounters.
    pub encounters: u64,
    /// The number of notes.
    pub notes: u64,
    /// The size of the NDJSON in bytes.
    pub bytes: u64,
}

impl Charts {
    /// Returns charts with the default number of encounters and the default last day.
    pub fn new(seed: u64, patients: u64) -> Self {
        Self { seed, patients, encounters: DEFAULT_ENCOUNTERS, until: DEFAULT_UNTIL }
    }

    /// Writes the charts as NDJSON: the staff, and then patient by patient. Calls `on_patient` with the counts after
    /// each patient.
    pub fn write_to(&self, out: &mut dyn Write, mut on_patient: impl FnMut(&ChartCounts)) -> io::Result<ChartCounts> {
        let organisation = Organisation::new(self.seed)?;
        let mut writer = NdjsonWriter { out, line: Vec::new(), counts: ChartCounts::default() };
        for member in organisation.staff() {
            writer.write(&Resource::Practitioner(member.to_resource()))?;
        }
        for number in 0..self.patients {
            HistoryWriter::write(&organisation, self, number, &mut writer)?;
            on_patient(&writer.counts);
        }
        writer.out.flush()?;
        Ok(writer.counts)
    }
}

/// Writes resources as NDJSON and counts them.
struct NdjsonWriter<'o> {
    out: &'o mut dyn Write,
    line: Vec<u8>,
    counts: ChartCounts,
}

impl NdjsonWriter<'_> {
    fn write(&mut self, resource: &Resource) -> io::Result<()> {
        let count = match resource {
            Resource::Practitioner(_) => &mut self.counts.practitioners,
            Resource::Patient(_) => &mut self.counts.patients,
            Resource::Encounter(_) => &mut self.counts.encounters,
            Resource::DocumentReference(_) => &mut self.counts.notes,
        };
        *count += 1;
        self.line.clear();
        serde_json::to_writer(&mut self.line, resource)?;
        self.line.push(b'\n');
        self.counts.bytes += self.line.len() as u64;
        self.out.write_all(&self.line)
    }
}
