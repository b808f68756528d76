//! FHIR R4 resources as the sample writes them: the elements that real systems fill, in the order of the specification.

use crate::model::note_type;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

#[derive(Serialize)]
#[serde(tag = "resourceType")]
pub(super) enum Resource {
    Practitioner(Practitioner),
    Patient(Box<Patient>),
    Encounter(Box<Encounter>),
    DocumentReference(Box<DocumentReference>),
}

#[derive(Serialize)]
pub(super) struct Practitioner {
    pub(super) id: String,
    pub(super) identifier: Vec<Identifier>,
    pub(super) name: Vec<HumanName>,
    pub(super) qualification: Vec<Qualification>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Patient {
    pub(super) id: String,
    pub(super) identifier: Vec<Identifier>,
    pub(super) name: Vec<HumanName>,
    pub(super) telecom: Vec<ContactPoint>,
    pub(super) gender: String,
    pub(super) birth_date: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deceased_boolean: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) deceased_date_time: Option<String>,
    pub(super) address: Vec<Address>,
    pub(super) communication: Vec<Communication>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Encounter {
    pub(super) id: String,
    pub(super) identifier: Vec<Identifier>,
    pub(super) status: &'static str,
    pub(super) class: Coding,
    pub(super) service_type: Concept,
    pub(super) subject: Reference,
    pub(super) period: Period,
    pub(super) reason_code: Vec<Concept>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DocumentReference {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) doc_status: &'static str,
    #[serde(rename = "type")]
    pub(super) kind: Concept,
    pub(super) subject: Reference,
    pub(super) date: String,
    pub(super) author: Vec<Reference>,
    pub(super) content: [Content; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<Context>,
}

#[derive(Serialize)]
pub(super) struct Identifier {
    #[serde(rename = "type")]
    pub(super) kind: Concept,
    pub(super) system: &'static str,
    pub(super) value: String,
}

#[derive(Serialize)]
pub(super) struct HumanName {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) extension: Vec<Extension>,
    #[serde(rename = "use")]
    pub(super) use_code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    pub(super) family: String,
    pub(super) given: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) prefix: Vec<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Extension {
    pub(super) url: &'static str,
    pub(super) value_code: &'static str,
}

#[derive(Serialize)]
pub(super) struct Qualification {
    pub(super) code: Concept,
}

#[derive(Serialize)]
pub(super) struct ContactPoint {
    pub(super) system: &'static str,
    pub(super) value: String,
    #[serde(rename = "use")]
    pub(super) use_code: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Address {
    #[serde(rename = "use")]
    pub(super) use_code: &'static str,
    pub(super) line: [String; 1],
    pub(super) city: String,
    pub(super) postal_code: String,
    pub(super) country: String,
}

#[derive(Serialize)]
pub(super) struct Communication {
    pub(super) language: Concept,
    pub(super) preferred: bool,
}

#[derive(Serialize)]
pub(super) struct Concept {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) coding: Vec<Coding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Coding {
    pub(super) system: &'static str,
    pub(super) code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) display: Option<&'static str>,
}

#[derive(Serialize)]
pub(super) struct Reference {
    pub(super) reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) display: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Period {
    pub(super) start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Context {
    pub(super) encounter: [Reference; 1],
}

#[derive(Serialize)]
pub(super) struct Content {
    attachment: Attachment,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attachment {
    content_type: &'static str,
    language: &'static str,
    data: String,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
}

impl Content {
    pub(super) fn plain(text: &str, language: &'static str, title: Option<String>) -> Self {
        let data = STANDARD.encode(text);
        Self {
            attachment: Attachment {
                content_type: "text/plain; charset=utf-8",
                language,
                data,
                size: text.len(),
                title,
            },
        }
    }
}

impl Identifier {
    /// Returns an identifier with a type of HL7 table 0203.
    pub(super) fn typed(code: &'static str, system: &'static str, value: String) -> Self {
        Self { kind: Concept::coded("http://terminology.hl7.org/CodeSystem/v2-0203", code, None), system, value }
    }
}

impl Concept {
    pub(super) fn coded(system: &'static str, code: &'static str, display: Option<&'static str>) -> Self {
        Self { coding: vec![Coding { system, code, display }], text: None }
    }

    pub(super) fn text(text: &'static str) -> Self {
        Self { coding: Vec::new(), text: Some(text) }
    }

    /// Returns the type of a note by its LOINC code.
    pub(super) fn note_type(code: &'static str) -> Self {
        Self::coded("http://loinc.org", code, note_type::display(code))
    }
}

impl Reference {
    pub(super) fn to(kind: &str, id: &str) -> Self {
        Self { reference: format!("{kind}/{id}"), display: None }
    }
}
