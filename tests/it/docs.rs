//! The documentation is correct where that can be checked: the paths, names, settings, error codes and limits in it
//! exist, the tests listed for each leak are those that carry its number, and the examples run.

use crate::fresh::assert_fresh;
use crate::support::fhir_charts::FhirCharts;
use crate::support::server::{Response, TestServer};
use crate::support::site::{MODELS, Site};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The beginnings of what is a path of the repository when it stands in backticks.
const ROOTS: [&str; 9] =
    ["src/", "tests/", "docs/", "migrations/", "config/", "benches/", ".ci/", ".cargo/", ".github/"];
/// Sections of `config/base.yaml`.
const SECTIONS: [&str; 10] =
    ["http", "limits", "admission", "catalog", "keys", "database", "auth", "flags", "log", "telemetry"];
/// Attributes of spans that OpenTelemetry names like settings.
const ATTRIBUTES: [&str; 3] = ["http.request.method", "http.route", "http.response.status_code"];
/// Requests in files, which `docs/api.md` shows word for word.
const EXAMPLES: [&str; 3] = [
    "docs/examples/chart-page.graphql",
    "docs/examples/draft-and-sign.graphql",
    "docs/examples/search-and-work-list.graphql",
];
const THREATS: &str = "docs/threats.md";
const API: &str = "docs/api.md";
/// What is generated in `docs/threats.md` begins so.
const TESTS_LINE: &str = "- **Tests:**";

#[test]
fn paths_in_documents_exist() {
    let (mut missing, mut checked) = (Vec::new(), 0);
    for (file, text) in documents() {
        let folder = Path::new(&file).parent().unwrap().to_owned();
        for token in code_spans(&text).into_iter().filter(|token| ROOTS.iter().any(|prefix| token.starts_with(prefix)))
        {
            let path =
                token.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':').trim_end_matches("/*");
            checked += 1;
            if !path.contains(['…', '*', '<', ' ', '{']) && !root().join(path).exists() {
                missing.push(format!("{file}: `{token}`"));
            }
        }
        for target in links(&text).into_iter().filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { PathBuf::from(&file) } else { folder.join(path) };
            let page = std::fs::read_to_string(root().join(&path)).unwrap_or_default();
            if !root().join(&path).exists() || (!anchor.is_empty() && !anchors(&page).contains(anchor)) {
                missing.push(format!("{file}: ({target})"));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}", missing.join("\n"));
    assert!(checked > 100, "{checked} paths were found");
}

/// Names of types, `Type::member` and `function()` in backticks occur in the code.
#[test]
fn names_in_documents_exist() {
    let mut words = HashSet::new();
    for folder in ["src", "tests", "benches", "migrations", "config"] {
        for file in files(folder, &["rs", "sql", "yaml"]).into_iter().filter(|file| file != "tests/it/docs.rs") {
            words.extend(words_of(&read(&file)).map(str::to_owned));
        }
    }
    words.extend(words_of(&read("schema.graphql")).map(str::to_owned));
    let is_name = |token: &str| !token.is_empty() && words_of(token).next() == Some(token);
    let (mut unknown, mut checked) = (Vec::new(), 0);
    for (file, text) in documents().into_iter().filter(|(file, _)| file != "CHANGELOG.md") {
        for token in code_spans(&text) {
            let names: Vec<&str> = match token.strip_suffix("()").or(token.contains("::").then_some(token)) {
                Some(path) => path.trim_end_matches("()").split("::").flat_map(|part| part.split('.')).collect(),
                None if is_camel_case(token) => vec![token],
                None => continue,
            };
            checked += names.len();
            for name in names.into_iter().filter(|name| is_name(name) && !words.contains(*name)) {
                unknown.push(format!("{file}: `{token}`: {name}"));
            }
        }
    }
    assert!(unknown.is_empty(), "\n{}", unknown.join("\n"));
    assert!(checked > 80, "{checked} names were found");
}

#[test]
fn settings_in_documents_exist() {
    let mut unknown = Vec::new();
    for (file, text) in documents() {
        for token in code_spans(&text) {
            let Some((section, key)) = token.split_once('.') else { continue };
            let is_file = ["rs", "sql", "yaml", "json"].contains(&key) || ATTRIBUTES.contains(&token);
            if SECTIONS.contains(&section) && !is_file && !key.contains(['(', '/']) && default_of(token).is_none() {
                unknown.push(format!("{file}: `{token}`"));
            }
        }
    }
    assert!(unknown.is_empty(), "\n{}", unknown.join("\n"));
}

/// A test that is named after a leak proves it; a leak without tests says why it has none.
#[test]
fn tests_of_each_leak_are_fresh() {
    let mut tests: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for file in files("tests", &["rs"]).into_iter().chain(files("src", &["rs"])) {
        for line in read(&file).lines() {
            let name = line.split_once("fn ").map(|(_, rest)| words_of(rest).next().unwrap_or_default());
            let Some((number, _)) = name.and_then(|name| name.strip_prefix('l')?.split_once('_')) else { continue };
            if let (2, Ok(leak)) = (number.len(), number.parse()) {
                tests.entry(leak).or_default().insert(format!("`{}` in `{file}`", name.unwrap_or_default()));
            }
        }
    }
    let (mut written, mut leak, mut excuse) = (String::new(), None, false);
    let mut described = BTreeSet::new();
    for line in read(THREATS).lines() {
        if let Some(title) = line.strip_prefix("### L-") {
            leak = title.split_once(':').and_then(|(number, _)| number.parse::<u32>().ok());
            excuse = false;
            assert!(described.insert(leak.expect("a number")), "{line} stands twice");
        }
        excuse |= line.starts_with("- **Open:**") || line.starts_with("- **Not built yet:**");
        match leak.filter(|_| line.starts_with(TESTS_LINE)) {
            None if line.starts_with("  - `l") => {}
            None => writeln!(written, "{line}").unwrap(),
            Some(number) => {
                let proofs = tests.get(&number);
                assert!(proofs.is_some() || excuse, "L-{number} has no test and does not say why");
                writeln!(written, "{TESTS_LINE}{}", if proofs.is_some() { "" } else { " none." }).unwrap();
                proofs.into_iter().flatten().for_each(|proof| writeln!(written, "  - {proof}").unwrap());
            }
        }
    }
    assert!(tests.keys().all(|leak| described.contains(leak)), "{THREATS} lacks a leak that a test names");
    assert_eq!(described, (1..=*described.last().unwrap()).collect(), "the numbers have no gaps");
    assert_eq!(written.matches(TESTS_LINE).count(), described.len(), "each leak has its line of tests");
    assert_fresh(THREATS, &written);
}

#[test]
fn examples_are_fresh() {
    let mut written = read(API);
    for example in EXAMPLES {
        let marker = format!("<!-- {example} -->\n```graphql\n");
        let begin = written.find(&marker).unwrap_or_else(|| panic!("{API} does not show {example}")) + marker.len();
        let end = begin + written[begin..].find("```\n").unwrap();
        written.replace_range(begin..end, &read(example));
    }
    assert_fresh(API, &written);
    let shown: BTreeSet<_> = EXAMPLES.map(str::to_owned).into();
    assert_eq!(files("docs/examples", &["graphql"]).into_iter().collect::<BTreeSet<_>>(), shown);
}

#[test]
fn the_table_of_codes_is_complete() {
    let codes: BTreeSet<_> = table(API, "code").into_iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let given = |file: &str| {
        let text = read(file);
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        let literals = text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        literals.into_iter().filter(|text| text.len() > 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
    };
    let given: BTreeSet<_> = given("src/error.rs").chain(given("src/graphql/error.rs")).collect();
    assert_eq!(codes, given, "codes in {API} (left) and in the code (right)");
}

#[test]
fn the_table_of_limits_has_the_defaults() {
    let rows = table(API, "setting");
    assert!(rows.len() > 10);
    for row in &rows {
        let key = row[0].trim_matches('`');
        assert_eq!(Some(row[1].clone()), default_of(key), "{key}");
    }
    let documented: BTreeSet<_> = rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let section = |name: &str| {
        let text = read("config/base.yaml");
        let text = text.split(&format!("\n{name}:")).nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
        let keys: Vec<_> = text
            .lines()
            .skip(1)
            .filter_map(|line| line.trim().split_once(':'))
            .map(|(key, _)| format!("{name}.{key}"))
            .collect();
        keys
    };
    let numbers = section("limits").into_iter().chain(section("admission")).filter(|key| key != "limits.introspection");
    let missing: Vec<_> = numbers.filter(|key| !documented.contains(key)).collect();
    assert_eq!(missing, Vec::<String>::new(), "limits that {API} does not name");
}

/// The rows of modules in `docs/architecture.md` and in the comment of `src/lib.rs` are those that `tidy.rs` checks.
#[test]
fn the_tables_of_rows_are_those_that_are_checked() {
    let tidy = read("tests/it/tidy.rs");
    let rows = tidy.split("const ROWS").nth(1).unwrap().split("\n];").next().unwrap();
    let rows = rows.lines().filter_map(|line| line.trim().strip_prefix("&["));
    let exists = |module: &&str| {
        root().join(format!("src/{module}.rs")).exists() || root().join(format!("src/{module}")).exists()
    };
    let checked: Vec<BTreeSet<String>> =
        rows.map(|row| row.split('"').skip(1).step_by(2).filter(exists).map(str::to_owned).collect()).collect();
    let modules = |row: &[String]| row[1].split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect();
    for file in ["docs/architecture.md", "src/lib.rs"] {
        let mut documented: Vec<BTreeSet<String>> = table(file, "row").iter().map(|row| modules(row)).collect();
        documented.reverse();
        assert_eq!(documented, checked, "{file} (left) and tests/it/tidy.rs (right), from row 0 on");
    }
    let picture = read("docs/rows.svg");
    let missing: Vec<_> = checked.iter().flatten().filter(|name| !picture.contains(&format!(">{name}<"))).collect();
    assert!(missing.is_empty(), "docs/rows.svg lacks {missing:?}");
}

#[tokio::test]
async fn examples_run() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let charts = FhirCharts { mark: "thexample", patients: 2, encounters: 2, notes: 1 };
    for model in MODELS {
        let tenant = site.tenant(model).await;
        charts.import(site, &tenant).await;
        let token = site.token(&[tenant.id], "clinician", "alice");
        let run = async |example: &str, operation: &str, variables: Value| {
            let body = json!({ "query": read(example), "operationName": operation, "variables": variables });
            let response = Response::of(server.post(&token).json(&body)).await;
            let mut body = response.json();
            assert_eq!((response.status, body.get("errors")), (200, None), "{model}: {example}, {operation}: {body}");
            body["data"].take()
        };
        let page = run(EXAMPLES[0], "ChartPage", json!({})).await;
        let encounters = &page["patients"]["nodes"][0]["encounters"]["nodes"];
        assert_eq!(encounters.as_array().map(Vec::len), Some(2), "{page}");
        assert!(encounters[0]["notes"]["nodes"][0]["body"].as_str().unwrap().contains(charts.mark), "{page}");

        let patient = run(EXAMPLES[1], "FindPatient", json!({})).await["patients"]["nodes"][0]["id"].take();
        let draft = run(EXAMPLES[1], "DraftNote", json!({ "patientId": patient })).await["draftNote"]["note"].take();
        let found = run(EXAMPLES[2], "SearchAndWorkList", json!({})).await;
        assert_eq!(found["patients"]["nodes"].as_array().map(Vec::len), Some(2), "{found}");
        assert_eq!(found["toSign"]["nodes"][0]["id"], draft["id"], "{found}");
        let variables = json!({ "noteId": draft["id"], "expectedVersion": draft["version"] });
        let signed = run(EXAMPLES[1], "SignNote", variables).await;
        assert_eq!(signed["signNote"]["note"]["status"], "SIGNED", "{signed}");
    }
}

/// All pages for people: file and text.
fn documents() -> Vec<(String, String)> {
    let top = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages: Vec<_> = top.filter(|name| name.ends_with(".md")).chain(files("docs", &["md"])).collect();
    assert!(pages.len() > 8, "{pages:?}");
    pages.into_iter().map(|file| (file.clone(), read(&file))).collect()
}

/// What stands between backticks in a line, code blocks aside.
fn code_spans(text: &str) -> Vec<&str> {
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The targets of links and pictures.
fn links(text: &str) -> Vec<&str> {
    prose(text).flat_map(|line| line.split("](").skip(1).filter_map(|rest| rest.split(')').next())).collect()
}

/// Lines that are not code: neither fenced nor indented by four spaces.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence && !line.starts_with("    ")
    })
}

/// The anchors that a page's headings have.
fn anchors(page: &str) -> HashSet<String> {
    let titles = prose(page).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |title: &str| {
        let kept = title
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .collect::<String>();
        kept.replace(' ', "-")
    };
    titles.map(anchor).collect()
}

/// The rows of the table whose first column is called `first`: the cells without their spaces.
fn table(file: &str, first: &str) -> Vec<Vec<String>> {
    let text = read(file).replace("//! |", "|");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("| {first} |"))).skip(2);
    let mut rows = Vec::new();
    while let Some(cells) = lines.next().and_then(|line| line.strip_prefix('|')) {
        rows.push(cells.split('|').map(|cell| cell.trim().to_owned()).collect());
    }
    assert!(!rows.is_empty(), "{file} has no table of {first}");
    rows
}

/// The default of a setting as `config/base.yaml` writes it; `None` when there is no such setting.
fn default_of(key: &str) -> Option<String> {
    let (section, key) = key.split_once('.')?;
    let text = read("config/base.yaml");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{section}:"))).skip(1);
    let own = lines.by_ref().take_while(|line| line.starts_with("  ") || line.is_empty());
    let value = own.filter_map(|line| line.strip_prefix("  ")?.strip_prefix(key)?.strip_prefix(':')).next()?;
    Some(value.split(" #").next()?.trim().to_owned())
}

fn is_camel_case(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_uppercase())
        && token.bytes().all(|b| b.is_ascii_alphanumeric())
        && token.bytes().filter(u8::is_ascii_uppercase).count() > 1
        && token.bytes().any(|b| b.is_ascii_lowercase())
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn files(under: &str, endings: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(under)).unwrap().map(Result::unwrap) {
        let path = format!("{under}/{}", entry.file_name().into_string().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&path, endings)),
            false if endings.iter().any(|ending| path.ends_with(&format!(".{ending}"))) => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
