//! The tenant API: schema, resolvers, loaders. A resolver parses, calls and wraps; SQL is in `model`, roles in the guard's table,
//! and nothing here belongs to a tenant: guard and loaders come with each request and go with it. The only home of async-graphql.

mod context;
mod encounter;
mod engine;
mod error;
mod feature;
mod ids;
mod loaders;
mod mutation;
mod node;
mod note;
mod page;
mod patient;
mod scalars;
mod viewer;

pub use self::engine::request::GraphqlRequest;
pub use self::mutation::Mutation;

use self::encounter::Encounter;
use self::engine::documents::DocumentCache;
use self::engine::shaper::{ResponseShaper, SelectedOperation};
use self::loaders::Loaders;
use self::note::ClinicalNote;
use self::patient::Patient;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::guard::{AuditAction, Guard, IdempotencyKey};
use crate::telemetry::{OperationKind, span};
use async_graphql::connection::Connection;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationType};
use async_graphql::{EmptySubscription, MergedObject, Request, SDLExportOptions, Schema, ServerError, Value};
use serde::Serialize;
use std::sync::Arc;
use tracing::Instrument;

/// What can be asked.
#[derive(MergedObject, Default)]
pub struct Query(
    viewer::ViewerQuery,
    node::NodeQuery,
    patient::PatientQuery,
    encounter::EncounterQuery,
    note::NoteQuery,
    feature::FeatureQuery,
);

/// The API, made once: the schema and its limits.
pub struct Api {
    schema: Schema<Query, Mutation, EmptySubscription>,
    shape: ResponseShaper,
    limits: Limits,
    documents: DocumentCache,
}

/// A question that is within the limits and can be run, more than once if need be.
pub struct PreparedRequest {
    question: GraphqlRequest,
    document: Arc<ExecutableDocument>,
    kind: OperationKind,
    idempotency: Option<IdempotencyKey>,
}

impl PreparedRequest {
    /// Its changes are to be made once, however often they are asked for.
    pub fn idempotency(self, idempotency: Option<IdempotencyKey>) -> Self {
        Self { idempotency, ..self }
    }

    /// What it asks for.
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// What the client calls it.
    fn name(&self) -> Option<&str> {
        let only = || match &self.document.operations {
            DocumentOperations::Multiple(operations) if operations.len() == 1 => {
                operations.keys().next().map(|name| name.as_str())
            }
            _ => None,
        };
        self.question.operation_name.as_deref().or_else(only)
    }
}

/// An answer's JSON, and the codes of the errors in it.
pub struct RenderedResponse {
    /// What goes to the client.
    pub body: String,
    /// What went wrong.
    pub codes: Vec<String>,
}

/// What came of a question, as JSON.
pub enum GraphqlOutcome {
    /// It ran: data, and the errors of single fields.
    Data(RenderedResponse),
    /// It is not a question this schema answers: errors, no data.
    Refused(RenderedResponse),
    /// The request failed as a whole.
    Failed(Error),
}

impl Api {
    /// The schema with these limits.
    pub fn new(limits: &Limits) -> Result<Self> {
        let builder = Schema::build(Query::default(), Mutation::default(), EmptySubscription)
            .limit_complexity(limits.complexity)
            .override_output_type_description::<Connection<String, Patient>>("A page of a list of patients.")
            .override_output_type_description::<Connection<String, Encounter>>("A page of a list of encounters.")
            .override_output_type_description::<Connection<String, ClinicalNote>>("A page of a list of notes.");
        let schema =
            if limits.introspection { builder } else { builder.disable_introspection().disable_suggestions() }.finish();
        let shape =
            ResponseShaper::of(&sdl(&schema)).map_err(|error| Error::internal("the schema does not parse", error))?;
        Ok(Self { schema, shape, limits: limits.clone(), documents: DocumentCache::default() })
    }

    /// The schema in its own language: what `schema.graphql` holds.
    pub fn sdl(&self) -> String {
        sdl(&self.schema)
    }

    /// Parses and measures a question; the errors are those of `GraphqlOutcome::Refused`.
    pub fn prepare(&self, mut question: GraphqlRequest) -> Result<PreparedRequest, RenderedResponse> {
        let document = self.document(&question.query).map_err(refused)?;
        let (mut kind, mut defaults) = (OperationKind::None, Vec::new());
        if let Some(asked) = SelectedOperation::of(&document, question.operation_name.as_deref(), &question.variables) {
            if let Some(variable) = asked.unset() {
                return Err(refused(vec![error::refusal(Error::invalid(
                    format!("variables.{variable}"),
                    "must have a value",
                ))]));
            }
            kind = match asked.kind() {
                OperationType::Query => OperationKind::Query,
                OperationType::Mutation => OperationKind::Mutation,
                OperationType::Subscription => OperationKind::Subscription,
            };
            defaults = asked.defaults();
        }
        // The executor looks at sent variables only when it decides on @skip and @include.
        question.variables.extend(defaults);
        Ok(PreparedRequest { question, document, kind, idempotency: None })
    }

    fn document(&self, text: &str) -> Result<Arc<ExecutableDocument>, Vec<ServerError>> {
        if let Some(known) = self.documents.get(text) {
            return Ok(known);
        }
        let mut document = engine::limits::parse(text, &self.limits)?;
        engine::shaper::mark_types(&mut document);
        Ok(Arc::new(document))
    }

    /// Runs a question for the guard's caller. Nothing is committed and nothing may leave before the guard has finished.
    pub async fn answer(&self, prepared: &PreparedRequest, guard: &Arc<Guard>) -> GraphqlOutcome {
        let PreparedRequest { question, document, kind, idempotency } = prepared;
        let mut request = Request::new(question.query.as_str()).variables(question.variables.clone());
        request.operation_name = question.operation_name.clone();
        request.set_parsed_query(document.as_ref().clone());
        let mut request = request.data(Arc::clone(guard)).data(Loaders::new(
            guard,
            self.limits.answer_bytes,
            *kind == OperationKind::Query,
        ));
        if let Some(idempotency) = idempotency {
            request = request.data(idempotency.clone());
        }
        let span = span::operation(guard.tenant().id, *kind, prepared.name());
        let response = self.schema.execute(request).instrument(span).await;
        if let Some(failure) = error::fatal(&response.errors) {
            return GraphqlOutcome::Failed(failure);
        }
        let asked = SelectedOperation::of(document, question.operation_name.as_deref(), &question.variables);
        match asked {
            Some(asked) if ran(&response.data, &response.errors) => {
                self.documents.keep(&question.query, document);
                let data = self.shape.complete(&asked, response.data);
                GraphqlOutcome::Data(said(&Body { data: Some(data), errors: error::coded(response.errors) }))
            }
            _ => GraphqlOutcome::Refused(refused(response.errors)),
        }
    }
}

fn sdl(schema: &Schema<Query, Mutation, EmptySubscription>) -> String {
    schema.sdl_with_options(SDLExportOptions::new().include_specified_by())
}

/// What was changed stands, but could not be shown, or not all of it: the answer names what stands, so that nobody does it twice.
pub fn stands(error: Error, written: &[AuditAction]) -> RenderedResponse {
    said(&Body { data: Some(Value::Null), errors: vec![error::standing(error, written)] })
}

/// The errors of a failed request, in the form of GraphQL.
pub fn failure(error: Error) -> String {
    json(&Body { data: None, errors: vec![error::refusal(error)] })
}

/// An error without a path is one of the document: nothing ran.
fn ran(data: &Value, errors: &[ServerError]) -> bool {
    *data != Value::Null || errors.iter().any(|error| !error.path.is_empty())
}

fn refused(errors: Vec<ServerError>) -> RenderedResponse {
    said(&Body { data: None, errors: error::coded(errors) })
}

#[derive(Serialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ServerError>,
}

fn said(body: &Body) -> RenderedResponse {
    RenderedResponse { body: json(body), codes: body.errors.iter().filter_map(error::code).collect() }
}

/// Strings, numbers and maps with string keys: this cannot fail, and if it did, nothing would be said.
fn json(body: &Body) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::context::RecordType;
    use super::*;
    use crate::guard::Policy;
    use async_graphql::parser::parse_schema;
    use async_graphql::parser::types::{FieldDefinition, TypeKind, TypeSystemDefinition};
    use std::collections::{BTreeMap, BTreeSet};

    fn limits() -> Limits {
        Limits {
            body_bytes: 1 << 20,
            answer_bytes: 1 << 24,
            depth: 12,
            complexity: 20_000,
            tokens: 5_000,
            aliases: 30,
            directives: 20,
            introspection: false,
        }
    }

    fn types() -> BTreeMap<String, Vec<FieldDefinition>> {
        let schema = parse_schema(Api::new(&limits()).unwrap().sdl()).unwrap();
        let definitions = schema.definitions.into_iter().filter_map(|definition| match definition {
            TypeSystemDefinition::Type(definition) => Some(definition.node),
            _ => None,
        });
        let objects = definitions.filter_map(|definition| match definition.kind {
            TypeKind::Object(object) => {
                Some((definition.name.node.to_string(), object.fields.into_iter().map(|field| field.node).collect()))
            }
            _ => None,
        });
        objects.collect()
    }

    /// Runs only what needs no guard: the document is refused before any resolver.
    fn refused(query: &str) -> serde_json::Value {
        let api = Api::new(&limits()).unwrap();
        let question = GraphqlRequest { query: query.into(), operation_name: None, variables: Default::default() };
        let prepared = match api.prepare(question) {
            Ok(prepared) => prepared,
            Err(said) => return serde_json::from_str(&said.body).unwrap(),
        };
        let mut request = Request::new(query);
        request.set_parsed_query(prepared.document.as_ref().clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(api.schema.execute(request));
        assert!(!ran(&response.data, &response.errors), "{:?}", response.errors);
        serde_json::from_str(&super::refused(response.errors).body).unwrap()
    }

    /// Rows for a part of an operation, or for what many have in common.
    const PARTS: [&str; 6] =
        ["note.text", "draftNote.own", "draftNote.forAuthor", "signNote.final", "note.ofNurses", "note.ofOthers"];

    #[test]
    fn every_root_and_list_has_a_row_in_the_table_of_roles() {
        let policy = Policy::built_in().unwrap();
        let rows: BTreeSet<_> = policy.operations().map(str::to_owned).collect();
        let types = types();
        let roots = types["Query"].iter().chain(&types["Mutation"]).map(|field| field.name.node.to_string());
        // A list that is a root has its row as a root.
        let lists = types.iter().filter(|(name, _)| *name != "Query").flat_map(|(name, fields)| {
            let paged = fields.iter().filter(|field| field.node_is_connection());
            paged.map(move |field| format!("{name}.{}", field.name.node))
        });
        let wanted: BTreeSet<_> = roots.chain(lists).chain(PARTS.map(str::to_owned)).collect();
        assert_eq!(rows, wanted);
    }

    trait Paged {
        fn node_is_connection(&self) -> bool;
    }

    impl Paged for FieldDefinition {
        fn node_is_connection(&self) -> bool {
            self.ty.node.to_string().trim_end_matches('!').ends_with("Connection")
        }
    }

    #[test]
    fn every_field_of_a_record_is_known_to_the_audit_log() {
        let types = types();
        for (name, record) in
            [("Patient", RecordType::Patient), ("Encounter", RecordType::Encounter), ("ClinicalNote", RecordType::Note)]
        {
            let fields: Vec<_> = types[name].iter().map(|field| field.name.node.to_string()).collect();
            assert_eq!(fields, record.fields(), "{name}");
        }
    }

    #[test]
    fn everything_is_described() {
        let mut described = 0;
        let mut told = |what: String, description: &Option<_>| {
            assert!(description.is_some(), "{what} has no description");
            described += 1;
        };
        for definition in parse_schema(Api::new(&limits()).unwrap().sdl()).unwrap().definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let name = definition.node.name.node;
            told(name.to_string(), &definition.node.description);
            let (mut fields, mut inputs) = (Vec::new(), Vec::new());
            match definition.node.kind {
                TypeKind::Object(object) => fields = object.fields,
                TypeKind::Interface(interface) => fields = interface.fields,
                TypeKind::InputObject(input) => inputs = input.fields,
                TypeKind::Enum(choice) => {
                    choice
                        .values
                        .iter()
                        .for_each(|value| told(format!("{name}.{}", value.node.value.node), &value.node.description));
                }
                TypeKind::Scalar | TypeKind::Union(_) => {}
            }
            for field in fields {
                let path = format!("{name}.{}", field.node.name.node);
                told(path.clone(), &field.node.description);
                field
                    .node
                    .arguments
                    .iter()
                    .for_each(|input| told(format!("{path}({})", input.node.name.node), &input.node.description));
            }
            inputs.iter().for_each(|input| told(format!("{name}.{}", input.node.name.node), &input.node.description));
        }
        assert!(described > 200, "{described}");
    }

    #[test]
    fn a_refused_question_has_errors_with_codes_and_no_data() {
        let cases = [
            ("{ nothing }", "INVALID_INPUT"),
            ("{ patient { id } }", "INVALID_INPUT"),
            ("{ patient(id: 1.5) { id } }", "INVALID_INPUT"),
            ("mutation { sign }", "INVALID_INPUT"),
            ("subscription { noteChanged }", "INVALID_INPUT"),
            ("query A { __typename } query B { __typename }", "INVALID_INPUT"),
            (
                "{ patient(id: \"x\") { encounters(first: 200) { nodes { notes(first: 200) { nodes { id } } } } } }",
                "LIMIT_EXCEEDED",
            ),
            ("{ patient(id: \"x\") { encounters(first: 99999999999) { nodes { id } } } }", "INVALID_INPUT"),
        ];
        for (query, code) in cases {
            let answer = refused(query);
            assert!(answer.get("data").is_none(), "{query}");
            let errors = answer["errors"].as_array().unwrap();
            assert!(
                !errors.is_empty() && errors.iter().all(|error| error["extensions"]["code"] == code),
                "{query}: {answer}"
            );
        }
        assert!(!refused("{ patien(id: 1) { id } }").to_string().contains("Did you mean"));
    }

    #[test]
    fn the_chart_page_is_within_the_limits() {
        let api = Api::new(&limits()).unwrap();
        let query = include_str!("../../tests/it/chart.graphql").to_owned();
        let variables = async_graphql::Variables::from_json(serde_json::json!({ "patient": "x" }));
        let question = GraphqlRequest { query, operation_name: None, variables };
        assert!(api.prepare(question.clone()).is_ok());
        let refused = api.prepare(GraphqlRequest { variables: Default::default(), ..question }).err().unwrap().body;
        assert!(refused.contains("variables.patient") && !refused.contains("data"), "{refused}");
    }
}
