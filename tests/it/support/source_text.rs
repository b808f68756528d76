//! Simple analysis of Rust source text, for the checks of the layout in `tidy`.

/// Returns the first segments of the paths after `prefix`, including each path of a group in braces.
pub fn first_path_segments(code: &str, prefix: &str) -> Vec<String> {
    let starts = code
        .match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(|before: char| is_word_char(before) || before == ':'));
    let mut found = Vec::new();
    for (at, _) in starts {
        let rest = code[at + prefix.len()..].trim_start();
        let mut depth = 0;
        let mut word = String::new();
        let mut at_path_start = true;
        for c in rest.chars() {
            match c {
                c if is_word_char(c) && at_path_start => word.push(c),
                c => {
                    if !word.is_empty() {
                        found.push(std::mem::take(&mut word));
                        at_path_start = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => at_path_start = true,
                        _ => {}
                    }
                    if depth <= 0 {
                        break;
                    }
                }
            }
        }
        found.extend((!word.is_empty()).then_some(word));
    }
    found.sort();
    found.dedup();
    found
}

/// Whether the word occurs, not as a part of a longer word.
pub fn contains_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word_char) && !code[at + word.len()..].starts_with(is_word_char))
}

pub fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns a source file without the module of unit tests at its end.
pub fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// Returns the code of a source file without unit tests, comments and string literals.
pub fn code_only(text: &str) -> String {
    let mut rest = without_tests(text);
    let mut seen = String::new();
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                (c == '"' && !escaped) || {
                    escaped = c == '\\' && !escaped;
                    false
                }
            });
            end.map_or(rest.len(), |end| end + 2)
        } else {
            seen.push(c);
            c.len_utf8()
        };
        rest = &rest[skip..];
    }
    seen
}
