//! One run of an import: readings in, rows and a report out.

use super::rejects::{Reason, Reject, Rejects};
use super::source::{Batch, Reading, Source, Sourced};
use super::store::{Store, Stored};
use super::{Counts, Report};
use crate::fhir::ResourceKind;
use crate::ops::{OpsError, Result};
use std::collections::BTreeMap;
use std::time::Instant;

/// Batches that wait for the database: enough to keep the reading thread busy, few enough to be small.
const AHEAD: usize = 3;

/// How far a run has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// What is being stored.
    pub kind: ResourceKind,
    /// How many have been taken or refused.
    pub done: u64,
    /// How many there are in the input.
    pub of: u64,
    /// What became of those since the last time.
    pub latest: Counts,
}

/// Stores everything that `source` reads. What was stored before an error stays; the same run goes on from there.
pub async fn run(
    source: Source,
    mut store: Store,
    mut rejects: Option<Rejects>,
    tell: impl Fn(Progress),
) -> Result<Report> {
    let begun = Instant::now();
    let mut report = Report::default();
    let mut expected: BTreeMap<ResourceKind, u64> = BTreeMap::new();
    let kinds =
        [ResourceKind::Practitioner, ResourceKind::Patient, ResourceKind::Encounter, ResourceKind::DocumentReference];
    let mut done = BTreeMap::from(kinds.map(|kind| (kind, 0)));
    let mut told: BTreeMap<ResourceKind, Counts> = BTreeMap::new();
    let mut readings = source.read(AHEAD)?;
    let mut finished = false;
    while let Some(reading) = readings.recv().await {
        match reading {
            Reading::Surveyed(counts) => expected = counts,
            Reading::Rejected(reject) => refuse(&mut report, &mut rejects, &reject)?,
            Reading::Finished(tally) => {
                (report.files, report.skipped, finished) = (tally.files, tally.skipped, true);
            }
            Reading::Batch(batch) => {
                let (kind, count, refused) = match batch {
                    Batch::Practitioners(batch) => {
                        let stored = store.practitioners(&resources(&batch)).await?;
                        add(&mut report, ResourceKind::Practitioner, &batch, stored, |resource| &resource.key)
                    }
                    Batch::Patients(batch) => {
                        let stored = store.patients(&resources(&batch)).await?;
                        add(&mut report, ResourceKind::Patient, &batch, stored, |resource| &resource.key)
                    }
                    Batch::Encounters(batch) => {
                        let stored = store.encounters(&resources(&batch)).await?;
                        add(&mut report, ResourceKind::Encounter, &batch, stored, |resource| &resource.key)
                    }
                    Batch::Notes(batch) => {
                        let stored = store.notes(&resources(&batch)).await?;
                        add(&mut report, ResourceKind::DocumentReference, &batch, stored, |resource| &resource.key)
                    }
                };
                for reject in refused {
                    refuse(&mut report, &mut rejects, &reject)?;
                }
                let so_far = done.entry(kind).or_default();
                *so_far += count;
                let of = expected.get(&kind).copied().unwrap_or(0).max(*so_far);
                tell(Progress { kind, done: *so_far, of, latest: latest(&mut report, &mut told, kind) });
            }
        }
    }
    if !finished {
        return Err(OpsError::Failed(
            "the input could not be read to its end; what was read is stored, run it again".into(),
        ));
    }
    // What was rejected after the last batch of its kind.
    for (kind, done) in done {
        tell(Progress { kind, done, of: done, latest: latest(&mut report, &mut told, kind) });
    }
    if let Some(rejects) = rejects {
        rejects.finish()?;
    }
    report.seconds = begun.elapsed().as_millis() as f64 / 1000.0;
    let notes = report.notes.new + report.notes.updated + report.notes.unchanged;
    report.notes_per_second = (notes as f64 / report.seconds.max(0.001)).round();
    Ok(report)
}

fn latest(report: &mut Report, told: &mut BTreeMap<ResourceKind, Counts>, kind: ResourceKind) -> Counts {
    let counts = *report.counts(kind);
    counts.since(told.insert(kind, counts).unwrap_or_default())
}

fn resources<T>(batch: &[Sourced<T>]) -> Vec<&T> {
    batch.iter().map(|sourced| &sourced.resource).collect()
}

fn add<T>(
    report: &mut Report,
    kind: ResourceKind,
    batch: &[Sourced<T>],
    stored: Stored,
    key: impl Fn(&T) -> &str,
) -> (ResourceKind, u64, Vec<Reject>) {
    let counts = report.counts(kind);
    counts.new += stored.new;
    counts.updated += stored.updated;
    counts.unchanged += stored.unchanged;
    let refused = stored.refused.into_iter().filter_map(|(index, reason)| Some((batch.get(index)?, reason)));
    let refused =
        refused.map(|(sourced, reason)| sourced.reject(key(&sourced.resource), Reason::NoPlace(reason))).collect();
    (kind, batch.len() as u64, refused)
}

fn refuse(report: &mut Report, rejects: &mut Option<Rejects>, reject: &Reject) -> Result<()> {
    report.reject(reject);
    match rejects {
        Some(file) => Ok(file.add(reject)?),
        None => Ok(()),
    }
}
