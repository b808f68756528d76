//! Encounters: when a patient was seen, how and why.

use super::element::{Coding, Concept, Identifier, Meta, Period, Provenance, Text, Token, code_like, said};
use super::reference::Reference;
use super::{Defect, Place, ResourceKind, SourceRef, fingerprint, read};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An encounter as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedEncounter {
    /// `Encounter/<id>` in the source.
    pub key: String,
    /// The first of its numbers that says whose number it is.
    pub identifier: Option<Identifier>,
    /// Whose.
    pub patient: SourceRef,
    /// How far it got.
    pub status: EncounterStatus,
    /// `AMB`, `IMP`, `EMER` …
    pub class: Option<String>,
    /// Why, in words; else what kind of visit it was.
    pub reason: Option<String>,
    /// Its beginning.
    pub started_at: Option<DateTime<Utc>>,
    /// Its end.
    pub ended_at: Option<DateTime<Utc>>,
    /// Where it comes from.
    pub source: Provenance,
}

/// How far an encounter got.
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
    /// Anything else.
    Unknown,
}

impl EncounterStatus {
    /// The name it is stored and shown by.
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

    fn of(status: Option<&str>) -> Self {
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

impl ImportedEncounter {
    /// Reads an `Encounter`.
    pub fn read(text: &str, place: &Place<'_>) -> Result<Self, Defect> {
        let wire: Encounter = read(text)?;
        let key = place.key(ResourceKind::Encounter, &wire.id)?;
        let patient = place.subject(wire.subject.as_ref())?;
        let kinds = wire.kind.iter().map(Concept::deserialize).collect::<Result<Vec<_>, _>>()?;
        let reasons = wire.reason_code.iter().map(Concept::deserialize).collect::<Result<Vec<_>, _>>()?;
        let reason = reasons.iter().chain(&kinds).find_map(Concept::wording).map(str::to_owned);
        let status = wire.status.as_ref().map(Text::as_str);
        drop((kinds, reasons));
        let numbers = wire.identifier.iter().map(Token::deserialize).collect::<Result<Vec<_>, _>>()?;
        let identifier = numbers.iter().filter_map(Token::identifier).find(|number| !number.system.is_empty());
        drop(numbers);
        let source = Provenance::new(wire.id.as_ref().map(Text::as_str), wire.meta)
            .keep("identifier", Value::Array(wire.identifier))
            .keep("status", status.map(Value::from))
            .keep("type", Value::Array(wire.kind))
            .keep("reasonCode", Value::Array(wire.reason_code))
            .keep("partOf", wire.part_of)
            .keep("serviceProvider", wire.service_provider)
            .keep("period", wire.period.as_ref().map(Period::as_given));
        Ok(Self {
            key,
            identifier,
            patient,
            status: EncounterStatus::of(status),
            class: wire.class.as_ref().and_then(|class| code_like(said(&class.code))),
            reason,
            started_at: wire.period.as_ref().map_or(Ok(None), Period::start)?,
            ended_at: wire.period.as_ref().map_or(Ok(None), Period::end)?,
            source,
        })
    }

    /// The bytes by which a change of content is told.
    pub fn fingerprint(&self) -> Result<Vec<u8>, Defect> {
        fingerprint(self)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Encounter<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    meta: Option<Meta>,
    #[serde(default)]
    identifier: Vec<Value>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
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

    fn read(resource: Value) -> Result<ImportedEncounter, Defect> {
        ImportedEncounter::read(&resource.to_string(), &Place { full_url: None, aliases: &Aliases::default() })
    }

    #[test]
    fn a_finished_visit() {
        let visit = read(json!({ "resourceType": "Encounter", "id": "e", "status": "finished", "class": { "code": "AMB" },
            "type": [{ "coding": [{ "code": "410620009", "display": "Well child visit" }] }],
            "reasonCode": [{ "coding": [{ "display": "Fever" }] }], "subject": { "reference": "urn:uuid:p", "display": "Ann" },
            "period": { "start": "2015-02-07T13:28:17+02:00", "end": "2015-02-07" } }))
        .unwrap();
        assert_eq!(
            (visit.status, visit.class.as_deref(), visit.reason.as_deref()),
            (EncounterStatus::Finished, Some("AMB"), Some("Fever"))
        );
        assert_eq!(visit.patient, SourceRef::Key("Patient/p".into()));
        assert_eq!(visit.started_at.unwrap().to_rfc3339(), "2015-02-07T11:28:17+00:00");
        assert!(visit.ended_at > visit.started_at);
    }

    #[test]
    fn every_status_has_its_place() {
        let status = |status: &str| {
            let visit = read(
                json!({ "resourceType": "Encounter", "id": "e", "status": status, "subject": { "reference": "Patient/p" } }),
            );
            visit.unwrap().status.name()
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
    fn neither_period_nor_reason_is_needed_but_a_patient_is() {
        let visit = read(json!({ "resourceType": "Encounter", "id": "e", "status": "in-progress", "subject": { "reference": "Patient/p" },
            "type": [{ "text": "Office Visit" }], "partOf": { "reference": "Encounter/d" }, "period": { "start": "2024-01-28" } }))
        .unwrap();
        assert_eq!((visit.reason.as_deref(), visit.ended_at, visit.class), (Some("Office Visit"), None, None));
        assert_eq!(visit.source.into_json()["partOf"]["reference"], "Encounter/d");
        assert_eq!(
            read(json!({ "resourceType": "Encounter", "id": "e", "status": "planned" })),
            Err(Defect::NoSubject)
        );
        let group = json!({ "resourceType": "Encounter", "id": "e", "subject": { "reference": "Group/g" } });
        assert_eq!(read(group), Err(Defect::SubjectNotPatient));
        let undated = json!({ "resourceType": "Encounter", "id": "e", "subject": { "reference": "Patient/p" }, "period": { "start": "soon" } });
        assert_eq!(read(undated), Err(Defect::InvalidDate));
    }
}
