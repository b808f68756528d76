//! Authors of notes: which of the people and things that a resource names is taken as the author, and whether it is
//! staff.

use super::element::{IdentifierElement, JsonStr, non_blank};
use super::practitioner::Practitioner;
use super::reference::{Reference, is_key_of};
use super::{FhirError, ReferenceContext, ResourceKind, SourceRef, type_name};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The author of a note, as far as the source names one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Author {
    /// The reference to the author.
    pub reference: Option<SourceRef>,
    /// The name beside the reference. If the practitioner is not in the input, nothing else is known.
    pub display: Option<String>,
    /// Whether the author is known to be staff. It follows from the other elements, so it is not part of the
    /// fingerprint.
    #[serde(skip)]
    pub staff_status: StaffStatus,
}

/// Whether an author is staff. Names of staff are not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaffStatus {
    /// The source says that the author is staff.
    Confirmed,
    /// The source does not say it. Patients and relatives write documents, too, so the author is staff only if the
    /// reference leads to a known practitioner.
    Unconfirmed,
}

/// Selects the author from the list of those who are responsible for a note: the first practitioner, or else the first
/// who may be one, or else the first whose name is known. Patients and relatives also write documents. They are not
/// staff, whose names are not sealed, so they are kept in the source elements only.
pub(super) fn select_author(
    element: Option<&RawValue>,
    contained: &[&RawValue],
    context: &ReferenceContext<'_>,
) -> Result<Option<Author>, FhirError> {
    let Some(element) = element else { return Ok(None) };
    let references: Vec<Reference> = serde_json::from_str(element.get())?;
    let mut authors = Vec::new();
    for reference in &references {
        authors.extend(read_author(reference, contained, context)?);
    }
    let is_practitioner = |author: &Author| match &author.reference {
        Some(SourceRef::Key(key)) => {
            author.staff_status == StaffStatus::Confirmed && is_key_of(key, ResourceKind::Practitioner)
        }
        Some(SourceRef::Identifier(_)) => author.staff_status == StaffStatus::Confirmed,
        None => false,
    };
    let first = |predicate: &dyn Fn(&Author) -> bool| authors.iter().position(predicate);
    let selected = first(&is_practitioner)
        .or_else(|| first(&|author| author.staff_status == StaffStatus::Unconfirmed))
        .or_else(|| first(&|author| author.display.is_some()))
        .unwrap_or(0);
    Ok(authors.into_iter().nth(selected))
}

/// Reads an author who is or may be staff. Returns `None` for an author of any other type, and for a name without a
/// type or a reference.
fn read_author(
    reference: &Reference<'_>,
    contained: &[&RawValue],
    context: &ReferenceContext<'_>,
) -> Result<Option<Author>, FhirError> {
    let mut resolved = context.resolve(reference, ResourceKind::Practitioner);
    let mut display = non_blank(&reference.display).map(str::to_owned);
    let mut kind = context.type_of(reference).map(str::to_owned);
    if let Some(local_id) = non_blank(&reference.reference).and_then(|text| text.strip_prefix('#')) {
        for resource in contained {
            let practitioner: Practitioner = serde_json::from_str(resource.get())
                .or_else(|error| if error.is_data() { Ok(Practitioner::default()) } else { Err(error) })?;
            if practitioner.id.as_ref().map(JsonStr::as_str) == Some(local_id) {
                let identifiers = practitioner.identifier.iter().map(IdentifierElement::deserialize).collect::<Result<
                    Vec<_>,
                    _,
                >>(
                )?;
                resolved = identifiers.iter().find_map(IdentifierElement::to_identifier).map(SourceRef::Identifier);
                display = display.or_else(|| practitioner.display_name());
                kind = type_name(resource.get()).map(Cow::into_owned);
            }
        }
    }
    let types = [non_blank(&reference.kind), kind.as_deref()];
    let staff_status = match types.iter().flatten().map(|name| is_staff_type(name)).reduce(|one, other| one && other) {
        Some(true) => StaffStatus::Confirmed,
        None if resolved.is_some() => StaffStatus::Unconfirmed,
        Some(false) | None => return Ok(None),
    };
    Ok((resolved.is_some() || display.is_some()).then_some(Author { reference: resolved, display, staff_status }))
}

/// Returns whether authors of this type are staff or stand for staff. A care team is not: it belongs to one patient and
/// may carry that patient's name.
fn is_staff_type(type_name: &str) -> bool {
    let name = type_name.rsplit('/').next().unwrap_or_default();
    matches!(name, "Practitioner" | "PractitionerRole" | "Organization" | "Device")
}

#[cfg(test)]
mod tests {
    use super::super::element::Identifier;
    use super::*;
    use crate::fhir::{Aliases, ImportedNote};
    use serde_json::{Value, json};

    fn author(author: Value, contained: Value) -> Option<Author> {
        let resource = json!({ "resourceType": "DocumentReference", "id": "n", "subject": { "reference": "Patient/p" },
            "author": author, "contained": contained,
            "content": [{ "attachment": { "contentType": "text/plain", "data": "dGV4dA==" } }] });
        let context = ReferenceContext { full_url: None, aliases: &Aliases::default() };
        ImportedNote::read(&resource.to_string(), &context).unwrap().author
    }

    #[test]
    fn a_practitioner_is_preferred_and_may_be_contained() {
        assert_eq!(author(json!([]), json!([])), None);
        let selected = author(
            json!([{ "reference": "Organization/o", "display": "Ward" }, { "reference": "Practitioner/d" }]),
            json!([]),
        )
        .unwrap();
        assert_eq!(selected.reference, Some(SourceRef::Key("Practitioner/d".into())));
        let contained = json!([{ "resourceType": "Organization", "id": "o", "name": "Ward" },
            { "resourceType": "Practitioner", "id": "d", "name": [{ "text": "Dr. Lee" }],
                "identifier": [{ "system": "npi", "value": "9" }] }]);
        let selected = author(json!([{ "reference": "#d" }]), contained).unwrap();
        assert_eq!(selected.display.as_deref(), Some("Dr. Lee"));
        assert_eq!(
            selected.reference,
            Some(SourceRef::Identifier(Identifier { system: "npi".into(), value: "9".into() }))
        );
        assert_eq!(selected.staff_status, StaffStatus::Confirmed);
        let clerk = json!([{ "type": "http://hl7.org/fhir/StructureDefinition/Practitioner", "display": "A clerk" }]);
        assert_eq!(author(clerk, json!([])).unwrap().reference, None);
    }

    #[test]
    fn an_author_without_a_staff_type_is_not_taken_for_staff() {
        let author = |given: Value| author(given, json!([{ "resourceType": "Person", "id": "p" }]));
        let logical = json!({ "system": "urn:ssn", "value": "1" });
        for relative in [
            json!({ "display": "Mary Lee" }),
            json!({ "reference": "#p", "display": "Mary Lee" }),
            json!({ "reference": "#none", "display": "Mary Lee" }),
            json!({ "reference": "CareTeam/c", "display": "Care of Ann Lee" }),
            json!({ "reference": "https://b.example/fhir/RelatedPerson/r", "display": "Mary Lee" }),
            json!({ "reference": "Practitioner/r", "type": "RelatedPerson", "display": "Mary Lee" }),
            json!({ "reference": "RelatedPerson/r", "type": "Practitioner", "display": "Mary Lee" }),
            json!({ "identifier": logical, "type": "RelatedPerson", "display": "Mary Lee" }),
        ] {
            assert_eq!(author(json!([relative])), None);
        }
        for untyped in [
            json!({ "reference": "urn:uuid:0f", "display": "Mary Lee" }),
            json!({ "identifier": logical, "display": "Mary Lee" }),
        ] {
            assert_eq!(author(json!([untyped])).unwrap().staff_status, StaffStatus::Unconfirmed);
            let both = author(json!([untyped, { "reference": "Practitioner/d" }])).unwrap();
            assert_eq!(
                (both.staff_status, both.reference),
                (StaffStatus::Confirmed, Some(SourceRef::Key("Practitioner/d".into())))
            );
        }
    }
}
