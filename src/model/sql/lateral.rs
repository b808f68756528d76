//! Lateral joins over a list of keys, and limits. `= ANY(…)` and ordinary joins are planned over all rows of a tenant;
//! a lateral join looks each key up by itself.

use super::{Outer, cached_by_text};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, SingleValue, SqlType};

/// The key for which a `Lateral` query's rows are read.
pub fn each_key<ST>() -> Outer<ST> {
    Outer::named("each.key")
}

diesel::define_sql_function! {
    /// The elements of a list, one row each.
    fn unnest<ST: SqlType + SingleValue>(list: Array<ST>) -> ST;
}

/// `SELECT page.* FROM keys AS each(key) CROSS JOIN LATERAL (rows) AS page`: the rows of each key, in no order. `rows`
/// refers to the key as `each_key`. Unlike a join, it looks each key up by itself, whatever the statistics say.
#[derive(Debug, Clone)]
pub struct Lateral<K, Q> {
    keys: K,
    rows: Q,
}

/// The rows of each of `keys`, which is a function that returns a set.
pub fn lateral<K: Expression, Q: Query>(keys: K, rows: Q) -> Lateral<K, Q> {
    Lateral { keys, rows }
}

impl<K, Q: Query> Query for Lateral<K, Q> {
    type SqlType = Q::SqlType;
}

impl<K: QueryFragment<Pg>, Q: QueryFragment<Pg>> QueryFragment<Pg> for Lateral<K, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT page.*");
        self.walk_from(out)
    }
}

impl<K: QueryFragment<Pg>, Q: QueryFragment<Pg>> Lateral<K, Q> {
    fn walk_from<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(" FROM ");
        self.keys.walk_ast(out.reborrow())?;
        out.push_sql(" AS each(key) CROSS JOIN LATERAL (");
        self.rows.walk_ast(out.reborrow())?;
        out.push_sql(") AS page");
        Ok(())
    }
}

cached_by_text!(Lateral<K, Q>);

/// The same with the key before each row: loads as `(Key, Row)`.
#[derive(Debug, Clone)]
pub struct KeyedLateral<K, Q>(Lateral<K, Q>);

/// The rows of each of `keys`, with their key.
pub fn keyed_lateral<K: Expression, Q: Query>(keys: K, rows: Q) -> KeyedLateral<K, Q> {
    KeyedLateral(lateral(keys, rows))
}

impl<K: Expression, Q: Query> Query for KeyedLateral<K, Q> {
    type SqlType = (K::SqlType, Q::SqlType);
}

impl<K: QueryFragment<Pg>, Q: QueryFragment<Pg>> QueryFragment<Pg> for KeyedLateral<K, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("SELECT each.key, page.*");
        self.0.walk_from(out)
    }
}

cached_by_text!(KeyedLateral<K, Q>);

/// A query with its limit, which is part of the text or bound.
#[derive(Debug, Clone)]
pub struct Limited<Q> {
    pub(super) rows: Q,
    pub(super) limit: i64,
    pub(super) bound: bool,
}

/// At most `limit` rows; the limit is part of the text.
pub fn limited<Q>(rows: Q, limit: u16) -> Limited<Q> {
    Limited { rows, limit: i64::from(limit), bound: false }
}

impl<Q: Query> Query for Limited<Q> {
    type SqlType = Q::SqlType;
}

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Limited<Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.rows.walk_ast(out.reborrow())?;
        out.push_sql(" LIMIT ");
        match self.bound {
            true => out.push_bind_param::<BigInt, _>(&self.limit),
            false => {
                out.push_sql(&self.limit.to_string());
                Ok(())
            }
        }
    }
}

cached_by_text!(Limited<Q>);
