//! PostgreSQL: connections and their pools, the fair queue, the meaning of errors, migrations, table definitions.
//! Tenant ids appear here only to order the fair queue; what a connection may be used for is decided by the guard.

mod budget;
pub mod connect;
pub mod fair_queue;
pub mod fault;
pub mod migrate;
pub mod pool;
pub mod schema;
