//! The house the charts are of: the languages that are spoken there, and its staff. Small, the same for every patient, made once.

use super::bank::{Bank, Facts, Scope};
use super::person::Name;
use super::random::Random;
use super::speciality::Speciality;
use super::wire::{Concept, Identifier, Practitioner, Qualification};
use crate::fhir::Sex;
use std::io;

/// Practitioners of each speciality.
const TEAM: usize = 4;
/// Which stream of chance the staff is drawn from.
const STREAM: u64 = 1;

/// Who writes the charts, and in which words.
pub(super) struct House {
    pub(super) seed: u64,
    tongues: Vec<Tongue>,
    staff: Vec<Member>,
}

/// A language.
pub(super) struct Tongue {
    pub(super) code: &'static str,
    /// Of a hundred patients.
    share: u64,
    /// What stands between family and given name, where the family's comes first.
    pub(super) family_first: Option<&'static str>,
    pub(super) bank: Bank,
}

/// One of the staff.
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: Name,
    number: String,
    speciality: Speciality,
}

macro_rules! tongue {
    ($code:literal, $share:literal, $family_first:expr, $($text:literal),+) => {
        Tongue { code: $code, share: $share, family_first: $family_first, bank: Bank::read(&[$(include_str!(concat!("texts/", $text, ".txt"))),+])? }
    };
}

impl House {
    pub(super) fn new(seed: u64) -> io::Result<Self> {
        let tongues = vec![
            tongue!("en", 34, None, "en", "en_inner", "en_outer", "en_young"),
            tongue!("es", 8, None, "es"),
            tongue!("fr", 6, None, "fr"),
            tongue!("de", 7, None, "de"),
            tongue!("vi", 5, Some(" "), "vi"),
            tongue!("ru", 7, None, "ru"),
            tongue!("el", 4, None, "el"),
            tongue!("ar", 6, None, "ar"),
            tongue!("he", 4, None, "he"),
            tongue!("hi", 6, None, "hi"),
            tongue!("zh", 6, Some(""), "zh"),
            tongue!("ja", 4, Some(" "), "ja"),
            tongue!("ko", 3, Some(""), "ko"),
        ];
        let mut house = Self { seed, tongues, staff: Vec::new() };
        let posts = Speciality::ALL.into_iter().flat_map(|speciality| std::iter::repeat_n(speciality, TEAM));
        house.staff = posts.zip(0..).filter_map(|(speciality, number)| house.hired(speciality, number)).collect();
        Ok(house)
    }

    /// The language of a patient.
    pub(super) fn tongue(&self, random: &mut Random) -> Option<&Tongue> {
        random.weighed(&self.tongues, |tongue| tongue.share)
    }

    /// The language of the house.
    pub(super) fn own_tongue(&self) -> Option<&Tongue> {
        self.tongues.first()
    }

    pub(super) fn staff(&self) -> &[Member] {
        &self.staff
    }

    /// Somebody of this speciality.
    pub(super) fn member(&self, speciality: Speciality, random: &mut Random) -> Option<&Member> {
        let team = self.staff.chunks(TEAM).find(|team| team.first().is_some_and(|one| one.speciality == speciality))?;
        random.pick(team)
    }

    fn hired(&self, speciality: Speciality, number: u64) -> Option<Member> {
        let random = &mut Random::of(self.seed, STREAM, number);
        let tongue = self.tongue(random)?;
        let facts = Facts { sex: Some(if random.chance(55) { Sex::Female } else { Sex::Male }), ..Facts::default() };
        let title = if speciality == Speciality::Nursing { None } else { Some("Dr.") };
        let name = Name::drawn(tongue, Scope { bank: &tongue.bank, problem: None, facts: &facts }, title, random);
        Some(Member {
            id: format!("{}-staff-{number}", self.seed),
            name,
            number: format!("{}-{number:03}", self.seed),
            speciality,
        })
    }
}

impl Member {
    pub(super) fn resource(&self) -> Practitioner {
        Practitioner {
            id: self.id.clone(),
            identifier: vec![Identifier::typed("EI", "https://sample.example/staff", self.number.clone())],
            name: self.name.elements(),
            qualification: vec![Qualification { code: Concept::text(self.speciality.name()) }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_words_for_everything_that_is_written() {
        let house = House::new(1).unwrap();
        assert_eq!(house.tongues.iter().map(|tongue| tongue.share).sum::<u64>(), 100);
        let needed = "family given street city postcode country national member call 11506-3 34117-2 11488-4 18842-5 34111-5 34746-8 11502-2";
        for Tongue { code, bank, .. } in &house.tongues {
            assert_eq!(bank.loose_ends(), Vec::<String>::new(), "{code}");
            let scope = Scope { bank, problem: None, facts: &Facts::default() };
            let missing: Vec<_> = needed.split(' ').filter(|list| !scope.knows(list)).collect();
            assert!(missing.is_empty(), "{code}: {missing:?}");
        }
    }

    #[test]
    fn nobody_is_too_young_or_too_old_to_be_seen() {
        let house = House::new(1).unwrap();
        let problems = &house.own_tongue().unwrap().bank.problems;
        for age in 1..=100 {
            for sex in [Sex::Female, Sex::Male, Sex::Other, Sex::Unknown] {
                let befalling = problems.iter().filter(|problem| problem.befalls(age, sex)).count();
                assert!(befalling > 1, "{befalling} for {sex:?} at {age}");
            }
        }
    }

    #[test]
    fn every_speciality_has_its_staff() {
        let house = House::new(1).unwrap();
        assert_eq!(house.staff().len(), Speciality::ALL.len() * TEAM);
        for speciality in Speciality::ALL {
            assert_eq!(house.member(speciality, &mut Random::of(1, 1, 1)).unwrap().speciality, speciality);
        }
    }
}
