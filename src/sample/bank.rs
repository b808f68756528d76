//! Banks of phrases: the texts in `texts/`, read once, and what is written with them.
//!
//! ```text
//! # a remark
//! list: one | another                       lists under one name are one list
//! he~: she | he | they                      chosen by sex, not by chance
//! side=: left | right                       the same throughout a chart
//! << 11506-3 11488-4                        a text of several lines under these names, up to >>
//! == title | speciality | ages | sex | classes > later classes      from here on, what is said of this problem only
//! ```
//!
//! In braces stands a number (`{36.1-38.4}`, `{00-59}`, one of `{2.5/5/10}`), a fact (`{age}`), or a list: `{plan}` one of it, `{plan 2-4}` so many
//! sentences, `{+lab 5-9}` so many lines, `{-plan 2-4}` so many points. A problem's own lists come before those of its language.

use super::random::Random;
use super::speciality::Speciality;
use crate::fhir::Sex;
use std::collections::BTreeMap;
use std::io;

/// What can be said in one language.
#[derive(Debug, Default)]
pub(super) struct Bank {
    lists: Lists,
    pub(super) problems: Vec<Problem>,
}

/// Why a patient is seen.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) title: &'static str,
    pub(super) speciality: Speciality,
    ages: (u64, u64),
    sex: Option<Sex>,
    /// Classes of its first encounter, the frequent ones more than once.
    pub(super) classes: Vec<&'static str>,
    /// Classes of the encounters that follow.
    pub(super) later_classes: Vec<&'static str>,
    lists: Lists,
}

/// What is known of a patient when something is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) sex: Option<Sex>,
    /// Drawn once for a chart.
    pub(super) lot: usize,
    pub(super) age: String,
    pub(super) kilos: String,
    pub(super) name: String,
    pub(super) date: String,
    pub(super) author: String,
}

/// Where phrases are looked up.
#[derive(Clone, Copy)]
pub(super) struct Scope<'b> {
    pub(super) bank: &'b Bank,
    pub(super) problem: Option<&'b Problem>,
    pub(super) facts: &'b Facts,
}

type Lists = BTreeMap<&'static str, List>;

#[derive(Debug, Default)]
struct List {
    choice: Choice,
    alternatives: Vec<Vec<Part>>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Choice {
    #[default]
    Chance,
    Sex,
    Chart,
}

#[derive(Debug)]
enum Part {
    Text(&'static str),
    /// Both bounds without their point, digits after it, digits in all.
    Number {
        low: u64,
        high: u64,
        decimals: usize,
        width: usize,
    },
    OneOf(&'static str),
    Slot(&'static str),
    Several {
        list: &'static str,
        least: u64,
        most: u64,
        mark: &'static str,
        joint: &'static str,
    },
}

impl Bank {
    /// Reads a language.
    pub(super) fn read(texts: &[&'static str]) -> io::Result<Self> {
        let mut bank = Self::default();
        for text in texts {
            let mut rest = *text;
            while let Some((line, after)) = rest.split_once('\n') {
                rest = after;
                if let Some(names) = line.strip_prefix("<< ") {
                    let (body, after) = rest.split_once("\n>>\n").ok_or_else(|| malformed(line))?;
                    rest = after;
                    for name in names.split_whitespace() {
                        bank.list(name).alternatives.push(parts(body)?);
                    }
                } else if let Some(heading) = line.strip_prefix("== ") {
                    bank.problems.push(Problem::read(heading)?);
                } else if !line.is_empty() && !line.starts_with('#') {
                    let (name, alternatives) = line.split_once(": ").ok_or_else(|| malformed(line))?;
                    let alternatives = alternatives.split(" | ").map(parts).collect::<io::Result<Vec<_>>>()?;
                    let (name, choice) = match (name.strip_suffix('~'), name.strip_suffix('=')) {
                        (Some(name), _) => (name, Choice::Sex),
                        (_, Some(name)) => (name, Choice::Chart),
                        _ => (name, Choice::Chance),
                    };
                    let list = bank.list(name);
                    list.choice = choice;
                    list.alternatives.extend(alternatives);
                }
            }
        }
        Ok(bank)
    }

    /// The list of this name of the problem that is being read; before the first, of the language.
    fn list(&mut self, name: &'static str) -> &mut List {
        let lists = self.problems.last_mut().map_or(&mut self.lists, |problem| &mut problem.lists);
        lists.entry(name).or_default()
    }
}

impl Problem {
    fn read(heading: &'static str) -> io::Result<Self> {
        let fields: Vec<_> = heading.split(" | ").collect();
        let [title, speciality, ages, sex, classes] = fields.as_slice() else { return Err(malformed(heading)) };
        let (classes, later_classes) = classes.split_once(" > ").unwrap_or((classes, classes));
        let ages = ages.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
        Ok(Self {
            title,
            speciality: Speciality::named(speciality).ok_or_else(|| malformed(heading))?,
            ages: ages.ok_or_else(|| malformed(heading))?,
            sex: [Sex::Female, Sex::Male].into_iter().find(|one| one.name().eq_ignore_ascii_case(sex)),
            classes: classes.split_whitespace().collect(),
            later_classes: later_classes.split_whitespace().collect(),
            lists: Lists::new(),
        })
    }

    /// Whether a patient of this age and sex may have it.
    pub(super) fn befalls(&self, age: u64, sex: Sex) -> bool {
        (self.ages.0..=self.ages.1).contains(&age) && self.sex.is_none_or(|only| only == sex)
    }

    /// Whether it says something of its own under this name.
    pub(super) fn says(&self, list: &str) -> bool {
        self.lists.contains_key(list)
    }
}

impl Scope<'_> {
    /// Whether there is anything to write under this name.
    pub(super) fn knows(&self, list: &str) -> bool {
        self.list(list).is_some()
    }

    /// One of the list, as a text of its own.
    pub(super) fn text(&self, list: &str, random: &mut Random) -> String {
        let mut out = String::new();
        self.write(list, random, &mut out);
        out
    }

    /// Writes one of the list. What is not known stays in its braces, where a test finds it.
    pub(super) fn write(&self, name: &str, random: &mut Random, out: &mut String) {
        let Some(list) = self.list(name) else {
            match self.fact(name) {
                Some(fact) => out.push_str(fact),
                None => out.extend(["{", name, "}"]),
            }
            return;
        };
        let chosen = match list.choice {
            Choice::Chance => random.pick(&list.alternatives),
            Choice::Sex => list.alternatives.get(self.by_sex()),
            Choice::Chart => list.alternatives.get(self.facts.lot % list.alternatives.len().max(1)),
        };
        self.write_parts(chosen.map(Vec::as_slice).unwrap_or_default(), random, out);
    }

    fn write_parts(&self, parts: &[Part], random: &mut Random, out: &mut String) {
        for part in parts {
            match *part {
                Part::Text(text) => out.push_str(text),
                Part::OneOf(all) => {
                    let chosen = random.below(all.split('/').count() as u64);
                    out.extend(all.split('/').nth(usize::try_from(chosen).unwrap_or_default()));
                }
                Part::Slot(list) => self.write(list, random, out),
                Part::Number { low, high, decimals, width } => {
                    let digits = format!("{:0width$}", random.between(low, high));
                    let (whole, fraction) = digits.split_at_checked(digits.len() - decimals).unwrap_or_default();
                    out.push_str(whole);
                    if decimals > 0 {
                        out.extend([".", fraction]);
                    }
                }
                Part::Several { list, least, most, mark, joint } => {
                    let all = self.list(list).map(|found| found.alternatives.as_slice()).unwrap_or_default();
                    // Each as likely as the others, nothing twice, and in the order the list has.
                    let mut wanted = random.between(least, most).min(all.len() as u64);
                    let begins = out.len();
                    for (one, left) in all.iter().zip((1..=all.len() as u64).rev()) {
                        if random.below(left) >= wanted {
                            continue;
                        }
                        wanted -= 1;
                        // Where sentences end in a full stop of full width, no space follows.
                        let spaced = joint != " " || !out.ends_with(['。', '！', '？']);
                        out.push_str(if out.len() > begins && spaced { joint } else { "" });
                        out.push_str(mark);
                        self.write_parts(one, random, out);
                    }
                    if all.is_empty() {
                        self.write(list, random, out);
                    }
                }
            }
        }
    }

    fn list(&self, name: &str) -> Option<&List> {
        self.problem.and_then(|problem| problem.lists.get(name)).or_else(|| self.bank.lists.get(name))
    }

    fn fact(&self, name: &str) -> Option<&str> {
        match name {
            "age" => Some(&self.facts.age),
            "kilos" => Some(&self.facts.kilos),
            "name" => Some(&self.facts.name),
            "date" => Some(&self.facts.date),
            "author" => Some(&self.facts.author),
            "title" => self.problem.map(|problem| problem.title),
            _ => None,
        }
    }

    fn by_sex(&self) -> usize {
        match self.facts.sex {
            Some(Sex::Female) => 0,
            Some(Sex::Male) => 1,
            _ => 2,
        }
    }
}

fn parts(text: &'static str) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').ok_or_else(|| malformed(text))?;
        parts.extend((!before.is_empty()).then_some(Part::Text(before)));
        parts.push(slot_of(slot).ok_or_else(|| malformed(text))?);
        rest = after;
    }
    parts.extend((!rest.is_empty()).then_some(Part::Text(rest)));
    Ok(parts)
}

fn slot_of(slot: &'static str) -> Option<Part> {
    if slot.starts_with(|first: char| first.is_ascii_digit()) {
        if slot.contains('/') {
            return Some(Part::OneOf(slot));
        }
        let (low, high) = slot.split_once('-')?;
        let decimals = high.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let bound = |text: &str| text.replace('.', "").parse().ok();
        let width = if decimals > 0 { decimals + 1 } else { low.len() };
        let (low, high) = (bound(low)?, bound(high)?);
        return (low <= high).then_some(Part::Number { low, high, decimals, width });
    }
    let Some((list, counts)) = slot.split_once(' ') else { return Some(Part::Slot(slot)) };
    let (least, most) = counts.split_once('-')?;
    let (mark, joint) = match list.chars().next()? {
        '+' => ("", "\n"),
        '-' => ("- ", "\n"),
        _ => ("", " "),
    };
    Some(Part::Several {
        list: list.trim_start_matches(['+', '-']),
        least: least.parse().ok()?,
        most: most.parse().ok()?,
        mark,
        joint,
    })
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a bank of phrases is malformed: {line}"))
}

#[cfg(test)]
impl Bank {
    /// Names in braces that lead nowhere, and lists by sex that lack a word, with and without each problem.
    pub(super) fn loose_ends(&self) -> Vec<String> {
        let facts = Facts::default();
        let named = |part: &Part| match part {
            Part::Slot(name) | Part::Several { list: name, .. } => Some(*name),
            Part::Text(_) | Part::Number { .. } | Part::OneOf(_) => None,
        };
        let mut loose = Vec::new();
        for problem in &self.problems {
            let scope = Scope { bank: self, problem: Some(problem), facts: &facts };
            for (name, list) in self.lists.iter().chain(&problem.lists) {
                let slots = list.alternatives.iter().flatten().filter_map(named);
                loose.extend(
                    slots
                        .filter(|slot| scope.list(slot).is_none() && scope.fact(slot).is_none())
                        .map(|slot| format!("{name}: {slot}")),
                );
                loose.extend(
                    (matches!(list.choice, Choice::Sex) && list.alternatives.len() != 3)
                        .then(|| format!("{name}: by sex")),
                );
            }
        }
        loose
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# remark\nhe~: she | he | they\nside=: left | right\nplan: rest {1-1} | water | sleep\nvalue: {36.1-36.3} at {07-07}:{00-00}, {2.5/5} mg\n\
        << 1-1 2-2\n{he}, {age}\n{-plan 3-3}\n>>\n== Cough | medicine | 2-90 | any | AMB VR\nplan: honey\nown: {title} {side}: {plan 1-2}. {unknown}\n";

    fn write(list: &str, sex: Sex, problem: bool) -> String {
        let bank = Bank::read(&[TEXT]).unwrap();
        let facts = Facts { sex: Some(sex), lot: 3, age: "30".into(), ..Facts::default() };
        let scope = Scope { bank: &bank, problem: bank.problems.first().filter(|_| problem), facts: &facts };
        scope.text(list, &mut Random::of(1, 1, 1))
    }

    #[test]
    fn a_problem_has_the_first_word_and_its_language_the_second() {
        assert_eq!(write("own", Sex::Male, true), "Cough right: honey. {unknown}");
        assert_eq!(write("1-1", Sex::Female, true), "she, 30\n- honey");
        assert_eq!(write("2-2", Sex::Unknown, false), "they, 30\n- rest 1\n- water\n- sleep");
    }

    #[test]
    fn numbers_keep_their_form() {
        let value = write("value", Sex::Male, false);
        let (temperature, dose) = value.split_once(" at 07:00, ").unwrap();
        assert!(["36.1", "36.2", "36.3"].contains(&temperature) && ["2.5 mg", "5 mg"].contains(&dose), "{value}");
    }

    #[test]
    fn a_problem_says_whom_it_befalls() {
        let bank = Bank::read(&["== A | medicine | 2-9 | female | AMB\n"]).unwrap();
        let [problem] = bank.problems.as_slice() else { panic!("{bank:?}") };
        assert!(problem.befalls(2, Sex::Female) && problem.befalls(9, Sex::Female));
        assert!(!problem.befalls(10, Sex::Female) && !problem.befalls(5, Sex::Male));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in [
            "no list\n",
            "a: {1-\n",
            "a: {1-x}\n",
            "a: {9-1}\n",
            "<< 1-1\nno end\n",
            "== A | magic | 1-2 | any | AMB\n",
            "== A\n",
            "a: {b 2}\n",
        ] {
            assert!(Bank::read(&[text]).is_err(), "{text}");
        }
    }
}
