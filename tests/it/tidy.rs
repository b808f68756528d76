//! The rules of the source tree in `docs/architecture.md`: layout, imports, homes of crates, raw connections and
//! statics. The rules are the tables at the beginning. Each test also shows that its check fails on code that breaks
//! the rule.

use crate::support::source_text::{code_only, contains_word, first_path_segments, is_word_char, without_tests};
use std::path::{Path, PathBuf};

/// Modules by row. A module may import from rows below its own only.
const ROWS: [&[&str]; 10] = [
    &["ids", "error", "config"],
    &["db", "cluster", "crypto", "flags", "telemetry"],
    &["tenant"],
    &["auth", "audit", "isolation", "admission", "readiness"],
    &["guard"],
    &["model", "fhir", "app"],
    &["ops", "import", "sample"],
    &["graphql"],
    &["http"],
    &["main", "cli"],
];
/// Imports that are permitted within a row: the binary passes its arguments to the commands.
const SAME_ROW: [(&str, &str); 1] = [("main", "cli")];

/// Third-party crates, and the paths that may name them.
const HOMES: [(&str, &[&str]); 9] = [
    ("actix_web", &["src/http/"]),
    ("async_graphql", &["src/graphql/", "src/http/graphql.rs"]),
    ("unleash_api_client", &["src/flags/unleash.rs"]),
    ("opentelemetry_sdk", &["src/telemetry"]),
    ("opentelemetry_otlp", &["src/telemetry"]),
    ("opentelemetry_prometheus", &["src/telemetry"]),
    ("tracing_opentelemetry", &["src/telemetry"]),
    ("bb8", &["src/db/"]),
    ("tokio_postgres", &["src/db/", "src/cluster/"]),
];
/// Modules that must not name Diesel.
const WITHOUT_DIESEL: [&str; 3] = ["src/http", "src/graphql", "src/fhir"];

/// Files that may name a raw connection: those of the database, the tenant transaction, the isolation check, the
/// catalog and the operations. All others use the guard.
const RAW_CONNECTIONS: [&str; 15] = [
    "src/cluster/supervisor.rs",
    "src/db/connect.rs",
    "src/db/migrate.rs",
    "src/db/pool.rs",
    "src/guard/tx/mod.rs",
    "src/guard/tx/query.rs",
    "src/isolation/mod.rs",
    "src/ops/migrate.rs",
    "src/ops/operation_log.rs",
    "src/ops/operator.rs",
    "src/ops/provision.rs",
    "src/ops/server.rs",
    "src/tenant/catalog/listener.rs",
    "src/tenant/catalog/mod.rs",
    "src/tenant/catalog/rows.rs",
];
/// Texts that name a raw connection.
const RAW_NAMES: [&str; 5] = ["AsyncPgConnection", "tokio_postgres::Client", ".connect(", ".pg()", "open_session("];

/// The entries of the top level, without dot-files and `target`.
const TOP_LEVEL: [&str; 17] = [
    "Cargo.toml",
    "Cargo.lock",
    "schema.graphql",
    "src",
    "migrations",
    "diesel.toml",
    "tests",
    "config",
    "rust-toolchain.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
    "x",
    "docs",
    "benches",
];
/// Names of files and modules that do not tell what is in them.
const VAGUE_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "manager"];
/// The maximum length of a source file, without its unit tests.
const MAX_FILE_LINES: usize = 400;

/// Statics with state that is known not to belong to a tenant.
const PERMITTED_STATICS: [(&str, &str); 4] = [
    ("src/crypto/mod.rs", "INTEGRITY_FAILURES"),
    ("src/crypto/mod.rs", "SEALED"),
    ("src/crypto/mod.rs", "OPENED"),
    ("src/db/pool.rs", "CLOSED_UNCLEAN"),
];

#[test]
fn modules_import_only_rows_below() {
    assert_no_violations(imports);
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
    assert_no_violations(homes);
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

/// The doc tests of `TenantTx` are compiled as another crate, so they would not notice a field that this crate can
/// reach.
#[test]
fn the_fields_of_a_tenant_transaction_are_private() {
    let sources: std::collections::HashMap<_, _> = sources().into_iter().collect();
    let text = &sources["src/guard/tx/mod.rs"];
    let fields = text.split("pub struct TenantTx {").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    assert!(fields.contains("session: ") && !fields.contains("pub"), "{fields}");
}

/// L-26: an ambient tenant would sooner or later be the tenant of the previous request.
#[test]
fn l26_no_ambient_tenant() {
    assert_no_violations(ambient);
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
fn files_start_with_a_comment_and_are_short() {
    assert_no_violations(shape);
    assert_eq!(shape("src/ids.rs", "use std::fmt;\n").len(), 1);
    assert_eq!(shape("src/ids.rs", &format!("//! Ids.\n{}", "fn f() {}\n".repeat(400))).len(), 1);
    assert!(
        shape("src/ids.rs", &format!("//! Ids.\n#[cfg(test)]\nmod tests {{\n{}}}", "fn f() {}\n".repeat(400)))
            .is_empty()
    );
}

/// rustfmt breaks code at this width, but neither comments, strings nor SQL.
#[test]
fn lines_have_at_most_120_columns() {
    let code = ["src", "tests", "benches"].into_iter().flat_map(|folder| files(folder, ".rs"));
    let sql = ["src", "migrations"].into_iter().flat_map(|folder| files(folder, ".sql"));
    let written = code.chain(sql).filter(|file| !file.starts_with("src/db/schema/"));
    let long = written.flat_map(|file| {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let long: Vec<_> = (1..).zip(text.lines()).filter(|(_, line)| line.chars().count() > 120).collect();
        long.iter().map(|(number, _)| format!("{file}:{number}")).collect::<Vec<_>>()
    });
    assert_eq!(long.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn names_are_specific() {
    assert_no_violations(names);
    for file in ["src/db/utils.rs", "src/common/mod.rs", "tests/it/helpers.rs"] {
        assert_eq!(names(file, "").len(), 1, "{file}");
    }
    assert_eq!(names("src/lib.rs", "pub mod manager;\nmod tests {}").len(), 1);
    let tests = files("tests", ".rs").into_iter().flat_map(|file| names(&file, "")).collect::<Vec<_>>();
    assert_eq!(tests, Vec::<String>::new());
}

#[test]
fn the_top_level_is_known() {
    let entries = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unknown: Vec<_> = entries.filter(|name| !is_permitted_entry(name)).collect();
    assert_eq!(unknown, Vec::<String>::new());
    assert!(
        !is_permitted_entry("scripts")
            && !is_permitted_entry("Makefile")
            && is_permitted_entry(".ci")
            && is_permitted_entry("target")
    );
}

fn is_permitted_entry(name: &str) -> bool {
    name.starts_with('.') || name == "target" || TOP_LEVEL.contains(&name)
}

fn imports(file: &str, text: &str) -> Vec<String> {
    let own = module(file);
    if own == "lib" {
        return Vec::new();
    }
    let Some(row) = row_of(&own) else { return vec![format!("{file}: module {own} has no row")] };
    let text = code_only(text);
    let mut named = first_path_segments(&text, "crate::");
    named.extend(first_path_segments(&text, "cordon::"));
    if Path::new(file).components().count() == 2 || file.ends_with("/mod.rs") {
        named.extend(first_path_segments(&text, "super::").into_iter().filter(|name| row_of(name).is_some()));
    }
    if text.contains("super::super") {
        return vec![format!("{file}: write crate:: for super::super::")];
    }
    named.retain(|name| *name != own && !SAME_ROW.contains(&(own.as_str(), name.as_str())));
    named.retain(|name| row_of(name).is_none_or(|other| other >= row));
    named.into_iter().map(|name| format!("{file}: {own} is in row {row} and may not know {name}")).collect()
}

fn homes(file: &str, text: &str) -> Vec<String> {
    let text = code_only(text);
    let mut violations: Vec<_> = HOMES
        .iter()
        .filter(|(krate, paths)| contains_word(&text, krate) && !paths.iter().any(|path| file.starts_with(path)))
        .collect();
    let diesel = ("diesel", &[] as &[&str]);
    if WITHOUT_DIESEL.iter().any(|path| file.starts_with(path))
        && ["diesel", "diesel_async"].iter().any(|krate| contains_word(&text, krate))
    {
        violations.push(&diesel);
    }
    violations.into_iter().map(|(krate, paths)| format!("{file}: {krate} lives in {paths:?}")).collect()
}

fn raw_connections(text: &str) -> usize {
    let text = code_only(text);
    RAW_NAMES.iter().map(|name| text.matches(name).count()).sum()
}

fn ambient(file: &str, text: &str) -> Vec<String> {
    let text = code_only(text);
    let holders = ["Mutex", "RwLock", "Once", "Lazy", "Cell", "Atomic", "Swap", "Map", "mut "];
    let mut violations: Vec<String> = ["task_local", "thread_local", "lazy_static"]
        .iter()
        .filter(|word| contains_word(&text, word))
        .map(|word| (*word).into())
        .collect();
    if violations.is_empty() {
        let statics = text
            .match_indices("static ")
            .filter(|(at, _)| !text[..*at].ends_with(|before: char| before == '\'' || is_word_char(before)));
        let declared = statics.map(|(at, _)| text[at..].split(['=', ';']).next().unwrap_or_default());
        let stateful = declared.filter(|text| text.contains(':') && holders.iter().any(|holder| text.contains(holder)));
        violations = stateful.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    }
    violations.retain(|found| {
        !PERMITTED_STATICS.iter().any(|(known, name)| *known == file && found.contains(&format!("static {name}:")))
    });
    violations.into_iter().map(|found| format!("{file}: {found}: pass the tenant as a value")).collect()
}

fn shape(file: &str, text: &str) -> Vec<String> {
    let lines = without_tests(text).lines().count();
    let mut violations = Vec::new();
    if !text.starts_with("//! ") {
        violations.push(format!("{file}: has no //! comment at the beginning"));
    }
    if lines > MAX_FILE_LINES {
        violations.push(format!("{file}: {lines} lines"));
    }
    violations
}

fn names(file: &str, text: &str) -> Vec<String> {
    let text = code_only(text);
    let modules =
        text.match_indices("mod ").filter_map(|(at, word)| text[at + word.len()..].split(|c| !is_word_char(c)).next());
    let parts = file.split('/').map(|part| part.trim_end_matches(".rs"));
    parts
        .chain(modules)
        .filter(|name| VAGUE_NAMES.contains(name))
        .map(|name| format!("{file}: {name} is too vague"))
        .collect()
}

/// Applies a check to all files of `src`. Any violation fails the test.
fn assert_no_violations(check: fn(&str, &str) -> Vec<String>) {
    let violations: Vec<String> = sources().into_iter().flat_map(|(file, text)| check(&file, &text)).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

fn sources() -> Vec<(String, String)> {
    let read = |file: String| (std::fs::read_to_string(root().join(&file)).unwrap(), file);
    let found: Vec<_> = files("src", ".rs").into_iter().map(read).map(|(text, file)| (file, text)).collect();
    assert!(found.len() > 3, "src was not found");
    found
}

fn files(under: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(under)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{under}/{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, extension));
        } else if path.ends_with(extension) {
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
