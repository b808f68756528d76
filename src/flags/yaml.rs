//! Flags as YAML: the built-in `config/flags.yaml`, and over it the file of `flags.file`, read again while the server runs.
//! What cannot be read stops the start; later, the last that could be read stays.

use super::{Answer, ConfigProblem, Flag, Subject};
use crate::ids::TenantId;
use figment::Figment;
use figment::providers::Format;
use parking_lot::RwLock;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const BUILT_IN: &str = include_str!("../../config/flags.yaml");

/// The models of isolation. A rule for none of them would silently fit nobody.
const MODELS: [&str; 3] = ["shared", "schema", "database"];

/// The YAML, as it was last read.
pub struct Yaml {
    file: Option<PathBuf>,
    rules: RwLock<Arc<Rules>>,
}

/// What the YAML says of every flag.
#[derive(Debug)]
pub struct Rules(BTreeMap<Flag, Entry>);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    enabled: bool,
    variant: Option<String>,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default, deserialize_with = "tenant")]
    tenant: Option<TenantId>,
    plan: Option<String>,
    model: Option<String>,
    region: Option<String>,
    enabled: bool,
    variant: Option<String>,
}

impl Yaml {
    pub fn new(file: Option<PathBuf>) -> Result<Self, ConfigProblem> {
        let text = file.as_ref().map(std::fs::read_to_string).transpose();
        let rules = text.map_err(|error| error.to_string()).and_then(|text| Rules::read(text.as_deref()));
        match rules {
            Ok(rules) => Ok(Self { file, rules: RwLock::new(Arc::new(rules)) }),
            Err(error) => Err(ConfigProblem(format!("{}: {error}", file.unwrap_or_default().display()))),
        }
    }

    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read())
    }

    /// Reads the file again and again. What is wrong with it is said once.
    pub async fn follow(&self, refresh: Duration) {
        let Some(file) = &self.file else { return };
        let mut wrong = None;
        loop {
            tokio::time::sleep(refresh).await;
            let text = tokio::fs::read_to_string(file).await.map_err(|error| error.to_string());
            wrong = match text.and_then(|text| Rules::read(Some(&text))) {
                Ok(rules) => {
                    *self.rules.write() = Arc::new(rules);
                    None
                }
                Err(error) => {
                    if wrong.as_ref() != Some(&error) {
                        tracing::error!(
                            error,
                            "The file of flags {} cannot be used; flags stay as they were",
                            file.display()
                        );
                    }
                    Some(error)
                }
            };
        }
    }
}

impl Rules {
    fn read(text: Option<&str>) -> Result<Self, String> {
        let built_in = Figment::from(figment::providers::Yaml::string(BUILT_IN));
        let merged = text.map_or(built_in.clone(), |text| built_in.merge(figment::providers::Yaml::string(text)));
        let entries: BTreeMap<String, Entry> = merged.extract().map_err(|error| error.to_string())?;
        let mut rules = BTreeMap::new();
        for (name, entry) in entries {
            let Some(flag) = Flag::named(&name) else {
                let names: Vec<_> = Flag::ALL.iter().map(|flag| flag.name()).collect();
                return Err(format!("{name} is no flag; there are {}", names.join(", ")));
            };
            if let Some((at, problem)) =
                entry.rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule.problem()?)))
            {
                return Err(format!("{name}.rules.{at}: {problem}"));
            }
            rules.insert(flag, entry);
        }
        Ok(Self(rules))
    }

    pub fn answer(&self, flag: Flag, subject: Subject<'_>) -> Answer {
        let Some(entry) = self.0.get(&flag) else { return Answer::default() };
        let (enabled, variant) = match entry.rules.iter().find(|rule| rule.fits(subject)) {
            Some(rule) => (rule.enabled, &rule.variant),
            None => (entry.enabled, &entry.variant),
        };
        Answer { enabled, variant: variant.clone().filter(|_| enabled) }
    }
}

impl Rule {
    fn fits(&self, subject: Subject<'_>) -> bool {
        let fits = |wanted: &Option<String>, is: Option<&str>| wanted.is_none() || wanted.as_deref() == is;
        self.tenant.is_none_or(|tenant| tenant == subject.tenant)
            && fits(&self.plan, Some(subject.plan))
            && fits(&self.model, subject.model)
            && fits(&self.region, subject.region)
    }

    fn problem(&self) -> Option<String> {
        match self {
            Self { tenant: None, plan: None, model: None, region: None, .. } => {
                Some("names no tenant, plan, model or region".into())
            }
            Self { model: Some(model), .. } if !MODELS.contains(&model.as_str()) => {
                Some(format!("{model} is no model; there are {}", MODELS.join(", ")))
            }
            _ => None,
        }
    }
}

fn tenant<'de, D: Deserializer<'de>>(input: D) -> Result<Option<TenantId>, D::Error> {
    let text = Option::<String>::deserialize(input)?;
    text.map(|text| text.parse().map_err(|_| serde::de::Error::custom("tenant is the id of an organisation")))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, subject: Subject<'_>) -> (bool, Option<String>) {
        let Answer { enabled, variant } = Rules::read(Some(text)).unwrap().answer(Flag::ChartWrites, subject);
        (enabled, variant)
    }

    #[test]
    fn the_built_in_file_names_every_flag() {
        let Rules(built_in) = Rules::read(None).unwrap();
        assert!(Flag::ALL.iter().all(|flag| built_in.contains_key(flag)), "{built_in:?}");
    }

    #[test]
    fn the_first_rule_that_fits_answers() {
        let id = TenantId::new();
        let text = format!(
            "chartWrites:
               enabled: false
               rules:
                 - {{ tenant: {id}, enabled: true, variant: own }}
                 - {{ plan: trial, model: shared, enabled: false }}
                 - {{ plan: trial, region: eu-central, enabled: true }}"
        );
        let of = |tenant, plan, model| answer(&text, Subject { tenant, plan, model, region: Some("eu-central") });
        assert_eq!(of(id, "trial", Some("shared")), (true, Some("own".into())));
        assert_eq!(of(TenantId::new(), "trial", Some("shared")), (false, None));
        assert_eq!(of(TenantId::new(), "trial", Some("schema")), (true, None));
        assert_eq!(of(TenantId::new(), "trial", None), (true, None));
        assert_eq!(of(TenantId::new(), "standard", Some("shared")), (false, None));
        let elsewhere = Subject { tenant: TenantId::new(), plan: "trial", model: Some("schema"), region: None };
        assert_eq!(answer(&text, elsewhere), (false, None));
        // A file says what it changes, and no more; one that is all comment changes nothing.
        assert!(Rules::read(Some("# nothing yet")).unwrap().answer(Flag::ChartWrites, elsewhere).enabled);
        assert!(Rules::read(Some(&text)).unwrap().answer(Flag::PatientSearch, elsewhere).enabled);
    }

    #[test]
    fn a_file_that_says_something_else_is_refused() {
        for (text, problem) in [
            ("chartWrite: { enabled: true }", "chartWrite is no flag; there are chartWrites, patientSearch"),
            (
                "chartWrites: { enabled: 'on' }",
                "invalid type: found string \"on\", expected a boolean for key \"default.chartWrites.enabled\"",
            ),
            ("chartWrites: { enabled: 1 }", "expected a boolean"),
            ("chartWrites: true", "chartWrites"),
            ("chartWrites: { enable: true }", "unknown field: found `enable`"),
            ("chartWrites: { rules: [{ tenant: riverside, enabled: true }] }", "tenant is the id of an organisation"),
            ("chartWrites: { rules: [{ model: own, enabled: true }] }", "chartWrites.rules.0: own is no model"),
            (
                "chartWrites: { rules: [{ enabled: true }] }",
                "chartWrites.rules.0: names no tenant, plan, model or region",
            ),
            ("chartWrites: { rules: [{ plan: trial }] }", "missing field `enabled`"),
            ("- chartWrites", "expected"),
            ("chartWrites: {", "while parsing"),
        ] {
            let error = Rules::read(Some(text)).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
