//! Rows of the chart and their queries, one file a concept. Everything here runs inside a tenant transaction and names no tenant:
//! the placement and row-level security decide whose rows are seen. Never names GraphQL or HTTP; sees plaintext only through the keys.

pub mod encounter;
pub mod fields;
pub mod note;
pub mod patient;
pub mod signature;
mod sql;
mod words;

use chrono::{DateTime, Utc};
use std::sync::Arc;
use uuid::Uuid;

/// Where a row stands in a list: newest first, ties by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// What the list is sorted by.
    pub at: DateTime<Utc>,
    /// What decides between equal times.
    pub id: Uuid,
}

/// From which end of the list a page is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The newest rows.
    Newest,
    /// The oldest rows.
    Oldest,
}

/// A page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeysetPage {
    /// Which end.
    pub end: End,
    /// How many rows.
    pub size: usize,
    /// Only rows that come after this one, that is: older ones.
    pub after: Option<Position>,
    /// Only rows that come before this one, that is: newer ones.
    pub before: Option<Position>,
}

impl KeysetPage {
    /// The bounds as places, open ends included: rows lie between the years 1 and 9999.
    fn bounds(&self) -> (Position, Position) {
        let newest = Position { at: NEWEST, id: Uuid::max() };
        let oldest = Position { at: OLDEST, id: Uuid::nil() };
        (self.after.unwrap_or(newest), self.before.unwrap_or(oldest))
    }

    /// One row more than asked for tells whether there is more.
    fn limit(&self) -> i64 {
        i64::try_from(self.size).unwrap_or(i64::MAX).saturating_add(1)
    }
}

const NEWEST: DateTime<Utc> = match DateTime::from_timestamp(253_402_300_800, 0) {
    Some(at) => at,
    None => DateTime::<Utc>::MAX_UTC,
};
const OLDEST: DateTime<Utc> = match DateTime::from_timestamp(-62_135_596_801, 0) {
    Some(at) => at,
    None => DateTime::<Utc>::MIN_UTC,
};

/// A row that stands in a list.
pub trait HasPosition {
    /// Where.
    fn position(&self) -> Position;
}

impl<T: HasPosition> HasPosition for Arc<T> {
    fn position(&self) -> Position {
        T::position(self)
    }
}
