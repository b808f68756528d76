//! The isolation table: what every root field and every operation of the table of roles answers to whom. A committed file, so that
//! every change of access is a line of a diff; here it is made anew and compared.

use super::holes::Sdl;
use super::world::{Clinic, World};
use crate::fresh::prove;
use crate::server::{Reply, Server};
use cordon::graphql::Api;
use cordon::guard::Policy;
use serde_json::json;
use std::fmt::Write;
use std::sync::Mutex;

const FILE: &str = "tests/it/isolation.txt";
const ROLES: [&str; 9] = ["clinician", "trainee", "nurse", "scribe", "admin", "records", "auditor", "partner", "janitor"];

/// The schema as the server under test has it.
pub fn sdl(world: &World) -> String {
    Api::new(&world.server.app.settings.limits).unwrap().sdl()
}

#[tokio::test]
async fn the_table_of_access_is_fresh() {
    let world = World::get().await;
    let policy = Policy::built_in().unwrap();
    let sdl = Sdl::of(&sdl(world));
    let mut operations: Vec<(String, String)> = Vec::new();
    for root in sdl.roots() {
        assert!(policy.operations().any(|operation| operation == root.name), "{} has no row in the table of roles", root.name);
        let kinds = if root.name == "node" { vec!["Patient", "Encounter", "ClinicalNote"] } else { vec![root.of.as_str()] };
        operations.extend(kinds.into_iter().map(|kind| (root.name.clone(), kind.to_owned())));
    }
    let of_roots = operations.len();
    let nested = policy.operations().filter(|operation| operation.contains('.'));
    operations.extend(nested.map(|operation| (operation.to_owned(), String::new())));
    let mut text = String::from("# Who gets what. Written by `UPDATE=1 cargo test isolation`; read its diff as a change of access.\n");
    for (number, (operation, kind)) in operations.iter().enumerate() {
        let name = if operation == "node" { format!("node {kind}") } else { operation.clone() };
        for who in ["own tenant", "other tenant", "suspended tenant", "nobody"].iter().chain(&ROLES) {
            if number >= of_roots && !ROLES.contains(who) {
                continue;
            }
            let mut outcomes = Vec::new();
            for (a, b) in world.mine.iter().zip(&world.others) {
                outcomes.push(outcome(world, operation, kind, who, a, b).await);
            }
            assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{name} {who}: {outcomes:?} in the three models");
            writeln!(text, "{name:20} {who:17} {}", outcomes[0]).unwrap();
            if ROLES.contains(who) {
                let roots = needed(operation, kind);
                let may = roots.iter().all(|operation| policy.allows(operation, &[(*who).to_owned()]));
                assert_eq!(outcomes[0], if may { "data" } else { "FORBIDDEN" }, "{name} for {who}, against the table of roles");
            }
        }
    }
    let _turn = TURN.lock().unwrap();
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    text.extend(committed.lines().filter(|line| line.starts_with(TRIED)).map(|line| format!("{line}\n")));
    prove(FILE, &text);
}

const TRIED: &str = "pairs tried: ";
static TURN: Mutex<()> = Mutex::new(());

/// Fails when fewer were tried than the last time.
pub fn prove_tried(tried: usize) {
    let _turn = TURN.lock().unwrap();
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    if std::env::var_os("UPDATE").is_some() {
        let others: String = committed.lines().filter(|line| !line.starts_with(TRIED)).map(|line| format!("{line}\n")).collect();
        return std::fs::write(FILE, format!("{others}{TRIED}{tried}\n")).unwrap();
    }
    let known = committed.lines().find_map(|line| line.strip_prefix(TRIED)?.parse::<usize>().ok()).expect("a committed number of pairs");
    assert!(tried >= known, "{tried} pairs were tried and {known} are committed: what is no longer walked?");
}

/// The operations that a row needs to be allowed.
fn needed<'a>(operation: &'a str, kind: &str) -> Vec<&'a str> {
    match (operation, kind) {
        ("node", "Patient") => vec!["node", "patient"],
        ("node", "Encounter") => vec!["node", "encounter"],
        ("node", _) => vec!["node", "note"],
        ("note.text", _) => vec!["note", "note.text"],
        (nested, _) if nested.starts_with("Patient.") => vec!["patient", operation],
        (nested, _) if nested.starts_with("Encounter.") => vec!["encounter", operation],
        _ => vec![operation],
    }
}

async fn outcome(world: &World, operation: &str, kind: &str, who: &str, a: &Clinic, b: &Clinic) -> String {
    let site = world.server.site;
    let token = match who {
        "own tenant" => a.token.clone(),
        "other tenant" => b.token.clone(),
        "suspended tenant" => site.token(&[world.suspended.id], "clinician", "alice"),
        "nobody" => return told(&Reply::to(question(&world.server, operation, kind, a)).await),
        role => site.token(&[a.tenant.id], role, "rolf"),
    };
    told(&Reply::to(question(&world.server, operation, kind, a).bearer_auth(token)).await)
}

/// Asks for something of clinic `a`.
fn question(server: &Server<'_>, operation: &str, kind: &str, a: &Clinic) -> reqwest::RequestBuilder {
    let (patient, encounter, note) = (a.id('p'), a.id('e'), a.id('n'));
    let query = match (operation, kind) {
        ("viewer", _) => "{ found: viewer { id tenant { slug } } }".to_owned(),
        ("node", "Patient") => format!("{{ found: node(id: \"{patient}\") {{ ... on Patient {{ name {{ text }} }} }} }}"),
        ("node", "Encounter") => format!("{{ found: node(id: \"{encounter}\") {{ ... on Encounter {{ reason }} }} }}"),
        ("node", "ClinicalNote") => format!("{{ found: node(id: \"{note}\") {{ id ... on ClinicalNote {{ status }} }} }}"),
        ("patient", _) => format!("{{ found: patient(id: \"{patient}\") {{ name {{ text }} birthDate }} }}"),
        ("patientByIdentifier", _) => {
            let system = crate::charts::SYSTEM;
            format!("{{ found: patientByIdentifier(system: \"{system}\", value: \"{}\") {{ name {{ text }} }} }}", a.number())
        }
        ("encounter", _) => format!("{{ found: encounter(id: \"{encounter}\") {{ reason }} }}"),
        ("note", _) => format!("{{ found: note(id: \"{note}\") {{ status type {{ code }} }} }}"),
        ("note.text", _) => format!("{{ found: note(id: \"{note}\") {{ title body }} }}"),
        (list, _) => match list.split_once('.') {
            Some(("Patient", list)) => format!("{{ found: patient(id: \"{patient}\") {{ {list} {{ edges {{ node {{ id }} }} }} }} }}"),
            Some(("Encounter", list)) => {
                format!("{{ found: encounter(id: \"{encounter}\") {{ {list} {{ edges {{ node {{ id }} }} }} }} }}")
            }
            _ => panic!("{list} is not asked for: give it a question"),
        },
    };
    let accept = "application/graphql-response+json";
    server.http.post(&server.url).header("accept", accept).json(&json!({ "query": query }))
}

fn told(reply: &Reply) -> String {
    let json = reply.json();
    let code = reply.code();
    match (reply.status, code.as_str()) {
        (200, "") if json["data"]["found"].is_null() => "null".into(),
        (200, "") => "data".into(),
        (200, code) => code.to_owned(),
        (status, code) => format!("{status} {code}"),
    }
}
