//! The log of operations in the catalog: the current step and the outcome of each.

use super::Result;
use crate::db::schema::catalog::operations;
use crate::ids::TenantId;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

/// The row of one operation in the log.
pub struct OperationRecord(Uuid);

impl OperationRecord {
    /// Inserts the row of an operation that begins. Open rows of the same kind and subject are taken for those of
    /// killed processes and marked as failed.
    pub async fn begin(
        control: &mut AsyncPgConnection,
        kind: &str,
        tenant: Option<TenantId>,
        subject: &str,
    ) -> Result<Self> {
        let id = Uuid::now_v7();
        let interrupted = operations::table.filter(
            operations::kind.eq(kind).and(operations::subject.eq(subject)).and(operations::state.eq("running")),
        );
        diesel::update(interrupted)
            .set((
                operations::state.eq("failed"),
                operations::error.eq("interrupted"),
                operations::ended_at.eq(chrono::Utc::now()),
            ))
            .execute(control)
            .await?;
        diesel::insert_into(operations::table)
            .values((
                operations::id.eq(id),
                operations::kind.eq(kind),
                operations::tenant_id.eq(tenant.map(|tenant| tenant.0)),
                operations::subject.eq(subject),
            ))
            .execute(control)
            .await?;
        Ok(Self(id))
    }

    /// Records the step that begins.
    pub async fn step(&self, control: &mut AsyncPgConnection, step: &str) -> Result<()> {
        tracing::info!(operation.id = %self.0, "{step}");
        let row = operations::table.filter(operations::id.eq(self.0));
        diesel::update(row).set(operations::step.eq(step)).execute(control).await?;
        Ok(())
    }

    /// Records the outcome and returns it. If recording fails, the operation's own error takes precedence.
    pub async fn end<T>(self, control: &mut AsyncPgConnection, outcome: Result<T>) -> Result<T> {
        let (state, error) = match &outcome {
            Ok(_) => ("done", None),
            Err(error) => ("failed", Some(error.to_string())),
        };
        let row = operations::table.filter(operations::id.eq(self.0));
        let ended =
            (operations::state.eq(state), operations::error.eq(error), operations::ended_at.eq(chrono::Utc::now()));
        let updated = diesel::update(row).set(ended).execute(control).await;
        let value = outcome?;
        updated?;
        Ok(value)
    }
}
