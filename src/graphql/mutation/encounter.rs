//! Changes of encounters.

use super::change;
use super::input::{line, past, prose};
use crate::error::Result;
use crate::graphql::context::RecordType;
use crate::graphql::encounter::Encounter;
use crate::graphql::ids;
use crate::graphql::scalars::DateTime;
use crate::guard::AuditAction;
use crate::ids::EncounterId;
use crate::model::encounter::write::{self as rows, NewEncounter};
use async_graphql::{Context, ID, InputObject, Object};
use chrono::Utc;

const LONGEST_CLASS: usize = 50;
const LONGEST_REASON: usize = 4_000;

/// Changes of encounters.
#[derive(Default)]
pub struct EncounterMutation;

#[Object]
impl EncounterMutation {
    /// Begins an encounter.
    #[graphql(complexity = "20 + child_complexity")]
    async fn start_encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Who is seen, and why.")] input: StartEncounterInput,
    ) -> Result<Option<StartEncounterPayload>> {
        let patient = ids::patient("input.patientId", &input.patient_id)?;
        let new = NewEncounter {
            patient,
            class: line("input.class", input.class, LONGEST_CLASS)?,
            reason: input.reason.map(|reason| prose("input.reason", reason, LONGEST_REASON)).transpose()?,
            started_at: input.started_at.map_or_else(|| Ok(Utc::now()), |at| past("input.startedAt", at.0))?,
        };
        let start = async |tx: &mut _| rows::start(tx, new).await;
        let made =
            change(ctx, "startEncounter", AuditAction::EncounterStarted, (RecordType::Patient, patient.0), start)
                .await?;
        Ok(Some(StartEncounterPayload(made)))
    }

    /// Ends an encounter. CONFLICT when it is over already.
    #[graphql(complexity = "20 + child_complexity")]
    async fn finish_encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which encounter ended, and when.")] input: FinishEncounterInput,
    ) -> Result<Option<FinishEncounterPayload>> {
        let id = ids::encounter("input.id", &input.id)?;
        let ended_at = input.ended_at.map_or_else(|| Ok(Utc::now()), |at| past("input.endedAt", at.0))?;
        let finish = async |tx: &mut _| rows::finish(tx, id, input.expected_version, ended_at).await;
        let made =
            change(ctx, "finishEncounter", AuditAction::EncounterFinished, (RecordType::Encounter, id.0), finish)
                .await?;
        Ok(Some(FinishEncounterPayload(made)))
    }

    /// Cancels an encounter that did not happen, or not to its end. CONFLICT when it is over already.
    #[graphql(complexity = "20 + child_complexity")]
    async fn cancel_encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which encounter does not happen, and why.")] input: CancelEncounterInput,
    ) -> Result<Option<CancelEncounterPayload>> {
        let id = ids::encounter("input.id", &input.id)?;
        let reason = input.reason.map(|reason| prose("input.reason", reason, LONGEST_REASON)).transpose()?;
        let cancel = async |tx: &mut _| rows::cancel(tx, id, input.expected_version, reason).await;
        let made =
            change(ctx, "cancelEncounter", AuditAction::EncounterCancelled, (RecordType::Encounter, id.0), cancel)
                .await?;
        Ok(Some(CancelEncounterPayload(made)))
    }
}

/// An encounter that begins.
#[derive(InputObject)]
pub struct StartEncounterInput {
    /// The patient's id.
    patient_id: ID,
    /// Class, by HL7's codes: AMB, EMER, IMP, …
    class: String,
    /// Why the patient comes.
    reason: Option<String>,
    /// When it began; now, when nothing is said.
    started_at: Option<DateTime>,
}

/// An encounter that ends.
#[derive(InputObject)]
pub struct FinishEncounterInput {
    /// The encounter's id.
    id: ID,
    /// The version that was seen; CONFLICT when another is stored.
    expected_version: i32,
    /// When it ended; now, when nothing is said.
    ended_at: Option<DateTime>,
}

/// An encounter that does not happen.
#[derive(InputObject)]
pub struct CancelEncounterInput {
    /// The encounter's id.
    id: ID,
    /// The version that was seen; CONFLICT when another is stored.
    expected_version: i32,
    /// Why not.
    reason: Option<String>,
}

payload! {
    /// The encounter that began.
    StartEncounterPayload(EncounterId) {
        /// The encounter.
        encounter: Encounter
    }
}

payload! {
    /// The encounter that ended.
    FinishEncounterPayload(EncounterId) {
        /// The encounter.
        encounter: Encounter
    }
}

payload! {
    /// The encounter that was cancelled.
    CancelEncounterPayload(EncounterId) {
        /// The encounter.
        encounter: Encounter
    }
}
