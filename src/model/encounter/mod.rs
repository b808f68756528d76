//! Encounters as rows and the queries that read them. Touches `encounters`; reasons are sealed.

pub mod rules;
pub mod write;

use super::sql::{IdList, each_key, is_any_of, lateral, text_enum, unnest};
use super::{HasPosition, KeysetPage, Position};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::encounters;
use crate::error::Result;
use crate::guard::TenantTx;
use crate::ids::{EncounterId, PatientId};
use crate::model::fields::{EncounterCancelReason, EncounterReason};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Uuid as SqlUuid;

text_enum!(
    /// The status of an encounter, with FHIR's meaning of the same words.
    EncounterStatus {
        /// The encounter is expected.
        Planned = "PLANNED",
        /// The encounter is taking place.
        InProgress = "IN_PROGRESS",
        /// The encounter has ended.
        Finished = "FINISHED",
        /// The encounter did not take place.
        Cancelled = "CANCELLED",
        /// The encounter was recorded by mistake.
        EnteredInError = "ENTERED_IN_ERROR",
        /// The source does not say.
        Unknown = "UNKNOWN",
    }
);

/// An encounter of one patient.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = encounters, check_for_backend(Pg))]
pub struct Encounter {
    /// The encounter's id.
    pub id: EncounterId,
    /// The patient who was seen.
    pub patient_id: PatientId,
    /// The encounter's status.
    pub status: EncounterStatus,
    /// HL7 v3 ActCode of the class: AMB, EMER, IMP, …
    pub class: Option<String>,
    /// When the encounter started.
    pub started_at: Option<DateTime<Utc>>,
    /// When the encounter ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The time that lists are sorted by: the start, or the time of recording where there is no start.
    pub ordered_at: DateTime<Utc>,
    /// Counts changes of the encounter, from 1: what `expectedVersion` is compared with.
    pub version: i32,
    reason_sealed: Option<Sealed<EncounterReason>>,
    cancel_reason_sealed: Option<Sealed<EncounterCancelReason>>,
}

impl Encounter {
    /// Opens the reason for the encounter.
    ///
    /// # Errors
    /// `Integrity` where it does not open.
    pub fn reason(&self, keys: &TenantKeys) -> Result<Option<String>> {
        self.reason_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }

    /// Opens the reason for the cancellation.
    ///
    /// # Errors
    /// `Integrity` where it does not open.
    pub fn cancel_reason(&self, keys: &TenantKeys) -> Result<Option<String>> {
        self.cancel_reason_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }
}

impl HasPosition for Encounter {
    fn position(&self) -> Position {
        Position { at: self.ordered_at, id: self.id.0 }
    }
}

/// Returns the encounters of these ids, in no order; absent ones are left out.
pub async fn by_ids(tx: &TenantTx, ids: &[EncounterId]) -> Result<Vec<Encounter>> {
    let ids = ids.iter().copied();
    tx.load(encounters::table.select(Encounter::as_select()).filter(is_any_of(encounters::id, ids))).await
}

/// Returns the same page of the encounters of each of these patients, in no order, with one row more where there is
/// more.
pub async fn of_patients(tx: &TenantTx, patients: Vec<PatientId>, page: KeysetPage) -> Result<Vec<Encounter>> {
    let rows =
        encounters::table.select(Encounter::as_select()).filter(encounters::patient_id.eq(each_key::<SqlUuid>()));
    let rows = page.of(rows.into_boxed(), encounters::ordered_at, encounters::id);
    tx.load(lateral(unnest(IdList::new(patients)), rows)).await
}

/// A filter of encounters; all conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The status is one of these.
    pub status: Option<Vec<EncounterStatus>>,
    /// The class is this one.
    pub class: Option<String>,
    /// The encounter is listed at this time or later (see `ordered_at`).
    pub from: Option<DateTime<Utc>>,
    /// The encounter is listed before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Returns a page of the encounters that match a filter, in no order, with one row more where there is more.
pub async fn page(tx: &TenantTx, filter: Filter, page: KeysetPage) -> Result<Vec<Encounter>> {
    let unfiltered = filter == Filter::default();
    let Filter { status, class, from, to } = filter;
    let mut rows = encounters::table.select(Encounter::as_select()).into_boxed();
    if let Some(status) = status {
        rows = rows.filter(encounters::status.eq_any(status));
    }
    if let Some(class) = class {
        rows = rows.filter(encounters::class.eq(class));
    }
    if let Some(from) = from {
        rows = rows.filter(encounters::ordered_at.ge(from));
    }
    if let Some(to) = to {
        rows = rows.filter(encounters::ordered_at.lt(to));
    }
    tx.load(match unfiltered {
        true => page.of(rows, encounters::ordered_at, encounters::id),
        false => page.of_many_forms(rows, encounters::ordered_at, encounters::id),
    })
    .await
}
