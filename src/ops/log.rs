//! The catalog's log of operations: what runs, how far it got, how it ended.

use super::Result;
use crate::db::schema::catalog::operations;
use crate::ids::TenantId;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

/// One operation in the log.
pub struct Operation(Uuid);

impl Operation {
    /// Begins a row.
    pub async fn begin(
        control: &mut AsyncPgConnection,
        kind: &str,
        tenant: Option<TenantId>,
        subject: &str,
    ) -> Result<Self> {
        let id = Uuid::now_v7();
        let killed = operations::table.filter(
            operations::kind.eq(kind).and(operations::subject.eq(subject)).and(operations::state.eq("running")),
        );
        diesel::update(killed)
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

    /// Notes the step that begins now.
    pub async fn step(&self, control: &mut AsyncPgConnection, step: &str) -> Result<()> {
        tracing::info!(operation.id = %self.0, "{step}");
        let row = operations::table.filter(operations::id.eq(self.0));
        diesel::update(row).set(operations::step.eq(step)).execute(control).await?;
        Ok(())
    }

    /// Ends the row as `outcome` says, and passes it on.
    pub async fn end<T>(self, control: &mut AsyncPgConnection, outcome: Result<T>) -> Result<T> {
        let (state, error) = match &outcome {
            Ok(_) => ("done", None),
            Err(error) => ("failed", Some(error.to_string())),
        };
        let row = operations::table.filter(operations::id.eq(self.0));
        let ended =
            (operations::state.eq(state), operations::error.eq(error), operations::ended_at.eq(chrono::Utc::now()));
        let written = diesel::update(row).set(ended).execute(control).await;
        let value = outcome?;
        written?;
        Ok(value)
    }
}
