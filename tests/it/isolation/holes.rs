//! The walk over the schema's own text: every argument and every field of an input, along every way from a root on which no type repeats.
//! Each is a hole into which a value of another tenant can be put. Knows no tenant and sends nothing.

use async_graphql::Positioned;
use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{InputValueDefinition, TypeKind, TypeSystemDefinition};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Levels of fields a question may have.
const LEVELS: usize = 12;
/// A version that no record has: whose record it is, is looked at first.
const STALE: i32 = 1_000_000;

/// Objects, interfaces, inputs and enums of a schema.
pub struct Sdl {
    types: BTreeMap<String, Vec<Field>>,
    implementors: BTreeMap<String, Vec<String>>,
    /// Name and type of each field of an input.
    inputs: BTreeMap<String, Vec<(String, String)>>,
    /// The first value of each enum.
    enums: BTreeMap<String, String>,
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: String,
    /// Name and type.
    pub arguments: Vec<(String, String)>,
    /// Name of its type, without brackets.
    pub of: String,
}

/// A field on the way, with the type it is asked of where an interface leaves that open.
#[derive(Debug, Clone)]
pub struct Step {
    pub on: Option<String>,
    pub field: Field,
}

/// One argument or field of an input, and the way to it.
#[derive(Debug, Clone)]
pub struct Hole {
    pub way: Vec<Step>,
    /// The argument; in an input, its fields on the way down: `input.identifiers.value`.
    pub argument: String,
    pub kind: String,
}

/// How a question is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Variable,
    Literal,
    Fragment,
}

pub const FORMS: [Form; 3] = [Form::Variable, Form::Literal, Form::Fragment];

impl Sdl {
    pub fn of(sdl: &str) -> Self {
        let (mut types, mut implementors) = (BTreeMap::new(), BTreeMap::<String, Vec<String>>::new());
        let (mut inputs, mut enums) = (BTreeMap::new(), BTreeMap::new());
        let typed =
            |of: &Positioned<InputValueDefinition>| (of.node.name.node.to_string(), of.node.ty.node.to_string());
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
                of: base(&field.node.ty.node.to_string()).to_owned(),
            });
            types.insert(name, fields.collect());
        }
        Self { types, implementors, inputs, enums }
    }

    /// The root fields of questions.
    pub fn roots(&self) -> &[Field] {
        assert!(!self.types.contains_key("Subscription"), "teach the walk to listen");
        &self.types["Query"]
    }

    /// The root fields of changes.
    pub fn changes(&self) -> &[Field] {
        self.types.get("Mutation").map(Vec::as_slice).unwrap_or_default()
    }

    /// Every argument of a question that can carry a value of another tenant.
    pub fn holes(&self) -> Vec<Hole> {
        let mut found = Vec::new();
        self.walk("Query", None, &[], &BTreeSet::new(), &mut found);
        found
    }

    /// The same of changes. What hangs on what they answer is walked from the questions.
    pub fn holes_of_changes(&self) -> Vec<Hole> {
        let mut found = Vec::new();
        for field in self.changes() {
            let way = [Step { on: None, field: field.clone() }];
            field.arguments.iter().for_each(|(argument, ty)| self.dig(&way, argument, ty, &mut found));
        }
        found
    }

    /// The holes of one argument.
    fn dig(&self, way: &[Step], argument: &str, ty: &str, found: &mut Vec<Hole>) {
        match base(ty) {
            kind @ ("ID" | "String") => {
                found.push(Hole { way: way.to_vec(), argument: argument.to_owned(), kind: kind.to_owned() })
            }
            "Int" | "Boolean" | "DateTime" | "Date" => {}
            kind if self.enums.contains_key(kind) => {}
            input => {
                let fields = self.inputs.get(input).unwrap_or_else(|| {
                    panic!("{argument}: {input}: teach the walk what another tenant's {input} could be")
                });
                fields.iter().for_each(|(field, ty)| self.dig(way, &format!("{argument}.{field}"), ty, found));
            }
        }
    }

    fn walk(&self, name: &str, on: Option<&str>, way: &[Step], seen: &BTreeSet<String>, found: &mut Vec<Hole>) {
        let mut seen = seen.clone();
        if !seen.insert(name.to_owned()) {
            return;
        }
        for object in self.implementors.get(name).into_iter().flatten() {
            self.walk(object, Some(object), way, &seen, found);
        }
        // `nodes` is `edges { node }` once more.
        for field in self.types.get(name).into_iter().flatten().filter(|field| field.name != "nodes") {
            let mut way = way.to_vec();
            way.push(Step { on: on.map(str::to_owned), field: field.clone() });
            field.arguments.iter().for_each(|(argument, ty)| self.dig(&way, argument, ty, found));
            // What hangs on a record is walked from the record's own root.
            if name != "Query" || !field.of.ends_with("Connection") {
                self.walk(&field.of, None, &way, &seen, found);
            }
        }
    }

    /// A value of type `ty` that has `value` at `path`; what else it must have comes from `fill`, by the whole path.
    fn value(&self, at: &str, ty: &str, hole: Option<(&str, &str)>, fill: &dyn Fn(&str) -> String) -> Value {
        if let Some(item) = ty.trim_end_matches('!').strip_prefix('[') {
            let item = &item[..item.len() - 1];
            return if hole.is_some() { json!([self.value(at, item, hole, fill)]) } else { json!([]) };
        }
        match (base(ty), hole) {
            ("Int", _) => json!(STALE),
            (_, Some(("", value))) => json!(value),
            (name, _) if self.enums.contains_key(name) => json!(self.enums[name]),
            (name, _) if self.inputs.contains_key(name) => {
                let mut fields = Map::new();
                for (field, ty) in &self.inputs[name] {
                    let below = hole.and_then(|(path, value)| Some((path.strip_prefix(field.as_str())?, value)));
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

    /// A value as GraphQL writes it.
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

    /// All that can be asked of a type: what it is, its texts, and two of each of its lists.
    fn everything(&self, name: &str, seen: &BTreeSet<String>, levels: usize) -> String {
        let mut seen = seen.clone();
        if levels == 0 || !seen.insert(name.to_owned()) {
            return String::new();
        }
        let mut text = String::from("__typename ");
        for field in self.types.get(name).into_iter().flatten().filter(|field| field.name != "nodes") {
            let page = if field.arguments.iter().any(|(argument, _)| argument == "first") { "(first: 2)" } else { "" };
            match self.types.contains_key(&field.of) {
                false => text += &format!("{} ", field.name),
                true => {
                    let inner = self.everything(&field.of, &seen, levels - 1);
                    if !inner.is_empty() {
                        text += &format!("{}{page} {{ {inner}}} ", field.name);
                    }
                }
            }
        }
        for object in self.implementors.get(name).into_iter().flatten() {
            text += &format!("... on {object} {{ {}}} ", self.everything(object, &seen, levels));
        }
        text
    }
}

impl Hole {
    /// `patient.encounters.notes(after)`
    pub fn name(&self) -> String {
        let step = |step: &Step| match &step.on {
            Some(on) => format!("{on}:{}", step.field.name),
            None => step.field.name.clone(),
        };
        let way =
            self.way.iter().filter(|step| !["edges", "node"].contains(&step.field.name.as_str()) || step.on.is_some());
        format!("{}({})", way.map(step).collect::<Vec<_>>().join("."), self.argument)
    }

    pub fn root(&self) -> &Field {
        &self.way.first().unwrap().field
    }

    /// Whether the hole is an argument of the root itself.
    pub fn at_root(&self) -> bool {
        self.way.len() == 1
    }

    /// The question with `value` in the hole, and `fill` for what else must be said.
    pub fn question(&self, sdl: &Sdl, form: Form, value: &str, fill: impl Fn(&str) -> String) -> Value {
        let mut variables = Map::new();
        let mut declared = Vec::new();
        let mut put = |name: &str, kind: &str, value: Value| match form {
            Form::Literal => sdl.literal(kind, &value),
            Form::Variable | Form::Fragment => {
                declared.push(format!("${name}: {kind}"));
                variables.insert(name.to_owned(), value);
                format!("${name}")
            }
        };
        let (hole, path) = self.argument.split_once('.').unwrap_or((&self.argument, ""));
        let mut open = String::new();
        let mut closing = String::new();
        for (at, step) in self.way.iter().enumerate() {
            let last = at + 1 == self.way.len();
            let mut arguments = Vec::new();
            for (argument, ty) in &step.field.arguments {
                if last && argument == hole {
                    arguments.push(format!(
                        "{argument}: {}",
                        put("hole", ty, sdl.value(argument, ty, Some((path, value)), &fill))
                    ));
                } else if ty.ends_with('!') {
                    arguments.push(format!("{argument}: {}", put(argument, ty, sdl.value(argument, ty, None, &fill))));
                } else if argument == "first" {
                    // One parent only: a cursor is of one parent's list, and a refusal empties the page it is on.
                    arguments.push(if last { "first: 2" } else { "first: 1" }.to_owned());
                }
            }
            // From the other end, `before` would have nothing to bound.
            let arguments = arguments.join(" ").replace("first: 2 before", "last: 2 before");
            let arguments = if arguments.is_empty() { String::new() } else { format!("({arguments})") };
            if let Some(on) = &step.on {
                open += &format!("... on {on} {{ ");
                closing.push_str("} ");
            }
            let alias = if form == Form::Fragment && at == 0 { "a: " } else { "" };
            open += &format!("{alias}{}{arguments} {{ ", step.field.name);
            closing.push_str("} ");
        }
        let last = &self.way.last().unwrap().field.of;
        let change = sdl.changes().iter().any(|field| field.name == self.root().name);
        // What a change made has an id and a time of its own: nothing of it could be compared.
        let inner = match change {
            true => "__typename ".to_owned(),
            false => sdl.everything(last, &BTreeSet::new(), 4.min(LEVELS - self.way.len())),
        };
        let (inner, fragment) = match form {
            Form::Fragment => ("...F ".to_owned(), format!("fragment F on {last} {{ {inner}}}")),
            Form::Variable | Form::Literal => (inner, String::new()),
        };
        let head = if declared.is_empty() { String::new() } else { format!("({})", declared.join(" ")) };
        let operation = if change { "mutation" } else { "query" };
        json!({ "query": format!("{operation} Q{head} {{ {open}{inner}{closing}}} {fragment}"), "variables": variables })
    }
}

fn base(ty: &str) -> &str {
    ty.trim_matches(['[', ']', '!'])
}
