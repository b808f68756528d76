//! Feature flags: behaviour that differs between organisations without a new version. An answer depends on what the catalog knows of the
//! tenant and on nothing else: no part of a request and no person takes part, so nothing a client sends can change one, and two people at
//! one chart never meet different behaviour. Answers come from memory: the YAML, and over it what Unleash last said of the flags it knows.

mod unleash;
mod yaml;

use crate::config;
use crate::ids::TenantId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use unleash::Unleash;
use yaml::Yaml;

macro_rules! flags {
    ($($(#[$doc:meta])+ $flag:ident { name: $name:literal, owner: $owner:literal, remove_by: $day:literal })+) => {
        /// A behaviour that can be chosen for a tenant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Flag { $($(#[$doc])+ $flag),+ }

        impl Flag {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$flag),+];

            /// What stands beside its declaration.
            pub fn about(self) -> About {
                match self { $(Self::$flag => About { name: $name, owner: $owner, remove_by: $day }),+ }
            }
        }
    };
}

flags! {
    /// Charts are changed here. Off while an organisation that moves in still writes them elsewhere: it reads, and its imports go on.
    ChartWrites { name: "chartWrites", owner: "charts", remove_by: "2027-09-30" }
    /// Patients are found by words. Off while an organisation's names are not all indexed: whoever misses a patient registers a second one.
    PatientSearch { name: "patientSearch", owner: "charts", remove_by: "2027-06-30" }
}

/// Who a flag is called, whose it is, and how long it may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// In the API, in the YAML and in Unleash.
    pub name: &'static str,
    /// Who removes it.
    pub owner: &'static str,
    /// The last day it may be in the code: `YYYY-MM-DD`.
    pub remove_by: &'static str,
}

/// For whom flags are answered: the tenant, as the catalog knows it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Which.
    pub tenant: TenantId,
    /// What it has ordered.
    pub plan: &'a str,
    /// How it is isolated, where it has a placement.
    pub model: Option<&'a str>,
    /// Where its server stands, where the operator has said so.
    pub region: Option<&'a str>,
}

/// One flag for one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is on.
    pub enabled: bool,
    /// Which of several behaviours, where the flag has more than one.
    pub variant: Option<String>,
}

/// Every flag for one tenant at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers(BTreeMap<Flag, Answer>);

/// Flags that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("flags: {0}")]
pub struct ConfigProblem(String);

/// Answers flags. One a process.
pub struct Flags {
    yaml: Yaml,
    unleash: Option<Unleash>,
    refresh: Duration,
}

impl Flag {
    /// In the API, in the YAML and in Unleash.
    pub fn name(self) -> &'static str {
        self.about().name
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|flag| flag.name() == name)
    }
}

impl Answers {
    /// Whether a flag is on.
    pub fn is_on(&self, flag: Flag) -> bool {
        self.0.get(&flag).is_some_and(|answer| answer.enabled)
    }

    /// The answer of this name; off, where there is no such flag.
    pub fn named(&self, name: &str) -> Answer {
        Flag::named(name).and_then(|flag| self.0.get(&flag)).cloned().unwrap_or_default()
    }

    /// Each flag and its answer.
    pub fn iter(&self) -> impl Iterator<Item = (Flag, &Answer)> {
        self.0.iter().map(|(flag, answer)| (*flag, answer))
    }
}

impl Flags {
    /// Reads the YAML; asks Unleash nothing yet.
    pub fn new(settings: &config::Flags) -> Result<Arc<Self>, ConfigProblem> {
        if settings.refresh_seconds == 0 {
            return Err(ConfigProblem("refresh_seconds must be 1 or more".into()));
        }
        let refresh = Duration::from_secs(settings.refresh_seconds);
        let unleash = match (&settings.unleash_url, &settings.unleash_token) {
            (Some(url), Some(token)) => Some(Unleash::new(url, token, refresh)?),
            (None, None) => None,
            _ => return Err(ConfigProblem("unleash_url and unleash_token are set together or not at all".into())),
        };
        Ok(Arc::new(Self { yaml: Yaml::new(settings.file.clone())?, unleash, refresh }))
    }

    /// All flags for a tenant, now.
    pub fn answers(&self, subject: Subject<'_>) -> Answers {
        let written = self.yaml.rules();
        let answer = |flag: Flag| {
            let written = written.answer(flag, subject);
            let told = self.unleash.as_ref().and_then(|unleash| unleash.answer(flag, subject, written.enabled));
            (flag, told.unwrap_or(written))
        };
        Answers(Flag::ALL.iter().copied().map(answer).collect())
    }

    /// Follows the file and Unleash until the process ends.
    pub async fn follow(self: Arc<Self>) {
        let unleash = async {
            if let Some(unleash) = &self.unleash {
                unleash.follow(self.refresh).await;
            }
        };
        tokio::join!(self.yaml.follow(self.refresh), unleash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{NaiveDate, Utc};
    use std::collections::BTreeSet;

    #[test]
    fn no_flag_outstays_its_day_and_no_name_repeats() {
        let mut names = BTreeSet::new();
        for flag in Flag::ALL {
            let About { name, owner, remove_by } = flag.about();
            let day: NaiveDate = remove_by.parse().unwrap();
            assert!(
                Utc::now().date_naive() <= day,
                "{name} was to be removed by {day}: {owner} decides what stays, and removes the flag"
            );
            assert!(!owner.is_empty() && names.insert(name), "{name}");
            assert!(
                name.chars().all(|c| c.is_ascii_alphanumeric()),
                "{name} is not a word in an API, in YAML and in a URL alike"
            );
        }
    }
}
