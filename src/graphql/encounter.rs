//! Encounters and their notes: resolvers over the rows of `model::encounter`.

use super::context::{RecordType, authorize, guard, loaders};
use super::ids::{self, IdKind};
use super::loaders::PageOf;
use super::note::{self, ClinicalNote};
use super::page::connection::{self, PageArgs};
use super::page::cursor::List;
use super::patient::Patient;
use super::scalars::DateTime;
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::ids::EncounterId;
use crate::model::KeysetPage;
use crate::model::encounter as rows;
use async_graphql::connection::Connection;
use async_graphql::{Context, Enum, ID, InputObject, Object};
use std::sync::Arc;

/// Root fields for reading encounters.
#[derive(Default)]
pub struct EncounterQuery;

#[Object]
impl EncounterQuery {
    /// Returns the encounter with this id, or null when the organisation has none.
    #[graphql(complexity = "5 + child_complexity")]
    async fn encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of an encounter.")] id: ID,
    ) -> Result<Option<Encounter>> {
        let id = ids::encounter("id", &id)?;
        Encounter::by_id(ctx, id).await
    }

    /// Returns encounters of all patients, newest first by start. An encounter without a start is sorted by the time of
    /// its recording.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn encounters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Conditions on the encounters. Default: all encounters.")] filter: Option<EncounterFilter>,
        #[graphql(desc = "Returns the first *n* items, newest first. Default 20, maximum 200.")] first: Option<i32>,
        #[graphql(desc = "Returns only items after this cursor, which are older.")] after: Option<String>,
        #[graphql(desc = "Returns the last *n* items, newest first. Maximum 200. Not with `first`.")] last: Option<i32>,
        #[graphql(desc = "Returns only items before this cursor, which are newer.")] before: Option<String>,
    ) -> Result<Connection<String, Encounter>> {
        let tx = &authorize(ctx, "encounters").await?;
        let page = PageArgs { first, after, last, before }.page(&ENCOUNTERS, tx.keys())?;
        let found = rows::page(tx, filter.unwrap_or_default().parse()?, page).await?;
        RecordType::Encounter.record_search(tx, found.len(), None, RecordType::Encounter.node_fields(ctx));
        recorded_connection(ctx, tx, &ENCOUNTERS, &page, found.into_iter().map(Arc::new).collect())
    }
}

const ENCOUNTERS: List = List::of_tenant("encounters");

/// Conditions on encounters. An encounter must satisfy every condition that is given.
#[derive(InputObject, Default)]
pub struct EncounterFilter {
    /// The status is one of these, at most 50. An empty list matches no encounter.
    status: Option<Vec<EncounterStatus>>,
    /// The class is this code of HL7 v3 ActCode, such as AMB (ambulatory), EMER (emergency) or IMP (inpatient).
    class: Option<String>,
    /// The encounter started at this time or later. Without a start, the time of its recording counts.
    from: Option<DateTime>,
    /// The encounter started before this time. Without a start, the time of its recording counts.
    to: Option<DateTime>,
}

impl EncounterFilter {
    fn parse(self) -> Result<rows::Filter> {
        let Self { status, class, from, to } = self;
        Ok(rows::Filter {
            status: status.map(|status| connection::filter_values("filter.status", status)).transpose()?,
            class,
            from: from.map(|at| at.0),
            to: to.map(|at| at.0),
        })
    }
}

/// Makes a connection of a page of encounters and records the access to each patient's encounters in it.
pub fn recorded_connection(
    ctx: &Context<'_>,
    tx: &TenantTx,
    list: &List,
    page: &KeysetPage,
    found: Vec<Arc<rows::Encounter>>,
) -> Result<Connection<String, Encounter>> {
    let fields = RecordType::Encounter.node_fields(ctx);
    let encounters = connection::from_rows(list, tx.keys(), page, found, Encounter::Loaded);
    let rows = encounters.edges.iter().map(|edge| edge.node.row()).collect::<Result<Vec<_>>>()?;
    for same_patient in rows.chunk_by(|row, next| row.patient_id == next.patient_id) {
        if let [row, ..] = same_patient {
            RecordType::Encounter.record_read(
                tx,
                row.patient_id,
                same_patient.iter().map(|row| row.id.0).collect(),
                fields.clone(),
            );
        }
    }
    Ok(encounters)
}

/// An encounter of one patient with the organisation: a visit, a stay or a call.
pub enum Encounter {
    /// With its row.
    Loaded(Arc<rows::Encounter>),
    /// Only the id is selected, so the row was not read.
    Reference(EncounterId),
}

/// The fields of `Encounter`, in the order of the schema, as access records name them.
pub(super) const FIELDS: &[&str] =
    &["id", "patient", "class", "status", "reason", "cancelReason", "startedAt", "endedAt", "notes", "version"];

/// An encounter of one patient with the organisation: a visit, a stay or a call.
#[Object]
impl Encounter {
    /// The encounter's id.
    pub async fn id(&self) -> ID {
        ids::encode(IdKind::Encounter, self.key().0)
    }

    /// The patient who was seen.
    async fn patient(&self, ctx: &Context<'_>) -> Result<Patient> {
        Patient::referenced(ctx, self.row()?.patient_id).await
    }

    /// The class, a code of HL7 v3 ActCode such as AMB (ambulatory), EMER (emergency) or IMP (inpatient), or null when
    /// it is not known.
    async fn class(&self) -> Result<Option<&str>> {
        Ok(self.row()?.class.as_deref())
    }

    /// The encounter's status.
    async fn status(&self) -> Result<EncounterStatus> {
        Ok(self.row()?.status.into())
    }

    /// Why the patient came, or null when no reason is recorded.
    async fn reason(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.row()?.reason(guard(ctx)?.read().await?.keys())
    }

    /// Why the encounter was cancelled, or null when it was not, or no reason was given.
    async fn cancel_reason(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.row()?.cancel_reason(guard(ctx)?.read().await?.keys())
    }

    /// When the encounter started, or null when the start is not known.
    async fn started_at(&self) -> Result<Option<DateTime>> {
        Ok(self.row()?.started_at.map(DateTime))
    }

    /// When the encounter ended, or null when it has not ended or the end is not known.
    async fn ended_at(&self) -> Result<Option<DateTime>> {
        Ok(self.row()?.ended_at.map(DateTime))
    }

    /// Returns the notes that were written for this encounter, newest first by `authoredAt`. Drafts that the caller may
    /// not see are left out.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn notes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Returns the first *n* items, newest first. Default 20, maximum 200.")] first: Option<i32>,
        #[graphql(desc = "Returns only items after this cursor, which are older.")] after: Option<String>,
        #[graphql(desc = "Returns the last *n* items, newest first. Maximum 200. Not with `first`.")] last: Option<i32>,
        #[graphql(desc = "Returns only items before this cursor, which are newer.")] before: Option<String>,
    ) -> Result<Connection<String, ClinicalNote>> {
        let tx = &authorize(ctx, "Encounter.notes").await?;
        let list = List { name: "Encounter.notes", parent: self.key().0 };
        let page = PageArgs { first, after, last, before }.page(&list, tx.keys())?;
        let fields = RecordType::Note.node_fields(ctx);
        let key = (PageOf { parent: self.key(), page }, note::needed_text(&fields));
        let found = loaders(ctx)?.notes_of_encounter.load(key).await?.unwrap_or_default();
        Ok(note::recorded_connection(tx, &list, &page, found, &fields))
    }

    /// The version of the encounter: 1 when it is created, one more after each change. Mutations compare it with
    /// `expectedVersion`.
    async fn version(&self) -> Result<i32> {
        Ok(self.row()?.version)
    }
}

impl Encounter {
    /// Loads an encounter and records the access, or that it was not found.
    pub async fn by_id(ctx: &Context<'_>, id: EncounterId) -> Result<Option<Self>> {
        let tx = &authorize(ctx, "encounter").await?;
        let encounter = loaders(ctx)?.encounters.load(id).await?;
        match &encounter {
            Some(row) => RecordType::Encounter.record_read(
                tx,
                row.patient_id,
                vec![id.0],
                RecordType::Encounter.selected_fields(ctx),
            ),
            None => RecordType::Encounter.record_not_found(tx, vec![id.0]),
        }
        Ok(encounter.map(Self::Loaded))
    }

    /// Returns the encounter that another record refers to. When only the id is selected, nothing is read and no access
    /// is recorded.
    ///
    /// # Errors
    /// `Internal` when the encounter does not exist.
    pub async fn referenced(ctx: &Context<'_>, id: EncounterId) -> Result<Self> {
        if RecordType::Encounter.selected_fields(ctx).iter().all(|field| *field == "id") {
            return Ok(Self::Reference(id));
        }
        Self::by_id(ctx, id)
            .await?
            .ok_or_else(|| Error::internal("a record refers to an encounter that does not exist", id))
    }

    /// Returns the encounter's id as the database has it.
    pub fn key(&self) -> EncounterId {
        match self {
            Self::Loaded(row) => row.id,
            Self::Reference(id) => *id,
        }
    }

    fn row(&self) -> Result<&rows::Encounter> {
        match self {
            Self::Loaded(row) => Ok(row),
            Self::Reference(id) => Err(Error::internal("an encounter was not loaded", id)),
        }
    }
}

/// The status of an encounter, with FHIR's meaning of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "rows::EncounterStatus")]
pub enum EncounterStatus {
    /// The encounter is expected.
    Planned,
    /// The encounter is taking place.
    InProgress,
    /// The encounter has ended.
    Finished,
    /// The encounter was cancelled: it did not take place, or not to its end.
    Cancelled,
    /// The encounter was recorded by mistake.
    EnteredInError,
    /// The status is not known.
    Unknown,
}
