//! The terms by which a patient is found: keyed hashes of the prefixes of each word of the name, of the whole birth
//! date, and of the identifiers. The database stores these and never the words.

use crate::crypto::TenantKeys;
use crate::model::fields::PersonName;
use crate::model::words;
use std::collections::BTreeSet;

/// Returns all terms of a patient, sorted and distinct. Identifiers are given by their blind indexes.
pub fn of_patient<'a>(
    keys: &TenantKeys,
    name: Option<&PersonName>,
    birth_date: Option<&str>,
    identifiers: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<i64> {
    let name = name.map(|name| of_name(keys, name)).unwrap_or_default();
    let birth_date = birth_date.map(|date| of_birth_date(keys, date));
    let identifiers = identifiers.into_iter().map(of_identifier);
    name.into_iter().chain(birth_date).chain(identifiers).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The term of a prefix of a word of a name, as `words::prefixes` cuts it.
pub fn of_name_prefix(keys: &TenantKeys, prefix: &str) -> i64 {
    keys.search_term("patient.name", prefix)
}

/// The term of a whole birth date.
pub fn of_birth_date(keys: &TenantKeys, date: &str) -> i64 {
    keys.search_term("patient.birthDate", date)
}

/// The term of an identifier: the first eight bytes of its blind index.
pub fn of_identifier(blind: &[u8]) -> i64 {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(blind).for_each(|(to, from)| *to = *from);
    i64::from_be_bytes(bytes)
}

fn of_name(keys: &TenantKeys, name: &PersonName) -> BTreeSet<i64> {
    let texts = name.family.iter().chain(&name.given).chain([&name.text]);
    let words: BTreeSet<String> = texts.flat_map(|text| words::words(text)).collect();
    let prefixes: BTreeSet<&str> = words.iter().flat_map(|word| words::prefixes(word)).collect();
    prefixes.into_iter().map(|prefix| of_name_prefix(keys, prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::fresh_key;
    use crate::ids::TenantId;

    #[test]
    fn a_name_is_found_by_the_prefixes_of_its_words() {
        let keys = TenantKeys::assemble(TenantId::new(), vec![(1, fresh_key())], fresh_key(), fresh_key()).unwrap();
        let name = |text: &str| {
            of_patient(&keys, Some(&PersonName { family: None, given: vec![], text: text.into() }), None, [])
        };
        let term = |prefix| keys.search_term("patient.name", prefix);
        assert!(name("Zoë O’Brien").contains(&term("zo")));
        assert!(name("Zoë O’Brien").contains(&term("obri")));
        assert!(name("Zoë O’Brien").contains(&term("brien")));
        assert!(!name("Zoë").contains(&term("z")));
        assert!(name("山田 太郎").contains(&term("山")));
        assert!(name("").is_empty());
        let terms = name("Anna Anna");
        assert_eq!(terms.len(), 3);
        assert!(terms.is_sorted());
    }
}
