//! Patients and their lists: resolvers over the rows of `model::patient`. They parse ids and pages and wrap rows.

use super::context::{RecordType, authorize, guard, loaders};
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

/// Root fields for reading patients.
#[derive(Default)]
pub struct PatientQuery;

#[Object]
impl PatientQuery {
    /// Returns the patient with this id, or null when the organisation has none.
    #[graphql(complexity = "5 + child_complexity")]
    async fn patient(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The id of a patient.")] id: ID,
    ) -> Result<Option<Patient>> {
        let id = ids::patient("id", &id)?;
        Patient::by_id(ctx, id).await
    }

    /// Returns the patient who has this identifier in use, or null when there is none. When several patients have it,
    /// this is the one to whom the organisation issued it; CONFLICT when that does not decide.
    #[graphql(complexity = "5 + child_complexity")]
    async fn patient_by_identifier(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The URI of the system that issues the identifier.")] system: String,
        #[graphql(desc = "The value of the identifier.")] value: String,
    ) -> Result<Option<Patient>> {
        let tx = &authorize(ctx, "patientByIdentifier").await?;
        let found = rows::by_identifier(tx, &system, &value).await;
        match found.inspect_err(|_| RecordType::Patient.record_not_found(tx, Vec::new()))? {
            Some(id) => Patient::read(ctx, "patientByIdentifier", id).await,
            None => {
                RecordType::Patient.record_not_found(tx, Vec::new());
                Ok(None)
            }
        }
    }

    /// Returns patients, the most recently registered first. With `search`, only patients who match it; FORBIDDEN while
    /// the feature `patientSearch` is off for the organisation.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn patients(
        &self,
        ctx: &Context<'_>,
        #[graphql(
            desc = "Up to 20 words separated by spaces, all of which must match; at most 500 characters. A word is the \
                    beginning of a name (at least two letters, or one in scripts without upper and lower case), a \
                    birth date as `YYYY-MM-DD`, or an identifier as `system|value`, in double quotes if it contains \
                    spaces. Case and accents of names are ignored. An empty text matches all patients."
        )]
        search: Option<String>,
        #[graphql(desc = "Returns the first *n* items, newest first. Default 20, maximum 200.")] first: Option<i32>,
        #[graphql(desc = "Returns only items after this cursor, which are older.")] after: Option<String>,
        #[graphql(desc = "Returns the last *n* items, newest first. Maximum 200. Not with `first`.")] last: Option<i32>,
        #[graphql(desc = "Returns only items before this cursor, which are newer.")] before: Option<String>,
    ) -> Result<Connection<String, Patient>> {
        let tx = &authorize(ctx, "patients").await?;
        if search.is_some() {
            guard(ctx)?.require_flag(Flag::PatientSearch)?;
        }
        let page = PageArgs { first, after, last, before }.page(&PATIENTS, tx.keys())?;
        let search = search.map(|text| Search::parse(tx.keys(), &text)).transpose()?.flatten();
        let found = rows::search::page(tx, search, page).await?;
        let patients = connection::from_rows(&PATIENTS, tx.keys(), &page, found, |row| Patient::Loaded(Arc::new(row)));
        let fields = RecordType::Patient.node_fields(ctx);
        for id in patients.edges.iter().map(|edge| edge.node.key()) {
            RecordType::Patient.record_read(tx, id, vec![id.0], fields.clone());
        }
        RecordType::Patient.record_search(tx, patients.edges.len(), None, fields);
        Ok(patients)
    }
}

const PATIENTS: List = List::of_tenant("patients");

fn encounters_of(id: PatientId) -> List {
    List { name: "Patient.encounters", parent: id.0 }
}

fn notes_of(id: PatientId) -> List {
    List { name: "Patient.notes", parent: id.0 }
}

/// A patient of the organisation, and the patient's chart.
pub enum Patient {
    /// With its row.
    Loaded(Arc<rows::Patient>),
    /// Only the id is selected, so the row was not read.
    Reference(PatientId),
}

/// The fields of `Patient`, in the order of the schema, as access records name them.
pub(super) const FIELDS: &[&str] = &[
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
];

/// A patient of the organisation, and the patient's chart.
#[Object]
impl Patient {
    /// The patient's id.
    pub async fn id(&self) -> ID {
        ids::encode(IdKind::Patient, self.key().0)
    }

    /// The identifiers in use, such as record numbers, insurance numbers and passports. Retired identifiers are left
    /// out.
    #[graphql(complexity = "1 + 3 * child_complexity")]
    async fn identifiers(&self, ctx: &Context<'_>) -> Result<Vec<Identifier>> {
        let found = loaders(ctx)?.identifiers.load(self.key()).await?;
        Ok(found.unwrap_or_default().into_iter().map(Identifier).collect())
    }

    /// The name in use, or null when it is not known.
    async fn name(&self, ctx: &Context<'_>) -> Result<Option<HumanName>> {
        let name = self.row()?.name(guard(ctx)?.read().await?.keys())?;
        Ok(name.map(HumanName::from))
    }

    /// The date of birth as precisely as it is known, or null when it is not known.
    async fn birth_date(&self, ctx: &Context<'_>) -> Result<Option<Date>> {
        Ok(self.row()?.birth_date(guard(ctx)?.read().await?.keys())?.map(Date))
    }

    /// The administrative sex.
    async fn sex(&self) -> Result<Sex> {
        Ok(self.row()?.sex.into())
    }

    /// When the patient died, or null when no death is recorded.
    async fn deceased_at(&self) -> Result<Option<DateTime>> {
        Ok(self.row()?.deceased_at.map(DateTime))
    }

    /// Returns the patient's encounters, newest first by start. An encounter without a start is sorted by the time of
    /// its recording.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn encounters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Returns the first *n* items, newest first. Default 20, maximum 200.")] first: Option<i32>,
        #[graphql(desc = "Returns only items after this cursor, which are older.")] after: Option<String>,
        #[graphql(desc = "Returns the last *n* items, newest first. Maximum 200. Not with `first`.")] last: Option<i32>,
        #[graphql(desc = "Returns only items before this cursor, which are newer.")] before: Option<String>,
    ) -> Result<Connection<String, Encounter>> {
        let tx = &authorize(ctx, "Patient.encounters").await?;
        let list = encounters_of(self.key());
        let page = PageArgs { first, after, last, before }.page(&list, tx.keys())?;
        let found =
            loaders(ctx)?.encounters_of_patient.load(PageOf { parent: self.key(), page }).await?.unwrap_or_default();
        encounter::recorded_connection(ctx, tx, &list, &page, found)
    }

    /// Returns the notes in the patient's chart, newest first by `authoredAt`. Drafts that the caller may not see are
    /// left out.
    #[graphql(complexity = "connection::cost(first, last, child_complexity)")]
    async fn notes(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Returns the first *n* items, newest first. Default 20, maximum 200.")] first: Option<i32>,
        #[graphql(desc = "Returns only items after this cursor, which are older.")] after: Option<String>,
        #[graphql(desc = "Returns the last *n* items, newest first. Maximum 200. Not with `first`.")] last: Option<i32>,
        #[graphql(desc = "Returns only items before this cursor, which are newer.")] before: Option<String>,
    ) -> Result<Connection<String, ClinicalNote>> {
        let tx = &authorize(ctx, "Patient.notes").await?;
        let list = notes_of(self.key());
        let page = PageArgs { first, after, last, before }.page(&list, tx.keys())?;
        let fields = RecordType::Note.node_fields(ctx);
        let key = (PageOf { parent: self.key(), page }, note::needed_text(&fields));
        let found = loaders(ctx)?.notes_of_patient.load(key).await?.unwrap_or_default();
        Ok(note::recorded_connection(tx, &list, &page, found, &fields))
    }

    /// The version of the patient's data: 1 when it is created, one more after each change. Mutations compare it with
    /// `expectedVersion`.
    async fn version(&self) -> Result<i32> {
        Ok(self.row()?.version)
    }

    /// When the patient was registered or imported.
    async fn created_at(&self) -> Result<DateTime> {
        Ok(DateTime(self.row()?.created_at))
    }

    /// When the patient's data changed last.
    async fn updated_at(&self) -> Result<DateTime> {
        Ok(DateTime(self.row()?.updated_at))
    }
}

impl Patient {
    /// Loads a patient and records the access, or that it was not found.
    pub async fn by_id(ctx: &Context<'_>, id: PatientId) -> Result<Option<Self>> {
        Self::read(ctx, "patient", id).await
    }

    /// Returns the patient that another record refers to. When only the id is selected, nothing is read and no access
    /// is recorded.
    ///
    /// # Errors
    /// `Internal` when the patient does not exist.
    pub async fn referenced(ctx: &Context<'_>, id: PatientId) -> Result<Self> {
        if RecordType::Patient.selected_fields(ctx).iter().all(|field| *field == "id") {
            return Ok(Self::Reference(id));
        }
        Self::read(ctx, "patient", id)
            .await?
            .ok_or_else(|| Error::internal("a record refers to a patient that does not exist", id))
    }

    /// Loads the patient's lists in the same round trip as the patient, as far as they are selected and the caller may
    /// see them.
    async fn preload_lists(ctx: &Context<'_>, tx: &TenantTx, id: PatientId) {
        let (Ok(guard), Ok(loaders)) = (guard(ctx), loaders(ctx)) else { return };
        // A list that is selected twice may have two sets of arguments. It is not preloaded but loaded by its resolver.
        let key = |list: List, field: &Lookahead<'_>| match field.selection_fields().as_slice() {
            // The selection of `node` may be in a fragment on another type.
            [only] if loaders.may_preload && ctx.field().name() != "node" && guard.allows(list.name) => {
                PageArgs::from_selection(only)?.page(&list, tx.keys()).ok().map(|page| PageOf { parent: id, page })
            }
            _ => None,
        };
        let [encounters, notes] = ["encounters", "notes"].map(|field| ctx.look_ahead().field(field));
        let encounters = key(encounters_of(id), &encounters).map(|key| loaders.encounters_of_patient.preload(key));
        let text = || note::needed_text(&RecordType::Note.node_fields_of(ctx, &notes));
        let notes = key(notes_of(id), &notes).map(|key| loaders.notes_of_patient.preload((key, text())));
        futures_util::join!(OptionFuture::from(encounters), OptionFuture::from(notes));
    }

    async fn read(ctx: &Context<'_>, operation: &'static str, id: PatientId) -> Result<Option<Self>> {
        let tx = &authorize(ctx, operation).await?;
        let (patient, ()) = futures_util::join!(loaders(ctx)?.patients.load(id), Self::preload_lists(ctx, tx, id));
        let patient = patient?;
        match &patient {
            Some(_) => RecordType::Patient.record_read(tx, id, vec![id.0], RecordType::Patient.selected_fields(ctx)),
            None => RecordType::Patient.record_not_found(tx, vec![id.0]),
        }
        Ok(patient.map(Self::Loaded))
    }

    fn key(&self) -> PatientId {
        match self {
            Self::Loaded(row) => row.id,
            Self::Reference(id) => *id,
        }
    }

    fn row(&self) -> Result<&rows::Patient> {
        match self {
            Self::Loaded(row) => Ok(row),
            Self::Reference(id) => Err(Error::internal("a patient was not loaded", id)),
        }
    }
}

/// An identifier of a patient, such as a record number.
pub struct Identifier(Arc<rows::Identifier>);

/// An identifier of a patient, such as a record number.
#[Object]
impl Identifier {
    /// The URI of the system that issues identifiers of this kind.
    async fn system(&self) -> &str {
        &self.0.system
    }

    /// The value of the identifier.
    async fn value(&self, ctx: &Context<'_>) -> Result<String> {
        self.0.value(guard(ctx)?.read().await?.keys())
    }
}

/// A person's name.
#[derive(SimpleObject)]
pub struct HumanName {
    /// The family name, or null when there is none.
    family: Option<String>,
    /// The given names, in order. Empty when there are none.
    given: Vec<String>,
    /// The whole name as it is displayed.
    text: String,
}

impl From<PersonName> for HumanName {
    fn from(name: PersonName) -> Self {
        let PersonName { family, given, text } = name;
        Self { family, given, text }
    }
}

/// Administrative sex, with FHIR's meaning of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "rows::Sex")]
pub enum Sex {
    /// The patient is female.
    Female,
    /// The patient is male.
    Male,
    /// The patient is neither female nor male.
    Other,
    /// The sex is not known.
    Unknown,
}
