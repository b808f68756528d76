//! Connections: `first`/`after` and `last`/`before` to a page of a list, rows to edges. Nothing is counted: one row more than asked for
//! tells whether there is a next page.

use super::cursor::List;
use crate::crypto::TenantKeys;
use crate::error::{Error, Result};
use crate::model::{End, HasPosition, KeysetPage};
use async_graphql::connection::{Connection, Edge};
use async_graphql::{OutputType, SelectionField, Value};

/// Rows of a page when the client does not say.
pub const DEFAULT_PAGE: usize = 20;
/// Rows of a page at most.
pub const MAX_PAGE: usize = 200;
/// Choices of a filter at most.
const MOST_CHOICES: usize = 50;

/// What a client asks of a list.
#[derive(Debug, Clone, Default)]
pub struct PageArgs {
    /// That many from the newest end.
    pub first: Option<i32>,
    /// After this cursor.
    pub after: Option<String>,
    /// That many from the oldest end.
    pub last: Option<i32>,
    /// Before this cursor.
    pub before: Option<String>,
}

impl PageArgs {
    /// What a list will be asked. None where that is not said in the right types: the list's resolver refuses it.
    pub fn of(field: &SelectionField<'_>) -> Option<Self> {
        let mut ask = Self::default();
        for (name, value) in field.arguments().ok()? {
            let (rows, cursor) = match name.as_str() {
                "first" => (Some(&mut ask.first), None),
                "last" => (Some(&mut ask.last), None),
                "after" => (None, Some(&mut ask.after)),
                "before" => (None, Some(&mut ask.before)),
                _ => return None,
            };
            match (value, rows, cursor) {
                (Value::Null, ..) => {}
                (Value::Number(number), Some(rows), _) => *rows = Some(i32::try_from(number.as_i64()?).ok()?),
                (Value::String(text), _, Some(cursor)) => *cursor = Some(text),
                _ => return None,
            }
        }
        Some(ask)
    }

    /// The page, or which argument is wrong.
    pub fn page(&self, list: &List, keys: &TenantKeys) -> Result<KeysetPage> {
        let (end, size) = match (self.first, self.last) {
            (Some(_), Some(_)) => return Err(Error::invalid("last", "give first or last, not both")),
            (None, Some(last)) => (End::Oldest, size("last", last)?),
            (Some(first), None) => (End::Newest, size("first", first)?),
            (None, None) => (End::Newest, DEFAULT_PAGE),
        };
        let place = |field, cursor: &Option<String>| {
            cursor.as_ref().map(|cursor| list.position(keys, field, cursor)).transpose()
        };
        Ok(KeysetPage { end, size, after: place("after", &self.after)?, before: place("before", &self.before)? })
    }
}

/// A choice of several in a filter, as rows know them. Of none of them nothing can be found; too many are refused.
pub fn choices<T, U: From<T>>(field: &'static str, list: Vec<T>) -> Result<Vec<U>> {
    match list.len() <= MOST_CHOICES {
        true => Ok(list.into_iter().map(U::from).collect()),
        false => Err(Error::invalid(field, format!("must be at most {MOST_CHOICES}"))),
    }
}

/// What a page may cost: each child once a row. A size that will be refused costs nothing more.
pub fn cost(first: Option<i32>, last: Option<i32>, child: usize) -> usize {
    let rows = match first.or(last) {
        None => DEFAULT_PAGE,
        Some(rows) => usize::try_from(rows).ok().filter(|rows| *rows <= MAX_PAGE).unwrap_or_default(),
    };
    rows.max(1).saturating_mul(child).saturating_add(1)
}

/// The rows of a page, in any order and with the one too many, as edges: newest first.
pub fn connection<R, N>(
    list: &List,
    keys: &TenantKeys,
    page: &KeysetPage,
    mut rows: Vec<R>,
    wrap: impl Fn(R) -> N,
) -> Connection<String, N>
where
    R: HasPosition,
    N: OutputType,
{
    rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.position()));
    let more = rows.len() > page.size;
    let (has_previous, has_next) = match page.end {
        End::Newest => {
            rows.truncate(page.size);
            (page.after.is_some(), more)
        }
        End::Oldest => {
            rows.drain(..rows.len().saturating_sub(page.size));
            (more, page.before.is_some())
        }
    };
    let mut connection = Connection::new(has_previous, has_next);
    connection.edges.extend(rows.into_iter().map(|row| Edge::new(list.cursor(keys, row.position()), wrap(row))));
    connection
}

fn size(field: &'static str, rows: i32) -> Result<usize> {
    match usize::try_from(rows) {
        Ok(rows) if (1..=MAX_PAGE).contains(&rows) => Ok(rows),
        _ => Err(Error::invalid(field, format!("between 1 and {MAX_PAGE}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::tests::keys;
    use super::*;
    use crate::model::Position;
    use chrono::DateTime;
    use uuid::Uuid;

    struct Row(i64);

    impl HasPosition for Row {
        fn position(&self) -> Position {
            Position { at: DateTime::from_timestamp_micros(self.0).unwrap(), id: Uuid::nil() }
        }
    }

    const LIST: List = List { name: "Patient.notes", parent: Uuid::nil() };

    fn page(ask: &PageArgs) -> Result<KeysetPage> {
        ask.page(&LIST, &keys())
    }

    #[test]
    fn page_sizes_have_bounds_and_one_direction() {
        assert_eq!(page(&PageArgs::default()).map(|page| page.size), Ok(20));
        assert_eq!(page(&PageArgs { first: Some(1), ..PageArgs::default() }).map(|page| page.size), Ok(1));
        assert_eq!(
            page(&PageArgs { last: Some(200), ..PageArgs::default() }).map(|page| (page.end, page.size)),
            Ok((End::Oldest, 200))
        );
        let field = |ask| match page(&ask) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        for size in [0, -1, 201, i32::MAX, i32::MIN] {
            assert_eq!(field(PageArgs { first: Some(size), ..PageArgs::default() }), "first");
            assert_eq!(field(PageArgs { last: Some(size), ..PageArgs::default() }), "last");
        }
        assert_eq!(field(PageArgs { first: Some(1), last: Some(1), ..PageArgs::default() }), "last");
        assert_eq!(field(PageArgs { after: Some("x".into()), ..PageArgs::default() }), "after");
        assert_eq!(field(PageArgs { before: Some(String::new()), ..PageArgs::default() }), "before");
    }

    #[test]
    fn one_row_too_many_tells_of_a_next_page() {
        let keys = keys();
        let shown = |page: &KeysetPage, rows: &[i64]| {
            let connection = connection(&LIST, &keys, page, rows.iter().map(|at| Row(*at)).collect(), |row| row.0);
            let nodes: Vec<_> = connection.edges.iter().map(|edge| edge.node).collect();
            (nodes, connection.has_previous_page, connection.has_next_page)
        };
        let newest = KeysetPage { end: End::Newest, size: 2, after: None, before: None };
        assert_eq!(shown(&newest, &[1, 3, 2]), (vec![3, 2], false, true));
        assert_eq!(shown(&newest, &[1, 2]), (vec![2, 1], false, false));
        assert_eq!(shown(&KeysetPage { after: Some(Row(9).position()), ..newest }, &[1]), (vec![1], true, false));
        assert_eq!(shown(&KeysetPage { size: 0, ..newest }, &[1]), (vec![], false, true));
        let oldest = KeysetPage { end: End::Oldest, ..newest };
        assert_eq!(shown(&oldest, &[1, 3, 2]), (vec![2, 1], true, false));
        assert_eq!(
            shown(&KeysetPage { before: Some(Row(0).position()), ..oldest }, &[3, 4]),
            (vec![4, 3], false, true)
        );
        assert_eq!(shown(&newest, &[]), (vec![], false, false));
    }

    #[test]
    fn a_list_costs_its_page() {
        assert_eq!(cost(None, None, 3), 61);
        assert_eq!(cost(Some(10), None, 3), 31);
        assert_eq!(cost(None, Some(200), 3), 601);
        assert_eq!(cost(Some(0), None, 3), 4);
        assert_eq!(cost(Some(-5), None, 3), 4);
        assert_eq!(cost(Some(i32::MAX), None, 3), 4);
        assert_eq!(cost(Some(200), None, usize::MAX), usize::MAX);
    }
}
