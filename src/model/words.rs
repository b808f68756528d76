//! Normalisation of words for search: without accents, case and punctuation, so that "Müller", "MULLER" and "muller"
//! are one word. Names that are indexed and words that are searched for are normalised alike. Keys play no part here
//! (see `TenantKeys::term`).

use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

const MIN_PREFIX_LETTERS: usize = 2;
const MAX_PREFIX_LETTERS: usize = 12;

/// Apostrophes and hyphens. A word with one inside is indexed whole and in its parts.
const JOINERS: [char; 9] = ['\'', '’', '‘', 'ʼ', '`', '-', '\u{2010}', '–', '·'];

/// Returns the distinct normalised words of a text. "O'Brien" gives `o`, `brien` and `obrien`.
pub fn words(text: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for joined in normalised(text).split(|letter: char| !letter.is_alphanumeric() && !JOINERS.contains(&letter)) {
        words.extend(joined.split(JOINERS).map(str::to_owned));
        words.insert(joined.replace(JOINERS, ""));
    }
    words.remove("");
    words
}

/// Returns the prefixes by which the words of a search are looked up. The parts of a hyphenated word are looked up
/// apart, unless one of them is too short. Returns `None` where a word is too short.
pub fn searched(text: &str) -> Option<BTreeSet<String>> {
    let mut wanted = BTreeSet::new();
    for joined in normalised(text).split(|letter: char| !letter.is_alphanumeric() && !JOINERS.contains(&letter)) {
        let parts: Vec<_> = joined.split(JOINERS).filter(|part| !part.is_empty()).collect();
        let whole = parts.concat();
        let words = if parts.iter().all(|part| longest_prefix(part).is_some()) { parts } else { vec![whole.as_str()] };
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            wanted.insert(longest_prefix(word)?.to_owned());
        }
    }
    Some(wanted)
}

/// Returns the prefix by which a word is looked up, or `None` where the word is too short.
fn longest_prefix(word: &str) -> Option<&str> {
    prefixes(word).last()
}

/// Removes accents and case.
fn normalised(text: &str) -> String {
    // NFC last: it puts Hangul syllables together again, which are what a reader counts as letters.
    text.nfkd().filter(|letter| !is_combining_mark(*letter)).flat_map(char::to_lowercase).nfc().collect()
}

/// Returns the prefixes of a normalised word by which it is found: 2 to 12 letters, or 1 to 12 in scripts without case,
/// such as kanji.
pub fn prefixes(word: &str) -> impl Iterator<Item = &str> {
    let caseless = word
        .chars()
        .next()
        .is_some_and(|first| first.is_alphabetic() && !first.is_lowercase() && !first.is_uppercase());
    let shortest = if caseless { 1 } else { MIN_PREFIX_LETTERS };
    let ends = word.char_indices().map(|(at, letter)| at + letter.len_utf8());
    ends.take(MAX_PREFIX_LETTERS).skip(shortest - 1).filter_map(|end| word.get(..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> String {
        words(text).into_iter().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn words_are_normalised() {
        for (text, expected) in [
            ("Müller, MÜLLER\tmuller", "muller"),
            ("Zoe\u{308} Ångström", "angstrom zoe"),
            ("O'Brien O’Brien", "brien o obrien"),
            ("Anne-Marie", "anne annemarie marie"),
            ("- '", ""),
            ("MRN-0042.7", "0042 7 mrn mrn0042"),
            ("İpek", "ipek"),
            ("ﬁn Ｂｏ", "bo fin"),
            ("山田　太郎", "太郎 山田"),
            ("ﾔﾏﾀﾞ", "ヤマタ"),
            ("김철수", "김철수"),
        ] {
            assert_eq!(joined(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_search_is_cut_as_names_are() {
        let wanted = |text| searched(text).map(|words| words.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(wanted("Mül  ANN").as_deref(), Some("ann mul"));
        assert_eq!(wanted("O'Bri Anne-Mar").as_deref(), Some("anne mar obri"));
        assert_eq!(wanted("abcdefghijklmnop").as_deref(), Some("abcdefghijkl"));
        assert_eq!(wanted("山").as_deref(), Some("山"));
        assert_eq!(wanted(" - ").as_deref(), Some(""));
        assert_eq!(wanted("ann b"), None);
    }

    #[test]
    fn prefixes_count_letters() {
        let list = |word| prefixes(word).collect::<Vec<_>>();
        assert_eq!(list("o"), Vec::<&str>::new());
        assert_eq!(list("bob"), ["bo", "bob"]);
        assert_eq!(list("ørsted")[0], "ør");
        assert_eq!(list("山田"), ["山", "山田"]);
        assert_eq!(list("7"), Vec::<&str>::new());
        assert_eq!(list("abcdefghijklmnop").last(), Some(&"abcdefghijkl"));
    }
}
