//! Patients as rows. Touches `patients` and `patient_identifiers`; names, birth dates and identifiers' values are
//! sealed, and an identifier is looked for by its blind index, never by its value.

pub mod rules;
pub mod search;
pub mod terms;
pub mod write;

use super::sql::{is_any_of, limited, text_enum};
use super::{HasPosition, Position};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::{patient_identifiers as identifiers, patients};
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::ids::PatientId;
use crate::model::fields::{IdentifierValue, PatientBirthDate, PatientName, PersonName};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use uuid::Uuid;

text_enum!(
    /// Administrative sex, with FHIR's meaning of the same words.
    Sex {
        /// Recorded as female.
        Female = "FEMALE",
        /// Recorded as male.
        Male = "MALE",
        /// Recorded as neither female nor male.
        Other = "OTHER",
        /// The source does not say.
        Unknown = "UNKNOWN",
    }
);

/// The head of a patient's chart.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = patients, check_for_backend(Pg))]
pub struct Patient {
    /// The patient's id.
    pub id: PatientId,
    /// Administrative sex.
    pub sex: Sex,
    /// When the patient died.
    pub deceased_at: Option<DateTime<Utc>>,
    /// Counts changes of the chart's head, from 1: what `expectedVersion` is compared with.
    pub version: i32,
    /// When the patient was registered or imported here.
    pub created_at: DateTime<Utc>,
    /// When the chart's head last changed.
    pub updated_at: DateTime<Utc>,
    name_sealed: Option<Sealed<PatientName>>,
    birth_date_sealed: Option<Sealed<PatientBirthDate>>,
}

impl Patient {
    /// Opens the name.
    ///
    /// # Errors
    /// `Integrity` where it does not open.
    pub fn name(&self, keys: &TenantKeys) -> Result<Option<PersonName>> {
        self.name_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }

    /// Opens the birth date: `YYYY`, `YYYY-MM` or `YYYY-MM-DD`.
    ///
    /// # Errors
    /// `Integrity` where it does not open.
    pub fn birth_date(&self, keys: &TenantKeys) -> Result<Option<String>> {
        self.birth_date_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }
}

impl HasPosition for Patient {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.0 }
    }
}

/// An identifier of a patient, such as a record number, an insurance number or a passport.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = identifiers, check_for_backend(Pg))]
pub struct Identifier {
    id: Uuid,
    /// The patient who carries it.
    pub patient_id: PatientId,
    /// URI of the system that issues identifiers of this kind.
    pub system: String,
    value_sealed: Sealed<IdentifierValue>,
}

impl Identifier {
    /// Opens the value.
    ///
    /// # Errors
    /// `Integrity` where it does not open.
    pub fn value(&self, keys: &TenantKeys) -> Result<String> {
        keys.open(self.id, &self.value_sealed)
    }
}

diesel::define_sql_function! {
    /// Whether one of a group is true.
    #[aggregate]
    fn bool_or(value: Bool) -> Nullable<Bool>;
}

/// Returns the patients of these ids, in no order; absent ones are left out.
pub async fn by_ids(tx: &TenantTx, ids: &[PatientId]) -> Result<Vec<Patient>> {
    tx.load(patients::table.select(Patient::as_select()).filter(is_any_of(patients::id, ids.iter().copied()))).await
}

/// Returns the one patient who carries this identifier. Where several do, the one for whom the organisation issued it.
///
/// # Errors
/// `Conflict` where several carry it and that does not decide: nobody is guessed.
pub async fn by_identifier(tx: &TenantTx, system: &str, value: &str) -> Result<Option<PatientId>> {
    let hash = tx.keys().blind_index("identifier", &[system, value]).to_vec();
    let exclusive = bool_or(identifiers::exclusive);
    let carriers = identifiers::table
        .filter(identifiers::value_hash.eq(hash))
        .filter(identifiers::system.eq(system))
        .filter(identifiers::retired_at.is_null())
        .group_by(identifiers::patient_id)
        .order((exclusive.desc(), identifiers::patient_id.asc()))
        .select((identifiers::patient_id, exclusive));
    // Two are enough to know whether it is one patient.
    let carriers: Vec<Carrier> = tx.load(limited(carriers, 2)).await?;
    match carriers.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.patient)),
        [first, second, ..] if first.exclusive == Some(true) && second.exclusive != Some(true) => {
            Ok(Some(first.patient))
        }
        _ => Err(Error::Conflict { current_version: None, reason: "several patients carry this identifier" }),
    }
}

/// Returns the identifiers in use of these patients, each patient's in the order of the chart.
pub async fn identifiers(tx: &TenantTx, ids: &[PatientId]) -> Result<Vec<Identifier>> {
    let rows = identifiers::table
        .filter(is_any_of(identifiers::patient_id, ids.iter().copied()))
        .filter(identifiers::retired_at.is_null())
        .order((identifiers::position, identifiers::id))
        .select(Identifier::as_select());
    tx.load(rows).await
}

/// A patient who carries an identifier, and whether the organisation issued it to that patient alone.
#[derive(Queryable)]
struct Carrier {
    patient: PatientId,
    exclusive: Option<bool>,
}
