//! The demographics of a patient: names in the script of the language and in Latin letters, identifiers, dates and
//! contact data. Identifier systems and e-mail addresses are under `.example`, and telephone numbers begin with +999,
//! which no country has.

use super::organisation::{Language, Organisation};
use super::phrases::{Facts, Scope};
use super::random::SplitMix64;
use super::resources::{Address, Communication, Concept, ContactPoint, Extension, HumanName, Identifier, Patient};
use crate::fhir::Sex;
use chrono::{Days, NaiveDate};

/// The systems of the patients' identifiers.
pub(super) const RECORD_NUMBER: &str = "https://sample.example/record";
const NATIONAL_NUMBER: &str = "https://nation.example/person";
const MEMBER_NUMBER: &str = "https://insurer.example/member";
/// The age groups of patients: weight, minimum and maximum age in years. Old people are seen more often than others.
const AGE_GROUPS: [(u64, u64, u64); 6] =
    [(4, 0, 1), (14, 2, 15), (28, 16, 44), (27, 45, 64), (21, 65, 84), (6, 85, 99)];

pub(super) struct SamplePatient<'h> {
    pub(super) id: String,
    pub(super) name: SampleName,
    pub(super) sex: Sex,
    pub(super) birth_date: NaiveDate,
    pub(super) death_date: Option<NaiveDate>,
    pub(super) language: &'h Language,
    number: u64,
}

/// A name in the script of its language and, if that is another one, in Latin letters.
pub(super) struct SampleName {
    native: NameParts,
    latin: Option<NameParts>,
    title: Option<&'static str>,
    family_first_separator: Option<&'static str>,
}

struct NameParts {
    family: String,
    given: String,
}

impl<'h> SamplePatient<'h> {
    /// Draws the `number`th patient, as known on the day `until`.
    pub(super) fn draw(
        organisation: &'h Organisation,
        number: u64,
        until: NaiveDate,
        random: &mut SplitMix64,
    ) -> Option<Self> {
        let language = organisation.draw_language(random)?;
        let sex = match random.below(200) {
            0 => Sex::Unknown,
            1 | 2 => Sex::Other,
            3..=102 => Sex::Female,
            _ => Sex::Male,
        };
        let &(_, youngest, oldest) = random.pick_weighted(&AGE_GROUPS, |group| group.0)?;
        let age_days = random.between(youngest * 365, oldest * 365 + 364);
        // One day for every leap year.
        let birth_date = until.checked_sub_days(Days::new(age_days + age_days / 1461))?;
        let death_percent = match age_days / 365 {
            0..=44 => 1,
            45..=64 => 3,
            65..=84 => 10,
            _ => 30,
        };
        let death_date = if random.chance(death_percent) {
            until.checked_sub_days(Days::new(random.between(1, 2000.min(age_days / 2 + 1))))
        } else {
            None
        };
        let facts = Facts { sex: Some(sex), ..Facts::default() };
        let name = SampleName::draw(
            language,
            Scope { phrases: &language.phrases, problem: None, facts: &facts },
            None,
            random,
        );
        Some(Self {
            id: format!("{}-{number}", organisation.seed),
            name,
            sex,
            birth_date,
            death_date,
            language,
            number,
        })
    }

    /// Returns the age in whole years on a day.
    pub(super) fn age(&self, day: NaiveDate) -> u64 {
        day.years_since(self.birth_date).unwrap_or_default().into()
    }

    pub(super) fn to_resource(&self, random: &mut SplitMix64) -> Patient {
        let facts = Facts { sex: Some(self.sex), ..Facts::default() };
        let scope = Scope { phrases: &self.language.phrases, problem: None, facts: &facts };
        let birth_date = match random.below(100) {
            0 => self.birth_date.format("%Y"),
            1 => self.birth_date.format("%Y-%m"),
            _ => self.birth_date.format("%Y-%m-%d"),
        };
        let mut identifier = vec![Identifier::typed("MR", RECORD_NUMBER, with_check_digit(&self.id))];
        identifier.extend(
            random.chance(80).then(|| Identifier::typed("NI", NATIONAL_NUMBER, scope.text("national", random))),
        );
        identifier
            .extend(random.chance(60).then(|| Identifier::typed("MB", MEMBER_NUMBER, scope.text("member", random))));
        let phone = ContactPoint {
            system: "phone",
            value: format!("+999 {:09}", random.below(1_000_000_000)),
            use_code: "mobile",
        };
        let email =
            ContactPoint { system: "email", value: format!("patient.{}@mail.example", self.number), use_code: "home" };
        let known_death_date = self.death_date.filter(|_| random.chance(80));
        Patient {
            id: self.id.clone(),
            identifier,
            name: self.name.to_fhir(),
            telecom: std::iter::once(phone).chain(random.chance(40).then_some(email)).collect(),
            gender: self.sex.name().to_ascii_lowercase(),
            birth_date: birth_date.to_string(),
            deceased_boolean: (self.death_date.is_some() && known_death_date.is_none()).then_some(true),
            deceased_date_time: known_death_date
                .map(|day| format!("{day}T{:02}:{:02}:00+01:00", random.below(24), random.below(60))),
            address: vec![Address {
                use_code: "home",
                line: [scope.text("street", random)],
                city: scope.text("city", random),
                postal_code: scope.text("postcode", random),
                country: scope.text("country", random),
            }],
            communication: vec![Communication {
                language: Concept::coded("urn:ietf:bcp:47", self.language.code, None),
                preferred: true,
            }],
        }
    }
}

impl SampleName {
    /// Draws a name of this language for the sex in the scope.
    pub(super) fn draw(
        language: &Language,
        scope: Scope<'_>,
        title: Option<&'static str>,
        random: &mut SplitMix64,
    ) -> Self {
        let (family, given) = (scope.text("family", random), scope.text("given", random));
        let parts = |family: &str, given: &str| NameParts { family: family.to_owned(), given: given.to_owned() };
        let (native, latin) = match (family.split_once('/'), given.split_once('/')) {
            (Some((family, latin_family)), Some((given, latin_given))) => {
                (parts(family, given), Some(parts(latin_family, latin_given)))
            }
            _ => (parts(&family, &given), None),
        };
        Self { native, latin, title, family_first_separator: language.family_first_separator }
    }

    /// Returns the name as one text, with title.
    pub(super) fn text(&self) -> String {
        let NameParts { family, given } = &self.native;
        let name = self
            .family_first_separator
            .map_or_else(|| format!("{given} {family}"), |separator| format!("{family}{separator}{given}"));
        self.title.map_or(name.clone(), |title| format!("{title} {name}"))
    }

    /// Returns the FHIR elements of the name: in the script of its language, and then in Latin letters.
    pub(super) fn to_fhir(&self) -> Vec<HumanName> {
        let element = |parts: &NameParts, use_code, text, extension| HumanName {
            extension,
            use_code,
            text,
            family: parts.family.clone(),
            given: parts.given.split(' ').map(str::to_owned).collect(),
            prefix: self.title.into_iter().collect(),
        };
        let alphabetic =
            Extension { url: "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation", value_code: "ABC" };
        let native = element(&self.native, "official", self.family_first_separator.map(|_| self.text()), Vec::new());
        let latin = self.latin.as_ref().map(|latin| element(latin, "usual", None, vec![alphabetic]));
        std::iter::once(native).chain(latin).collect()
    }
}

/// Appends a hyphen and the Luhn check digit of the digits in `number`.
fn with_check_digit(number: &str) -> String {
    let digits = number.chars().rev().filter_map(|digit| digit.to_digit(10));
    let sum: u32 =
        digits.enumerate().map(|(at, digit)| if at % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { digit }).sum();
    format!("{number}-{}", (10 - sum % 10) % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_digit_is_luhns() {
        assert_eq!(with_check_digit("7992739871"), "7992739871-3");
        assert_eq!(with_check_digit("1-42"), "1-42-0");
    }
}
