//! Reads and maps the input of an import, in batches: practitioners and patients, then encounters, then documents, then
//! reports. A thread of its own reads all files in each pass and holds only a few batches and what references need.
//! It knows no tenant and no database.

mod batch;

pub use batch::{Batch, Located};

use super::input::{self, Input, InputError, InputItem, ItemContent};
use super::rejects::{Reason, Reject};
use super::split::Layout;
use crate::fhir::{
    self, Aliases, FhirError, ImportedEncounter, ImportedNote, ImportedPatient, ImportedPractitioner, ReferenceContext,
    ResourceHeader, ResourceKind, SourceRef,
};
use aws_lc_rs::digest::{Context, SHA256};
use batch::PendingBatches;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Maximum number of rejects that are held back while no resource of FHIR has been found in a file.
const MAX_HELD_REJECTS: usize = 1000;
/// Maximum number of types that are counted by name; FHIR R4 has 148. Further types are counted as `other`.
const MAX_SKIPPED_TYPES: usize = 300;

/// The files of an import.
pub struct Source {
    inputs: Vec<Input>,
}

/// A message of the reading thread. `Counted` is sent once, then the batches, one kind after another, and `Finished` at
/// the end. Rejects may be sent at any time before the end.
#[derive(Debug)]
pub enum ReaderMessage {
    /// The number of resources of each kind that will be read if all are valid.
    Counted(BTreeMap<ResourceKind, u64>),
    /// Resources of one kind.
    Batch(Batch),
    /// A resource that could not be read.
    Rejected(Reject),
    /// All files have been read.
    Finished(ReadSummary),
}

/// The counts of a complete run through the input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// The number of files that were read.
    pub files: u64,
    /// The number of resources that are not imported, by type.
    pub skipped: BTreeMap<String, u64>,
}

impl Source {
    /// Finds the files. Standard input, if it is among them, is read to its end.
    pub fn open(paths: &[PathBuf]) -> Result<Self, InputError> {
        Ok(Self { inputs: input::open(paths)? })
    }

    /// Starts the reading thread. The thread waits while `capacity` messages have not been received, and ends when the
    /// receiver is dropped.
    pub fn read(self, capacity: usize) -> io::Result<mpsc::Receiver<ReaderMessage>> {
        let (out, messages) = mpsc::channel(capacity.max(1));
        let reader = Reader {
            out,
            summary: ReadSummary::default(),
            counts: BTreeMap::new(),
            document_digests: HashSet::new(),
            pending: PendingBatches::default(),
        };
        // An error means that the receiver was dropped, so nobody is left to receive it.
        std::thread::Builder::new().name("import".into()).spawn(move || reader.run(&self.inputs).ok())?;
        Ok(messages)
    }
}

/// The properties of a file that the first pass determines.
struct FileIndex {
    layout: Layout,
    kinds: BTreeSet<ResourceKind>,
    aliases: Aliases,
}

struct Reader {
    out: mpsc::Sender<ReaderMessage>,
    summary: ReadSummary,
    counts: BTreeMap<ResourceKind, u64>,
    /// Digests of patient and text of all documents, for the comparison with reports. Empty if there are no reports.
    document_digests: HashSet<u128>,
    pending: PendingBatches,
}

impl Reader {
    fn run(mut self, inputs: &[Input]) -> io::Result<()> {
        let mut indexes = Vec::new();
        for input in inputs {
            let index = self.index_file(input);
            indexes.push(self.reject_if_unreadable(input, index)?);
            self.summary.files += 1;
        }
        self.send(ReaderMessage::Counted(self.counts.clone()))?;
        for kinds in [
            &[ResourceKind::Practitioner, ResourceKind::Patient][..],
            &[ResourceKind::Encounter],
            &[ResourceKind::DocumentReference],
            &[ResourceKind::DiagnosticReport],
        ] {
            for (input, slot) in inputs.iter().zip(&mut indexes) {
                let Some(index) = slot.as_ref().filter(|index| kinds.iter().any(|kind| index.kinds.contains(kind)))
                else {
                    continue;
                };
                let mapped = self.map_file(input, index, kinds);
                if self.reject_if_unreadable(input, mapped)?.is_none() {
                    *slot = None;
                }
            }
            self.flush()?;
        }
        let summary = std::mem::take(&mut self.summary);
        self.send(ReaderMessage::Finished(summary))
    }

    /// Reads a file for its kinds and aliases. Rejects everything that is not a resource, because later passes ignore
    /// it.
    fn index_file(&mut self, input: &Input) -> io::Result<FileIndex> {
        let layout = input.layout()?;
        let mut index = FileIndex { layout, kinds: BTreeSet::new(), aliases: Aliases::default() };
        let mut is_fhir = false;
        let mut held: Vec<Reject> = Vec::new();
        input.visit(layout, &mut |item| {
            let (type_and_id, reason) = match item.content {
                ItemContent::Unreadable(reason) => ((None, None), reason),
                ItemContent::Deletion { target } => {
                    is_fhir = true;
                    (split_address(target), Reason::DeleteNotSupported)
                }
                ItemContent::Resource { text, address } => match fhir::read_header(text) {
                    Ok(header) => {
                        is_fhir = true;
                        self.count(&item, header, address, &mut index);
                        return self.send_rejects(&mut held);
                    }
                    Err(error) => {
                        let type_name = fhir::type_name(text).map(|name| name.into_owned());
                        let known = type_name.filter(|name| ResourceKind::from_name(name).is_some());
                        ((known, None), error.into())
                    }
                },
            };
            held.push(reject(input, Some(item.line), type_and_id, reason));
            // The number of held rejects is limited, which bounds memory.
            if is_fhir || held.len() > MAX_HELD_REJECTS { self.send_rejects(&mut held) } else { Ok(()) }
        })?;
        // A file without any FHIR resource is rejected as a whole, not item by item.
        if let [first, _, ..] = held.as_mut_slice() {
            first.reason = FhirError::NotFhir.into();
            held.truncate(1);
        }
        self.send_rejects(&mut held)?;
        Ok(index)
    }

    fn count(&mut self, item: &InputItem<'_>, header: ResourceHeader, address: Option<&str>, index: &mut FileIndex) {
        match ResourceKind::from_name(&header.type_name) {
            Some(ResourceKind::DiagnosticReport) if !header.has_presented_form => self.skip(header.type_name),
            Some(kind) => {
                index.kinds.insert(kind);
                *self.counts.entry(kind).or_default() += 1;
                if let Some(address) = address {
                    index.aliases.add(address, kind, header.id.as_deref());
                }
            }
            // The Bundle that contains the entries is not counted. A Bundle within an entry is skipped.
            None if header.type_name == "Bundle" && !item.in_bundle => {}
            None => self.skip(header.type_name),
        }
    }

    fn skip(&mut self, type_name: String) {
        let skipped = &mut self.summary.skipped;
        let by_name = skipped.contains_key(&type_name) || skipped.len() < MAX_SKIPPED_TYPES;
        *skipped.entry(if by_name { type_name } else { "other".into() }).or_default() += 1;
    }

    /// Maps the resources of these kinds in a file.
    fn map_file(&mut self, input: &Input, index: &FileIndex, kinds: &[ResourceKind]) -> io::Result<()> {
        input.visit(index.layout, &mut |item| {
            let ItemContent::Resource { text, address } = item.content else { return Ok(()) };
            let kind = fhir::type_name(text).and_then(|name| ResourceKind::from_name(&name));
            let Some(kind) = kind.filter(|kind| kinds.contains(kind)) else { return Ok(()) };
            let context = ReferenceContext { full_url: address, aliases: &index.aliases };
            if let Err(error) = self.map(kind, text, &context, &input.name, item.line) {
                // The first pass has rejected resources without a readable header.
                let Ok(header) = fhir::read_header(text) else { return Ok(()) };
                let id = header.id.or_else(|| split_address(address).1);
                let type_and_id = (Some(header.type_name), id);
                self.send(ReaderMessage::Rejected(reject(input, Some(item.line), type_and_id, error.into())))?;
            }
            if self.pending.is_full() { self.flush() } else { Ok(()) }
        })
    }

    fn map(
        &mut self,
        kind: ResourceKind,
        text: &str,
        context: &ReferenceContext<'_>,
        source: &Arc<str>,
        line: u64,
    ) -> Result<(), FhirError> {
        let pending = &mut self.pending;
        pending.bytes += text.len();
        match kind {
            ResourceKind::Practitioner => {
                pending.practitioners.push(Located::new(source, line, ImportedPractitioner::read(text, context)?));
            }
            ResourceKind::Patient => {
                pending.patients.push(Located::new(source, line, ImportedPatient::read(text, context)?));
            }
            ResourceKind::Encounter => {
                pending.encounters.push(Located::new(source, line, ImportedEncounter::read(text, context)?));
            }
            ResourceKind::DocumentReference => {
                let note = ImportedNote::read(text, context)?;
                if self.counts.contains_key(&ResourceKind::DiagnosticReport) {
                    self.document_digests.insert(text_digest(&note));
                }
                pending.notes.push(Located::new(source, line, note));
            }
            ResourceKind::DiagnosticReport => match ImportedNote::read_report(text, context)? {
                Some(note) if !self.document_digests.contains(&text_digest(&note)) => {
                    pending.notes.push(Located::new(source, line, note));
                }
                // The first pass has counted reports without a presented form.
                note => {
                    if note.is_some() || fhir::read_header(text)?.has_presented_form {
                        self.skip(kind.name().to_owned());
                    }
                }
            },
        }
        Ok(())
    }

    /// Sends the pending batches.
    fn flush(&mut self) -> io::Result<()> {
        let batches = std::mem::take(&mut self.pending).into_batches();
        batches.into_iter().try_for_each(|batch| self.send(ReaderMessage::Batch(batch)))
    }

    /// Rejects a file that cannot be read, or no longer, as a whole; the other files are read on.
    fn reject_if_unreadable<T>(&self, input: &Input, result: io::Result<T>) -> io::Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.out.is_closed() => Err(error),
            Err(_) => {
                self.send(ReaderMessage::Rejected(reject(input, None, (None, None), Reason::Unreadable)))?;
                Ok(None)
            }
        }
    }

    fn send_rejects(&self, rejects: &mut Vec<Reject>) -> io::Result<()> {
        rejects.drain(..).try_for_each(|reject| self.send(ReaderMessage::Rejected(reject)))
    }

    /// Waits until the message can be sent. Fails if the receiver was dropped.
    fn send(&self, message: ReaderMessage) -> io::Result<()> {
        self.out.blocking_send(message).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn reject(
    input: &Input,
    line: Option<u64>,
    (type_name, id): (Option<String>, Option<String>),
    reason: Reason,
) -> Reject {
    Reject { source: Arc::clone(&input.name), line, type_name, id, reason }
}

/// Returns type and id of an address such as `Patient/abc`, as far as it contains them. Only imported types are
/// returned.
fn split_address(address: Option<&str>) -> (Option<String>, Option<String>) {
    let mut segments = address.unwrap_or_default().rsplit('/');
    match (segments.next(), segments.next()) {
        (Some(id), Some(kind)) if ResourceKind::from_name(kind).is_some() => {
            (Some(kind.to_owned()), Some(id.to_owned()))
        }
        _ => (None, address.and_then(|address| address.strip_prefix("urn:uuid:")).map(str::to_owned)),
    }
}

/// Returns 128 bits of a digest over a note's patient and text.
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
