//! Any record by its id alone. The id contains the kind of record, and the roles of that record's own root field are
//! checked as well.

use super::context::guard;
use super::encounter::Encounter;
use super::ids::{self, IdKind};
use super::note::ClinicalNote;
use super::patient::Patient;
use crate::error::Result;
use crate::ids::{EncounterId, NoteId, PatientId};
use async_graphql::{Context, ID, Interface, Object};

/// A record with an id.
#[derive(Interface)]
#[graphql(field(name = "id", ty = "ID", desc = "The record's id. It is opaque and valid in this organisation only."))]
pub enum Node {
    /// A patient.
    Patient(Patient),
    /// An encounter.
    Encounter(Encounter),
    /// A clinical note.
    ClinicalNote(ClinicalNote),
}

/// The root field for reading any record by its id.
#[derive(Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// Returns the patient, encounter or note with this id, or null when the organisation has none. FORBIDDEN when the
    /// caller's roles do not allow the root field of that kind of record.
    #[graphql(complexity = "5 + child_complexity")]
    async fn node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of a patient, an encounter or a note.")] id: ID,
    ) -> Result<Option<Node>> {
        guard(ctx)?.authorize("node")?;
        match ids::decode("id", &id)? {
            (IdKind::Patient, id) => Ok(Patient::by_id(ctx, PatientId(id)).await?.map(Node::Patient)),
            (IdKind::Encounter, id) => Ok(Encounter::by_id(ctx, EncounterId(id)).await?.map(Node::Encounter)),
            (IdKind::Note, id) => Ok(ClinicalNote::by_id(ctx, NoteId(id)).await?.map(Node::ClinicalNote)),
            (IdKind::Staff | IdKind::Tenant, _) => Ok(None),
        }
    }
}
