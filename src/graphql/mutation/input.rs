//! Checks of texts and times that clients send to be stored. Every error names its field and does not repeat the value.

use crate::error::{Error, Result};
use crate::model::patient::rules::is_birth_date;
use chrono::{DateTime, Duration, Utc};

/// How far a client's clock may be ahead of the server's.
const MAX_CLOCK_SKEW: Duration = Duration::minutes(5);
/// 1800-01-01T00:00:00Z, in seconds since 1970.
const EARLIEST_TIMESTAMP: i64 = -5_364_662_400;

/// Checks a text of one line: no control characters, not blank, at most `max_chars` Unicode characters.
///
/// # Errors
/// `Invalid` with `field`.
pub fn line(field: &str, text: String, max_chars: usize) -> Result<String> {
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(field, "must be one line without control characters"));
    }
    check_length(field, text, max_chars)
}

/// Checks a text that may have several lines: no control characters except tabs and line ends, not blank, at most
/// `max_chars` Unicode characters.
///
/// # Errors
/// `Invalid` with `field`.
pub fn prose(field: &str, text: String, max_chars: usize) -> Result<String> {
    if text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')) {
        return Err(Error::invalid(field, "must not hold control characters"));
    }
    check_length(field, text, max_chars)
}

/// Checks that a time is neither in the future, by more than the allowed clock skew, nor before the year 1800.
///
/// # Errors
/// `Invalid` with `field`.
pub fn past(field: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>> {
    match at > Utc::now() + MAX_CLOCK_SKEW {
        true => Err(Error::invalid(field, "must not be in the future")),
        false => check_not_ancient(field, at),
    }
}

/// Checks that a date of birth is not in the future. The scalar `Date` has checked its form before.
///
/// # Errors
/// `Invalid` with `field`.
pub fn birth_date(field: &str, date: String) -> Result<String> {
    match is_birth_date(&date, Utc::now()) {
        true => Ok(date),
        false => Err(Error::invalid(field, "must not be in the future")),
    }
}

fn check_length(field: &str, text: String, max_chars: usize) -> Result<String> {
    if text.trim().is_empty() {
        return Err(Error::invalid(field, "must not be blank"));
    }
    match text.chars().count() > max_chars {
        true => Err(Error::invalid(field, format!("must have at most {max_chars} characters"))),
        false => Ok(text),
    }
}

/// PostgreSQL can store much earlier times, but no chart is that old, so an earlier time is a mistake.
fn check_not_ancient(field: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>> {
    match at.timestamp() < EARLIEST_TIMESTAMP {
        true => Err(Error::invalid(field, "must not be before the year 1800")),
        false => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_limits() {
        assert_eq!(line("f", " Ann ".into(), 5), Ok(" Ann ".into()));
        assert_eq!(line("f", "日本語".into(), 3), Ok("日本語".into()));
        for bad in ["", " \u{3000}", "Annika", "a\nb", "a\u{0}", "\u{7f}"] {
            assert!(matches!(line("f", bad.into(), 5), Err(Error::Invalid { field, .. }) if field == "f"), "{bad:?}");
        }
        assert!(prose("f", "a\r\n\tb".into(), 5).is_ok());
        assert!(prose("f", "a\u{0}b".into(), 5).is_err());
    }

    #[test]
    fn birth_dates_and_times_are_not_in_the_future() {
        for good in ["1900", "2020-02", "2024-02-29"] {
            assert!(birth_date("f", good.into()).is_ok(), "{good}");
        }
        for bad in ["9999", "2999-01", "2999-12-31"] {
            assert!(birth_date("f", bad.into()).is_err(), "{bad}");
        }
        assert!(past("f", Utc::now()).is_ok());
        assert!(past("f", Utc::now() + Duration::hours(1)).is_err());
        assert!(past("f", DateTime::<Utc>::MIN_UTC).is_err());
    }
}
