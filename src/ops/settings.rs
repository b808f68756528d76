//! The settings of one tenant: its plan, the origins of its web pages, and limits that differ from the server's
//! settings. Running servers apply a change within a second.

use super::operation_log::OperationRecord;
use super::operator::Operator;
use super::provision::{find, lock_tenant};
use super::{OpsError, Result};
use crate::db::schema::catalog::tenants;
use crate::tenant::catalog::CHANNEL;
use crate::tenant::{Origin, State, Tenant};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

/// The maximum that the constraint of the catalog allows.
const MAX_STATEMENT_TIMEOUT_MS: i32 = 600_000;

/// The changes to make. A setting that is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// The plan, by which feature flags may differ.
    pub plan: Option<String>,
    /// The allowed origins, which replace all earlier ones.
    pub origins: Option<Vec<Origin>>,
    /// The time limit of one SQL statement, in milliseconds.
    pub statement_timeout_ms: Option<SettingValue>,
    /// The maximum number of requests per second on each replica.
    pub requests_per_second: Option<SettingValue>,
    /// The maximum number of concurrent requests on each replica.
    pub concurrency: Option<SettingValue>,
}

/// The value of a setting: the tenant's own, or the default of the server's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingValue {
    /// The value of the server's settings.
    Default,
    /// The tenant's own value, above 0.
    Own(i32),
}

impl SettingValue {
    fn own(self) -> Option<i32> {
        match self {
            Self::Default => None,
            Self::Own(number) => Some(number),
        }
    }
}

impl std::str::FromStr for SettingValue {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            number => {
                let number = number.parse().ok().filter(|number| *number > 0);
                number.map(Self::Own).ok_or_else(|| "expected a whole number above 0, or default".into())
            }
        }
    }
}

/// Changes the settings of a tenant and notifies all replicas. Setting the same values again is allowed.
pub async fn set(operator: &Operator, slug: &str, change: &SettingsChange) -> Result<Tenant> {
    if *change == SettingsChange::default() {
        return Err(OpsError::Usage("nothing to set; see `cordon tenant set --help`".into()));
    }
    if change.plan.as_ref().is_some_and(|plan| plan.trim().is_empty() || plan.chars().any(char::is_control)) {
        return Err(OpsError::Usage("a plan has a name".into()));
    }
    if matches!(change.statement_timeout_ms, Some(SettingValue::Own(ms)) if ms > MAX_STATEMENT_TIMEOUT_MS) {
        return Err(OpsError::Usage(format!("a statement may take {MAX_STATEMENT_TIMEOUT_MS} ms at most")));
    }
    let mut control = operator.control().await?;
    let tenant = find(&mut control, slug).await?;
    lock_tenant(&mut control, tenant.id).await?;
    let log = OperationRecord::begin(&mut control, "tenant.set", Some(tenant.id), slug).await?;
    let row = tenants::table.filter(tenants::id.eq(tenant.id).and(tenants::state.ne(State::Destroyed.as_str())));
    let origins = change
        .origins
        .as_ref()
        .map(|origins| origins.iter().map(|origin| origin.as_str().to_owned()).collect::<Vec<_>>());
    let values = (
        change.plan.as_ref().map(|plan| tenants::plan.eq(plan)),
        origins.map(|origins| tenants::origins.eq(origins)),
        change.statement_timeout_ms.map(|value| tenants::statement_timeout_ms.eq(value.own())),
        change.requests_per_second.map(|value| tenants::requests_per_second.eq(value.own())),
        change.concurrency.map(|value| tenants::concurrency.eq(value.own())),
        tenants::updated_at.eq(diesel::dsl::now),
    );
    let outcome = control
        .transaction::<_, diesel::result::Error, _>(async |control| {
            let changed = diesel::update(row).set(values).execute(control).await?;
            control.batch_execute(&format!("notify {CHANNEL}, '{}'", tenant.id)).await?;
            Ok(changed)
        })
        .await;
    let outcome = match outcome {
        Ok(1) => Ok(()),
        Ok(_) => Err(OpsError::Refused(format!("tenant {slug} was destroyed meanwhile"))),
        Err(error) => Err(error.into()),
    };
    log.end(&mut control, outcome).await?;
    find(&mut control, slug).await
}
