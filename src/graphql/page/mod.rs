//! Lists as clients page through them: arguments, cursors and connections.

pub(super) mod connection;
pub(super) mod cursor;
