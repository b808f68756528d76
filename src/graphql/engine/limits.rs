//! Limits of a document, checked before any code recurses over it. The order is: size of the body (in `http`); tokens
//! and nesting of brackets; the grammar; aliases, directives, repeated fields, cycles of fragments, and the size with
//! every fragment expanded; only then async-graphql's validation, with its complexity per page, and execution. These
//! checks read the document only, never variables or data.

use crate::config::Limits;
use crate::error::Error;
use async_graphql::parser::types::{
    DocumentOperations, ExecutableDocument, Field, OperationType, Selection, SelectionSet,
};
use async_graphql::parser::{self, parse_query};
use async_graphql::{Name, ServerError};
use std::collections::{HashMap, HashSet};

/// Limit for brackets inside brackets, so that no parser recurses deeper than this.
const MAX_BRACKET_NESTING: usize = 64;
/// Limit for selection sets inside selection sets, counting those of fragments.
const MAX_SELECTION_NESTING: usize = 32;

/// Parses a document and checks it against the limits.
///
/// # Errors
/// One error: `LIMIT_EXCEEDED` with the limit, or `INVALID_INPUT` for a malformed document.
pub fn parse(text: &str, limits: &Limits) -> Result<ExecutableDocument, Vec<ServerError>> {
    let refuse = |error: Error| vec![crate::graphql::error::server_error(error)];
    check_tokens(text, limits).map_err(refuse)?;
    let document = parse_query(text).map_err(|error| crate::graphql::error::with_codes(vec![syntax(error)]))?;
    check_structure(&document, limits).map_err(refuse)?;
    Ok(document)
}

/// Counts tokens and the nesting of brackets without allocating.
fn check_tokens(text: &str, limits: &Limits) -> Result<(), Error> {
    let (mut tokens, mut nesting, mut rest) = (0_usize, 0_usize, text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let taken = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b',' | 0xEF | 0xBB | 0xBF => {
                rest = tail;
                continue;
            }
            b'#' => {
                rest = rest.get(prefix_length(rest, |byte| byte != b'\n' && byte != b'\r')..).unwrap_or_default();
                continue;
            }
            b'"' => string_length(rest)?,
            b'.' => prefix_length(rest, |byte| byte == b'.'),
            byte if byte == b'_' || byte.is_ascii_alphanumeric() => {
                prefix_length(rest, |byte| byte == b'_' || byte.is_ascii_alphanumeric())
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
            return Err(exceeded("tokens", limits.tokens));
        }
        if nesting > MAX_BRACKET_NESTING {
            return Err(exceeded("nested brackets", MAX_BRACKET_NESTING));
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    Ok(())
}

/// Number of bytes at the start that belong to the same token.
fn prefix_length(bytes: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    bytes.iter().position(|byte| !belongs(*byte)).unwrap_or(bytes.len())
}

/// Length of the string literal at the start. An escaped NUL is refused: PostgreSQL cannot store it, so only an attack
/// would send it.
fn string_length(bytes: &[u8]) -> Result<usize, Error> {
    let block = bytes.starts_with(b"\"\"\"");
    let mut at = if block { 3 } else { 1 };
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            [b'"', b'"', b'"', ..] if block => return Ok(at + 3),
            [b'"', ..] if !block => return Ok(at + 1),
            [b'\\', b'"', b'"', b'"', ..] if block => at += 4,
            [b'\\', b'u', b'0', b'0', b'0', b'0', ..] if !block => {
                return Err(Error::invalid("query", "a string contains NUL"));
            }
            [b'\\', _, ..] if !block => at += 2,
            _ => at += 1,
        }
    }
    Ok(bytes.len())
}

fn check_structure(document: &ExecutableDocument, limits: &Limits) -> Result<(), Error> {
    let mut counts = DocumentCounts { limits, aliases: 0, directives: 0 };
    for (_, operation) in document.operations.iter() {
        counts.add_directives(operation.node.directives.len())?;
        for variable in &operation.node.variable_definitions {
            counts.add_directives(variable.node.directives.len())?;
        }
        counts.add_selections(&operation.node.selection_set.node, &mut HashSet::new())?;
    }
    for fragment in document.fragments.values() {
        counts.add_directives(fragment.node.directives.len())?;
        counts.add_selections(&fragment.node.selection_set.node, &mut HashSet::new())?;
    }
    let mut sizes = ExpandedSizes { document, measured: HashMap::new() };
    for name in document.fragments.keys() {
        sizes.of_fragment(name)?;
    }
    for (_, operation) in
        document.operations.iter().filter(|(_, operation)| operation.node.ty == OperationType::Mutation)
    {
        check_unique_mutations(document, &operation.node.selection_set.node, &mut HashSet::new())?;
    }
    let mut total = SelectionSize::default();
    let sets = match &document.operations {
        DocumentOperations::Single(operation) => vec![&operation.node.selection_set.node],
        DocumentOperations::Multiple(operations) => {
            operations.values().map(|operation| &operation.node.selection_set.node).collect()
        }
    };
    for set in sets {
        total = total.plus(sizes.of_selections(set)?);
    }
    total.check(limits)
}

/// Refuses two mutations with the same response name. By the specification they are one mutation; async-graphql would
/// execute it twice. Fragments must be known to be free of cycles.
fn check_unique_mutations<'a>(
    document: &'a ExecutableDocument,
    set: &'a SelectionSet,
    seen: &mut HashSet<&'a Name>,
) -> Result<(), Error> {
    for item in &set.items {
        match &item.node {
            Selection::Field(field) if seen.insert(&field.node.response_key().node) => {}
            Selection::Field(_) => {
                return Err(Error::invalid("query", "two mutations have the same name: give each its own alias"));
            }
            Selection::InlineFragment(fragment) => {
                check_unique_mutations(document, &fragment.node.selection_set.node, seen)?
            }
            Selection::FragmentSpread(spread) => {
                if let Some(fragment) = document.fragments.get(&spread.node.fragment_name.node) {
                    check_unique_mutations(document, &fragment.node.selection_set.node, seen)?;
                }
            }
        }
    }
    Ok(())
}

/// Counts over the document as it is written, with each fragment counted once.
struct DocumentCounts<'a> {
    limits: &'a Limits,
    aliases: usize,
    directives: usize,
}

impl DocumentCounts<'_> {
    fn add_directives(&mut self, more: usize) -> Result<(), Error> {
        self.directives += more;
        if self.directives > self.limits.directives {
            Err(exceeded("directives", self.limits.directives))
        } else {
            Ok(())
        }
    }

    /// A repeated field counts like an alias, because the server resolves both.
    fn add_alias(&mut self) -> Result<(), Error> {
        self.aliases += 1;
        if self.aliases > self.limits.aliases {
            Err(exceeded("aliases and repeated fields", self.limits.aliases))
        } else {
            Ok(())
        }
    }

    fn add_field(&mut self, field: &Field) -> Result<(), Error> {
        let name = field.name.node.as_str();
        if !self.limits.introspection && (name == "__schema" || name == "__type") {
            return Err(Error::invalid("query", "introspection is disabled"));
        }
        match &field.alias {
            Some(alias) if alias.node.starts_with("__") => {
                Err(Error::invalid("query", "names that begin with __ are reserved"))
            }
            Some(_) => self.add_alias(),
            None => Ok(()),
        }
    }

    fn add_selections<'d>(&mut self, set: &'d SelectionSet, seen: &mut HashSet<(bool, &'d Name)>) -> Result<(), Error> {
        for item in &set.items {
            self.add_directives(item.node.directives().len())?;
            let selected = match &item.node {
                Selection::Field(field) => {
                    self.add_field(&field.node)?;
                    self.add_selections(&field.node.selection_set.node, &mut HashSet::new())?;
                    (true, &field.node.response_key().node)
                }
                Selection::FragmentSpread(spread) => (false, &spread.node.fragment_name.node),
                Selection::InlineFragment(fragment) => {
                    self.add_selections(&fragment.node.selection_set.node, seen)?;
                    continue;
                }
            };
            if !seen.insert(selected) {
                self.add_alias()?;
            }
        }
        Ok(())
    }
}

/// The size of a selection set with every fragment expanded.
#[derive(Debug, Clone, Copy, Default)]
struct SelectionSize {
    selections: usize,
    /// Fields inside fields.
    depth: usize,
    /// Selection sets inside selection sets.
    levels: usize,
}

impl SelectionSize {
    /// The size of two selections beside each other.
    fn plus(self, other: Self) -> Self {
        Self {
            selections: self.selections.saturating_add(other.selections),
            depth: self.depth.max(other.depth),
            levels: self.levels.max(other.levels),
        }
    }

    fn check(self, limits: &Limits) -> Result<(), Error> {
        match self {
            Self { depth, .. } if depth > limits.depth => Err(exceeded("levels of fields", limits.depth)),
            Self { levels, .. } if levels > MAX_SELECTION_NESTING => {
                Err(exceeded("levels of fragments", MAX_SELECTION_NESTING))
            }
            Self { selections, .. } if selections > limits.complexity => {
                Err(exceeded("points of complexity", limits.complexity))
            }
            _ => Ok(()),
        }
    }
}

/// Computes expanded sizes, each fragment once: measuring it at every spread would take as long as the expansion is
/// large.
struct ExpandedSizes<'a> {
    document: &'a ExecutableDocument,
    /// `None` while a fragment is being measured: meeting it again then means a cycle.
    measured: HashMap<&'a Name, Option<SelectionSize>>,
}

impl<'a> ExpandedSizes<'a> {
    /// An unknown fragment has size zero; validation reports it later.
    fn of_fragment(&mut self, name: &Name) -> Result<SelectionSize, Error> {
        let Some((name, fragment)) = self.document.fragments.get_key_value(name) else {
            return Ok(SelectionSize::default());
        };
        match self.measured.get(name) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => return Err(Error::invalid("query", "fragments spread each other in a cycle")),
            None => {}
        }
        self.measured.insert(name, None);
        let size = self.of_selections(&fragment.node.selection_set.node)?;
        self.measured.insert(name, Some(size));
        Ok(size)
    }

    fn of_selections(&mut self, set: &'a SelectionSet) -> Result<SelectionSize, Error> {
        let mut total = SelectionSize::default();
        for item in &set.items {
            let (inner, field) = match &item.node {
                Selection::Field(field) => (self.of_selections(&field.node.selection_set.node)?, 1),
                Selection::InlineFragment(fragment) => (self.of_selections(&fragment.node.selection_set.node)?, 0),
                Selection::FragmentSpread(spread) => (self.of_fragment(&spread.node.fragment_name.node)?, 0),
            };
            let selections = inner.selections.saturating_add(1);
            total = total.plus(SelectionSize { selections, depth: inner.depth + field, levels: inner.levels + 1 });
        }
        Ok(total)
    }
}

fn exceeded(what: &str, limit: usize) -> Error {
    Error::LimitExceeded(format!("the document has more than {limit} {what}"))
}

/// Reduces a parser error to what the parser expected: its own message quotes the document, which may hold PHI.
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
    let mut error = ServerError::from(error);
    error.message = message;
    error
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
                "query Chart($id: ID!, $n: Int = 10) {
                    patient(id: $id) { ...P encounters(first: $n) { edges { node { id } } } }
                }
                fragment P on Patient { id name { text } }"
            ),
            None
        );
        assert_eq!(
            code(r##"{ patientByIdentifier(system: "a#b{[(\"", value: """x "y" \""" {{{ """) { id } } # {{{{"##),
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
    fn l32_fragment_bombs_and_cycles() {
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
    fn a_malformed_document_is_invalid_and_is_not_quoted() {
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
    fn each_mutation_has_its_own_response_name() {
        invalid("mutation { a { id } a { version } }");
        invalid("mutation { r: a { id } ...F } fragment F on Mutation { r: a { id } }");
        invalid(
            "mutation { ...F ...G }
            fragment F on Mutation { a { id } }
            fragment G on Mutation { ... { a { version } } }",
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
