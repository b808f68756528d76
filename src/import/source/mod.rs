//! The input of an import, mapped: practitioners and patients, then encounters, then documents, then reports, in batches.
//! Reads on a thread of its own, each pass over all files again, and holds no more than a few batches and what references need.
//! Knows no tenant and no database.

use super::input::{self, Input, InputError, Seen, What};
use super::rejects::{Reason, Reject};
use super::split::Layout;
use crate::fhir::{
    self, Aliases, Defect, ImportedEncounter, ImportedNote, ImportedPatient, ImportedPractitioner, Place, ResourceKind,
    SourceRef,
};
use aws_lc_rs::digest::{Context, SHA256};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Resources in a batch at most.
const BATCH: usize = 512;
/// Bytes of JSON that a batch was read from: those of the last resource may come on top.
const BATCH_BYTES: usize = 2 << 20;
/// Doubtful pieces remembered while it is not known whether a file is FHIR at all.
const DOUBTS: usize = 1000;
/// Types counted by name: FHIR R4 has 148.
const TYPES: usize = 300;

/// The files of an import.
pub struct Source {
    inputs: Vec<Input>,
}

/// What the reading thread tells, in this order: what there is, batches kind by kind with rejects among them, and the end.
#[derive(Debug)]
pub enum Reading {
    /// How many resources of each kind will be read, if all are sound.
    Surveyed(BTreeMap<ResourceKind, u64>),
    /// Resources of one kind.
    Batch(Batch),
    /// One that could not be read.
    Rejected(Reject),
    /// All is read.
    Finished(Tally),
}

/// Resources of one kind. A kind begins when all of those before it have been given.
#[derive(Debug)]
pub enum Batch {
    /// In the first pass, together with patients.
    Practitioners(Vec<Sourced<ImportedPractitioner>>),
    /// In the first pass.
    Patients(Vec<Sourced<ImportedPatient>>),
    /// In the second.
    Encounters(Vec<Sourced<ImportedEncounter>>),
    /// Documents in the third, reports in the fourth.
    Notes(Vec<Sourced<ImportedNote>>),
}

/// A resource and where it stood.
#[derive(Debug)]
pub struct Sourced<T> {
    /// The file.
    pub source: Arc<str>,
    /// Line, or place among a Bundle's entries.
    pub line: u64,
    /// The resource.
    pub resource: T,
}

impl<T> Sourced<T> {
    /// The reject of this resource, whose key is `key`.
    pub fn reject(&self, key: &str, reason: Reason) -> Reject {
        let (type_name, id) = named(Some(key));
        Reject { source: Arc::clone(&self.source), line: Some(self.line), type_name, id, reason }
    }
}

/// What was counted on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Files read.
    pub files: u64,
    /// Resources that are none of ours, by type.
    pub skipped: BTreeMap<String, u64>,
}

impl Source {
    /// Finds the files. Reads standard input, if it is among them, to its end.
    pub fn open(paths: &[PathBuf]) -> Result<Self, InputError> {
        Ok(Self { inputs: input::open(paths)? })
    }

    /// Starts reading. The thread waits while `ahead` readings are not taken, and ends when the receiver is dropped.
    pub fn read(self, ahead: usize) -> io::Result<mpsc::Receiver<Reading>> {
        let (out, readings) = mpsc::channel(ahead.max(1));
        let reader = Reader {
            out,
            tally: Tally::default(),
            counted: BTreeMap::new(),
            texts: HashSet::new(),
            pending: Pending::default(),
        };
        // An error here is a receiver that went away: nobody is left to tell.
        std::thread::Builder::new().name("import".into()).spawn(move || reader.run(&self.inputs).ok())?;
        Ok(readings)
    }
}

/// What the first look at a file found.
struct Facts {
    layout: Layout,
    kinds: BTreeSet<ResourceKind>,
    aliases: Aliases,
}

struct Reader {
    out: mpsc::Sender<Reading>,
    tally: Tally,
    counted: BTreeMap<ResourceKind, u64>,
    /// Digests of patient and text of all documents, when there are reports to compare.
    texts: HashSet<u128>,
    pending: Pending,
}

#[derive(Default)]
struct Pending {
    practitioners: Vec<Sourced<ImportedPractitioner>>,
    patients: Vec<Sourced<ImportedPatient>>,
    encounters: Vec<Sourced<ImportedEncounter>>,
    notes: Vec<Sourced<ImportedNote>>,
    bytes: usize,
}

impl Reader {
    fn run(mut self, inputs: &[Input]) -> io::Result<()> {
        let mut facts = Vec::new();
        for input in inputs {
            let found = self.survey(input);
            facts.push(self.unless_unreadable(input, found)?);
            self.tally.files += 1;
        }
        self.send(Reading::Surveyed(self.counted.clone()))?;
        for pass in [
            &[ResourceKind::Practitioner, ResourceKind::Patient][..],
            &[ResourceKind::Encounter],
            &[ResourceKind::DocumentReference],
            &[ResourceKind::DiagnosticReport],
        ] {
            for (input, facts) in inputs.iter().zip(&mut facts) {
                let Some(known) = facts.as_ref().filter(|facts| pass.iter().any(|kind| facts.kinds.contains(kind)))
                else {
                    continue;
                };
                let read = self.pass(input, known, pass);
                if self.unless_unreadable(input, read)?.is_none() {
                    *facts = None;
                }
            }
            self.flush()?;
        }
        let tally = std::mem::take(&mut self.tally);
        self.send(Reading::Finished(tally))
    }

    /// Looks at everything once: types, aliases, and what cannot be read at all, which no later pass will mention.
    fn survey(&mut self, input: &Input) -> io::Result<Facts> {
        let layout = input.layout()?;
        let mut facts = Facts { layout, kinds: BTreeSet::new(), aliases: Aliases::default() };
        let mut is_fhir = false;
        let mut doubts: Vec<Reject> = Vec::new();
        input.visit(layout, &mut |seen| {
            let reject = match seen.what {
                What::Nothing(reason) => {
                    Reject { source: Arc::clone(&input.name), line: Some(seen.line), type_name: None, id: None, reason }
                }
                What::Deletion { target } => {
                    is_fhir = true;
                    let (type_name, id) = named(target);
                    Reject {
                        source: Arc::clone(&input.name),
                        line: Some(seen.line),
                        type_name,
                        id,
                        reason: Reason::DeleteNotSupported,
                    }
                }
                What::Resource { text, address } => match fhir::glance(text) {
                    Ok(glance) => {
                        is_fhir = true;
                        self.count(&seen, glance, address, &mut facts);
                        for doubt in doubts.drain(..) {
                            self.send(Reading::Rejected(doubt))?;
                        }
                        return Ok(());
                    }
                    Err(defect) => {
                        let type_name = fhir::type_name(text)
                            .map(|name| name.into_owned())
                            .filter(|name| ResourceKind::named(name).is_some());
                        Reject {
                            source: Arc::clone(&input.name),
                            line: Some(seen.line),
                            type_name,
                            id: None,
                            reason: defect.into(),
                        }
                    }
                },
            };
            if is_fhir || doubts.len() >= DOUBTS {
                doubts.push(reject);
                return doubts.drain(..).try_for_each(|doubt| self.send(Reading::Rejected(doubt)));
            }
            doubts.push(reject);
            Ok(())
        })?;
        // A file of which nothing is FHIR is one reject, not one a line.
        if let [first, _, ..] = doubts.as_mut_slice() {
            first.reason = Defect::NotFhir.into();
            doubts.truncate(1);
        }
        doubts.into_iter().try_for_each(|doubt| self.send(Reading::Rejected(doubt)))?;
        Ok(facts)
    }

    fn count(&mut self, seen: &Seen<'_>, glance: fhir::Glance, address: Option<&str>, facts: &mut Facts) {
        match ResourceKind::named(&glance.type_name) {
            Some(ResourceKind::DiagnosticReport) if !glance.presented => self.skip(glance.type_name),
            Some(kind) => {
                facts.kinds.insert(kind);
                *self.counted.entry(kind).or_default() += 1;
                if let Some(address) = address {
                    facts.aliases.add(address, kind, glance.id.as_deref());
                }
            }
            // The Bundle around the entries is no resource of its own.
            None if glance.type_name == "Bundle" && !seen.in_bundle => {}
            None => self.skip(glance.type_name),
        }
    }

    fn skip(&mut self, type_name: String) {
        let known = self.tally.skipped.contains_key(&type_name) || self.tally.skipped.len() < TYPES;
        *self.tally.skipped.entry(if known { type_name } else { "other".into() }).or_default() += 1;
    }

    /// Maps the resources of these kinds.
    fn pass(&mut self, input: &Input, facts: &Facts, kinds: &[ResourceKind]) -> io::Result<()> {
        input.visit(facts.layout, &mut |seen| {
            let What::Resource { text, address } = seen.what else { return Ok(()) };
            let Some(kind) =
                fhir::type_name(text).and_then(|name| ResourceKind::named(&name)).filter(|kind| kinds.contains(kind))
            else {
                return Ok(());
            };
            let place = Place { full_url: address, aliases: &facts.aliases };
            match self.map(kind, text, &place, &input.name, seen.line) {
                Ok(()) => {}
                Err(defect) => {
                    // What not even a glance could read has been rejected by the survey.
                    let Ok(glance) = fhir::glance(text) else { return Ok(()) };
                    let id = glance.id.or_else(|| named(address).1);
                    let reject = Reject {
                        source: Arc::clone(&input.name),
                        line: Some(seen.line),
                        type_name: Some(glance.type_name),
                        id,
                        reason: defect.into(),
                    };
                    self.send(Reading::Rejected(reject))?;
                }
            }
            if self.pending.is_full() { self.flush() } else { Ok(()) }
        })
    }

    fn map(
        &mut self,
        kind: ResourceKind,
        text: &str,
        place: &Place<'_>,
        source: &Arc<str>,
        line: u64,
    ) -> Result<(), Defect> {
        let pending = &mut self.pending;
        pending.bytes += text.len();
        match kind {
            ResourceKind::Practitioner => {
                let resource = ImportedPractitioner::read(text, place)?;
                pending.practitioners.push(Sourced { source: Arc::clone(source), line, resource });
            }
            ResourceKind::Patient => {
                let resource = ImportedPatient::read(text, place)?;
                pending.patients.push(Sourced { source: Arc::clone(source), line, resource });
            }
            ResourceKind::Encounter => {
                let resource = ImportedEncounter::read(text, place)?;
                pending.encounters.push(Sourced { source: Arc::clone(source), line, resource });
            }
            ResourceKind::DocumentReference => {
                let resource = ImportedNote::read(text, place)?;
                if self.counted.contains_key(&ResourceKind::DiagnosticReport) {
                    self.texts.insert(text_digest(&resource));
                }
                pending.notes.push(Sourced { source: Arc::clone(source), line, resource });
            }
            ResourceKind::DiagnosticReport => match ImportedNote::read_report(text, place)? {
                Some(resource) if !self.texts.contains(&text_digest(&resource)) => {
                    pending.notes.push(Sourced { source: Arc::clone(source), line, resource });
                }
                // Those without a presented form were counted by the survey.
                read => {
                    if read.is_some() || fhir::glance(text)?.presented {
                        self.skip(kind.name().to_owned());
                    }
                }
            },
        }
        Ok(())
    }

    /// Gives out what is pending.
    fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        if !pending.practitioners.is_empty() {
            self.send(Reading::Batch(Batch::Practitioners(pending.practitioners)))?;
        }
        if !pending.patients.is_empty() {
            self.send(Reading::Batch(Batch::Patients(pending.patients)))?;
        }
        if !pending.encounters.is_empty() {
            self.send(Reading::Batch(Batch::Encounters(pending.encounters)))?;
        }
        if !pending.notes.is_empty() {
            self.send(Reading::Batch(Batch::Notes(pending.notes)))?;
        }
        Ok(())
    }

    /// A file that cannot be read (any more) is one reject, and the others go on.
    fn unless_unreadable<T>(&self, input: &Input, read: io::Result<T>) -> io::Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if self.out.is_closed() => Err(error),
            Err(_) => {
                let reason = Reason::Unreadable;
                self.send(Reading::Rejected(Reject {
                    source: Arc::clone(&input.name),
                    line: None,
                    type_name: None,
                    id: None,
                    reason,
                }))?;
                Ok(None)
            }
        }
    }

    fn send(&self, reading: Reading) -> io::Result<()> {
        self.out.blocking_send(reading).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Pending {
    fn is_full(&self) -> bool {
        let lists = [self.practitioners.len(), self.patients.len(), self.encounters.len(), self.notes.len()];
        self.bytes >= BATCH_BYTES || lists.into_iter().any(|length| length >= BATCH)
    }
}

/// Type and id of an address: `Patient/abc`.
fn named(address: Option<&str>) -> (Option<String>, Option<String>) {
    let mut segments = address.unwrap_or_default().rsplit('/');
    match (segments.next(), segments.next()) {
        (Some(id), Some(kind)) if ResourceKind::named(kind).is_some() => (Some(kind.to_owned()), Some(id.to_owned())),
        _ => (None, address.and_then(|address| address.strip_prefix("urn:uuid:")).map(str::to_owned)),
    }
}

/// Whose note it is and what it says, in 128 bits.
fn text_digest(note: &ImportedNote) -> u128 {
    let mut context = Context::new(&SHA256);
    let parts = match &note.patient {
        SourceRef::Key(key) => ["key", key, "", &note.body],
        SourceRef::Identifier(identifier) => ["identifier", &identifier.system, &identifier.value, &note.body],
    };
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let digest = context.finish();
    digest.as_ref().iter().take(16).fold(0, |bits, &byte| bits << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests;
