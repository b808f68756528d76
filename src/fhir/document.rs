//! Reads a `DocumentReference` as a note.
//! A `superseded` document stays visible. A `preliminary` one is visible and not claimed to be final.

use super::attachment::{Attachment, describe, extract_text};
use super::author::select_author;
use super::element::{CodeableConcept, JsonStr, Meta, Period, SourceElements, code_like, non_blank};
use super::note::{ImportedNote, NoteStatus, authored_at, note_type};
use super::reference::Reference;
use super::{FhirError, ReferenceContext, ResourceKind, SourceRef, read};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

impl ImportedNote {
    /// Reads a `DocumentReference`.
    pub fn read(text: &str, context: &ReferenceContext<'_>) -> Result<Self, FhirError> {
        let document: DocumentReference = read(text)?;
        let key = context.key(ResourceKind::DocumentReference, &document.id)?;
        let patient = context.subject(document.subject.as_ref())?;
        let attachments: Vec<&Attachment> =
            document.content.iter().filter_map(|content| content.attachment.as_ref()).collect();
        let extract = extract_text(&attachments)?;
        let DocumentContext { encounter, period } = document.context.unwrap_or_default();
        let encounters: Vec<_> = encounter.iter().filter_map(|reference| context.encounter(reference)).collect();
        let title = extract.title.or_else(|| non_blank(&document.description).map(str::to_owned));
        let date = non_blank(&document.date).or(non_blank(&period.start)).or(extract.creation.as_deref());
        let status = document.status.as_ref().map(JsonStr::as_str);
        let doc_status = document.doc_status.as_ref().map(JsonStr::as_str);
        let concept = document.kind.map(RawValue::get).map(serde_json::from_str::<CodeableConcept>).transpose()?;
        let categories =
            document.category.as_ref().map(Vec::<CodeableConcept>::deserialize).transpose()?.unwrap_or_default();
        let source = SourceElements::new(document.id.as_ref().map(JsonStr::as_str), None)
            .keep("masterIdentifier", document.master_identifier)
            .keep("identifier", document.identifier)
            .keep("docStatus", doc_status.map(Value::from))
            .keep("type", to_value(document.kind)?)
            .keep("relatesTo", document.relates_to)
            .keep("securityLabel", document.security_label)
            .keep("custodian", document.custodian)
            .keep("authenticator", document.authenticator)
            .keep("author", to_value(document.author)?)
            .keep("description", non_blank(&document.description).map(Value::from))
            .keep("date", non_blank(&document.date).map(Value::from))
            .keep(
                "period",
                Some(period.to_json()).filter(|period| period.as_object().is_some_and(|ends| !ends.is_empty())),
            )
            .keep("encounters", further_encounters(&encounters))
            .keep("attachments", describe(&attachments));
        let author = select_author(document.author, &document.contained, context)?;
        let note = Self {
            key,
            patient,
            encounter: encounters.into_iter().next(),
            author,
            kind: note_type(concept.iter().chain(&categories)),
            status: note_status(status, doc_status),
            source_status: code_like(status),
            authored_at: authored_at(date, document.meta.as_ref())?,
            title,
            body: extract.body,
            source,
        };
        Ok(note.with_meta_and_category(document.meta, document.category))
    }
}

fn note_status(status: Option<&str>, doc_status: Option<&str>) -> NoteStatus {
    match (status, doc_status) {
        (Some("entered-in-error"), _) | (_, Some("entered-in-error")) => NoteStatus::Retracted,
        (_, Some("amended")) => NoteStatus::Amended,
        (_, Some("preliminary")) => NoteStatus::Uncosigned,
        _ => NoteStatus::Signed,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentReference<'a> {
    #[serde(borrow)]
    id: Option<JsonStr<'a>>,
    meta: Option<Meta>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
    master_identifier: Option<Value>,
    identifier: Option<Value>,
    #[serde(borrow)]
    status: Option<JsonStr<'a>>,
    #[serde(borrow)]
    doc_status: Option<JsonStr<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    category: Option<Value>,
    #[serde(borrow)]
    subject: Option<Reference<'a>>,
    #[serde(borrow)]
    date: Option<JsonStr<'a>>,
    #[serde(borrow)]
    author: Option<&'a RawValue>,
    authenticator: Option<Value>,
    custodian: Option<Value>,
    relates_to: Option<Value>,
    #[serde(borrow)]
    description: Option<JsonStr<'a>>,
    security_label: Option<Value>,
    #[serde(borrow, default)]
    content: Vec<Content<'a>>,
    #[serde(borrow)]
    context: Option<DocumentContext<'a>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    attachment: Option<Attachment<'a>>,
}

/// The clinical context of a document. `encounter` may also list episodes of care.
#[derive(Default, Deserialize)]
struct DocumentContext<'a> {
    #[serde(borrow, default)]
    encounter: Vec<Reference<'a>>,
    #[serde(borrow, default)]
    period: Period<'a>,
}

/// Returns the keys of all encounters but the first, for the source elements.
fn further_encounters(encounters: &[SourceRef]) -> Value {
    let key = |encounter: &SourceRef| match encounter {
        SourceRef::Key(key) => key.clone().into(),
        SourceRef::Identifier(identifier) => {
            Value::from(format!("Encounter?identifier={}|{}", identifier.system, identifier.value))
        }
    };
    Value::Array(encounters.iter().skip(1).map(key).collect())
}

fn to_value(element: Option<&RawValue>) -> Result<Option<Value>, FhirError> {
    Ok(element.map(|element| serde_json::from_str(element.get())).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::super::element::LOINC;
    use super::*;
    use crate::fhir::{Aliases, Identifier, ImportedResource, NoteType};
    use serde_json::json;

    fn document(extra: Value) -> String {
        let mut resource = json!({ "resourceType": "DocumentReference", "id": "n", "status": "current",
            "subject": { "reference": "Patient/p" },
            "type": { "coding": [{ "system": "http://snomed.info/sct", "code": "1" }, { "system": "http://loinc.org",
                "code": "34117-2",
                "display": "History and physical note" }, { "system": "http://loinc.org", "code": "51847-2" }] },
            "date": "2018-05-16T14:45:24.907-04:00", "author": [{ "reference": "Practitioner?identifier=npi|9",
                "display": "Dr. Wolf" }],
            "content": [{ "attachment": { "contentType": "text/plain; charset=utf-8", "data": "dGV4dA==" } }],
            "context": { "encounter": [{ "reference": "Encounter/e" }],
                "period": { "start": "2018-05-16T14:45:24-04:00" } } });
        resource.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        resource.to_string()
    }

    fn read(extra: Value) -> Result<ImportedNote, FhirError> {
        ImportedNote::read(&document(extra), &ReferenceContext { full_url: None, aliases: &Aliases::default() })
    }

    #[test]
    fn all_elements_of_a_document_are_read() {
        let note = read(json!({})).unwrap();
        assert_eq!((note.key.as_str(), note.body.as_str()), ("DocumentReference/n", "text"));
        assert_eq!((note.kind.code.as_str(), note.kind.display.as_str()), ("34117-2", "History and physical note"));
        assert_eq!(note.encounter, Some(SourceRef::Key("Encounter/e".into())));
        let author = note.author.unwrap();
        assert_eq!(
            author.reference,
            Some(SourceRef::Identifier(Identifier { system: "npi".into(), value: "9".into() }))
        );
        assert_eq!(author.display.as_deref(), Some("Dr. Wolf"));
        assert_eq!(note.authored_at.unwrap().to_rfc3339(), "2018-05-16T18:45:24.907+00:00");
        assert_eq!((note.title, note.status), (None, NoteStatus::Signed));
    }

    #[test]
    fn superseded_notes_stay_signed_and_preliminary_ones_are_not_claimed_signed() {
        let status = |extra: Value| read(extra).unwrap().status.name();
        assert_eq!(status(json!({ "status": "superseded" })), "SIGNED");
        assert_eq!(status(json!({ "status": "superseded", "docStatus": "amended" })), "AMENDED");
        assert_eq!(status(json!({ "docStatus": "preliminary" })), "UNCOSIGNED");
        assert_eq!(status(json!({ "docStatus": "entered-in-error" })), "RETRACTED");
        assert_eq!(status(json!({ "status": "entered-in-error", "docStatus": "final" })), "RETRACTED");
        assert_eq!(read(json!({ "status": "superseded" })).unwrap().source_status.as_deref(), Some("superseded"));
        assert_eq!(read(json!({ "status": "Ann Lee '; --" })).unwrap().source_status, None);
    }

    #[test]
    fn further_encounters_relations_and_labels_are_kept() {
        let relation = json!([{ "code": "replaces", "target": { "reference": "DocumentReference/m" } }]);
        let label = json!([{ "coding": [{ "code": "R" }] }]);
        let encounters = json!([{ "reference": "EpisodeOfCare/c" }, { "reference": "Encounter/e1" },
            { "reference": "Encounter/e2" }]);
        let note =
            read(json!({ "relatesTo": relation, "securityLabel": label, "context": { "encounter": encounters } }))
                .unwrap();
        assert_eq!(note.encounter, Some(SourceRef::Key("Encounter/e1".into())));
        let source = note.source.into_json();
        assert_eq!(
            (&source["relatesTo"], &source["securityLabel"], &source["encounters"]),
            (&relation, &label, &json!(["Encounter/e2"]))
        );
    }

    #[test]
    fn the_date_falls_back_to_period_and_meta() {
        let at = |extra: Value| read(extra).map(|note| note.authored_at.map(|at| at.to_rfc3339()));
        assert_eq!(at(json!({ "date": null })), Ok(Some("2018-05-16T18:45:24+00:00".into())));
        let meta = json!({ "lastUpdated": "2020-01-01T00:00:00Z", "versionId": "3" });
        assert_eq!(
            at(json!({ "date": null, "context": null, "meta": meta })),
            Ok(Some("2020-01-01T00:00:00+00:00".into()))
        );
        assert_eq!(at(json!({ "date": null, "context": null })), Ok(None));
        assert_eq!(at(json!({ "date": "last week" })), Err(FhirError::InvalidDate));
    }

    #[test]
    fn a_document_without_a_loinc_type_is_a_note() {
        let note_type = |extra: Value| read(extra).unwrap().kind;
        assert_eq!(
            note_type(json!({ "type": { "text": "Ward round" } })),
            NoteType { code: "34109-9".into(), display: "Note".into() }
        );
        let category = json!([{ "coding": [{ "system": LOINC, "code": "18842-5" }], "text": "Discharge" }]);
        assert_eq!(
            note_type(json!({ "type": null, "category": category })),
            NoteType { code: "18842-5".into(), display: "18842-5".into() }
        );
        assert_eq!(
            note_type(json!({ "type": { "coding": [{ "system": LOINC, "code": "Ann'; --" }] } })).code,
            "34109-9"
        );
    }

    #[test]
    fn each_unreadable_document_has_its_error() {
        assert_eq!(read(json!({ "subject": null })), Err(FhirError::NoSubject));
        assert_eq!(read(json!({ "subject": { "reference": "Group/g" } })), Err(FhirError::SubjectNotPatient));
        assert_eq!(read(json!({ "content": [] })), Err(FhirError::EmptyNote));
        assert_eq!(
            read(json!({ "content": [{ "attachment": { "contentType": "text/plain", "data": "%%%" } }] })),
            Err(FhirError::BadBase64)
        );
        assert_eq!(read(json!({ "description": "a\u{0}b" })), Err(FhirError::NulCharacter));
        let half_surrogate = document(json!({})).replace("Dr. Wolf", "\\ud800");
        assert_eq!(
            ImportedNote::read(&half_surrogate, &ReferenceContext { full_url: None, aliases: &Aliases::default() }),
            Err(FhirError::MalformedJson)
        );
    }

    #[test]
    fn a_changed_text_changes_the_fingerprint_and_a_new_export_does_not() {
        let fingerprint = |extra: Value| read(extra).unwrap().fingerprint().unwrap();
        let meta = json!({ "lastUpdated": "2020-01-01T00:00:00Z", "versionId": "3" });
        assert_eq!(fingerprint(json!({})), fingerprint(json!({ "meta": meta })));
        let content = json!([{ "attachment": { "contentType": "text/plain; charset=utf-8", "data": "dGV4dHM=" } }]);
        assert_ne!(fingerprint(json!({})), fingerprint(json!({ "content": content })));
    }
}
