//! The elements that several resources share: strings, codings, identifiers, periods, and the source elements that are
//! kept with a row. Elements that Cordon does not use are ignored. Strings without escape sequences are borrowed from
//! the input.

use super::FhirError;
use super::date::{DateBound, parse_instant};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

pub(super) const LOINC: &str = "http://loinc.org";

/// An identifier: a system such as `http://hl7.org/fhir/sid/us-npi` and a value such as `9999974439`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Identifier {
    /// The namespace of the value; empty if the source names none.
    pub system: String,
    /// The value, unique within the system. It is never blank.
    pub value: String,
}

/// Elements of the source resource that have no column of their own. They are stored, sealed, with the row.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SourceElements {
    /// `meta.versionId` and `meta.lastUpdated`. They are not part of the fingerprint, so that a new export of the same
    /// content is not a change.
    #[serde(skip)]
    pub version: Option<Value>,
    /// The id and the kept elements, unchanged, by name.
    #[serde(flatten)]
    pub elements: Map<String, Value>,
}

impl SourceElements {
    pub(super) fn new(id: Option<&str>, meta: Option<Meta>) -> Self {
        let mut elements = Map::new();
        if let Some(id) = id {
            elements.insert("id".into(), id.into());
        }
        let version = meta.and_then(|meta| {
            let known = [("versionId", meta.version_id), ("lastUpdated", meta.last_updated)];
            let known: Map<String, Value> =
                known.into_iter().filter_map(|(name, text)| Some((name.into(), text?.into()))).collect();
            (!known.is_empty()).then_some(Value::Object(known))
        });
        Self { version, elements }
    }

    /// Adds an element unless it is absent, null or an empty list.
    pub(super) fn keep(mut self, name: &str, element: impl Into<Option<Value>>) -> Self {
        match element.into() {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) if list.is_empty() => {}
            Some(element) => {
                self.elements.insert(name.into(), element);
            }
        }
        self
    }

    /// Returns the elements as one JSON object, with the version under `meta`.
    pub fn into_json(mut self) -> Value {
        if let Some(version) = self.version {
            self.elements.insert("meta".into(), version);
        }
        Value::Object(self.elements)
    }
}

/// A JSON string, borrowed from the input if it has no escape sequence. (serde would always copy an
/// `Option<Cow<str>>`.)
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct JsonStr<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl JsonStr<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the text, or `None` if it is absent or blank.
pub(super) fn non_blank<'t>(text: &'t Option<JsonStr<'_>>) -> Option<&'t str> {
    text.as_ref().map(JsonStr::as_str).filter(|text| !text.trim().is_empty())
}

/// Returns the text if it has the form of a code: at most 40 letters, digits, hyphens, dots and underscores. Codes go
/// into columns that are not sealed, so free text must not reach them.
pub(super) fn code_like(text: Option<&str>) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    text.filter(|text| (1..=40).contains(&text.len()) && text.bytes().all(plain)).map(str::to_owned)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub(super) version_id: Option<String>,
    pub(super) last_updated: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Coding<'a> {
    #[serde(borrow)]
    pub(super) system: Option<JsonStr<'a>>,
    #[serde(borrow)]
    pub(super) code: Option<JsonStr<'a>>,
    #[serde(borrow)]
    pub(super) display: Option<JsonStr<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct CodeableConcept<'a> {
    #[serde(borrow, default)]
    pub(super) coding: Vec<Coding<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<JsonStr<'a>>,
}

impl CodeableConcept<'_> {
    /// Returns the text for people: the concept's own, or else the first display of a coding.
    pub(super) fn display_text(&self) -> Option<&str> {
        non_blank(&self.text).or_else(|| self.coding.iter().find_map(|coding| non_blank(&coding.display)))
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Period<'a> {
    #[serde(borrow)]
    pub(super) start: Option<JsonStr<'a>>,
    #[serde(borrow)]
    pub(super) end: Option<JsonStr<'a>>,
}

impl Period<'_> {
    pub(super) fn start(&self) -> Result<Option<DateTime<Utc>>, FhirError> {
        non_blank(&self.start).map(|text| parse_instant(text, DateBound::First)).transpose()
    }

    pub(super) fn end(&self) -> Result<Option<DateTime<Utc>>, FhirError> {
        non_blank(&self.end).map(|text| parse_instant(text, DateBound::Last)).transpose()
    }

    /// Returns the period as the source gives it, for the source elements.
    pub(super) fn to_json(&self) -> Value {
        let ends = [("start", non_blank(&self.start)), ("end", non_blank(&self.end))];
        Value::Object(ends.into_iter().filter_map(|(name, text)| Some((name.into(), text?.into()))).collect())
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct IdentifierElement<'a> {
    #[serde(borrow, rename = "use")]
    pub(super) use_code: Option<JsonStr<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<CodeableConcept<'a>>,
    #[serde(borrow)]
    pub(super) system: Option<JsonStr<'a>>,
    #[serde(borrow)]
    pub(super) value: Option<JsonStr<'a>>,
}

impl IdentifierElement<'_> {
    /// Returns the identifier, or `None` if it has no value.
    pub(super) fn to_identifier(&self) -> Option<Identifier> {
        let system = non_blank(&self.system).unwrap_or_default().to_owned();
        Some(Identifier { system, value: non_blank(&self.value)?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_borrowed_unless_escaped() {
        let plain: Option<JsonStr> = serde_json::from_str(r#""Ann""#).unwrap();
        assert!(matches!(plain, Some(JsonStr(Cow::Borrowed("Ann")))));
        let escaped: Option<JsonStr> = serde_json::from_str(r#""A\nn""#).unwrap();
        assert!(matches!(escaped, Some(JsonStr(Cow::Owned(_)))));
    }

    #[test]
    fn only_short_plain_text_is_code_like() {
        assert_eq!(code_like(Some("AMB")), Some("AMB".into()));
        assert_eq!(code_like(Some("Ann Lee '; --")), None);
        assert_eq!(code_like(Some(&"A".repeat(41))), None);
    }
}
