//! Any record by its id alone: the id says what it is the id of, and the record's own operation says who may see it.

use super::context::guard;
use super::encounter::Encounter;
use super::ids::{self, IdKind};
use super::note::ClinicalNote;
use super::patient::Patient;
use crate::error::Result;
use crate::ids::{EncounterId, NoteId, PatientId};
use async_graphql::{Context, ID, Interface, Object};

/// Something with an id.
#[derive(Interface)]
#[graphql(field(name = "id", ty = "ID", desc = "Opaque; good for this organisation only."))]
pub enum Node {
    /// A patient.
    Patient(Patient),
    /// An encounter.
    Encounter(Encounter),
    /// A clinical note.
    ClinicalNote(ClinicalNote),
}

/// Records by id.
#[derive(Default)]
pub struct NodeQuery;

#[Object]
impl NodeQuery {
    /// The record of this id, whatever it is; null when there is none in this organisation.
    #[graphql(complexity = "5 + child_complexity")]
    async fn node(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id of a patient, an encounter or a note.")] id: ID,
    ) -> Result<Option<Node>> {
        guard(ctx)?.may("node")?;
        match ids::decode("id", &id)? {
            (IdKind::Patient, id) => Ok(Patient::by_id(ctx, PatientId(id)).await?.map(Node::Patient)),
            (IdKind::Encounter, id) => Ok(Encounter::by_id(ctx, EncounterId(id)).await?.map(Node::Encounter)),
            (IdKind::Note, id) => Ok(ClinicalNote::by_id(ctx, NoteId(id)).await?.map(Node::ClinicalNote)),
            (IdKind::Staff | IdKind::Tenant, _) => Ok(None),
        }
    }
}
