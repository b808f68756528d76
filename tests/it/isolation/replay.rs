//! Every value of one tenant is sent by another tenant in every argument slot of the schema, for all pairs of tenancy
//! models. The response must be the same, byte for byte, as for a value that does not exist.

use super::access_table::{self, sdl};
use super::fixtures::{Fixtures, HarvestedTenant, unknown_cursor, unknown_id};
use super::schema_arguments::{ArgumentSlot, QUERY_FORMS, QueryForm, Sdl};
use crate::support::fhir_charts::SYSTEM;
use crate::support::server::Response;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::fmt::Write;
use uuid::Uuid;

/// A value of another tenant in a slot, and a value of the same form that does not exist.
struct Replay<'a> {
    slot: &'a ArgumentSlot,
    form: QueryForm,
    /// Values of the same kind are compared with the same response.
    kind: String,
    foreign: Attempt,
    absent: Attempt,
}

struct Attempt {
    value: String,
    /// Values of other arguments of the root field. The caller's own values are used for the rest.
    root_arguments: BTreeMap<&'static str, String>,
}

#[tokio::test]
async fn l17_foreign_values_in_queries_are_treated_as_absent() {
    let fixtures = Fixtures::shared().await;
    let sdl = Sdl::parse(&sdl(fixtures));
    let slots = sdl.query_slots();
    let roots: Vec<_> = slots.iter().filter(|slot| slot.at_root()).map(|slot| slot.root().name.clone()).collect();
    let with_arguments = sdl.query_fields().iter().filter(|root| !root.arguments.is_empty());
    with_arguments.for_each(|root| assert!(roots.contains(&root.name), "{} has no slot", root.name));
    let mut tried = 0;
    for a in &fixtures.owners {
        for slot in &slots {
            assert_own_value_is_found(fixtures, &sdl, slot, a).await;
        }
    }
    for (a, b) in fixtures.pairs() {
        let replays: Vec<_> = slots.iter().flat_map(|slot| replays(slot, a)).collect();
        tried += replays.len();
        let absent_responses: BTreeMap<_, _> =
            replays.iter().map(|replay| ((replay.slot.name(), replay.form as u8, &replay.kind), replay)).collect();
        let absent_responses = futures_util::stream::iter(absent_responses)
            .map(async |(key, replay)| (key, send(fixtures, &sdl, replay, &replay.absent, b).await.comparable()))
            .buffer_unordered(6);
        let absent_responses: BTreeMap<_, _> = absent_responses.collect().await;
        for ((slot, _, kind), response) in &absent_responses {
            let expected = if kind.as_str() == "cursor" { "INVALID_INPUT" } else { "" };
            assert!(response.contains(expected), "{slot} is not reached with a {kind}: {response:?}");
        }
        let mut foreign_responses = futures_util::stream::iter(&replays)
            .map(async |replay| (replay, send(fixtures, &sdl, replay, &replay.foreign, b).await.comparable()))
            .buffer_unordered(6);
        while let Some((replay, response)) = foreign_responses.next().await {
            let what = format!(
                "{} {:?} {} as {}: {}",
                replay.slot.name(),
                replay.form,
                replay.kind,
                b.mark,
                replay.foreign.value
            );
            assert_eq!(&response, &absent_responses[&(replay.slot.name(), replay.form as u8, &replay.kind)], "{what}");
            assert!(!response.contains(&a.mark), "{what}: {response:?}");
        }
    }
    println!("{} slots of queries, {tried} pairs of a foreign value and a slot tried", slots.len());
    access_table::prove_attempt_count("pairs", tried);
}

/// A mutation cannot name a record of another tenant, and no attempt changes a row of that tenant.
#[tokio::test]
async fn l17_foreign_values_in_mutations_are_treated_as_absent() {
    let fixtures = Fixtures::create().await;
    let sdl = Sdl::parse(&sdl(&fixtures));
    let slots = sdl.mutation_slots();
    for mutation in sdl.mutation_fields() {
        assert!(slots.iter().any(|slot| slot.root().name == mutation.name), "{} has no slot", mutation.name);
    }
    for a in &fixtures.owners {
        for slot in slots.iter().filter(|slot| slot.scalar == "ID") {
            let body = slot.request(&sdl, QueryForm::Variable, &a.value_for(&slot.argument, record_type(slot)), |at| {
                a.value_for(at, record_type(slot))
            });
            let response = Response::of(fixtures.server.post(&token_for(&fixtures, slot, a)).json(&body)).await;
            assert!(["", "CONFLICT"].contains(&response.code().as_str()), "{}: {body} {response:?}", slot.name());
        }
    }
    let mut before = Vec::new();
    for a in &fixtures.owners {
        before.push(table_state_of(&fixtures, a).await);
    }
    let mut tried = 0;
    for (a, b) in fixtures.pairs() {
        for slot in &slots {
            for (form, kind, foreign, absent) in mutation_attempts(slot, a) {
                let send_attempt = async |attempt: &Attempt| {
                    let fill = |at: &str| {
                        attempt.root_arguments.get(at).cloned().unwrap_or_else(|| b.value_for(at, record_type(slot)))
                    };
                    let body = slot.request(&sdl, form, &attempt.value, fill);
                    Response::of(fixtures.server.post(&token_for(&fixtures, slot, b)).json(&body)).await.comparable()
                };
                let (response, expected) = (send_attempt(&foreign).await, send_attempt(&absent).await);
                let what = format!("{} {form:?} {kind} as {}: {}", slot.name(), b.mark, foreign.value);
                assert_eq!(response, expected, "{what}");
                assert!(!response.contains(&a.mark), "{what}: {response:?}");
                if kind == expected_kind(slot) {
                    assert_eq!(response.status_and_code(), (200, "NOT_FOUND".into()), "{what}");
                }
                tried += 1;
            }
        }
    }
    for (a, before) in fixtures.owners.iter().zip(before) {
        assert_eq!(table_state_of(&fixtures, a).await, before, "another tenant changed a row of {}", a.mark);
    }
    println!("{} slots of mutations, {tried} pairs of a foreign value and a slot tried", slots.len());
    access_table::prove_attempt_count("mutations", tried);
}

/// Returns the values of tenant `a` that fit into a slot of a mutation, each with a value of the same form that does
/// not exist.
fn mutation_attempts(slot: &ArgumentSlot, a: &HarvestedTenant) -> Vec<(QueryForm, String, Attempt, Attempt)> {
    let absent_text = || format!("nobody{}", Uuid::now_v7().simple());
    let attempt = |value: &str, root: &[(&'static str, String)]| Attempt {
        value: value.to_owned(),
        root_arguments: root.iter().cloned().collect(),
    };
    let mut found = Vec::new();
    let last = slot.argument.rsplit('.').next().unwrap();
    match slot.scalar.as_str() {
        "ID" => {
            for (kind, id) in &a.ids {
                for form in if a.id(*kind) == id { &QUERY_FORMS[..] } else { &[QueryForm::Variable] } {
                    found.push((*form, format!("id {kind}"), attempt(id, &[]), attempt(&unknown_id(*kind), &[])));
                }
            }
        }
        // The first registration takes an identifier, so each is tried once, in one form.
        _ if last == "value" => {
            for (system, value) in &a.identifiers {
                let of = |system: &str| [("input.identifiers.system", system.to_owned())];
                let foreign = attempt(value, &of(system));
                found.push((
                    QueryForm::Variable,
                    "identifier".into(),
                    foreign,
                    attempt(&absent_text(), &of("http://nobody.test/id")),
                ));
            }
        }
        _ if last == "system" => {
            for (system, _) in &a.identifiers {
                let value = || ("input.identifiers.value", absent_text());
                let foreign = attempt(system, &[value()]);
                found.push((
                    QueryForm::Variable,
                    "system".into(),
                    foreign,
                    attempt("http://nobody.test/id", &[value()]),
                ));
            }
        }
        _ => {
            for text in [a.record_number(), a.id('p'), &a.tenant.slug, &a.tenant.id.to_string()] {
                found.push((QueryForm::Variable, "text".into(), attempt(text, &[]), attempt(&absent_text(), &[])));
            }
        }
    }
    found
}

/// Returns the type of the record that a mutation names by id.
fn record_type(slot: &ArgumentSlot) -> &'static str {
    match slot.root().name.as_str() {
        name if name.ends_with("Patient") => "Patient",
        name if name.ends_with("Encounter") => "Encounter",
        _ => "ClinicalNote",
    }
}

/// Returns the kind of value that a slot is meant for.
fn expected_kind(slot: &ArgumentSlot) -> String {
    let kind = match slot.argument.rsplit('.').next().unwrap() {
        "id" => kind_letter(record_type(slot)),
        "patientId" => 'p',
        "encounterId" => 'e',
        _ => 's',
    };
    if slot.scalar == "ID" { format!("id {kind}") } else { "none".into() }
}

/// Returns the token for a slot. Only a scribe may draft a note for another author; a clinician may do everything else.
fn token_for(fixtures: &Fixtures, slot: &ArgumentSlot, tenant: &HarvestedTenant) -> String {
    match slot.argument.ends_with("authorId") {
        true => fixtures.server.site.token(&[tenant.tenant.id], "scribe", "sam"),
        false => tenant.token.clone(),
    }
}

/// Returns for each table the number of the tenant's rows and the transaction that last wrote one of them.
async fn table_state_of(fixtures: &Fixtures, tenant: &HarvestedTenant) -> String {
    let placement = tenant.tenant.placement.as_ref().unwrap();
    let superuser = fixtures.server.site.superuser(&placement.database).await;
    let tables = "select c.oid::regclass::text, exists (select from pg_attribute a where a.attrelid = c.oid and \
        a.attname = 'changed_in') from pg_class c
        where c.relnamespace = $1::text::regnamespace and c.relkind in ('r', 'p') and not c.relispartition and \
        c.relname !~ '^__' order by 1";
    let mut found = String::new();
    for row in superuser.query(tables, &[&placement.schema.as_str()]).await.unwrap() {
        let (table, stamped): (String, bool) = (row.get(0), row.get(1));
        let last = if stamped { "max(changed_in::text::bigint)" } else { "0::bigint" };
        let count =
            format!("select count(*), coalesce({last}, 0) from {table} where tenant_id = '{}'", tenant.tenant.id);
        let row = superuser.query_one(&count, &[]).await.unwrap();
        writeln!(found, "{table}: {} rows, last written in {}", row.get::<_, i64>(0), row.get::<_, i64>(1)).unwrap();
    }
    assert!(found.lines().count() > 10, "{found}");
    found
}

/// Returns the values of tenant `a` that fit a slot by their type, whatever they identify.
fn replays<'a>(slot: &'a ArgumentSlot, a: &HarvestedTenant) -> Vec<Replay<'a>> {
    let mut found = Vec::new();
    let mut add =
        |kind: &str, value: &str, absent: String, forms: &[QueryForm], root: &[(&'static str, String, String)]| {
            let root_of = |which: fn(&(&'static str, String, String)) -> String| {
                root.iter().map(|part| (part.0, which(part))).collect()
            };
            found.extend(forms.iter().map(|form| Replay {
                slot,
                form: *form,
                kind: kind.to_owned(),
                foreign: Attempt { value: value.to_owned(), root_arguments: root_of(|part| part.1.clone()) },
                absent: Attempt { value: absent.clone(), root_arguments: root_of(|part| part.2.clone()) },
            }));
        };
    let plain = [QueryForm::Variable];
    let forms = if slot.at_root() { &QUERY_FORMS[..] } else { &plain[..] };
    match (slot.scalar.as_str(), slot.argument.as_str()) {
        ("String", "search") => {
            for word in
                [format!("{}family", a.mark), format!("{}gi", a.mark), format!("{SYSTEM}|{}", a.record_number())]
            {
                add("search", &word, "nobodysname".into(), forms, &[]);
            }
        }
        // The response repeats the value, so the absent value has the same length.
        ("String", "name") => {
            for text in [a.record_number(), a.id('p'), &a.tenant.slug, &a.tenant.id.to_string()] {
                add(&format!("name {text}"), text, "n".repeat(text.len()), forms, &[]);
            }
        }
        ("String", "filter.type" | "filter.class") => {
            for text in [a.record_number(), a.id('p'), &a.tenant.slug] {
                add("text", text, "absent".into(), forms, &[]);
            }
        }
        ("ID", _) => {
            for (kind, id) in &a.ids {
                add(&format!("id {kind}"), id, unknown_id(*kind), if a.id(*kind) == id { forms } else { &plain }, &[]);
            }
            for bare in [a.tenant.id.to_string(), a.tenant.slug.clone(), a.record_number().to_owned()] {
                add("no id", &bare, "no-id-at-all".into(), forms, &[]);
            }
        }
        ("String", "after" | "before") => {
            for (list, cursor) in &a.cursors {
                add("cursor", cursor, unknown_cursor(), forms, &[]);
                if list != own_list(slot) || slot.at_root() {
                    continue;
                }
                // The cursor of this list, under the parent it belongs to.
                let kind = match slot.root().name.as_str() {
                    "encounter" => 'e',
                    "note" => 'n',
                    "node" => slot.steps[1].type_condition.as_deref().map(kind_letter).unwrap(),
                    _ => 'p',
                };
                let root = if slot.root().name == "patientByIdentifier" {
                    ("value", a.record_number().to_owned(), "absent-number".to_owned())
                } else {
                    ("id", a.id(kind).to_owned(), unknown_id(kind))
                };
                add(&format!("cursor below, {list}"), cursor, unknown_cursor(), &plain, &[root]);
            }
        }
        ("String", "system" | "value") => {
            for (system, value) in &a.identifiers {
                if slot.argument == "value" {
                    let root = ("system", system.clone(), "http://nobody.test/id".to_owned());
                    add("identifier", value, "absent-number".into(), forms, &[root]);
                } else {
                    let root = ("value", value.clone(), "absent-number".to_owned());
                    add("identifier", system, "http://nobody.test/id".into(), forms, &[root]);
                }
            }
            for other in
                [a.record_number(), a.id('p'), &a.tenant.slug, &a.tenant.id.to_string(), &a.cursors["Patient.notes"]]
            {
                add("text", other, "absent-number".into(), forms, &[]);
            }
        }
        other => panic!("{}: add values of another tenant for {other:?}", slot.name()),
    }
    found
}

async fn send(fixtures: &Fixtures, sdl: &Sdl, replay: &Replay<'_>, attempt: &Attempt, b: &HarvestedTenant) -> Response {
    let id_type = root_id_type(replay.slot);
    let fill = |argument: &str| {
        attempt.root_arguments.get(argument).cloned().unwrap_or_else(|| b.value_for(argument, &id_type))
    };
    let body = replay.slot.request(sdl, replay.form, &attempt.value, fill);
    let mut response = Response::of(fixtures.server.post(&b.token).json(&body)).await;
    if replay.slot.argument == "name" {
        response.body = response.body.replace(&attempt.value, "its name");
    }
    response
}

/// Checks that the same request with the tenant's own value returns data of the chart. Otherwise the comparison would
/// prove nothing.
async fn assert_own_value_is_found(fixtures: &Fixtures, sdl: &Sdl, slot: &ArgumentSlot, a: &HarvestedTenant) {
    let id_type = root_id_type(slot);
    let value = match slot.argument.as_str() {
        "after" | "before" => a.cursors[own_list(slot)].clone(),
        argument => a.value_for(argument, &id_type),
    };
    let body = slot.request(sdl, QueryForm::Variable, &value, |argument| a.value_for(argument, &id_type));
    let response = Response::of(fixtures.server.post(&a.token).json(&body)).await;
    let json = response.json();
    // The page before the newest item is empty.
    assert!(
        response.status == 200
            && json.get("errors").is_none()
            && (response.contains(&a.mark) || slot.argument == "before"),
        "{}: {body} {response:?}",
        slot.name()
    );
}

/// Returns the type of the id that the root field needs, so that the path to the slot exists.
fn root_id_type(slot: &ArgumentSlot) -> String {
    match (slot.root().type_name.as_str(), slot.steps.get(1)) {
        ("Node", Some(step)) => step.type_condition.clone().unwrap(),
        ("Node", None) => "Patient".into(),
        (of, _) => of.to_owned(),
    }
}

/// Returns the list whose pages are limited by the slot.
fn own_list(slot: &ArgumentSlot) -> &'static str {
    match (slot.steps.last().unwrap().field.name.as_str(), parent(slot)) {
        ("patients", _) => "patients",
        ("encounters", "Query") => "encounters",
        ("notes", "Query") => "notes",
        ("encounters", _) => "Patient.encounters",
        (_, "Encounter") => "Encounter.notes",
        (_, _) => "Patient.notes",
    }
}

fn parent(slot: &ArgumentSlot) -> &str {
    let before = slot.steps.iter().rev().nth(1).map(|step| step.field.type_name.as_str());
    slot.steps.last().and_then(|step| step.type_condition.as_deref()).or(before).unwrap_or("Query")
}

fn kind_letter(type_name: &str) -> char {
    type_name.to_lowercase().trim_start_matches("clinical").chars().next().unwrap_or('?')
}
