//! Searching patients by words of the name, birth date and identifiers, all of which must match. The text of a search
//! is turned into keyed hashes (terms) here, and the database sees nothing else of it. The stored terms are readable
//! through `search_patients` alone, a function of the tenant's schema.

use super::{Patient, terms};
use crate::crypto::TenantKeys;
use crate::db::schema::tenant::patients;
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::model::sql::{each_key, lateral, limited};
use crate::model::{End, KeysetPage, words};
use chrono::NaiveDate;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Timestamptz, Uuid as SqlUuid};
use std::collections::BTreeSet;

/// Unicode characters.
const MAX_SEARCH_CHARS: usize = 500;
const MAX_SEARCH_WORDS: usize = 20;

diesel::define_sql_function! {
    /// Ids of the patients who have all of these terms, between two positions, from one end of the list; a function of
    /// the tenant's schema.
    fn search_patients(
        terms: Array<BigInt>,
        after_at: Timestamptz,
        after_id: SqlUuid,
        before_at: Timestamptz,
        before_id: SqlUuid,
        newest_first: Bool,
        max_rows: Integer,
    ) -> SqlUuid;
}

/// A parsed search: its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search(Vec<i64>);

impl Search {
    /// Parses words separated by spaces: `YYYY-MM-DD` is a birth date, `system|value` an identifier (in double quotes
    /// if it has spaces), anything else the beginning of a word of the name. Returns `None` for an empty text.
    ///
    /// # Errors
    /// `Invalid` where the text is too long, has too many words, a word of one letter, or a date that does not exist.
    pub fn parse(keys: &TenantKeys, text: &str) -> Result<Option<Self>> {
        let refused = |reason: String| Error::invalid("search", reason);
        if text.chars().count() > MAX_SEARCH_CHARS {
            return Err(refused(format!("must have at most {MAX_SEARCH_CHARS} characters")));
        }
        let mut found = BTreeSet::new();
        for word in split(text) {
            if let Some((system, value)) = word.split_once('|') {
                found.insert(terms::of_identifier(&keys.blind_index("identifier", &[system, value])));
            } else if has_form_of_date(word) {
                NaiveDate::parse_from_str(word, "%Y-%m-%d").map_err(|_| refused("has a date that is none".into()))?;
                found.insert(terms::of_birth_date(keys, word));
            } else {
                let prefixes =
                    words::searched(word).ok_or_else(|| refused("each word must have two letters at least".into()))?;
                found.extend(prefixes.iter().map(|prefix| terms::of_name_prefix(keys, prefix)));
            }
        }
        match found.len() {
            0 if text.trim().is_empty() => Ok(None),
            0 => Err(refused("has no letters to search for".into())),
            1..=MAX_SEARCH_WORDS => Ok(Some(Self(found.into_iter().collect()))),
            _ => Err(refused(format!("must have at most {MAX_SEARCH_WORDS} words"))),
        }
    }
}

/// Splits at spaces; a quoted part is one word.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split('"').enumerate();
    parts
        .flat_map(|(nth, part)| if nth % 2 == 1 { vec![part] } else { part.split_whitespace().collect() })
        .filter(|word| !word.trim().is_empty())
}

fn has_form_of_date(word: &str) -> bool {
    word.len() == 10
        && word
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

/// Returns a page of the patients who match a search, or of all, in no order, with one row more where there is more.
pub async fn page(tx: &TenantTx, search: Option<Search>, page: KeysetPage) -> Result<Vec<Patient>> {
    let Some(Search(terms)) = search else {
        let rows = patients::table.select(Patient::as_select()).into_boxed();
        return tx.load(page.of(rows, patients::created_at, patients::id)).await;
    };
    let ((after, before), newest_first) = (page.bounds(), page.end == End::Newest);
    let max_rows = i32::try_from(page.limit()).unwrap_or(i32::MAX);
    let found = search_patients(terms, after.at, after.id, before.at, before.id, newest_first, max_rows);
    let rows = patients::table.select(Patient::as_select()).filter(patients::id.eq(each_key::<SqlUuid>()));
    tx.load(lateral(found, limited(rows, 1))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::fresh_key;
    use crate::ids::TenantId;

    #[test]
    fn a_search_is_words_dates_and_identifiers() {
        let keys = TenantKeys::assemble(TenantId::new(), vec![(1, fresh_key())], fresh_key(), fresh_key()).unwrap();
        let parse = |text: &str| Search::parse(&keys, text);
        let terms = |text: &str| parse(text).unwrap().unwrap().0;
        assert_eq!(terms("Ada lov"), terms("LOV  ada"));
        assert_eq!(terms("1815-12-10"), [terms::of_birth_date(&keys, "1815-12-10")]);
        assert_eq!(terms("urn:mrn|A-1"), [terms::of_identifier(&keys.blind_index("identifier", &["urn:mrn", "A-1"]))]);
        assert_eq!(terms("ada 1815-12-10 urn:mrn|A-1").len(), 3);
        assert_eq!((parse(""), parse(" \t")), (Ok(None), Ok(None)));
        assert_eq!(terms("\"urn:x|AB 123\" ada").len(), 2);
        assert!(
            terms("\"urn:x|AB 123\"")
                .contains(&terms::of_identifier(&keys.blind_index("identifier", &["urn:x", "AB 123"])))
        );
        for bad in ["a", "ada l", "- .", "2026-99-99", "2023-02-29", &"ab ".repeat(1_000), &"x".repeat(10_000)] {
            assert!(matches!(parse(bad), Err(Error::Invalid { field, .. }) if field == "search"), "{bad:.20}");
        }
        let many: String = ('a'..='z').map(|letter| format!("{letter}{letter} ")).collect();
        assert!(parse(&many).is_err());
    }
}
