//! Which roles may do what: `config/roles.yaml`, built into the binary. An operation without a row is refused to
//! everyone.

use std::collections::{BTreeMap, BTreeSet};

const ROLES_YAML: &str = include_str!("../../config/roles.yaml");

/// The table of roles: for each operation the roles that may perform it.
pub struct RoleTable(BTreeMap<String, BTreeSet<String>>);

impl RoleTable {
    /// Parses the checked-in table.
    ///
    /// # Errors
    /// The table is not valid YAML of the expected form, which is a fault of the build.
    pub fn built_in() -> Result<Self, Box<figment::Error>> {
        use figment::providers::{Format, Yaml};
        figment::Figment::from(Yaml::string(ROLES_YAML)).extract().map(Self).map_err(Box::new)
    }

    /// Returns whether one of `roles` may perform `operation`; false for an operation without a row.
    pub fn allows(&self, operation: &str, roles: &[String]) -> bool {
        self.0.get(operation).is_some_and(|allowed| roles.iter().any(|role| allowed.contains(role)))
    }

    /// Returns the names of all operations that have a row.
    pub fn operations(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
