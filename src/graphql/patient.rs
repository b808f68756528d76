//! Patients and their lists, over the rows of `model::patient`. Parses ids and pages, wraps rows; no SQL, no roles compared here.

use super::context::{RecordType, admit, guard, loaders};
use super::encounter::{self, Encounter};
use super::ids::{self, IdKind};
use super::loaders::PageOf;
use super::note::{self, ClinicalNote};
use super::page::connection::{self, PageArgs};
use super::page::cursor::List;
use super::scalars::{Date, DateTime};
use crate::error::{Error, Result};
use crate::flags::Flag;
use crate::guard::TenantTx;
use crate::ids::PatientId;
use crate::model::fields::PersonName;
use crate::model::patient as rows;
use crate::model::patient::search::Search;
use async_graphql::connection::Connection;
use async_graphql::{Context, Enum, ID, Lookahead, Object, SimpleObject};
use futures_util::future::OptionFuture;
use std::sync::Arc;

/// Patients.
#[derive(Default)]
pub struct PatientQuery;

#[Object]
impl PatientQuery {
    /// The patient of this id; null when there is none in this organisation.
    #[graphql(complexity = "5 + child_complexity")]
    async fn patient(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Id of a patient.")] id: ID,
    ) -> Result<Option<Patient>> {
        let id = ids::patient("id", &id)?;
        Patient::by_id(ctx, id).await
    }

    /// The one patient who carries this identifier; null when nobody does, CONFLICT when several do and none of them alone was issued it.
    #[graphql(complexity = "5 + child_complexity")]
    async fn patient_by_identifier(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "URI of what hands the identifier out.")] system: String,
        #[graphql(desc = "The identifier.")] value: String,
    ) -> Result<Option<Patient>> {
        let tx = &admit(ctx, "patientByIdentifier").await?;
        let found = rows::by_identifier(tx, &system, &value).await;
        match found.inspect_err(|_| RecordType::Patient.not_found(tx, Vec::new()))? {
            Some(id) => Patient::read(ctx, "patientByIdentifier", id).await,
            None => {
                RecordType::Patient.not_found(tx, Vec::new());
                Ok(None)
            }
        }
    }

    /// Patients, the chart opened last first; with `search`, those who match all of its words.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn patients(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "Words, all of which must match: the beginning of a name, a birth date as YYYY-MM-DD, an identifier as system|value, in quotes if it has spaces."
        )]
        search: Option<String>,
        #[graphql(desc = "How many from the newest on; 20 when nothing is said, at most 200.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the oldest on.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<String, Patient>> {
        let tx = &admit(ctx, "patients").await?;
        if search.is_some() {
            guard(ctx)?.needs(Flag::PatientSearch)?;
        }
        let page = PageArgs { first, after, last, before }.page(&PATIENTS, tx.keys())?;
        let search = search.map(|text| Search::parse(tx.keys(), &text)).transpose()?.flatten();
        let found = rows::search::page(tx, search, page).await?;
        let patients = connection::connection(&PATIENTS, tx.keys(), &page, found, |row| Patient::Read(Arc::new(row)));
        let fields = RecordType::Patient.selected_of_nodes(ctx);
        for id in patients.edges.iter().map(|edge| edge.node.key()) {
            RecordType::Patient.found(tx, id, vec![id.0], fields.clone());
        }
        RecordType::Patient.searched(tx, patients.edges.len(), None, fields);
        Ok(patients)
    }
}

const PATIENTS: List = List::of_all("patients");

fn encounters_of(id: PatientId) -> List {
    List { name: "Patient.encounters", parent: id.0 }
}

fn notes_of(id: PatientId) -> List {
    List { name: "Patient.notes", parent: id.0 }
}

/// A patient of the organisation.
pub enum Patient {
    /// With the row.
    Read(Arc<rows::Patient>),
    /// Nothing but the id was asked for, so nothing was read.
    Named(PatientId),
}

/// A patient of the organisation.
#[Object]
impl Patient {
    /// The patient's id.
    pub async fn id(&self) -> ID {
        ids::encode(IdKind::Patient, self.key().0)
    }

    /// Identifiers in use: record numbers, insurance numbers, passports.
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn identifiers(&self, ctx: &Context<'_>) -> Result<Vec<Identifier>> {
        let found = loaders(ctx)?.identifiers.load(self.key()).await?;
        Ok(found.unwrap_or_default().into_iter().map(Identifier).collect())
    }

    /// The name in use.
    async fn name(&self, ctx: &Context<'_>) -> Result<Option<HumanName>> {
        let name = self.row()?.name(guard(ctx)?.read().await?.keys())?;
        Ok(name.map(HumanName::from))
    }

    /// Date of birth, as far as it is known.
    async fn birth_date(&self, ctx: &Context<'_>) -> Result<Option<Date>> {
        Ok(self.row()?.birth_date(guard(ctx)?.read().await?.keys())?.map(Date))
    }

    /// Administrative sex.
    async fn sex(&self) -> Result<Sex> {
        Ok(self.row()?.sex.into())
    }

    /// When the patient died.
    async fn deceased_at(&self) -> Result<Option<DateTime>> {
        Ok(self.row()?.deceased_at.map(DateTime))
    }

    /// The patient's encounters, newest first.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn encounters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the newest on; 20 when nothing is said, at most 200.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the oldest on.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<String, Encounter>> {
        let tx = &admit(ctx, "Patient.encounters").await?;
        let list = encounters_of(self.key());
        let page = PageArgs { first, after, last, before }.page(&list, tx.keys())?;
        let found =
            loaders(ctx)?.encounters_of_patient.load(PageOf { parent: self.key(), page }).await?.unwrap_or_default();
        encounter::shown(ctx, tx, &list, &page, found)
    }

    /// The notes of the patient's chart, newest first.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn notes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many from the newest on; 20 when nothing is said, at most 200.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "How many from the oldest on.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Connection<String, ClinicalNote>> {
        let tx = &admit(ctx, "Patient.notes").await?;
        let list = notes_of(self.key());
        let page = PageArgs { first, after, last, before }.page(&list, tx.keys())?;
        let fields = RecordType::Note.selected_of_nodes(ctx);
        let key = (PageOf { parent: self.key(), page }, note::text(&fields));
        let found = loaders(ctx)?.notes_of_patient.load(key).await?.unwrap_or_default();
        Ok(note::shown(tx, &list, &page, found, &fields))
    }

    /// Counts changes, from 1.
    async fn version(&self) -> Result<i32> {
        Ok(self.row()?.version)
    }

    /// When the chart was opened here.
    async fn created_at(&self) -> Result<DateTime> {
        Ok(DateTime(self.row()?.created_at))
    }

    /// When it changed last.
    async fn updated_at(&self) -> Result<DateTime> {
        Ok(DateTime(self.row()?.updated_at))
    }
}

impl Patient {
    /// The patient someone asked for.
    pub async fn by_id(ctx: &Context<'_>, id: PatientId) -> Result<Option<Self>> {
        Self::read(ctx, "patient", id).await
    }

    /// The patient another record names. Asked for no more than the id, nothing is read.
    pub async fn linked(ctx: &Context<'_>, id: PatientId) -> Result<Self> {
        if RecordType::Patient.selected(ctx).iter().all(|field| *field == "id") {
            return Ok(Self::Named(id));
        }
        Self::read(ctx, "patient", id)
            .await?
            .ok_or_else(|| Error::internal("a record names a patient who is not there", id))
    }

    /// Loads the patient's lists on the way that fetches the patient, as far as they will be asked for and the caller may see them.
    async fn lists_ahead(ctx: &Context<'_>, tx: &TenantTx, id: PatientId) {
        let (Ok(guard), Ok(loaders)) = (guard(ctx), loaders(ctx)) else { return };
        // A list that is asked for twice has arguments of two kinds: it waits for its turn.
        let key = |list: List, field: &Lookahead<'_>| match field.selection_fields().as_slice() {
            // What `node` is asked may be meant for another type.
            [only] if loaders.ahead && ctx.field().name() != "node" && guard.allows(list.name) => {
                PageArgs::of(only)?.page(&list, tx.keys()).ok().map(|page| PageOf { parent: id, page })
            }
            _ => None,
        };
        let [encounters, notes] = ["encounters", "notes"].map(|field| ctx.look_ahead().field(field));
        let encounters = key(encounters_of(id), &encounters).map(|key| loaders.encounters_of_patient.load_ahead(key));
        let text = || note::text(&RecordType::Note.of_nodes(ctx, &notes));
        let notes = key(notes_of(id), &notes).map(|key| loaders.notes_of_patient.load_ahead((key, text())));
        futures_util::join!(OptionFuture::from(encounters), OptionFuture::from(notes));
    }

    async fn read(ctx: &Context<'_>, operation: &'static str, id: PatientId) -> Result<Option<Self>> {
        let tx = &admit(ctx, operation).await?;
        let (found, ()) = futures_util::join!(loaders(ctx)?.patients.load(id), Self::lists_ahead(ctx, tx, id));
        let found = found?;
        match &found {
            Some(_) => RecordType::Patient.found(tx, id, vec![id.0], RecordType::Patient.selected(ctx)),
            None => RecordType::Patient.not_found(tx, vec![id.0]),
        }
        Ok(found.map(Self::Read))
    }

    fn key(&self) -> PatientId {
        match self {
            Self::Read(row) => row.id,
            Self::Named(id) => *id,
        }
    }

    fn row(&self) -> Result<&rows::Patient> {
        match self {
            Self::Read(row) => Ok(row),
            Self::Named(id) => Err(Error::internal("a patient was named, not read", id)),
        }
    }
}

/// An identifier of a patient.
pub struct Identifier(Arc<rows::Identifier>);

/// An identifier of a patient.
#[Object]
impl Identifier {
    /// URI of what hands it out.
    async fn system(&self) -> &str {
        &self.0.system
    }

    /// The identifier.
    async fn value(&self, ctx: &Context<'_>) -> Result<String> {
        self.0.value(guard(ctx)?.read().await?.keys())
    }
}

/// A person's name.
#[derive(SimpleObject)]
pub struct HumanName {
    /// Family name.
    family: Option<String>,
    /// Given names, in order.
    given: Vec<String>,
    /// The whole name as it is written.
    text: String,
}

impl From<PersonName> for HumanName {
    fn from(name: PersonName) -> Self {
        let PersonName { family, given, text } = name;
        Self { family, given, text }
    }
}

/// Administrative sex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "rows::Sex")]
pub enum Sex {
    /// Female.
    Female,
    /// Male.
    Male,
    /// Neither.
    Other,
    /// Not recorded.
    Unknown,
}
