//! Which roles may do what: `config/roles.yaml`, built in. An operation without a row is refused to everyone.

use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("../../config/roles.yaml");

/// The table of roles.
pub struct Policy(BTreeMap<String, BTreeSet<String>>);

impl Policy {
    /// The checked-in table.
    pub fn built_in() -> Result<Self, Box<figment::Error>> {
        use figment::providers::{Format, Yaml};
        figment::Figment::from(Yaml::string(TABLE)).extract().map(Self).map_err(Box::new)
    }

    /// Whether one of `roles` may do `operation`.
    pub fn allows(&self, operation: &str, roles: &[String]) -> bool {
        self.0.get(operation).is_some_and(|allowed| roles.iter().any(|role| allowed.contains(role)))
    }

    /// All operations that have a row.
    pub fn operations(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
