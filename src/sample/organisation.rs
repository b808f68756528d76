//! The organisation whose charts are written: the languages of its patients and its staff. It is created once per run.

use super::patient::SampleName;
use super::phrases::{Facts, PhraseBank, Scope};
use super::random::SplitMix64;
use super::resources::{Concept, Identifier, Practitioner, Qualification};
use super::speciality::Speciality;
use crate::fhir::Sex;
use std::io;

const STAFF_PER_SPECIALITY: usize = 4;
/// The kind of the random streams of staff members.
const STREAM_KIND: u64 = 1;

pub(super) struct Organisation {
    pub(super) seed: u64,
    languages: Vec<Language>,
    staff: Vec<StaffMember>,
}

/// A language with its phrases.
pub(super) struct Language {
    /// The BCP 47 code.
    pub(super) code: &'static str,
    /// The percentage of patients.
    percent: u64,
    /// The text between family name and given name, if the family name comes first.
    pub(super) family_first_separator: Option<&'static str>,
    pub(super) phrases: PhraseBank,
}

pub(super) struct StaffMember {
    pub(super) id: String,
    pub(super) name: SampleName,
    number: String,
    speciality: Speciality,
}

macro_rules! language {
    ($code:literal, $percent:literal, $family_first_separator:expr, $($text:literal),+) => {
        Language {
            code: $code,
            percent: $percent,
            family_first_separator: $family_first_separator,
            phrases: PhraseBank::read(&[$(include_str!(concat!("texts/", $text, ".txt"))),+])?,
        }
    };
}

impl Organisation {
    pub(super) fn new(seed: u64) -> io::Result<Self> {
        let languages = vec![
            language!("en", 34, None, "en", "en_inner", "en_outer", "en_young"),
            language!("es", 8, None, "es"),
            language!("fr", 6, None, "fr"),
            language!("de", 7, None, "de"),
            language!("vi", 5, Some(" "), "vi"),
            language!("ru", 7, None, "ru"),
            language!("el", 4, None, "el"),
            language!("ar", 6, None, "ar"),
            language!("he", 4, None, "he"),
            language!("hi", 6, None, "hi"),
            language!("zh", 6, Some(""), "zh"),
            language!("ja", 4, Some(" "), "ja"),
            language!("ko", 3, Some(""), "ko"),
        ];
        let mut organisation = Self { seed, languages, staff: Vec::new() };
        let posts =
            Speciality::ALL.into_iter().flat_map(|speciality| std::iter::repeat_n(speciality, STAFF_PER_SPECIALITY));
        organisation.staff =
            posts.zip(0..).filter_map(|(speciality, number)| organisation.create_member(speciality, number)).collect();
        Ok(organisation)
    }

    /// Draws the language of a person.
    pub(super) fn draw_language(&self, random: &mut SplitMix64) -> Option<&Language> {
        random.pick_weighted(&self.languages, |language| language.percent)
    }

    /// Returns the language of the organisation.
    pub(super) fn default_language(&self) -> Option<&Language> {
        self.languages.first()
    }

    pub(super) fn staff(&self) -> &[StaffMember] {
        &self.staff
    }

    /// Draws a staff member of this speciality.
    pub(super) fn draw_staff_member(&self, speciality: Speciality, random: &mut SplitMix64) -> Option<&StaffMember> {
        let team = self
            .staff
            .chunks(STAFF_PER_SPECIALITY)
            .find(|team| team.first().is_some_and(|member| member.speciality == speciality))?;
        random.pick(team)
    }

    fn create_member(&self, speciality: Speciality, number: u64) -> Option<StaffMember> {
        let random = &mut SplitMix64::stream(self.seed, STREAM_KIND, number);
        let language = self.draw_language(random)?;
        let facts = Facts { sex: Some(if random.chance(55) { Sex::Female } else { Sex::Male }), ..Facts::default() };
        let title = if speciality == Speciality::Nursing { None } else { Some("Dr.") };
        let name = SampleName::draw(
            language,
            Scope { phrases: &language.phrases, problem: None, facts: &facts },
            title,
            random,
        );
        Some(StaffMember {
            id: format!("{}-staff-{number}", self.seed),
            name,
            number: format!("{}-{number:03}", self.seed),
            speciality,
        })
    }
}

impl StaffMember {
    pub(super) fn to_resource(&self) -> Practitioner {
        Practitioner {
            id: self.id.clone(),
            identifier: vec![Identifier::typed("EI", "https://sample.example/staff", self.number.clone())],
            name: self.name.to_fhir(),
            qualification: vec![Qualification { code: Concept::text(self.speciality.name()) }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_all_lists_and_templates() {
        let organisation = Organisation::new(1).unwrap();
        assert_eq!(organisation.languages.iter().map(|language| language.percent).sum::<u64>(), 100);
        let needed = "family given street city postcode country national member call \
                      11506-3 34117-2 11488-4 18842-5 34111-5 34746-8 11502-2";
        for Language { code, phrases, .. } in &organisation.languages {
            assert_eq!(phrases.inconsistencies(), Vec::<String>::new(), "{code}");
            let scope = Scope { phrases, problem: None, facts: &Facts::default() };
            let missing: Vec<_> = needed.split(' ').filter(|list| !scope.has_list(list)).collect();
            assert!(missing.is_empty(), "{code}: {missing:?}");
        }
    }

    #[test]
    fn there_are_several_problems_for_every_age_and_sex() {
        let organisation = Organisation::new(1).unwrap();
        let problems = &organisation.default_language().unwrap().phrases.problems;
        for age in 1..=100 {
            for sex in [Sex::Female, Sex::Male, Sex::Other, Sex::Unknown] {
                let befalling = problems.iter().filter(|problem| problem.can_affect(age, sex)).count();
                assert!(befalling > 1, "{befalling} for {sex:?} at {age}");
            }
        }
    }

    #[test]
    fn every_speciality_has_staff() {
        let organisation = Organisation::new(1).unwrap();
        assert_eq!(organisation.staff().len(), Speciality::ALL.len() * STAFF_PER_SPECIALITY);
        for speciality in Speciality::ALL {
            assert_eq!(
                organisation.draw_staff_member(speciality, &mut SplitMix64::stream(1, 1, 1)).unwrap().speciality,
                speciality
            );
        }
    }
}
