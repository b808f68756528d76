//! Isolation of tenants over HTTP, as a client sees it. Some tests are generated from the GraphQL schema; the others
//! are named after the leaks of `docs/threats.md`.

mod access_table;
mod errors;
mod fixtures;
mod headers;
mod hostile_queries;
mod interleaved;
mod lists;
mod replay;
mod schema_arguments;
mod timing;
