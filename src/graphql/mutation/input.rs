//! Texts that clients send to be kept: how long they may be and what they may hold. Every refusal names its field and repeats no value.

use crate::error::{Error, Result};
use chrono::{DateTime, Duration, NaiveDate, Utc};

/// By how much a client's clock may be ahead.
const LEEWAY: Duration = Duration::minutes(5);

/// One line: no control characters, not blank, at most `longest` characters.
pub fn line(field: &str, text: String, longest: usize) -> Result<String> {
    if text.chars().any(char::is_control) {
        return Err(Error::invalid(field, "must be one line without control characters"));
    }
    filled(field, text, longest)
}

/// A text of many lines: no control characters but tabs and line ends, not blank, at most `longest` characters.
pub fn prose(field: &str, text: String, longest: usize) -> Result<String> {
    if text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t')) {
        return Err(Error::invalid(field, "must not hold control characters"));
    }
    filled(field, text, longest)
}

/// A moment that is not to come, give or take a clock.
pub fn past(field: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>> {
    match at > Utc::now() + LEEWAY {
        true => Err(Error::invalid(field, "lies in the future")),
        false => in_range(field, at),
    }
}

/// A date of birth, which `Date` has found to be a date.
pub fn birth_date(field: &str, date: String) -> Result<String> {
    let first_day = format!("{date}{}", "-01-01".get(date.len().saturating_sub(4)..).unwrap_or_default());
    match NaiveDate::parse_from_str(&first_day, "%Y-%m-%d") {
        Ok(day) if day <= (Utc::now() + Duration::days(1)).date_naive() => Ok(date),
        _ => Err(Error::invalid(field, "lies in the future")),
    }
}

fn filled(field: &str, text: String, longest: usize) -> Result<String> {
    if text.trim().is_empty() {
        return Err(Error::invalid(field, "must not be blank"));
    }
    match text.chars().count() > longest {
        true => Err(Error::invalid(field, format!("must have at most {longest} characters"))),
        false => Ok(text),
    }
}

/// The database's clock begins long before, and no chart does.
fn in_range(field: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>> {
    match at.timestamp() < -5_364_662_400 {
        true => Err(Error::invalid(field, "lies before the year 1800")),
        false => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_bounds() {
        assert_eq!(line("f", " Ann ".into(), 5), Ok(" Ann ".into()));
        assert_eq!(line("f", "日本語".into(), 3), Ok("日本語".into()));
        for bad in ["", " \u{3000}", "Annika", "a\nb", "a\u{0}", "\u{7f}"] {
            assert!(matches!(line("f", bad.into(), 5), Err(Error::Invalid { field, .. }) if field == "f"), "{bad:?}");
        }
        assert!(prose("f", "a\r\n\tb".into(), 5).is_ok());
        assert!(prose("f", "a\u{0}b".into(), 5).is_err());
    }

    #[test]
    fn nobody_is_born_tomorrow_but_in_another_time_zone() {
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
