//! What `cordon dev` prints for people when it is ready: the addresses, a token of each organisation, and three things
//! to try.

use super::{Home, ROLES};
use crate::ops::OpsError;
use crate::tenant::Tenant;
use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

const HEADING: Style = Style::new().bold();
const LINK: Style = AnsiColor::Cyan.on_default().underline();
const FAINT: Style = Style::new().dimmed();

/// Three queries for the shell, each with what it shows.
const QUESTIONS: [(&str, &str); 3] = [
    ("Who am I, and where?", "{ viewer { name roles tenant { name } } }"),
    (
        "Whose name begins with \"th\"? The database never sees the name, nor the search.",
        "{ patients(search: \"th\") { nodes { name { text } birthDate notes(first: 1) { nodes { title body } } } } }",
    ),
    (
        "Which appointments are next?",
        "{ encounters(filter: { status: [PLANNED] }) { nodes { startedAt reason patient { name { text } } } } }",
    ),
];

/// Prints the text. `documents` are the tenants as `--json` prints them, with their tokens. Colours are dropped where
/// standard output is not a terminal.
pub fn print(
    url: &str,
    explorer: Option<&str>,
    home: &Home,
    tenants: &[Tenant],
    documents: &[Value],
) -> Result<(), OpsError> {
    let mut out = anstream::stdout().lock();
    out.write_all(text(url, explorer, home, tenants, documents).as_bytes())?;
    Ok(out.flush()?)
}

fn text(url: &str, explorer: Option<&str>, home: &Home, tenants: &[Tenant], documents: &[Value]) -> String {
    let mut text = format!("\n{HEADING}Cordon is ready.{HEADING:#} Stop it with Ctrl-C; nothing is lost.\n\n");
    let _ = writeln!(text, "  GraphQL   {LINK}{url}{LINK:#}");
    if let Some(explorer) = explorer {
        let _ = writeln!(text, "  Explorer  {LINK}{explorer}{LINK:#}");
    }
    let _ = writeln!(text, "\n{HEADING}A clinician's token of each organisation{HEADING:#}, valid for 12 hours\n");
    for (tenant, document) in tenants.iter().zip(documents) {
        let model = document.get("model").and_then(Value::as_str).unwrap_or_default();
        let token = document.get("tokens").and_then(|tokens| tokens.get(ROLES[0])).and_then(Value::as_str);
        let _ = writeln!(text, "  {} ({}, model {model})", tenant.slug, tenant.name);
        let _ = writeln!(text, "  {FAINT}{}{FAINT:#}\n", token.unwrap_or_default());
    }
    let _ = writeln!(text, "  Other roles: {}", shown(&home.dir.join("tokens-*.json")));
    let _ = writeln!(text, "\n{HEADING}Three things to try{HEADING:#}");
    for ((question, query), tenant) in QUESTIONS.iter().zip(tenants) {
        let headers = shown(&home.headers_file(&tenant.slug));
        let _ = writeln!(text, "\n  {question} {FAINT}({}){FAINT:#}", tenant.name);
        let _ = writeln!(text, "curl -s {url} -H @{headers} -d '{}'", json!({ "query": query }));
    }
    if explorer.is_some() {
        text.push_str("\n  Or open the explorer, choose an organisation, and run the chart page.\n");
    }
    text
}

/// A path as a person would write it: relative where it is below the working directory, and quoted where the shell
/// needs it.
fn shown(path: &Path) -> String {
    let below = std::env::current_dir().ok().and_then(|directory| path.strip_prefix(directory).ok());
    let path = below.unwrap_or(path).display().to_string();
    match path.contains([' ', '\'', '"', '$', '&', ';', '(', ')']) {
        true => format!("'{}'", path.replace('\'', "'\\''")),
        false => path,
    }
}
