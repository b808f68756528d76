//! What is set for one tenant: its plan, the origins of its pages, and numbers that differ from the server's settings. Running servers hear of it
//! within a second.

use super::log::Operation;
use super::operator::Operator;
use super::provision::{find, take_turn};
use super::{OpsError, Result};
use crate::db::schema::catalog::tenants;
use crate::tenant::catalog::CHANNEL;
use crate::tenant::{Origin, State, Tenant};
use diesel::prelude::*;
use diesel_async::{AsyncConnection, RunQueryDsl, SimpleAsyncConnection};

/// As the catalog's constraint says.
const LONGEST_STATEMENT_MS: i32 = 600_000;

/// What is to change; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// What it has ordered.
    pub plan: Option<String>,
    /// All origins that are allowed from now on.
    pub origins: Option<Vec<Origin>>,
    /// Milliseconds of one statement.
    pub statement_timeout_ms: Option<Value>,
    /// Requests a second.
    pub requests_per_second: Option<Value>,
    /// Requests at once.
    pub concurrency: Option<Value>,
}

/// A number of the tenant's own, or the one of the server's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// As the settings say.
    Default,
    /// Its own.
    Own(i32),
}

impl Value {
    fn own(self) -> Option<i32> {
        match self {
            Self::Default => None,
            Self::Own(number) => Some(number),
        }
    }
}

impl std::str::FromStr for Value {
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

/// Changes what is set for a tenant. Set already: nothing changes but the log.
pub async fn set(operator: &Operator, slug: &str, change: &Change) -> Result<Tenant> {
    if *change == Change::default() {
        return Err(OpsError::Usage("nothing to set; see `cordon tenant set --help`".into()));
    }
    if change.plan.as_ref().is_some_and(|plan| plan.trim().is_empty() || plan.chars().any(char::is_control)) {
        return Err(OpsError::Usage("a plan has a name".into()));
    }
    if matches!(change.statement_timeout_ms, Some(Value::Own(ms)) if ms > LONGEST_STATEMENT_MS) {
        return Err(OpsError::Usage(format!("a statement may take {LONGEST_STATEMENT_MS} ms at most")));
    }
    let mut control = operator.control().await?;
    let tenant = find(&mut control, slug).await?;
    take_turn(&mut control, tenant.id).await?;
    let log = Operation::begin(&mut control, "tenant.set", Some(tenant.id), slug).await?;
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
