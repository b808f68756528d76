//! One run of an import: stores the batches that the reader sends, writes the rejects, and returns a report.

use super::rejects::{Reason, Reject, RejectFile};
use super::source::{Batch, Located, ReaderMessage, Source};
use super::store::{Store, Stored};
use super::{Counts, ImportError, Report};
use crate::fhir::{ImportedResource, ResourceKind};
use std::collections::BTreeMap;
use std::time::Instant;

type Result<T> = std::result::Result<T, ImportError>;

/// Maximum number of messages that wait for the database. It keeps the reading thread busy and bounds memory.
const MAX_QUEUED_MESSAGES: usize = 3;

/// The progress of a run with the resources of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The kind of the resources.
    pub kind: ResourceKind,
    /// The number of resources that have been stored or rejected.
    pub done: u64,
    /// The number of resources in the input.
    pub total: u64,
    /// The outcomes since the previous progress of this kind.
    pub delta: Counts,
}

/// Stores everything that `source` reads and calls `on_progress` after each batch.
///
/// After an error, what was stored before remains, and running the same import again continues from there.
pub async fn run(
    source: Source,
    mut store: Store,
    rejects: Option<RejectFile>,
    on_progress: impl Fn(Progress),
) -> Result<Report> {
    let begun = Instant::now();
    let mut totals: BTreeMap<ResourceKind, u64> = BTreeMap::new();
    let mut run = Run { report: Report::default(), rejects, reported: BTreeMap::new() };
    let kinds =
        [ResourceKind::Practitioner, ResourceKind::Patient, ResourceKind::Encounter, ResourceKind::DocumentReference];
    let mut done = BTreeMap::from(kinds.map(|kind| (kind, 0)));
    let mut messages = source.read(MAX_QUEUED_MESSAGES)?;
    let mut finished = false;
    while let Some(message) = messages.recv().await {
        match message {
            ReaderMessage::Counted(counts) => totals = counts,
            ReaderMessage::Rejected(reject) => run.reject(&reject)?,
            ReaderMessage::Finished(summary) => {
                (run.report.files, run.report.skipped, finished) = (summary.files, summary.skipped, true);
            }
            ReaderMessage::Batch(batch) => {
                let (kind, count) = run.store(&mut store, batch).await?;
                let done = done.entry(kind).or_default();
                *done += count;
                let total = totals.get(&kind).copied().unwrap_or(0).max(*done);
                on_progress(Progress { kind, done: *done, total, delta: run.delta(kind) });
            }
        }
    }
    if !finished {
        return Err(ImportError::Incomplete);
    }
    // Resources may have been rejected after the last batch of their kind.
    for (kind, done) in done {
        on_progress(Progress { kind, done, total: done, delta: run.delta(kind) });
    }
    run.finish(begun)
}

/// The report and the rejects of a run, and the counts that were last reported as progress.
struct Run {
    report: Report,
    rejects: Option<RejectFile>,
    reported: BTreeMap<ResourceKind, Counts>,
}

impl Run {
    /// Stores a batch. Returns the kind and the number of its resources.
    async fn store(&mut self, store: &mut Store, batch: Batch) -> Result<(ResourceKind, u64)> {
        match batch {
            Batch::Practitioners(batch) => self.add(&batch, store.practitioners(&resources(&batch)).await?),
            Batch::Patients(batch) => self.add(&batch, store.patients(&resources(&batch)).await?),
            Batch::Encounters(batch) => self.add(&batch, store.encounters(&resources(&batch)).await?),
            Batch::Notes(batch) => self.add(&batch, store.notes(&resources(&batch)).await?),
        }
    }

    /// Adds the outcome of a batch to the report.
    fn add<T: ImportedResource>(&mut self, batch: &[Located<T>], stored: Stored) -> Result<(ResourceKind, u64)> {
        let counts = self.report.counts(T::KIND);
        counts.new += stored.new;
        counts.updated += stored.updated;
        counts.unchanged += stored.unchanged;
        for (index, code) in stored.refused {
            if let Some(located) = batch.get(index) {
                self.reject(&located.reject(Reason::Conflict(code)))?;
            }
        }
        Ok((T::KIND, batch.len() as u64))
    }

    fn reject(&mut self, reject: &Reject) -> Result<()> {
        self.report.reject(reject);
        match &mut self.rejects {
            Some(file) => Ok(file.add(reject)?),
            None => Ok(()),
        }
    }

    /// Returns the outcomes of a kind since the previous call.
    fn delta(&mut self, kind: ResourceKind) -> Counts {
        let counts = *self.report.counts(kind);
        counts.since(self.reported.insert(kind, counts).unwrap_or_default())
    }

    fn finish(self, begun: Instant) -> Result<Report> {
        let Self { mut report, rejects, .. } = self;
        if let Some(rejects) = rejects {
            rejects.finish()?;
        }
        report.seconds = begun.elapsed().as_millis() as f64 / 1000.0;
        let notes = report.notes.new + report.notes.updated + report.notes.unchanged;
        report.notes_per_second = (notes as f64 / report.seconds.max(0.001)).round();
        Ok(report)
    }
}

fn resources<T>(batch: &[Located<T>]) -> Vec<&T> {
    batch.iter().map(|located| &located.resource).collect()
}
