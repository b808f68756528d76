//! Everything of one tenant is put as another into every hole of the schema, in all pairs of models. The answer must be that for
//! something that does not exist, byte for byte.

use super::holes::{FORMS, Form, Hole, Sdl};
use super::table::{self, sdl};
use super::world::{Clinic, World, strange_cursor, stranger};
use crate::charts::SYSTEM;
use crate::server::Reply;
use futures_util::StreamExt;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use uuid::Uuid;

/// A value of a neighbour, and one like it that is nobody's.
struct Replay<'a> {
    hole: &'a Hole,
    form: Form,
    /// What it is compared with: the same for all values of a kind.
    kind: String,
    theirs: GraphqlRequest,
    nobodys: GraphqlRequest,
}

struct GraphqlRequest {
    value: String,
    /// Values of the root's other arguments; the asker's own where there is none.
    root: BTreeMap<&'static str, String>,
}

#[tokio::test]
async fn l17_every_field_replayed() {
    let world = World::get().await;
    let sdl = Sdl::of(&sdl(world));
    let holes = sdl.holes();
    let roots: Vec<_> = holes.iter().filter(|hole| hole.at_root()).map(|hole| hole.root().name.clone()).collect();
    let with_arguments = sdl.roots().iter().filter(|root| !root.arguments.is_empty());
    with_arguments.for_each(|root| assert!(roots.contains(&root.name), "{} is not walked", root.name));
    let mut tried = 0;
    for a in &world.mine {
        for hole in &holes {
            own_value_is_reached(world, &sdl, hole, a).await;
        }
    }
    for (a, b) in world.pairs() {
        let replays: Vec<_> = holes.iter().flat_map(|hole| replays(hole, a)).collect();
        tried += replays.len();
        let strange: BTreeMap<_, _> =
            replays.iter().map(|replay| ((replay.hole.name(), replay.form as u8, &replay.kind), replay)).collect();
        let strange = futures_util::stream::iter(strange)
            .map(async |(key, replay)| (key, ask(world, &sdl, replay, &replay.nobodys, b).await.told()))
            .buffer_unordered(6);
        let strange: BTreeMap<_, _> = strange.collect().await;
        for ((hole, _, kind), answer) in &strange {
            let wanted = if kind.as_str() == "cursor" { "INVALID_INPUT" } else { "" };
            assert!(answer.says(wanted), "{hole} is not reached with a {kind}: {answer:?}");
        }
        let mut answers = futures_util::stream::iter(&replays)
            .map(async |replay| (replay, ask(world, &sdl, replay, &replay.theirs, b).await.told()))
            .buffer_unordered(6);
        while let Some((replay, answer)) = answers.next().await {
            let what = format!(
                "{} {:?} {} as {}: {}",
                replay.hole.name(),
                replay.form,
                replay.kind,
                b.mark,
                replay.theirs.value
            );
            assert_eq!(&answer, &strange[&(replay.hole.name(), replay.form as u8, &replay.kind)], "{what}");
            assert!(!answer.says(&a.mark), "{what}: {answer:?}");
        }
    }
    println!("{} holes, {tried} pairs of a neighbour's value and a hole tried", holes.len());
    table::prove_tried("pairs", tried);
}

/// The same of changes: nothing of a neighbour's can be named in one, and whatever is tried, the neighbour's rows stay as they are.
#[tokio::test]
async fn l17_every_change_replayed() {
    let world = World::make().await;
    let sdl = Sdl::of(&sdl(&world));
    let holes = sdl.holes_of_changes();
    for change in sdl.changes() {
        assert!(holes.iter().any(|hole| hole.root().name == change.name), "{} is not walked", change.name);
    }
    for a in &world.mine {
        for hole in holes.iter().filter(|hole| hole.kind == "ID") {
            let body =
                hole.question(&sdl, Form::Variable, &a.fills(&hole.argument, on(hole)), |at| a.fills(at, on(hole)));
            let reply = Reply::to(world.server.post(&who(&world, hole, a)).json(&body)).await;
            assert!(["", "CONFLICT"].contains(&reply.code().as_str()), "{}: {body} {reply:?}", hole.name());
        }
    }
    let mut before = Vec::new();
    for a in &world.mine {
        before.push(rows_of(&world, a).await);
    }
    let mut tried = 0;
    for (a, b) in world.pairs() {
        for hole in &holes {
            for (form, kind, theirs, nobodys) in attempts(hole, a) {
                let ask = async |question: &GraphqlRequest| {
                    let fill = |at: &str| question.root.get(at).cloned().unwrap_or_else(|| b.fills(at, on(hole)));
                    let body = hole.question(&sdl, form, &question.value, fill);
                    Reply::to(world.server.post(&who(&world, hole, b)).json(&body)).await.told()
                };
                let (answer, strange) = (ask(&theirs).await, ask(&nobodys).await);
                let what = format!("{} {form:?} {kind} as {}: {}", hole.name(), b.mark, theirs.value);
                assert_eq!(answer, strange, "{what}");
                assert!(!answer.says(&a.mark), "{what}: {answer:?}");
                if kind == expected(hole) {
                    assert_eq!(answer.outcome(), (200, "NOT_FOUND".into()), "{what}");
                }
                tried += 1;
            }
        }
    }
    for (a, before) in world.mine.iter().zip(before) {
        assert_eq!(rows_of(&world, a).await, before, "a neighbour changed something of {}", a.mark);
    }
    println!("{} holes of changes, {tried} pairs of a neighbour's value and a hole tried", holes.len());
    table::prove_tried("changes", tried);
}

/// What of clinic `a` fits into a hole of a change, and what is like it and nobody's.
fn attempts(hole: &Hole, a: &Clinic) -> Vec<(Form, String, GraphqlRequest, GraphqlRequest)> {
    let nobody = || format!("nobody{}", Uuid::now_v7().simple());
    let question = |value: &str, root: &[(&'static str, String)]| GraphqlRequest {
        value: value.to_owned(),
        root: root.iter().cloned().collect(),
    };
    let mut found = Vec::new();
    let last = hole.argument.rsplit('.').next().unwrap();
    match hole.kind.as_str() {
        "ID" => {
            for (kind, id) in &a.ids {
                for form in if a.id(*kind) == id { &FORMS[..] } else { &[Form::Variable] } {
                    found.push((*form, format!("id {kind}"), question(id, &[]), question(&stranger(*kind), &[])));
                }
            }
        }
        // An identifier is taken by whoever registers it first: each is tried once, in one form.
        _ if last == "value" => {
            for (system, value) in &a.identifiers {
                let of = |system: &str| [("input.identifiers.system", system.to_owned())];
                let theirs = question(value, &of(system));
                found.push((
                    Form::Variable,
                    "identifier".into(),
                    theirs,
                    question(&nobody(), &of("http://nobody.test/id")),
                ));
            }
        }
        _ if last == "system" => {
            for (system, _) in &a.identifiers {
                let value = || ("input.identifiers.value", nobody());
                let theirs = question(system, &[value()]);
                found.push((Form::Variable, "system".into(), theirs, question("http://nobody.test/id", &[value()])));
            }
        }
        _ => {
            for text in [a.number(), a.id('p'), &a.tenant.slug, &a.tenant.id.to_string()] {
                found.push((Form::Variable, "text".into(), question(text, &[]), question(&nobody(), &[])));
            }
        }
    }
    found
}

/// What the id of a change is the id of.
fn on(hole: &Hole) -> &'static str {
    match hole.root().name.as_str() {
        name if name.ends_with("Patient") => "Patient",
        name if name.ends_with("Encounter") => "Encounter",
        _ => "ClinicalNote",
    }
}

/// The kind of value that a hole is made for.
fn expected(hole: &Hole) -> String {
    let kind = match hole.argument.rsplit('.').next().unwrap() {
        "id" => first(on(hole)),
        "patientId" => 'p',
        "encounterId" => 'e',
        _ => 's',
    };
    if hole.kind == "ID" { format!("id {kind}") } else { "none".into() }
}

/// Notes for another author are a scribe's to write; everything else is a clinician's.
fn who(world: &World, hole: &Hole, clinic: &Clinic) -> String {
    match hole.argument.ends_with("authorId") {
        true => world.server.site.token(&[clinic.tenant.id], "scribe", "sam"),
        false => clinic.token.clone(),
    }
}

/// How many rows of each table are a clinic's, and when the last of them was written.
async fn rows_of(world: &World, clinic: &Clinic) -> String {
    let placement = clinic.tenant.placement.as_ref().unwrap();
    let superuser = world.server.site.superuser(&placement.database).await;
    let tables = "select c.oid::regclass::text, exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'changed_in') from pg_class c
        where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and c.relname !~ '^__' order by 1";
    let mut found = String::new();
    for row in superuser.query(tables, &[&placement.schema.as_str()]).await.unwrap() {
        let (table, stamped): (String, bool) = (row.get(0), row.get(1));
        let last = if stamped { "max(changed_in::text::bigint)" } else { "0::bigint" };
        let count =
            format!("select count(*), coalesce({last}, 0) from {table} where tenant_id = '{}'", clinic.tenant.id);
        let row = superuser.query_one(&count, &[]).await.unwrap();
        writeln!(found, "{table}: {} rows, last written in {}", row.get::<_, i64>(0), row.get::<_, i64>(1)).unwrap();
    }
    assert!(found.lines().count() > 10, "{found}");
    found
}

/// The values that fit a hole by their type, whatever they are of.
fn replays<'a>(hole: &'a Hole, a: &Clinic) -> Vec<Replay<'a>> {
    let mut found = Vec::new();
    let mut add =
        |kind: &str, value: &str, strange: String, forms: &[Form], root: &[(&'static str, String, String)]| {
            let root_of = |which: fn(&(&'static str, String, String)) -> String| {
                root.iter().map(|part| (part.0, which(part))).collect()
            };
            found.extend(forms.iter().map(|form| Replay {
                hole,
                form: *form,
                kind: kind.to_owned(),
                theirs: GraphqlRequest { value: value.to_owned(), root: root_of(|part| part.1.clone()) },
                nobodys: GraphqlRequest { value: strange.clone(), root: root_of(|part| part.2.clone()) },
            }));
        };
    let plain = [Form::Variable];
    let forms = if hole.at_root() { &FORMS[..] } else { &plain[..] };
    match (hole.kind.as_str(), hole.argument.as_str()) {
        ("String", "search") => {
            for word in [format!("{}family", a.mark), format!("{}gi", a.mark), format!("{SYSTEM}|{}", a.number())] {
                add("search", &word, "nobodysname".into(), forms, &[]);
            }
        }
        // Given back as it came: the strange one is as long.
        ("String", "name") => {
            for text in [a.number(), a.id('p'), &a.tenant.slug, &a.tenant.id.to_string()] {
                add(&format!("name {text}"), text, "n".repeat(text.len()), forms, &[]);
            }
        }
        ("String", "filter.type" | "filter.class") => {
            for text in [a.number(), a.id('p'), &a.tenant.slug] {
                add("text", text, "nobodys".into(), forms, &[]);
            }
        }
        ("ID", _) => {
            for (kind, id) in &a.ids {
                add(&format!("id {kind}"), id, stranger(*kind), if a.id(*kind) == id { forms } else { &plain }, &[]);
            }
            for bare in [a.tenant.id.to_string(), a.tenant.slug.clone(), a.number().to_owned()] {
                add("no id", &bare, "no-id-at-all".into(), forms, &[]);
            }
        }
        ("String", "after" | "before") => {
            for (list, cursor) in &a.cursors {
                add("cursor", cursor, strange_cursor(), forms, &[]);
                if list != own_list(hole) || hole.at_root() {
                    continue;
                }
                // The cursor of this very list, under the neighbour's own parent.
                let kind = match hole.root().name.as_str() {
                    "encounter" => 'e',
                    "note" => 'n',
                    "node" => hole.way[1].on.as_deref().map(first).unwrap(),
                    _ => 'p',
                };
                let root = if hole.root().name == "patientByIdentifier" {
                    ("value", a.number().to_owned(), "nobodys-number".to_owned())
                } else {
                    ("id", a.id(kind).to_owned(), stranger(kind))
                };
                add(&format!("cursor below, {list}"), cursor, strange_cursor(), &plain, &[root]);
            }
        }
        ("String", "system" | "value") => {
            for (system, value) in &a.identifiers {
                if hole.argument == "value" {
                    let root = ("system", system.clone(), "http://nobody.test/id".to_owned());
                    add("identifier", value, "nobodys-number".into(), forms, &[root]);
                } else {
                    let root = ("value", value.clone(), "nobodys-number".to_owned());
                    add("identifier", system, "http://nobody.test/id".into(), forms, &[root]);
                }
            }
            for other in [a.number(), a.id('p'), &a.tenant.slug, &a.tenant.id.to_string(), &a.cursors["Patient.notes"]]
            {
                add("text", other, "nobodys-number".into(), forms, &[]);
            }
        }
        other => panic!("{}: teach the replay what a neighbour's {other:?} is", hole.name()),
    }
    found
}

async fn ask(world: &World, sdl: &Sdl, replay: &Replay<'_>, question: &GraphqlRequest, b: &Clinic) -> Reply {
    let on = leads_on(replay.hole);
    let fill = |argument: &str| question.root.get(argument).cloned().unwrap_or_else(|| b.fills(argument, &on));
    let body = replay.hole.question(sdl, replay.form, &question.value, fill);
    let mut reply = Reply::to(world.server.post(&b.token).json(&body)).await;
    if replay.hole.argument == "name" {
        reply.body = reply.body.replace(&question.value, "its name");
    }
    reply
}

/// The walk is worth something only where the same question with one's own value is answered from the chart.
async fn own_value_is_reached(world: &World, sdl: &Sdl, hole: &Hole, a: &Clinic) {
    let on = leads_on(hole);
    let value = match hole.argument.as_str() {
        "after" | "before" => a.cursors[own_list(hole)].clone(),
        argument => a.fills(argument, &on),
    };
    let body = hole.question(sdl, Form::Variable, &value, |argument| a.fills(argument, &on));
    let reply = Reply::to(world.server.post(&a.token).json(&body)).await;
    let json = reply.json();
    // Before the newest there is nothing.
    assert!(
        reply.status == 200 && json.get("errors").is_none() && (reply.says(&a.mark) || hole.argument == "before"),
        "{}: {body} {reply:?}",
        hole.name()
    );
}

/// The type whose id a root must be given so that the way goes on.
fn leads_on(hole: &Hole) -> String {
    match (hole.root().of.as_str(), hole.way.get(1)) {
        ("Node", Some(step)) => step.on.clone().unwrap(),
        ("Node", None) => "Patient".into(),
        (of, _) => of.to_owned(),
    }
}

/// The list whose pages a hole bounds.
fn own_list(hole: &Hole) -> &'static str {
    match (hole.way.last().unwrap().field.name.as_str(), parent(hole)) {
        ("patients", _) => "patients",
        ("encounters", "Query") => "encounters",
        ("notes", "Query") => "notes",
        ("encounters", _) => "Patient.encounters",
        (_, "Encounter") => "Encounter.notes",
        (_, _) => "Patient.notes",
    }
}

fn parent(hole: &Hole) -> &str {
    let before = hole.way.iter().rev().nth(1).map(|step| step.field.of.as_str());
    hole.way.last().and_then(|step| step.on.as_deref()).or(before).unwrap_or("Query")
}

fn first(on: &str) -> char {
    on.to_lowercase().trim_start_matches("clinical").chars().next().unwrap_or('?')
}

/// What a question looks like; for those who read the output of a failure.
#[test]
fn a_hole_is_filled() {
    let sdl = Sdl::of("type Query { patient(id: ID!): Patient } type Patient { id: ID! notes(first: Int, after: String): NoteConnection! }
        type NoteConnection { edges: [NoteEdge!]! nodes: [Note!]! } type NoteEdge { cursor: String! node: Note! } type Note { body: String }");
    let holes = sdl.holes();
    let names: Vec<_> = holes.iter().map(Hole::name).collect();
    assert_eq!(names, ["patient(id)", "patient.notes(after)"]);
    let question = holes[1].question(&sdl, Form::Fragment, "c", |_| "p".into());
    let query = "query Q($id: ID! $hole: String) { a: patient(id: $id) { notes(first: 2 after: $hole) { ...F } } } \
        fragment F on NoteConnection { __typename edges { __typename cursor node { __typename body } } }";
    assert_eq!(question["query"].as_str().unwrap(), query);
    assert_eq!(question["variables"], json!({ "hole": "c", "id": "p" }));
    let sdl = Sdl::of(
        "type Query { a: Int } type Mutation { write(input: WriteInput!): Int } enum Sex { FEMALE MALE }
        input WriteInput { id: ID! version: Int! sex: Sex! title: String parts: [Part!]! } input Part { system: String! value: String! }",
    );
    let holes = sdl.holes_of_changes();
    let names: Vec<_> = holes.iter().map(Hole::name).collect();
    assert_eq!(
        names,
        ["write(input.id)", "write(input.title)", "write(input.parts.system)", "write(input.parts.value)"]
    );
    let question = holes[3].question(&sdl, Form::Literal, "v", |at| at.to_uppercase());
    let query = "mutation Q { write(input: {id: \"INPUT.ID\" parts: [{system: \"INPUT.PARTS.SYSTEM\" value: \"v\"}] sex: FEMALE version: 1000000}) \
        { __typename } } ";
    assert_eq!(question["query"].as_str().unwrap(), query);
}
