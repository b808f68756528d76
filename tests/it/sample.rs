//! Sample charts: what is constant for a seed, that the importer accepts all of them, and the command `cordon sample`.

use crate::support::fhir_charts::import;
use crate::support::run_dir;
use crate::support::site::Site;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cordon::import::Counts;
use cordon::sample::{ChartCounts, Charts};
use cordon::tenant::TenancyModel;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

fn ndjson(charts: Charts) -> (String, ChartCounts) {
    let mut bytes = Vec::new();
    let written = charts.write_to(&mut bytes, |_| ()).unwrap();
    (String::from_utf8(bytes).unwrap(), written)
}

fn resources(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'r>(resources: &'r [Value], kind: &str) -> Vec<&'r Value> {
    resources.iter().filter(|resource| resource["resourceType"] == kind).collect()
}

fn body(note: &Value) -> String {
    String::from_utf8(STANDARD.decode(note["content"][0]["attachment"]["data"].as_str().unwrap()).unwrap()).unwrap()
}

/// If this fails, a seed produces other charts than before. Put the new value here and mention the change in the
/// changelog.
#[test]
fn a_seed_produces_the_same_bytes() {
    let (text, _) = ndjson(Charts::new(1, 50));
    let hash: String = digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hash, "f3e8ffcadcc191906ccb3a0ce67c06773c3eef8a0915e01f5545cb6e9b1a236d");
}

#[test]
fn more_charts_extend_fewer_and_another_seed_differs() {
    let (few, many) = (ndjson(Charts::new(7, 20)).0, ndjson(Charts::new(7, 45)).0);
    assert_eq!(few, ndjson(Charts::new(7, 20)).0);
    assert!(many.starts_with(&few) && many.len() > few.len());
    let other = ndjson(Charts::new(8, 20)).0;
    let ids = |text: &str| -> BTreeSet<String> {
        resources(text).iter().map(|resource| resource["id"].to_string()).collect()
    };
    assert!(ids(&few).is_disjoint(&ids(&other)), "charts of two seeds can be imported into one tenant");
    let names = |text: &str| -> Vec<Value> {
        of(&resources(text), "Patient").iter().map(|patient| patient["name"].clone()).collect()
    };
    assert_ne!(names(&few), names(&other));
}

#[test]
fn charts_are_consistent_and_end_on_the_given_day() {
    let (text, written) = ndjson(Charts { until: "2001-02-03".parse().unwrap(), ..Charts::new(3, 300) });
    let all = resources(&text);
    let (patients, encounters, notes) = (of(&all, "Patient"), of(&all, "Encounter"), of(&all, "DocumentReference"));
    let counted = ChartCounts {
        practitioners: of(&all, "Practitioner").len() as u64,
        patients: patients.len() as u64,
        encounters: encounters.len() as u64,
        notes: notes.len() as u64,
        bytes: text.len() as u64,
    };
    assert_eq!((written, written.patients), (counted, 300));
    assert!((3.5..6.0).contains(&(encounters.len() as f64 / 300.0)), "{} encounters", encounters.len());

    let known: BTreeSet<_> = all
        .iter()
        .map(|one| format!("{}/{}", one["resourceType"].as_str().unwrap(), one["id"].as_str().unwrap()))
        .collect();
    assert_eq!(known.len(), all.len(), "ids are unique");
    let born: BTreeMap<_, _> = patients
        .iter()
        .map(|patient| (format!("Patient/{}", text_of(&patient["id"])), &patient["birthDate"]))
        .collect();
    for one in encounters.iter().chain(&notes) {
        let subject = text_of(&one["subject"]["reference"]);
        let encounter = &one["context"]["encounter"][0]["reference"];
        for reference in [&one["subject"]["reference"], &one["author"][0]["reference"], encounter] {
            assert!(reference.is_null() || known.contains(text_of(reference)), "{reference} is in the charts");
        }
        let time = text_of(if one["date"].is_null() { &one["period"]["start"] } else { &one["date"] });
        assert!(text_of(born[subject]) < time, "{one}");
        assert_eq!(time > "2001-02-04", one["status"] == "planned", "{one}");
    }
    let mut ends: Vec<_> =
        encounters.iter().map(|one| (text_of(&one["period"]["start"]), one["period"]["end"].as_str())).collect();
    ends.retain(|(start, end)| end.is_some_and(|end| end < *start));
    assert_eq!(ends, [], "no encounter ends before it starts");
    let died: BTreeMap<_, _> = patients
        .iter()
        .filter_map(|patient| {
            Some((format!("Patient/{}", text_of(&patient["id"])), patient["deceasedDateTime"].as_str()?))
        })
        .collect();
    assert!(!died.is_empty());
    for note in &notes {
        let death = died.get(text_of(&note["subject"]["reference"]));
        assert!(death.is_none_or(|death| text_of(&note["date"]) < *death), "{note}");
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn charts_are_varied() {
    let all = resources(&ndjson(Charts::new(1, 600)).0);
    let (encounters, notes) = (of(&all, "Encounter"), of(&all, "DocumentReference"));
    let values = |list: &[&Value], pointer: &str| -> BTreeSet<String> {
        list.iter().filter_map(|one| one.pointer(pointer)?.as_str().map(str::to_owned)).collect()
    };
    let classes = values(&encounters, "/class/code");
    assert_eq!(classes.iter().map(String::as_str).collect::<Vec<_>>(), ["AMB", "EMER", "HH", "IMP", "VR"]);
    let statuses = values(&encounters, "/status");
    assert!(
        ["cancelled", "entered-in-error", "finished", "in-progress", "planned"]
            .iter()
            .all(|one| statuses.contains(*one)),
        "{statuses:?}"
    );
    assert_eq!(values(&notes, "/type/coding/0/code").len(), 12, "all note types of a new tenant");
    assert_eq!(values(&notes, "/type/coding/0/display").len(), 12);
    assert!(values(&encounters, "/serviceType/text").len() >= 10);
    assert!(values(&notes, "/author/0/reference").len() >= 40);
    assert!(
        notes.iter().any(|note| note["context"].is_null())
            && notes.iter().any(|note| note["content"][0]["attachment"]["title"].is_null())
    );

    let names: String = of(&all, "Patient").iter().map(|patient| patient["name"][0].to_string()).collect();
    let bodies: Vec<_> = notes.iter().map(|note| body(note)).collect();
    let (all_names, all_text) = (names, bodies.concat());
    for (script, first, last) in [
        ("Latin with accents", 'à', 'ÿ'),
        ("Vietnamese", 'ạ', 'ỹ'),
        ("Greek", 'α', 'ω'),
        ("Cyrillic", 'а', 'я'),
        ("Hebrew", 'א', 'ת'),
        ("Arabic", 'ء', 'ي'),
        ("Devanagari", 'अ', 'ह'),
        ("Han", '一', '龥'),
        ("Kana", 'ぁ', 'ヺ'),
        ("Hangul", '가', '힣'),
    ] {
        let in_script = |text: &str| text.chars().any(|letter| (first..=last).contains(&letter));
        assert!(in_script(&all_text), "notes in {script}");
        assert!(in_script(&all_names) || script == "Kana", "names in {script}");
    }
    let mut lengths: Vec<_> = bodies.iter().map(|body| body.chars().count()).collect();
    lengths.sort_unstable();
    let (shortest, middle, longest) = (lengths[0], lengths[lengths.len() / 2], lengths[lengths.len() - 1]);
    assert!(shortest < 20 && (150..600).contains(&middle) && longest > 6_000, "{shortest} {middle} {longest}");
    assert!(bodies.iter().all(|body| !body.contains(['{', '}'])), "all placeholders are filled in");
    assert!(bodies.iter().collect::<BTreeSet<_>>().len() * 100 > bodies.len() * 80, "most note texts are unique");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_importer_accepts_all_charts_once() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let (text, written) = ndjson(Charts::new(1, 40));
    let report = import(site, &tenant, &text).await;
    let new = |new| Counts { new, ..Counts::default() };
    assert_eq!((report.rejects, report.skipped.len()), (0, 0), "{report:?}");
    assert_eq!((report.practitioners, report.patients), (new(written.practitioners), new(written.patients)));
    assert_eq!((report.encounters, report.notes), (new(written.encounters), new(written.notes)));

    let again = import(site, &tenant, &text).await;
    let same = |unchanged| Counts { unchanged, ..Counts::default() };
    assert_eq!(
        (again.rejects, again.practitioners, again.patients),
        (0, same(written.practitioners), same(written.patients))
    );
    assert_eq!((again.encounters, again.notes), (same(written.encounters), same(written.notes)));

    let others = import(site, &tenant, &ndjson(Charts::new(2, 10)).0).await;
    assert_eq!((others.rejects, others.patients), (0, new(10)), "charts of another seed can be imported too");
}

#[test]
fn the_command_writes_the_same_as_the_library() {
    let (text, written) = ndjson(Charts::new(5, 12));
    let printed = sample(&["--patients", "12", "--seed", "5"]);
    assert_eq!((printed.status.code(), String::from_utf8(printed.stdout).unwrap()), (Some(0), text.clone()));
    assert!(String::from_utf8(printed.stderr).unwrap().contains("12 patients"));

    let file = run_dir().join("sample.ndjson");
    let filed = sample(&["--patients", "12", "--seed", "5", "--json", "--out", file.to_str().unwrap()]);
    let mut document: Value = serde_json::from_slice(&filed.stdout).unwrap();
    assert!(document.as_object_mut().unwrap().remove("seconds").is_some_and(|seconds| seconds.is_f64()));
    assert_eq!(document, serde_json::to_value(written).unwrap());
    assert_eq!(std::fs::read_to_string(file).unwrap(), text);

    let empty = sample(&["--patients", "0", "--encounters", "0"]);
    assert_eq!(resources(&String::from_utf8(empty.stdout).unwrap()).len() as u64, written.practitioners);
}

#[test]
fn the_command_rejects_invalid_arguments() {
    for (arguments, expected) in [
        (vec!["--json"], "--out"),
        (vec!["--until", "yesterday"], "a day between"),
        (vec!["--until", "1700-01-01"], "a day between"),
    ] {
        let refused = sample(&arguments);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(String::from_utf8(refused.stderr).unwrap().contains(expected), "{arguments:?}");
    }
    let nowhere = run_dir().join("no-such-directory/sample.ndjson");
    assert_eq!(sample(&["--out", nowhere.to_str().unwrap()]).status.code(), Some(2));
}

/// As with `cordon sample | head`.
#[test]
fn a_closed_pipe_ends_the_command_without_an_error() {
    let mut child = command(&["--patients", "1000000"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with(r#"{"resourceType":"Practitioner""#), "{line}");
    drop(reader);
    let ended = child.wait_with_output().unwrap();
    let log = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(0) && !log.contains("cordon: "), "{log}");
}

fn sample(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.arg("sample").args(arguments).stdin(Stdio::null());
    command
}
