//! Patients: who they are, the numbers they are known by, how to reach them.
//! Decides which of several names is the name, and which identifiers no two charts of an organisation may share.

use super::date::{Edge, calendar, instant};
use super::element::{Identifier, Meta, Provenance, Text, Token, code_like, said};
use super::{Defect, Place, ResourceKind, fingerprint, read};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A patient as imported.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImportedPatient {
    /// `Patient/<id>` in the source.
    pub key: String,
    /// Numbers, in the order given.
    pub identifiers: Vec<PatientIdentifier>,
    /// The name in use.
    pub name: Option<HumanName>,
    /// `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    pub birth_date: Option<String>,
    /// Administrative sex.
    pub sex: Sex,
    /// When the patient died, where that is known.
    pub deceased_at: Option<DateTime<Utc>>,
    /// `telecom`, `address`, `communication`, `names` (the others) and `deceased`, as given; absent when there is none of it.
    pub contact: Option<Value>,
    /// Where it comes from.
    pub source: Provenance,
}

/// A number a patient is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PatientIdentifier {
    /// System and value.
    pub identifier: Identifier,
    /// Code of HL7 table 0203: `MR`, `SS`, `DL` …
    pub kind: Option<String>,
    /// Handed out by the organisation, so that no two charts have it. What patients bring along (a licence, a passport) may stand in two.
    pub exclusive: bool,
}

/// A name, whole and in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HumanName {
    /// Family name.
    pub family: Option<String>,
    /// Given names, in order.
    pub given: Vec<String>,
    /// As it is written on a chart.
    pub text: String,
}

/// Administrative sex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Sex {
    /// `female`
    Female,
    /// `male`
    Male,
    /// `other`
    Other,
    /// Not known, not said, or said in words FHIR does not have.
    Unknown,
}

impl Sex {
    /// The name it is stored and shown by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Female => "FEMALE",
            Self::Male => "MALE",
            Self::Other => "OTHER",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn of(gender: Option<&str>) -> Self {
        match gender {
            Some("female") => Self::Female,
            Some("male") => Self::Male,
            Some("other") => Self::Other,
            _ => Self::Unknown,
        }
    }
}

impl ImportedPatient {
    /// Reads a `Patient`.
    pub fn read(text: &str, place: &Place<'_>) -> Result<Self, Defect> {
        let wire: Patient = read(text)?;
        let key = place.key(ResourceKind::Patient, &wire.id)?;
        let deceased_at = said(&wire.deceased_date_time).map(|text| instant(text, Edge::First)).transpose()?;
        let identifiers = wire.identifier.iter().map(patient_identifier).collect::<Result<Vec<_>, _>>()?;
        let (name, others) = names(&wire.name)?;
        let mut contact = Map::new();
        let parts = [
            ("telecom", wire.telecom),
            ("address", wire.address),
            ("communication", wire.communication),
            ("names", others),
        ];
        contact.extend(
            parts
                .into_iter()
                .filter(|(_, list)| !list.is_empty())
                .map(|(part, list)| (part.to_owned(), Value::Array(list))),
        );
        if wire.deceased_boolean == Some(true) {
            contact.insert("deceased".into(), true.into());
        }
        let gender = wire.gender.as_ref().map(Text::as_str);
        let source = Provenance::new(wire.id.as_ref().map(Text::as_str), wire.meta)
            .keep("identifier", Value::Array(wire.identifier))
            .keep("gender", gender.filter(|_| Sex::of(gender) == Sex::Unknown).map(Value::from))
            .keep("deceasedDateTime", said(&wire.deceased_date_time).filter(|text| text.len() <= 10).map(Value::from));
        Ok(Self {
            key,
            identifiers: identifiers.into_iter().flatten().collect(),
            name,
            birth_date: said(&wire.birth_date).map(calendar).transpose()?,
            sex: Sex::of(gender),
            deceased_at,
            contact: (!contact.is_empty()).then_some(Value::Object(contact)),
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
struct Patient<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    meta: Option<Meta>,
    #[serde(default)]
    identifier: Vec<Value>,
    #[serde(default)]
    name: Vec<Value>,
    #[serde(default)]
    telecom: Vec<Value>,
    #[serde(borrow)]
    gender: Option<Text<'a>>,
    #[serde(borrow)]
    birth_date: Option<Text<'a>>,
    deceased_boolean: Option<bool>,
    #[serde(borrow)]
    deceased_date_time: Option<Text<'a>>,
    #[serde(default)]
    address: Vec<Value>,
    #[serde(default)]
    communication: Vec<Value>,
}

/// A name as it stands in a resource.
#[derive(Debug, Deserialize)]
pub(super) struct NameElement<'a> {
    #[serde(borrow, rename = "use")]
    usage: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    family: Option<Text<'a>>,
    // A missing part is `null` when only an extension stands for it.
    #[serde(borrow, default)]
    given: Vec<Option<Text<'a>>>,
    #[serde(borrow, default)]
    prefix: Vec<Option<Text<'a>>>,
    #[serde(borrow, default)]
    suffix: Vec<Option<Text<'a>>>,
    #[serde(borrow, default)]
    extension: Vec<Extension<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extension<'a> {
    #[serde(borrow)]
    url: Option<Text<'a>>,
    #[serde(borrow)]
    value_code: Option<Text<'a>>,
}

/// Titles belong to the written name of a doctor, not to that of a patient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Titles {
    /// "Dr. Ann Lee"
    Written,
    /// "Ann Lee"
    LeftOut,
}

impl NameElement<'_> {
    /// The name, unless nothing of it is there.
    pub(super) fn written(&self, titles: Titles) -> Option<HumanName> {
        let given: Vec<String> = parts(&self.given).map(str::to_owned).collect();
        let family = said(&self.family).map(|family| family.trim().to_owned());
        let text = said(&self.text).map(|text| text.trim().to_owned()).unwrap_or_else(|| {
            let prefix = parts(&self.prefix).filter(|_| titles == Titles::Written);
            // Where family names come first, they do so whatever the order of the elements.
            let eastern = family.as_deref().is_some_and(|family| family.chars().any(is_east_asian));
            let (first, last) = if eastern { (family.as_deref(), None) } else { (None, family.as_deref()) };
            let words =
                prefix.chain(first).chain(given.iter().map(String::as_str)).chain(last).chain(parts(&self.suffix));
            words.collect::<Vec<_>>().join(" ")
        });
        (!text.is_empty()).then_some(HumanName { family, given, text })
    }

    /// Lower is better: names in use before former ones; of two writings of one name the ideographic before the Latin before the phonetic.
    pub(super) fn rank(&self) -> (u8, u8) {
        let usage = match self.usage.as_ref().map(Text::as_str) {
            Some("official") => 0,
            Some("usual") => 1,
            None => 2,
            Some("old" | "maiden") => 4,
            Some(_) => 3,
        };
        let is_writing = |extension: &&Extension| {
            said(&extension.url).is_some_and(|url| url.ends_with("/iso21090-EN-representation"))
        };
        let writing = match self.extension.iter().find(is_writing).and_then(|extension| said(&extension.value_code)) {
            None | Some("IDE") => 0,
            Some("ABC") => 1,
            Some(_) => 2,
        };
        (usage, writing)
    }
}

fn parts<'t>(list: &'t [Option<Text<'_>>]) -> impl Iterator<Item = &'t str> {
    list.iter().filter_map(|part| said(part).map(str::trim))
}

/// Kana, Han characters and Hangul.
fn is_east_asian(letter: char) -> bool {
    matches!(letter, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}')
}

/// The name in use, and the others as given.
fn names(given: &[Value]) -> Result<(Option<HumanName>, Vec<Value>), Defect> {
    let read = given.iter().map(NameElement::deserialize).collect::<Result<Vec<_>, _>>()?;
    let best = read
        .iter()
        .enumerate()
        .filter(|(_, name)| name.written(Titles::LeftOut).is_some())
        .min_by_key(|(_, name)| name.rank());
    let Some((chosen, name)) = best else { return Ok((None, Vec::new())) };
    let others = given.iter().enumerate().filter(|&(at, _)| at != chosen).map(|(_, name)| name.clone()).collect();
    Ok((name.written(Titles::LeftOut), others))
}

fn patient_identifier(given: &Value) -> Result<Option<PatientIdentifier>, Defect> {
    let token = Token::deserialize(given)?;
    let Some(identifier) = token.identifier() else { return Ok(None) };
    let kind = token.kind.as_ref().and_then(|kind| {
        let coded =
            kind.coding.iter().filter(|coding| said(&coding.system).is_none_or(|system| system.ends_with("v2-0203")));
        coded.filter_map(|coding| code_like(said(&coding.code))).next()
    });
    let in_use = said(&token.usage) != Some("old");
    let exclusive = in_use && is_exclusive(&identifier.system, kind.as_deref());
    Ok(Some(PatientIdentifier { identifier, kind, exclusive }))
}

/// Numbers an organisation hands out: by their type, and without one by their system, unless that is a state's.
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

    fn read(resource: Value) -> Result<ImportedPatient, Defect> {
        ImportedPatient::read(&resource.to_string(), &Place { full_url: None, aliases: &Aliases::default() })
    }

    fn typed(code: &str, system: &str, value: &str) -> Value {
        json!({ "type": { "coding": [{ "system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": code }] }, "system": system, "value": value })
    }

    #[test]
    fn the_official_name_is_the_name_and_the_others_are_kept() {
        let maiden = json!({ "use": "maiden", "family": "Before", "given": ["Ann"] });
        let patient = read(json!({ "resourceType": "Patient", "id": "p", "gender": "female", "birthDate": "1980-02",
            "name": [maiden, { "use": "official", "family": "O'Hara", "given": ["Ann", null, "Bea"], "prefix": ["Mrs."], "suffix": ["MD"] }] }))
        .unwrap();
        assert_eq!(patient.key, "Patient/p");
        let name = patient.name.unwrap();
        assert_eq!(
            (name.family.as_deref(), name.given.len(), name.text.as_str()),
            (Some("O'Hara"), 2, "Ann Bea O'Hara MD")
        );
        assert_eq!(patient.contact, Some(json!({ "names": [maiden] })));
        assert_eq!((patient.sex, patient.birth_date.as_deref()), (Sex::Female, Some("1980-02")));
    }

    #[test]
    fn an_old_name_never_wins_over_one_in_use() {
        let patient = read(
            json!({ "resourceType": "Patient", "id": "p", "name": [{ "use": "old", "family": "A" }, { "family": "B" }, { "use": "usual", "family": "C" }] }),
        );
        assert_eq!(patient.unwrap().name.unwrap().text, "C");
        let only =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "use": "old", "family": "A" }] })).unwrap();
        assert_eq!(only.name.unwrap().text, "A");
        assert_eq!(read(json!({ "resourceType": "Patient", "id": "p", "name": [{}] })).unwrap().name, None);
    }

    #[test]
    fn ideographs_come_before_their_reading() {
        let written = |code: &str, text: &str| {
            let url = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation";
            json!({ "use": "official", "text": text, "extension": [{ "url": url, "valueCode": code }] })
        };
        let patient =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [written("SYL", "ヤマダ タロウ"), written("IDE", "山田 太郎")] }))
                .unwrap();
        assert_eq!(patient.name.unwrap().text, "山田 太郎");
        assert!(patient.contact.unwrap().to_string().contains("ヤマダ"));
        let parts =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "family": "山田", "given": ["太郎"] }] }))
                .unwrap();
        assert_eq!(parts.name.unwrap().text, "山田 太郎");
    }

    #[test]
    fn what_patients_bring_along_is_not_exclusive() {
        let given = [
            typed("MR", "urn:mrn", "1"),
            typed("DL", "urn:oid:2.16.840.1.113883.4.3.25", "S99912132"),
            typed("SS", "http://hl7.org/fhir/sid/us-ssn", "999"),
            json!({ "system": "https://example.org/charts", "value": "7" }),
            json!({ "system": "http://hl7.org/fhir/sid/us-ssn", "value": "999" }),
            json!({ "value": "bare" }),
            json!({ "use": "old", "system": "https://example.org/charts", "value": "6" }),
            json!({ "system": "without a value" }),
        ];
        let patient = read(json!({ "resourceType": "Patient", "id": "p", "identifier": given })).unwrap();
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
    fn death_is_a_time_or_a_fact() {
        let at = read(json!({ "resourceType": "Patient", "id": "p", "deceasedDateTime": "2014-08-30T10:00:00-04:00" }))
            .unwrap();
        assert_eq!(at.deceased_at.unwrap().to_rfc3339(), "2014-08-30T14:00:00+00:00");
        let fact = read(json!({ "resourceType": "Patient", "id": "p", "deceasedBoolean": true })).unwrap();
        assert_eq!((fact.deceased_at, fact.contact), (None, Some(json!({ "deceased": true }))));
        let alive = read(json!({ "resourceType": "Patient", "id": "p", "deceasedBoolean": false })).unwrap();
        assert_eq!((alive.deceased_at, alive.contact), (None, None));
    }

    #[test]
    fn hostile_texts_are_data_or_a_defect() {
        let name = r#"Robert'); DROP TABLE patients;-- \ " "#.trim();
        let patient =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "text": name }], "gender": "x'; --" }))
                .unwrap();
        assert_eq!((patient.name.unwrap().text.as_str(), patient.sex), (name, Sex::Unknown));
        assert_eq!(
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "text": "a\u{0}b" }] })),
            Err(Defect::NulCharacter)
        );
        assert_eq!(
            read(json!({ "resourceType": "Patient", "id": "p", "birthDate": "1980-02-30" })),
            Err(Defect::InvalidDate)
        );
        assert_eq!(read(json!({ "resourceType": "Patient", "id": "p", "name": "Ann" })), Err(Defect::InvalidResource));
        assert_eq!(read(json!({ "resourceType": "Patient" })), Err(Defect::NoId));
    }

    #[test]
    fn a_new_export_of_the_same_is_no_change() {
        let exported = |version: &str, family: &str| {
            let meta = json!({ "versionId": version, "lastUpdated": "2024-01-01T00:00:00Z" });
            read(json!({ "resourceType": "Patient", "id": "p", "meta": meta, "name": [{ "family": family }] }))
                .unwrap()
                .fingerprint()
                .unwrap()
        };
        assert_eq!(exported("1", "Lee"), exported("2", "Lee"));
        assert_ne!(exported("1", "Lee"), exported("1", "Li"));
    }
}
