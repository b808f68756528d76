//! Cordon: clinical notes for many healthcare organisations, each behind its own cordon.
//!
//! ```text
//! request -> http (who are you) -> guard (which tenant, what may you) -> graphql (parse, call, wrap)
//!         -> model (queries on a tenant transaction) -> PostgreSQL (row-level security has the last word)
//! ```
//!
//! A module imports only rows below its own; `tests/it/tidy.rs` checks it.
//!
//! | row | modules | what lives there |
//! | --- | --- | --- |
//! | 9 | main, cli | the command line, one file a command |
//! | 8 | http | the actix server: GraphQL over HTTP |
//! | 7 | graphql | schema, objects, per-request loaders |
//! | 6 | ops | operations on tenants: provision, migrate, import; sample charts |
//! | 5 | model, fhir | rows and their queries; pure mapping of FHIR |
//! | 4 | guard, app | the guard, the tenant transaction, the table of roles; what is built once at start |
//! | 3 | auth, audit | tokens to a principal; the shape of an audit record |
//! | 2 | tenant | catalog, placement, keys, routing to pool and schema |
//! | 1 | db, crypto, flags, telemetry | one outside thing each: PostgreSQL, the KMS, Unleash, OpenTelemetry |
//! | 0 | ids, error, config | words everyone uses |
//!
//! Isolation stands on five walls, any of which may fall without one tenant seeing another's plain text or changing its rows:
//! placement (`tenant::Placement`, the head in `guard`), row-level security and relational keys (`migrations/tenant`), the signed
//! binding (`guard`, `migrations/database`), and keys (`crypto`). Nothing is ambient: a tenant transaction is a value that only the
//! guard makes, and nothing that was read through it leaves before its audit rows are committed.

pub mod admission;
pub mod app;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod crypto;
pub mod db;
pub mod error;
pub mod fhir;
pub mod flags;
pub mod graphql;
pub mod guard;
pub mod http;
pub mod ids;
pub mod import;
pub mod isolation;
pub mod model;
pub mod ops;
pub mod readiness;
pub mod sample;
pub mod telemetry;
pub mod tenant;
