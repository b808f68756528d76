//! The isolation table: what every root field and every operation of the table of roles answers to whom. A committed file, so that
//! every change of access is a line of a diff; here it is made anew and compared. Every role asks its own tenant, another one's and a
//! suspended one's.

use super::holes::Sdl;
use super::world::{Clinic, World};
use crate::fresh::prove;
use crate::server::{Reply, Server};
use cordon::graphql::Api;
use cordon::guard::Policy;
use futures_util::future::join_all;
use serde_json::json;
use std::fmt::Write;
use std::sync::Mutex;

const FILE: &str = "tests/it/isolation.txt";
const ROLES: [&str; 9] =
    ["clinician", "trainee", "nurse", "scribe", "admin", "records", "auditor", "partner", "janitor"];

const OTHER: &str = "other tenant";
const SUSPENDED: &str = "suspended tenant";
/// Operations whose question names nothing of the clinic's: another tenant gets what is its own.
const OF_NOBODY: [&str; 4] = ["viewer", "encounters", "feature", "registerPatient"];

/// The schema as the server under test has it.
pub fn sdl(world: &World) -> String {
    Api::new(&world.server.app.settings.limits).unwrap().sdl()
}

#[tokio::test]
async fn the_table_of_access_is_fresh() {
    let (world, changed) = (World::get().await, World::make().await);
    let policy = Policy::built_in().unwrap();
    let sdl = Sdl::of(&sdl(world));
    let mut operations: Vec<(String, String)> = Vec::new();
    for root in sdl.roots() {
        assert!(
            policy.operations().any(|operation| operation == root.name),
            "{} has no row in the table of roles",
            root.name
        );
        let kinds =
            if root.name == "node" { vec!["Patient", "Encounter", "ClinicalNote"] } else { vec![root.of.as_str()] };
        operations.extend(kinds.into_iter().map(|kind| (root.name.clone(), kind.to_owned())));
    }
    operations.extend(sdl.changes().iter().map(|change| (change.name.clone(), String::new())));
    let of_roots = operations.len();
    let nested = policy.operations().filter(|operation| operation.contains('.'));
    operations.extend(nested.map(|operation| (operation.to_owned(), String::new())));
    let mut text = String::from(
        "# Who gets what. Written by `UPDATE=1 cargo test isolation`; read its diff as a change of access.\n",
    );
    for (number, (operation, kind)) in operations.iter().enumerate() {
        let name = if operation == "node" { format!("node {kind}") } else { operation.clone() };
        let of_change = operation
            .split('.')
            .any(|part| part.starts_with("of") || sdl.changes().iter().any(|change| change.name == part));
        let world = if of_change { &changed } else { world };
        for who in ["own tenant", OTHER, SUSPENDED, "nobody"].iter().chain(&ROLES) {
            if [OTHER, SUSPENDED].contains(who) {
                for (outcome, roles) in crossed(world, operation, kind, who).await {
                    let whose =
                        if roles.len() == ROLES.len() { String::new() } else { format!("  {}", roles.join(" ")) };
                    writeln!(text, "{name:20} {who:17} {outcome}{whose}").unwrap();
                }
                continue;
            }
            if number >= of_roots && !ROLES.contains(who) {
                continue;
            }
            let mut outcomes = Vec::new();
            for a in &world.mine {
                outcomes.push(outcome(world, operation, kind, who, a).await);
            }
            assert!(
                outcomes.iter().all(|outcome| *outcome == outcomes[0]),
                "{name} {who}: {outcomes:?} in the three models"
            );
            writeln!(text, "{name:20} {who:17} {}", outcomes[0]).unwrap();
            if ROLES.contains(who) {
                let roots = needed(operation, kind);
                let may = roots.iter().all(|operation| policy.allows(operation, &[(*who).to_owned()]));
                let refused = match operation.as_str() {
                    "signNote.final" if policy.allows("signNote", &[(*who).to_owned()]) => "UNCOSIGNED",
                    _ => "FORBIDDEN",
                };
                assert_eq!(
                    outcomes[0],
                    if may { "data" } else { refused },
                    "{name} for {who}, against the table of roles"
                );
            }
        }
    }
    let _turn = TURN.lock().unwrap();
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    text.extend(committed.lines().filter(|line| line.contains(TRIED)).map(|line| format!("{line}\n")));
    prove(FILE, &text);
}

/// How many were tried: these lines are proved by the walks themselves.
const TRIED: &str = " tried: ";
static TURN: Mutex<()> = Mutex::new(());

/// Fails when fewer were tried than the last time.
pub fn prove_tried(what: &str, tried: usize) {
    let _turn = TURN.lock().unwrap();
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
        .expect("a committed number of tries");
    assert!(tried >= known, "{label}{tried} and {known} are committed: what is no longer walked?");
}

/// The operations that a row needs to be allowed.
fn needed<'a>(operation: &'a str, kind: &str) -> Vec<&'a str> {
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

async fn outcome(world: &World, operation: &str, kind: &str, who: &str, a: &Clinic) -> String {
    let role = if who == "own tenant" { "clinician" } else { who };
    let token = (who != "nobody").then(|| world.server.site.token(&[a.tenant.id], role, "rolf"));
    told(&ask(&world.server, &question(&world.server, operation, kind, a).await, token).await)
}

/// What each role of another tenant or of a suspended one gets that asks for what is a clinic's, by what it gets.
async fn crossed(world: &World, operation: &str, kind: &str, whose: &str) -> Vec<(String, Vec<&'static str>)> {
    let mut in_models = Vec::new();
    for (a, b) in world.mine.iter().zip(&world.others) {
        let tenant = if whose == OTHER { &b.tenant } else { &world.suspended };
        let query = question(&world.server, operation, kind, a).await;
        let replies = join_all(
            ROLES.map(|role| ask(&world.server, &query, Some(world.server.site.token(&[tenant.id], role, role)))),
        )
        .await;
        let mut outcomes: Vec<(String, Vec<&'static str>)> = Vec::new();
        for (reply, role) in replies.iter().zip(ROLES) {
            let outcome = told(reply);
            assert!(
                !reply.json().to_string().contains(&a.mark),
                "{operation} for {role}, {whose}: a word of the clinic's"
            );
            match whose {
                SUSPENDED => assert_eq!(outcome, "403 TENANT_SUSPENDED", "{operation} for {role}"),
                _ => assert!(outcome != "data" || OF_NOBODY.contains(&operation), "{operation} for {role}, {whose}"),
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

/// A change of something new of clinic `a`, of Rolf's making, so that nothing but the role decides.
async fn change(server: &Server<'_>, operation: &str, a: &Clinic) -> Option<String> {
    let (patient, doctor) = (a.id('p'), a.id('s'));
    let rolf = server.site.token(&[a.tenant.id], "clinician", "rolf");
    let make = async |change: String| {
        let made = server.data(&rolf, &format!("mutation {{ made: {change} }}"), json!({})).await;
        let id = ["patient", "encounter", "note"].iter().find_map(|record| made["made"][record]["id"].as_str());
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
            make(format!("{register} {{ patient {{ id }} }}")).await
        ),
        "startEncounter" => started(),
        "finishEncounter" | "cancelEncounter" => {
            format!("{operation}(input: {{ {} }})", make(format!("{} {{ encounter {{ id }} }}", started())).await)
        }
        "draftNote" | "draftNote.own" | "note.ofNurses" => of_nurses,
        "draftNote.forAuthor" => of_nurses.replace("body:", &format!("authorId: \"{doctor}\" body:")),
        "note.ofOthers" => draft("34117-2"),
        "reviseDraft" => format!("reviseDraft(input: {{ {} body: \"c\" }})", make(drafted).await),
        "discardDraft" | "signNote" => format!("{operation}(input: {{ {} }})", make(drafted).await),
        "signNote.final" => {
            return Some(format!(
                "mutation {{ found: signNote(input: {{ {} }}) {{ note {{ status }} }} }}",
                make(drafted).await
            ));
        }
        _ => return None,
    };
    Some(format!("mutation {{ found: {query} {{ __typename }} }}"))
}

/// A question for something of clinic `a`.
async fn question(server: &Server<'_>, operation: &str, kind: &str, a: &Clinic) -> String {
    let (patient, encounter, note) = (a.id('p'), a.id('e'), a.id('n'));
    let changed = change(server, operation, a).await;
    match (operation, kind) {
        _ if changed.is_some() => changed.unwrap_or_default(),
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
            let system = crate::charts::SYSTEM;
            format!(
                "{{ found: patientByIdentifier(system: \"{system}\", value: \"{}\") {{ name {{ text }} }} }}",
                a.number()
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
            _ => panic!("{list} is not asked for: give it a question"),
        },
    }
}

async fn ask(server: &Server<'_>, query: &str, token: Option<String>) -> Reply {
    let accept = "application/graphql-response+json";
    let question = server.http.post(&server.url).header("accept", accept).json(&json!({ "query": query }));
    Reply::to(match token {
        Some(token) => question.bearer_auth(token),
        None => question,
    })
    .await
}

fn told(reply: &Reply) -> String {
    let json = reply.json();
    let code = reply.code();
    match (reply.status, code.as_str()) {
        (200, "") if json["data"]["found"].is_null() => "null".into(),
        (200, "") if json["data"]["found"]["edges"] == json!([]) => "empty".into(),
        (200, "") if json["data"]["found"]["note"]["status"] == "UNCOSIGNED" => "UNCOSIGNED".into(),
        (200, "") => "data".into(),
        (200, code) => code.to_owned(),
        (status, code) => format!("{status} {code}"),
    }
}
