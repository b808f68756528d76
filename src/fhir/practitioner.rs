//! Practitioners: the authors of imported notes. They never log in, so a name and identifiers are all that is read.

use super::element::{Identifier, Meta, Provenance, Text, Token};
use super::patient::{NameElement, Titles};
use super::{Defect, Place, ResourceKind, fingerprint, read};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A practitioner as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedPractitioner {
    /// `Practitioner/<id>` in the source.
    pub key: String,
    /// What conditional references find this one by.
    pub identifiers: Vec<Identifier>,
    /// With title: "Dr. Ann Lee".
    pub name: Option<String>,
    /// Where it comes from.
    pub source: Provenance,
}

impl ImportedPractitioner {
    /// Reads a `Practitioner`.
    pub fn read(text: &str, place: &Place<'_>) -> Result<Self, Defect> {
        let wire: Practitioner = read(text)?;
        let key = place.key(ResourceKind::Practitioner, &wire.id)?;
        let tokens = wire.identifier.iter().map(Token::deserialize).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            key,
            identifiers: tokens.iter().filter_map(Token::identifier).collect(),
            name: wire.written(),
            source: Provenance::new(wire.id.as_ref().map(Text::as_str), wire.meta)
                .keep("identifier", Value::Array(wire.identifier)),
        })
    }

    /// The bytes by which a change of content is told.
    pub fn fingerprint(&self) -> Result<Vec<u8>, Defect> {
        fingerprint(self)
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Practitioner<'a> {
    #[serde(borrow)]
    pub(super) id: Option<Text<'a>>,
    meta: Option<Meta>,
    #[serde(default)]
    pub(super) identifier: Vec<Value>,
    #[serde(borrow, default)]
    name: Vec<NameElement<'a>>,
}

impl Practitioner<'_> {
    /// The name in use, with title.
    pub(super) fn written(&self) -> Option<String> {
        let named = self.name.iter().filter_map(|name| Some((name.rank(), name.written(Titles::Written)?)));
        named.min_by_key(|(rank, _)| *rank).map(|(_, name)| name.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Aliases;

    #[test]
    fn doctors_keep_their_title() {
        let text = r#"{"resourceType":"Practitioner","id":"d1","identifier":[{"system":"http://hl7.org/fhir/sid/us-npi","value":"9"},{"system":"s"}],
            "name":[{"family":"Emard","given":["Irvin"],"prefix":["Dr."]}],"telecom":[{"system":"phone","value":"1"}]}"#;
        let doctor =
            ImportedPractitioner::read(text, &Place { full_url: Some("urn:uuid:9f"), aliases: &Aliases::default() })
                .unwrap();
        assert_eq!((doctor.key.as_str(), doctor.name.as_deref()), ("Practitioner/d1", Some("Dr. Irvin Emard")));
        assert_eq!(
            doctor.identifiers,
            [Identifier { system: "http://hl7.org/fhir/sid/us-npi".into(), value: "9".into() }]
        );
    }

    #[test]
    fn a_doctor_without_a_name_is_still_one() {
        let doctor = ImportedPractitioner::read(
            r#"{"resourceType":"Practitioner"}"#,
            &Place { full_url: Some("urn:uuid:9f"), aliases: &Aliases::default() },
        );
        let doctor = doctor.unwrap();
        assert_eq!((doctor.key.as_str(), doctor.name), ("Practitioner/9f", None));
    }
}
