//! What happens to a patient: encounters over years, each for a problem, most problems more than once, and what is written of them.

use super::bank::{Facts, Problem, Scope};
use super::house::{House, Member, Tongue};
use super::person::Person;
use super::random::Random;
use super::wire::{
    Coding, Concept, Content, Context, DocumentReference, Encounter, Identifier, Period, Reference, Resource,
};
use super::{Charts, Lines};
use crate::ops::note_types;
use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use std::io;

/// Which stream of chance patients are drawn from.
const STREAM: u64 = 2;
/// Days that charts reach back at most.
const REACH: u64 = 12 * 365;
const DAY: u64 = 24 * 60;
const CLASSES: [(&str, &str); 5] = [
    ("AMB", "ambulatory"),
    ("EMER", "emergency"),
    ("IMP", "inpatient encounter"),
    ("HH", "home health"),
    ("VR", "virtual"),
];

const CONSULTATION: &str = "11488-4";
const DISCHARGE: &str = "18842-5";
const HISTORY: &str = "34117-2";
const PROCEDURE: &str = "28570-0";
const PROGRESS: &str = "11506-3";
const IMAGING: &str = "18748-4";
const LABORATORY: &str = "11502-2";
const SPECIMEN: &str = "11526-1";
const OPERATION: &str = "11504-8";
const EMERGENCY: &str = "34111-5";
const REFERRAL: &str = "57133-1";
const NURSE: &str = "34746-8";

/// A patient and where the chart goes.
pub(super) struct Course<'c, 'o> {
    house: &'c House,
    person: Person<'c>,
    random: Random,
    lines: &'c mut Lines<'o>,
    /// What the patient has been seen for.
    concerns: Vec<Concern<'c>>,
    /// When the chart ends: the evening of the last day, or of the patient's life.
    end: NaiveDateTime,
    visits: u64,
    lot: usize,
}

/// A problem, the language it is written of in, and who sees to it.
#[derive(Clone, Copy)]
struct Concern<'c> {
    tongue: &'c Tongue,
    problem: &'c Problem,
    attending: &'c Member,
    /// Seen for it before.
    known: bool,
}

struct Visit<'c> {
    id: String,
    concern: Concern<'c>,
    class: &'static str,
    status: &'static str,
    begins: NaiveDateTime,
    ends: Option<NaiveDateTime>,
}

impl<'c, 'o> Course<'c, 'o> {
    /// Writes the chart of the `number`th patient.
    pub(super) fn write(house: &'c House, charts: &Charts, number: u64, lines: &'c mut Lines<'o>) -> io::Result<()> {
        let mut random = Random::of(house.seed, STREAM, number);
        let Some(person) = Person::of(house, number, charts.until, &mut random) else { return Ok(()) };
        lines.write(&Resource::Patient(Box::new(person.resource(&mut random))))?;
        let end = at(person.died.unwrap_or(charts.until), 18 * 60);
        let lot = usize::try_from(random.below(60)).unwrap_or_default();
        let mut course = Self { house, person, random, lines, concerns: Vec::new(), end, visits: 0, lot };
        let mut free = NaiveDateTime::MIN;
        for day in course.days(charts.encounters) {
            let Some(visit) = course.visit(day).filter(|visit| visit.begins > free) else { continue };
            free = visit.ends.unwrap_or(NaiveDateTime::MAX);
            course.see(&visit)?;
        }
        course.appoint()?;
        course.receive_letter()
    }

    /// Days on which the patient comes, in order. None before the first birthday: those charts are the mother's.
    fn days(&mut self, mean: u64) -> Vec<NaiveDate> {
        let end = self.end.date();
        let earliest = end
            .checked_sub_days(Days::new(REACH))
            .max(self.person.born.checked_add_days(Days::new(368)))
            .unwrap_or(end);
        let Ok(span) = u64::try_from((end - earliest).num_days()) else { return Vec::new() };
        // Most come seldom, one in ten often.
        let count = if self.random.chance(90) {
            self.random.between(0, mean * 8 / 5)
        } else {
            self.random.between(mean * 2, mean * 18 / 5)
        };
        let joined = self.random.below(span * 3 / 4 + 1);
        let mut days: Vec<_> = (0..count).map(|_| self.random.between(joined, span)).collect();
        // Somebody is always in the house.
        days.extend(
            (self.person.died.is_none() && self.random.chance(3)).then(|| span.saturating_sub(self.random.below(3))),
        );
        days.sort_unstable();
        days.into_iter().filter_map(|day| earliest.checked_add_days(Days::new(day))).collect()
    }

    fn visit(&mut self, day: NaiveDate) -> Option<Visit<'c>> {
        let concern = self.concern(day)?;
        let class =
            *self.random.pick(if concern.known { &concern.problem.later_classes } else { &concern.problem.classes })?;
        let by_appointment = matches!(class, "AMB" | "HH" | "VR");
        let weekend = u64::from(day.weekday().number_from_monday()).saturating_sub(5);
        let day = if by_appointment { day.checked_sub_days(Days::new(weekend))? } else { day };
        let minute = if by_appointment { 5 * self.random.between(8 * 12, 17 * 12) } else { self.random.below(DAY) };
        let lasts = match class {
            "IMP" => {
                (self.random.between(2, 6) + self.random.below(2) * self.random.below(7)) * DAY + self.random.below(300)
            }
            "EMER" => self.random.between(90, 600),
            "VR" => self.random.between(5, 20),
            _ => self.random.between(15, 50),
        };
        let begins = at(day, minute);
        let ends = later(begins, lasts);
        let (status, ends) = match self.random.below(200) {
            _ if ends > self.end && self.person.died.is_none() => ("in-progress", None),
            0 => ("entered-in-error", Some(ends)),
            1..=6 if by_appointment => ("cancelled", Some(ends)),
            _ => ("finished", Some(ends.min(self.end))),
        };
        let id = format!("{}-{}", self.person.id, self.visits);
        (begins < self.end).then_some(Visit { id, concern, class, status, begins, ends })
    }

    /// What the patient comes for: often the same as before.
    fn concern(&mut self, day: NaiveDate) -> Option<Concern<'c>> {
        let (age, sex) = (self.person.age(day), self.person.sex);
        let before = self.random.pick(&self.concerns).filter(|concern| concern.problem.befalls(age, sex));
        if let Some(concern) = before.copied()
            && self.random.chance(65)
        {
            return Some(Concern { known: true, ..concern });
        }
        let own = self.house.own_tongue()?;
        let spoken = if self.random.chance(60) { self.person.tongue } else { own };
        let new = |problem: &&Problem| !self.concerns.iter().any(|concern| std::ptr::eq(concern.problem, *problem));
        let befalling = |tongue: &'c Tongue| -> Vec<_> {
            tongue.bank.problems.iter().filter(|problem| problem.befalls(age, sex)).filter(new).collect()
        };
        let (tongue, problems) = match befalling(spoken) {
            none if none.is_empty() => (own, befalling(own)),
            some => (spoken, some),
        };
        let problem = *self.random.pick(&problems)?;
        let attending = self.house.member(problem.speciality, &mut self.random)?;
        Some(Concern { tongue, problem, attending, known: false })
    }

    /// Writes an encounter and its notes.
    fn see(&mut self, visit: &Visit<'c>) -> io::Result<()> {
        self.encounter(visit)?;
        if !matches!(visit.status, "finished" | "in-progress") {
            return Ok(());
        }
        if !visit.concern.known {
            self.concerns.push(visit.concern);
        }
        let mut planned = self.planned(visit);
        planned.sort_by_key(|(minute, _)| *minute);
        for (number, (minute, code)) in planned.into_iter().enumerate() {
            let written = later(visit.begins, minute);
            if written <= self.end {
                self.note(&format!("{}-{number}", visit.id), code, written, visit.concern, Some(visit))?;
            }
        }
        Ok(())
    }

    /// Which notes an encounter has, and how many minutes after its beginning.
    fn planned(&mut self, visit: &Visit<'_>) -> Vec<(u64, &'static str)> {
        let Visit { class, concern, .. } = visit;
        let says = |list| concern.problem.says(list);
        let random = &mut self.random;
        let first = if random.chance(40) { CONSULTATION } else { HISTORY };
        let mut notes = Vec::new();
        let mut perhaps = |percent, minute, code| notes.extend(random.chance(percent).then_some((minute, code)));
        match *class {
            "IMP" => {
                perhaps(100, 90, HISTORY);
                perhaps(50, 30, NURSE);
                perhaps(60, 150, LABORATORY);
                perhaps(if says("image") { 60 } else { 0 }, 200, IMAGING);
                perhaps(if says("operation") { 100 } else { 0 }, 1200, OPERATION);
                perhaps(if says("specimen") { 80 } else { 0 }, 2 * DAY + 100, SPECIMEN);
                let until = visit.ends.unwrap_or(self.end).min(self.end);
                let minutes = u64::try_from((until - visit.begins).num_minutes()).unwrap_or_default();
                for day in 1..=minutes / DAY {
                    perhaps(75, day * DAY - 40, PROGRESS);
                    perhaps(40, day * DAY - 500, NURSE);
                }
                let leaves = visit.status == "finished" && visit.ends.is_some_and(|ends| ends < self.end);
                perhaps(if leaves { 100 } else { 0 }, minutes, DISCHARGE);
            }
            "EMER" => {
                perhaps(100, 50, EMERGENCY);
                perhaps(50, 15, NURSE);
                perhaps(50, 70, LABORATORY);
                perhaps(if says("image") { 50 } else { 0 }, 80, IMAGING);
            }
            "HH" => perhaps(100, 20, NURSE),
            "VR" => perhaps(100, 5, PROGRESS),
            _ => {
                perhaps(100, 14, if concern.known { PROGRESS } else { first });
                perhaps(if says("procedure") { 50 } else { 0 }, 13, PROCEDURE);
                perhaps(25, 240, LABORATORY);
                perhaps(if says("image") { 20 } else { 0 }, 300, IMAGING);
                perhaps(if says("specimen") { 30 } else { 0 }, 3 * DAY, SPECIMEN);
                perhaps(8, 15, REFERRAL);
            }
        }
        notes
    }

    /// An appointment after the last day.
    fn appoint(&mut self) -> io::Result<()> {
        let planned = self.person.died.is_none() && self.random.chance(12);
        let Some(concern) = self.random.pick(&self.concerns).copied().filter(|_| planned) else { return Ok(()) };
        let begins = later(self.end, self.random.between(2, 60) * DAY - 9 * 60 + 15 * self.random.below(30));
        let id = format!("{}-{}", self.person.id, self.visits);
        self.encounter(&Visit { id, concern, class: "AMB", status: "planned", begins, ends: Some(later(begins, 30)) })
    }

    /// A letter from elsewhere, that belongs to no encounter.
    fn receive_letter(&mut self) -> io::Result<()> {
        let came = self.random.chance(5);
        let Some(concern) = self.random.pick(&self.concerns).copied().filter(|_| came) else { return Ok(()) };
        let written = self.end - TimeDelta::days(i64::try_from(self.random.between(1, 300)).unwrap_or_default());
        self.note(&format!("{}-letter", self.person.id), REFERRAL, written, concern, None)
    }

    fn encounter(&mut self, visit: &Visit<'_>) -> io::Result<()> {
        self.visits += 1;
        let number = self
            .random
            .chance(70)
            .then(|| Identifier::typed("VN", "https://sample.example/visit", format!("V{}", visit.id)));
        let display = CLASSES.iter().find(|(code, _)| *code == visit.class).map(|(_, display)| *display);
        let encounter = Encounter {
            id: visit.id.clone(),
            identifier: number.into_iter().collect(),
            status: visit.status,
            class: Coding { system: "http://terminology.hl7.org/CodeSystem/v3-ActCode", code: visit.class, display },
            service_type: Concept::text(visit.concern.problem.speciality.name()),
            subject: Reference::to("Patient", &self.person.id),
            period: Period { start: stamp(visit.begins), end: visit.ends.map(stamp) },
            reason_code: vec![Concept::text(visit.concern.problem.title)],
        };
        self.lines.write(&Resource::Encounter(Box::new(encounter)))
    }

    /// Writes a note; nothing, where the language has no words for this kind.
    fn note(
        &mut self,
        id: &str,
        code: &'static str,
        written: NaiveDateTime,
        about: Concern<'c>,
        visit: Option<&Visit<'c>>,
    ) -> io::Result<()> {
        let speciality = about.problem.speciality;
        let author = match speciality.writes(code) {
            own if own == speciality => Some(about.attending),
            other => self.house.member(other, &mut self.random),
        };
        let Some(author) = author else { return Ok(()) };
        let age = self.person.age(written.date());
        let facts = Facts {
            sex: Some(self.person.sex),
            lot: self.lot,
            age: age.to_string(),
            // A child grows by three kilograms a year, more or less.
            kilos: (7 + 3 * age.min(14) + if age > 14 { self.lot as u64 } else { 0 }).to_string(),
            name: self.person.name.written(),
            date: written.date().to_string(),
            author: author.name.written(),
        };
        let scope = Scope { bank: &about.tongue.bank, problem: Some(about.problem), facts: &facts };
        let form = match (about.problem.says("later") && about.known, visit.map(|visit| visit.class)) {
            (true, Some(_)) if code == PROGRESS => "later",
            (_, Some("VR")) => "call",
            _ => code,
        };
        if !scope.knows(form) {
            return Ok(());
        }
        let text = scope.text(form, &mut self.random);
        let title = match self.random.below(100) {
            0..=24 => Some(about.problem.title.to_owned()),
            25..=44 => note_types::display(code).map(|display| format!("{display}: {}", about.problem.title)),
            _ => None,
        };
        let (status, doc_status) = match self.random.below(100) {
            0 => ("entered-in-error", "entered-in-error"),
            1..=3 => ("current", "amended"),
            4 | 5 => ("current", "preliminary"),
            6 => ("superseded", "final"),
            _ => ("current", "final"),
        };
        let note = DocumentReference {
            id: id.to_owned(),
            status,
            doc_status,
            kind: Concept::note_type(code),
            subject: Reference::to("Patient", &self.person.id),
            date: stamp(written),
            author: vec![Reference {
                display: Some(facts.author.clone()),
                ..Reference::to("Practitioner", &author.id)
            }],
            content: [Content::plain(&text, about.tongue.code, title)],
            context: visit.map(|visit| Context { encounter: [Reference::to("Encounter", &visit.id)] }),
        };
        self.lines.write(&Resource::DocumentReference(Box::new(note)))
    }
}

fn at(day: NaiveDate, minute: u64) -> NaiveDateTime {
    later(day.and_time(NaiveTime::MIN), minute)
}

fn later(time: NaiveDateTime, minutes: u64) -> NaiveDateTime {
    i64::try_from(minutes)
        .ok()
        .and_then(TimeDelta::try_minutes)
        .and_then(|minutes| time.checked_add_signed(minutes))
        .unwrap_or(time)
}

/// In the time of the house, which has no summer.
fn stamp(time: NaiveDateTime) -> String {
    format!("{}+01:00", time.format("%Y-%m-%dT%H:%M:%S"))
}
