//! A request as clients send it: one JSON object with `query`, `operationName` and `variables`. `extensions` must be an
//! object and is not used; unknown members are ignored. Anything malformed is refused before the document is parsed.

use crate::error::{Error, Result};
use async_graphql::Variables;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A GraphQL request.
#[derive(Debug, Clone)]
pub struct GraphqlRequest {
    /// The text of the GraphQL document.
    pub query: String,
    /// The operation to execute; required where the document has several.
    pub operation_name: Option<String>,
    /// The values of the operation's variables.
    pub variables: Variables,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestMembers {
    query: Option<Value>,
    operation_name: Option<Value>,
    variables: Option<Value>,
    extensions: Option<Value>,
}

impl GraphqlRequest {
    /// Parses the body of an HTTP request.
    ///
    /// # Errors
    /// `Invalid` with the member that is wrong: not one JSON object, a member of the wrong type or given twice, `query`
    /// missing, or a string that contains NUL, which PostgreSQL cannot store. No error repeats what was sent.
    pub fn from_json(body: &[u8]) -> Result<Self> {
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::invalid("body", "must be one JSON object"));
        }
        let members: RequestMembers =
            serde_json::from_slice(body).map_err(|error| Error::invalid("body", json_error(&error)))?;
        let query = text("query", members.query)?.ok_or_else(|| Error::invalid("query", "is missing"))?;
        let operation_name = text("operationName", members.operation_name)?;
        object("extensions", members.extensions)?;
        let variables = Value::Object(object("variables", members.variables)?);
        if contains_nul(&variables) {
            return Err(Error::invalid("variables", "a string contains NUL"));
        }
        Ok(Self { query, operation_name, variables: Variables::from_json(variables) })
    }
}

fn text(member: &str, value: Option<Value>) -> Result<Option<String>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.contains('\0') => Err(Error::invalid(member, "contains NUL")),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Error::invalid(member, "must be a string")),
    }
}

fn object(member: &str, value: Option<Value>) -> Result<Map<String, Value>> {
    match value {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(Error::invalid(member, "must be an object")),
    }
}

fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(contains_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || contains_nul(value)),
        _ => false,
    }
}

/// Says where the JSON is malformed, without quoting it.
fn json_error(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "a member appears twice or has the wrong type".to_owned(),
        _ => format!("not JSON at line {} column {}", error.line(), error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_parsed() {
        let body = br#" {"query": "{ a }", "operationName": null, "variables": {"n": [1, "x"]},
            "extensions": {}, "later": 1}"#;
        let request = GraphqlRequest::from_json(body).unwrap();
        assert_eq!((request.query.as_str(), request.operation_name), ("{ a }", None));
        assert_eq!(request.variables.len(), 1);
    }

    #[test]
    fn a_malformed_request_is_refused() {
        let bad: [&[u8]; 20] = [
            b"",
            b"{",
            b"null",
            b"[]",
            br#"[{"query": "{ a }"}]"#,
            br#""{ a }""#,
            br#"{"query": "{ a }"} {}"#,
            br#"{}"#,
            br#"{"query": null}"#,
            br#"{"query": 1}"#,
            br#"{"query": "{ a }", "query": "{ b }"}"#,
            br#"{"query": "{ a }", "operationName": 1}"#,
            br#"{"query": "{ a }", "variables": []}"#,
            br#"{"query": "{ a }", "variables": "{}"}"#,
            br#"{"query": "{ a }", "extensions": 1}"#,
            br#"{"query": "{ a } \u0000"}"#,
            br#"{"query": "{ a }", "variables": {"a": ["\u0000"]}}"#,
            br#"{"query": "{ a }", "variables": {"a": "\ud800"}}"#,
            b"{\"query\": \"\xff\"}",
            b"\xef\xbb\xbf{\"query\": \"{ a }\"}",
        ];
        for body in bad {
            let refused = GraphqlRequest::from_json(body).expect_err(&String::from_utf8_lossy(body));
            assert_eq!(refused.code(), "INVALID_INPUT");
        }
        assert!(
            GraphqlRequest::from_json(
                format!(r#"{{"query": "a", "variables": {{"a": {}"#, "[".repeat(100_000)).as_bytes()
            )
            .is_err()
        );
    }
}
