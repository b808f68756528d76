//! The elements that several resources share: texts, codings, identifiers, periods, and what is kept of a resource's origin.
//! Reads what it needs and ignores the rest; texts are borrowed from the input where nothing is escaped in them.

use super::Defect;
use super::date::{Edge, instant};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// The system of LOINC codes.
pub(super) const LOINC: &str = "http://loinc.org";

/// A system and a value: `http://hl7.org/fhir/sid/us-npi`, `9999974439`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Identifier {
    /// Who hands the values out; empty where the source does not say.
    pub system: String,
    /// The value.
    pub value: String,
}

/// What the source said beside what Cordon reads. Kept, sealed, next to the row.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Provenance {
    /// `meta.versionId` and `meta.lastUpdated`: no part of the content, so a new export of the same is not a change.
    #[serde(skip)]
    pub version: Option<Value>,
    /// The id and the elements kept as given, by their names.
    #[serde(flatten)]
    pub elements: Map<String, Value>,
}

impl Provenance {
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

    /// As one JSON object.
    pub fn into_json(mut self) -> Value {
        if let Some(version) = self.version {
            self.elements.insert("meta".into(), version);
        }
        Value::Object(self.elements)
    }
}

/// A text, borrowed where it can be. (An `Option<Cow<str>>` would always be a copy.)
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text, unless it is blank.
pub(super) fn said<'t>(text: &'t Option<Text<'_>>) -> Option<&'t str> {
    text.as_ref().map(Text::as_str).filter(|text| !text.trim().is_empty())
}

/// The text when it looks like a code: these go into columns that are not sealed, where prose has no place.
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
    pub(super) system: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) code: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) display: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Concept<'a> {
    #[serde(borrow, default)]
    pub(super) coding: Vec<Coding<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
}

impl Concept<'_> {
    /// How a person would say it.
    pub(super) fn wording(&self) -> Option<&str> {
        said(&self.text).or_else(|| self.coding.iter().find_map(|coding| said(&coding.display)))
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Period<'a> {
    #[serde(borrow)]
    pub(super) start: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) end: Option<Text<'a>>,
}

impl Period<'_> {
    pub(super) fn start(&self) -> Result<Option<DateTime<Utc>>, Defect> {
        said(&self.start).map(|text| instant(text, Edge::First)).transpose()
    }

    pub(super) fn end(&self) -> Result<Option<DateTime<Utc>>, Defect> {
        said(&self.end).map(|text| instant(text, Edge::Last)).transpose()
    }

    /// As given, for the provenance.
    pub(super) fn as_given(&self) -> Value {
        let ends = [("start", said(&self.start)), ("end", said(&self.end))];
        Value::Object(ends.into_iter().filter_map(|(name, text)| Some((name.into(), text?.into()))).collect())
    }
}

/// An identifier as it stands in a resource.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Token<'a> {
    #[serde(borrow, rename = "use")]
    pub(super) usage: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Concept<'a>>,
    #[serde(borrow)]
    pub(super) system: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) value: Option<Text<'a>>,
}

impl Token<'_> {
    /// The identifier, if it has a value at all.
    pub(super) fn identifier(&self) -> Option<Identifier> {
        let system = said(&self.system).unwrap_or_default().to_owned();
        Some(Identifier { system, value: said(&self.value)?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_borrowed_unless_escaped() {
        let plain: Option<Text> = serde_json::from_str(r#""Ann""#).unwrap();
        assert!(matches!(plain, Some(Text(Cow::Borrowed("Ann")))));
        let escaped: Option<Text> = serde_json::from_str(r#""A\nn""#).unwrap();
        assert!(matches!(escaped, Some(Text(Cow::Owned(_)))));
    }

    #[test]
    fn codes_are_short_and_plain() {
        assert_eq!(code_like(Some("AMB")), Some("AMB".into()));
        assert_eq!(code_like(Some("Ann Lee '; --")), None);
        assert_eq!(code_like(Some(&"A".repeat(41))), None);
    }
}
