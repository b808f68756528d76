//! Reports: a `DiagnosticReport` that carries its text is a note like any other; one that does not is no note at all.

use super::attachment::{Attachment, any_text, described, extract};
use super::element::{Concept, Meta, Period, Provenance, Text, code_like, said};
use super::note::{ImportedNote, NoteStatus, authored_at, authors, note_type};
use super::reference::{Reference, is_of};
use super::{Defect, Place, ResourceKind, SourceRef, read};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

impl ImportedNote {
    /// Reads a `DiagnosticReport`; `None` if no text was presented with it.
    pub fn read_report(text: &str, place: &Place<'_>) -> Result<Option<Self>, Defect> {
        let wire: DiagnosticReport = read(text)?;
        let attachments: Vec<&Attachment> = wire.presented_form.iter().collect();
        if !any_text(&attachments) {
            return Ok(None);
        }
        let key = place.key(ResourceKind::DiagnosticReport, &wire.id)?;
        let patient = place.subject(wire.subject.as_ref())?;
        let extract = extract(&attachments)?;
        let encounter = wire.encounter.as_ref().and_then(|reference| place.resolve(reference, ResourceKind::Encounter));
        let started = wire.effective_period.as_ref().and_then(|period| said(&period.start));
        let written =
            said(&wire.issued).or(said(&wire.effective_date_time)).or(started).or(extract.creation.as_deref());
        let concept = wire.code.as_ref().map(Concept::deserialize).transpose()?;
        let categories = wire.category.as_ref().map(Vec::<Concept>::deserialize).transpose()?.unwrap_or_default();
        let kind = note_type(concept.iter().chain(&categories));
        drop(concept);
        let status = wire.status.as_ref().map(Text::as_str);
        let performer = authors(wire.performer, &wire.contained, place)?;
        let author = match performer {
            Some(performer) => Some(performer),
            None => authors(wire.results_interpreter, &wire.contained, place)?,
        };
        let source = Provenance::new(wire.id.as_ref().map(Text::as_str), None)
            .keep("identifier", wire.identifier)
            .keep("code", wire.code.clone())
            .keep("issued", said(&wire.issued).map(Value::from))
            .keep("effectiveDateTime", said(&wire.effective_date_time).map(Value::from))
            .keep("effectivePeriod", wire.effective_period.as_ref().map(Period::as_given))
            .keep("basedOn", wire.based_on)
            .keep("attachments", described(&attachments));
        let note = Self {
            key,
            patient,
            encounter: encounter
                .filter(|found| !matches!(found, SourceRef::Key(key) if !is_of(key, ResourceKind::Encounter))),
            author,
            kind,
            status: status_of(status),
            source_status: code_like(status),
            authored_at: authored_at(written, wire.meta.as_ref())?,
            title: extract.title,
            body: extract.body,
            source,
        };
        drop(categories);
        Ok(Some(note.dated(wire.meta, wire.category)))
    }
}

fn status_of(status: Option<&str>) -> NoteStatus {
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
    id: Option<Text<'a>>,
    meta: Option<Meta>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
    identifier: Option<Value>,
    based_on: Option<Value>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    category: Option<Value>,
    code: Option<Value>,
    #[serde(borrow)]
    subject: Option<Reference<'a>>,
    #[serde(borrow)]
    encounter: Option<Reference<'a>>,
    #[serde(borrow)]
    effective_date_time: Option<Text<'a>>,
    #[serde(borrow)]
    effective_period: Option<Period<'a>>,
    #[serde(borrow)]
    issued: Option<Text<'a>>,
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
    use crate::fhir::Aliases;
    use serde_json::json;

    fn read(extra: Value) -> Result<Option<ImportedNote>, Defect> {
        let mut resource = json!({ "resourceType": "DiagnosticReport", "id": "r", "status": "final", "subject": { "reference": "Patient/p" },
            "encounter": { "reference": "Encounter/e" }, "code": { "coding": [{ "system": "http://loinc.org", "code": "30746-2", "display": "XR Chest" }] },
            "effectiveDateTime": "2019-02-03", "issued": "2019-02-04T19:43:30.000Z",
            "resultsInterpreter": [{ "reference": "Practitioner/d", "display": "Dr Bone" }],
            "presentedForm": [{ "contentType": "text/plain", "data": "bm8gZmluZGluZ3M=" }] });
        resource.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        ImportedNote::read_report(&resource.to_string(), &Place { full_url: None, aliases: &Aliases::default() })
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
    fn a_report_without_text_is_none() {
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
            Err(Defect::BadBase64)
        );
    }

    #[test]
    fn every_status_has_its_place() {
        let status = |status: &str| read(json!({ "status": status })).unwrap().unwrap().status.name();
        assert_eq!(
            ["final", "amended", "corrected", "appended"].map(status),
            ["SIGNED", "AMENDED", "AMENDED", "AMENDED"]
        );
        assert_eq!(["entered-in-error", "cancelled"].map(status), ["RETRACTED"; 2]);
        assert_eq!(["preliminary", "partial", "registered"].map(status), ["UNCOSIGNED"; 3]);
    }
}
