//! FHIR's dates: years, months, days and instants, as people know them.
//! A partial date becomes the first (or last) second of what it names, in UTC; the text itself is kept by who reads it.

use super::Defect;
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

/// Which second of a partial date is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edge {
    /// A beginning: the first second of the year, month or day.
    First,
    /// An end: the last second.
    Last,
}

/// `2021`, `2021-03`, `2021-03-04` or an instant. Tolerates what senders do write: no seconds, no offset (then UTC).
pub(super) fn instant(text: &str, edge: Edge) -> Result<DateTime<Utc>, Defect> {
    if text.len() <= 10 {
        let (first, next) = span(text).ok_or(Defect::InvalidDate)?;
        let second = match edge {
            Edge::First => first.and_time(NaiveTime::MIN),
            Edge::Last => next.and_time(NaiveTime::MIN) - TimeDelta::seconds(1),
        };
        return Ok(second.and_utc());
    }
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc3339(&with_seconds(text)))
        .map(|at| at.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map(|at| at.and_utc()))
        .ok()
        // In UTC, too: a year 0 is none, and one of five digits is no date of FHIR's, so the API could not give it out.
        .filter(|at| (1..=9999).contains(&at.year()))
        .ok_or(Defect::InvalidDate)
}

/// A birth date as written, when it is one: a year, a month or a day of the calendar.
pub(super) fn calendar(text: &str) -> Result<String, Defect> {
    span(text).map(|_| text.to_owned()).ok_or(Defect::InvalidDate)
}

/// The first day a partial date names, and the first day after it.
fn span(text: &str) -> Option<(NaiveDate, NaiveDate)> {
    let digits = text
        .bytes()
        .enumerate()
        .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    if !digits {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text.get(range).and_then(|digits| digits.parse::<u32>().ok());
    let year = i32::try_from(number(0..4)?).ok().filter(|&year| year > 0)?;
    match text.len() {
        4 => Some((NaiveDate::from_ymd_opt(year, 1, 1)?, NaiveDate::from_ymd_opt(year + 1, 1, 1)?)),
        7 => {
            let first = NaiveDate::from_ymd_opt(year, number(5..7)?, 1)?;
            Some((first, first.checked_add_months(Months::new(1))?))
        }
        10 => {
            let first = NaiveDate::from_ymd_opt(year, number(5..7)?, number(8..10)?)?;
            Some((first, first.checked_add_days(Days::new(1))?))
        }
        _ => None,
    }
}

/// `2024-05-06T07:08Z` with its seconds put in.
fn with_seconds(text: &str) -> String {
    match text.split_at_checked(16) {
        Some((minutes, offset)) if offset.starts_with(['Z', '+', '-']) => format!("{minutes}:00{offset}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> String {
        instant(text, Edge::First).map(|at| at.to_rfc3339()).unwrap_or_else(|defect| defect.code().into())
    }

    #[test]
    fn offsets_are_honoured_and_partial_dates_have_edges() {
        assert_eq!(first("2018-05-16T14:45:24.907-04:00"), "2018-05-16T18:45:24.907+00:00");
        assert_eq!(first("2015-02-07T13:28:17Z"), "2015-02-07T13:28:17+00:00");
        assert_eq!(first("2024-05-06T07:08+03:00"), "2024-05-06T04:08:00+00:00");
        assert_eq!(first("2026-11-22T19:18:15"), "2026-11-22T19:18:15+00:00");
        assert_eq!(first("1928"), "1928-01-01T00:00:00+00:00");
        assert_eq!(instant("2019-03-02", Edge::Last).unwrap().to_rfc3339(), "2019-03-02T23:59:59+00:00");
        assert_eq!(instant("2024-02", Edge::Last).unwrap().to_rfc3339(), "2024-02-29T23:59:59+00:00");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "19",
            "2021-13",
            "2021-02-29",
            "0000",
            "0000-01-01T00:00:00Z",
            "yesterday",
            "2021/01/01",
            "2021-01-01T25:00:00Z",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(first(text), "invalid_date", "{text}");
        }
        assert_eq!(calendar("1980-02-30"), Err(Defect::InvalidDate));
        assert_eq!(calendar("1980-02-01T00:00:00Z"), Err(Defect::InvalidDate));
        assert_eq!(calendar("1980-02").unwrap(), "1980-02");
    }
}
