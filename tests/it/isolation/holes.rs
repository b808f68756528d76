//! The walk over the schema's own text: every argument of every field, along every way from a root on which no type repeats.
//! Each is a hole into which a value of another tenant can be put. Knows no tenant and sends nothing.

use async_graphql::parser::parse_schema;
use async_graphql::parser::types::{TypeKind, TypeSystemDefinition};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Levels of fields a question may have.
const LEVELS: usize = 12;

/// Objects and interfaces of a schema.
pub struct Sdl {
    types: BTreeMap<String, Vec<Field>>,
    implementors: BTreeMap<String, Vec<String>>,
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

/// One argument, and the way to its field.
#[derive(Debug, Clone)]
pub struct Hole {
    pub way: Vec<Step>,
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
                _ => continue,
            };
            let fields = fields.into_iter().map(|field| Field {
                name: field.node.name.node.to_string(),
                arguments: field.node.arguments.iter().map(|of| (of.node.name.node.to_string(), of.node.ty.node.to_string())).collect(),
                of: base(&field.node.ty.node.to_string()).to_owned(),
            });
            types.insert(name, fields.collect());
        }
        Self { types, implementors }
    }

    /// The root fields.
    pub fn roots(&self) -> &[Field] {
        assert!(!self.types.contains_key("Mutation") && !self.types.contains_key("Subscription"), "teach the walk to write");
        &self.types["Query"]
    }

    /// Every argument that can carry a value of another tenant.
    pub fn holes(&self) -> Vec<Hole> {
        let mut found = Vec::new();
        self.walk("Query", None, &[], &BTreeSet::new(), &mut found);
        found
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
            for (argument, ty) in &field.arguments {
                match base(ty) {
                    kind @ ("ID" | "String") => found.push(Hole { way: way.clone(), argument: argument.clone(), kind: kind.to_owned() }),
                    "Int" => {}
                    other => panic!("{}({argument}: {other}): teach the walk what another tenant's {other} could be", field.name),
                }
            }
            self.walk(&field.of, None, &way, &seen, found);
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
        let way = self.way.iter().filter(|step| !["edges", "node"].contains(&step.field.name.as_str()) || step.on.is_some());
        format!("{}({})", way.map(step).collect::<Vec<_>>().join("."), self.argument)
    }

    pub fn root(&self) -> &Field {
        &self.way.first().unwrap().field
    }

    /// Whether the hole is an argument of the root itself.
    pub fn at_root(&self) -> bool {
        self.way.len() == 1
    }

    /// The question with `value` in the hole, and `fill` for what else the root wants to know.
    pub fn question(&self, sdl: &Sdl, form: Form, value: &str, fill: impl Fn(&str) -> String) -> Value {
        let mut variables = Map::new();
        let mut declared = Vec::new();
        let mut put = |name: &str, kind: &str, value: String| match form {
            Form::Literal => Value::from(value).to_string(),
            Form::Variable | Form::Fragment => {
                declared.push(format!("${name}: {kind}"));
                variables.insert(name.to_owned(), value.into());
                format!("${name}")
            }
        };
        let mut open = String::new();
        let mut closing = String::new();
        for (at, step) in self.way.iter().enumerate() {
            let last = at + 1 == self.way.len();
            let mut arguments = Vec::new();
            for (argument, ty) in &step.field.arguments {
                if last && *argument == self.argument {
                    arguments.push(format!("{argument}: {}", put("hole", ty, value.to_owned())));
                } else if ty.ends_with('!') {
                    arguments.push(format!("{argument}: {}", put(argument, ty, fill(argument))));
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
        let inner = sdl.everything(last, &BTreeSet::new(), 4.min(LEVELS - self.way.len()));
        let (inner, fragment) = match form {
            Form::Fragment => ("...F ".to_owned(), format!("fragment F on {last} {{ {inner}}}")),
            Form::Variable | Form::Literal => (inner, String::new()),
        };
        let head = if declared.is_empty() { String::new() } else { format!("({})", declared.join(" ")) };
        json!({ "query": format!("query Q{head} {{ {open}{inner}{closing}}} {fragment}"), "variables": variables })
    }
}

fn base(ty: &str) -> &str {
    ty.trim_matches(['[', ']', '!'])
}
