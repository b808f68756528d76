//! Preparing and executing requests: parse, check the limits, run the schema, bring the result into the form of the
//! specification. Nothing here belongs to a tenant or outlives a request, except the cache of parsed documents.

use super::documents::DocumentCache;
use super::limits;
use super::request::GraphqlRequest;
use super::response::{self, GraphqlOutcome, RenderedResponse};
use super::shaper::{self, ResponseShaper, SelectedOperation};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::graphql::error;
use crate::guard::IdempotencyKey;
use crate::ids::TenantId;
use crate::telemetry::{OperationKind, span};
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationType};
use async_graphql::{Data, EmptySubscription, ObjectType, Request, SDLExportOptions, Schema, ServerError, Value};
use std::sync::Arc;
use tracing::Instrument;

/// A request that is within the limits. It can be executed more than once.
pub struct PreparedRequest {
    request: GraphqlRequest,
    document: Arc<ExecutableDocument>,
    kind: OperationKind,
    idempotency: Option<IdempotencyKey>,
}

impl PreparedRequest {
    /// Sets the key under which the request's mutations are performed at most once, however often the request is sent.
    pub fn with_idempotency_key(self, idempotency: Option<IdempotencyKey>) -> Self {
        Self { idempotency, ..self }
    }

    /// Returns the key set by `with_idempotency_key`.
    pub fn idempotency_key(&self) -> Option<&IdempotencyKey> {
        self.idempotency.as_ref()
    }

    /// Returns the type of the selected operation, `OperationKind::None` when no operation is selected.
    pub fn kind(&self) -> OperationKind {
        self.kind
    }

    /// The client's name of the selected operation.
    fn operation_name(&self) -> Option<&str> {
        let only = || match &self.document.operations {
            DocumentOperations::Multiple(operations) if operations.len() == 1 => {
                operations.keys().next().map(|name| name.as_str())
            }
            _ => None,
        };
        self.request.operation_name.as_deref().or_else(only)
    }
}

/// Executes requests against one schema.
pub struct Executor<Q, M> {
    schema: Schema<Q, M, EmptySubscription>,
    shaper: ResponseShaper,
    limits: Limits,
    documents: DocumentCache,
}

impl<Q: ObjectType + 'static, M: ObjectType + 'static> Executor<Q, M> {
    /// Creates an executor for a schema.
    ///
    /// # Errors
    /// `Internal` when the schema's own SDL does not parse.
    pub fn new(schema: Schema<Q, M, EmptySubscription>, limits: &Limits) -> Result<Self> {
        let shaper = ResponseShaper::from_sdl(&sdl(&schema))
            .map_err(|error| Error::internal("the schema does not parse", error))?;
        Ok(Self { schema, shaper, limits: limits.clone(), documents: DocumentCache::default() })
    }

    /// Returns the schema in GraphQL's schema definition language.
    pub fn sdl(&self) -> String {
        sdl(&self.schema)
    }

    /// Parses a request and checks it against the limits.
    ///
    /// # Errors
    /// The response to send instead, as in `GraphqlOutcome::Refused`.
    pub fn prepare(&self, mut request: GraphqlRequest) -> Result<PreparedRequest, RenderedResponse> {
        let document = self.parse(&request.query).map_err(response::refused)?;
        let (mut kind, mut defaults) = (OperationKind::None, Vec::new());
        let name = request.operation_name.as_deref();
        if let Some(operation) = SelectedOperation::find(&document, name, &request.variables) {
            if let Some(variable) = operation.missing_variable() {
                let error = Error::invalid(format!("variables.{variable}"), "must have a value");
                return Err(response::refused(vec![error::server_error(error)]));
            }
            kind = match operation.kind() {
                OperationType::Query => OperationKind::Query,
                OperationType::Mutation => OperationKind::Mutation,
                OperationType::Subscription => OperationKind::Subscription,
            };
            defaults = operation.variable_defaults();
        }
        // For @skip and @include, async-graphql looks only at the variables that were sent, so the defaults are sent
        // along.
        request.variables.extend(defaults);
        Ok(PreparedRequest { request, document, kind, idempotency: None })
    }

    fn parse(&self, text: &str) -> Result<Arc<ExecutableDocument>, Vec<ServerError>> {
        if let Some(document) = self.documents.get(text) {
            return Ok(document);
        }
        let mut document = limits::parse(text, &self.limits)?;
        shaper::add_typenames(&mut document);
        Ok(Arc::new(document))
    }

    /// Executes a request. `data` is what resolvers find in their context; `tenant` is for the span of the operation.
    pub async fn execute(&self, prepared: &PreparedRequest, tenant: TenantId, data: Data) -> GraphqlOutcome {
        let PreparedRequest { request: GraphqlRequest { query, operation_name, variables }, document, kind, .. } =
            prepared;
        let mut request = Request::new(query.as_str()).variables(variables.clone());
        request.operation_name = operation_name.clone();
        request.data = data;
        request.set_parsed_query(document.as_ref().clone());
        let span = span::operation(tenant, *kind, prepared.operation_name());
        let response = self.schema.execute(request).instrument(span).await;
        if let Some(failure) = error::fatal(&response.errors) {
            return GraphqlOutcome::Failed(failure);
        }
        match SelectedOperation::find(document, operation_name.as_deref(), variables) {
            Some(operation) if was_executed(&response.data, &response.errors) => {
                self.documents.insert(query, document);
                let data = self.shaper.shape(&operation, response.data);
                GraphqlOutcome::Data(response::with_data(data, response.errors))
            }
            _ => GraphqlOutcome::Refused(response::refused(response.errors)),
        }
    }
}

fn sdl<Q: ObjectType + 'static, M: ObjectType + 'static>(schema: &Schema<Q, M, EmptySubscription>) -> String {
    schema.sdl_with_options(SDLExportOptions::new().include_specified_by())
}

/// Whether resolvers ran. An error of validation has no path; an error of a field has one.
fn was_executed(data: &Value, errors: &[ServerError]) -> bool {
    *data != Value::Null || errors.iter().any(|error| !error.path.is_empty())
}
