//! FHIR files of other producers, imported with the binary into the three tenancy models: what is stored, that a second
//! import stores nothing, and that the chart pages are the same in all models. `CORDON_EXTERNAL_CHARTS` names a
//! directory of such files; without it the test uses a small set that it creates.

use crate::support::fhir::{attachment, encounter, note, patient, practitioner, report, with};
use crate::support::import_tenant::{ImportTenant, id};
use crate::support::run_dir;
use crate::support::server::TestServer;
use cordon::model::fields::PatientSource;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHART: &str = include_str!("chart.graphql");

/// The expected totals of a set of files. `feed` holds the totals of the feed's first day and of its changes.
struct Expected {
    patients: u64,
    notes: u64,
    feed: Value,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn external_charts_are_the_same_in_all_models() {
    let (directory, expected) = match std::env::var_os("CORDON_EXTERNAL_CHARTS") {
        Some(directory) => (PathBuf::from(directory), totals_of_external_files()),
        None => (small_set(), totals_of_small_set()),
    };
    let mut pages: Vec<BTreeMap<String, Value>> = Vec::new();
    for target in ImportTenant::of_each().await {
        let synthea = directory.join("synthea");
        let done = import(&target, &synthea);
        assert_eq!(
            (&done["patients"]["new"], &done["notes"]["new"]),
            (&json!(expected.patients), &json!(expected.notes)),
            "{done}"
        );
        println!("{}: {done}", target.tenant.slug);
        let again = import(&target, &synthea);
        for kind in ["patients", "encounters", "notes", "practitioners"] {
            assert_eq!((&again[kind]["new"], &again[kind]["updated"]), (&json!(0), &json!(0)), "{kind}: {again}");
        }
        pages.push(charts(&target).await);

        let feed = directory.join("generated/clinosim-us-feed");
        let days = [feed.join("day0"), feed.join("day7-diff-bundle.json")].map(|day| totals(&import(&target, &day)));
        println!("{}: feed {}", target.tenant.slug, json!(days));
        assert_eq!(json!(days), expected.feed, "the feed's first day and its changes");
    }
    let [shared, schema, database] = pages.as_slice() else { panic!("three models") };
    assert_eq!(shared.len() as u64, expected.patients);
    assert!(shared == schema && schema == database, "chart pages differ between models");
}

/// Runs `cordon import fhir` and returns its report. Rejected resources are no failure.
fn import(target: &ImportTenant<'_>, path: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.args(["import", "fhir", "--profile", "dev", "--json", "--tenant", &target.tenant.slug]).arg(path);
    let variables = std::fs::read_to_string(target.site.directory.join("server.env")).unwrap();
    command.envs(
        variables.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name, value.trim_matches('\''))),
    );
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the numbers of new, updated and rejected resources of each type.
fn totals(done: &Value) -> Value {
    let of = |kind: &str| json!([done[kind]["new"], done[kind]["updated"], done[kind]["rejected"]]);
    json!({ "patients": of("patients"), "encounters": of("encounters"), "notes": of("notes") })
}

/// Returns the chart page of each patient, by the patient's id in the source, without ids and cursors.
async fn charts(target: &ImportTenant<'_>) -> BTreeMap<String, Value> {
    let server = TestServer::of(target.site);
    let token = target.site.token(&[target.tenant.id], "clinician", "alice");
    let mut pages = BTreeMap::new();
    // The patients are found by an identifier, which every patient has.
    for row in target.rows("select id::text, source_sealed from patients where tenant_id = $1").await {
        let source = target.open::<PatientSource>(id(&row, 0), row.get(1)).await;
        let number =
            source["identifier"].as_array().unwrap().iter().find(|number| number["value"].is_string()).unwrap();
        let variables = json!({ "system": number["system"], "value": number["value"] });
        let query =
            "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) { id } }";
        let found = server.data(&token, query, variables).await;
        let mut page = server.data(&token, CHART, json!({ "patient": found["patientByIdentifier"]["id"] })).await;
        remove_ids(&mut page);
        pages.insert(source["id"].as_str().unwrap().to_owned(), page);
    }
    pages
}

fn remove_ids(page: &mut Value) {
    match page {
        Value::Object(object) => {
            object.retain(|name, _| !matches!(name.as_str(), "id" | "endCursor"));
            object.values_mut().for_each(remove_ids);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_ids),
        _ => {}
    }
}

fn totals_of_external_files() -> Expected {
    let day0 = json!({ "patients": [27, 0, 0], "encounters": [33, 0, 0], "notes": [0, 0, 0] });
    let day7 = json!({ "patients": [5, 0, 0], "encounters": [6, 0, 0], "notes": [1, 0, 0] });
    Expected { patients: 23, notes: 1661, feed: json!([day0, day7]) }
}

fn totals_of_small_set() -> Expected {
    let day0 = json!({ "patients": [1, 0, 0], "encounters": [1, 0, 0], "notes": [2, 0, 0] });
    let day7 = json!({ "patients": [0, 1, 0], "encounters": [0, 0, 0], "notes": [1, 1, 0] });
    Expected { patients: 4, notes: 12, feed: json!([day0, day7]) }
}

/// Writes four charts with reports that repeat their notes, and a feed, in the directory layout of the external files.
fn small_set() -> PathBuf {
    let directory = run_dir().join("small-set");
    let (synthea, feed) = (directory.join("synthea"), directory.join("generated/clinosim-us-feed"));
    std::fs::create_dir_all(synthea.join("shared")).unwrap();
    std::fs::create_dir_all(feed.join("day0")).unwrap();
    let author =
        json!([{ "reference": "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|1", "display": "Dr. Max Wolf" }]);
    for p in 0..4 {
        let (subject, visit) = (format!("urn:uuid:p{p}"), format!("urn:uuid:e{p}"));
        let mut resources = vec![encounter(&format!("e{p}"), &subject), patient(&format!("p{p}"))];
        for n in 0..3 {
            let text = format!("note {n} of chart {p}");
            let context = json!({ "encounter": [{ "reference": visit }] });
            let written = json!({ "context": context, "author": author, "status": "superseded",
                "date": format!("2024-05-0{}", n + 1) });
            resources.push(report(&format!("r{p}-{n}"), &subject, &text));
            resources.push(with(note(&format!("n{p}-{n}"), &subject, &text), written));
        }
        write_bundle(&synthea.join(format!("chart-{p}.json")), &resources, "POST");
    }
    write_bundle(&synthea.join("shared/practitioners.json"), &[practitioner("d", "1", "Wolf")], "POST");
    let first = [
        patient("f"),
        encounter("fe", "Patient/f"),
        note("f1", "Patient/f", "first"),
        note("f2", "Patient/f", "second"),
    ];
    write_bundle(&feed.join("day0/bundle.json"), &first, "POST");
    let longer = with(note("f2", "Patient/f", ""), json!({ "content": [attachment("second, and more")] }));
    let changes = [with(patient("f"), json!({ "gender": "male" })), longer, note("f3", "Patient/f", "third")];
    write_bundle(&feed.join("day7-diff-bundle.json"), &changes, "PUT");
    directory
}

fn write_bundle(path: &Path, resources: &[Value], method: &str) {
    let entries: Vec<_> = resources
        .iter()
        .map(|resource| {
            let (kind, id) = (resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
            let url = format!("{kind}/{id}");
            json!({ "fullUrl": format!("urn:uuid:{id}"), "resource": resource, "request": { "method": method,
                "url": url } })
        })
        .collect();
    std::fs::write(path, json!({ "resourceType": "Bundle", "type": "transaction", "entry": entries }).to_string())
        .unwrap();
}
