//! Cordon: clinical notes for many healthcare organisations, each behind its own cordon.
//!
//! ```text
//! request -> http (who are you) -> guard (which tenant, what may you) -> graphql (parse, call, wrap)
//!         -> model (queries on a tenant transaction) -> PostgreSQL (row-level security has the last word)
//! ```
//!
//! A module imports only from rows below its own; `tests/it/tidy.rs` checks it.
//!
//! | row | modules | what lives there |
//! | --- | --- | --- |
//! | 9 | main, cli | the command line, one file a command; `dev` joins the other modules in one process |
//! | 8 | http | the actix server: GraphQL over HTTP, health, metrics |
//! | 7 | graphql | the schema: `engine` runs documents, `page` pages lists, `mutation` changes charts |
//! | 6 | ops, import, sample | operations on servers and tenants; charts from FHIR; synthetic charts |
//! | 5 | model, fhir, app | rows, queries and clinical rules; the mapping of FHIR; what is built once at start |
//! | 4 | guard | the tenant guard, the tenant transaction, the table of roles |
//! | 3 | auth, audit, isolation, admission, readiness | tokens, audit records, check of the walls, limits, readiness |
//! | 2 | tenant | the catalog, placements, keys, routing to pool and schema |
//! | 1 | db, cluster, crypto, flags, telemetry | PostgreSQL, a private PostgreSQL, the KMS, Unleash, OpenTelemetry |
//! | 0 | ids, error, config | types that every module uses |
//!
//! Isolation stands on five walls. If one of them falls, no tenant sees another's plain text or changes another's rows:
//! placement (`tenant::Placement` and the head of each transaction), row-level security and relational keys
//! (`migrations/tenant`), the signed binding (`guard`, `migrations/database`), and keys (`crypto`). There is no ambient
//! tenant: a tenant transaction is a value that only the guard makes, and nothing that was read through it leaves the
//! process before its audit rows are committed.
//!
//! `docs/architecture.md` explains each part, `CONTRIBUTING.md` how to change it.

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
