//! Whether a patient who comes under a known key is the one who is there.
//! Two sending systems may give one id, even one record number, to two people: their charts must not become one.

use crate::model::fields::PersonName;
use std::collections::HashSet;

/// By what people are told apart, beside their numbers.
pub(super) struct Identity {
    name: Option<String>,
    birth_date: Option<String>,
}

impl Identity {
    /// Family and given names without case and spacing; the whole name, where it has no parts.
    pub(super) fn new(name: Option<PersonName>, birth_date: Option<String>) -> Self {
        let name = name.map(|name| match (&name.family, name.given.as_slice()) {
            (None, []) => plain(&name.text),
            (family, given) => format!("{}, {}", plain(family.as_deref().unwrap_or_default()), plain(&given.join(" "))),
        });
        Self { name, birth_date }
    }

    fn says_nothing(&self) -> bool {
        self.name.is_none() && self.birth_date.is_none()
    }
}

/// With a number in common, one of name and birth date may change; with other numbers, neither; without any, one of
/// them must be known.
pub(super) fn same(
    before: &Identity,
    numbers_before: &HashSet<Vec<u8>>,
    now: &Identity,
    numbers: &HashSet<Vec<u8>>,
) -> bool {
    let (name, birth_date) = (agree(&before.name, &now.name), agree(&before.birth_date, &now.birth_date));
    if !numbers_before.is_disjoint(numbers) {
        return name != Some(false) || birth_date != Some(false);
    }
    if numbers_before.is_empty() && numbers.is_empty() {
        return name == Some(true) || birth_date == Some(true) || (before.says_nothing() && now.says_nothing());
    }
    before.name == now.name && before.birth_date == now.birth_date && !now.says_nothing()
}

/// `None`, where one of the two does not say.
fn agree(before: &Option<String>, now: &Option<String>) -> Option<bool> {
    before.as_ref().zip(now.as_ref()).map(|(before, now)| before == now)
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(family: &str, given: &str, birth_date: &str) -> Identity {
        let given: Vec<_> = given.split_whitespace().map(str::to_owned).collect();
        let name = PersonName { family: Some(family.into()), text: format!("{given:?} {family}"), given };
        Identity::new((!family.is_empty()).then_some(name), (!birth_date.is_empty()).then(|| birth_date.into()))
    }

    fn numbers(numbers: &str) -> HashSet<Vec<u8>> {
        numbers.split_whitespace().map(|number| number.as_bytes().to_vec()).collect()
    }

    #[test]
    fn who_is_the_same() {
        let ann = || (face("Lee", "Ann", "1980"), "7");
        let cases = [
            // A number in common: a marriage, a corrected birth date, but not both.
            (ann(), (face("Wu", "Ann", "1980"), "7 8"), true),
            (ann(), (face("lee", "ANN", "1981"), "7"), true),
            (ann(), (face("Wu", "Max", "1950"), "7"), false),
            (ann(), (face("", "", ""), "7"), true),
            // Another number: only who is called and was born the same.
            (ann(), (face("LEE", "ann", "1980"), "8"), true),
            (ann(), (face("Lee", "Ann", "1981"), "8"), false),
            (ann(), (face("Wu", "Ann", "1980"), ""), false),
            ((face("", "", ""), "7"), (face("", "", ""), "8"), false),
            // No number.
            ((face("Lee", "Ann", "1980"), ""), (face("Wu", "Ann", "1980"), ""), true),
            ((face("Lee", "Ann", "1980"), ""), (face("Lee", "Ann", ""), ""), true),
            ((face("Lee", "Ann", "1980"), ""), (face("Wu", "Max", "1950"), ""), false),
            ((face("", "", "1980"), ""), (face("", "", "1950"), ""), false),
            ((face("", "", ""), ""), (face("", "", ""), ""), true),
        ];
        for (case, ((before, had), (now, has), expected)) in cases.into_iter().enumerate() {
            assert_eq!(same(&before, &numbers(had), &now, &numbers(has)), expected, "case {case}");
        }
    }
}
