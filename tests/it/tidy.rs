//! The layout and import rows of STYLE.md, checked over the text of the tree. What is forbidden is listed first, so that a change of
//! the rules is a change of these tables. Each check is shown to fail on a line that breaks it.

use std::path::{Path, PathBuf};

/// Modules by row: a module imports only rows below its own.
const ROWS: [&[&str]; 10] = [
    &["ids", "error", "config"],
    &["db", "cluster", "crypto", "flags", "telemetry"],
    &["tenant"],
    &["auth", "audit", "isolation", "admission", "readiness"],
    &["guard"],
    &["model", "fhir", "app"],
    &["ops", "import", "export", "sample"],
    &["graphql", "platform"],
    &["http"],
    &["main", "cli"],
];
/// Modules that may import from their own row: the binary hands its arguments to the commands.
const SAME_ROW: [(&str, &str); 1] = [("main", "cli")];

/// Third-party crates, and the only paths that may name them.
const HOMES: [(&str, &[&str]); 9] = [
    ("actix_web", &["src/http/"]),
    ("async_graphql", &["src/graphql/", "src/platform/", "src/http/graphql.rs"]),
    ("unleash_api_client", &["src/flags/unleash.rs"]),
    ("opentelemetry_sdk", &["src/telemetry"]),
    ("opentelemetry_otlp", &["src/telemetry"]),
    ("opentelemetry_prometheus", &["src/telemetry"]),
    ("tracing_opentelemetry", &["src/telemetry"]),
    ("bb8", &["src/db/"]),
    ("tokio_postgres", &["src/db/", "src/cluster/"]),
];
/// Modules that never name diesel.
const WITHOUT_DIESEL: [&str; 3] = ["src/http", "src/graphql", "src/fhir"];

/// Files that name a raw connection: the database's own, the tenant transaction, the catalog, and the operator's. Anything else goes
/// through the guard.
const RAW_CONNECTIONS: [&str; 11] = [
    "src/cluster/supervisor.rs",
    "src/db/connect.rs",
    "src/db/migrate.rs",
    "src/db/pool.rs",
    "src/guard/tx/query.rs",
    "src/ops/log.rs",
    "src/ops/migrate.rs",
    "src/ops/operator.rs",
    "src/ops/provision.rs",
    "src/ops/server.rs",
    "src/tenant/catalog.rs",
];
/// How a raw connection is named.
const RAW_NAMES: [&str; 3] = ["AsyncPgConnection", "tokio_postgres::Client", ".connect("];

/// The top level, beside dot-files and `target`.
const TOP_LEVEL: [&str; 14] = [
    "Cargo.toml",
    "Cargo.lock",
    "schema.graphql",
    "src",
    "migrations",
    "diesel.toml",
    "tests",
    "config",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "x",
    "docs",
    "benches",
];
/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "manager"];
/// More is two jobs in one file.
const LONGEST_FILE: usize = 400;

/// Statics that hold state, and are known not to hold a tenant's.
const KNOWN_STATICS: [(&str, &str); 4] = [
    ("src/crypto/mod.rs", "INTEGRITY_FAILURES"),
    ("src/crypto/mod.rs", "SEALED"),
    ("src/crypto/mod.rs", "OPENED"),
    ("src/db/pool.rs", "CLOSED_UNCLEAN"),
];

#[test]
fn modules_import_only_rows_below() {
    passes(imports);
    for (file, text) in [
        ("src/ids.rs", "use crate::cluster::Cluster;"),
        ("src/model/note.rs", "use crate::{error::Result, http::Server};"),
        ("src/auth/mod.rs", "fn f() { crate::audit::write() }"),
        ("src/db/pool.rs", "use crate::{\n    crypto::Sealed,\n};"),
        ("src/db/mod.rs", "use super::guard::Guard;"),
        ("src/db/pool.rs", "use super::super::guard::Guard;"),
        ("src/cli/token.rs", "use crate::main::Arguments;"),
        ("src/http/mod.rs", "use crate::attic::x;"),
        ("src/attic.rs", "use std::fmt;"),
    ] {
        assert_eq!(imports(file, text).len(), 1, "{file}: {text}");
    }
    for (file, text) in [
        ("src/model/note.rs", "use crate::model::patient; use crate::{ids::{NoteId, PatientId}, guard::TenantTx};"),
        ("src/main.rs", "cordon::cli::run()"),
        ("src/db/pool.rs", "use super::cluster; // crate::http is above\nlet s = \"crate::http\";"),
        ("src/ids.rs", "//! Made by [`crate::guard`].\nmod a {}\n#[cfg(test)]\nmod tests { use crate::db; }"),
    ] {
        assert_eq!(imports(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn crates_stay_in_their_homes() {
    passes(homes);
    for (file, text) in [
        ("src/model/note.rs", "use async_graphql::Object;"),
        ("src/graphql/note.rs", "use actix_web::web;"),
        ("src/guard/mod.rs", "use diesel_async::pooled_connection::bb8::Pool;"),
        ("src/http/mod.rs", "use async_graphql::Request;"),
        ("src/fhir/patient.rs", "use diesel::prelude::*;"),
        ("src/ops/provision.rs", "tokio_postgres::connect(url)"),
        ("src/flags/mod.rs", "use unleash_api_client::Client;"),
    ] {
        assert_eq!(homes(file, text).len(), 1, "{file}: {text}");
    }
    assert!(homes("src/http/graphql.rs", "use async_graphql::Request; use actix_web::web; // diesel").is_empty());
}

#[test]
fn raw_connections_are_counted() {
    let mut found: Vec<_> =
        sources().into_iter().filter(|(_, text)| raw_connections(text) > 0).map(|(file, _)| file).collect();
    found.sort();
    let allowed = RAW_CONNECTIONS.map(str::to_owned).to_vec();
    assert_eq!(found, allowed, "files that name a raw connection (left) and those that may (right)");
    assert_eq!(
        raw_connections(
            "use x::AsyncPgConnection;\nlet c: tokio_postgres::Client = config.connect(tls); // AsyncPgConnection"
        ),
        3
    );
}

/// L-26: a tenant that is ambient is the previous request's tenant sooner or later.
#[test]
fn l26_no_ambient_tenant() {
    passes(ambient);
    for text in [
        "tokio::task_local! { static TENANT: TenantId; }",
        "thread_local! {\n    static TENANT: Cell<u8> = Cell::new(0); }",
        "static mut TENANT: u8 = 0;",
        "pub static KEYS:\n    Mutex<Option<TenantKeys>> = Mutex::new(None);",
        "static LAST: OnceLock<TenantId> = OnceLock::new();",
        "static LAST: std::sync::atomic::AtomicU64 = AtomicU64::new(0);",
        "lazy_static! { static ref CACHE: HashMap<Uuid, Pool> = x; }",
    ] {
        assert_eq!(ambient("src/guard/mod.rs", text).len(), 1, "{text}");
    }
    assert!(
        ambient(
            "src/db/mod.rs",
            "fn f(x: &'static Mutex<u8>) {}\nstatic NAME: &str = \"static mut\";\nimpl<T: 'static> X {}"
        )
        .is_empty()
    );
}

#[test]
fn files_open_with_their_contract_and_stay_short() {
    passes(shape);
    assert_eq!(shape("src/ids.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(shape("src/ids.rs", &format!("//! Ids.\n{}", "fn f() {}\n".repeat(400))).len(), 1);
    assert!(
        shape("src/ids.rs", &format!("//! Ids.\n#[cfg(test)]\nmod tests {{\n{}}}", "fn f() {}\n".repeat(400)))
            .is_empty()
    );
}

#[test]
fn names_say_something() {
    passes(names);
    for file in ["src/db/utils.rs", "src/common/mod.rs", "tests/it/helpers.rs"] {
        assert_eq!(names(file, "").len(), 1, "{file}");
    }
    assert_eq!(names("src/lib.rs", "pub mod manager;\nmod tests {}").len(), 1);
    let tests = files("tests").into_iter().flat_map(|file| names(&file, "")).collect::<Vec<_>>();
    assert_eq!(tests, Vec::<String>::new());
}

#[test]
fn the_top_level_is_known() {
    let entries = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strangers: Vec<_> = entries.filter(|name| !at_home(name)).collect();
    assert_eq!(strangers, Vec::<String>::new());
    assert!(!at_home("scripts") && !at_home("Makefile") && at_home(".ci") && at_home("target"));
}

fn at_home(name: &str) -> bool {
    name.starts_with('.') || name == "target" || TOP_LEVEL.contains(&name)
}

fn imports(file: &str, text: &str) -> Vec<String> {
    let own = module(file);
    if own == "lib" {
        return Vec::new();
    }
    let Some(row) = row_of(&own) else { return vec![format!("{file}: module {own} has no row")] };
    let text = code(text);
    let mut named = roots(&text, "crate::");
    named.extend(roots(&text, "cordon::"));
    if Path::new(file).components().count() == 2 || file.ends_with("/mod.rs") {
        named.extend(roots(&text, "super::").into_iter().filter(|name| row_of(name).is_some()));
    }
    if text.contains("super::super") {
        return vec![format!("{file}: write crate:: for super::super::")];
    }
    named.retain(|name| *name != own && !SAME_ROW.contains(&(own.as_str(), name.as_str())));
    named.retain(|name| row_of(name).is_none_or(|other| other >= row));
    named.into_iter().map(|name| format!("{file}: {own} is in row {row} and may not know {name}")).collect()
}

fn homes(file: &str, text: &str) -> Vec<String> {
    let text = code(text);
    let mut wrong: Vec<_> = HOMES
        .iter()
        .filter(|(krate, paths)| names_word(&text, krate) && !paths.iter().any(|path| file.starts_with(path)))
        .collect();
    let diesel = ("diesel", &[] as &[&str]);
    if WITHOUT_DIESEL.iter().any(|path| file.starts_with(path))
        && ["diesel", "diesel_async"].iter().any(|krate| names_word(&text, krate))
    {
        wrong.push(&diesel);
    }
    wrong.into_iter().map(|(krate, paths)| format!("{file}: {krate} lives in {paths:?}")).collect()
}

fn raw_connections(text: &str) -> usize {
    let text = code(text);
    RAW_NAMES.iter().map(|name| text.matches(name).count()).sum()
}

fn ambient(file: &str, text: &str) -> Vec<String> {
    let text = code(text);
    let holders = ["Mutex", "RwLock", "Once", "Lazy", "Cell", "Atomic", "Swap", "Map", "mut "];
    let mut wrong: Vec<String> = ["task_local", "thread_local", "lazy_static"]
        .iter()
        .filter(|word| names_word(&text, word))
        .map(|word| (*word).into())
        .collect();
    if wrong.is_empty() {
        let statics = text
            .match_indices("static ")
            .filter(|(at, _)| !text[..*at].ends_with(|before: char| before == '\'' || is_word(before)));
        let declared = statics.map(|(at, _)| text[at..].split(['=', ';']).next().unwrap_or_default());
        let stateful = declared.filter(|text| text.contains(':') && holders.iter().any(|holder| text.contains(holder)));
        wrong = stateful.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    }
    wrong.retain(|found| {
        !KNOWN_STATICS.iter().any(|(known, name)| *known == file && found.contains(&format!("static {name}:")))
    });
    wrong.into_iter().map(|found| format!("{file}: {found}: pass the tenant as a value")).collect()
}

fn shape(file: &str, text: &str) -> Vec<String> {
    let lines = production(text).lines().count();
    let mut wrong = Vec::new();
    if !text.starts_with("//! ") {
        wrong.push(format!("{file}: opens without its contract, //!"));
    }
    if lines > LONGEST_FILE {
        wrong.push(format!("{file}: {lines} lines"));
    }
    wrong
}

fn names(file: &str, text: &str) -> Vec<String> {
    let text = code(text);
    let modules =
        text.match_indices("mod ").filter_map(|(at, word)| text[at + word.len()..].split(|c| !is_word(c)).next());
    let parts = file.split('/').map(|part| part.trim_end_matches(".rs"));
    parts
        .chain(modules)
        .filter(|name| EMPTY_NAMES.contains(name))
        .map(|name| format!("{file}: {name} says nothing"))
        .collect()
}

/// Complaints of a check over the whole of `src` fail the test.
fn passes(check: fn(&str, &str) -> Vec<String>) {
    let wrong: Vec<String> = sources().into_iter().flat_map(|(file, text)| check(&file, &text)).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn sources() -> Vec<(String, String)> {
    let read = |file: String| (std::fs::read_to_string(root().join(&file)).unwrap(), file);
    let found: Vec<_> = files("src").into_iter().map(read).map(|(text, file)| (file, text)).collect();
    assert!(found.len() > 3, "the tree is somewhere else");
    found
}

fn files(under: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(under)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{under}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path));
        } else if path.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn module(file: &str) -> String {
    file.trim_start_matches("src/").split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
}

fn row_of(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// First path segments after `prefix`, those of a braced group one by one.
fn roots(code: &str, prefix: &str) -> Vec<String> {
    let starts = code
        .match_indices(prefix)
        .filter(|(at, _)| !code[..*at].ends_with(|before: char| is_word(before) || before == ':'));
    let mut found = Vec::new();
    for (at, _) in starts {
        let rest = code[at + prefix.len()..].trim_start();
        let mut depth = 0;
        let mut word = String::new();
        let mut wanted = true;
        for c in rest.chars() {
            match c {
                c if is_word(c) && wanted => word.push(c),
                c => {
                    if !word.is_empty() {
                        found.push(std::mem::take(&mut word));
                        wanted = false;
                    }
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 1 => wanted = true,
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

/// Whether the word occurs, and not as a part of a longer one.
fn names_word(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// A file without the tests at its end.
fn production(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// What the compiler sees of it, tests aside: comments and string literals are blank.
fn code(text: &str) -> String {
    let mut rest = production(text);
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
