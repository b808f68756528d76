//! Mutations of encounters.

use super::input::{line, past, prose};
use super::run_mutation;
use crate::audit::AuditAction;
use crate::error::Result;
use crate::graphql::context::RecordType;
use crate::graphql::encounter::Encounter;
use crate::graphql::ids;
use crate::graphql::scalars::DateTime;
use crate::ids::EncounterId;
use crate::model::encounter::rules::{MAX_CLASS_CHARS, MAX_REASON_CHARS};
use crate::model::encounter::write::{self as rows, NewEncounter};
use async_graphql::{Context, ID, InputObject, Object};
use chrono::Utc;

/// Root fields for changing encounters.
#[derive(Default)]
pub struct EncounterMutation;

#[Object]
impl EncounterMutation {
    /// Starts an encounter of a patient, with the status IN_PROGRESS. NOT_FOUND when the organisation has no such
    /// patient.
    #[graphql(complexity = "20 + child_complexity")]
    async fn start_encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The new encounter.")] input: StartEncounterInput,
    ) -> Result<Option<StartEncounterPayload>> {
        let patient = ids::patient("input.patientId", &input.patient_id)?;
        let new = NewEncounter {
            patient,
            class: line("input.class", input.class, MAX_CLASS_CHARS)?,
            reason: input.reason.map(|reason| prose("input.reason", reason, MAX_REASON_CHARS)).transpose()?,
            started_at: input.started_at.map_or_else(|| Ok(Utc::now()), |at| past("input.startedAt", at.0))?,
        };
        let start = async |tx: &mut _| rows::start(tx, new).await;
        let id =
            run_mutation(ctx, "startEncounter", AuditAction::EncounterStarted, (RecordType::Patient, patient.0), start)
                .await?;
        Ok(Some(StartEncounterPayload(id)))
    }

    /// Finishes an encounter. NOT_FOUND when the organisation has no such encounter; CONFLICT when it has been finished
    /// or cancelled, was entered in error, or has changed.
    #[graphql(complexity = "20 + child_complexity")]
    async fn finish_encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The encounter to finish.")] input: FinishEncounterInput,
    ) -> Result<Option<FinishEncounterPayload>> {
        let id = ids::encounter("input.id", &input.id)?;
        let ended_at = input.ended_at.map_or_else(|| Ok(Utc::now()), |at| past("input.endedAt", at.0))?;
        let finish = async |tx: &mut _| rows::finish(tx, id, input.expected_version, ended_at).await;
        let id =
            run_mutation(ctx, "finishEncounter", AuditAction::EncounterFinished, (RecordType::Encounter, id.0), finish)
                .await?;
        Ok(Some(FinishEncounterPayload(id)))
    }

    /// Cancels an encounter that did not take place, or not to its end. NOT_FOUND when the organisation has no such
    /// encounter; CONFLICT when it has been finished or cancelled, was entered in error, or has changed.
    #[graphql(complexity = "20 + child_complexity")]
    async fn cancel_encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The encounter to cancel.")] input: CancelEncounterInput,
    ) -> Result<Option<CancelEncounterPayload>> {
        let id = ids::encounter("input.id", &input.id)?;
        let reason = input.reason.map(|reason| prose("input.reason", reason, MAX_REASON_CHARS)).transpose()?;
        let cancel = async |tx: &mut _| rows::cancel(tx, id, input.expected_version, reason).await;
        let id = run_mutation(
            ctx,
            "cancelEncounter",
            AuditAction::EncounterCancelled,
            (RecordType::Encounter, id.0),
            cancel,
        )
        .await?;
        Ok(Some(CancelEncounterPayload(id)))
    }
}

/// A new encounter.
#[derive(InputObject)]
pub struct StartEncounterInput {
    /// The id of the patient who is seen.
    patient_id: ID,
    /// The class, a code of HL7 v3 ActCode such as AMB (ambulatory), EMER (emergency) or IMP (inpatient). At most 50
    /// characters.
    class: String,
    /// Why the patient comes. At most 4,000 characters.
    reason: Option<String>,
    /// When the encounter started, not in the future. Default: now.
    started_at: Option<DateTime>,
}

/// An encounter to finish.
#[derive(InputObject)]
pub struct FinishEncounterInput {
    /// The id of the encounter.
    id: ID,
    /// The version that the client has read. CONFLICT when the stored version differs; `extensions.currentVersion` is
    /// the stored one.
    expected_version: i32,
    /// When the encounter ended, not before its start and not in the future. Default: now.
    ended_at: Option<DateTime>,
}

/// An encounter to cancel.
#[derive(InputObject)]
pub struct CancelEncounterInput {
    /// The id of the encounter.
    id: ID,
    /// The version that the client has read. CONFLICT when the stored version differs; `extensions.currentVersion` is
    /// the stored one.
    expected_version: i32,
    /// Why the encounter is cancelled. At most 4,000 characters.
    reason: Option<String>,
}

record_payload! {
    /// The result of `startEncounter`.
    StartEncounterPayload(EncounterId) {
        /// The encounter as stored. Null, with an error, when it cannot be read; the mutation is committed
        /// nevertheless.
        encounter: Encounter
    }
}

record_payload! {
    /// The result of `finishEncounter`.
    FinishEncounterPayload(EncounterId) {
        /// The encounter as stored. Null, with an error, when it cannot be read; the mutation is committed
        /// nevertheless.
        encounter: Encounter
    }
}

record_payload! {
    /// The result of `cancelEncounter`.
    CancelEncounterPayload(EncounterId) {
        /// The encounter as stored. Null, with an error, when it cannot be read; the mutation is committed
        /// nevertheless.
        encounter: Encounter
    }
}
