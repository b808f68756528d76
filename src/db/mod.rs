//! PostgreSQL: private clusters, connections and their pools, migrations, table definitions.
//! Knows of tenants only who takes turns; what a connection may be used for is decided by the guard.

mod budget;
pub mod connect;
pub mod fair_queue;
pub mod fault;
pub mod migrate;
pub mod pool;
pub mod schema;
