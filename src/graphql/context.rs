//! What a resolver has of its request: the guard, the loaders, the fields that were asked for; and the two moves every read makes:
//! be admitted, and say what was disclosed. Holds nothing itself and nothing that outlives the request.

use super::loaders::Loaders;
use crate::audit::{AccessRecord, Outcome};
use crate::error::{Error, Result};
use crate::guard::{Guard, TenantTx};
use crate::ids::PatientId;
use async_graphql::{Context, Lookahead};
use std::sync::Arc;
use uuid::Uuid;

/// A kind of record, as the audit log names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    /// A patient.
    Patient,
    /// An encounter.
    Encounter,
    /// A clinical note.
    Note,
}

impl RecordType {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Patient => ("patient.read", "patient"),
            Self::Encounter => ("encounter.read", "encounter"),
            Self::Note => ("note.read", "note"),
        }
    }

    /// As the audit log names it.
    pub fn name(self) -> &'static str {
        self.names().1
    }

    /// The fields of its type. What is not here is not in the audit log, so a test compares them with the schema.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Patient => &[
                "id",
                "identifiers",
                "name",
                "birthDate",
                "sex",
                "deceasedAt",
                "encounters",
                "notes",
                "version",
                "createdAt",
                "updatedAt",
            ],
            Self::Encounter => &[
                "id",
                "patient",
                "class",
                "status",
                "reason",
                "cancelReason",
                "startedAt",
                "endedAt",
                "notes",
                "version",
            ],
            Self::Note => &[
                "id",
                "patient",
                "encounter",
                "type",
                "status",
                "title",
                "body",
                "author",
                "authoredAt",
                "signedAt",
                "signatures",
                "version",
            ],
        }
    }

    /// Records of one patient go out with these fields.
    pub fn found(self, tx: &TenantTx, patient: PatientId, resource_ids: Vec<Uuid>, fields: Fields) {
        if !resource_ids.is_empty() {
            let (action, resource_type) = self.names();
            let (patient, outcome) = (Some(patient), Outcome::Success);
            tx.record_access(AccessRecord { action, patient, resource_type, resource_ids, fields, outcome });
        }
    }

    /// Records of all patients were looked through. What was found has rows of its own, but that something or nothing was is told by the
    /// answer too. `named`: whom the filter names.
    pub fn searched(self, tx: &TenantTx, found: usize, named: Option<Uuid>, fields: Fields) {
        let action = match self {
            Self::Patient => "patient.search",
            Self::Encounter => "encounter.search",
            Self::Note => "note.search",
        };
        let (outcome, resource_ids) =
            if found > 0 { (Outcome::Success, Vec::new()) } else { (Outcome::NotFound, named.into_iter().collect()) };
        tx.record_access(AccessRecord {
            action,
            patient: None,
            resource_type: self.names().1,
            resource_ids,
            fields,
            outcome,
        });
    }

    /// A record was asked for that is not the tenant's, or not the caller's to see.
    pub fn not_found(self, tx: &TenantTx, resource_ids: Vec<Uuid>) {
        let (action, resource_type) = self.names();
        tx.record_access(AccessRecord {
            action,
            patient: None,
            resource_type,
            resource_ids,
            fields: Vec::new(),
            outcome: Outcome::NotFound,
        });
    }

    /// Which of its fields were asked for of this object, and may be shown to the caller.
    pub fn selected(self, ctx: &Context<'_>) -> Fields {
        self.among(ctx, &[ctx.look_ahead()])
    }

    /// Which of its fields were asked for of this connection's nodes, and may be shown to the caller.
    pub fn selected_of_nodes(self, ctx: &Context<'_>) -> Fields {
        self.of_nodes(ctx, &ctx.look_ahead())
    }

    /// The same of the nodes of a connection further down.
    pub fn of_nodes(self, ctx: &Context<'_>, connection: &Lookahead<'_>) -> Fields {
        self.among(ctx, &[connection.field("edges").field("node"), connection.field("nodes")])
    }

    fn among(self, ctx: &Context<'_>, places: &[Lookahead<'_>]) -> Fields {
        let asked = |field: &str| places.iter().any(|place| place.field(field).exists());
        let shown = |field: &str| {
            self.needs(field).is_none_or(|operation| guard(ctx).is_ok_and(|guard| guard.allows(operation)))
        };
        self.fields().iter().copied().filter(|field| asked(field) && shown(field)).collect()
    }

    /// The row of the table of roles for a field that has one of its own. Where it is refused, it is not among what was disclosed.
    fn needs(self, field: &str) -> Option<&'static str> {
        match (self, field) {
            (Self::Patient, "encounters") => Some("Patient.encounters"),
            (Self::Patient, "notes") => Some("Patient.notes"),
            (Self::Encounter, "notes") => Some("Encounter.notes"),
            (Self::Note, "title" | "body") => Some("note.text"),
            _ => None,
        }
    }
}

/// Names of fields, as the audit log keeps them.
pub type Fields = Vec<&'static str>;

/// The guard of this request.
pub fn guard<'a>(ctx: &Context<'a>) -> Result<&'a Guard> {
    ctx.data::<Arc<Guard>>().map(Arc::as_ref).map_err(|_| Error::internal("no guard in the request", ""))
}

/// The loaders of this request.
pub fn loaders<'a>(ctx: &Context<'a>) -> Result<&'a Loaders> {
    ctx.data::<Loaders>().map_err(|_| Error::internal("no loaders in the request", ""))
}

/// The tenant's transaction, for an operation the caller's roles allow. The guard records a refusal.
pub async fn admit(ctx: &Context<'_>, operation: &'static str) -> Result<Arc<TenantTx>> {
    let guard = guard(ctx)?;
    guard.may(operation)?;
    guard.read().await
}
