//! Clinical rules of patients: the limits of names and identifiers, and what a birth date and an identifier's system
//! may be. Constants and pure functions; nothing here reads the database.

use chrono::{DateTime, Duration, NaiveDate, Utc};

/// Limit for the family name, for each given name and for the whole name, in Unicode characters.
pub const MAX_NAME_CHARS: usize = 250;
/// Limit for the number of given names.
pub const MAX_GIVEN_NAMES: usize = 20;
/// Limit for the number of identifiers in use.
pub const MAX_IDENTIFIERS: usize = 50;
/// Limit for the URI of an identifier's system, in characters.
pub const MAX_SYSTEM_CHARS: usize = 500;
/// Limit for the value of an identifier, in Unicode characters.
pub const MAX_VALUE_CHARS: usize = 200;

/// Whether a text can be the system of an identifier. A search writes identifiers as `system|value`, in quotes if they
/// contain spaces, so a system must not contain `|`, `"` or white space. URIs contain none of them.
pub fn is_identifier_system(system: &str) -> bool {
    !system.contains(|letter: char| letter == '|' || letter == '"' || letter.is_whitespace())
}

/// Whether a date of birth (`YYYY`, `YYYY-MM` or `YYYY-MM-DD`) begins no later than today. One day more is allowed,
/// because it may already be tomorrow where the patient was born.
pub fn is_birth_date(date: &str, now: DateTime<Utc>) -> bool {
    let first_day = format!("{date}{}", "-01-01".get(date.len().saturating_sub(4)..).unwrap_or_default());
    NaiveDate::parse_from_str(&first_day, "%Y-%m-%d").is_ok_and(|day| day <= (now + Duration::days(1)).date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_birth_date_is_at_most_tomorrow() {
        let now = DateTime::from_timestamp(1_732_233_600, 0).unwrap(); // 2024-11-22
        for good in ["1900", "2024", "2024-11", "2024-02-29", "2024-11-23"] {
            assert!(is_birth_date(good, now), "{good}");
        }
        for bad in ["2025", "2024-12", "2024-11-24", "9999"] {
            assert!(!is_birth_date(bad, now), "{bad}");
        }
    }

    #[test]
    fn a_system_can_be_written_in_a_search() {
        for good in ["http://hospital.example/mrn", "urn:oid:2.16.840.1.113883.4.1"] {
            assert!(is_identifier_system(good), "{good}");
        }
        for bad in ["a|b", "a b", "a\"b", "a\tb"] {
            assert!(!is_identifier_system(bad), "{bad}");
        }
    }
}
