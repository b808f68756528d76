//! Flags from YAML: the built-in `config/flags.yaml`, and the file of `flags.file`, which overrides it and is read
//! again while the server runs. A file that is invalid at the start stops the start. One that becomes invalid later is
//! logged, and the last valid rules stay in use.

use super::{Evaluation, Flag, FlagContext, FlagsConfigError};
use crate::ids::TenantId;
use figment::Figment;
use figment::providers::{Format, Yaml};
use parking_lot::RwLock;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const BUILT_IN: &str = include_str!("../../config/flags.yaml");

/// The tenancy models. A rule that names any other model is an error, because it would match no tenant.
const MODELS: [&str; 3] = ["shared", "schema", "database"];

/// The file of flags, if one is configured, and the rules that were last read.
pub struct RuleFile {
    path: Option<PathBuf>,
    rules: RwLock<Arc<FlagRules>>,
}

/// The rules of every flag: those of the built-in file, with the changes that `flags.file` makes.
#[derive(Debug)]
pub struct FlagRules(BTreeMap<Flag, Entry>);

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

impl RuleFile {
    pub fn new(path: Option<PathBuf>) -> Result<Self, FlagsConfigError> {
        let text = path.as_ref().map(std::fs::read_to_string).transpose();
        let rules = text.map_err(|error| error.to_string()).and_then(|text| FlagRules::parse(text.as_deref()));
        match rules {
            Ok(rules) => Ok(Self { path, rules: RwLock::new(Arc::new(rules)) }),
            Err(error) => Err(FlagsConfigError(format!("{}: {error}", path.unwrap_or_default().display()))),
        }
    }

    pub fn rules(&self) -> Arc<FlagRules> {
        Arc::clone(&self.rules.read())
    }

    /// Reads the file again after every `interval`. Returns at once when no file is configured, and never otherwise.
    /// Logs an error once, and again only when it changes.
    pub async fn refresh(&self, interval: Duration) {
        let Some(path) = &self.path else { return };
        let mut last_error = None;
        loop {
            tokio::time::sleep(interval).await;
            let text = tokio::fs::read_to_string(path).await.map_err(|error| error.to_string());
            last_error = match text.and_then(|text| FlagRules::parse(Some(&text))) {
                Ok(rules) => {
                    *self.rules.write() = Arc::new(rules);
                    None
                }
                Err(error) => {
                    if last_error.as_ref() != Some(&error) {
                        tracing::error!(
                            error,
                            "The flags file {} cannot be used; flags keep their last values",
                            path.display()
                        );
                    }
                    Some(error)
                }
            };
        }
    }
}

impl FlagRules {
    fn parse(text: Option<&str>) -> Result<Self, String> {
        let built_in = Figment::from(Yaml::string(BUILT_IN));
        let merged = text.map_or(built_in.clone(), |text| built_in.merge(Yaml::string(text)));
        let entries: BTreeMap<String, Entry> = merged.extract().map_err(|error| error.to_string())?;
        let mut rules = BTreeMap::new();
        for (name, entry) in entries {
            let Some(flag) = Flag::by_name(&name) else {
                let names: Vec<_> = Flag::ALL.iter().map(|flag| flag.name()).collect();
                return Err(format!("{name} is no flag; there are {}", names.join(", ")));
            };
            if let Some((index, problem)) =
                entry.rules.iter().enumerate().find_map(|(index, rule)| Some((index, rule.problem()?)))
            {
                return Err(format!("{name}.rules.{index}: {problem}"));
            }
            rules.insert(flag, entry);
        }
        Ok(Self(rules))
    }

    pub fn evaluate(&self, flag: Flag, context: FlagContext<'_>) -> Evaluation {
        let Some(entry) = self.0.get(&flag) else { return Evaluation::default() };
        let (enabled, variant) = match entry.rules.iter().find(|rule| rule.matches(context)) {
            Some(rule) => (rule.enabled, &rule.variant),
            None => (entry.enabled, &entry.variant),
        };
        Evaluation { enabled, variant: variant.clone().filter(|_| enabled) }
    }
}

impl Rule {
    /// Tells whether the tenant has every property that the rule names.
    fn matches(&self, context: FlagContext<'_>) -> bool {
        let matches =
            |required: &Option<String>, actual: Option<&str>| required.is_none() || required.as_deref() == actual;
        self.tenant.is_none_or(|tenant| tenant == context.tenant)
            && matches(&self.plan, Some(context.plan))
            && matches(&self.model, context.model)
            && matches(&self.region, context.region)
    }

    /// Returns what is wrong with the rule, if anything.
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

    fn evaluate(text: &str, context: FlagContext<'_>) -> (bool, Option<String>) {
        let rules = FlagRules::parse(Some(text)).unwrap();
        let Evaluation { enabled, variant } = rules.evaluate(Flag::ChartWrites, context);
        (enabled, variant)
    }

    #[test]
    fn the_built_in_file_names_every_flag() {
        let FlagRules(built_in) = FlagRules::parse(None).unwrap();
        assert!(Flag::ALL.iter().all(|flag| built_in.contains_key(flag)), "{built_in:?}");
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let id = TenantId::new();
        let text = format!(
            "chartWrites:
               enabled: false
               rules:
                 - {{ tenant: {id}, enabled: true, variant: own }}
                 - {{ plan: trial, model: shared, enabled: false }}
                 - {{ plan: trial, region: eu-central, enabled: true }}"
        );
        let of = |tenant, plan, model| evaluate(&text, FlagContext { tenant, plan, model, region: Some("eu-central") });
        assert_eq!(of(id, "trial", Some("shared")), (true, Some("own".into())));
        assert_eq!(of(TenantId::new(), "trial", Some("shared")), (false, None));
        assert_eq!(of(TenantId::new(), "trial", Some("schema")), (true, None));
        assert_eq!(of(TenantId::new(), "trial", None), (true, None));
        assert_eq!(of(TenantId::new(), "standard", Some("shared")), (false, None));
        let elsewhere = FlagContext { tenant: TenantId::new(), plan: "trial", model: Some("schema"), region: None };
        assert_eq!(evaluate(&text, elsewhere), (false, None));
        // A file changes only the flags that it names; one that holds nothing but comments changes nothing.
        assert!(FlagRules::parse(Some("# nothing yet")).unwrap().evaluate(Flag::ChartWrites, elsewhere).enabled);
        assert!(FlagRules::parse(Some(&text)).unwrap().evaluate(Flag::PatientSearch, elsewhere).enabled);
    }

    #[test]
    fn an_invalid_file_is_refused() {
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
            let error = FlagRules::parse(Some(text)).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
