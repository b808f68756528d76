//! What a document may cost, decided before anything recurses over it. Order: size of the body (http), then lexical tokens and nesting,
//! then the grammar, then aliases, directives, repeats, cycles and size with every fragment written out; only then validation, with its
//! complexity per page, and execution. Touches the document only, never variables or data.

use crate::config::Limits;
use crate::error::Error;
use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, Field, OperationType, Selection, SelectionSet,
};
use async_graphql::parser::{self, parse_query};
use async_graphql::{Name, ServerError};
use std::collections::{HashMap, HashSet};

/// Brackets inside brackets: no parser of ours recurses deeper.
const NESTING: usize = 64;
/// Selection sets inside selection sets, fragments included.
const LEVELS: usize = 32;

/// The document, when it is one and within the limits.
pub fn parse(text: &str, limits: &Limits) -> Result<ExecutableDocument, Vec<ServerError>> {
    let refuse = |error: Error| vec![crate::graphql::error::refusal(error)];
    scan(text, limits).map_err(refuse)?;
    let document = parse_query(text).map_err(|error| crate::graphql::error::coded(vec![syntax(error)]))?;
    measure(&document, limits).map_err(refuse)?;
    Ok(document)
}

/// Counts tokens and nesting without building anything.
fn scan(text: &str, limits: &Limits) -> Result<(), Error> {
    let (mut tokens, mut nesting, mut rest) = (0_usize, 0_usize, text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let taken = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' | 0xEF | 0xBB | 0xBF => {
                rest = tail;
                continue;
            }
            b'#' => {
                rest = rest.get(run(rest, |byte| byte != b'\n' && byte != b'\r')..).unwrap_or_default();
                continue;
            }
            b'"' => string(rest)?,
            b'.' => run(rest, |byte| byte == b'.'),
            byte if byte == b'_' || byte.is_ascii_alphanumeric() => {
                run(rest, |byte| byte == b'_' || byte.is_ascii_alphanumeric())
            }
            _ => 1,
        };
        match byte {
            b'{' | b'(' | b'[' => nesting += 1,
            b'}' | b')' | b']' => nesting = nesting.saturating_sub(1),
            _ => {}
        }
        tokens += 1;
        if tokens > limits.tokens {
            return Err(over("tokens", limits.tokens));
        }
        if nesting > NESTING {
            return Err(over("nested brackets", NESTING));
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    Ok(())
}

fn run(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !belongs(*byte)).unwrap_or(bytes.len())
}

/// Length of the string literal at the start. A NUL cannot be stored, and an escaped one is only ever an attempt.
fn string(bytes: &[u8]) -> Result<usize, Error> {
    let block = bytes.starts_with(b"\"\"\"");
    let mut at = if block { 3 } else { 1 };
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            [b'"', b'"', b'"', ..] if block => return Ok(at + 3),
            [b'"', ..] if !block => return Ok(at + 1),
            [b'\\', b'"', b'"', b'"', ..] if block => at += 4,
            [b'\\', b'u', b'0', b'0', b'0', b'0', ..] if !block => {
                return Err(Error::invalid("query", "a string holds NUL"));
            }
            [b'\\', _, ..] if !block => at += 2,
            _ => at += 1,
        }
    }
    Ok(bytes.len())
}

fn measure(document: &ExecutableDocument, limits: &Limits) -> Result<(), Error> {
    let mut tally = Tally { limits, aliases: 0, directives: 0 };
    for (_, operation) in document.operations.iter() {
        tally.directives(operation.node.directives.len())?;
        for variable in &operation.node.variable_definitions {
            tally.directives(variable.node.directives.len())?;
        }
        tally.selections(&operation.node.selection_set.node, &mut HashSet::new())?;
    }
    for fragment in document.fragments.values() {
        tally.directives(fragment.node.directives.len())?;
        tally.selections(&fragment.node.selection_set.node, &mut HashSet::new())?;
    }
    let mut sizes = Sizes { document, known: HashMap::new() };
    for name in document.fragments.keys() {
        sizes.fragment(name)?;
    }
    for (_, operation) in
        document.operations.iter().filter(|(_, operation)| operation.node.ty == OperationType::Mutation)
    {
        once_each(document, &operation.node.selection_set.node, &mut HashSet::new())?;
    }
    let mut total = Size::default();
    let sets = match &document.operations {
        DocumentOperations::Single(operation) => vec![&operation.node.selection_set.node],
        DocumentOperations::Multiple(operations) => {
            operations.values().map(|operation| &operation.node.selection_set.node).collect()
        }
    };
    for set in sets {
        total = total.beside(sizes.set(set)?);
    }
    total.check(limits)
}

/// Each change under a name of its own. The specification has equal names mean one change; the executor would make two. Circles are known
/// not to be there.
fn once_each<'a>(
    document: &'a ExecutableDocument,
    set: &'a SelectionSet,
    seen: &mut HashSet<&'a Name>,
) -> Result<(), Error> {
    for item in &set.items {
        match &item.node {
            Selection::Field(field) if seen.insert(&field.node.response_key().node) => {}
            Selection::Field(_) => {
                return Err(Error::invalid("query", "two changes have one name: give each an alias of its own"));
            }
            Selection::InlineFragment(fragment) => once_each(document, &fragment.node.selection_set.node, seen)?,
            Selection::FragmentSpread(spread) => {
                if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                    once_each(document, &fragment.node.selection_set.node, seen)?;
                }
            }
        }
    }
    Ok(())
}

/// What is written down, each fragment once.
struct Tally<'a> {
    limits: &'a Limits,
    aliases: usize,
    directives: usize,
}

impl Tally<'_> {
    fn directives(&mut self, more: usize) -> Result<(), Error> {
        self.directives += more;
        if self.directives > self.limits.directives { Err(over("directives", self.limits.directives)) } else { Ok(()) }
    }

    /// Asking for the same thing again costs like an alias: the server answers both.
    fn alias(&mut self) -> Result<(), Error> {
        self.aliases += 1;
        if self.aliases > self.limits.aliases {
            Err(over("aliases and repeated fields", self.limits.aliases))
        } else {
            Ok(())
        }
    }

    fn field(&mut self, field: &Field) -> Result<(), Error> {
        let name = field.name.node.as_str();
        if !self.limits.introspection && (name == "__schema" || name == "__type") {
            return Err(Error::invalid("query", "introspection is not answered here"));
        }
        match &field.alias {
            Some(alias) if alias.node.starts_with("__") => {
                Err(Error::invalid("query", "names that begin with __ are reserved"))
            }
            Some(_) => self.alias(),
            None => Ok(()),
        }
    }

    fn selections<'d>(&mut self, set: &'d SelectionSet, seen: &mut HashSet<(bool, &'d Name)>) -> Result<(), Error> {
        for item in &set.items {
            self.directives(item.node.directives().len())?;
            let asked = match &item.node {
                Selection::Field(field) => {
                    self.field(&field.node)?;
                    self.selections(&field.node.selection_set.node, &mut HashSet::new())?;
                    (true, &field.node.response_key().node)
                }
                Selection::FragmentSpread(spread) => (false, &spread.node.fragment_name.node),
                Selection::InlineFragment(fragment) => {
                    self.selections(&fragment.node.selection_set.node, seen)?;
                    continue;
                }
            };
            if !seen.insert(asked) {
                self.alias()?;
            }
        }
        Ok(())
    }
}

/// How large a selection is with every fragment written out.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    selections: usize,
    depth: usize,
    levels: usize,
}

impl Size {
    fn beside(self, other: Self) -> Self {
        Self {
            selections: self.selections.saturating_add(other.selections),
            depth: self.depth.max(other.depth),
            levels: self.levels.max(other.levels),
        }
    }

    fn check(self, limits: &Limits) -> Result<(), Error> {
        match self {
            Self { depth, .. } if depth > limits.depth => Err(over("levels of fields", limits.depth)),
            Self { levels, .. } if levels > LEVELS => Err(over("levels of fragments", LEVELS)),
            Self { selections, .. } if selections > limits.complexity => {
                Err(over("points of complexity", limits.complexity))
            }
            _ => Ok(()),
        }
    }
}

struct Sizes<'a> {
    document: &'a ExecutableDocument,
    /// `None` while it is being measured: coming back to it is a cycle.
    known: HashMap<&'a Name, Option<Size>>,
}

impl<'a> Sizes<'a> {
    /// An unknown fragment measures nothing: validation names it.
    fn fragment(&mut self, name: &Name) -> Result<Size, Error> {
        let Some((name, fragment)) = self.document.fragments.get_key_value(name) else { return Ok(Size::default()) };
        match self.known.get(name) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(Error::invalid("query", "fragments spread each other in a circle")),
            None => {}
        }
        self.known.insert(name, None);
        let size = self.set(&fragment.node.selection_set.node)?;
        self.known.insert(name, Some(size));
        Ok(size)
    }

    fn set(&mut self, set: &'a SelectionSet) -> Result<Size, Error> {
        let mut total = Size::default();
        for item in &set.items {
            let (inner, field) = match &item.node {
                Selection::Field(field) => (self.set(&field.node.selection_set.node)?, 1),
                Selection::InlineFragment(fragment) => (self.set(&fragment.node.selection_set.node)?, 0),
                Selection::FragmentSpread(spread) => (self.fragment(&spread.node.fragment_name.node)?, 0),
            };
            let selections = inner.selections.saturating_add(1);
            total = total.beside(Size { selections, depth: inner.depth + field, levels: inner.levels + 1 });
        }
        Ok(total)
    }
}

fn over(what: &str, limit: usize) -> Error {
    Error::LimitExceeded(format!("the document has more than {limit} {what}"))
}

/// The parser quotes the document; only what it expected is worth saying.
fn syntax(error: parser::Error) -> ServerError {
    let text = error.to_string();
    let message = match &error {
        parser::Error::Syntax { .. } => text
            .lines()
            .rev()
            .find_map(|line| line.trim_start().strip_prefix("= "))
            .unwrap_or("syntax error")
            .to_owned(),
        _ => text,
    };
    let mut refusal = ServerError::from(error);
    refusal.message = message;
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            body_bytes: 1 << 20,
            answer_bytes: 1 << 24,
            depth: 12,
            complexity: 20_000,
            tokens: 5_000,
            aliases: 30,
            directives: 20,
            introspection: false,
        }
    }

    fn code(text: &str) -> Option<String> {
        let errors = parse(text, &limits()).err()?;
        Some(serde_json::to_value(&errors).unwrap()[0]["extensions"]["code"].as_str().unwrap().to_owned())
    }

    fn refused(text: &str) {
        assert_eq!(code(text).as_deref(), Some("LIMIT_EXCEEDED"), "{}", text.chars().take(100).collect::<String>());
    }

    fn invalid(text: &str) {
        assert_eq!(code(text).as_deref(), Some("INVALID_INPUT"), "{}", text.chars().take(100).collect::<String>());
    }

    #[test]
    fn an_ordinary_document_passes() {
        assert_eq!(
            code(
                "query Chart($id: ID!, $n: Int = 10) { patient(id: $id) { ...P encounters(first: $n) { edges { node { id } } } } } fragment P on Patient { id name { text } }"
            ),
            None
        );
        assert_eq!(
            code(
                "{ patientByIdentifier(system: \"a#b{[(\\\"\", value: \"\"\"x \"y\" \\\"\"\" {{{ \"\"\") { id } } # {{{{"
            ),
            None
        );
    }

    #[test]
    fn l32_aliases_and_repeats() {
        let many = |one: fn(usize) -> String| format!("{{ {} }}", (0..40).map(one).collect::<String>());
        refused(&many(|n| format!("a{n}: viewer {{ id }} ")));
        refused(&many(|_| "viewer { id } ".into()));
        refused(&many(|_| "__typename ".into()));
        refused(&many(|_| "... { viewer { id } } ".into()));
        refused(&format!("{} fragment F on Query {{ viewer {{ id }} }}", many(|_| "...F ".into())));
    }

    #[test]
    fn l32_directives() {
        refused(&format!("{{ __typename {} }}", "@include(if: true) ".repeat(21)));
        refused(&format!("query {} {{ __typename }}", "@a ".repeat(21)));
        refused(&format!("query ($a: Int {}) {{ __typename }}", "@a ".repeat(21)));
        refused(&format!("{{ ...F }} fragment F on Query {} {{ __typename }}", "@a ".repeat(21)));
        refused(&format!("{{ {} }}", "... @skip(if: true) { id } ".repeat(21)));
    }

    #[test]
    fn l32_fragment_bombs_and_circles() {
        let bomb = |width: usize| {
            (0..8)
                .map(|n| {
                    format!(
                        "fragment F{n} on Patient {{ {} }} ",
                        (0..width).map(|w| format!("x{n}{w} {{ ...F{} }} ", n + 1)).collect::<String>()
                    )
                })
                .collect::<String>()
        };
        refused(&format!("{{ patient(id: 1) {{ ...F0 }} }} {} fragment F8 on Patient {{ id }}", bomb(8)));
        invalid("{ ...A } fragment A on Query { ...B } fragment B on Query { ...A }");
        invalid("{ viewer { id } } fragment A on Query { ...A ...A ...A }");
        refused(&format!(
            "{{ ...F0 }} {} fragment F40 on Query {{ __typename }}",
            (0..40).map(|n| format!("fragment F{n} on Query {{ ...F{} }} ", n + 1)).collect::<String>()
        ));
    }

    #[test]
    fn l32_tokens_depth_and_nesting() {
        refused(&format!("{{ {} }}", "a,".repeat(5_001)));
        refused(&format!(
            "query ({}) {{ __typename }}",
            (0..5_000).map(|n| format!("$v{n}: Int ")).collect::<String>()
        ));
        refused(&format!("{{ a(x: {}) }}", "1 ".repeat(5_001)));
        refused(&"{".repeat(100_000));
        refused(&format!("{{ a(x: {}) }}", "[".repeat(100_000)));
        refused(&format!("{} id {}", "{ a ".repeat(13), "}".repeat(13)));
        refused(&format!("{{ a {}", "@".repeat(5_001)));
        refused(&format!("{{ a {}", "\"\" ".repeat(5_001)));
        refused(&"\u{feff}(".repeat(100));
    }

    #[test]
    fn what_is_no_document_is_bad_input_and_is_not_quoted() {
        for text in [
            "",
            "{",
            "{ a(",
            "\"",
            "\"\"\"",
            "query",
            "{ a } }",
            "{ a(s: \"\\u0000\") }",
            "{ a(s: \"\\ud800\") }",
            "secret {",
        ] {
            invalid(text);
        }
        let errors = parse("{ patientByIdentifier(system: \"x\" value: \"Anna Berg\" ) { id }", &limits()).unwrap_err();
        assert!(!serde_json::to_string(&errors).unwrap().contains("Berg"));
    }

    #[test]
    fn a_change_is_made_under_one_name_once() {
        invalid("mutation { a { id } a { version } }");
        invalid("mutation { r: a { id } ...F } fragment F on Mutation { r: a { id } }");
        invalid(
            "mutation { ...F ...G } fragment F on Mutation { a { id } } fragment G on Mutation { ... { a { version } } }",
        );
        assert_eq!(code("mutation { a { id } b: a { id } }"), None);
        assert_eq!(code("{ a { id } a { version } }"), None);
    }

    #[test]
    fn introspection_is_off_and_reserved_names_are_refused() {
        invalid("{ __schema { types { name } } }");
        invalid("{ ...F } fragment F on Query { x: __type(name: \"Patient\") { name } }");
        invalid("{ __kind: viewer { id } }");
        let open = Limits { introspection: true, ..limits() };
        assert!(parse("{ __schema { types { name } } }", &open).is_ok());
    }
}
