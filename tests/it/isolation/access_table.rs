//! The isolation table: the outcome of every root field and of every operation of the role table, for every role, in
//! the caller's own tenant, in another tenant and in a suspended tenant. The file is committed, so that every change of
//! access is a line of a diff. The test generates the table again and compares it.

use super::fixtures::{Fixtures, HarvestedTenant};
use super::schema_arguments::Sdl;
use crate::fresh::assert_fresh;
use crate::support::server::{Response, TestServer};
use cordon::graphql::Api;
use cordon::guard::RoleTable;
use futures_util::future::join_all;
use serde_json::json;
use std::fmt::Write;
use std::sync::Mutex;

const FILE: &str = "tests/it/isolation.txt";
const ROLES: [&str; 9] =
    ["clinician", "trainee", "nurse", "scribe", "admin", "records", "auditor", "partner", "janitor"];

const OTHER: &str = "other tenant";
const SUSPENDED: &str = "suspended tenant";
/// Operations whose request names no record: a caller of another tenant gets its own data.
const WITHOUT_RECORD: [&str; 4] = ["viewer", "encounters", "feature", "registerPatient"];

/// Returns the schema of the server under test.
pub fn sdl(fixtures: &Fixtures) -> String {
    Api::new(&fixtures.server.app.settings.limits).unwrap().sdl()
}

#[tokio::test]
async fn the_isolation_table_is_fresh() {
    let (fixtures, writable) = (Fixtures::shared().await, Fixtures::create().await);
    let policy = RoleTable::built_in().unwrap();
    let sdl = Sdl::parse(&sdl(fixtures));
    let mut operations: Vec<(String, String)> = Vec::new();
    for root in sdl.query_fields() {
        assert!(
            policy.operations().any(|operation| operation == root.name),
            "{} has no row in the role table",
            root.name
        );
        let kinds = if root.name == "node" {
            vec!["Patient", "Encounter", "ClinicalNote"]
        } else {
            vec![root.type_name.as_str()]
        };
        operations.extend(kinds.into_iter().map(|kind| (root.name.clone(), kind.to_owned())));
    }
    operations.extend(sdl.mutation_fields().iter().map(|mutation| (mutation.name.clone(), String::new())));
    let root_fields = operations.len();
    let nested = policy.operations().filter(|operation| operation.contains('.'));
    operations.extend(nested.map(|operation| (operation.to_owned(), String::new())));
    let mut text = String::from(
        "# The outcome of each operation for each caller. Written by `UPDATE=1 cargo test isolation`; read its diff as \
         a change of access.\n",
    );
    for (number, (operation, kind)) in operations.iter().enumerate() {
        let name = if operation == "node" { format!("node {kind}") } else { operation.clone() };
        let is_mutation = operation
            .split('.')
            .any(|part| part.starts_with("of") || sdl.mutation_fields().iter().any(|mutation| mutation.name == part));
        let fixtures = if is_mutation { &writable } else { fixtures };
        for who in ["own tenant", OTHER, SUSPENDED, "nobody"].iter().chain(&ROLES) {
            if [OTHER, SUSPENDED].contains(who) {
                for (outcome, roles) in outcomes_by_role(fixtures, operation, kind, who).await {
                    let whose =
                        if roles.len() == ROLES.len() { String::new() } else { format!("  {}", roles.join(" ")) };
                    writeln!(text, "{name:20} {who:17} {outcome}{whose}").unwrap();
                }
                continue;
            }
            if number >= root_fields && !ROLES.contains(who) {
                continue;
            }
            let mut outcomes = Vec::new();
            for a in &fixtures.owners {
                outcomes.push(outcome(fixtures, operation, kind, who, a).await);
            }
            assert!(
                outcomes.iter().all(|outcome| *outcome == outcomes[0]),
                "{name} {who}: {outcomes:?} in the three models"
            );
            writeln!(text, "{name:20} {who:17} {}", outcomes[0]).unwrap();
            if ROLES.contains(who) {
                let required = required_operations(operation, kind);
                let may = required.iter().all(|operation| policy.allows(operation, &[(*who).to_owned()]));
                let refused = match operation.as_str() {
                    "signNote.final" if policy.allows("signNote", &[(*who).to_owned()]) => "UNCOSIGNED",
                    _ => "FORBIDDEN",
                };
                assert_eq!(outcomes[0], if may { "data" } else { refused }, "{name} for {who}, against the role table");
            }
        }
    }
    let _lock = FILE_LOCK.lock().unwrap();
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    text.extend(committed.lines().filter(|line| line.contains(TRIED)).map(|line| format!("{line}\n")));
    assert_fresh(FILE, &text);
}

/// Lines with the number of attempts. The tests that make the attempts write and check them.
const TRIED: &str = " tried: ";
/// Held while the file is written.
static FILE_LOCK: Mutex<()> = Mutex::new(());

/// Fails when there were fewer attempts than the committed number.
pub fn prove_attempt_count(what: &str, tried: usize) {
    let _lock = FILE_LOCK.lock().unwrap();
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    let label = format!("{} tried: ", what);
    if std::env::var_os("UPDATE").is_some() {
        let others: String =
            committed.lines().filter(|line| !line.starts_with(&label)).map(|line| format!("{line}\n")).collect();
        return std::fs::write(FILE, format!("{others}{label}{tried}\n")).unwrap();
    }
    let known = committed
        .lines()
        .find_map(|line| line.strip_prefix(&label)?.parse::<usize>().ok())
        .expect("a committed number of attempts");
    assert!(tried >= known, "{label}{tried}, but {known} are committed: which attempts are missing?");
}

/// Returns the operations of the role table that a request needs.
fn required_operations<'a>(operation: &'a str, kind: &str) -> Vec<&'a str> {
    match (operation, kind) {
        ("node", "Patient") => vec!["node", "patient"],
        ("node", "Encounter") => vec!["node", "encounter"],
        ("node", _) => vec!["node", "note"],
        ("note.text", _) => vec!["note", "note.text"],
        ("draftNote" | "draftNote.own" | "note.ofNurses", _) => vec!["draftNote", "draftNote.own", "note.ofNurses"],
        ("draftNote.forAuthor", _) => vec!["draftNote", operation, "note.ofNurses"],
        ("note.ofOthers", _) => vec!["draftNote", "draftNote.own", operation],
        ("signNote", _) => vec!["signNote", "note.ofNurses"],
        ("signNote.final", _) => vec!["signNote", operation, "note.ofNurses"],
        (nested, _) if nested.starts_with("Patient.") => vec!["patient", operation],
        (nested, _) if nested.starts_with("Encounter.") => vec!["encounter", operation],
        _ => vec![operation],
    }
}

async fn outcome(fixtures: &Fixtures, operation: &str, kind: &str, who: &str, a: &HarvestedTenant) -> String {
    let role = if who == "own tenant" { "clinician" } else { who };
    let token = (who != "nobody").then(|| fixtures.server.site.token(&[a.tenant.id], role, "rolf"));
    outcome_of(&send(&fixtures.server, &request_for(&fixtures.server, operation, kind, a).await, token).await)
}

/// Sends the request for a record of each owner with every role of another or a suspended tenant. Returns the outcomes,
/// each with its roles.
async fn outcomes_by_role(
    fixtures: &Fixtures,
    operation: &str,
    kind: &str,
    whose: &str,
) -> Vec<(String, Vec<&'static str>)> {
    let mut in_models = Vec::new();
    for (a, b) in fixtures.owners.iter().zip(&fixtures.neighbours) {
        let tenant = if whose == OTHER { &b.tenant } else { &fixtures.suspended };
        let query = request_for(&fixtures.server, operation, kind, a).await;
        let responses =
            join_all(ROLES.map(|role| {
                send(&fixtures.server, &query, Some(fixtures.server.site.token(&[tenant.id], role, role)))
            }))
            .await;
        let mut outcomes: Vec<(String, Vec<&'static str>)> = Vec::new();
        for (response, role) in responses.iter().zip(ROLES) {
            let outcome = outcome_of(response);
            assert!(
                !response.json().to_string().contains(&a.mark),
                "{operation} for {role}, {whose}: a word of the other tenant's chart"
            );
            match whose {
                SUSPENDED => assert_eq!(outcome, "403 TENANT_SUSPENDED", "{operation} for {role}"),
                _ => {
                    assert!(outcome != "data" || WITHOUT_RECORD.contains(&operation), "{operation} for {role}, {whose}")
                }
            }
            match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
                Some((_, roles)) => roles.push(role),
                None => outcomes.push((outcome, vec![role])),
            }
        }
        in_models.push(outcomes);
    }
    assert!(
        in_models.iter().all(|outcomes| *outcomes == in_models[0]),
        "{operation}, {whose}: {in_models:?} in the three models"
    );
    in_models.swap_remove(0)
}

/// Returns a mutation of a new record of tenant `a` that the caller Rolf created, so that only the role decides about
/// the outcome.
async fn mutation_for(server: &TestServer<'_>, operation: &str, a: &HarvestedTenant) -> Option<String> {
    let (patient, doctor) = (a.id('p'), a.id('s'));
    let rolf = server.site.token(&[a.tenant.id], "clinician", "rolf");
    let create = async |mutation: String| {
        let created = server.data(&rolf, &format!("mutation {{ created: {mutation} }}"), json!({})).await;
        let id = ["patient", "encounter", "note"].iter().find_map(|record| created["created"][record]["id"].as_str());
        format!("id: \"{}\" expectedVersion: 1", id.unwrap())
    };
    let draft = |kind: &str| format!("draftNote(input: {{ patientId: \"{patient}\" type: \"{kind}\" body: \"b\" }})");
    let started = || format!("startEncounter(input: {{ patientId: \"{patient}\" class: \"AMB\" }})");
    let register = "registerPatient(input: { identifiers: [] sex: OTHER })";
    let (of_nurses, drafted) = (draft("34746-8"), format!("{} {{ note {{ id }} }}", draft("34746-8")));
    let query = match operation {
        "registerPatient" => register.to_owned(),
        "updatePatient" => format!(
            "updatePatient(input: {{ {} sex: MALE }})",
            create(format!("{register} {{ patient {{ id }} }}")).await
        ),
        "startEncounter" => started(),
        "finishEncounter" | "cancelEncounter" => {
            format!("{operation}(input: {{ {} }})", create(format!("{} {{ encounter {{ id }} }}", started())).await)
        }
        "draftNote" | "draftNote.own" | "note.ofNurses" => of_nurses,
        "draftNote.forAuthor" => of_nurses.replace("body:", &format!("authorId: \"{doctor}\" body:")),
        "note.ofOthers" => draft("34117-2"),
        "reviseDraft" => format!("reviseDraft(input: {{ {} body: \"c\" }})", create(drafted).await),
        "discardDraft" | "signNote" => format!("{operation}(input: {{ {} }})", create(drafted).await),
        "signNote.final" => {
            return Some(format!(
                "mutation {{ found: signNote(input: {{ {} }}) {{ note {{ status }} }} }}",
                create(drafted).await
            ));
        }
        _ => return None,
    };
    Some(format!("mutation {{ found: {query} {{ __typename }} }}"))
}

/// Returns a request for a record of tenant `a`.
async fn request_for(server: &TestServer<'_>, operation: &str, kind: &str, a: &HarvestedTenant) -> String {
    let (patient, encounter, note) = (a.id('p'), a.id('e'), a.id('n'));
    let mutation = mutation_for(server, operation, a).await;
    match (operation, kind) {
        _ if mutation.is_some() => mutation.unwrap_or_default(),
        ("patients", _) => {
            format!("{{ found: patients(search: \"{}\") {{ edges {{ node {{ name {{ text }} }} }} }} }}", a.mark)
        }
        ("encounters", _) => "{ found: encounters { edges { node { reason } } } }".to_owned(),
        ("notes", _) => {
            format!("{{ found: notes(filter: {{ patientId: \"{patient}\" }}) {{ edges {{ node {{ status }} }} }} }}")
        }
        ("feature", _) => "{ found: feature(name: \"chartWrites\") { enabled } }".to_owned(),
        ("viewer", _) => "{ found: viewer { id tenant { slug } } }".to_owned(),
        ("node", "Patient") => {
            format!("{{ found: node(id: \"{patient}\") {{ ... on Patient {{ name {{ text }} }} }} }}")
        }
        ("node", "Encounter") => format!("{{ found: node(id: \"{encounter}\") {{ ... on Encounter {{ reason }} }} }}"),
        ("node", "ClinicalNote") => {
            format!("{{ found: node(id: \"{note}\") {{ id ... on ClinicalNote {{ status }} }} }}")
        }
        ("patient", _) => format!("{{ found: patient(id: \"{patient}\") {{ name {{ text }} birthDate }} }}"),
        ("patientByIdentifier", _) => {
            let system = crate::support::fhir_charts::SYSTEM;
            format!(
                "{{ found: patientByIdentifier(system: \"{system}\", value: \"{}\") {{ name {{ text }} }} }}",
                a.record_number()
            )
        }
        ("encounter", _) => format!("{{ found: encounter(id: \"{encounter}\") {{ reason }} }}"),
        ("note", _) => format!("{{ found: note(id: \"{note}\") {{ status type {{ code }} }} }}"),
        ("note.text", _) => format!("{{ found: note(id: \"{note}\") {{ title body }} }}"),
        (list, _) => match list.split_once('.') {
            Some(("Patient", list)) => {
                format!("{{ found: patient(id: \"{patient}\") {{ {list} {{ edges {{ node {{ id }} }} }} }} }}")
            }
            Some(("Encounter", list)) => {
                format!("{{ found: encounter(id: \"{encounter}\") {{ {list} {{ edges {{ node {{ id }} }} }} }} }}")
            }
            _ => panic!("add a request for {list}"),
        },
    }
}

async fn send(server: &TestServer<'_>, query: &str, token: Option<String>) -> Response {
    let accept = "application/graphql-response+json";
    let request = server.http.post(&server.url).header("accept", accept).json(&json!({ "query": query }));
    Response::of(match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    })
    .await
}

fn outcome_of(response: &Response) -> String {
    let json = response.json();
    let code = response.code();
    match (response.status, code.as_str()) {
        (200, "") if json["data"]["found"].is_null() => "null".into(),
        (200, "") if json["data"]["found"]["edges"] == json!([]) => "empty".into(),
        (200, "") if json["data"]["found"]["note"]["status"] == "UNCOSIGNED" => "UNCOSIGNED".into(),
        (200, "") => "data".into(),
        (200, code) => code.to_owned(),
        (status, code) => format!("{status} {code}"),
    }
}
