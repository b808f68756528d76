//! Phrases and templates: the files in `texts/`, which are read once, and the text that is generated from them.
//!
//! ```text
//! # a comment
//! list: one | another                       alternatives; several lines with the same name add to one list
//! he~: she | he | they                      selected by sex, not at random
//! side=: left | right                       the same alternative in the whole chart
//! << 11506-3 11488-4                        a template of several lines for these names, up to >>
//! == title | speciality | ages | sex | classes > later classes      a problem; the lists that follow are its own
//! ```
//!
//! Braces contain a number (`{36.1-38.4}`, `{00-59}`, one of `{2.5/5/10}`), a fact (`{age}`), or a list: `{plan}` is
//! one alternative, `{plan 2-4}` 2 to 4 sentences, `{+lab 5-9}` 5 to 9 lines, `{-plan 2-4}` 2 to 4 bullet points. The
//! lists of a problem take precedence over those of its language.

use super::random::SplitMix64;
use super::speciality::Speciality;
use crate::fhir::Sex;
use std::collections::BTreeMap;
use std::io;

/// The phrases of one language.
#[derive(Debug, Default)]
pub(super) struct PhraseBank {
    lists: Lists,
    pub(super) problems: Vec<Problem>,
}

/// A problem for which patients are seen.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) title: &'static str,
    pub(super) speciality: Speciality,
    ages: (u64, u64),
    sex: Option<Sex>,
    /// Classes of the first encounter. Frequent ones are listed more than once.
    pub(super) classes: Vec<&'static str>,
    /// Classes of follow-up encounters.
    pub(super) later_classes: Vec<&'static str>,
    lists: Lists,
}

/// The facts about a patient and a note that texts refer to.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) sex: Option<Sex>,
    /// A random number of the chart, which selects the alternatives of lists marked with `=`.
    pub(super) chart_choice: usize,
    pub(super) age: String,
    pub(super) weight_kg: String,
    pub(super) name: String,
    pub(super) date: String,
    pub(super) author: String,
}

/// The lists and facts from which a text is generated.
#[derive(Clone, Copy)]
pub(super) struct Scope<'b> {
    pub(super) phrases: &'b PhraseBank,
    pub(super) problem: Option<&'b Problem>,
    pub(super) facts: &'b Facts,
}

type Lists = BTreeMap<&'static str, List>;

#[derive(Debug, Default)]
struct List {
    selection: Selection,
    alternatives: Vec<Vec<Part>>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Selection {
    #[default]
    Random,
    BySex,
    PerChart,
}

#[derive(Debug)]
enum Part {
    Text(&'static str),
    /// A number in fixed-point notation: bounds without the decimal point, digits after it, and minimum number of
    /// digits.
    Number {
        low: u64,
        high: u64,
        decimals: usize,
        width: usize,
    },
    /// One of several numbers, separated by `/`.
    OneOf(&'static str),
    /// A list or a fact, by name.
    Slot(&'static str),
    Several {
        list: &'static str,
        min: u64,
        max: u64,
        bullet: &'static str,
        separator: &'static str,
    },
}

impl PhraseBank {
    /// Reads the files of a language.
    pub(super) fn read(texts: &[&'static str]) -> io::Result<Self> {
        let mut phrases = Self::default();
        for text in texts {
            let mut rest = *text;
            while let Some((line, after)) = rest.split_once('\n') {
                rest = after;
                if let Some(names) = line.strip_prefix("<< ") {
                    let (body, after) = rest.split_once("\n>>\n").ok_or_else(|| malformed(line))?;
                    rest = after;
                    for name in names.split_whitespace() {
                        phrases.list(name).alternatives.push(parts(body)?);
                    }
                } else if let Some(heading) = line.strip_prefix("== ") {
                    phrases.problems.push(Problem::read(heading)?);
                } else if !line.is_empty() && !line.starts_with('#') {
                    let (name, alternatives) = line.split_once(": ").ok_or_else(|| malformed(line))?;
                    let alternatives = alternatives.split(" | ").map(parts).collect::<io::Result<Vec<_>>>()?;
                    let (name, selection) = match (name.strip_suffix('~'), name.strip_suffix('=')) {
                        (Some(name), _) => (name, Selection::BySex),
                        (_, Some(name)) => (name, Selection::PerChart),
                        _ => (name, Selection::Random),
                    };
                    let list = phrases.list(name);
                    list.selection = selection;
                    list.alternatives.extend(alternatives);
                }
            }
        }
        Ok(phrases)
    }

    /// Returns the list with this name of the problem that is being read, or of the language before the first problem.
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
            speciality: Speciality::from_name(speciality).ok_or_else(|| malformed(heading))?,
            ages: ages.ok_or_else(|| malformed(heading))?,
            sex: [Sex::Female, Sex::Male].into_iter().find(|one| one.name().eq_ignore_ascii_case(sex)),
            classes: classes.split_whitespace().collect(),
            later_classes: later_classes.split_whitespace().collect(),
            lists: Lists::new(),
        })
    }

    /// Returns whether a patient of this age in years and this sex may have the problem.
    pub(super) fn can_affect(&self, age: u64, sex: Sex) -> bool {
        (self.ages.0..=self.ages.1).contains(&age) && self.sex.is_none_or(|only| only == sex)
    }

    /// Returns whether the problem has a list of its own with this name.
    pub(super) fn has_list(&self, list: &str) -> bool {
        self.lists.contains_key(list)
    }
}

impl Scope<'_> {
    /// Returns whether the problem or the language has a list with this name.
    pub(super) fn has_list(&self, list: &str) -> bool {
        self.list(list).is_some()
    }

    /// Returns one alternative of a list.
    pub(super) fn text(&self, list: &str, random: &mut SplitMix64) -> String {
        let mut out = String::new();
        self.write(list, random, &mut out);
        out
    }

    /// Writes one alternative of a list. A name that is unknown is written in braces, and a test checks that there is
    /// none.
    pub(super) fn write(&self, name: &str, random: &mut SplitMix64, out: &mut String) {
        let Some(list) = self.list(name) else {
            match self.fact(name) {
                Some(fact) => out.push_str(fact),
                None => out.extend(["{", name, "}"]),
            }
            return;
        };
        let parts = match list.selection {
            Selection::Random => random.pick(&list.alternatives),
            Selection::BySex => list.alternatives.get(self.by_sex()),
            Selection::PerChart => list.alternatives.get(self.facts.chart_choice % list.alternatives.len().max(1)),
        };
        self.write_parts(parts.map(Vec::as_slice).unwrap_or_default(), random, out);
    }

    fn write_parts(&self, parts: &[Part], random: &mut SplitMix64, out: &mut String) {
        for part in parts {
            match *part {
                Part::Text(text) => out.push_str(text),
                Part::OneOf(numbers) => {
                    let index = random.below(numbers.split('/').count() as u64);
                    out.extend(numbers.split('/').nth(usize::try_from(index).unwrap_or_default()));
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
                Part::Several { list, min, max, bullet, separator } => {
                    let all = self.list(list).map(|found| found.alternatives.as_slice()).unwrap_or_default();
                    // Selection sampling: all alternatives are equally likely, none is repeated, and their order is
                    // kept.
                    let mut missing = random.between(min, max).min(all.len() as u64);
                    let start = out.len();
                    for (alternative, left) in all.iter().zip((1..=all.len() as u64).rev()) {
                        if random.below(left) >= missing {
                            continue;
                        }
                        missing -= 1;
                        // No space follows a full-width full stop.
                        let spaced = separator != " " || !out.ends_with(['。', '！', '？']);
                        out.push_str(if out.len() > start && spaced { separator } else { "" });
                        out.push_str(bullet);
                        self.write_parts(alternative, random, out);
                    }
                    if all.is_empty() {
                        self.write(list, random, out);
                    }
                }
            }
        }
    }

    fn list(&self, name: &str) -> Option<&List> {
        self.problem.and_then(|problem| problem.lists.get(name)).or_else(|| self.phrases.lists.get(name))
    }

    fn fact(&self, name: &str) -> Option<&str> {
        match name {
            "age" => Some(&self.facts.age),
            "kilos" => Some(&self.facts.weight_kg),
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

/// Parses a phrase into text and slots.
fn parts(text: &'static str) -> io::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (slot, after) = after.split_once('}').ok_or_else(|| malformed(text))?;
        parts.extend((!before.is_empty()).then_some(Part::Text(before)));
        parts.push(parse_slot(slot).ok_or_else(|| malformed(text))?);
        rest = after;
    }
    parts.extend((!rest.is_empty()).then_some(Part::Text(rest)));
    Ok(parts)
}

/// Parses the content of braces.
fn parse_slot(slot: &'static str) -> Option<Part> {
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
    let (min, max) = counts.split_once('-')?;
    let (bullet, separator) = match list.chars().next()? {
        '+' => ("", "\n"),
        '-' => ("- ", "\n"),
        _ => ("", " "),
    };
    Some(Part::Several {
        list: list.trim_start_matches(['+', '-']),
        min: min.parse().ok()?,
        max: max.parse().ok()?,
        bullet,
        separator,
    })
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a bank of phrases is malformed: {line}"))
}

#[cfg(test)]
impl PhraseBank {
    /// Returns unknown names in braces and incomplete lists by sex, for each problem.
    pub(super) fn inconsistencies(&self) -> Vec<String> {
        let facts = Facts::default();
        let referenced = |part: &Part| match part {
            Part::Slot(name) | Part::Several { list: name, .. } => Some(*name),
            Part::Text(_) | Part::Number { .. } | Part::OneOf(_) => None,
        };
        let mut found = Vec::new();
        for problem in &self.problems {
            let scope = Scope { phrases: self, problem: Some(problem), facts: &facts };
            for (name, list) in self.lists.iter().chain(&problem.lists) {
                let slots = list.alternatives.iter().flatten().filter_map(referenced);
                found.extend(
                    slots
                        .filter(|slot| scope.list(slot).is_none() && scope.fact(slot).is_none())
                        .map(|slot| format!("{name}: {slot}")),
                );
                found.extend(
                    (matches!(list.selection, Selection::BySex) && list.alternatives.len() != 3)
                        .then(|| format!("{name}: by sex")),
                );
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# remark\nhe~: she | he | they\nside=: left | right\nplan: rest {1-1} | water | sleep\n\
        value: {36.1-36.3} at {07-07}:{00-00}, {2.5/5} mg\n\
        << 1-1 2-2\n{he}, {age}\n{-plan 3-3}\n>>\n== Cough | medicine | 2-90 | any | AMB VR\n\
        plan: honey\nown: {title} {side}: {plan 1-2}. {unknown}\n";

    fn write(list: &str, sex: Sex, problem: bool) -> String {
        let phrases = PhraseBank::read(&[TEXT]).unwrap();
        let facts = Facts { sex: Some(sex), chart_choice: 3, age: "30".into(), ..Facts::default() };
        let scope = Scope { phrases: &phrases, problem: phrases.problems.first().filter(|_| problem), facts: &facts };
        scope.text(list, &mut SplitMix64::stream(1, 1, 1))
    }

    #[test]
    fn lists_of_the_problem_take_precedence_over_those_of_the_language() {
        assert_eq!(write("own", Sex::Male, true), "Cough right: honey. {unknown}");
        assert_eq!(write("1-1", Sex::Female, true), "she, 30\n- honey");
        assert_eq!(write("2-2", Sex::Unknown, false), "they, 30\n- rest 1\n- water\n- sleep");
    }

    #[test]
    fn numbers_keep_their_format() {
        let value = write("value", Sex::Male, false);
        let (temperature, dose) = value.split_once(" at 07:00, ").unwrap();
        assert!(["36.1", "36.2", "36.3"].contains(&temperature) && ["2.5 mg", "5 mg"].contains(&dose), "{value}");
    }

    #[test]
    fn a_problem_is_limited_by_age_and_sex() {
        let phrases = PhraseBank::read(&["== A | medicine | 2-9 | female | AMB\n"]).unwrap();
        let [problem] = phrases.problems.as_slice() else { panic!("{phrases:?}") };
        assert!(problem.can_affect(2, Sex::Female) && problem.can_affect(9, Sex::Female));
        assert!(!problem.can_affect(10, Sex::Female) && !problem.can_affect(5, Sex::Male));
    }

    #[test]
    fn malformed_texts_are_refused() {
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
            assert!(PhraseBank::read(&[text]).is_err(), "{text}");
        }
    }
}
