//! Encounters as rows. Touches `encounters`; the reason is sealed.

pub mod write;

use super::sql::{Statement, text_enum};
use super::{End, HasPosition, KeysetPage, Position};
use crate::crypto::{Sealed, TenantKeys};
use crate::error::Result;
use crate::guard::TenantTx;
use crate::ids::{EncounterId, PatientId};
use crate::model::fields::{EncounterCancelReason, EncounterReason};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};

text_enum!(
    /// Where an encounter stands.
    EncounterStatus {
        /// Expected.
        Planned = "PLANNED",
        /// Happening.
        InProgress = "IN_PROGRESS",
        /// Over.
        Finished = "FINISHED",
        /// Did not happen.
        Cancelled = "CANCELLED",
        /// Never was: recorded by mistake.
        EnteredInError = "ENTERED_IN_ERROR",
        /// Not recorded.
        Unknown = "UNKNOWN",
    }
);

/// An encounter of one patient.
#[derive(Debug, Queryable)]
pub struct Encounter {
    /// The encounter's id.
    pub id: EncounterId,
    /// Whose.
    pub patient_id: PatientId,
    /// Where it stands.
    pub status: EncounterStatus,
    /// Class: AMB, EMER, IMP, …
    pub class: Option<String>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What lists are sorted by: its begin, or when it was recorded.
    pub ordered_at: DateTime<Utc>,
    /// Counts changes, from 1.
    pub version: i32,
    reason_sealed: Option<Sealed<EncounterReason>>,
    cancel_reason_sealed: Option<Sealed<EncounterCancelReason>>,
}

impl Encounter {
    /// The reason, opened.
    pub fn reason(&self, keys: &TenantKeys) -> Result<Option<String>> {
        self.reason_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }

    /// Why it was cancelled, opened.
    pub fn cancel_reason(&self, keys: &TenantKeys) -> Result<Option<String>> {
        self.cancel_reason_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }
}

impl HasPosition for Encounter {
    fn position(&self) -> Position {
        Position { at: self.ordered_at, id: self.id.0 }
    }
}

/// The columns of `Encounter`, in its order.
macro_rules! columns {
    () => {
        "select e.id, e.patient_id, e.status, e.class, e.started_at, e.ended_at, e.ordered_at, e.version, e.reason_sealed, \
         e.cancel_reason_sealed from "
    };
}

/// The encounters of these ids, in no order; absent ones are left out.
pub async fn by_ids(tx: &TenantTx, ids: &[EncounterId]) -> Result<Vec<Encounter>> {
    let query = Statement::<Columns>::new(concat!(columns!(), "encounters e where id = any((select ?)::uuid[])"));
    tx.load(query.bind::<Array<SqlUuid>, _>(ids.to_vec())).await
}

/// One page of the encounters of each parent.
macro_rules! page_of_each {
    ($direction:literal) => {
        concat!(
            columns!(),
            "unnest((select ?)::uuid[]) as parent(id) cross join lateral (select * from encounters where patient_id = parent.id ",
            "and (ordered_at, id) < (?, ?) and (ordered_at, id) > (?, ?) order by ordered_at ",
            $direction,
            ", id ",
            $direction,
            " limit ?) e"
        )
    };
}

/// The same page of the encounters of each of these patients, and one row more where there is more, in no order.
pub async fn of_patients(tx: &TenantTx, patients: Vec<PatientId>, page: KeysetPage) -> Result<Vec<Encounter>> {
    let text = match page.end {
        End::Newest => page_of_each!("desc"),
        End::Oldest => page_of_each!("asc"),
    };
    let query = Statement::<Columns>::new(text).bind::<Array<SqlUuid>, _>(patients).page(&page);
    tx.load(query).await
}

/// Which encounters are wanted; what is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these.
    pub status: Option<Vec<EncounterStatus>>,
    /// Of this class.
    pub class: Option<String>,
    /// Begun at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Begun before this time.
    pub to: Option<DateTime<Utc>>,
}

/// One page of all encounters that are wanted, and one row more where there is more, in no order.
pub async fn page(tx: &TenantTx, filter: Filter, page: KeysetPage) -> Result<Vec<Encounter>> {
    let all = filter == Filter::default();
    let mut query = Statement::<Columns>::new(concat!(columns!(), "encounters e where true"));
    if let Some(status) = filter.status {
        query = query.and(" and status = any(?)").bind::<Array<Text>, _>(status);
    }
    if let Some(class) = filter.class {
        query = query.and(" and class = ?").bind::<Text, _>(class);
    }
    if let Some(from) = filter.from {
        query = query.and(" and ordered_at >= ?").bind::<Timestamptz, _>(from);
    }
    if let Some(to) = filter.to {
        query = query.and(" and ordered_at < ?").bind::<Timestamptz, _>(to);
    }
    let order = match page.end {
        End::Newest => {
            " and (ordered_at, id) < (?, ?) and (ordered_at, id) > (?, ?) order by ordered_at desc, id desc limit ?"
        }
        End::Oldest => " and (ordered_at, id) < (?, ?) and (ordered_at, id) > (?, ?) order by ordered_at, id limit ?",
    };
    let query = if all { query.and(order).page(&page) } else { query.and(order).page_of_many_forms(&page) };
    tx.load(query).await
}

type Columns = (
    SqlUuid,
    SqlUuid,
    Text,
    Nullable<Text>,
    Nullable<Timestamptz>,
    Nullable<Timestamptz>,
    Timestamptz,
    Integer,
    Nullable<Binary>,
    Nullable<Binary>,
);
