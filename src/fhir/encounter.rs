//! Reads an `Encounter`: when, how and why a patient was seen.

use super::element::{
    CodeableConcept, Coding, Identifier, IdentifierElement, JsonStr, Meta, Period, SourceElements, code_like, non_blank,
};
use super::reference::Reference;
use super::{FhirError, ImportedResource, ReferenceContext, ResourceKind, SourceRef, read};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An encounter as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedEncounter {
    /// `Encounter/<id>` in the source.
    pub key: String,
    /// The first identifier that has a system.
    pub identifier: Option<Identifier>,
    /// The patient who was seen.
    pub patient: SourceRef,
    /// The status that Cordon derives from the source's.
    pub status: EncounterStatus,
    /// The code of HL7's ActCode, such as `AMB`, `IMP` or `EMER`.
    pub class: Option<String>,
    /// The reason in words, or else the type of the encounter.
    pub reason: Option<String>,
    /// The start of the period.
    pub started_at: Option<DateTime<Utc>>,
    /// The end of the period; `None` if it is open or not known.
    pub ended_at: Option<DateTime<Utc>>,
    /// Elements of the source that have no column of their own.
    pub source: SourceElements,
}

/// The status of an encounter. Each variant names the FHIR codes that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EncounterStatus {
    /// `planned`
    Planned,
    /// `arrived`, `triaged`, `in-progress`, `onleave`
    InProgress,
    /// `finished`
    Finished,
    /// `cancelled`
    Cancelled,
    /// `entered-in-error`
    EnteredInError,
    /// Any other code, or none.
    Unknown,
}

impl EncounterStatus {
    /// Returns the name that the database and the API use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "PLANNED",
            Self::InProgress => "IN_PROGRESS",
            Self::Finished => "FINISHED",
            Self::Cancelled => "CANCELLED",
            Self::EnteredInError => "ENTERED_IN_ERROR",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn from_code(status: Option<&str>) -> Self {
        match status {
            Some("planned") => Self::Planned,
            Some("arrived" | "triaged" | "in-progress" | "onleave") => Self::InProgress,
            Some("finished") => Self::Finished,
            Some("cancelled") => Self::Cancelled,
            Some("entered-in-error") => Self::EnteredInError,
            _ => Self::Unknown,
        }
    }
}

impl ImportedResource for ImportedEncounter {
    const KIND: ResourceKind = ResourceKind::Encounter;

    fn key(&self) -> &str {
        &self.key
    }
}

impl ImportedEncounter {
    /// Reads an `Encounter`.
    pub fn read(text: &str, context: &ReferenceContext<'_>) -> Result<Self, FhirError> {
        let encounter: Encounter = read(text)?;
        let key = context.key(ResourceKind::Encounter, &encounter.id)?;
        let patient = context.subject(encounter.subject.as_ref())?;
        let types = encounter.kind.iter().map(CodeableConcept::deserialize).collect::<Result<Vec<_>, _>>()?;
        let reasons = encounter.reason_code.iter().map(CodeableConcept::deserialize).collect::<Result<Vec<_>, _>>()?;
        let reason = reasons.iter().chain(&types).find_map(CodeableConcept::display_text).map(str::to_owned);
        let status = encounter.status.as_ref().map(JsonStr::as_str);
        drop((types, reasons));
        let identifiers =
            encounter.identifier.iter().map(IdentifierElement::deserialize).collect::<Result<Vec<_>, _>>()?;
        let identifier = identifiers
            .iter()
            .filter_map(IdentifierElement::to_identifier)
            .find(|identifier| !identifier.system.is_empty());
        drop(identifiers);
        let source = SourceElements::new(encounter.id.as_ref().map(JsonStr::as_str), encounter.meta)
            .keep("identifier", Value::Array(encounter.identifier))
            .keep("status", status.map(Value::from))
            .keep("type", Value::Array(encounter.kind))
            .keep("reasonCode", Value::Array(encounter.reason_code))
            .keep("partOf", encounter.part_of)
            .keep("serviceProvider", encounter.service_provider)
            .keep("period", encounter.period.as_ref().map(Period::to_json));
        Ok(Self {
            key,
            identifier,
            patient,
            status: EncounterStatus::from_code(status),
            class: encounter.class.as_ref().and_then(|class| code_like(non_blank(&class.code))),
            reason,
            started_at: encounter.period.as_ref().map_or(Ok(None), Period::start)?,
            ended_at: encounter.period.as_ref().map_or(Ok(None), Period::end)?,
            source,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encounter<'a> {
    #[serde(borrow)]
    id: Option<JsonStr<'a>>,
    meta: Option<Meta>,
    #[serde(default)]
    identifier: Vec<Value>,
    #[serde(borrow)]
    status: Option<JsonStr<'a>>,
    #[serde(borrow)]
    class: Option<Coding<'a>>,
    #[serde(rename = "type", default)]
    kind: Vec<Value>,
    #[serde(borrow)]
    subject: Option<Reference<'a>>,
    #[serde(borrow)]
    period: Option<Period<'a>>,
    #[serde(default)]
    reason_code: Vec<Value>,
    part_of: Option<Value>,
    service_provider: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::Aliases;
    use serde_json::json;

    fn read(resource: Value) -> Result<ImportedEncounter, FhirError> {
        ImportedEncounter::read(
            &resource.to_string(),
            &ReferenceContext { full_url: None, aliases: &Aliases::default() },
        )
    }

    #[test]
    fn all_elements_of_a_finished_encounter_are_read() {
        let encounter = read(json!({ "resourceType": "Encounter", "id": "e", "status": "finished",
            "class": { "code": "AMB" },
            "type": [{ "coding": [{ "code": "410620009", "display": "Well child encounter" }] }],
            "reasonCode": [{ "coding": [{ "display": "Fever" }] }], "subject": { "reference": "urn:uuid:p",
                "display": "Ann" },
            "period": { "start": "2015-02-07T13:28:17+02:00", "end": "2015-02-07" } }))
        .unwrap();
        assert_eq!(
            (encounter.status, encounter.class.as_deref(), encounter.reason.as_deref()),
            (EncounterStatus::Finished, Some("AMB"), Some("Fever"))
        );
        assert_eq!(encounter.patient, SourceRef::Key("Patient/p".into()));
        assert_eq!(encounter.started_at.unwrap().to_rfc3339(), "2015-02-07T11:28:17+00:00");
        assert!(encounter.ended_at > encounter.started_at);
    }

    #[test]
    fn every_status_code_is_mapped() {
        let status = |status: &str| {
            let encounter = read(json!({ "resourceType": "Encounter", "id": "e", "status": status,
                    "subject": { "reference": "Patient/p" } }));
            encounter.unwrap().status.name()
        };
        for given in ["arrived", "triaged", "in-progress", "onleave"] {
            assert_eq!(status(given), "IN_PROGRESS");
        }
        assert_eq!(
            ["planned", "cancelled", "entered-in-error", "unknown", "odd"].map(status),
            ["PLANNED", "CANCELLED", "ENTERED_IN_ERROR", "UNKNOWN", "UNKNOWN"]
        );
    }

    #[test]
    fn period_and_reason_are_optional_and_the_patient_is_required() {
        let encounter = read(json!({ "resourceType": "Encounter", "id": "e", "status": "in-progress",
            "subject": { "reference": "Patient/p" },
            "type": [{ "text": "Office Visit" }], "partOf": { "reference": "Encounter/d" },
                "period": { "start": "2024-01-28" } }))
        .unwrap();
        assert_eq!(
            (encounter.reason.as_deref(), encounter.ended_at, encounter.class),
            (Some("Office Visit"), None, None)
        );
        assert_eq!(encounter.source.into_json()["partOf"]["reference"], "Encounter/d");
        assert_eq!(
            read(json!({ "resourceType": "Encounter", "id": "e", "status": "planned" })),
            Err(FhirError::NoSubject)
        );
        let group = json!({ "resourceType": "Encounter", "id": "e", "subject": { "reference": "Group/g" } });
        assert_eq!(read(group), Err(FhirError::SubjectNotPatient));
        let undated = json!({ "resourceType": "Encounter", "id": "e", "subject": { "reference": "Patient/p" },
            "period": { "start": "soon" } });
        assert_eq!(read(undated), Err(FhirError::InvalidDate));
    }
}
