//! Batches of mapped resources of one kind, and the resources that wait until a batch is full.

use super::split_address;
use crate::fhir::{ImportedEncounter, ImportedNote, ImportedPatient, ImportedPractitioner, ImportedResource};
use crate::import::rejects::{Reason, Reject};
use std::sync::Arc;

/// Maximum number of resources in a batch.
pub(super) const MAX_BATCH_RESOURCES: usize = 512;
/// Maximum size of the JSON from which a batch is read. The last resource of a batch may exceed it.
const MAX_BATCH_BYTES: usize = 2 << 20;

/// Resources of one kind. The batches of a kind come after those of the kinds that it refers to.
#[derive(Debug)]
pub enum Batch {
    /// Practitioners, from the same pass as patients.
    Practitioners(Vec<Located<ImportedPractitioner>>),
    /// Patients, from the same pass as practitioners.
    Patients(Vec<Located<ImportedPatient>>),
    /// Encounters, from the second pass.
    Encounters(Vec<Located<ImportedEncounter>>),
    /// Documents from the third pass, or reports from the fourth.
    Notes(Vec<Located<ImportedNote>>),
}

/// A resource and its position in the input.
#[derive(Debug)]
pub struct Located<T> {
    /// The path of the file, or `-` for standard input.
    pub source: Arc<str>,
    /// The number of the line, or of the entry in its Bundle, from 1.
    pub line: u64,
    /// The resource.
    pub resource: T,
}

impl<T> Located<T> {
    pub(super) fn new(source: &Arc<str>, line: u64, resource: T) -> Self {
        Self { source: Arc::clone(source), line, resource }
    }
}

impl<T: ImportedResource> Located<T> {
    /// Returns a reject of this resource.
    pub fn reject(&self, reason: Reason) -> Reject {
        let (type_name, id) = split_address(Some(self.resource.key()));
        Reject { source: Arc::clone(&self.source), line: Some(self.line), type_name, id, reason }
    }
}

/// Mapped resources that have not been sent yet.
#[derive(Default)]
pub(super) struct PendingBatches {
    pub(super) practitioners: Vec<Located<ImportedPractitioner>>,
    pub(super) patients: Vec<Located<ImportedPatient>>,
    pub(super) encounters: Vec<Located<ImportedEncounter>>,
    pub(super) notes: Vec<Located<ImportedNote>>,
    /// The size of the JSON from which the resources were read.
    pub(super) bytes: usize,
}

impl PendingBatches {
    pub(super) fn is_full(&self) -> bool {
        let lengths = [self.practitioners.len(), self.patients.len(), self.encounters.len(), self.notes.len()];
        self.bytes >= MAX_BATCH_BYTES || lengths.into_iter().any(|length| length >= MAX_BATCH_RESOURCES)
    }

    /// Returns the batches that are not empty, in the order in which they must be stored.
    pub(super) fn into_batches(self) -> Vec<Batch> {
        let Self { practitioners, patients, encounters, notes, .. } = self;
        let mut batches = Vec::new();
        batches.extend((!practitioners.is_empty()).then_some(Batch::Practitioners(practitioners)));
        batches.extend((!patients.is_empty()).then_some(Batch::Patients(patients)));
        batches.extend((!encounters.is_empty()).then_some(Batch::Encounters(encounters)));
        batches.extend((!notes.is_empty()).then_some(Batch::Notes(notes)));
        batches
    }
}
