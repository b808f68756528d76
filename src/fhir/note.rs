//! Notes: a `DocumentReference` with its text. `report.rs` makes the same of a `DiagnosticReport`.
//! A status says what Cordon shows: `superseded` hides nothing, `preliminary` is visible and not claimed final.

use super::attachment::{Attachment, described, extract};
use super::date::{Edge, instant};
use super::element::{Concept, LOINC, Meta, Period, Provenance, Text, Token, code_like, said};
use super::practitioner::Practitioner;
use super::reference::{Reference, is_of};
use super::{Defect, Place, ResourceKind, SourceRef, fingerprint, read, type_name};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A note as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedNote {
    /// `DocumentReference/<id>` or `DiagnosticReport/<id>` in the source.
    pub key: String,
    /// Whose.
    pub patient: SourceRef,
    /// Written in which encounter: the first named; the others are in the provenance.
    pub encounter: Option<SourceRef>,
    /// By whom.
    pub author: Option<Author>,
    /// What kind of document it is.
    pub kind: NoteType,
    /// What Cordon makes of its status.
    pub status: NoteStatus,
    /// The status as it came.
    pub source_status: Option<String>,
    /// When it was written; absent where the source says nothing that would tell.
    pub authored_at: Option<DateTime<Utc>>,
    /// Its title, if it has one of its own.
    pub title: Option<String>,
    /// Its text.
    pub body: String,
    /// Where it comes from.
    pub source: Provenance,
}

/// Who wrote a note, as far as the source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Author {
    /// Whom the source refers to.
    pub reference: Option<SourceRef>,
    /// The name given beside the reference: all there is when the practitioner is not in the input.
    pub display: Option<String>,
    /// Whether this is known to be staff. No content of its own: it follows from what the source says.
    #[serde(skip)]
    pub standing: Standing,
}

/// Whether an author is one of those whose names are not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The source says so.
    Staff,
    /// The source does not say: the patient and relatives write documents, too. Staff only if the reference leads to a known practitioner.
    Unsaid,
}

/// A LOINC document code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct NoteType {
    /// `34117-2`
    pub code: String,
    /// `History and physical note`
    pub display: String,
}

/// What Cordon makes of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum NoteStatus {
    /// Final.
    Signed,
    /// Changed after it was final.
    Amended,
    /// Entered in error: its text is not shown.
    Retracted,
    /// Not final: shown, and not claimed signed.
    Uncosigned,
}

impl NoteStatus {
    /// The name it is stored and shown by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signed => "SIGNED",
            Self::Amended => "AMENDED",
            Self::Retracted => "RETRACTED",
            Self::Uncosigned => "UNCOSIGNED",
        }
    }

    fn of(status: Option<&str>, doc_status: Option<&str>) -> Self {
        match (status, doc_status) {
            (Some("entered-in-error"), _) | (_, Some("entered-in-error")) => Self::Retracted,
            (_, Some("amended")) => Self::Amended,
            (_, Some("preliminary")) => Self::Uncosigned,
            _ => Self::Signed,
        }
    }
}

impl ImportedNote {
    /// Reads a `DocumentReference`.
    pub fn read(text: &str, place: &Place<'_>) -> Result<Self, Defect> {
        let wire: DocumentReference = read(text)?;
        let key = place.key(ResourceKind::DocumentReference, &wire.id)?;
        let patient = place.subject(wire.subject.as_ref())?;
        let attachments: Vec<&Attachment> =
            wire.content.iter().filter_map(|content| content.attachment.as_ref()).collect();
        let extract = extract(&attachments)?;
        let context = wire.context.unwrap_or_default();
        let encounters: Vec<SourceRef> = encounters(&context.encounter, place);
        let title = extract.title.or_else(|| said(&wire.description).map(str::to_owned));
        let written = said(&wire.date).or(said(&context.period.start)).or(extract.creation.as_deref());
        let (status, doc_status) = (wire.status.as_ref().map(Text::as_str), wire.doc_status.as_ref().map(Text::as_str));
        let concept = wire.kind.map(RawValue::get).map(serde_json::from_str::<Concept>).transpose()?;
        let categories = wire.category.as_ref().map(Vec::<Concept>::deserialize).transpose()?.unwrap_or_default();
        let source = Provenance::new(wire.id.as_ref().map(Text::as_str), None)
            .keep("masterIdentifier", wire.master_identifier)
            .keep("identifier", wire.identifier)
            .keep("docStatus", doc_status.map(Value::from))
            .keep("type", given(wire.kind)?)
            .keep("relatesTo", wire.relates_to)
            .keep("securityLabel", wire.security_label)
            .keep("custodian", wire.custodian)
            .keep("authenticator", wire.authenticator)
            .keep("author", given(wire.author)?)
            .keep("description", said(&wire.description).map(Value::from))
            .keep("date", said(&wire.date).map(Value::from))
            .keep(
                "period",
                Some(context.period.as_given())
                    .filter(|period| period.as_object().is_some_and(|ends| !ends.is_empty())),
            )
            .keep("encounters", further(&encounters))
            .keep("attachments", described(&attachments));
        let author = authors(wire.author, &wire.contained, place)?;
        let note = Self {
            key,
            patient,
            encounter: encounters.into_iter().next(),
            author,
            kind: note_type(concept.iter().chain(&categories)),
            status: NoteStatus::of(status, doc_status),
            source_status: code_like(status),
            authored_at: authored_at(written, wire.meta.as_ref())?,
            title,
            body: extract.body,
            source,
        };
        Ok(note.dated(wire.meta, wire.category))
    }

    /// The bytes by which a change of content is told.
    pub fn fingerprint(&self) -> Result<Vec<u8>, Defect> {
        fingerprint(self)
    }

    pub(super) fn dated(mut self, meta: Option<Meta>, category: Option<Value>) -> Self {
        self.source.version = Provenance::new(None, meta).version;
        self.source = self.source.keep("category", category);
        self
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentReference<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    meta: Option<Meta>,
    #[serde(borrow, default)]
    contained: Vec<&'a RawValue>,
    master_identifier: Option<Value>,
    identifier: Option<Value>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    doc_status: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    category: Option<Value>,
    #[serde(borrow)]
    subject: Option<Reference<'a>>,
    #[serde(borrow)]
    date: Option<Text<'a>>,
    #[serde(borrow)]
    author: Option<&'a RawValue>,
    authenticator: Option<Value>,
    custodian: Option<Value>,
    relates_to: Option<Value>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    security_label: Option<Value>,
    #[serde(borrow, default)]
    content: Vec<Content<'a>>,
    #[serde(borrow)]
    context: Option<Context<'a>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    attachment: Option<Attachment<'a>>,
}

#[derive(Default, Deserialize)]
struct Context<'a> {
    #[serde(borrow, default)]
    encounter: Vec<Reference<'a>>,
    #[serde(borrow, default)]
    period: Period<'a>,
}

/// The encounters among the references: episodes of care stand in the same place.
fn encounters(references: &[Reference<'_>], place: &Place<'_>) -> Vec<SourceRef> {
    let resolved = references.iter().filter_map(|reference| place.resolve(reference, ResourceKind::Encounter));
    resolved.filter(|found| !matches!(found, SourceRef::Key(key) if !is_of(key, ResourceKind::Encounter))).collect()
}

/// The keys of all encounters but the first.
fn further(encounters: &[SourceRef]) -> Value {
    let named = |encounter: &SourceRef| match encounter {
        SourceRef::Key(key) => key.clone().into(),
        SourceRef::Identifier(identifier) => {
            Value::from(format!("Encounter?identifier={}|{}", identifier.system, identifier.value))
        }
    };
    Value::Array(encounters.iter().skip(1).map(named).collect())
}

fn given(element: Option<&RawValue>) -> Result<Option<Value>, Defect> {
    Ok(element.map(|element| serde_json::from_str(element.get())).transpose()?)
}

/// The first practitioner among those who answer for a note; else the first who may be one; else the first of whom at least a name is
/// known. The patient and relatives write documents, too; they are no staff, whose names are not sealed, and are left to the provenance.
pub(super) fn authors(
    element: Option<&RawValue>,
    contained: &[&RawValue],
    place: &Place<'_>,
) -> Result<Option<Author>, Defect> {
    let Some(element) = element else { return Ok(None) };
    let references: Vec<Reference> = serde_json::from_str(element.get())?;
    let mut found = Vec::new();
    for reference in &references {
        found.extend(author(reference, contained, place)?);
    }
    let practitioner = |author: &Author| match &author.reference {
        Some(SourceRef::Key(key)) => author.standing == Standing::Staff && is_of(key, ResourceKind::Practitioner),
        Some(SourceRef::Identifier(_)) => author.standing == Standing::Staff,
        None => false,
    };
    let first = |wanted: &dyn Fn(&Author) -> bool| found.iter().position(wanted);
    let chosen = first(&practitioner)
        .or_else(|| first(&|author| author.standing == Standing::Unsaid))
        .or_else(|| first(&|author| author.display.is_some()))
        .unwrap_or(0);
    Ok(found.into_iter().nth(chosen))
}

/// An author who is staff, or may be: who is said to be anything else is none, nor is a name of which nothing more is said.
fn author(reference: &Reference<'_>, contained: &[&RawValue], place: &Place<'_>) -> Result<Option<Author>, Defect> {
    let mut resolved = place.resolve(reference, ResourceKind::Practitioner);
    let mut display = said(&reference.display).map(str::to_owned);
    let mut kind = place.type_of(reference).map(str::to_owned);
    if let Some(local) = said(&reference.reference).and_then(|text| text.strip_prefix('#')) {
        for resource in contained {
            let one: Practitioner = serde_json::from_str(resource.get())
                .or_else(|error| if error.is_data() { Ok(Practitioner::default()) } else { Err(error) })?;
            if one.id.as_ref().map(Text::as_str) == Some(local) {
                let tokens = one.identifier.iter().map(Token::deserialize).collect::<Result<Vec<_>, _>>()?;
                resolved = tokens.iter().find_map(Token::identifier).map(SourceRef::Identifier);
                display = display.or_else(|| one.written());
                kind = type_name(resource.get()).map(Cow::into_owned);
            }
        }
    }
    let types = [said(&reference.kind), kind.as_deref()];
    let standing = match types.iter().flatten().map(|name| is_staff(name)).reduce(|one, other| one && other) {
        Some(true) => Standing::Staff,
        None if resolved.is_some() => Standing::Unsaid,
        Some(false) | None => return Ok(None),
    };
    Ok((resolved.is_some() || display.is_some()).then_some(Author { reference: resolved, display, standing }))
}

/// Types of authors who are staff, or stand for it. A care team is one patient's, and may be named after them.
fn is_staff(type_name: &str) -> bool {
    let name = type_name.rsplit('/').next().unwrap_or_default();
    matches!(name, "Practitioner" | "PractitionerRole" | "Organization" | "Device")
}

/// The first LOINC code; a document without one is a "Note", and what it was called stays in the provenance.
pub(super) fn note_type<'t>(concepts: impl Iterator<Item = &'t Concept<'t>>) -> NoteType {
    for concept in concepts {
        for coding in concept.coding.iter().filter(|coding| said(&coding.system) == Some(LOINC)) {
            if let Some(code) = code_like(said(&coding.code)) {
                let display = said(&coding.display).unwrap_or(&code).to_owned();
                return NoteType { code, display };
            }
        }
    }
    NoteType { code: "34109-9".into(), display: "Note".into() }
}

/// The date given, else when the resource was last stored.
pub(super) fn authored_at(written: Option<&str>, meta: Option<&Meta>) -> Result<Option<DateTime<Utc>>, Defect> {
    let stored = || meta.and_then(|meta| instant(meta.last_updated.as_deref()?, Edge::First).ok());
    match written {
        Some(text) => instant(text, Edge::First).map(Some),
        None => Ok(stored()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::element::Identifier;
    use super::*;
    use crate::fhir::Aliases;
    use serde_json::json;

    fn document(extra: Value) -> String {
        let mut resource = json!({ "resourceType": "DocumentReference", "id": "n", "status": "current", "subject": { "reference": "Patient/p" },
            "type": { "coding": [{ "system": "http://snomed.info/sct", "code": "1" }, { "system": "http://loinc.org", "code": "34117-2",
                "display": "History and physical note" }, { "system": "http://loinc.org", "code": "51847-2" }] },
            "date": "2018-05-16T14:45:24.907-04:00", "author": [{ "reference": "Practitioner?identifier=npi|9", "display": "Dr. Wolf" }],
            "content": [{ "attachment": { "contentType": "text/plain; charset=utf-8", "data": "dGV4dA==" } }],
            "context": { "encounter": [{ "reference": "Encounter/e" }], "period": { "start": "2018-05-16T14:45:24-04:00" } } });
        resource.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        resource.to_string()
    }

    fn read(extra: Value) -> Result<ImportedNote, Defect> {
        ImportedNote::read(&document(extra), &Place { full_url: None, aliases: &Aliases::default() })
    }

    #[test]
    fn a_note_with_all_it_says() {
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
    fn superseded_hides_nothing_and_preliminary_claims_nothing() {
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
    fn two_encounters_relations_and_labels_are_kept() {
        let relation = json!([{ "code": "replaces", "target": { "reference": "DocumentReference/m" } }]);
        let label = json!([{ "coding": [{ "code": "R" }] }]);
        let encounters = json!([{ "reference": "EpisodeOfCare/c" }, { "reference": "Encounter/e1" }, { "reference": "Encounter/e2" }]);
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
    fn dates_are_found_where_they_are() {
        let at = |extra: Value| read(extra).map(|note| note.authored_at.map(|at| at.to_rfc3339()));
        assert_eq!(at(json!({ "date": null })), Ok(Some("2018-05-16T18:45:24+00:00".into())));
        let meta = json!({ "lastUpdated": "2020-01-01T00:00:00Z", "versionId": "3" });
        assert_eq!(
            at(json!({ "date": null, "context": null, "meta": meta })),
            Ok(Some("2020-01-01T00:00:00+00:00".into()))
        );
        assert_eq!(at(json!({ "date": null, "context": null })), Ok(None));
        assert_eq!(at(json!({ "date": "last week" })), Err(Defect::InvalidDate));
    }

    #[test]
    fn a_type_without_loinc_is_a_note() {
        let code = |extra: Value| read(extra).unwrap().kind;
        assert_eq!(
            code(json!({ "type": { "text": "Ward round" } })),
            NoteType { code: "34109-9".into(), display: "Note".into() }
        );
        let category = json!([{ "coding": [{ "system": LOINC, "code": "18842-5" }], "text": "Discharge" }]);
        assert_eq!(
            code(json!({ "type": null, "category": category })),
            NoteType { code: "18842-5".into(), display: "18842-5".into() }
        );
        assert_eq!(code(json!({ "type": { "coding": [{ "system": LOINC, "code": "Ann'; --" }] } })).code, "34109-9");
    }

    #[test]
    fn authors_of_all_sorts() {
        let author =
            |author: Value, contained: Value| read(json!({ "author": author, "contained": contained })).unwrap().author;
        assert_eq!(author(json!([]), json!([])), None);
        let chosen = author(
            json!([{ "reference": "Organization/o", "display": "Ward" }, { "reference": "Practitioner/d" }]),
            json!([]),
        )
        .unwrap();
        assert_eq!(chosen.reference, Some(SourceRef::Key("Practitioner/d".into())));
        let contained = json!([{ "resourceType": "Organization", "id": "o", "name": "Ward" },
            { "resourceType": "Practitioner", "id": "d", "name": [{ "text": "Dr. Lee" }], "identifier": [{ "system": "npi", "value": "9" }] }]);
        let chosen = author(json!([{ "reference": "#d" }]), contained).unwrap();
        assert_eq!(chosen.display.as_deref(), Some("Dr. Lee"));
        assert_eq!(
            chosen.reference,
            Some(SourceRef::Identifier(Identifier { system: "npi".into(), value: "9".into() }))
        );
        assert_eq!(chosen.standing, Standing::Staff);
        let clerk = json!([{ "type": "http://hl7.org/fhir/StructureDefinition/Practitioner", "display": "A clerk" }]);
        assert_eq!(author(clerk, json!([])).unwrap().reference, None);
    }

    #[test]
    fn who_is_not_said_to_be_staff_is_not_taken_for_it() {
        let author = |author: Value| {
            read(json!({ "author": author, "contained": [{ "resourceType": "Person", "id": "p" }] })).unwrap().author
        };
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
        for unsaid in [
            json!({ "reference": "urn:uuid:0f", "display": "Mary Lee" }),
            json!({ "identifier": logical, "display": "Mary Lee" }),
        ] {
            assert_eq!(author(json!([unsaid])).unwrap().standing, Standing::Unsaid);
            let both = author(json!([unsaid, { "reference": "Practitioner/d" }])).unwrap();
            assert_eq!(
                (both.standing, both.reference),
                (Standing::Staff, Some(SourceRef::Key("Practitioner/d".into())))
            );
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        assert_eq!(read(json!({ "subject": null })), Err(Defect::NoSubject));
        assert_eq!(read(json!({ "subject": { "reference": "Group/g" } })), Err(Defect::SubjectNotPatient));
        assert_eq!(read(json!({ "content": [] })), Err(Defect::EmptyNote));
        assert_eq!(
            read(json!({ "content": [{ "attachment": { "contentType": "text/plain", "data": "%%%" } }] })),
            Err(Defect::BadBase64)
        );
        assert_eq!(read(json!({ "description": "a\u{0}b" })), Err(Defect::NulCharacter));
        let half = document(json!({})).replace("Dr. Wolf", "\\ud800");
        assert_eq!(
            ImportedNote::read(&half, &Place { full_url: None, aliases: &Aliases::default() }),
            Err(Defect::MalformedJson)
        );
    }

    #[test]
    fn a_changed_word_is_a_change_and_a_new_export_is_none() {
        let print = |extra: Value| read(extra).unwrap().fingerprint().unwrap();
        let meta = json!({ "lastUpdated": "2020-01-01T00:00:00Z", "versionId": "3" });
        assert_eq!(print(json!({})), print(json!({ "meta": meta })));
        let content = json!([{ "attachment": { "contentType": "text/plain; charset=utf-8", "data": "dGV4dHM=" } }]);
        assert_ne!(print(json!({})), print(json!({ "content": content })));
    }
}
