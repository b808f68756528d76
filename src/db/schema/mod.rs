//! Table definitions, written by tests from migrated databases. Touch nothing by hand.
#![expect(missing_docs, reason = "generated; the migrations carry the comments")]

#[rustfmt::skip]
pub mod catalog;
#[rustfmt::skip]
pub mod tenant;
