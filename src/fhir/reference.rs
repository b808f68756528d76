//! References: which resource is meant, by the key it has in the source (`Patient/abc`) or by an identifier.
//! `urn:uuid:…`, relative and versioned references to the same resource give the same key; so do absolute ones, where the input shows that
//! they lead to that resource and not to one with the same id on another server.

use super::element::{Identifier, Text, Token, said};
use super::{Defect, ResourceKind};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The resource meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum SourceRef {
    /// By type and id in the source: `Patient/abc`. By its whole address, if that lies elsewhere.
    Key(String),
    /// By an identifier: `Practitioner?identifier=system|value`, or a logical reference.
    Identifier(Identifier),
}

/// The `fullUrl`s of a Bundle that do not themselves tell the key of their resource.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aliases(HashMap<Box<str>, Box<str>>);

impl Aliases {
    /// Notes that `full_url` stands for the resource with this id, or for the one whose id only the `fullUrl` tells.
    pub fn add(&mut self, full_url: &str, kind: ResourceKind, id: Option<&str>) {
        let implied = implied(full_url, kind).filter(|key| is_of(key, kind));
        let Some(key) = id.map(|id| format!("{}/{id}", kind.name())).or_else(|| implied.clone()) else { return };
        // Nothing that is read refers to a note.
        let referred_to = !matches!(kind, ResourceKind::DocumentReference | ResourceKind::DiagnosticReport);
        if implied.as_ref() != Some(&key) || (referred_to && base(full_url).is_some()) {
            self.0.insert(unversioned(full_url).into(), key.into());
        }
    }
}

/// Where a resource stands: what its own id and its references are relative to.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The `fullUrl` of its entry.
    pub full_url: Option<&'a str>,
    /// The aliases of its Bundle.
    pub aliases: &'a Aliases,
}

impl Place<'_> {
    /// The key of the resource that stands here. One without an id has that of its `fullUrl`, so that the two collapse.
    pub(super) fn key(&self, kind: ResourceKind, id: &Option<Text<'_>>) -> Result<String, Defect> {
        let key = match (id, self.full_url) {
            (Some(id), _) => format!("{}/{}", kind.name(), id.as_str()),
            (None, Some(full_url)) => implied(full_url, kind).filter(|key| is_of(key, kind)).ok_or(Defect::NoId)?,
            (None, None) => return Err(Defect::NoId),
        };
        let id = key.split_once('/').map(|(_, id)| id).unwrap_or_default();
        let sound = (1..=200).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if sound { Ok(key) } else { Err(Defect::InvalidId) }
    }

    /// Whom or what `reference` means, where a resource of type `expected` should stand.
    pub(super) fn resolve(&self, reference: &Reference<'_>, expected: ResourceKind) -> Option<SourceRef> {
        let by_text = said(&reference.reference).and_then(|text| self.resolve_text(text.trim(), expected));
        by_text.or_else(|| reference.identifier.as_ref()?.identifier().map(SourceRef::Identifier))
    }

    /// The type of what `reference` leads to, where its address tells, or the Bundle around it. A `urn:` by itself tells nothing.
    pub(super) fn type_of<'r>(&'r self, reference: &'r Reference<'_>) -> Option<&'r str> {
        let text = said(&reference.reference)?.trim();
        if let Some((address, _)) = text.split_once('?') {
            return address.rsplit('/').next();
        }
        let address = unversioned(text);
        typed(self.aliases.0.get(address).map_or(address, AsRef::as_ref)).map(|(kind, _)| kind)
    }

    /// The patient a resource is about.
    pub(super) fn subject(&self, reference: Option<&Reference<'_>>) -> Result<SourceRef, Defect> {
        match reference.and_then(|reference| self.resolve(reference, ResourceKind::Patient)) {
            None => Err(Defect::NoSubject),
            Some(SourceRef::Key(key)) if !is_of(&key, ResourceKind::Patient) => Err(Defect::SubjectNotPatient),
            Some(subject) => Ok(subject),
        }
    }

    fn resolve_text(&self, text: &str, expected: ResourceKind) -> Option<SourceRef> {
        if text.starts_with('#') {
            return None;
        }
        if let Some((address, query)) = text.split_once('?') {
            let same_type = address.rsplit('/').next() == Some(expected.name());
            return same_type.then(|| by_query(query)).flatten().map(SourceRef::Identifier);
        }
        if let Some(key) = self.aliases.0.get(unversioned(text)) {
            return Some(SourceRef::Key(key.to_string()));
        }
        let key = implied(text, expected)?;
        // Another server's Patient/1 is another patient.
        let elsewhere = base(text).is_some_and(|server| self.full_url.and_then(base) != Some(server));
        Some(SourceRef::Key(if elsewhere { unversioned(text).to_owned() } else { key }))
    }
}

/// A reference as it stands in a resource.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reference<'a> {
    #[serde(borrow)]
    pub(super) reference: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) identifier: Option<Token<'a>>,
    #[serde(borrow)]
    pub(super) display: Option<Text<'a>>,
}

/// Whether a key is that of a resource of this type.
pub(super) fn is_of(key: &str, kind: ResourceKind) -> bool {
    let key = base(key).and_then(|server| key.strip_prefix(server)).unwrap_or(key);
    key.strip_prefix(kind.name()).is_some_and(|rest| rest.starts_with('/'))
}

/// The key that an address tells by itself: `urn:uuid:x` is the `expected` with id x, `https://a/b/Patient/x/_history/2` is `Patient/x`.
fn implied(address: &str, expected: ResourceKind) -> Option<String> {
    if let Some(id) = address.strip_prefix("urn:uuid:").or_else(|| address.strip_prefix("urn:oid:")) {
        return Some(format!("{}/{id}", expected.name()));
    }
    let (kind, id) = typed(unversioned(address))?;
    Some(format!("{kind}/{id}"))
}

/// The server an absolute address lies on, up to the slash before the type.
fn base(address: &str) -> Option<&str> {
    let address = unversioned(address);
    let (kind, id) = typed(address)?;
    let server = address.get(..address.len() - kind.len() - id.len() - 1)?;
    server.contains("://").then_some(server)
}

/// Type and id at the end of an address.
fn typed(address: &str) -> Option<(&str, &str)> {
    let mut segments = address.rsplit('/');
    let (id, kind) = (segments.next()?, segments.next()?);
    let typed =
        kind.starts_with(|c: char| c.is_ascii_uppercase()) && kind.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (typed && !id.is_empty()).then_some((kind, id))
}

/// An address without what names a version or a part.
fn unversioned(address: &str) -> &str {
    let address = address.split_once('#').map_or(address, |(address, _)| address);
    address.split_once("/_history/").map_or(address, |(address, _)| address)
}

/// `identifier=system|value`, percent-encoded or not.
fn by_query(query: &str) -> Option<Identifier> {
    let token = query.split('&').find_map(|part| part.strip_prefix("identifier="))?;
    let token = percent_decoded(token)?;
    let (system, value) = token.split_once('|').unwrap_or(("", &token));
    (!value.is_empty()).then(|| Identifier { system: system.into(), value: value.into() })
}

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
        Place { full_url: None, aliases }.resolve(&serde_json::from_str(&json).unwrap(), expected)
    }

    #[test]
    fn every_spelling_gives_one_key() {
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
            match (Place { full_url, aliases: &aliases }).subject(Some(&serde_json::from_str(&json).unwrap())) {
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
    fn an_address_tells_its_type_or_nothing() {
        let mut aliases = Aliases::default();
        aliases.add("urn:uuid:0f", ResourceKind::Patient, Some("p1"));
        let told = |text: &str| {
            let json = serde_json::json!({ "reference": text }).to_string();
            (Place { full_url: None, aliases: &aliases })
                .type_of(&serde_json::from_str(&json).unwrap())
                .map(str::to_owned)
        };
        for text in
            ["RelatedPerson/r", "https://b.example/fhir/RelatedPerson/r/_history/2", "RelatedPerson?identifier=a|b"]
        {
            assert_eq!(told(text).as_deref(), Some("RelatedPerson"), "{text}");
        }
        assert_eq!(told("urn:uuid:0f").as_deref(), Some("Patient"));
        for text in ["urn:uuid:1f", "urn:oid:1.2", "r", "#r", ""] {
            assert_eq!(told(text), None, "{text}");
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
        assert_eq!(Place { full_url: None, aliases: &none }.resolve(&logical, ResourceKind::Practitioner), Some(npi));
    }

    #[test]
    fn aliases_hold_only_what_the_address_does_not_tell() {
        let mut aliases = Aliases::default();
        aliases.add("urn:uuid:p1", ResourceKind::Patient, Some("p1"));
        aliases.add("Patient/p1", ResourceKind::Patient, Some("p1"));
        aliases.add("http://a/DocumentReference/n", ResourceKind::DocumentReference, Some("n"));
        assert_eq!(aliases, Aliases::default());
        aliases.add("urn:uuid:0f", ResourceKind::Patient, Some("p1"));
        assert_eq!(resolve(&aliases, "urn:uuid:0f", ResourceKind::Patient), Some(SourceRef::Key("Patient/p1".into())));
    }

    #[test]
    fn a_resource_without_id_has_that_of_its_full_url() {
        let aliases = Aliases::default();
        let at = |full_url| Place { full_url, aliases: &aliases }.key(ResourceKind::Patient, &None);
        assert_eq!(at(Some("urn:uuid:0f")), Ok("Patient/0f".into()));
        assert_eq!(at(Some("http://a/Patient/p1")), Ok("Patient/p1".into()));
        assert_eq!(at(Some("http://a/Encounter/p1")), Err(Defect::NoId));
        assert_eq!(at(None), Err(Defect::NoId));
        let odd: Option<Text> = serde_json::from_str(r#""a b""#).unwrap();
        assert_eq!(
            Place { full_url: None, aliases: &aliases }.key(ResourceKind::Patient, &odd),
            Err(Defect::InvalidId)
        );
    }

    #[test]
    fn percent_signs_that_encode_nothing_are_refused() {
        assert_eq!(percent_decoded("a%7Cb"), Some("a|b".into()));
        assert_eq!(percent_decoded("100%"), None);
        assert_eq!(percent_decoded("%zz"), None);
    }
}
