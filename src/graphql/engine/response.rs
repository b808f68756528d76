//! Responses as JSON: rendering data and errors, with the codes of the errors beside the text for telemetry.

use crate::audit::AuditAction;
use crate::error::Error;
use crate::graphql::error;
use async_graphql::{ServerError, Value};
use serde::Serialize;

/// The JSON of a response, and the codes of the errors in it.
pub struct RenderedResponse {
    /// The body of the HTTP response.
    pub body: String,
    /// `extensions.code` of each error, in the order of the errors.
    pub codes: Vec<String>,
}

/// The result of executing a request.
pub enum GraphqlOutcome {
    /// The operation ran. The response has data, and the errors of single fields.
    Data(RenderedResponse),
    /// The request is not valid for this schema or exceeds a limit. The response has errors and no data.
    Refused(RenderedResponse),
    /// The request failed as a whole, and nothing of its data may be sent.
    Failed(Error),
}

#[derive(Serialize)]
struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ServerError>,
}

impl Body {
    fn render(&self) -> RenderedResponse {
        RenderedResponse { body: self.to_json(), codes: self.errors.iter().filter_map(error::code).collect() }
    }

    /// A body consists of strings, numbers and maps with string keys, so serialising it cannot fail; if it did, the
    /// body would be empty.
    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A response with data, and with the errors of single fields.
pub fn with_data(data: Value, errors: Vec<ServerError>) -> RenderedResponse {
    Body { data: Some(data), errors: error::with_codes(errors) }.render()
}

/// A response without data, for a request that was not executed.
pub fn refused(errors: Vec<ServerError>) -> RenderedResponse {
    Body { data: None, errors: error::with_codes(errors) }.render()
}

/// A response for a request that failed after some of its mutations were committed: `data` is null, and the error lists
/// them in `extensions.committed`, so that the client does not send them again.
pub fn partial_failure(error: Error, committed: &[AuditAction]) -> RenderedResponse {
    Body { data: Some(Value::Null), errors: vec![error::partial_failure(error, committed)] }.render()
}

/// The JSON body of an HTTP error response: one error, no data.
pub fn error_body(error: Error) -> String {
    Body { data: None, errors: vec![error::server_error(error)] }.to_json()
}
