//! Connections: turns `first`/`after` and `last`/`before` into a page of a list, and rows into edges. Rows are never
//! counted: each query reads one row more than requested, which tells whether there is a further page.

use super::cursor::List;
use crate::crypto::TenantKeys;
use crate::error::{Error, Result};
use crate::model::{End, HasPosition, KeysetPage};
use async_graphql::connection::{Connection, Edge};
use async_graphql::{OutputType, SelectionField, Value};

/// Rows of a page when the client gives neither `first` nor `last`.
pub const DEFAULT_PAGE_SIZE: usize = 20;
/// Limit for `first` and `last`.
pub const MAX_PAGE_SIZE: usize = 200;
/// Limit for the values of one list in a filter.
const MAX_FILTER_VALUES: usize = 50;

/// The arguments of a list.
#[derive(Debug, Clone, Default)]
pub struct PageArgs {
    /// Number of rows from the newest end.
    pub first: Option<i32>,
    /// Only rows after this cursor, which are older.
    pub after: Option<String>,
    /// Number of rows from the oldest end.
    pub last: Option<i32>,
    /// Only rows before this cursor, which are newer.
    pub before: Option<String>,
}

impl PageArgs {
    /// Reads the arguments of a list further down in the query. Returns `None` when one is of the wrong type; the
    /// list's own resolver refuses it later.
    pub fn from_selection(field: &SelectionField<'_>) -> Option<Self> {
        let mut args = Self::default();
        for (name, value) in field.arguments().ok()? {
            let (rows, cursor) = match name.as_str() {
                "first" => (Some(&mut args.first), None),
                "last" => (Some(&mut args.last), None),
                "after" => (None, Some(&mut args.after)),
                "before" => (None, Some(&mut args.before)),
                _ => return None,
            };
            match (value, rows, cursor) {
                (Value::Null, ..) => {}
                (Value::Number(number), Some(rows), _) => *rows = Some(i32::try_from(number.as_i64()?).ok()?),
                (Value::String(text), _, Some(cursor)) => *cursor = Some(text),
                _ => return None,
            }
        }
        Some(args)
    }

    /// Checks the arguments and returns the page they describe.
    ///
    /// # Errors
    /// `Invalid` with the argument: a size out of range, `first` together with `last`, or a cursor of another list.
    pub fn page(&self, list: &List, keys: &TenantKeys) -> Result<KeysetPage> {
        let (end, size) = match (self.first, self.last) {
            (Some(_), Some(_)) => return Err(Error::invalid("last", "cannot be combined with first")),
            (None, Some(last)) => (End::Oldest, size("last", last)?),
            (Some(first), None) => (End::Newest, size("first", first)?),
            (None, None) => (End::Newest, DEFAULT_PAGE_SIZE),
        };
        let position = |field, cursor: &Option<String>| {
            cursor.as_ref().map(|cursor| list.position(keys, field, cursor)).transpose()
        };
        Ok(KeysetPage { end, size, after: position("after", &self.after)?, before: position("before", &self.before)? })
    }
}

/// Converts the values of one list in a filter. An empty list is allowed and matches nothing.
///
/// # Errors
/// `Invalid` with `field` when the list has more than 50 values.
pub fn filter_values<T, U: From<T>>(field: &'static str, list: Vec<T>) -> Result<Vec<U>> {
    match list.len() <= MAX_FILTER_VALUES {
        true => Ok(list.into_iter().map(U::from).collect()),
        false => Err(Error::invalid(field, format!("must have at most {MAX_FILTER_VALUES} values"))),
    }
}

/// Complexity of a list: 1, plus that of the selection for each row of the page. A page size that the resolver will
/// refuse counts as one row, so that the client gets that error and not one about complexity.
pub fn cost(first: Option<i32>, last: Option<i32>, child: usize) -> usize {
    let rows = match first.or(last) {
        None => DEFAULT_PAGE_SIZE,
        Some(rows) => usize::try_from(rows).ok().filter(|rows| *rows <= MAX_PAGE_SIZE).unwrap_or_default(),
    };
    rows.max(1).saturating_mul(child).saturating_add(1)
}

/// Makes a connection of the rows of a page, newest first. The rows may come in any order, with the additional row that
/// tells whether there is a further page.
pub fn from_rows<R, N>(
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
        Ok(rows) if (1..=MAX_PAGE_SIZE).contains(&rows) => Ok(rows),
        _ => Err(Error::invalid(field, format!("must be between 1 and {MAX_PAGE_SIZE}"))),
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

    fn page(args: &PageArgs) -> Result<KeysetPage> {
        args.page(&LIST, &keys())
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
    fn an_additional_row_means_a_further_page() {
        let keys = keys();
        let shown = |page: &KeysetPage, rows: &[i64]| {
            let connection = from_rows(&LIST, &keys, page, rows.iter().map(|at| Row(*at)).collect(), |row| row.0);
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
    fn the_complexity_of_a_list_follows_its_page_size() {
        assert_eq!(cost(None, None, 3), 61);
        assert_eq!(cost(Some(10), None, 3), 31);
        assert_eq!(cost(None, Some(200), 3), 601);
        assert_eq!(cost(Some(0), None, 3), 4);
        assert_eq!(cost(Some(-5), None, 3), 4);
        assert_eq!(cost(Some(i32::MAX), None, 3), 4);
        assert_eq!(cost(Some(200), None, usize::MAX), usize::MAX);
    }
}
