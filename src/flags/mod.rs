//! Feature flags: behaviour that differs between organisations without a new release. A flag is evaluated from what the
//! catalog knows of the tenant and from nothing else. No part of a request and no person enters into it, so a client
//! cannot influence a flag, and two people who open the same chart see the same behaviour. Evaluation reads memory
//! only: the YAML file, and for the flags that Unleash knows, its last response, which overrides the file.

mod unleash;
mod yaml;

use crate::config;
use crate::ids::TenantId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use unleash::Unleash;
use yaml::RuleFile;

macro_rules! flags {
    ($($(#[$doc:meta])+ $flag:ident { name: $name:literal, owner: $owner:literal, remove_by: $day:literal })+) => {
        /// A feature that is on for some tenants and off for others.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Flag { $($(#[$doc])+ $flag),+ }

        impl Flag {
            /// Every flag, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$flag),+];

            /// Returns the name, owner and removal date that the declaration gives.
            pub fn info(self) -> FlagInfo {
                match self { $(Self::$flag => FlagInfo { name: $name, owner: $owner, remove_by: $day }),+ }
            }
        }
    };
}

flags! {
    /// Clients may write charts. It is off while an organisation that migrates to Cordon still writes its charts in
    /// another system: until then it can read them here, and imports continue.
    ChartWrites { name: "chartWrites", owner: "charts", remove_by: "2027-09-30" }
    /// Patients can be searched by words. It is off while not all names of an organisation are indexed, because a user
    /// who does not find a patient would register the same person again.
    PatientSearch { name: "patientSearch", owner: "charts", remove_by: "2027-06-30" }
}

/// The name of a flag, its owner, and how long it may stay in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagInfo {
    /// The name in the API, in YAML files and in Unleash. It consists of ASCII letters and digits.
    pub name: &'static str,
    /// The team that decides about the flag and removes it.
    pub owner: &'static str,
    /// The last day on which the flag may be in the code, as `YYYY-MM-DD`. A test fails after it.
    pub remove_by: &'static str,
}

/// The tenant that flags are evaluated for, as the catalog describes it.
#[derive(Debug, Clone, Copy)]
pub struct FlagContext<'a> {
    /// The id of the tenant.
    pub tenant: TenantId,
    /// The plan that the tenant has ordered.
    pub plan: &'a str,
    /// The tenancy model, `shared`, `schema` or `database`; `None` while the tenant has no placement.
    pub model: Option<&'a str>,
    /// The region of the tenant's server, if the operator has configured one.
    pub region: Option<&'a str>,
}

/// The value of one flag for one tenant. The default is off, without a variant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evaluation {
    /// Whether the flag is on.
    pub enabled: bool,
    /// The variant of the feature, if the flag is on and has one.
    pub variant: Option<String>,
}

/// The values of all flags for one tenant at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluations(BTreeMap<Flag, Evaluation>);

/// Why the settings of `flags`, or the file they name, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("flags: {0}")]
pub struct FlagsConfigError(String);

/// Evaluates flags. Each `App` has one.
pub struct Flags {
    rule_file: RuleFile,
    unleash: Option<Unleash>,
    refresh_interval: Duration,
}

impl Flag {
    /// Returns the name in the API, in YAML files and in Unleash.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flag| flag.name() == name)
    }
}

impl Evaluations {
    /// Tells whether a flag is on.
    pub fn is_on(&self, flag: Flag) -> bool {
        self.0.get(&flag).is_some_and(|evaluation| evaluation.enabled)
    }

    /// Returns the value of the flag with this name. A name that no flag has is off.
    pub fn by_name(&self, name: &str) -> Evaluation {
        Flag::by_name(name).and_then(|flag| self.0.get(&flag)).cloned().unwrap_or_default()
    }

    /// Returns every flag with its value.
    pub fn iter(&self) -> impl Iterator<Item = (Flag, &Evaluation)> {
        self.0.iter().map(|(flag, evaluation)| (*flag, evaluation))
    }
}

impl Flags {
    /// Reads the YAML file. Nothing is requested from Unleash before `refresh`.
    ///
    /// # Errors Fails when the file is missing or invalid, when `refresh_seconds` is 0, and when only one of Unleash's
    /// URL and token is set.
    pub fn new(settings: &config::Flags) -> Result<Arc<Self>, FlagsConfigError> {
        if settings.refresh_seconds == 0 {
            return Err(FlagsConfigError("refresh_seconds must be 1 or more".into()));
        }
        let refresh_interval = Duration::from_secs(settings.refresh_seconds);
        let unleash = match (&settings.unleash_url, &settings.unleash_token) {
            (Some(url), Some(token)) => Some(Unleash::new(url, token, refresh_interval)?),
            (None, None) => None,
            _ => return Err(FlagsConfigError("unleash_url and unleash_token are set together or not at all".into())),
        };
        Ok(Arc::new(Self { rule_file: RuleFile::new(settings.file.clone())?, unleash, refresh_interval }))
    }

    /// Evaluates all flags for a tenant, with the rules that are in memory now.
    pub fn evaluate(&self, context: FlagContext<'_>) -> Evaluations {
        let rules = self.rule_file.rules();
        let evaluate = |flag: Flag| {
            let from_file = rules.evaluate(flag, context);
            let unleash = self.unleash.as_ref();
            let from_unleash = unleash.and_then(|unleash| unleash.evaluate(flag, context, from_file.enabled));
            (flag, from_unleash.unwrap_or(from_file))
        };
        Evaluations(Flag::ALL.iter().copied().map(evaluate).collect())
    }

    /// Reads the file and Unleash again every `flags.refresh_seconds`. Never returns.
    pub async fn refresh(self: Arc<Self>) {
        let unleash = async {
            if let Some(unleash) = &self.unleash {
                unleash.refresh(self.refresh_interval).await;
            }
        };
        tokio::join!(self.rule_file.refresh(self.refresh_interval), unleash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{NaiveDate, Utc};
    use std::collections::BTreeSet;

    #[test]
    fn no_flag_is_past_its_removal_date_and_names_are_unique() {
        let mut names = BTreeSet::new();
        for flag in Flag::ALL {
            let FlagInfo { name, owner, remove_by } = flag.info();
            let day: NaiveDate = remove_by.parse().unwrap();
            assert!(
                Utc::now().date_naive() <= day,
                "{name} had to be removed by {day}: its owner, {owner}, decides what stays and removes the flag"
            );
            assert!(!owner.is_empty() && names.insert(name), "{name}");
            assert!(
                name.chars().all(|c| c.is_ascii_alphanumeric()),
                "{name} must be usable in the API, in YAML and in a URL"
            );
        }
    }
}
