//! What diesel's query language lacks, as typed pieces in the manner of diesel's guide on extending it: a keyset page,
//! a lateral join over a list of keys, a list whose length the planner does not see, and constants that partial indexes
//! need. Columns are always diesel's own, so a renamed column breaks the build, and rows are selected with `as_select`,
//! so a struct and its query cannot differ.
//!
//! PostgreSQL reuses a generic plan of a prepared statement only while its estimated cost is not higher than that of
//! custom plans, and planning costs more than running most statements here. Whatever would make a custom plan look
//! cheaper is therefore hidden from the planner: a list of ids is written `(SELECT $1)::uuid[]`, of unknown length, and
//! a usual page size is part of the text. `docs/architecture.md`, "Plans", has what was measured.

mod keyset;
mod lateral;

pub use lateral::{KeyedLateral, Limited, each_key, keyed_lateral, lateral, limited, unnest};

use diesel::expression::{TypedExpressionType, ValidGrouping, is_aggregate};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, BoxedSelectStatement, FromClause, QueryFragment, QueryId};
use diesel::sql_types::{Array, Bool, SqlType, Text, Uuid as SqlUuid};
use std::marker::PhantomData;
use uuid::Uuid;

/// Implements for an expression without columns what lets it stand in any query, aggregated or not.
macro_rules! free_of_columns {
    ($name:ident $(<$($generic:ident),+>)?) => {
        impl<QS: ?Sized $($(, $generic)+)?> AppearsOnTable<QS> for $name $(<$($generic),+>)? where Self: Expression {}
        impl<QS: ?Sized $($(, $generic)+)?> SelectableExpression<QS> for $name $(<$($generic),+>)?
        where
            Self: Expression,
        {
        }
        impl<GB $($(, $generic)+)?> ValidGrouping<GB> for $name $(<$($generic),+>)? {
            type IsAggregate = is_aggregate::Never;
        }
    };
}

/// Declares that a query's prepared form is kept by its text: its type alone does not tell two texts apart.
macro_rules! cached_by_text {
    ($name:ident $(<$($generic:ident),+>)?) => {
        impl $(<$($generic),+>)? QueryId for $name $(<$($generic),+>)? {
            type QueryId = ();
            const HAS_STATIC_QUERY_ID: bool = false;
        }
    };
}

use cached_by_text;

/// A bound list of ids whose length the planner does not see: `(SELECT $1)::uuid[]`.
#[derive(Debug, Clone)]
pub struct IdList(Vec<Uuid>);

impl IdList {
    /// A list of these ids.
    pub fn new(ids: impl IntoIterator<Item = impl Into<Uuid>>) -> Self {
        Self(ids.into_iter().map(Into::into).collect())
    }
}

impl Expression for IdList {
    type SqlType = Array<SqlUuid>;
}

impl QueryFragment<Pg> for IdList {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("(SELECT ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.0)?;
        out.push_sql(")::uuid[]");
        Ok(())
    }
}

free_of_columns!(IdList);
cached_by_text!(IdList);

/// `column = ANY((SELECT $1)::uuid[])`.
#[derive(Debug, Clone)]
pub struct IsAnyOf<C> {
    column: C,
    ids: IdList,
}

/// Whether a column of ids is one of a list.
pub fn is_any_of<C>(column: C, ids: impl IntoIterator<Item = impl Into<Uuid>>) -> IsAnyOf<C> {
    IsAnyOf { column, ids: IdList::new(ids) }
}

impl<C: Expression<SqlType = SqlUuid>> Expression for IsAnyOf<C> {
    type SqlType = Bool;
}

impl<C: QueryFragment<Pg>> QueryFragment<Pg> for IsAnyOf<C> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.column.walk_ast(out.reborrow())?;
        out.push_sql(" = ANY(");
        self.ids.walk_ast(out.reborrow())?;
        out.push_sql(")");
        Ok(())
    }
}

impl<C: AppearsOnTable<QS>, QS: ?Sized> AppearsOnTable<QS> for IsAnyOf<C> where Self: Expression {}
impl<C> ValidGrouping<()> for IsAnyOf<C> {
    type IsAggregate = is_aggregate::No;
}
cached_by_text!(IsAnyOf<C>);

/// `column IN ('A', 'B')` with the values in the text: a partial index is used only where the planner sees that its
/// condition holds.
#[derive(Debug, Clone)]
pub struct IsConstant<C> {
    column: C,
    values: Vec<&'static str>,
}

/// Whether a column is one of these values of a `text_enum`.
pub fn is_constant<C, E: TextEnum>(column: C, values: impl IntoIterator<Item = E>) -> IsConstant<C> {
    IsConstant { column, values: values.into_iter().map(TextEnum::text).collect() }
}

impl<C: Expression<SqlType = Text>> Expression for IsConstant<C> {
    type SqlType = Bool;
}

impl<C: QueryFragment<Pg>> QueryFragment<Pg> for IsConstant<C> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.column.walk_ast(out.reborrow())?;
        out.push_sql(" IN ('");
        // Words of the source code, letters and underscores only (see `text_enum`).
        out.push_sql(&self.values.join("', '"));
        out.push_sql("')");
        Ok(())
    }
}

impl<C: AppearsOnTable<QS>, QS: ?Sized> AppearsOnTable<QS> for IsConstant<C> where Self: Expression {}
impl<C> ValidGrouping<()> for IsConstant<C> {
    type IsAggregate = is_aggregate::No;
}
cached_by_text!(IsConstant<C>);

/// A value of the query around this one, by name: what a lateral or correlated subquery refers to.
#[derive(Debug, Clone, Copy)]
pub struct Outer<ST> {
    name: &'static str,
    sql_type: PhantomData<fn() -> ST>,
}

impl<ST> Outer<ST> {
    /// The value that the outer query calls `name`.
    pub const fn named(name: &'static str) -> Self {
        Self { name, sql_type: PhantomData }
    }
}

impl<ST: SqlType + TypedExpressionType> Expression for Outer<ST> {
    type SqlType = ST;
}

impl<ST> QueryFragment<Pg> for Outer<ST> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(self.name);
        Ok(())
    }
}

free_of_columns!(Outer<ST>);
cached_by_text!(Outer<ST>);

/// The rows of a boxed select statement of one table.
pub type Rows<'a, T, ST> = BoxedSelectStatement<'a, ST, FromClause<T>, Pg>;

/// An enum whose values are stored as text.
pub trait TextEnum {
    /// The value as it is stored: letters and underscores.
    fn text(self) -> &'static str;
}

/// Declares an enum that is stored as text: its variants are the only values that the column's CHECK allows.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[derive(diesel::expression::AsExpression, diesel::deserialize::FromSqlRow)]
        #[diesel(sql_type = diesel::sql_types::Text)]
        pub enum $name {
            $($(#[$each])* $variant),+
        }

        impl $name {
            /// The value as it is stored.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl $crate::model::sql::TextEnum for $name {
            fn text(self) -> &'static str {
                self.as_str()
            }
        }

        impl diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn to_sql<'b>(
                &'b self,
                out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>,
            ) -> diesel::serialize::Result {
                <str as diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg>>::to_sql(self.as_str(), out)
            }
        }

        impl diesel::deserialize::FromSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn from_sql(value: diesel::pg::PgValue<'_>) -> diesel::deserialize::Result<Self> {
                match value.as_bytes() {
                    $(text if text == $text.as_bytes() => Ok(Self::$variant),)+
                    _ => Err(concat!("not a ", stringify!($name)).into()),
                }
            }
        }
    };
}

pub(super) use text_enum;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::tenant::encounters;
    use crate::model::encounter::EncounterStatus;
    use crate::model::{End, KeysetPage, Position};
    use chrono::DateTime;
    use diesel::debug_query;

    fn text<Q: QueryFragment<Pg>>(query: &Q) -> String {
        let text = debug_query::<Pg, _>(query).to_string();
        text.split(" -- binds").next().unwrap().replace('"', "")
    }

    fn page(end: End, size: usize) -> KeysetPage {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        KeysetPage { end, size, after: Some(Position { at, id: Uuid::nil() }), before: None }
    }

    fn rows() -> Rows<'static, encounters::table, SqlUuid> {
        encounters::table.select(encounters::id).into_boxed()
    }

    #[test]
    fn a_keyset_page_compares_rows_and_sorts_by_them() {
        let newest = page(End::Newest, 20).of(rows(), encounters::ordered_at, encounters::id);
        assert_eq!(
            text(&newest),
            "SELECT encounters.id FROM encounters WHERE ((encounters.ordered_at, encounters.id) < ($1, $2) \
             AND (encounters.ordered_at, encounters.id) > ($3, $4)) \
             ORDER BY encounters.ordered_at DESC, encounters.id DESC LIMIT 21"
        );
        let oldest = page(End::Oldest, 20).of(rows(), encounters::ordered_at, encounters::id);
        assert!(text(&oldest).ends_with("ORDER BY encounters.ordered_at ASC, encounters.id ASC LIMIT 21"));
    }

    #[test]
    fn only_common_sizes_of_a_page_are_part_of_the_text() {
        let odd = page(End::Newest, 21).of(rows(), encounters::ordered_at, encounters::id);
        let many = page(End::Newest, 20).of_many_forms(rows(), encounters::ordered_at, encounters::id);
        for bound in [text(&odd), text(&many)] {
            assert!(bound.ends_with(" LIMIT $5"), "{bound}");
        }
    }

    #[test]
    fn a_lateral_query_runs_for_each_key() {
        let of_patient = rows().filter(encounters::patient_id.eq(each_key::<SqlUuid>()));
        let each = lateral(unnest(IdList::new([Uuid::nil()])), limited(of_patient, 1));
        assert_eq!(
            text(&each),
            "SELECT page.* FROM unnest((SELECT $1)::uuid[]) AS each(key) CROSS JOIN LATERAL (SELECT encounters.id \
             FROM encounters WHERE (encounters.patient_id = each.key) LIMIT 1) AS page"
        );
        let keyed = keyed_lateral(unnest::<SqlUuid, _>(vec![Uuid::nil()]), rows());
        assert!(text(&keyed).starts_with("SELECT each.key, page.* FROM unnest($1) AS each(key) "));
    }

    #[test]
    fn ids_are_bound_and_constants_written() {
        let ids = rows().filter(is_any_of(encounters::id, [Uuid::nil()]));
        assert!(text(&ids).ends_with("WHERE encounters.id = ANY((SELECT $1)::uuid[])"), "{}", text(&ids));
        let open = [EncounterStatus::Planned, EncounterStatus::InProgress];
        let open = rows().filter(is_constant(encounters::status, open));
        assert!(text(&open).ends_with("WHERE encounters.status IN ('PLANNED', 'IN_PROGRESS')"), "{}", text(&open));
    }
}
