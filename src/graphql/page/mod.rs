//! Pagination of lists: arguments, cursors and connections, by the Relay specification.

pub(super) mod connection;
pub(super) mod cursor;
