//! The history of one patient: encounters over years, each for a problem and most problems more than once, and their
//! notes.

use super::organisation::{Language, Organisation, StaffMember};
use super::patient::SamplePatient;
use super::phrases::{Facts, Problem, Scope};
use super::random::SplitMix64;
use super::resources::{
    Coding, Concept, Content, Context, DocumentReference, Encounter, Identifier, Period, Reference, Resource,
};
use super::{Charts, NdjsonWriter};
use crate::model::note_type;
use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};
use std::io;

/// The kind of the random streams of patients.
const STREAM_KIND: u64 = 2;
/// Maximum age of the entries in a chart.
const MAX_HISTORY_DAYS: u64 = 12 * 365;
const MINUTES_PER_DAY: u64 = 24 * 60;
/// Codes of encounter classes with their display texts.
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

/// Writes the chart of one patient.
pub(super) struct HistoryWriter<'c, 'o> {
    organisation: &'c Organisation,
    patient: SamplePatient<'c>,
    random: SplitMix64,
    out: &'c mut NdjsonWriter<'o>,
    /// The episodes of care that have begun.
    episodes: Vec<Episode<'c>>,
    /// The end of the chart: the evening of its last day or of the day of death.
    end: NaiveDateTime,
    encounter_count: u64,
    chart_choice: usize,
}

/// An episode of care: a problem, the language of its notes and the attending physician.
#[derive(Clone, Copy)]
struct Episode<'c> {
    language: &'c Language,
    problem: &'c Problem,
    attending: &'c StaffMember,
    /// Whether the patient was seen for the problem before.
    follow_up: bool,
}

struct SampleEncounter<'c> {
    id: String,
    episode: Episode<'c>,
    class: &'static str,
    status: &'static str,
    start: NaiveDateTime,
    end: Option<NaiveDateTime>,
}

impl<'c, 'o> HistoryWriter<'c, 'o> {
    /// Writes the chart of the `number`th patient.
    pub(super) fn write(
        organisation: &'c Organisation,
        charts: &Charts,
        number: u64,
        out: &'c mut NdjsonWriter<'o>,
    ) -> io::Result<()> {
        let mut random = SplitMix64::stream(organisation.seed, STREAM_KIND, number);
        let Some(patient) = SamplePatient::draw(organisation, number, charts.until, &mut random) else { return Ok(()) };
        out.write(&Resource::Patient(Box::new(patient.to_resource(&mut random))))?;
        let end = minute_of_day(patient.death_date.unwrap_or(charts.until), 18 * 60);
        let chart_choice = usize::try_from(random.below(60)).unwrap_or_default();
        let mut history =
            Self { organisation, patient, random, out, episodes: Vec::new(), end, encounter_count: 0, chart_choice };
        let mut previous_end = NaiveDateTime::MIN;
        for day in history.draw_days(charts.encounters) {
            let encounter = history.draw_encounter(day).filter(|encounter| encounter.start > previous_end);
            let Some(encounter) = encounter else { continue };
            previous_end = encounter.end.unwrap_or(NaiveDateTime::MAX);
            history.write_with_notes(&encounter)?;
        }
        history.write_appointment()?;
        history.write_letter()
    }

    /// Draws the days of encounters, in order. None is before the first birthday, because such notes belong to the
    /// mother's chart.
    fn draw_days(&mut self, mean: u64) -> Vec<NaiveDate> {
        let end = self.end.date();
        let earliest = end
            .checked_sub_days(Days::new(MAX_HISTORY_DAYS))
            .max(self.patient.birth_date.checked_add_days(Days::new(368)))
            .unwrap_or(end);
        let Ok(span) = u64::try_from((end - earliest).num_days()) else { return Vec::new() };
        // One patient in ten has many encounters.
        let count = if self.random.chance(90) {
            self.random.between(0, mean * 8 / 5)
        } else {
            self.random.between(mean * 2, mean * 18 / 5)
        };
        let first_day = self.random.below(span * 3 / 4 + 1);
        let mut days: Vec<_> = (0..count).map(|_| self.random.between(first_day, span)).collect();
        // Some patients are seen in the last days, so that there are encounters in progress.
        days.extend(
            (self.patient.death_date.is_none() && self.random.chance(3))
                .then(|| span.saturating_sub(self.random.below(3))),
        );
        days.sort_unstable();
        days.into_iter().filter_map(|day| earliest.checked_add_days(Days::new(day))).collect()
    }

    fn draw_encounter(&mut self, day: NaiveDate) -> Option<SampleEncounter<'c>> {
        let episode = self.draw_episode(day)?;
        let class = *self.random.pick(if episode.follow_up {
            &episode.problem.later_classes
        } else {
            &episode.problem.classes
        })?;
        let by_appointment = matches!(class, "AMB" | "HH" | "VR");
        let weekend = u64::from(day.weekday().number_from_monday()).saturating_sub(5);
        let day = if by_appointment { day.checked_sub_days(Days::new(weekend))? } else { day };
        let minute =
            if by_appointment { 5 * self.random.between(8 * 12, 17 * 12) } else { self.random.below(MINUTES_PER_DAY) };
        let minutes = match class {
            "IMP" => {
                let days = self.random.between(2, 6) + self.random.below(2) * self.random.below(7);
                days * MINUTES_PER_DAY + self.random.below(300)
            }
            "EMER" => self.random.between(90, 600),
            "VR" => self.random.between(5, 20),
            _ => self.random.between(15, 50),
        };
        let start = minute_of_day(day, minute);
        let end = plus_minutes(start, minutes);
        let (status, end) = match self.random.below(200) {
            _ if end > self.end && self.patient.death_date.is_none() => ("in-progress", None),
            0 => ("entered-in-error", Some(end)),
            1..=6 if by_appointment => ("cancelled", Some(end)),
            _ => ("finished", Some(end.min(self.end))),
        };
        let id = format!("{}-{}", self.patient.id, self.encounter_count);
        (start < self.end).then_some(SampleEncounter { id, episode, class, status, start, end })
    }

    /// Draws the episode of an encounter, often one that has begun before.
    fn draw_episode(&mut self, day: NaiveDate) -> Option<Episode<'c>> {
        let (age, sex) = (self.patient.age(day), self.patient.sex);
        let earlier = self.random.pick(&self.episodes).filter(|episode| episode.problem.can_affect(age, sex));
        if let Some(episode) = earlier.copied()
            && self.random.chance(65)
        {
            return Some(Episode { follow_up: true, ..episode });
        }
        let default = self.organisation.default_language()?;
        let preferred = if self.random.chance(60) { self.patient.language } else { default };
        let new = |problem: &&Problem| !self.episodes.iter().any(|episode| std::ptr::eq(episode.problem, *problem));
        let possible = |language: &'c Language| -> Vec<_> {
            language.phrases.problems.iter().filter(|problem| problem.can_affect(age, sex)).filter(new).collect()
        };
        let (language, problems) = match possible(preferred) {
            none if none.is_empty() => (default, possible(default)),
            some => (preferred, some),
        };
        let problem = *self.random.pick(&problems)?;
        let attending = self.organisation.draw_staff_member(problem.speciality, &mut self.random)?;
        Some(Episode { language, problem, attending, follow_up: false })
    }

    /// Writes an encounter and its notes.
    fn write_with_notes(&mut self, encounter: &SampleEncounter<'c>) -> io::Result<()> {
        self.write_encounter(encounter)?;
        if !matches!(encounter.status, "finished" | "in-progress") {
            return Ok(());
        }
        if !encounter.episode.follow_up {
            self.episodes.push(encounter.episode);
        }
        let mut notes = self.draw_notes(encounter);
        notes.sort_by_key(|(minute, _)| *minute);
        for (number, (minute, code)) in notes.into_iter().enumerate() {
            let date = plus_minutes(encounter.start, minute);
            if date <= self.end {
                let id = format!("{}-{number}", encounter.id);
                self.write_note(&id, code, date, encounter.episode, Some(encounter))?;
            }
        }
        Ok(())
    }

    /// Draws the notes of an encounter: minutes after its start, and LOINC code.
    fn draw_notes(&mut self, encounter: &SampleEncounter<'_>) -> Vec<(u64, &'static str)> {
        let SampleEncounter { class, episode, .. } = encounter;
        let has_list = |list| episode.problem.has_list(list);
        let random = &mut self.random;
        let first = if random.chance(40) { CONSULTATION } else { HISTORY };
        let mut notes = Vec::new();
        let mut with_chance = |percent, minute, code| notes.extend(random.chance(percent).then_some((minute, code)));
        match *class {
            "IMP" => {
                with_chance(100, 90, HISTORY);
                with_chance(50, 30, NURSE);
                with_chance(60, 150, LABORATORY);
                with_chance(if has_list("image") { 60 } else { 0 }, 200, IMAGING);
                with_chance(if has_list("operation") { 100 } else { 0 }, 1200, OPERATION);
                with_chance(if has_list("specimen") { 80 } else { 0 }, 2 * MINUTES_PER_DAY + 100, SPECIMEN);
                let end = encounter.end.unwrap_or(self.end).min(self.end);
                let minutes = u64::try_from((end - encounter.start).num_minutes()).unwrap_or_default();
                for day in 1..=minutes / MINUTES_PER_DAY {
                    with_chance(75, day * MINUTES_PER_DAY - 40, PROGRESS);
                    with_chance(40, day * MINUTES_PER_DAY - 500, NURSE);
                }
                let is_discharged = encounter.status == "finished" && encounter.end.is_some_and(|end| end < self.end);
                with_chance(if is_discharged { 100 } else { 0 }, minutes, DISCHARGE);
            }
            "EMER" => {
                with_chance(100, 50, EMERGENCY);
                with_chance(50, 15, NURSE);
                with_chance(50, 70, LABORATORY);
                with_chance(if has_list("image") { 50 } else { 0 }, 80, IMAGING);
            }
            "HH" => with_chance(100, 20, NURSE),
            "VR" => with_chance(100, 5, PROGRESS),
            _ => {
                with_chance(100, 14, if episode.follow_up { PROGRESS } else { first });
                with_chance(if has_list("procedure") { 50 } else { 0 }, 13, PROCEDURE);
                with_chance(25, 240, LABORATORY);
                with_chance(if has_list("image") { 20 } else { 0 }, 300, IMAGING);
                with_chance(if has_list("specimen") { 30 } else { 0 }, 3 * MINUTES_PER_DAY, SPECIMEN);
                with_chance(8, 15, REFERRAL);
            }
        }
        notes
    }

    /// Writes an appointment after the last day of the chart, for some patients.
    fn write_appointment(&mut self) -> io::Result<()> {
        let has_appointment = self.patient.death_date.is_none() && self.random.chance(12);
        let episode = self.random.pick(&self.episodes).copied().filter(|_| has_appointment);
        let Some(episode) = episode else { return Ok(()) };
        let minutes = self.random.between(2, 60) * MINUTES_PER_DAY - 9 * 60 + 15 * self.random.below(30);
        let start = plus_minutes(self.end, minutes);
        let id = format!("{}-{}", self.patient.id, self.encounter_count);
        self.write_encounter(&SampleEncounter {
            id,
            episode,
            class: "AMB",
            status: "planned",
            start,
            end: Some(plus_minutes(start, 30)),
        })
    }

    /// Writes a letter of another organisation, which belongs to no encounter, for some patients.
    fn write_letter(&mut self) -> io::Result<()> {
        let has_letter = self.random.chance(5);
        let Some(episode) = self.random.pick(&self.episodes).copied().filter(|_| has_letter) else { return Ok(()) };
        let date = self.end - TimeDelta::days(i64::try_from(self.random.between(1, 300)).unwrap_or_default());
        self.write_note(&format!("{}-letter", self.patient.id), REFERRAL, date, episode, None)
    }

    fn write_encounter(&mut self, encounter: &SampleEncounter<'_>) -> io::Result<()> {
        self.encounter_count += 1;
        let identifier = self
            .random
            .chance(70)
            .then(|| Identifier::typed("VN", "https://sample.example/visit", format!("V{}", encounter.id)));
        let display = CLASSES.iter().find(|(code, _)| *code == encounter.class).map(|(_, display)| *display);
        let encounter = Encounter {
            id: encounter.id.clone(),
            identifier: identifier.into_iter().collect(),
            status: encounter.status,
            class: Coding {
                system: "http://terminology.hl7.org/CodeSystem/v3-ActCode",
                code: encounter.class,
                display,
            },
            service_type: Concept::text(encounter.episode.problem.speciality.name()),
            subject: Reference::to("Patient", &self.patient.id),
            period: Period { start: timestamp(encounter.start), end: encounter.end.map(timestamp) },
            reason_code: vec![Concept::text(encounter.episode.problem.title)],
        };
        self.out.write(&Resource::Encounter(Box::new(encounter)))
    }

    /// Writes a note, unless the language has no template for this type.
    fn write_note(
        &mut self,
        id: &str,
        code: &'static str,
        date: NaiveDateTime,
        episode: Episode<'c>,
        encounter: Option<&SampleEncounter<'c>>,
    ) -> io::Result<()> {
        let speciality = episode.problem.speciality;
        let author = match speciality.author_of(code) {
            same if same == speciality => Some(episode.attending),
            other => self.organisation.draw_staff_member(other, &mut self.random),
        };
        let Some(author) = author else { return Ok(()) };
        let age = self.patient.age(date.date());
        let facts = Facts {
            sex: Some(self.patient.sex),
            chart_choice: self.chart_choice,
            age: age.to_string(),
            // Children gain about three kilograms per year.
            weight_kg: (7 + 3 * age.min(14) + if age > 14 { self.chart_choice as u64 } else { 0 }).to_string(),
            name: self.patient.name.text(),
            date: date.date().to_string(),
            author: author.name.text(),
        };
        let scope = Scope { phrases: &episode.language.phrases, problem: Some(episode.problem), facts: &facts };
        let form = match (
            episode.problem.has_list("later") && episode.follow_up,
            encounter.map(|encounter| encounter.class),
        ) {
            (true, Some(_)) if code == PROGRESS => "later",
            (_, Some("VR")) => "call",
            _ => code,
        };
        if !scope.has_list(form) {
            return Ok(());
        }
        let text = scope.text(form, &mut self.random);
        let title = match self.random.below(100) {
            0..=24 => Some(episode.problem.title.to_owned()),
            25..=44 => note_type::display(code).map(|display| format!("{display}: {}", episode.problem.title)),
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
            subject: Reference::to("Patient", &self.patient.id),
            date: timestamp(date),
            author: vec![Reference {
                display: Some(facts.author.clone()),
                ..Reference::to("Practitioner", &author.id)
            }],
            content: [Content::plain(&text, episode.language.code, title)],
            context: encounter.map(|encounter| Context { encounter: [Reference::to("Encounter", &encounter.id)] }),
        };
        self.out.write(&Resource::DocumentReference(Box::new(note)))
    }
}

fn minute_of_day(day: NaiveDate, minute: u64) -> NaiveDateTime {
    plus_minutes(day.and_time(NaiveTime::MIN), minute)
}

fn plus_minutes(time: NaiveDateTime, minutes: u64) -> NaiveDateTime {
    i64::try_from(minutes)
        .ok()
        .and_then(TimeDelta::try_minutes)
        .and_then(|minutes| time.checked_add_signed(minutes))
        .unwrap_or(time)
}

/// Formats a time in the organisation's time zone, which has no daylight saving time.
fn timestamp(time: NaiveDateTime) -> String {
    format!("{}+01:00", time.format("%Y-%m-%dT%H:%M:%S"))
}
