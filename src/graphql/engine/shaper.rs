//! The shape of an answer: fields in the order they were asked for, `null` where a field failed, and the failure of a field that must not
//! be null passed on to its parent. The executor leaves failed fields out and orders by completion; here the answer becomes what the
//! specification says, and the same for the same question. Knows types, never values.

use async_graphql::parser::types::{
    BaseType, Directive, DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    SelectionSet, Type, TypeKind, TypeSystemDefinition,
};
use async_graphql::parser::{self, parse_schema};
use async_graphql::{Name, Positioned, Value, Variables};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Response key under which the type of an object is asked for; clients may not use it.
const TYPE: &str = "__kind";

/// Type, field, type of the field.
pub struct ResponseShaper {
    fields: HashMap<String, HashMap<String, Type>>,
    interfaces: HashMap<String, HashSet<String>>,
}

/// What an object has under one of its keys.
struct Planned<'a> {
    key: &'a Name,
    /// What is asked of its value, where that is an object.
    sets: Vec<&'a SelectionSet>,
    ty: Option<&'a Type>,
}

/// Objects that are asked for in one place, of one type, are alike: all items of a list.
type Plans<'a> = HashMap<(*const &'a SelectionSet, &'a str), Rc<[Planned<'a>]>>;

impl ResponseShaper {
    /// Of a schema in its own language.
    pub fn of(sdl: &str) -> Result<Self, parser::Error> {
        let mut shape = Self { fields: HashMap::new(), interfaces: HashMap::new() };
        for definition in parse_schema(sdl)?.definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let (fields, implements) = match definition.node.kind {
                TypeKind::Object(object) => (object.fields, object.implements),
                TypeKind::Interface(interface) => (interface.fields, interface.implements),
                _ => continue,
            };
            let name = definition.node.name.node.to_string();
            shape
                .interfaces
                .insert(name.clone(), implements.into_iter().map(|interface| interface.node.to_string()).collect());
            let types = fields.into_iter().map(|field| (field.node.name.node.to_string(), field.node.ty.node));
            shape.fields.insert(name, types.collect());
        }
        Ok(shape)
    }

    /// The data of an operation in its proper form.
    pub fn complete(&self, asked: &SelectedOperation<'_>, data: Value) -> Value {
        let root = match asked.operation.ty {
            OperationType::Query => "Query",
            OperationType::Mutation => "Mutation",
            OperationType::Subscription => "Subscription",
        };
        self.object(asked, &mut Plans::new(), root, &[&asked.operation.selection_set.node], data).unwrap_or_default()
    }

    /// `None`: a field that must not be null is, so this object must be.
    fn object<'a>(
        &'a self,
        asked: &SelectedOperation<'a>,
        plans: &mut Plans<'a>,
        declared: &'a str,
        sets: &[&'a SelectionSet],
        value: Value,
    ) -> Option<Value> {
        let mut found = match value {
            Value::Object(found) => found,
            _ => Default::default(),
        };
        let name = match found.get(TYPE) {
            Some(Value::String(name)) => self.fields.get_key_value(name).map_or(declared, |(name, _)| name.as_str()),
            _ => declared,
        };
        let plan = Rc::clone(plans.entry((sets.as_ptr(), name)).or_insert_with(|| self.plan(asked, name, sets)));
        let mut complete = async_graphql::indexmap::IndexMap::with_capacity(plan.len());
        for Planned { key, sets, ty } in plan.iter() {
            let value = found.get_mut(*key).map(std::mem::take).unwrap_or_default();
            let value = match ty {
                Some(ty) => self.value(asked, plans, ty, sets, value)?,
                None => value,
            };
            complete.insert((*key).clone(), value);
        }
        Some(Value::Object(complete))
    }

    fn value<'a>(
        &'a self,
        asked: &SelectedOperation<'a>,
        plans: &mut Plans<'a>,
        ty: &'a Type,
        sets: &[&'a SelectionSet],
        value: Value,
    ) -> Option<Value> {
        let complete = match (&ty.base, value) {
            (_, Value::Null) => None,
            (BaseType::List(item), Value::List(values)) => values
                .into_iter()
                .map(|value| self.value(asked, plans, item, sets, value))
                .collect::<Option<_>>()
                .map(Value::List),
            (BaseType::Named(name), value @ Value::Object(_)) if self.fields.contains_key(name.as_str()) => {
                self.object(asked, plans, name, sets, value)
            }
            (_, value) => Some(value),
        };
        complete.or(ty.nullable.then_some(Value::Null))
    }

    fn plan<'a>(&'a self, asked: &SelectedOperation<'a>, name: &str, sets: &[&'a SelectionSet]) -> Rc<[Planned<'a>]> {
        let mut keys: Vec<(&Name, Vec<&Field>)> = Vec::new();
        sets.iter().for_each(|set| self.collect(asked, name, set, &mut keys));
        let types = self.fields.get(name);
        let planned = keys.into_iter().map(|(key, fields)| Planned {
            key,
            ty: fields.first().and_then(|field| types?.get(field.name.node.as_str())),
            sets: fields.into_iter().map(|field| &field.selection_set.node).collect(),
        });
        planned.collect()
    }

    fn collect<'a>(
        &self,
        asked: &SelectedOperation<'a>,
        name: &str,
        set: &'a SelectionSet,
        keys: &mut Vec<(&'a Name, Vec<&'a Field>)>,
    ) {
        for item in &set.items {
            if asked.left_out(item.node.directives()) {
                continue;
            }
            match &item.node {
                Selection::Field(field) => {
                    let key = &field.node.response_key().node;
                    match keys.iter_mut().find(|(known, _)| *known == key) {
                        _ if key == TYPE => {}
                        Some((_, fields)) => fields.push(&field.node),
                        None => keys.push((key, vec![&field.node])),
                    }
                }
                Selection::InlineFragment(fragment) => {
                    if fragment.node.type_condition.as_ref().is_none_or(|on| self.is(name, &on.node.on.node)) {
                        self.collect(asked, name, &fragment.node.selection_set.node, keys);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = asked.document.fragments.get(&spread.node.fragment_name.node);
                    if let Some(fragment) =
                        fragment.filter(|fragment| self.is(name, &fragment.node.type_condition.node.on.node))
                    {
                        self.collect(asked, name, &fragment.node.selection_set.node, keys);
                    }
                }
            }
        }
    }

    fn is(&self, name: &str, condition: &str) -> bool {
        name == condition || self.interfaces.get(name).is_some_and(|interfaces| interfaces.contains(condition))
    }
}

/// What was asked: the operation that ran, with its fragments and variables.
pub struct SelectedOperation<'a> {
    document: &'a ExecutableDocument,
    operation: &'a OperationDefinition,
    variables: &'a Variables,
}

impl<'a> SelectedOperation<'a> {
    /// The operation that a request with this name runs; none when the executor runs none.
    pub fn of(document: &'a ExecutableDocument, name: Option<&str>, variables: &'a Variables) -> Option<Self> {
        let operation = match (&document.operations, name) {
            (DocumentOperations::Single(operation), None) => operation,
            (DocumentOperations::Multiple(operations), Some(name)) => operations.get(name)?,
            (DocumentOperations::Multiple(operations), None) => operations.values().next()?,
            (DocumentOperations::Single(_), Some(_)) => return None,
        };
        Some(Self { document, operation: &operation.node, variables })
    }

    /// Query, mutation or subscription.
    pub fn kind(&self) -> OperationType {
        self.operation.ty
    }

    /// A variable that must have a value and has none.
    pub fn unset(&self) -> Option<&'a Name> {
        let unset = self.operation.variable_definitions.iter().find(|variable| {
            let variable = &variable.node;
            match self.variables.get(&variable.name.node) {
                None => !variable.var_type.node.nullable && variable.default_value.is_none(),
                Some(value) => !variable.var_type.node.nullable && *value == Value::Null,
            }
        });
        unset.map(|variable| &variable.node.name.node)
    }

    /// The defaults of variables that were not sent.
    pub fn defaults(&self) -> Vec<(Name, Value)> {
        let unsent = self
            .operation
            .variable_definitions
            .iter()
            .filter(|variable| !self.variables.contains_key(&variable.node.name.node));
        unsent
            .filter_map(|variable| {
                Some((variable.node.name.node.clone(), variable.node.default_value.as_ref()?.node.clone()))
            })
            .collect()
    }

    fn left_out(&self, directives: &[Positioned<Directive>]) -> bool {
        directives.iter().any(|directive| match directive.node.name.node.as_str() {
            "skip" => self.condition(&directive.node),
            "include" => !self.condition(&directive.node),
            _ => false,
        })
    }

    fn condition(&self, directive: &Directive) -> bool {
        let given = |name: Name| {
            let declared = self.operation.variable_definitions.iter().find(|variable| variable.node.name.node == name);
            let default = || declared.and_then(|variable| variable.node.default_value().cloned());
            self.variables.get(&name).cloned().or_else(default).ok_or(())
        };
        let value = directive.get_argument("if").and_then(|value| value.node.clone().into_const_with(given).ok());
        value == Some(Value::Boolean(true))
    }
}

/// Where fragments choose by type, asks for the type of the object.
pub fn mark_types(document: &mut ExecutableDocument) {
    match &mut document.operations {
        DocumentOperations::Single(operation) => mark(&mut operation.node.selection_set.node),
        DocumentOperations::Multiple(operations) => {
            operations.values_mut().for_each(|operation| mark(&mut operation.node.selection_set.node));
        }
    }
    document.fragments.values_mut().for_each(|fragment| mark(&mut fragment.node.selection_set.node));
}

fn mark(set: &mut SelectionSet) {
    let mut chooses = false;
    for item in &mut set.items {
        match &mut item.node {
            Selection::Field(field) => mark(&mut field.node.selection_set.node),
            Selection::InlineFragment(fragment) => {
                chooses = true;
                mark(&mut fragment.node.selection_set.node);
            }
            Selection::FragmentSpread(_) => chooses = true,
        }
    }
    if chooses {
        let name = |name: &str| Positioned::new(Name::new(name), Default::default());
        let field = Field {
            alias: Some(name(TYPE)),
            name: name("__typename"),
            arguments: Vec::new(),
            directives: Vec::new(),
            selection_set: Positioned::new(SelectionSet::default(), Default::default()),
        };
        set.items
            .push(Positioned::new(Selection::Field(Positioned::new(field, Default::default())), Default::default()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::parser::parse_query;
    use serde_json::{Value as Json, json};

    const SDL: &str = "interface Node { id: ID! } type Query { node: Node patient: Patient must: Patient! }
        type Patient implements Node { id: ID! name: String list: [Patient!]! notes: [Note] } type Note implements Node { id: ID! body: String }";

    fn complete(query: &str, variables: Json, data: Json) -> String {
        let document = parse_query(query).unwrap();
        let variables = Variables::from_json(variables);
        let asked = SelectedOperation::of(&document, None, &variables).unwrap();
        let data = ResponseShaper::of(SDL).unwrap().complete(&asked, Value::from_json(data).unwrap());
        serde_json::to_string(&data).unwrap()
    }

    #[test]
    fn fields_come_in_the_order_they_were_asked_for() {
        let data = complete(
            "{ must { notes { body id } } patient { ...F b: name id } } fragment F on Patient { name id }",
            json!({}),
            json!({"patient": {"id": "1", "b": "x", "name": "x", "__kind": "Patient"}, "must": {"notes": [{"id": "n", "body": null}, null]}}),
        );
        assert_eq!(data, r#"{"must":{"notes":[{"body":null,"id":"n"},null]},"patient":{"name":"x","id":"1","b":"x"}}"#);
    }

    #[test]
    fn a_failed_field_is_null_and_a_failed_must_takes_its_parent() {
        assert_eq!(
            complete("{ patient { id name } }", json!({}), json!({"patient": {"id": "1"}})),
            r#"{"patient":{"id":"1","name":null}}"#
        );
        assert_eq!(
            complete("{ patient { id name } }", json!({}), json!({"patient": {"name": "x"}})),
            r#"{"patient":null}"#
        );
        assert_eq!(
            complete("{ patient { list { id } } }", json!({}), json!({"patient": {"list": [{"id": "1"}, {}]}})),
            r#"{"patient":null}"#
        );
        assert_eq!(complete("{ patient { id } must { id } }", json!({}), json!({"patient": {"id": "1"}})), "null");
        assert_eq!(complete("{ patient { id } }", json!({}), json!(null)), r#"{"patient":null}"#);
    }

    #[test]
    fn a_fragment_in_two_places_is_two_things() {
        let query =
            "{ patient { ...F list { id } } must { ...F list { name } } } fragment F on Patient { list { id } }";
        let data = json!({"patient": {"list": [{"id": "1", "name": "x"}]}, "must": {"list": [{"id": "2", "name": "y"}, {"id": "3", "name": "z"}]}});
        let shaped =
            r#"{"patient":{"list":[{"id":"1"}]},"must":{"list":[{"id":"2","name":"y"},{"id":"3","name":"z"}]}}"#;
        assert_eq!(complete(query, json!({}), data), shaped);
    }

    #[test]
    fn fragments_apply_by_type() {
        let query = "{ node { ... on Patient { name } ... on Note { body } ... on Node { id } } }";
        assert_eq!(
            complete(query, json!({}), json!({"node": {"id": "1", "body": "b", "__kind": "Note"}})),
            r#"{"node":{"body":"b","id":"1"}}"#
        );
        let mut document = parse_query(query).unwrap();
        mark_types(&mut document);
        assert!(format!("{document:?}").contains(TYPE));
    }

    #[test]
    fn a_variable_without_a_value_is_named() {
        let unset = |types: &str, variables: Json| {
            let document = parse_query(format!("query ({types}) {{ patient {{ id }} }}")).unwrap();
            let variables = Variables::from_json(variables);
            SelectedOperation::of(&document, None, &variables).unwrap().unset().map(ToString::to_string)
        };
        assert_eq!(unset("$a: ID, $b: ID! = 1", json!({})), None);
        assert_eq!(unset("$a: ID, $b: ID!", json!({"a": "1"})), Some("b".into()));
        assert_eq!(unset("$b: ID! = 1", json!({"b": null})), Some("b".into()));
        assert_eq!(unset("$b: ID!", json!({"b": "1", "later": 1})), None);
    }

    #[test]
    fn defaults_are_of_what_was_not_sent() {
        let document = parse_query("query ($a: Boolean = true, $b: Int = 2, $c: ID) { patient { id } }").unwrap();
        let variables = Variables::from_json(json!({"b": 3}));
        let defaults = SelectedOperation::of(&document, None, &variables).unwrap().defaults();
        assert_eq!(defaults, [(Name::new("a"), Value::Boolean(true))]);
    }

    #[test]
    fn what_is_skipped_stays_away() {
        let query = "query ($a: Boolean!, $b: Boolean = false) { patient { id name @include(if: $a) list @include(if: $b) { id } notes @skip(if: true) { id } } }";
        assert_eq!(
            complete(query, json!({"a": true}), json!({"patient": {"id": "1"}})),
            r#"{"patient":{"id":"1","name":null}}"#
        );
    }
}
