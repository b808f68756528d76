//! The scalars for times and dates: RFC 3339 in UTC, and FHIR's dates of three precisions.

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};
use chrono::{NaiveDate, SecondsFormat, Utc};

/// A point in time by RFC 3339, such as `2026-11-22T09:30:00Z`. Responses are in UTC; arguments may have any offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime(pub chrono::DateTime<Utc>);

/// A point in time by RFC 3339, such as `2026-11-22T09:30:00Z`. Responses are in UTC; arguments may have any offset.
#[Scalar(specified_by_url = "https://www.rfc-editor.org/rfc/rfc3339")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        match &value {
            Value::String(text) => Ok(Self(chrono::DateTime::parse_from_rfc3339(text)?.with_timezone(&Utc))),
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    // Validation calls this before execution, and its error names the argument; an error of `parse` alone would not.
    fn is_valid(value: &Value) -> bool {
        Self::parse(value.clone()).is_ok()
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

/// A date of any of FHIR's three precisions: a year (`1984`), a month (`1984-07`) or a day (`1984-07-21`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Date(pub String);

/// A date of any of FHIR's three precisions: a year (`1984`), a month (`1984-07`) or a day (`1984-07-21`).
#[Scalar(specified_by_url = "https://hl7.org/fhir/R4/datatypes.html#date")]
impl ScalarType for Date {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::String(text) if is_date(&text) => Ok(Self(text)),
            Value::String(_) => Err(InputValueError::custom("must be YYYY, YYYY-MM or YYYY-MM-DD")),
            _ => Err(InputValueError::expected_type(value)),
        }
    }

    // Validation calls this before execution, and its error names the argument; an error of `parse` alone would not.
    fn is_valid(value: &Value) -> bool {
        Self::parse(value.clone()).is_ok()
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

/// Whether a text is an existing date of one of the three precisions.
fn is_date(text: &str) -> bool {
    let full = match text.len() {
        4 => format!("{text}-01-01"),
        7 => format!("{text}-01"),
        10 => text.to_owned(),
        _ => return false,
    };
    let has_form = full
        .bytes()
        .enumerate()
        .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    has_form && NaiveDate::parse_from_str(&full, "%Y-%m-%d").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_dates_have_three_lengths() {
        let parsed = DateTime::parse(Value::from("2026-11-22T10:30:00.25+01:00")).unwrap();
        assert_eq!(parsed.to_value(), Value::from("2026-11-22T09:30:00.250Z"));
        for good in ["2026", "2026-02", "2024-02-29"] {
            assert!(is_date(good), "{good}");
        }
        for bad in
            ["", "26", "2026-13", "2026-02-30", "2026-2-3", "+026-01-01", "2026-01-01T", "2026/01/01", "２０２６"]
        {
            assert!(!is_date(bad), "{bad}");
        }
    }
}
