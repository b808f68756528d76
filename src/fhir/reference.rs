//! References to resources, by the key of the resource in its source (`Patient/abc`) or by an identifier. `urn:uuid:…`,
//! relative and versioned references to one resource give the same key. An absolute reference gives that key only if
//! the input shows that it leads to this resource and not to one with the same id on another server.

use super::element::{Identifier, IdentifierElement, JsonStr, non_blank};
use super::{FhirError, ResourceKind};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The target of a reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum SourceRef {
    /// Type and id in the source, such as `Patient/abc`, or the whole address of a resource on another server.
    Key(String),
    /// An identifier, from a conditional (`Practitioner?identifier=system|value`) or a logical reference.
    Identifier(Identifier),
}

/// Maps the `fullUrl`s of a file's Bundles to keys, for those from which the key cannot be derived.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aliases(HashMap<Box<str>, Box<str>>);

impl Aliases {
    /// Adds the `fullUrl` of a resource. Without an `id`, the key is the one that the `fullUrl` contains.
    pub fn add(&mut self, full_url: &str, kind: ResourceKind, id: Option<&str>) {
        let implied = implied_key(full_url, kind).filter(|key| is_key_of(key, kind));
        let Some(key) = id.map(|id| format!("{}/{id}", kind.name())).or_else(|| implied.clone()) else { return };
        // No element that is read refers to a note.
        let referred_to = !matches!(kind, ResourceKind::DocumentReference | ResourceKind::DiagnosticReport);
        if implied.as_ref() != Some(&key) || (referred_to && server_of(full_url).is_some()) {
            self.0.insert(unversioned(full_url).into(), key.into());
        }
    }
}

/// The context in which the references of a resource, and its own id, are resolved.
#[derive(Debug, Clone, Copy)]
pub struct ReferenceContext<'a> {
    /// The `fullUrl` of the Bundle entry that holds the resource.
    pub full_url: Option<&'a str>,
    /// The aliases of the file that holds the resource.
    pub aliases: &'a Aliases,
}

impl ReferenceContext<'_> {
    /// Returns the key of the resource itself. A resource without an id gets the key of its `fullUrl`, so that
    /// references to either give the same key.
    pub(super) fn key(&self, kind: ResourceKind, id: &Option<JsonStr<'_>>) -> Result<String, FhirError> {
        let key = match (id, self.full_url) {
            (Some(id), _) => format!("{}/{}", kind.name(), id.as_str()),
            (None, Some(full_url)) => {
                implied_key(full_url, kind).filter(|key| is_key_of(key, kind)).ok_or(FhirError::NoId)?
            }
            (None, None) => return Err(FhirError::NoId),
        };
        let id = key.split_once('/').map(|(_, id)| id).unwrap_or_default();
        let valid = (1..=200).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if valid { Ok(key) } else { Err(FhirError::InvalidId) }
    }

    /// Resolves a reference in an element that should refer to a resource of type `expected`.
    pub(super) fn resolve(&self, reference: &Reference<'_>, expected: ResourceKind) -> Option<SourceRef> {
        let by_text = non_blank(&reference.reference).and_then(|text| self.resolve_text(text.trim(), expected));
        by_text.or_else(|| reference.identifier.as_ref()?.to_identifier().map(SourceRef::Identifier))
    }

    /// Returns the type of the target if its address or the Bundle contains it. A `urn:` alone does not contain a type.
    pub(super) fn type_of<'r>(&'r self, reference: &'r Reference<'_>) -> Option<&'r str> {
        let text = non_blank(&reference.reference)?.trim();
        if let Some((address, _)) = text.split_once('?') {
            return address.rsplit('/').next();
        }
        let address = unversioned(text);
        type_and_id(self.aliases.0.get(address).map_or(address, AsRef::as_ref)).map(|(kind, _)| kind)
    }

    /// Resolves the reference to the patient whom a resource is about.
    pub(super) fn subject(&self, reference: Option<&Reference<'_>>) -> Result<SourceRef, FhirError> {
        match reference.and_then(|reference| self.resolve(reference, ResourceKind::Patient)) {
            None => Err(FhirError::NoSubject),
            Some(SourceRef::Key(key)) if !is_key_of(&key, ResourceKind::Patient) => Err(FhirError::SubjectNotPatient),
            Some(subject) => Ok(subject),
        }
    }

    /// Resolves a reference to an encounter. Returns `None` for an episode of care, which documents list in the same
    /// element.
    pub(super) fn encounter(&self, reference: &Reference<'_>) -> Option<SourceRef> {
        self.resolve(reference, ResourceKind::Encounter)
            .filter(|found| !matches!(found, SourceRef::Key(key) if !is_key_of(key, ResourceKind::Encounter)))
    }

    fn resolve_text(&self, text: &str, expected: ResourceKind) -> Option<SourceRef> {
        if text.starts_with('#') {
            return None;
        }
        if let Some((address, query)) = text.split_once('?') {
            let same_type = address.rsplit('/').next() == Some(expected.name());
            return same_type.then(|| identifier_in_query(query)).flatten().map(SourceRef::Identifier);
        }
        if let Some(key) = self.aliases.0.get(unversioned(text)) {
            return Some(SourceRef::Key(key.to_string()));
        }
        let key = implied_key(text, expected)?;
        // Patient/1 of another server is another patient.
        let on_other_server = server_of(text).is_some_and(|server| self.full_url.and_then(server_of) != Some(server));
        Some(SourceRef::Key(if on_other_server { unversioned(text).to_owned() } else { key }))
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Reference<'a> {
    #[serde(borrow)]
    pub(super) reference: Option<JsonStr<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<JsonStr<'a>>,
    #[serde(borrow)]
    pub(super) identifier: Option<IdentifierElement<'a>>,
    #[serde(borrow)]
    pub(super) display: Option<JsonStr<'a>>,
}

/// Returns whether a key belongs to a resource of this type.
pub(super) fn is_key_of(key: &str, kind: ResourceKind) -> bool {
    let key = server_of(key).and_then(|server| key.strip_prefix(server)).unwrap_or(key);
    key.strip_prefix(kind.name()).is_some_and(|rest| rest.starts_with('/'))
}

/// Returns the key that an address contains: for `urn:uuid:x` the type `expected` with id x, for
/// `https://a/b/Patient/x/_history/2` the key `Patient/x`.
fn implied_key(address: &str, expected: ResourceKind) -> Option<String> {
    if let Some(id) = address.strip_prefix("urn:uuid:").or_else(|| address.strip_prefix("urn:oid:")) {
        return Some(format!("{}/{id}", expected.name()));
    }
    let (kind, id) = type_and_id(unversioned(address))?;
    Some(format!("{kind}/{id}"))
}

/// Returns the base URL of an absolute address: everything before the type, with the slash.
fn server_of(address: &str) -> Option<&str> {
    let address = unversioned(address);
    let (kind, id) = type_and_id(address)?;
    let server = address.get(..address.len() - kind.len() - id.len() - 1)?;
    server.contains("://").then_some(server)
}

/// Splits type and id from the end of an address.
fn type_and_id(address: &str) -> Option<(&str, &str)> {
    let mut segments = address.rsplit('/');
    let (id, kind) = (segments.next()?, segments.next()?);
    let is_type =
        kind.starts_with(|c: char| c.is_ascii_uppercase()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_type && !id.is_empty()).then_some((kind, id))
}

/// Returns an address without fragment and version.
fn unversioned(address: &str) -> &str {
    let address = address.split_once('#').map_or(address, |(address, _)| address);
    address.split_once("/_history/").map_or(address, |(address, _)| address)
}

/// Returns the identifier of a query such as `identifier=system|value`, which may be percent-encoded.
fn identifier_in_query(query: &str) -> Option<Identifier> {
    let token = query.split('&').find_map(|part| part.strip_prefix("identifier="))?;
    let token = percent_decoded(token)?;
    let (system, value) = token.split_once('|').unwrap_or(("", &token));
    (!value.is_empty()).then(|| Identifier { system: system.into(), value: value.into() })
}

/// Decodes percent-encoding. Returns `None` for malformed sequences and bytes that are not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(aliases: &Aliases, text: &str, expected: ResourceKind) -> Option<SourceRef> {
        let json = serde_json::json!({ "reference": text }).to_string();
        ReferenceContext { full_url: None, aliases }.resolve(&serde_json::from_str(&json).unwrap(), expected)
    }

    #[test]
    fn all_forms_of_a_reference_give_one_key() {
        let none = Aliases::default();
        for text in ["Patient/p1", "urn:uuid:p1", "Patient/p1/_history/3", " Patient/p1 "] {
            assert_eq!(
                resolve(&none, text, ResourceKind::Patient),
                Some(SourceRef::Key("Patient/p1".into())),
                "{text}"
            );
        }
        assert_eq!(resolve(&none, "Group/g", ResourceKind::Patient), Some(SourceRef::Key("Group/g".into())));
        for text in ["", "p1", "#p1", "Patient/", "Patient?name=Ann"] {
            assert_eq!(resolve(&none, text, ResourceKind::Patient), None, "{text}");
        }
    }

    #[test]
    fn an_absolute_reference_leads_to_its_own_server() {
        let mut aliases = Aliases::default();
        aliases.add("https://b.example/fhir/Patient/p2", ResourceKind::Patient, None);
        let from = |full_url, text: &str| {
            let json = serde_json::json!({ "reference": text }).to_string();
            match (ReferenceContext { full_url, aliases: &aliases })
                .subject(Some(&serde_json::from_str(&json).unwrap()))
            {
                Ok(SourceRef::Key(key)) => key,
                other => panic!("{other:?}"),
            }
        };
        let here = Some("https://a.example/fhir/DocumentReference/n");
        assert_eq!(from(here, "https://a.example/fhir/Patient/p1/_history/2"), "Patient/p1");
        assert_eq!(from(here, "https://b.example/fhir/Patient/p1"), "https://b.example/fhir/Patient/p1");
        assert_eq!(from(here, "https://b.example/fhir/Patient/p2"), "Patient/p2");
        assert_eq!(from(None, "https://a.example/fhir/Patient/p1/_history/2"), "https://a.example/fhir/Patient/p1");
        assert_eq!(from(Some("urn:uuid:0f"), "http://a.example/Patient/p1#x"), "http://a.example/Patient/p1");
        assert_eq!(from(here, "Patient/p1"), "Patient/p1");
    }

    #[test]
    fn type_of_returns_the_type_that_an_address_contains() {
        let mut aliases = Aliases::default();
        aliases.add("urn:uuid:0f", ResourceKind::Patient, Some("p1"));
        let type_of = |text: &str| {
            let json = serde_json::json!({ "reference": text }).to_string();
            (ReferenceContext { full_url: None, aliases: &aliases })
                .type_of(&serde_json::from_str(&json).unwrap())
                .map(str::to_owned)
        };
        for text in
            ["RelatedPerson/r", "https://b.example/fhir/RelatedPerson/r/_history/2", "RelatedPerson?identifier=a|b"]
        {
            assert_eq!(type_of(text).as_deref(), Some("RelatedPerson"), "{text}");
        }
        assert_eq!(type_of("urn:uuid:0f").as_deref(), Some("Patient"));
        for text in ["urn:uuid:1f", "urn:oid:1.2", "r", "#r", ""] {
            assert_eq!(type_of(text), None, "{text}");
        }
    }

    #[test]
    fn conditional_references_name_an_identifier() {
        let npi =
            SourceRef::Identifier(Identifier { system: "http://hl7.org/fhir/sid/us-npi".into(), value: "999".into() });
        let none = Aliases::default();
        for text in [
            "Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|999",
            "Practitioner?active=true&identifier=http%3A%2F%2Fhl7.org/fhir/sid/us-npi%7C999",
        ] {
            assert_eq!(resolve(&none, text, ResourceKind::Practitioner), Some(npi.clone()), "{text}");
        }
        assert_eq!(resolve(&none, "Organization?identifier=a|b", ResourceKind::Practitioner), None);
        let logical: Reference =
            serde_json::from_str(r#"{"identifier":{"system":"http://hl7.org/fhir/sid/us-npi","value":"999"}}"#)
                .unwrap();
        assert_eq!(
            ReferenceContext { full_url: None, aliases: &none }.resolve(&logical, ResourceKind::Practitioner),
            Some(npi)
        );
    }

    #[test]
    fn aliases_hold_only_keys_that_the_address_does_not_contain() {
        let mut aliases = Aliases::default();
        aliases.add("urn:uuid:p1", ResourceKind::Patient, Some("p1"));
        aliases.add("Patient/p1", ResourceKind::Patient, Some("p1"));
        aliases.add("http://a/DocumentReference/n", ResourceKind::DocumentReference, Some("n"));
        assert_eq!(aliases, Aliases::default());
        aliases.add("urn:uuid:0f", ResourceKind::Patient, Some("p1"));
        assert_eq!(resolve(&aliases, "urn:uuid:0f", ResourceKind::Patient), Some(SourceRef::Key("Patient/p1".into())));
    }

    #[test]
    fn a_resource_without_id_gets_the_key_of_its_full_url() {
        let aliases = Aliases::default();
        let at = |full_url| ReferenceContext { full_url, aliases: &aliases }.key(ResourceKind::Patient, &None);
        assert_eq!(at(Some("urn:uuid:0f")), Ok("Patient/0f".into()));
        assert_eq!(at(Some("http://a/Patient/p1")), Ok("Patient/p1".into()));
        assert_eq!(at(Some("http://a/Encounter/p1")), Err(FhirError::NoId));
        assert_eq!(at(None), Err(FhirError::NoId));
        let with_space: Option<JsonStr> = serde_json::from_str(r#""a b""#).unwrap();
        assert_eq!(
            ReferenceContext { full_url: None, aliases: &aliases }.key(ResourceKind::Patient, &with_space),
            Err(FhirError::InvalidId)
        );
    }

    #[test]
    fn malformed_percent_encoding_is_refused() {
        assert_eq!(percent_decoded("a%7Cb"), Some("a|b".into()));
        assert_eq!(percent_decoded("100%"), None);
        assert_eq!(percent_decoded("%zz"), None);
    }
}
