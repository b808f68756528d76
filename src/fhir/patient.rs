//! Reads a `Patient`: demographics, identifiers and contact data.
//! Selects the name that is shown, and decides which identifiers no two charts of an organisation may share.

use super::date::{DateBound, parse_date, parse_instant};
use super::element::{Identifier, IdentifierElement, JsonStr, Meta, SourceElements, code_like, non_blank};
use super::name::{HumanName, select_name};
use super::{FhirError, ImportedResource, ReferenceContext, ResourceKind, read};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A patient as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedPatient {
    /// `Patient/<id>` in the source.
    pub key: String,
    /// The identifiers, in the order of the source.
    pub identifiers: Vec<PatientIdentifier>,
    /// The preferred name; the other names are in `contact`.
    pub name: Option<HumanName>,
    /// `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub birth_date: Option<String>,
    /// The administrative sex.
    pub sex: Sex,
    /// The time of death, if the source gives one.
    pub deceased_at: Option<DateTime<Utc>>,
    /// A JSON object of `telecom`, `address`, `communication`, `names` (the other names) and `deceased`, as the source
    /// gives them; `None` if all of them are absent.
    pub contact: Option<Value>,
    /// Elements of the source that have no column of their own.
    pub source: SourceElements,
}

/// An identifier of a patient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatientIdentifier {
    /// System and value.
    pub identifier: Identifier,
    /// The type, a code of HL7 table 0203 such as `MR`, `SS` or `DL`.
    pub kind: Option<String>,
    /// Whether only one chart may have the identifier, because the organisation assigns it. Identifiers that others
    /// assign, such as that of a licence or a passport, may occur in several charts.
    pub exclusive: bool,
}

/// The administrative sex. Each variant names the FHIR code that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Sex {
    /// `female`
    Female,
    /// `male`
    Male,
    /// `other`
    Other,
    /// `unknown`, no code, or a code that FHIR does not have.
    Unknown,
}

impl Sex {
    /// Returns the name that the database and the API use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Female => "FEMALE",
            Self::Male => "MALE",
            Self::Other => "OTHER",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn from_gender(gender: Option<&str>) -> Self {
        match gender {
            Some("female") => Self::Female,
            Some("male") => Self::Male,
            Some("other") => Self::Other,
            _ => Self::Unknown,
        }
    }
}

impl ImportedResource for ImportedPatient {
    const KIND: ResourceKind = ResourceKind::Patient;

    fn key(&self) -> &str {
        &self.key
    }
}

impl ImportedPatient {
    /// Reads a `Patient`.
    pub fn read(text: &str, context: &ReferenceContext<'_>) -> Result<Self, FhirError> {
        let patient: Patient = read(text)?;
        let key = context.key(ResourceKind::Patient, &patient.id)?;
        let deceased_at =
            non_blank(&patient.deceased_date_time).map(|text| parse_instant(text, DateBound::First)).transpose()?;
        let identifiers = patient.identifier.iter().map(patient_identifier).collect::<Result<Vec<_>, _>>()?;
        let (name, other_names) = select_name(&patient.name)?;
        let mut contact = Map::new();
        let parts = [
            ("telecom", patient.telecom),
            ("address", patient.address),
            ("communication", patient.communication),
            ("names", other_names),
        ];
        contact.extend(
            parts
                .into_iter()
                .filter(|(_, list)| !list.is_empty())
                .map(|(part, list)| (part.to_owned(), Value::Array(list))),
        );
        if patient.deceased_boolean == Some(true) {
            contact.insert("deceased".into(), true.into());
        }
        let gender = patient.gender.as_ref().map(JsonStr::as_str);
        let source = SourceElements::new(patient.id.as_ref().map(JsonStr::as_str), patient.meta)
            .keep("identifier", Value::Array(patient.identifier))
            .keep("gender", gender.filter(|_| Sex::from_gender(gender) == Sex::Unknown).map(Value::from))
            .keep(
                "deceasedDateTime",
                non_blank(&patient.deceased_date_time).filter(|text| text.len() <= 10).map(Value::from),
            );
        Ok(Self {
            key,
            identifiers: identifiers.into_iter().flatten().collect(),
            name,
            birth_date: non_blank(&patient.birth_date).map(parse_date).transpose()?,
            sex: Sex::from_gender(gender),
            deceased_at,
            contact: (!contact.is_empty()).then_some(Value::Object(contact)),
            source,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Patient<'a> {
    #[serde(borrow)]
    id: Option<JsonStr<'a>>,
    meta: Option<Meta>,
    #[serde(default)]
    identifier: Vec<Value>,
    #[serde(default)]
    name: Vec<Value>,
    #[serde(default)]
    telecom: Vec<Value>,
    #[serde(borrow)]
    gender: Option<JsonStr<'a>>,
    #[serde(borrow)]
    birth_date: Option<JsonStr<'a>>,
    deceased_boolean: Option<bool>,
    #[serde(borrow)]
    deceased_date_time: Option<JsonStr<'a>>,
    #[serde(default)]
    address: Vec<Value>,
    #[serde(default)]
    communication: Vec<Value>,
}

fn patient_identifier(element: &Value) -> Result<Option<PatientIdentifier>, FhirError> {
    let element = IdentifierElement::deserialize(element)?;
    let Some(identifier) = element.to_identifier() else { return Ok(None) };
    let kind = element.kind.as_ref().and_then(|kind| {
        let codings = kind
            .coding
            .iter()
            .filter(|coding| non_blank(&coding.system).is_none_or(|system| system.ends_with("v2-0203")));
        codings.filter_map(|coding| code_like(non_blank(&coding.code))).next()
    });
    let is_current = non_blank(&element.use_code) != Some("old");
    let exclusive = is_current && is_exclusive(&identifier.system, kind.as_deref());
    Ok(Some(PatientIdentifier { identifier, kind, exclusive }))
}

/// Returns whether an organisation assigns the identifier, according to its type. Without a type, an identifier of any
/// system counts, except the systems of national identifiers.
fn is_exclusive(system: &str, kind: Option<&str>) -> bool {
    match kind {
        Some(kind) => matches!(kind, "MR" | "MRT" | "PI" | "PT" | "AN" | "VN" | "U"),
        None => {
            !system.is_empty()
                && !system.starts_with("http://hl7.org/fhir/sid/")
                && !system.starts_with("urn:oid:2.16.840.1.113883.4.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Aliases;
    use serde_json::json;

    fn read(resource: Value) -> Result<ImportedPatient, FhirError> {
        ImportedPatient::read(&resource.to_string(), &ReferenceContext { full_url: None, aliases: &Aliases::default() })
    }

    fn typed(code: &str, system: &str, value: &str) -> Value {
        json!({ "type": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code }] },
            "system": system, "value": value })
    }

    #[test]
    fn only_identifiers_that_the_organisation_assigns_are_exclusive() {
        let identifiers = [
            typed("MR", "urn:mrn", "1"),
            typed("DL", "urn:oid:2.16.840.1.113883.4.3.25", "S99912132"),
            typed("SS", "http://hl7.org/fhir/sid/us-ssn", "999"),
            json!({ "system": "https://example.org/charts", "value": "7" }),
            json!({ "system": "http://hl7.org/fhir/sid/us-ssn", "value": "999" }),
            json!({ "value": "bare" }),
            json!({ "use": "old", "system": "https://example.org/charts", "value": "6" }),
            json!({ "system": "without a value" }),
        ];
        let patient = read(json!({ "resourceType": "Patient", "id": "p", "identifier": identifiers })).unwrap();
        let found: Vec<_> = patient.identifiers.iter().map(|one| (one.kind.as_deref(), one.exclusive)).collect();
        let expected = [
            (Some("MR"), true),
            (Some("DL"), false),
            (Some("SS"), false),
            (None, true),
            (None, false),
            (None, false),
            (None, false),
        ];
        assert_eq!(found, expected);
        assert_eq!(patient.source.into_json()["identifier"].as_array().map(Vec::len), Some(8));
    }

    #[test]
    fn death_is_read_from_a_time_or_a_flag() {
        let at = read(json!({ "resourceType": "Patient", "id": "p", "deceasedDateTime": "2014-08-30T10:00:00-04:00" }))
            .unwrap();
        assert_eq!(at.deceased_at.unwrap().to_rfc3339(), "2014-08-30T14:00:00+00:00");
        let fact = read(json!({ "resourceType": "Patient", "id": "p", "deceasedBoolean": true })).unwrap();
        assert_eq!((fact.deceased_at, fact.contact), (None, Some(json!({ "deceased": true }))));
        let alive = read(json!({ "resourceType": "Patient", "id": "p", "deceasedBoolean": false })).unwrap();
        assert_eq!((alive.deceased_at, alive.contact), (None, None));
    }

    #[test]
    fn hostile_text_is_stored_as_data_or_refused() {
        let name = r#"Robert'); DROP TABLE patients;-- \ " "#.trim();
        let patient =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "text": name }], "gender": "x'; --" }))
                .unwrap();
        assert_eq!((patient.name.unwrap().text.as_str(), patient.sex), (name, Sex::Unknown));
        assert_eq!(
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "text": "a\u{0}b" }] })),
            Err(FhirError::NulCharacter)
        );
        assert_eq!(
            read(json!({ "resourceType": "Patient", "id": "p", "birthDate": "1980-02-30" })),
            Err(FhirError::InvalidDate)
        );
        assert_eq!(
            read(json!({ "resourceType": "Patient", "id": "p", "name": "Ann" })),
            Err(FhirError::InvalidResource)
        );
        assert_eq!(read(json!({ "resourceType": "Patient" })), Err(FhirError::NoId));
    }

    #[test]
    fn a_new_export_of_the_same_content_has_the_same_fingerprint() {
        let fingerprint = |version: &str, family: &str| {
            let meta = json!({ "versionId": version, "lastUpdated": "2024-01-01T00:00:00Z" });
            read(json!({ "resourceType": "Patient", "id": "p", "meta": meta, "name": [{ "family": family }] }))
                .unwrap()
                .fingerprint()
                .unwrap()
        };
        assert_eq!(fingerprint("1", "Lee"), fingerprint("2", "Lee"));
        assert_ne!(fingerprint("1", "Lee"), fingerprint("1", "Li"));
    }
}
