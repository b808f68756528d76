//! Who a patient is: names in the script of the language and in Latin letters, numbers, dates of life, how to reach them.
//! Numbers and addresses are made up under `.example`, and telephone numbers under +999, which no country has.

use super::bank::{Facts, Scope};
use super::house::{House, Tongue};
use super::random::Random;
use super::wire::{Address, Communication, Concept, ContactPoint, Extension, HumanName, Identifier, Patient};
use crate::fhir::Sex;
use chrono::{Days, NaiveDate};

/// Systems of the numbers that patients are known by.
pub(super) const RECORD_NUMBER: &str = "https://sample.example/record";
const NATIONAL_NUMBER: &str = "https://nation.example/person";
const MEMBER_NUMBER: &str = "https://insurer.example/member";
/// How old patients are: weight, youngest, oldest. A house sees more of the old than a street does.
const AGES: [(u64, u64, u64); 6] = [(4, 0, 1), (14, 2, 15), (28, 16, 44), (27, 45, 64), (21, 65, 84), (6, 85, 99)];

/// A patient.
pub(super) struct Person<'h> {
    pub(super) id: String,
    pub(super) name: Name,
    pub(super) sex: Sex,
    pub(super) born: NaiveDate,
    pub(super) died: Option<NaiveDate>,
    pub(super) tongue: &'h Tongue,
    number: u64,
}

/// A name as it is written, and in Latin letters where that is something else.
pub(super) struct Name {
    spoken: Parts,
    latin: Option<Parts>,
    title: Option<&'static str>,
    family_first: Option<&'static str>,
}

struct Parts {
    family: String,
    given: String,
}

impl<'h> Person<'h> {
    /// The `number`th patient, as known on the day `until`.
    pub(super) fn of(house: &'h House, number: u64, until: NaiveDate, random: &mut Random) -> Option<Self> {
        let tongue = house.tongue(random)?;
        let sex = match random.below(200) {
            0 => Sex::Unknown,
            1 | 2 => Sex::Other,
            3..=102 => Sex::Female,
            _ => Sex::Male,
        };
        let &(_, youngest, oldest) = random.weighed(&AGES, |ages| ages.0)?;
        let lived = random.between(youngest * 365, oldest * 365 + 364);
        let born = until.checked_sub_days(Days::new(lived + lived / 1461))?;
        let mortality = match lived / 365 {
            0..=44 => 1,
            45..=64 => 3,
            65..=84 => 10,
            _ => 30,
        };
        let died = if random.chance(mortality) {
            until.checked_sub_days(Days::new(random.between(1, 2000.min(lived / 2 + 1))))
        } else {
            None
        };
        let facts = Facts { sex: Some(sex), ..Facts::default() };
        let name = Name::drawn(tongue, Scope { bank: &tongue.bank, problem: None, facts: &facts }, None, random);
        Some(Self { id: format!("{}-{number}", house.seed), name, sex, born, died, tongue, number })
    }

    /// Age in whole years.
    pub(super) fn age(&self, on: NaiveDate) -> u64 {
        on.years_since(self.born).unwrap_or_default().into()
    }

    pub(super) fn resource(&self, random: &mut Random) -> Patient {
        let facts = Facts { sex: Some(self.sex), ..Facts::default() };
        let scope = Scope { bank: &self.tongue.bank, problem: None, facts: &facts };
        let birth_date = match random.below(100) {
            0 => self.born.format("%Y"),
            1 => self.born.format("%Y-%m"),
            _ => self.born.format("%Y-%m-%d"),
        };
        let mut identifier = vec![Identifier::typed("MR", RECORD_NUMBER, checked(&self.id))];
        identifier.extend(
            random.chance(80).then(|| Identifier::typed("NI", NATIONAL_NUMBER, scope.text("national", random))),
        );
        identifier
            .extend(random.chance(60).then(|| Identifier::typed("MB", MEMBER_NUMBER, scope.text("member", random))));
        let phone = ContactPoint {
            system: "phone",
            value: format!("+999 {:09}", random.below(1_000_000_000)),
            usage: "mobile",
        };
        let email =
            ContactPoint { system: "email", value: format!("patient.{}@mail.example", self.number), usage: "home" };
        let known_time = self.died.filter(|_| random.chance(80));
        Patient {
            id: self.id.clone(),
            identifier,
            name: self.name.elements(),
            telecom: std::iter::once(phone).chain(random.chance(40).then_some(email)).collect(),
            gender: self.sex.name().to_ascii_lowercase(),
            birth_date: birth_date.to_string(),
            deceased_boolean: (self.died.is_some() && known_time.is_none()).then_some(true),
            deceased_date_time: known_time
                .map(|day| format!("{day}T{:02}:{:02}:00+01:00", random.below(24), random.below(60))),
            address: vec![Address {
                usage: "home",
                line: [scope.text("street", random)],
                city: scope.text("city", random),
                postal_code: scope.text("postcode", random),
                country: scope.text("country", random),
            }],
            communication: vec![Communication {
                language: Concept::coded("urn:ietf:bcp:47", self.tongue.code, None),
                preferred: true,
            }],
        }
    }
}

impl Name {
    /// A name of this language, for the sex in the scope.
    pub(super) fn drawn(tongue: &Tongue, scope: Scope<'_>, title: Option<&'static str>, random: &mut Random) -> Self {
        let (family, given) = (scope.text("family", random), scope.text("given", random));
        let parts = |family: &str, given: &str| Parts { family: family.to_owned(), given: given.to_owned() };
        let (spoken, latin) = match (family.split_once('/'), given.split_once('/')) {
            (Some((family, latin_family)), Some((given, latin_given))) => {
                (parts(family, given), Some(parts(latin_family, latin_given)))
            }
            _ => (parts(&family, &given), None),
        };
        Self { spoken, latin, title, family_first: tongue.family_first }
    }

    /// As one text.
    pub(super) fn written(&self) -> String {
        let Parts { family, given } = &self.spoken;
        let name =
            self.family_first.map_or_else(|| format!("{given} {family}"), |joint| format!("{family}{joint}{given}"));
        self.title.map_or(name.clone(), |title| format!("{title} {name}"))
    }

    /// As FHIR has it: the name in its own script first.
    pub(super) fn elements(&self) -> Vec<HumanName> {
        let element = |parts: &Parts, usage, text, extension| HumanName {
            extension,
            usage,
            text,
            family: parts.family.clone(),
            given: parts.given.split(' ').map(str::to_owned).collect(),
            prefix: self.title.into_iter().collect(),
        };
        let alphabetic =
            Extension { url: "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation", value_code: "ABC" };
        let own = element(&self.spoken, "official", self.family_first.map(|_| self.written()), Vec::new());
        let latin = self.latin.as_ref().map(|latin| element(latin, "usual", None, vec![alphabetic]));
        std::iter::once(own).chain(latin).collect()
    }
}

/// A number with a check digit after it (Luhn's).
fn checked(number: &str) -> String {
    let digits = number.chars().rev().filter_map(|digit| digit.to_digit(10));
    let sum: u32 =
        digits.enumerate().map(|(at, digit)| if at % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { digit }).sum();
    format!("{number}-{}", (10 - sum % 10) % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_their_check_digit() {
        assert_eq!(checked("7992739871"), "7992739871-3");
        assert_eq!(checked("1-42"), "1-42-0");
    }
}
