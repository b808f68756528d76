//! What can be run in a tenant transaction: the only ways from a query to its rows. The connection does not leave this module's parent,
//! so that nothing runs ahead of the head, beside it, or without its errors being classified.

use super::TenantTx;
use crate::error::Result;
use crate::telemetry::span::Statement;
use diesel::OptionalExtension;
use diesel::pg::Pg;
use diesel_async::methods::{ExecuteDsl, LoadQuery};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use std::panic::Location;

impl TenantTx {
    /// Runs a query and returns all rows. Queries awaited together (`try_join!`) are pipelined.
    ///
    /// # Errors
    /// The error of the head where the transaction could not be bound: then no row is returned. Otherwise the error of the statement,
    /// classified. After any error but `NotFound` the transaction can only be rolled back, and further statements are refused.
    #[track_caller]
    pub fn load<'a, 'q, Q, U>(&'a self, query: Q) -> impl Future<Output = Result<Vec<U>>> + Send + use<'a, 'q, Q, U>
    where
        Q: LoadQuery<'q, &'a AsyncPgConnection, U> + Send + 'q,
        U: Send + 'q,
    {
        let statement = Statement::At(Location::caller());
        self.send(statement, async move { query.load(&mut self.session.pg()).await })
    }

    /// Runs a query that gives one row and returns it. The query says itself that it gives no more than one, by its key, an aggregate or
    /// a limit; of several rows the first counts.
    ///
    /// # Errors
    /// `NotFound` where there is no row, after which the transaction goes on; otherwise as `load`.
    #[track_caller]
    pub fn first<'a, 'q, Q, U>(&'a self, query: Q) -> impl Future<Output = Result<U>> + Send + use<'a, 'q, Q, U>
    where
        Q: LoadQuery<'q, &'a AsyncPgConnection, U> + Send + 'q,
        U: Send + 'q,
    {
        let statement = Statement::At(Location::caller());
        self.send(statement, async move { query.get_result(&mut self.session.pg()).await })
    }

    /// Runs a query that gives one row or none.
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
