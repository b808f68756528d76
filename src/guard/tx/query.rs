//! The only ways to run a query in a tenant transaction. The connection is private to this module and its parent, so
//! every statement is sent after the head and every error is classified. A query that ended the transaction itself
//! would leave the later ones unbound, and the database refuses those.

use super::TenantTx;
use crate::error::Result;
use crate::telemetry::span::Statement;
use diesel::OptionalExtension;
use diesel::pg::Pg;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use std::panic::Location;

/// A query whose rows load as `U` in a tenant transaction; a bound for functions that are generic over queries.
pub trait TenantQuery<U>: for<'a> LoadQuery<'static, &'a AsyncPgConnection, U> + Send + 'static {}

impl<Q, U> TenantQuery<U> for Q where Q: for<'a> LoadQuery<'static, &'a AsyncPgConnection, U> + Send + 'static {}

impl TenantTx {
    /// Runs a query and returns all rows. Queries awaited together (`try_join!`) are pipelined.
    ///
    /// # Errors
    /// The error of the head where the transaction could not be bound: then no row is returned. Otherwise the error of
    /// the statement, classified. After any error but `NotFound` the transaction can only be rolled back, and further
    /// statements are refused.
    #[track_caller]
    pub fn load<'a, 'q, Q, U>(&'a self, query: Q) -> impl Future<Output = Result<Vec<U>>> + Send + use<'a, 'q, Q, U>
    where
        Q: LoadQuery<'q, &'a AsyncPgConnection, U> + Send + 'q,
        U: Send + 'q,
    {
        let statement = Statement::At(Location::caller());
        self.send(statement, async move { query.load(&mut self.session.pg()).await })
    }

    /// Runs a query that returns one row. The query itself has to ensure that there is no more than one, by a key, an
    /// aggregate or a limit; of several rows the first is returned.
    ///
    /// # Errors
    /// `NotFound` where there is no row, after which the transaction can still be used; otherwise as `load`.
    #[track_caller]
    pub fn first<'a, 'q, Q, U>(&'a self, query: Q) -> impl Future<Output = Result<U>> + Send + use<'a, 'q, Q, U>
    where
        Q: LoadQuery<'q, &'a AsyncPgConnection, U> + Send + 'q,
        U: Send + 'q,
    {
        let statement = Statement::At(Location::caller());
        self.send(statement, async move { query.get_result(&mut self.session.pg()).await })
    }

    /// Runs a query that returns one row or none.
    ///
    /// # Errors
    /// As `load`.
    #[track_caller]
    pub fn optional<'a, 'q, Q, U>(
        &'a self,
        query: Q,
    ) -> impl Future<Output = Result<Option<U>>> + Send + use<'a, 'q, Q, U>
    where
        Q: LoadQuery<'q, &'a AsyncPgConnection, U> + Send + 'q,
        U: Send + 'q,
    {
        let statement = Statement::At(Location::caller());
        self.send(statement, async move { query.get_result(&mut self.session.pg()).await.optional() })
    }

    /// Runs a statement and returns how many rows it changed.
    ///
    /// # Errors
    /// As `load`.
    #[track_caller]
    pub fn execute<'a, 'q, Q>(&'a self, query: Q) -> impl Future<Output = Result<usize>> + Send + use<'a, 'q, Q>
    where
        Q: ExecuteDsl<&'a AsyncPgConnection, Pg> + Send + 'q,
    {
        let statement = Statement::At(Location::caller());
        self.send(statement, async move { query.execute(&mut self.session.pg()).await })
    }
}
