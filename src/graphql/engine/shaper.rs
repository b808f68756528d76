//! The form of a response by the GraphQL specification: fields in the order of the selection, `null` where a field
//! failed, and a failed non-null field makes its parent null. async-graphql leaves failed fields out and orders fields
//! by their completion; the shaper corrects both, so that equal requests get equal responses. It knows the types of
//! fields and never looks at values.

use async_graphql::parser::types::{
    BaseType, Directive, DocumentOperations, ExecutableDocument, Field, OperationDefinition, OperationType, Selection,
    SelectionSet, Type, TypeKind, TypeSystemDefinition,
};
use async_graphql::parser::{self, parse_schema};
use async_graphql::{Name, Positioned, Value, Variables};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// The response key under which the shaper selects the type name of an object. `limits` refuses aliases that begin with
/// `__`.
const TYPENAME_KEY: &str = "__kind";

/// Brings responses of one schema into the form of the specification.
pub struct ResponseShaper {
    /// The types of the fields, by object type and field name.
    fields: HashMap<String, HashMap<String, Type>>,
    /// The interfaces of each object type.
    interfaces: HashMap<String, HashSet<String>>,
}

/// One field of a response object.
struct PlannedField<'a> {
    key: &'a Name,
    /// The selection sets of its value, where that is an object: one for each time the field is selected.
    sets: Vec<&'a SelectionSet>,
    ty: Option<&'a Type>,
}

/// The fields of objects, by the place of their selection in the document and their type. All items of a list share one
/// plan.
type Plans<'a> = HashMap<(*const &'a SelectionSet, &'a str), Rc<[PlannedField<'a>]>>;

impl ResponseShaper {
    /// Reads the types of a schema from its SDL.
    ///
    /// # Errors
    /// Fails when the SDL does not parse.
    pub fn from_sdl(sdl: &str) -> Result<Self, parser::Error> {
        let mut shaper = Self { fields: HashMap::new(), interfaces: HashMap::new() };
        for definition in parse_schema(sdl)?.definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let (fields, implements) = match definition.node.kind {
                TypeKind::Object(object) => (object.fields, object.implements),
                TypeKind::Interface(interface) => (interface.fields, interface.implements),
                _ => continue,
            };
            let name = definition.node.name.node.to_string();
            shaper
                .interfaces
                .insert(name.clone(), implements.into_iter().map(|interface| interface.node.to_string()).collect());
            let types = fields.into_iter().map(|field| (field.node.name.node.to_string(), field.node.ty.node));
            shaper.fields.insert(name, types.collect());
        }
        Ok(shaper)
    }

    /// Brings the data of an operation into the form of the specification.
    pub fn shape(&self, selected: &SelectedOperation<'_>, data: Value) -> Value {
        let root = match selected.operation.ty {
            OperationType::Query => "Query",
            OperationType::Mutation => "Mutation",
            OperationType::Subscription => "Subscription",
        };
        self.object(selected, &mut Plans::new(), root, &[&selected.operation.selection_set.node], data)
            .unwrap_or_default()
    }

    /// Returns `None` when a non-null field is null, so that this object must be null as well.
    fn object<'a>(
        &'a self,
        selected: &SelectedOperation<'a>,
        plans: &mut Plans<'a>,
        declared: &'a str,
        sets: &[&'a SelectionSet],
        value: Value,
    ) -> Option<Value> {
        let mut fields = match value {
            Value::Object(fields) => fields,
            _ => Default::default(),
        };
        let name = match fields.get(TYPENAME_KEY) {
            Some(Value::String(name)) => self.fields.get_key_value(name).map_or(declared, |(name, _)| name.as_str()),
            _ => declared,
        };
        let plan = Rc::clone(plans.entry((sets.as_ptr(), name)).or_insert_with(|| self.plan(selected, name, sets)));
        let mut shaped = async_graphql::indexmap::IndexMap::with_capacity(plan.len());
        for PlannedField { key, sets, ty } in plan.iter() {
            let value = fields.get_mut(*key).map(std::mem::take).unwrap_or_default();
            let value = match ty {
                Some(ty) => self.value(selected, plans, ty, sets, value)?,
                None => value,
            };
            shaped.insert((*key).clone(), value);
        }
        Some(Value::Object(shaped))
    }

    fn value<'a>(
        &'a self,
        selected: &SelectedOperation<'a>,
        plans: &mut Plans<'a>,
        ty: &'a Type,
        sets: &[&'a SelectionSet],
        value: Value,
    ) -> Option<Value> {
        let shaped = match (&ty.base, value) {
            (_, Value::Null) => None,
            (BaseType::List(item), Value::List(values)) => values
                .into_iter()
                .map(|value| self.value(selected, plans, item, sets, value))
                .collect::<Option<_>>()
                .map(Value::List),
            (BaseType::Named(name), value @ Value::Object(_)) if self.fields.contains_key(name.as_str()) => {
                self.object(selected, plans, name, sets, value)
            }
            (_, value) => Some(value),
        };
        shaped.or(ty.nullable.then_some(Value::Null))
    }

    fn plan<'a>(
        &'a self,
        selected: &SelectedOperation<'a>,
        name: &str,
        sets: &[&'a SelectionSet],
    ) -> Rc<[PlannedField<'a>]> {
        let mut keys: Vec<(&Name, Vec<&Field>)> = Vec::new();
        sets.iter().for_each(|set| self.collect(selected, name, set, &mut keys));
        let types = self.fields.get(name);
        let planned = keys.into_iter().map(|(key, fields)| PlannedField {
            key,
            ty: fields.first().and_then(|field| types?.get(field.name.node.as_str())),
            sets: fields.into_iter().map(|field| &field.selection_set.node).collect(),
        });
        planned.collect()
    }

    fn collect<'a>(
        &self,
        selected: &SelectedOperation<'a>,
        name: &str,
        set: &'a SelectionSet,
        keys: &mut Vec<(&'a Name, Vec<&'a Field>)>,
    ) {
        for item in &set.items {
            if selected.is_skipped(item.node.directives()) {
                continue;
            }
            match &item.node {
                Selection::Field(field) => {
                    let key = &field.node.response_key().node;
                    match keys.iter_mut().find(|(existing, _)| *existing == key) {
                        _ if key == TYPENAME_KEY => {}
                        Some((_, fields)) => fields.push(&field.node),
                        None => keys.push((key, vec![&field.node])),
                    }
                }
                Selection::InlineFragment(fragment) => {
                    if fragment.node.type_condition.as_ref().is_none_or(|on| self.satisfies(name, &on.node.on.node)) {
                        self.collect(selected, name, &fragment.node.selection_set.node, keys);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = selected.document.fragments.get(&spread.node.fragment_name.node);
                    if let Some(fragment) =
                        fragment.filter(|fragment| self.satisfies(name, &fragment.node.type_condition.node.on.node))
                    {
                        self.collect(selected, name, &fragment.node.selection_set.node, keys);
                    }
                }
            }
        }
    }

    /// Whether an object type satisfies a fragment's type condition.
    fn satisfies(&self, name: &str, condition: &str) -> bool {
        name == condition || self.interfaces.get(name).is_some_and(|interfaces| interfaces.contains(condition))
    }
}

/// The operation of a document that is executed, with its fragments and variables.
pub struct SelectedOperation<'a> {
    document: &'a ExecutableDocument,
    operation: &'a OperationDefinition,
    variables: &'a Variables,
}

impl<'a> SelectedOperation<'a> {
    /// Finds the operation that async-graphql executes for this name, or `None` when it executes none.
    pub fn find(document: &'a ExecutableDocument, name: Option<&str>, variables: &'a Variables) -> Option<Self> {
        let operation = match (&document.operations, name) {
            (DocumentOperations::Single(operation), None) => operation,
            (DocumentOperations::Multiple(operations), Some(name)) => operations.get(name)?,
            (DocumentOperations::Multiple(operations), None) => operations.values().next()?,
            (DocumentOperations::Single(_), Some(_)) => return None,
        };
        Some(Self { document, operation: &operation.node, variables })
    }

    /// Returns whether it is a query, a mutation or a subscription.
    pub fn kind(&self) -> OperationType {
        self.operation.ty
    }

    /// Returns the first non-null variable that has no value.
    pub fn missing_variable(&self) -> Option<&'a Name> {
        let missing = self.operation.variable_definitions.iter().find(|variable| {
            let variable = &variable.node;
            match self.variables.get(&variable.name.node) {
                None => !variable.var_type.node.nullable && variable.default_value.is_none(),
                Some(value) => !variable.var_type.node.nullable && *value == Value::Null,
            }
        });
        missing.map(|variable| &variable.node.name.node)
    }

    /// Returns the defaults of the variables that were not sent.
    pub fn variable_defaults(&self) -> Vec<(Name, Value)> {
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

    fn is_skipped(&self, directives: &[Positioned<Directive>]) -> bool {
        directives.iter().any(|directive| match directive.node.name.node.as_str() {
            "skip" => self.condition(&directive.node),
            "include" => !self.condition(&directive.node),
            _ => false,
        })
    }

    fn condition(&self, directive: &Directive) -> bool {
        let variable_value = |name: Name| {
            let declared = self.operation.variable_definitions.iter().find(|variable| variable.node.name.node == name);
            let default = || declared.and_then(|variable| variable.node.default_value().cloned());
            self.variables.get(&name).cloned().or_else(default).ok_or(())
        };
        let value =
            directive.get_argument("if").and_then(|value| value.node.clone().into_const_with(variable_value).ok());
        value == Some(Value::Boolean(true))
    }
}

/// Selects the type name of each object whose selection set has fragments, so that `shape` knows which fragments apply.
pub fn add_typenames(document: &mut ExecutableDocument) {
    match &mut document.operations {
        DocumentOperations::Single(operation) => add_typename(&mut operation.node.selection_set.node),
        DocumentOperations::Multiple(operations) => {
            operations.values_mut().for_each(|operation| add_typename(&mut operation.node.selection_set.node));
        }
    }
    document.fragments.values_mut().for_each(|fragment| add_typename(&mut fragment.node.selection_set.node));
}

fn add_typename(set: &mut SelectionSet) {
    let mut has_fragments = false;
    for item in &mut set.items {
        match &mut item.node {
            Selection::Field(field) => add_typename(&mut field.node.selection_set.node),
            Selection::InlineFragment(fragment) => {
                has_fragments = true;
                add_typename(&mut fragment.node.selection_set.node);
            }
            Selection::FragmentSpread(_) => has_fragments = true,
        }
    }
    if has_fragments {
        let name = |name: &str| Positioned::new(Name::new(name), Default::default());
        let field = Field {
            alias: Some(name(TYPENAME_KEY)),
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
        type Patient implements Node { id: ID! name: String list: [Patient!]! notes: [Note] }
        type Note implements Node { id: ID! body: String }";

    fn shape(query: &str, variables: Json, data: Json) -> String {
        let document = parse_query(query).unwrap();
        let variables = Variables::from_json(variables);
        let selected = SelectedOperation::find(&document, None, &variables).unwrap();
        let data = ResponseShaper::from_sdl(SDL).unwrap().shape(&selected, Value::from_json(data).unwrap());
        serde_json::to_string(&data).unwrap()
    }

    #[test]
    fn fields_come_in_the_order_of_the_selection() {
        let data = shape(
            "{ must { notes { body id } } patient { ...F b: name id } } fragment F on Patient { name id }",
            json!({}),
            json!({
                "patient": {"id": "1", "b": "x", "name": "x", "__kind": "Patient"},
                "must": {"notes": [{"id": "n", "body": null}, null]},
            }),
        );
        assert_eq!(data, r#"{"must":{"notes":[{"body":null,"id":"n"},null]},"patient":{"name":"x","id":"1","b":"x"}}"#);
    }

    #[test]
    fn a_failed_field_is_null_and_a_failed_non_null_field_makes_its_parent_null() {
        assert_eq!(
            shape("{ patient { id name } }", json!({}), json!({"patient": {"id": "1"}})),
            r#"{"patient":{"id":"1","name":null}}"#
        );
        assert_eq!(
            shape("{ patient { id name } }", json!({}), json!({"patient": {"name": "x"}})),
            r#"{"patient":null}"#
        );
        assert_eq!(
            shape("{ patient { list { id } } }", json!({}), json!({"patient": {"list": [{"id": "1"}, {}]}})),
            r#"{"patient":null}"#
        );
        assert_eq!(shape("{ patient { id } must { id } }", json!({}), json!({"patient": {"id": "1"}})), "null");
        assert_eq!(shape("{ patient { id } }", json!({}), json!(null)), r#"{"patient":null}"#);
    }

    #[test]
    fn a_fragment_in_two_places_has_two_plans() {
        let query =
            "{ patient { ...F list { id } } must { ...F list { name } } } fragment F on Patient { list { id } }";
        let data = json!({
            "patient": {"list": [{"id": "1", "name": "x"}]},
            "must": {"list": [{"id": "2", "name": "y"}, {"id": "3", "name": "z"}]},
        });
        let shaped =
            r#"{"patient":{"list":[{"id":"1"}]},"must":{"list":[{"id":"2","name":"y"},{"id":"3","name":"z"}]}}"#;
        assert_eq!(shape(query, json!({}), data), shaped);
    }

    #[test]
    fn fragments_apply_by_type() {
        let query = "{ node { ... on Patient { name } ... on Note { body } ... on Node { id } } }";
        assert_eq!(
            shape(query, json!({}), json!({"node": {"id": "1", "body": "b", "__kind": "Note"}})),
            r#"{"node":{"body":"b","id":"1"}}"#
        );
        let mut document = parse_query(query).unwrap();
        add_typenames(&mut document);
        assert!(format!("{document:?}").contains(TYPENAME_KEY));
    }

    #[test]
    fn a_missing_variable_is_named() {
        let missing = |types: &str, variables: Json| {
            let document = parse_query(format!("query ({types}) {{ patient {{ id }} }}")).unwrap();
            let variables = Variables::from_json(variables);
            SelectedOperation::find(&document, None, &variables).unwrap().missing_variable().map(ToString::to_string)
        };
        assert_eq!(missing("$a: ID, $b: ID! = 1", json!({})), None);
        assert_eq!(missing("$a: ID, $b: ID!", json!({"a": "1"})), Some("b".into()));
        assert_eq!(missing("$b: ID! = 1", json!({"b": null})), Some("b".into()));
        assert_eq!(missing("$b: ID!", json!({"b": "1", "later": 1})), None);
    }

    #[test]
    fn defaults_apply_to_variables_that_were_not_sent() {
        let document = parse_query("query ($a: Boolean = true, $b: Int = 2, $c: ID) { patient { id } }").unwrap();
        let variables = Variables::from_json(json!({"b": 3}));
        let defaults = SelectedOperation::find(&document, None, &variables).unwrap().variable_defaults();
        assert_eq!(defaults, [(Name::new("a"), Value::Boolean(true))]);
    }

    #[test]
    fn skipped_fields_are_absent() {
        let query = "query ($a: Boolean!, $b: Boolean = false) {
            patient { id name @include(if: $a) list @include(if: $b) { id } notes @skip(if: true) { id } }
        }";
        assert_eq!(
            shape(query, json!({"a": true}), json!({"patient": {"id": "1"}})),
            r#"{"patient":{"id":"1","name":null}}"#
        );
    }
}
