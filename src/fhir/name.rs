//! Names of people: a `HumanName` as one text, and which of several names is preferred.

use super::FhirError;
use super::element::{JsonStr, non_blank};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of a person, as one text and in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HumanName {
    /// The family name.
    pub family: Option<String>,
    /// The given names, in order.
    pub given: Vec<String>,
    /// The whole name as a chart shows it; never empty.
    pub text: String,
}

/// A `HumanName` of FHIR.
#[derive(Debug, Deserialize)]
pub(super) struct NameElement<'a> {
    #[serde(borrow, rename = "use")]
    use_code: Option<JsonStr<'a>>,
    #[serde(borrow)]
    text: Option<JsonStr<'a>>,
    #[serde(borrow)]
    family: Option<JsonStr<'a>>,
    // A part is `null` if the source has only an extension for it.
    #[serde(borrow, default)]
    given: Vec<Option<JsonStr<'a>>>,
    #[serde(borrow, default)]
    prefix: Vec<Option<JsonStr<'a>>>,
    #[serde(borrow, default)]
    suffix: Vec<Option<JsonStr<'a>>>,
    #[serde(borrow, default)]
    extension: Vec<Extension<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extension<'a> {
    #[serde(borrow)]
    url: Option<JsonStr<'a>>,
    #[serde(borrow)]
    value_code: Option<JsonStr<'a>>,
}

/// Whether a name as one text includes titles. The names of practitioners do, those of patients do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Titles {
    /// "Dr. Ann Lee"
    Include,
    /// "Ann Lee"
    Omit,
}

impl NameElement<'_> {
    /// Returns the name, or `None` if all its parts are empty.
    pub(super) fn to_human_name(&self, titles: Titles) -> Option<HumanName> {
        let given: Vec<String> = parts(&self.given).map(str::to_owned).collect();
        let family = non_blank(&self.family).map(|family| family.trim().to_owned());
        let text = non_blank(&self.text).map(|text| text.trim().to_owned()).unwrap_or_else(|| {
            let prefix = parts(&self.prefix).filter(|_| titles == Titles::Include);
            // East Asian names begin with the family name.
            let family_first = family.as_deref().is_some_and(|family| family.chars().any(is_east_asian));
            let (first, last) = if family_first { (family.as_deref(), None) } else { (None, family.as_deref()) };
            let words =
                prefix.chain(first).chain(given.iter().map(String::as_str)).chain(last).chain(parts(&self.suffix));
            words.collect::<Vec<_>>().join(" ")
        });
        (!text.is_empty()).then_some(HumanName { family, given, text })
    }

    /// Returns the rank of the name; the lowest is preferred. Current names come before former ones, and of several
    /// representations of one name the ideographic comes before the alphabetic and that before the phonetic one.
    pub(super) fn rank(&self) -> (u8, u8) {
        let use_rank = match self.use_code.as_ref().map(JsonStr::as_str) {
            Some("official") => 0,
            Some("usual") => 1,
            None => 2,
            Some("old" | "maiden") => 4,
            Some(_) => 3,
        };
        let is_representation = |extension: &&Extension| {
            non_blank(&extension.url).is_some_and(|url| url.ends_with("/iso21090-EN-representation"))
        };
        let representation_rank = match self
            .extension
            .iter()
            .find(is_representation)
            .and_then(|extension| non_blank(&extension.value_code))
        {
            None | Some("IDE") => 0,
            Some("ABC") => 1,
            Some(_) => 2,
        };
        (use_rank, representation_rank)
    }
}

fn parts<'t>(list: &'t [Option<JsonStr<'_>>]) -> impl Iterator<Item = &'t str> {
    list.iter().filter_map(|part| non_blank(part).map(str::trim))
}

/// Returns whether a character is Kana, Han or Hangul.
fn is_east_asian(letter: char) -> bool {
    matches!(
        letter,
        '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}'
    )
}

/// Returns the preferred name, and the elements of the other names unchanged.
pub(super) fn select_name(elements: &[Value]) -> Result<(Option<HumanName>, Vec<Value>), FhirError> {
    let names = elements.iter().map(NameElement::deserialize).collect::<Result<Vec<_>, _>>()?;
    let preferred = names
        .iter()
        .enumerate()
        .filter(|(_, name)| name.to_human_name(Titles::Omit).is_some())
        .min_by_key(|(_, name)| name.rank());
    let Some((selected, name)) = preferred else { return Ok((None, Vec::new())) };
    let others =
        elements.iter().enumerate().filter(|&(index, _)| index != selected).map(|(_, name)| name.clone()).collect();
    Ok((name.to_human_name(Titles::Omit), others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fhir::{Aliases, ImportedPatient, ReferenceContext, Sex};
    use serde_json::json;

    fn read(resource: Value) -> Result<ImportedPatient, FhirError> {
        let context = ReferenceContext { full_url: None, aliases: &Aliases::default() };
        ImportedPatient::read(&resource.to_string(), &context)
    }

    #[test]
    fn the_official_name_is_selected_and_the_others_are_kept() {
        let maiden = json!({ "use": "maiden", "family": "Before", "given": ["Ann"] });
        let patient = read(json!({ "resourceType": "Patient", "id": "p", "gender": "female", "birthDate": "1980-02",
            "name": [maiden, { "use": "official", "family": "O'Hara", "given": ["Ann", null, "Bea"], "prefix": ["Mrs."],
                "suffix": ["MD"] }] }))
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
    fn a_current_name_is_preferred_to_an_old_one() {
        let patient = read(
            json!({ "resourceType": "Patient", "id": "p", "name": [{ "use": "old", "family": "A" }, { "family": "B" },
                { "use": "usual", "family": "C" }] }),
        );
        assert_eq!(patient.unwrap().name.unwrap().text, "C");
        let only =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "use": "old", "family": "A" }] })).unwrap();
        assert_eq!(only.name.unwrap().text, "A");
        assert_eq!(read(json!({ "resourceType": "Patient", "id": "p", "name": [{}] })).unwrap().name, None);
    }

    #[test]
    fn the_ideographic_name_is_preferred_to_the_phonetic_one() {
        let name = |code: &str, text: &str| {
            let url = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation";
            json!({ "use": "official", "text": text, "extension": [{ "url": url, "valueCode": code }] })
        };
        let patient =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [name("SYL", "ヤマダ タロウ"), name("IDE",
                "山田 太郎")] }))
            .unwrap();
        assert_eq!(patient.name.unwrap().text, "山田 太郎");
        assert!(patient.contact.unwrap().to_string().contains("ヤマダ"));
        let parts =
            read(json!({ "resourceType": "Patient", "id": "p", "name": [{ "family": "山田", "given": ["太郎"] }] }))
                .unwrap();
        assert_eq!(parts.name.unwrap().text, "山田 太郎");
    }
}
