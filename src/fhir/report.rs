//! Reads a `DiagnosticReport` that contains its text as a note. A report without text is not a note and is skipped.

use super::attachment::{Attachment, describe, extract_text, has_text};
use super::author::select_author;
use super::element::{CodeableConcept, JsonStr, Meta, Period, SourceElements, code_like, non_blank};
use super::note::{ImportedNote, NoteStatus, authored_at, note_type};
use super::reference::Reference;
use super::{FhirError, ReferenceContext, ResourceKind, read};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

impl ImportedNote {
    /// Reads a `DiagnosticReport`. Returns `None` if its `presentedForm` contains no text.
    pub fn read_report(text: &str, context: &ReferenceContext<'_>) -> Result<Option<Self>, FhirError> {
        let report: DiagnosticReport = read(text)?;
        let attachments: Vec<&Attachment> = report.presented_form.iter().collect();
        if !has_text(&attachments) {
            return Ok(None);
        }
        let key = context.key(ResourceKind::DiagnosticReport, &report.id)?;
        let patient = context.subject(report.subject.as_ref())?;
        let extract = extract_text(&attachments)?;
        let encounter = report.encounter.as_ref().and_then(|reference| context.encounter(reference));
        let started = report.effective_period.as_ref().and_then(|period| non_blank(&period.start));
        let date = non_blank(&report.issued)
            .or(non_blank(&report.effective_date_time))
            .or(started)
            .or(extract.creation.as_deref());
        let concept = report.code.as_ref().map(CodeableConcept::deserialize).transpose()?;
        let categories =
            report.category.as_ref().map(Vec::<CodeableConcept>::deserialize).transpose()?.unwrap_or_default();
        let kind = note_type(concept.iter().chain(&categories));
        drop(concept);
        let status = report.status.as_ref().map(JsonStr::as_str);
        let performer = select_author(report.performer, &report.contained, context)?;
        let author = match performer {
            Some(performer) => Some(performer),
            None => select_author(report.results_interpreter, &report.contained, context)?,
        };
        let source = SourceElements::new(report.id.as_ref().map(JsonStr::as_str), None)
            .keep("identifier", report.identifier)
            .keep("code", report.code.clone())
            .keep("issued", non_blank(&report.issued).map(Value::from))
            .keep("effectiveDateTime", non_blank(&report.effective_date_time).map(Value::from))
            .keep("effectivePeriod", report.effective_period.as_ref().map(Period::to_json))
            .keep("basedOn", report.based_on)
            .keep("attachments", describe(&attachments));
        let note = Self {
            key,
            patient,
            encounter,
            author,
            kind,
            status: note_status(status),
            source_status: code_like(status),
            authored_at: authored_at(date, report.meta.as_ref())?,
            title: extract.title,
            body: extract.body,
            source,
        };
        drop(categories);
        Ok(Some(note.with_meta_and_category(report.meta, report.category)))
    }
}

fn note_status(status: Option<&str>) -> NoteStatus {
    match status {
        Some("amended" | "corrected" | "appended") => NoteStatus::Amended,
        Some("entered-in-error" | "cancelled") => NoteStatus::Retracted,
        Some("preliminary" | "partial" | "registered") => NoteStatus::Uncosigned,
        _ => NoteStatus::Signed,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiagnosticReport<'a> {
    #[serde(borrow)]
    id: Option<JsonStr<'a>>,
    meta: Option<Meta>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
    identifier: Option<Value>,
    based_on: Option<Value>,
    #[serde(borrow)]
    status: Option<JsonStr<'a>>,
    category: Option<Value>,
    code: Option<Value>,
    #[serde(borrow)]
    subject: Option<Reference<'a>>,
    #[serde(borrow)]
    encounter: Option<Reference<'a>>,
    #[serde(borrow)]
    effective_date_time: Option<JsonStr<'a>>,
    #[serde(borrow)]
    effective_period: Option<Period<'a>>,
    #[serde(borrow)]
    issued: Option<JsonStr<'a>>,
    #[serde(borrow)]
    performer: Option<&'a RawValue>,
    #[serde(borrow)]
    results_interpreter: Option<&'a RawValue>,
    #[serde(borrow, default)]
    presented_form: Vec<Attachment<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::{Aliases, SourceRef};
    use serde_json::json;

    fn read(extra: Value) -> Result<Option<ImportedNote>, FhirError> {
        let mut resource = json!({ "resourceType": "DiagnosticReport", "id": "r", "status": "final",
            "subject": { "reference": "Patient/p" },
            "encounter": { "reference": "Encounter/e" }, "code": { "coding": [{ "system": "http://loinc.org",
                "code": "30746-2", "display": "XR Chest" }] },
            "effectiveDateTime": "2019-02-03", "issued": "2019-02-04T19:43:30.000Z",
            "resultsInterpreter": [{ "reference": "Practitioner/d", "display": "Dr Bone" }],
            "presentedForm": [{ "contentType": "text/plain", "data": "bm8gZmluZGluZ3M=" }] });
        resource.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        ImportedNote::read_report(
            &resource.to_string(),
            &ReferenceContext { full_url: None, aliases: &Aliases::default() },
        )
    }

    #[test]
    fn a_report_with_text_is_a_note() {
        let note = read(json!({})).unwrap().unwrap();
        assert_eq!(
            (note.key.as_str(), note.body.as_str(), note.kind.code.as_str()),
            ("DiagnosticReport/r", "no findings", "30746-2")
        );
        assert_eq!(note.encounter, Some(SourceRef::Key("Encounter/e".into())));
        assert_eq!(note.author.unwrap().display.as_deref(), Some("Dr Bone"));
        assert_eq!(note.authored_at.unwrap().to_rfc3339(), "2019-02-04T19:43:30+00:00");
    }

    #[test]
    fn a_report_without_text_is_not_a_note() {
        assert_eq!(read(json!({ "presentedForm": [] })), Ok(None));
        assert_eq!(
            read(json!({ "presentedForm": [{ "contentType": "application/pdf", "url": "http://a/b.pdf" }] })),
            Ok(None)
        );
        assert_eq!(
            read(json!({ "presentedForm": [{ "contentType": "application/pdf", "data": "JVBERi0=" }] })),
            Ok(None)
        );
        assert_eq!(
            read(json!({ "presentedForm": [{ "contentType": "text/plain", "data": "?" }] })),
            Err(FhirError::BadBase64)
        );
    }

    #[test]
    fn every_status_code_is_mapped() {
        let status = |status: &str| read(json!({ "status": status })).unwrap().unwrap().status.name();
        assert_eq!(
            ["final", "amended", "corrected", "appended"].map(status),
            ["SIGNED", "AMENDED", "AMENDED", "AMENDED"]
        );
        assert_eq!(["entered-in-error", "cancelled"].map(status), ["RETRACTED"; 2]);
        assert_eq!(["preliminary", "partial", "registered"].map(status), ["UNCOSIGNED"; 3]);
    }
}
