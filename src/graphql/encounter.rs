//! Encounters and their notes, over the rows of `model::encounter`.

use super::context::{RecordType, admit, guard, loaders};
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

/// Encounters.
#[derive(Default)]
pub struct EncounterQuery;

#[Object]
impl EncounterQuery {
    /// The encounter of this id; null when there is none in this organisation.
    #[graphql(complexity = "5 + child_complexity")]
    async fn encounter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id of an encounter.")] id: ID,
    ) -> Result<Option<Encounter>> {
        let id = ids::encounter("id", &id)?;
        Encounter::by_id(ctx, id).await
    }

    /// Encounters of all patients, newest first: those that match everything the filter says.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn encounters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which encounters; all when nothing is said.")] filter: Option<EncounterFilter>,
        #[graphql(desc = "How many from the newest on; 20 when nothing is said, at most 200.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the oldest on.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<String, Encounter>> {
        let tx = &admit(ctx, "encounters").await?;
        let page = PageArgs { first, after, last, before }.page(&ENCOUNTERS, tx.keys())?;
        let found = rows::page(tx, filter.unwrap_or_default().parse()?, page).await?;
        RecordType::Encounter.searched(tx, found.len(), None, RecordType::Encounter.selected_of_nodes(ctx));
        shown(ctx, tx, &ENCOUNTERS, &page, found.into_iter().map(Arc::new).collect())
    }
}

const ENCOUNTERS: List = List::of_all("encounters");

/// Which encounters are wanted: those that match everything that is said.
#[derive(InputObject, Default)]
pub struct EncounterFilter {
    /// Standing at one of these.
    status: Option<Vec<EncounterStatus>>,
    /// Of this class, by HL7's codes: AMB, EMER, IMP, …
    class: Option<String>,
    /// Begun at this time or later.
    from: Option<DateTime>,
    /// Begun before this time.
    to: Option<DateTime>,
}

impl EncounterFilter {
    fn parse(self) -> Result<rows::Filter> {
        let Self { status, class, from, to } = self;
        Ok(rows::Filter {
            status: status.map(|status| connection::choices("filter.status", status)).transpose()?,
            class,
            from: from.map(|at| at.0),
            to: to.map(|at| at.0),
        })
    }
}

/// A page of encounters on its way out, whosever they are.
pub fn shown(
    ctx: &Context<'_>,
    tx: &TenantTx,
    list: &List,
    page: &KeysetPage,
    found: Vec<Arc<rows::Encounter>>,
) -> Result<Connection<String, Encounter>> {
    let fields = RecordType::Encounter.selected_of_nodes(ctx);
    let encounters = connection::connection(list, tx.keys(), page, found, Encounter::Read);
    let rows = encounters.edges.iter().map(|edge| edge.node.row()).collect::<Result<Vec<_>>>()?;
    for of_one in rows.chunk_by(|row, next| row.patient_id == next.patient_id) {
        if let [row, ..] = of_one {
            RecordType::Encounter.found(
                tx,
                row.patient_id,
                of_one.iter().map(|row| row.id.0).collect(),
                fields.clone(),
            );
        }
    }
    Ok(encounters)
}

/// An encounter of one patient: a visit, a stay, a call.
pub enum Encounter {
    /// With the row.
    Read(Arc<rows::Encounter>),
    /// Nothing but the id was asked for, so nothing was read.
    Named(EncounterId),
}

/// An encounter of one patient: a visit, a stay, a call.
#[Object]
impl Encounter {
    /// The encounter's id.
    pub async fn id(&self) -> ID {
        ids::encode(IdKind::Encounter, self.key().0)
    }

    /// Whose encounter it is.
    async fn patient(&self, ctx: &Context<'_>) -> Result<Patient> {
        Patient::linked(ctx, self.row()?.patient_id).await
    }

    /// Class, by HL7's codes: AMB, EMER, IMP, …
    async fn class(&self) -> Result<Option<&str>> {
        Ok(self.row()?.class.as_deref())
    }

    /// Where it stands.
    async fn status(&self) -> Result<EncounterStatus> {
        Ok(self.row()?.status.into())
    }

    /// Why the patient came.
    async fn reason(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.row()?.reason(guard(ctx)?.read().await?.keys())
    }

    /// Why it was cancelled.
    async fn cancel_reason(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.row()?.cancel_reason(guard(ctx)?.read().await?.keys())
    }

    /// When it began.
    async fn started_at(&self) -> Result<Option<DateTime>> {
        Ok(self.row()?.started_at.map(DateTime))
    }

    /// When it ended.
    async fn ended_at(&self) -> Result<Option<DateTime>> {
        Ok(self.row()?.ended_at.map(DateTime))
    }

    /// The notes written for it, newest first.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn notes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the newest on; 20 when nothing is said, at most 200.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the oldest on.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<String, ClinicalNote>> {
        let tx = &admit(ctx, "Encounter.notes").await?;
        let list = List { name: "Encounter.notes", parent: self.key().0 };
        let page = PageArgs { first, after, last, before }.page(&list, tx.keys())?;
        let fields = RecordType::Note.selected_of_nodes(ctx);
        let key = (PageOf { parent: self.key(), page }, note::text(&fields));
        let found = loaders(ctx)?.notes_of_encounter.load(key).await?.unwrap_or_default();
        Ok(note::shown(tx, &list, &page, found, &fields))
    }

    /// Counts changes, from 1.
    async fn version(&self) -> Result<i32> {
        Ok(self.row()?.version)
    }
}

impl Encounter {
    /// The encounter someone asked for.
    pub async fn by_id(ctx: &Context<'_>, id: EncounterId) -> Result<Option<Self>> {
        let tx = &admit(ctx, "encounter").await?;
        let found = loaders(ctx)?.encounters.load(id).await?;
        match &found {
            Some(row) => {
                RecordType::Encounter.found(tx, row.patient_id, vec![id.0], RecordType::Encounter.selected(ctx))
            }
            None => RecordType::Encounter.not_found(tx, vec![id.0]),
        }
        Ok(found.map(Self::Read))
    }

    /// The encounter another record names. Asked for no more than the id, nothing is read.
    pub async fn linked(ctx: &Context<'_>, id: EncounterId) -> Result<Self> {
        if RecordType::Encounter.selected(ctx).iter().all(|field| *field == "id") {
            return Ok(Self::Named(id));
        }
        Self::by_id(ctx, id).await?.ok_or_else(|| Error::internal("a record names an encounter that is not there", id))
    }

    /// Its id, among our own.
    pub fn key(&self) -> EncounterId {
        match self {
            Self::Read(row) => row.id,
            Self::Named(id) => *id,
        }
    }

    fn row(&self) -> Result<&rows::Encounter> {
        match self {
            Self::Read(row) => Ok(row),
            Self::Named(id) => Err(Error::internal("an encounter was named, not read", id)),
        }
    }
}

/// Where an encounter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "rows::EncounterStatus")]
pub enum EncounterStatus {
    /// Expected.
    Planned,
    /// Happening.
    InProgress,
    /// Over.
    Finished,
    /// Did not happen.
    Cancelled,
    /// Never was: recorded by mistake.
    EnteredInError,
    /// Not recorded.
    Unknown,
}
