//! Argument slots of a GraphQL schema: every argument of type `ID` or `String`, and every such field of an input
//! object, on every path from a root field on which no type repeats. Tests put values of another tenant into each slot.
//! This module knows no tenant and sends no request.

use async_graphql::Positioned;
use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{InputValueDefinition, TypeKind, TypeSystemDefinition};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The maximum depth of a request.
const MAX_DEPTH: usize = 12;
/// A version that no record has. The server checks whose record it is before it compares versions.
const UNUSED_VERSION: i32 = 1_000_000;

/// The object, interface, input and enum types of a schema.
pub struct Sdl {
    types: BTreeMap<String, Vec<Field>>,
    /// The object types that implement each interface.
    implementors: BTreeMap<String, Vec<String>>,
    /// The name and type of each field of an input type.
    inputs: BTreeMap<String, Vec<(String, String)>>,
    /// The first value of each enum type.
    enums: BTreeMap<String, String>,
}

/// A field of an object or interface type.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    /// The name and type of each argument.
    pub arguments: Vec<(String, String)>,
    /// The name of its type, without list and non-null markers.
    pub type_name: String,
}

/// A field on the path to a slot. When it is selected on an interface, `type_condition` is the object type.
#[derive(Debug, Clone)]
pub struct Step {
    pub type_condition: Option<String>,
    pub field: Field,
}

/// One argument, or one field of an input object, and the path to it.
#[derive(Debug, Clone)]
pub struct ArgumentSlot {
    pub steps: Vec<Step>,
    /// The name of the argument. For a field of an input object, the path to the field: `input.identifiers.value`.
    pub argument: String,
    /// `ID` or `String`.
    pub scalar: String,
}

/// How a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryForm {
    /// Values are variables.
    Variable,
    /// Values are literals.
    Literal,
    /// Values are variables, the root field has an alias, and the selection is a fragment.
    Fragment,
}

pub const QUERY_FORMS: [QueryForm; 3] = [QueryForm::Variable, QueryForm::Literal, QueryForm::Fragment];

impl Sdl {
    pub fn parse(sdl: &str) -> Self {
        let (mut types, mut implementors) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
        let (mut inputs, mut enums) = (BTreeMap::new(), BTreeMap::new());
        let typed = |value: &Positioned<InputValueDefinition>| {
            (value.node.name.node.to_string(), value.node.ty.node.to_string())
        };
        for definition in parse_schema(sdl).unwrap().definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let name = definition.node.name.node.to_string();
            let fields = match definition.node.kind {
                TypeKind::Object(object) => {
                    for interface in object.implements {
                        implementors.entry(interface.node.to_string()).or_default().push(name.clone());
                    }
                    object.fields
                }
                TypeKind::Interface(interface) => interface.fields,
                TypeKind::InputObject(input) => {
                    inputs.insert(name, input.fields.iter().map(typed).collect());
                    continue;
                }
                TypeKind::Enum(values) => {
                    enums.insert(name, values.values[0].node.value.node.to_string());
                    continue;
                }
                _ => continue,
            };
            let fields = fields.into_iter().map(|field| Field {
                name: field.node.name.node.to_string(),
                arguments: field.node.arguments.iter().map(typed).collect(),
                type_name: base(&field.node.ty.node.to_string()).to_owned(),
            });
            types.insert(name, fields.collect());
        }
        Self { types, implementors, inputs, enums }
    }

    /// Returns the root fields of queries.
    pub fn query_fields(&self) -> &[Field] {
        assert!(!self.types.contains_key("Subscription"), "the walk does not support subscriptions");
        &self.types["Query"]
    }

    /// Returns the root fields of mutations.
    pub fn mutation_fields(&self) -> &[Field] {
        self.types.get("Mutation").map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns all argument slots of queries.
    pub fn query_slots(&self) -> Vec<ArgumentSlot> {
        let mut found = Vec::new();
        self.walk("Query", None, &[], &BTreeSet::new(), &mut found);
        found
    }

    /// Returns all argument slots of mutations. The fields of their payloads are covered by the query slots.
    pub fn mutation_slots(&self) -> Vec<ArgumentSlot> {
        let mut found = Vec::new();
        for field in self.mutation_fields() {
            let steps = [Step { type_condition: None, field: field.clone() }];
            field.arguments.iter().for_each(|(argument, ty)| self.collect_slots(&steps, argument, ty, &mut found));
        }
        found
    }

    /// Adds the slots of one argument.
    fn collect_slots(&self, steps: &[Step], argument: &str, ty: &str, found: &mut Vec<ArgumentSlot>) {
        match base(ty) {
            scalar @ ("ID" | "String") => found.push(ArgumentSlot {
                steps: steps.to_vec(),
                argument: argument.to_owned(),
                scalar: scalar.to_owned(),
            }),
            "Int" | "Boolean" | "DateTime" | "Date" => {}
            name if self.enums.contains_key(name) => {}
            input => {
                let fields = self.inputs.get(input).unwrap_or_else(|| {
                    panic!("{argument}: {input}: add values of another tenant for the type {input}")
                });
                fields
                    .iter()
                    .for_each(|(field, ty)| self.collect_slots(steps, &format!("{argument}.{field}"), ty, found));
            }
        }
    }

    fn walk(
        &self,
        name: &str,
        type_condition: Option<&str>,
        steps: &[Step],
        seen: &BTreeSet<String>,
        found: &mut Vec<ArgumentSlot>,
    ) {
        let mut seen = seen.clone();
        if !seen.insert(name.to_owned()) {
            return;
        }
        for object in self.implementors.get(name).into_iter().flatten() {
            self.walk(object, Some(object), steps, &seen, found);
        }
        // The field `nodes` returns the same as `edges { node }`.
        for field in self.types.get(name).into_iter().flatten().filter(|field| field.name != "nodes") {
            let mut steps = steps.to_vec();
            steps.push(Step { type_condition: type_condition.map(str::to_owned), field: field.clone() });
            field.arguments.iter().for_each(|(argument, ty)| self.collect_slots(&steps, argument, ty, found));
            // The fields of a record in a root list are covered by the paths from the record's own root field.
            if name != "Query" || !field.type_name.ends_with("Connection") {
                self.walk(&field.type_name, None, &steps, &seen, found);
            }
        }
    }

    /// Builds a value of type `ty`. `slot` is the remaining path to the slot and its value. Other required values come
    /// from `fill`, which receives their whole path.
    fn value(&self, at: &str, ty: &str, slot: Option<(&str, &str)>, fill: &dyn Fn(&str) -> String) -> Value {
        if let Some(item) = ty.trim_end_matches('!').strip_prefix('[') {
            let item = &item[..item.len() - 1];
            return if slot.is_some() { json!([self.value(at, item, slot, fill)]) } else { json!([]) };
        }
        match (base(ty), slot) {
            ("Int", _) => json!(UNUSED_VERSION),
            (_, Some(("", value))) => json!(value),
            (name, _) if self.enums.contains_key(name) => json!(self.enums[name]),
            (name, _) if self.inputs.contains_key(name) => {
                let mut fields = Map::new();
                for (field, ty) in &self.inputs[name] {
                    let below = slot.and_then(|(path, value)| Some((path.strip_prefix(field.as_str())?, value)));
                    let below = below
                        .filter(|(rest, _)| rest.is_empty() || rest.starts_with('.'))
                        .map(|(rest, value)| (rest.trim_start_matches('.'), value));
                    if below.is_some() || ty.ends_with('!') {
                        fields.insert(field.clone(), self.value(&format!("{at}.{field}"), ty, below, fill));
                    }
                }
                Value::Object(fields)
            }
            _ => json!(fill(at)),
        }
    }

    /// Writes a value as a GraphQL literal.
    fn literal(&self, ty: &str, value: &Value) -> String {
        match value {
            Value::Array(items) => {
                let item = ty.trim_end_matches('!').trim_start_matches('[').trim_end_matches(']');
                format!("[{}]", items.iter().map(|value| self.literal(item, value)).collect::<Vec<_>>().join(" "))
            }
            Value::Object(fields) => {
                let types = &self.inputs[base(ty)];
                let of =
                    |name: &str| types.iter().find(|(field, _)| field == name).map_or("String", |(_, ty)| ty.as_str());
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("{name}: {}", self.literal(of(name), value))).collect();
                format!("{{{}}}", fields.join(" "))
            }
            Value::String(text) if self.enums.contains_key(base(ty)) => text.clone(),
            plain => plain.to_string(),
        }
    }

    /// Returns a selection of all fields of a type, to a depth of `levels`, with two items of each list.
    fn all_fields(&self, name: &str, seen: &BTreeSet<String>, levels: usize) -> String {
        let mut seen = seen.clone();
        if levels == 0 || !seen.insert(name.to_owned()) {
            return String::new();
        }
        let mut text = String::from("__typename ");
        for field in self.types.get(name).into_iter().flatten().filter(|field| field.name != "nodes") {
            let page = if field.arguments.iter().any(|(argument, _)| argument == "first") { "(first: 2)" } else { "" };
            match self.types.contains_key(&field.type_name) {
                false => text += &format!("{} ", field.name),
                true => {
                    let inner = self.all_fields(&field.type_name, &seen, levels - 1);
                    if !inner.is_empty() {
                        text += &format!("{}{page} {{ {inner}}} ", field.name);
                    }
                }
            }
        }
        for object in self.implementors.get(name).into_iter().flatten() {
            text += &format!("... on {object} {{ {}}} ", self.all_fields(object, &seen, levels));
        }
        text
    }
}

impl ArgumentSlot {
    /// Returns the name of the slot in messages: `patient.encounters.notes(after)`.
    pub fn name(&self) -> String {
        let step = |step: &Step| match &step.type_condition {
            Some(type_condition) => format!("{type_condition}:{}", step.field.name),
            None => step.field.name.clone(),
        };
        let steps = self
            .steps
            .iter()
            .filter(|step| !["edges", "node"].contains(&step.field.name.as_str()) || step.type_condition.is_some());
        format!("{}({})", steps.map(step).collect::<Vec<_>>().join("."), self.argument)
    }

    pub fn root(&self) -> &Field {
        &self.steps.first().unwrap().field
    }

    /// Whether the slot is an argument of the root field itself.
    pub fn at_root(&self) -> bool {
        self.steps.len() == 1
    }

    /// Builds a request with `value` in the slot. `fill` returns the other required values by their path.
    pub fn request(&self, sdl: &Sdl, form: QueryForm, value: &str, fill: impl Fn(&str) -> String) -> Value {
        let mut variables = Map::new();
        let mut declared = Vec::new();
        let mut put = |name: &str, ty: &str, value: Value| match form {
            QueryForm::Literal => sdl.literal(ty, &value),
            QueryForm::Variable | QueryForm::Fragment => {
                declared.push(format!("${name}: {ty}"));
                variables.insert(name.to_owned(), value);
                format!("${name}")
            }
        };
        let (slot, path) = self.argument.split_once('.').unwrap_or((&self.argument, ""));
        let mut open = String::new();
        let mut closing = String::new();
        for (at, step) in self.steps.iter().enumerate() {
            let last = at + 1 == self.steps.len();
            let mut arguments = Vec::new();
            for (argument, ty) in &step.field.arguments {
                if last && argument == slot {
                    arguments.push(format!(
                        "{argument}: {}",
                        put("slot", ty, sdl.value(argument, ty, Some((path, value)), &fill))
                    ));
                } else if ty.ends_with('!') {
                    arguments.push(format!("{argument}: {}", put(argument, ty, sdl.value(argument, ty, None, &fill))));
                } else if argument == "first" {
                    // One parent only: a cursor belongs to the list of one parent, and an error nulls the page it
                    // occurs on.
                    arguments.push(if last { "first: 2" } else { "first: 1" }.to_owned());
                }
            }
            // With `first`, `before` would not limit the page.
            let arguments = arguments.join(" ").replace("first: 2 before", "last: 2 before");
            let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
            if let Some(type_condition) = &step.type_condition {
                open += &format!("... on {type_condition} {{ ");
                closing.push_str("} ");
            }
            let alias = if form == QueryForm::Fragment && at == 0 { "a: " } else { "" };
            open += &format!("{alias}{}{arguments} {{ ", step.field.name);
            closing.push_str("} ");
        }
        let last = &self.steps.last().unwrap().field.type_name;
        let is_mutation = sdl.mutation_fields().iter().any(|field| field.name == self.root().name);
        // The ids and times in the payload of a mutation differ each time and cannot be compared.
        let inner = match is_mutation {
            true => "__typename ".to_owned(),
            false => sdl.all_fields(last, &BTreeSet::new(), 4.min(MAX_DEPTH - self.steps.len())),
        };
        let (inner, fragment) = match form {
            QueryForm::Fragment => ("...F ".to_owned(), format!("fragment F on {last} {{ {inner}}}")),
            QueryForm::Variable | QueryForm::Literal => (inner, String::new()),
        };
        let head = if declared.is_empty() { String::new() } else { format!("({})", declared.join(" ")) };
        let operation = if is_mutation { "mutation" } else { "query" };
        json!({ "query": format!("{operation} Q{head} {{ {open}{inner}{closing}}} \
            {fragment}"), "variables": variables })
    }
}

fn base(ty: &str) -> &str {
    ty.trim_matches(['[', ']', '!'])
}

/// The text of requests, for the reader of a failure message.
#[test]
fn requests_are_built_from_slots() {
    let sdl = Sdl::parse(
        "type Query { patient(id: ID!): Patient } type Patient { id: ID! notes(first: Int, after: \
        String): NoteConnection! }
        type NoteConnection { edges: [NoteEdge!]! nodes: [Note!]! } type NoteEdge { cursor: String! node: Note! } type \
        Note { body: String }",
    );
    let slots = sdl.query_slots();
    let names: Vec<_> = slots.iter().map(ArgumentSlot::name).collect();
    assert_eq!(names, ["patient(id)", "patient.notes(after)"]);
    let request = slots[1].request(&sdl, QueryForm::Fragment, "c", |_| "p".into());
    let query = "query Q($id: ID! $slot: String) { a: patient(id: $id) { notes(first: 2 after: $slot) { ...F } } } \
        fragment F on NoteConnection { __typename edges { __typename cursor node { __typename body } } }";
    assert_eq!(request["query"].as_str().unwrap(), query);
    assert_eq!(request["variables"], json!({ "slot": "c", "id": "p" }));
    let sdl = Sdl::parse(
        "type Query { a: Int } type Mutation { write(input: WriteInput!): Int } enum Sex { FEMALE MALE }
        input WriteInput { id: ID! version: Int! sex: Sex! title: String parts: [Part!]! } input Part { system: \
        String! value: String! }",
    );
    let slots = sdl.mutation_slots();
    let names: Vec<_> = slots.iter().map(ArgumentSlot::name).collect();
    assert_eq!(
        names,
        ["write(input.id)", "write(input.title)", "write(input.parts.system)", "write(input.parts.value)"]
    );
    let request = slots[3].request(&sdl, QueryForm::Literal, "v", |at| at.to_uppercase());
    let query = "mutation Q { write(input: {id: \"INPUT.ID\" parts: [{system: \"INPUT.PARTS.SYSTEM\" value: \"v\"}] \
        sex: FEMALE version: 1000000}) { __typename } } ";
    assert_eq!(request["query"].as_str().unwrap(), query);
}
