//! Sample charts: synthetic FHIR R4 of our own making, for trying things out, tests and measurements. Nobody in them ever lived.
//!
//! The same seed gives the same bytes, everywhere and always: chance is `random`, time is counted back from a given day, and nothing is
//! iterated that has no order. Patient number n follows from seed and n alone, so the charts of few patients are the beginning of those of
//! many, and memory does not grow with their number: a chart is made, written and forgotten before the next.
//! What is said stands in `texts/`, a bank of phrases for each language (`bank`); `house`, `person` and `course` decide who says what of
//! whom and when; `wire` is the FHIR. Whoever changes any of it changes what a seed means: the test that holds the bytes says so.

mod bank;
mod course;
mod house;
mod person;
mod random;
mod speciality;
mod wire;

use chrono::NaiveDate;
use course::Course;
use house::House;
use serde::Serialize;
use std::io::{self, Write};
use wire::Resource;

/// The last day of a sample's charts, unless another is asked for.
pub const UNTIL: NaiveDate = match NaiveDate::from_ymd_opt(2026, 6, 30) {
    Some(day) => day,
    None => NaiveDate::MAX,
};
/// Encounters of a patient on average, unless another number is asked for.
pub const ENCOUNTERS: u64 = 5;

/// Charts to be written.
#[derive(Debug, Clone, Copy)]
pub struct Charts {
    /// What all chance follows from. Charts of several seeds can live in one tenant.
    pub seed: u64,
    /// How many patients.
    pub patients: u64,
    /// Encounters of each on average.
    pub encounters: u64,
    /// The day they are written on: what has happened lies before it, appointments after.
    pub until: NaiveDate,
}

/// How much was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Practitioners.
    pub practitioners: u64,
    /// Patients.
    pub patients: u64,
    /// Encounters.
    pub encounters: u64,
    /// Notes.
    pub notes: u64,
    /// Bytes of NDJSON.
    pub bytes: u64,
}

impl Charts {
    /// Charts of the usual size, up to the usual day.
    pub fn new(seed: u64, patients: u64) -> Self {
        Self { seed, patients, encounters: ENCOUNTERS, until: UNTIL }
    }

    /// Writes them, one resource a line: the staff, then patient by patient. `after` hears how much there is after each.
    pub fn write_to(&self, out: &mut dyn Write, mut after: impl FnMut(&Written)) -> io::Result<Written> {
        let house = House::new(self.seed)?;
        let mut lines = Lines { out, line: Vec::new(), written: Written::default() };
        for member in house.staff() {
            lines.write(&Resource::Practitioner(member.resource()))?;
        }
        for number in 0..self.patients {
            Course::write(&house, self, number, &mut lines)?;
            after(&lines.written);
        }
        lines.out.flush()?;
        Ok(lines.written)
    }
}

/// Where resources go, line by line.
struct Lines<'o> {
    out: &'o mut dyn Write,
    line: Vec<u8>,
    written: Written,
}

impl Lines<'_> {
    fn write(&mut self, resource: &Resource) -> io::Result<()> {
        let count = match resource {
            Resource::Practitioner(_) => &mut self.written.practitioners,
            Resource::Patient(_) => &mut self.written.patients,
            Resource::Encounter(_) => &mut self.written.encounters,
            Resource::DocumentReference(_) => &mut self.written.notes,
        };
        *count += 1;
        self.line.clear();
        serde_json::to_writer(&mut self.line, resource)?;
        self.line.push(b'\n');
        self.written.bytes += self.line.len() as u64;
        self.out.write_all(&self.line)
    }
}
