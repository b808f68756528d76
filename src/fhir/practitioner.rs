//! Reads a `Practitioner`, the author of imported notes. Imported practitioners never log in, so only name and
//! identifiers are read.

use super::element::{Identifier, IdentifierElement, JsonStr, Meta, SourceElements};
use super::name::{NameElement, Titles};
use super::{FhirError, ImportedResource, ReferenceContext, ResourceKind, read};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A practitioner as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedPractitioner {
    /// `Practitioner/<id>` in the source.
    pub key: String,
    /// The identifiers, by which conditional references name the practitioner.
    pub identifiers: Vec<Identifier>,
    /// The name with title, such as "Dr. Ann Lee".
    pub name: Option<String>,
    /// Elements of the source that have no column of their own.
    pub source: SourceElements,
}

impl ImportedResource for ImportedPractitioner {
    const KIND: ResourceKind = ResourceKind::Practitioner;

    fn key(&self) -> &str {
        &self.key
    }
}

impl ImportedPractitioner {
    /// Reads a `Practitioner`.
    pub fn read(text: &str, context: &ReferenceContext<'_>) -> Result<Self, FhirError> {
        let practitioner: Practitioner = read(text)?;
        let key = context.key(ResourceKind::Practitioner, &practitioner.id)?;
        let identifiers =
            practitioner.identifier.iter().map(IdentifierElement::deserialize).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            key,
            identifiers: identifiers.iter().filter_map(IdentifierElement::to_identifier).collect(),
            name: practitioner.display_name(),
            source: SourceElements::new(practitioner.id.as_ref().map(JsonStr::as_str), practitioner.meta)
                .keep("identifier", Value::Array(practitioner.identifier)),
        })
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Practitioner<'a> {
    #[serde(borrow)]
    pub(super) id: Option<JsonStr<'a>>,
    meta: Option<Meta>,
    #[serde(default)]
    pub(super) identifier: Vec<Value>,
    #[serde(borrow, default)]
    name: Vec<NameElement<'a>>,
}

impl Practitioner<'_> {
    /// Returns the preferred name (see `NameElement::rank`), with title.
    pub(super) fn display_name(&self) -> Option<String> {
        let names = self.name.iter().filter_map(|name| Some((name.rank(), name.to_human_name(Titles::Include)?)));
        names.min_by_key(|(rank, _)| *rank).map(|(_, name)| name.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Aliases;

    #[test]
    fn the_name_of_a_practitioner_includes_the_title() {
        let text = r#"{"resourceType":"Practitioner","id":"d1","identifier":[{"system":"http://hl7.org/fhir/sid/us-npi",
            "value":"9"},{"system":"s"}],
            "name":[{"family":"Emard","given":["Irvin"],"prefix":["Dr."]}],
            "telecom":[{"system":"phone","value":"1"}]}"#;
        let doctor = ImportedPractitioner::read(
            text,
            &ReferenceContext { full_url: Some("urn:uuid:9f"), aliases: &Aliases::default() },
        )
        .unwrap();
        assert_eq!((doctor.key.as_str(), doctor.name.as_deref()), ("Practitioner/d1", Some("Dr. Irvin Emard")));
        assert_eq!(
            doctor.identifiers,
            [Identifier { system: "http://hl7.org/fhir/sid/us-npi".into(), value: "9".into() }]
        );
    }

    #[test]
    fn a_practitioner_without_a_name_is_read() {
        let doctor = ImportedPractitioner::read(
            r#"{"resourceType":"Practitioner"}"#,
            &ReferenceContext { full_url: Some("urn:uuid:9f"), aliases: &Aliases::default() },
        );
        let doctor = doctor.unwrap();
        assert_eq!((doctor.key.as_str(), doctor.name), ("Practitioner/9f", None));
    }
}
