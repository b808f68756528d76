//! The API for tenants: schema, resolvers and loaders. A resolver parses its arguments, calls `model`, and wraps the
//! rows. SQL is in `model`, roles are in the guard's table. Nothing here belongs to a tenant: each request brings its
//! own guard and loaders. async-graphql is used here and in the HTTP handler only.

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

pub use self::engine::executor::PreparedRequest;
pub use self::engine::request::GraphqlRequest;
pub use self::engine::response::{GraphqlOutcome, RenderedResponse, error_body, partial_failure};
pub use self::mutation::Mutation;

use self::encounter::Encounter;
use self::engine::executor::Executor;
use self::loaders::Loaders;
use self::note::ClinicalNote;
use self::patient::Patient;
use crate::config::Limits;
use crate::error::Result;
use crate::guard::Guard;
use crate::telemetry::OperationKind;
use async_graphql::connection::{Connection, Edge, EmptyFields};
use async_graphql::{Data, EmptySubscription, MergedObject, Schema};
use std::sync::Arc;

/// Reads. Each field fails with FORBIDDEN when the caller's roles do not allow it, and with INVALID_INPUT when an
/// argument is malformed. All fields of one request read the same snapshot of the data.
#[derive(MergedObject, Default)]
pub struct Query(
    viewer::ViewerQuery,
    node::NodeQuery,
    patient::PatientQuery,
    encounter::EncounterQuery,
    note::NoteQuery,
    feature::FeatureQuery,
);

/// The GraphQL API: the schema with its limits. It is created once for each process and belongs to no tenant.
pub struct Api {
    executor: Executor<Query, Mutation>,
    max_text_bytes: usize,
}

impl Api {
    /// Builds the schema with these limits.
    ///
    /// # Errors
    /// `Internal` when the schema is inconsistent, which is a bug.
    pub fn new(limits: &Limits) -> Result<Self> {
        let builder = Schema::build(Query::default(), Mutation::default(), EmptySubscription)
            .limit_complexity(limits.complexity)
            .override_output_type_description::<Connection<String, Patient>>("One page of a list of patients.")
            .override_output_type_description::<Connection<String, Encounter>>("One page of a list of encounters.")
            .override_output_type_description::<Connection<String, ClinicalNote>>("One page of a list of notes.")
            .override_output_type_description::<Edge<String, Patient, EmptyFields>>(
                "A patient in a list, with its cursor.",
            )
            .override_output_type_description::<Edge<String, Encounter, EmptyFields>>(
                "An encounter in a list, with its cursor.",
            )
            .override_output_type_description::<Edge<String, ClinicalNote, EmptyFields>>(
                "A note in a list, with its cursor.",
            );
        let schema =
            if limits.introspection { builder } else { builder.disable_introspection().disable_suggestions() }.finish();
        Ok(Self { executor: Executor::new(schema, limits)?, max_text_bytes: limits.answer_bytes })
    }

    /// Returns the schema in GraphQL's schema definition language, which is the content of `schema.graphql`.
    pub fn sdl(&self) -> String {
        self.executor.sdl()
    }

    /// Parses a request and checks it against the limits. Needs no tenant.
    ///
    /// # Errors
    /// The response to send instead, as in `GraphqlOutcome::Refused`.
    pub fn prepare(&self, request: GraphqlRequest) -> Result<PreparedRequest, RenderedResponse> {
        self.executor.prepare(request)
    }

    /// Executes a request for the guard's caller. The response must not be sent before `Guard::finish` has committed
    /// the access records.
    pub async fn execute(&self, prepared: &PreparedRequest, guard: &Arc<Guard>) -> GraphqlOutcome {
        let may_preload = prepared.kind() == OperationKind::Query;
        let mut data = Data::default();
        data.insert(Arc::clone(guard));
        data.insert(Loaders::new(guard, self.max_text_bytes, may_preload));
        if let Some(key) = prepared.idempotency_key() {
            data.insert(key.clone());
        }
        self.executor.execute(prepared, guard.tenant().id, data).await
    }
}

#[cfg(test)]
mod tests {
    use super::context::RecordType;
    use super::*;
    use crate::guard::RoleTable;
    use crate::ids::TenantId;
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

    /// The response to a request that must be refused before any resolver runs; there is no guard.
    fn refused(query: &str) -> serde_json::Value {
        let api = Api::new(&limits()).unwrap();
        let request = GraphqlRequest { query: query.into(), operation_name: None, variables: Default::default() };
        let rendered = match api.prepare(request) {
            Err(rendered) => rendered,
            Ok(prepared) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                match runtime.block_on(api.executor.execute(&prepared, TenantId::new(), Data::default())) {
                    GraphqlOutcome::Refused(rendered) => rendered,
                    GraphqlOutcome::Data(rendered) => panic!("{query} was executed: {}", rendered.body),
                    GraphqlOutcome::Failed(error) => panic!("{query} failed: {error}"),
                }
            }
        };
        serde_json::from_str(&rendered.body).unwrap()
    }

    /// Operations of the table of roles that are no field of their own: a part of a field, or what several fields
    /// share.
    const PARTS: [&str; 6] =
        ["note.text", "draftNote.own", "draftNote.forAuthor", "signNote.final", "note.ofNurses", "note.ofOthers"];

    #[test]
    fn every_root_field_and_list_has_a_row_in_the_table_of_roles() {
        let policy = RoleTable::built_in().unwrap();
        let rows: BTreeSet<_> = policy.operations().map(str::to_owned).collect();
        let types = types();
        let roots = types["Query"].iter().chain(&types["Mutation"]).map(|field| field.name.node.to_string());
        // Lists that are root fields are among `roots`.
        let lists = types.iter().filter(|(name, _)| *name != "Query").flat_map(|(name, fields)| {
            let paged = fields.iter().filter(|field| field.node_is_connection());
            paged.map(move |field| format!("{name}.{}", field.name.node))
        });
        let expected: BTreeSet<_> = roots.chain(lists).chain(PARTS.map(str::to_owned)).collect();
        assert_eq!(rows, expected);
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
    fn access_records_know_every_field() {
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
        let mut check = |path: String, description: &Option<_>| {
            assert!(description.is_some(), "{path} has no description");
            described += 1;
        };
        for definition in parse_schema(Api::new(&limits()).unwrap().sdl()).unwrap().definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let name = definition.node.name.node;
            check(name.to_string(), &definition.node.description);
            let (mut fields, mut inputs) = (Vec::new(), Vec::new());
            match definition.node.kind {
                TypeKind::Object(object) => fields = object.fields,
                TypeKind::Interface(interface) => fields = interface.fields,
                TypeKind::InputObject(input) => inputs = input.fields,
                TypeKind::Enum(values) => {
                    values
                        .values
                        .iter()
                        .for_each(|value| check(format!("{name}.{}", value.node.value.node), &value.node.description));
                }
                TypeKind::Scalar | TypeKind::Union(_) => {}
            }
            for field in fields {
                let path = format!("{name}.{}", field.node.name.node);
                check(path.clone(), &field.node.description);
                field
                    .node
                    .arguments
                    .iter()
                    .for_each(|input| check(format!("{path}({})", input.node.name.node), &input.node.description));
            }
            inputs.iter().for_each(|input| check(format!("{name}.{}", input.node.name.node), &input.node.description));
        }
        assert!(described > 200, "{described}");
    }

    #[test]
    fn a_refused_request_has_errors_with_codes_and_no_data() {
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
            let response = refused(query);
            assert!(response.get("data").is_none(), "{query}");
            let errors = response["errors"].as_array().unwrap();
            assert!(
                !errors.is_empty() && errors.iter().all(|error| error["extensions"]["code"] == code),
                "{query}: {response}"
            );
        }
        assert!(!refused("{ patien(id: 1) { id } }").to_string().contains("Did you mean"));
    }

    #[test]
    fn the_chart_page_is_within_the_limits() {
        let api = Api::new(&limits()).unwrap();
        let query = include_str!("../../tests/it/chart.graphql").to_owned();
        let variables = async_graphql::Variables::from_json(serde_json::json!({ "patient": "x" }));
        let request = GraphqlRequest { query, operation_name: None, variables };
        assert!(api.prepare(request.clone()).is_ok());
        let refused = api.prepare(GraphqlRequest { variables: Default::default(), ..request }).err().unwrap().body;
        assert!(refused.contains("variables.patient") && !refused.contains("data"), "{refused}");
    }
}
