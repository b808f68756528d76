//! Pages of a list by position: rows between two positions, sorted by time and id.

use super::{Limited, Rows, cached_by_text};
use crate::model::{End, KeysetPage, Position};
use diesel::expression::{ValidGrouping, is_aggregate};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::query_source::QuerySource;
use diesel::sql_types::{Bool, Timestamptz, Uuid as SqlUuid};

/// Page sizes that front ends ask for. Each becomes part of the statement's text, so that there are few texts and most
/// pages find a plan.
const COMMON_PAGE_SIZES: [usize; 5] = [1, 10, 20, 50, 100];

/// `(at, id) < ($1, $2) AND (at, id) > ($3, $4)`: the rows between two positions of a list. A comparison of rows is
/// answered by one index.
#[derive(Debug, Clone)]
pub struct Between<A, I> {
    at: A,
    id: I,
    after: Position,
    before: Position,
}

impl<A: Expression<SqlType = Timestamptz>, I: Expression<SqlType = SqlUuid>> Expression for Between<A, I> {
    type SqlType = Bool;
}

impl<A: QueryFragment<Pg>, I: QueryFragment<Pg>> QueryFragment<Pg> for Between<A, I> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for (separator, operator, bound) in [("(", " < ", &self.after), (" AND ", " > ", &self.before)] {
            out.push_sql(separator);
            out.push_sql("(");
            self.at.walk_ast(out.reborrow())?;
            out.push_sql(", ");
            self.id.walk_ast(out.reborrow())?;
            out.push_sql(")");
            out.push_sql(operator);
            out.push_sql("(");
            out.push_bind_param::<Timestamptz, _>(&bound.at)?;
            out.push_sql(", ");
            out.push_bind_param::<SqlUuid, _>(&bound.id)?;
            out.push_sql(")");
        }
        out.push_sql(")");
        Ok(())
    }
}

impl<A: AppearsOnTable<QS>, I: AppearsOnTable<QS>, QS: ?Sized> AppearsOnTable<QS> for Between<A, I> where
    Self: Expression
{
}
impl<A, I> ValidGrouping<()> for Between<A, I> {
    type IsAggregate = is_aggregate::No;
}
cached_by_text!(Between<A, I>);

impl KeysetPage {
    /// Limits `rows` to this page, sorted by `at` and then `id`. The query returns one row more than the page holds
    /// where further rows follow. A usual page size is part of the SQL text, another one is bound.
    pub(in crate::model) fn of<'a, T, ST, A, I>(&self, rows: Rows<'a, T, ST>, at: A, id: I) -> Limited<Rows<'a, T, ST>>
    where
        T: QuerySource,
        A: Sortable<'a, T, Timestamptz>,
        I: Sortable<'a, T, SqlUuid>,
    {
        let (after, before) = self.bounds();
        let rows = rows.filter(Between { at, id, after, before });
        let rows = match self.end {
            End::Newest => rows.order(at.desc()).then_order_by(id.desc()),
            End::Oldest => rows.order(at.asc()).then_order_by(id.asc()),
        };
        Limited { rows, limit: self.limit(), bound: !COMMON_PAGE_SIZES.contains(&self.size) }
    }

    /// Does the same for a query that optional filters give many texts. Its limit is always bound, so that the page
    /// size does not multiply them.
    pub(in crate::model) fn of_many_forms<'a, T, ST, A, I>(
        &self,
        rows: Rows<'a, T, ST>,
        at: A,
        id: I,
    ) -> Limited<Rows<'a, T, ST>>
    where
        T: QuerySource,
        A: Sortable<'a, T, Timestamptz>,
        I: Sortable<'a, T, SqlUuid>,
    {
        Limited { bound: true, ..self.of(rows, at, id) }
    }
}

/// A column of `T` by which rows can be sorted.
pub trait Sortable<'a, T, ST>:
    Expression<SqlType = ST>
    + AppearsOnTable<T>
    + ValidGrouping<(), IsAggregate = is_aggregate::No>
    + QueryFragment<Pg>
    + Copy
    + Send
    + 'a
{
}

impl<'a, T, ST, C> Sortable<'a, T, ST> for C where
    C: Expression<SqlType = ST>
        + AppearsOnTable<T>
        + ValidGrouping<(), IsAggregate = is_aggregate::No>
        + QueryFragment<Pg>
        + Copy
        + Send
        + 'a
{
}
