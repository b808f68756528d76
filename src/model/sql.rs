//! Statements that diesel's language has no words for: LATERAL, row comparison. Their text is constant and keeps its prepared form per
//! connection (`diesel::sql_query` is prepared anew each time); what a client sent is only ever bound. A `?` stands for each bind, in order.
//!
//! PostgreSQL keeps the plan of a prepared statement only when it looks no dearer than one made for the values at hand, and planning costs
//! more than running most statements here. So what would make a plan for these values look cheap is kept from it: a list of ids is written
//! `(select ?)::uuid[]`, of no known length, and the limit of a page is a number in the text.

use super::KeysetPage;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{BigInt, HasSqlType, Timestamptz, Uuid};
use std::borrow::Cow;
use std::marker::PhantomData;

/// Sizes of pages that front ends ask for.
const USUAL: [usize; 5] = [1, 10, 20, 50, 100];

/// A text made of constants, with its binds; `C` is the tuple of its columns' SQL types.
pub(super) struct Statement<C> {
    text: Cow<'static, str>,
    binds: Vec<Box<dyn Bind>>,
    columns: PhantomData<fn() -> C>,
}

impl<C> Statement<C> {
    pub(super) fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), binds: Vec::new(), columns: PhantomData }
    }

    /// More text, with marks for the binds that come next.
    pub(super) fn and(mut self, text: &'static str) -> Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// The next bind, as SQL type `S`.
    pub(super) fn bind<S, T>(mut self, value: T) -> Self
    where
        S: 'static,
        T: ToSql<S, Pg> + Send + Sync + 'static,
        Pg: HasSqlType<S>,
    {
        self.binds.push(Box::new(Bound { value, sql_type: PhantomData::<fn() -> S> }));
        self
    }

    /// The next five marks: the place before, the place after and the limit of a page. A usual one becomes part of the text, so that there
    /// are few texts and most pages find a plan.
    pub(super) fn page(self, page: &KeysetPage) -> Self {
        let mut statement = self.bounds(page);
        if !USUAL.contains(&page.size) {
            return statement.bind::<BigInt, _>(page.limit());
        }
        statement.binds.push(Box::new(Written(page.limit())));
        statement
    }

    /// The same for a statement of many forms: its limit is bound, so that they are no more.
    pub(super) fn page_of_many_forms(self, page: &KeysetPage) -> Self {
        self.bounds(page).bind::<BigInt, _>(page.limit())
    }

    /// The next four binds: the place before and the place after.
    pub(super) fn bounds(self, page: &KeysetPage) -> Self {
        let (after, before) = page.bounds();
        self.bind::<Timestamptz, _>(after.at)
            .bind::<Uuid, _>(after.id)
            .bind::<Timestamptz, _>(before.at)
            .bind::<Uuid, _>(before.id)
    }
}

impl<C> Query for Statement<C> {
    type SqlType = C;
}

/// Without an id of its type a statement is cached by its text.
impl<C> QueryId for Statement<C> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<C> QueryFragment<Pg> for Statement<C> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut binds = self.binds.iter();
        for (nth, part) in self.text.split('?').enumerate() {
            if nth > 0 {
                binds
                    .next()
                    .ok_or(diesel::result::Error::QueryBuilderError("a bind is missing".into()))?
                    .push(out.reborrow())?;
            }
            out.push_sql(part);
        }
        Ok(())
    }
}

trait Bind: Send + Sync {
    fn push<'b>(&'b self, out: AstPass<'_, 'b, Pg>) -> QueryResult<()>;
}

struct Bound<S, T> {
    value: T,
    sql_type: PhantomData<fn() -> S>,
}

impl<S, T> Bind for Bound<S, T>
where
    T: ToSql<S, Pg> + Send + Sync,
    Pg: HasSqlType<S>,
{
    fn push<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<S, T>(&self.value)
    }
}

/// A number that is part of the text.
struct Written(i64);

impl Bind for Written {
    fn push<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(&self.0.to_string());
        Ok(())
    }
}

/// Declares an enum that is stored as text: its variants are the only values of the column's CHECK.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, diesel::expression::AsExpression, diesel::deserialize::FromSqlRow)]
        #[diesel(sql_type = diesel::sql_types::Text)]
        pub enum $name {
            $($(#[$each])* $variant),+
        }

        impl $name {
            /// As it is stored.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }

        impl diesel::serialize::ToSql<diesel::sql_types::Text, diesel::pg::Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut diesel::serialize::Output<'b, '_, diesel::pg::Pg>) -> diesel::serialize::Result {
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
    use diesel::sql_types::Text;

    #[test]
    fn binds_stand_where_the_marks_are() {
        let statement = Statement::<(Text,)>::new("select a from b where c = ? and d < ?")
            .bind::<Text, _>("x".to_owned())
            .bind::<BigInt, _>(5_i64);
        assert_eq!(
            diesel::debug_query::<Pg, _>(&statement).to_string(),
            r#"select a from b where c = $1 and d < $2 -- binds: ["x", 5]"#
        );
    }
}
