//! Rows of the chart, their queries and the clinical rules, one folder a concept. Everything here runs inside a tenant
//! transaction and names no tenant: the placement and row-level security decide whose rows are seen. Never names
//! GraphQL or HTTP; opens sealed values with the transaction's keys only.
//!
//! A row is selected by its struct, column by column, and each column is checked against the field of the same name:
//!
//! ```
//! # use diesel::prelude::*;
//! # use cordon::db::schema::tenant::patients;
//! #[derive(Queryable, Selectable)]
//! #[diesel(table_name = patients, check_for_backend(diesel::pg::Pg))]
//! struct Row {
//!     id: cordon::ids::PatientId,
//!     version: i32,
//! }
//! ```
//!
//! Types swapped between two columns, or a column that was renamed, do not compile:
//!
//! ```compile_fail,E0277
//! # use diesel::prelude::*;
//! # use cordon::db::schema::tenant::patients;
//! #[derive(Queryable, Selectable)]
//! #[diesel(table_name = patients, check_for_backend(diesel::pg::Pg))]
//! struct Row {
//!     id: i32,
//!     version: cordon::ids::PatientId,
//! }
//! ```
//!
//! ```compile_fail,E0412
//! # use diesel::prelude::*;
//! # use cordon::db::schema::tenant::patients;
//! #[derive(Queryable, Selectable)]
//! #[diesel(table_name = patients, check_for_backend(diesel::pg::Pg))]
//! struct Row {
//!     edition: i32,
//! }
//! ```

pub mod encounter;
pub mod fields;
pub mod note;
pub mod note_type;
pub mod patient;
pub mod signature;
pub(crate) mod sql;
mod words;

use chrono::{DateTime, Utc};
use std::sync::Arc;
use uuid::Uuid;

/// The position of a row in a list that is sorted by time, newest first, and by id among equal times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The time that the list is sorted by.
    pub at: DateTime<Utc>,
    /// The row's id, which decides between equal times.
    pub id: Uuid,
}

/// The end of a list from which a page is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The page holds the newest rows within its bounds.
    Newest,
    /// The page holds the oldest rows within its bounds.
    Oldest,
}

/// A page of a list, given by positions rather than by an offset, so that rows added meanwhile do not move it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeysetPage {
    /// The end from which rows are taken.
    pub end: End,
    /// The number of rows that the client asked for.
    pub size: usize,
    /// Only rows that come after this position, that is older ones.
    pub after: Option<Position>,
    /// Only rows that come before this position, that is newer ones.
    pub before: Option<Position>,
}

impl KeysetPage {
    /// Returns both bounds; an open end becomes a position outside the years 1 to 9999, between which all rows lie.
    fn bounds(&self) -> (Position, Position) {
        let newest = Position { at: NEWEST, id: Uuid::max() };
        let oldest = Position { at: OLDEST, id: Uuid::nil() };
        (self.after.unwrap_or(newest), self.before.unwrap_or(oldest))
    }

    /// Returns the number of rows to read: one more than asked for tells whether there is a next page.
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

/// A row of a list that can be paged through.
pub trait HasPosition {
    /// The row's position in its list.
    fn position(&self) -> Position;
}

impl<T: HasPosition> HasPosition for Arc<T> {
    fn position(&self) -> Position {
        T::position(self)
    }
}
