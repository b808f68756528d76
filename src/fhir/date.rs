//! FHIR's dates: years, months, days and instants. A partial date becomes the first or the last second of the period
//! that it names, in UTC. Callers that need the original text keep it.

use super::FhirError;
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

/// The second of a partial date that an instant stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DateBound {
    /// The first second of the year, month or day, for the start of a period.
    First,
    /// The last second of the year, month or day, for the end of a period.
    Last,
}

/// Parses `2021`, `2021-03`, `2021-03-04` or an instant. Instants without seconds or without an offset (read as UTC)
/// are accepted, because senders write them.
pub(super) fn parse_instant(text: &str, bound: DateBound) -> Result<DateTime<Utc>, FhirError> {
    if text.len() <= 10 {
        let (first, next) = day_range(text).ok_or(FhirError::InvalidDate)?;
        let second = match bound {
            DateBound::First => first.and_time(NaiveTime::MIN),
            DateBound::Last => next.and_time(NaiveTime::MIN) - TimeDelta::seconds(1),
        };
        return Ok(second.and_utc());
    }
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc3339(&with_seconds(text)))
        .map(|at| at.to_utc())
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").map(|at| at.and_utc()))
        .ok()
        // The year in UTC must have four digits and not be 0: FHIR has no other dates, so the API could not return
        // them.
        .filter(|at| (1..=9999).contains(&at.year()))
        .ok_or(FhirError::InvalidDate)
}

/// Returns a birth date unchanged if it is a year, a month or a day of the calendar.
pub(super) fn parse_date(text: &str) -> Result<String, FhirError> {
    day_range(text).map(|_| text.to_owned()).ok_or(FhirError::InvalidDate)
}

/// Returns the first day of a partial date and the first day after it.
fn day_range(text: &str) -> Option<(NaiveDate, NaiveDate)> {
    let well_formed = text
        .bytes()
        .enumerate()
        .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    if !well_formed {
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

/// Inserts seconds into an instant such as `2024-05-06T07:08Z`; returns an empty text for any other form.
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
        parse_instant(text, DateBound::First).map(|at| at.to_rfc3339()).unwrap_or_else(|error| error.code().into())
    }

    #[test]
    fn instants_become_utc_and_partial_dates_their_first_or_last_second() {
        assert_eq!(first("2018-05-16T14:45:24.907-04:00"), "2018-05-16T18:45:24.907+00:00");
        assert_eq!(first("2015-02-07T13:28:17Z"), "2015-02-07T13:28:17+00:00");
        assert_eq!(first("2024-05-06T07:08+03:00"), "2024-05-06T04:08:00+00:00");
        assert_eq!(first("2026-11-22T19:18:15"), "2026-11-22T19:18:15+00:00");
        assert_eq!(first("1928"), "1928-01-01T00:00:00+00:00");
        assert_eq!(parse_instant("2019-03-02", DateBound::Last).unwrap().to_rfc3339(), "2019-03-02T23:59:59+00:00");
        assert_eq!(parse_instant("2024-02", DateBound::Last).unwrap().to_rfc3339(), "2024-02-29T23:59:59+00:00");
    }

    #[test]
    fn invalid_dates_are_refused() {
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
        assert_eq!(parse_date("1980-02-30"), Err(FhirError::InvalidDate));
        assert_eq!(parse_date("1980-02-01T00:00:00Z"), Err(FhirError::InvalidDate));
        assert_eq!(parse_date("1980-02").unwrap(), "1980-02");
    }
}
