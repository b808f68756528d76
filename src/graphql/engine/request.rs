//! A request as clients write it: one JSON object with `query`, `operationName`, `variables`. Members nobody knows are ignored;
//! everything else that is not right is refused before GraphQL sees it.

use crate::error::{Error, Result};
use async_graphql::Variables;
use serde::Deserialize;
use serde_json::{Map, Value};

/// What a client asks.
#[derive(Debug, Clone)]
pub struct GraphqlRequest {
    /// The document.
    pub query: String,
    /// Which of its operations.
    pub operation_name: Option<String>,
    /// The values of its variables.
    pub variables: Variables,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members {
    query: Option<Value>,
    operation_name: Option<Value>,
    variables: Option<Value>,
    extensions: Option<Value>,
}

impl GraphqlRequest {
    /// From the body of a request.
    pub fn read(body: &[u8]) -> Result<Self> {
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Error::invalid("body", "must be one JSON object"));
        }
        let members: Members = serde_json::from_slice(body).map_err(|error| Error::invalid("body", place(&error)))?;
        let query = text("query", members.query)?.ok_or_else(|| Error::invalid("query", "is missing"))?;
        let operation_name = text("operationName", members.operation_name)?;
        object("extensions", members.extensions)?;
        let variables = Value::Object(object("variables", members.variables)?);
        if holds_nul(&variables) {
            return Err(Error::invalid("variables", "a string holds NUL"));
        }
        Ok(Self { query, operation_name, variables: Variables::from_json(variables) })
    }
}

fn text(member: &str, value: Option<Value>) -> Result<Option<String>> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.contains('\0') => Err(Error::invalid(member, "holds NUL")),
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

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

/// Where the JSON ends to be JSON, without what stands there.
fn place(error: &serde_json::Error) -> String {
    match error.classify() {
        serde_json::error::Category::Data => "a member is there twice, or not of its type".to_owned(),
        _ => format!("not JSON at line {} column {}", error.line(), error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read() {
        let question =
            GraphqlRequest::read(br#" {"query": "{ a }", "operationName": null, "variables": {"n": [1, "x"]}, "extensions": {}, "later": 1}"#)
                .unwrap();
        assert_eq!((question.query.as_str(), question.operation_name), ("{ a }", None));
        assert_eq!(question.variables.len(), 1);
    }

    #[test]
    fn anything_else_is_refused() {
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
            let refused = GraphqlRequest::read(body).expect_err(&String::from_utf8_lossy(body));
            assert_eq!(refused.code(), "INVALID_INPUT");
        }
        assert!(
            GraphqlRequest::read(format!(r#"{{"query": "a", "variables": {{"a": {}"#, "[".repeat(100_000)).as_bytes())
                .is_err()
        );
    }
}
