//! Finding patients: by words of the name, birth date and identifiers, all of which must match. The text of a search becomes blind terms here;
//! the database sees nothing else of it. Terms are read by `search_patients` alone, a function of the tenant's schema.

use super::{Columns, Patient, columns, terms};
use crate::crypto::TenantKeys;
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::model::sql::Statement;
use crate::model::{End, KeysetPage, words};
use chrono::NaiveDate;
use diesel::sql_types::{Array, BigInt, Bool, Integer};
use std::collections::BTreeSet;

/// Characters of a search.
const LONGEST: usize = 500;
/// Words of a search.
const MOST_WORDS: usize = 20;

macro_rules! all {
    ($direction:literal) => {
        concat!(
            columns!(),
            "patients p where (created_at, id) < (?, ?) and (created_at, id) > (?, ?) order by created_at ",
            $direction,
            ", id ",
            $direction,
            " limit ?"
        )
    };
}
/// What is searched for, blind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search(Vec<i64>);

impl Search {
    /// Words, parted by spaces: `YYYY-MM-DD` is a birth date, `system|value` an identifier, in quotes if it has spaces, anything else the
    /// beginning of a name.
    /// `None`: nothing is searched for.
    pub fn parse(keys: &TenantKeys, text: &str) -> Result<Option<Self>> {
        let refused = |reason: String| Error::invalid("search", reason);
        if text.chars().count() > LONGEST {
            return Err(refused(format!("must have at most {LONGEST} characters")));
        }
        let mut found = BTreeSet::new();
        for word in split(text) {
            if let Some((system, value)) = word.split_once('|') {
                found.insert(terms::of_identifier(&keys.blind("identifier", &[system, value])));
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
            1..=MOST_WORDS => Ok(Some(Self(found.into_iter().collect()))),
            _ => Err(refused(format!("must have at most {MOST_WORDS} words"))),
        }
    }
}

/// Outside of quotes by spaces; what is in quotes is one word.
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

/// One page of the patients who match, or of all; and one row more where there is more, in no order.
pub async fn page(tx: &TenantTx, search: Option<Search>, page: KeysetPage) -> Result<Vec<Patient>> {
    let query = match search {
        Some(Search(terms)) => {
            let found = Statement::<Columns>::new(FOUND).bind::<Array<BigInt>, _>(terms).bounds(&page);
            let most = i32::try_from(page.limit()).unwrap_or(i32::MAX);
            found.bind::<Bool, _>(page.end == End::Newest).bind::<Integer, _>(most)
        }
        None => match page.end {
            End::Newest => Statement::new(all!("desc")).page(&page),
            End::Oldest => Statement::new(all!("asc")).page(&page),
        },
    };
    tx.load(query).await
}

const FOUND: &str = concat!(
    columns!(),
    "search_patients(?, ?, ?, ?, ?, ?, ?) found(id) cross join lateral (select * from patients where id = found.id limit 1) p"
);

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
        assert_eq!(terms("urn:mrn|A-1"), [terms::of_identifier(&keys.blind("identifier", &["urn:mrn", "A-1"]))]);
        assert_eq!(terms("ada 1815-12-10 urn:mrn|A-1").len(), 3);
        assert_eq!((parse(""), parse(" \t")), (Ok(None), Ok(None)));
        assert_eq!(terms("\"urn:x|AB 123\" ada").len(), 2);
        assert!(
            terms("\"urn:x|AB 123\"").contains(&terms::of_identifier(&keys.blind("identifier", &["urn:x", "AB 123"])))
        );
        for bad in ["a", "ada l", "- .", "2026-99-99", "2023-02-29", &"ab ".repeat(1_000), &"x".repeat(10_000)] {
            assert!(matches!(parse(bad), Err(Error::Invalid { field, .. }) if field == "search"), "{bad:.20}");
        }
        let many: String = ('a'..='z').map(|letter| format!("{letter}{letter} ")).collect();
        assert!(parse(&many).is_err());
    }
}
