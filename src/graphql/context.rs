//! What resolvers take from their request: the guard, the loaders, the selected fields; and the two steps of every
//! read: authorise it, and record the access. Holds no state.

use super::loaders::Loaders;
use super::{encounter, note, patient};
pub use crate::audit::RecordType;
use crate::audit::{AccessRecord, Outcome};
use crate::error::{Error, Result};
use crate::guard::{Guard, TenantTx};
use crate::ids::PatientId;
use async_graphql::{Context, Lookahead};
use std::sync::Arc;
use uuid::Uuid;

impl RecordType {
    /// Returns the fields of the GraphQL type. A field that is missing would be missing in access records, so a test
    /// compares the lists with the schema.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Patient => patient::FIELDS,
            Self::Encounter => encounter::FIELDS,
            Self::Note => note::FIELDS,
        }
    }

    /// Records that records of one patient are returned with these fields. Does nothing without ids.
    pub fn record_read(self, tx: &TenantTx, patient: PatientId, resource_ids: Vec<Uuid>, fields: Fields) {
        if !resource_ids.is_empty() {
            let (action, resource_type) = (self.read_action(), self.name());
            let (patient, outcome) = (Some(patient), Outcome::Success);
            tx.record_access(AccessRecord { action, patient, resource_type, resource_ids, fields, outcome });
        }
    }

    /// Records a search over all patients. The records it found have access records of their own (`record_read`), but
    /// whether anything was found is information as well. `patient` is the patient that the filter names.
    pub fn record_search(self, tx: &TenantTx, found: usize, patient: Option<Uuid>, fields: Fields) {
        let action = self.search_action();
        let (outcome, resource_ids) =
            if found > 0 { (Outcome::Success, Vec::new()) } else { (Outcome::NotFound, patient.into_iter().collect()) };
        tx.record_access(AccessRecord {
            action,
            patient: None,
            resource_type: self.name(),
            resource_ids,
            fields,
            outcome,
        });
    }

    /// Records that these ids were requested and not found: they do not exist in this tenant, or the caller may not see
    /// them.
    pub fn record_not_found(self, tx: &TenantTx, resource_ids: Vec<Uuid>) {
        let (action, resource_type) = (self.read_action(), self.name());
        tx.record_access(AccessRecord {
            action,
            patient: None,
            resource_type,
            resource_ids,
            fields: Vec::new(),
            outcome: Outcome::NotFound,
        });
    }

    /// Returns the fields that are selected of this object and that the caller may see.
    pub fn selected_fields(self, ctx: &Context<'_>) -> Fields {
        self.visible_fields(ctx, &[ctx.look_ahead()])
    }

    /// Returns the fields that are selected of this connection's nodes and that the caller may see.
    pub fn node_fields(self, ctx: &Context<'_>) -> Fields {
        self.node_fields_of(ctx, &ctx.look_ahead())
    }

    /// Like `node_fields`, for a connection further down in the selection.
    pub fn node_fields_of(self, ctx: &Context<'_>, connection: &Lookahead<'_>) -> Fields {
        self.visible_fields(ctx, &[connection.field("edges").field("node"), connection.field("nodes")])
    }

    fn visible_fields(self, ctx: &Context<'_>, selections: &[Lookahead<'_>]) -> Fields {
        let selected = |field: &str| selections.iter().any(|selection| selection.field(field).exists());
        let allowed = |field: &str| {
            self.field_operation(field).is_none_or(|operation| guard(ctx).is_ok_and(|guard| guard.allows(operation)))
        };
        self.fields().iter().copied().filter(|field| selected(field) && allowed(field)).collect()
    }

    /// The operation in the table of roles for a field that has one of its own. A field that is refused was not
    /// accessed, so it does not appear in the access record.
    fn field_operation(self, field: &str) -> Option<&'static str> {
        match (self, field) {
            (Self::Patient, "encounters") => Some("Patient.encounters"),
            (Self::Patient, "notes") => Some("Patient.notes"),
            (Self::Encounter, "notes") => Some("Encounter.notes"),
            (Self::Note, "title" | "body") => Some("note.text"),
            _ => None,
        }
    }
}

/// Names of GraphQL fields, as the audit log stores them.
pub type Fields = Vec<&'static str>;

/// Returns the guard of this request.
///
/// # Errors
/// `Internal` when the request has none, which is a bug.
pub fn guard<'a>(ctx: &Context<'a>) -> Result<&'a Guard> {
    ctx.data::<Arc<Guard>>().map(Arc::as_ref).map_err(|_| Error::internal("no guard in the request", ""))
}

/// Returns the loaders of this request.
///
/// # Errors
/// `Internal` when the request has none, which is a bug.
pub fn loaders<'a>(ctx: &Context<'a>) -> Result<&'a Loaders> {
    ctx.data::<Loaders>().map_err(|_| Error::internal("no loaders in the request", ""))
}

/// Checks that the caller's roles allow `operation`, and returns the request's read transaction.
///
/// # Errors
/// `Forbidden` when they do not, which the guard records in the audit log; otherwise the error of opening the
/// transaction.
pub async fn authorize(ctx: &Context<'_>, operation: &'static str) -> Result<Arc<TenantTx>> {
    let guard = guard(ctx)?;
    guard.authorize(operation)?;
    guard.read().await
}
