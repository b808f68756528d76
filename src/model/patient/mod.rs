//! Patients as rows. Touches `patients` and `patient_identifiers`; names, birth dates and identifiers' values are sealed,
//! and an identifier is looked for by its blind index, never by its value.

pub mod search;
pub mod terms;
pub mod write;

use super::sql::{Statement, text_enum};
use super::{HasPosition, Position};
use crate::crypto::{Sealed, TenantKeys};
use crate::error::{Error, Result};
use crate::guard::TenantTx;
use crate::ids::PatientId;
use crate::model::fields::{IdentifierValue, PatientBirthDate, PatientName, PersonName};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Bool, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use uuid::Uuid;

text_enum!(
    /// Administrative sex.
    Sex {
        /// Female.
        Female = "FEMALE",
        /// Male.
        Male = "MALE",
        /// Neither.
        Other = "OTHER",
        /// Not recorded.
        Unknown = "UNKNOWN",
    }
);

/// A patient.
#[derive(Debug, Queryable)]
pub struct Patient {
    /// The patient's id.
    pub id: PatientId,
    /// Administrative sex.
    pub sex: Sex,
    /// When the patient died.
    pub deceased_at: Option<DateTime<Utc>>,
    /// Counts changes, from 1.
    pub version: i32,
    /// When the chart was opened here.
    pub created_at: DateTime<Utc>,
    /// When it changed last.
    pub updated_at: DateTime<Utc>,
    name_sealed: Option<Sealed<PatientName>>,
    birth_date_sealed: Option<Sealed<PatientBirthDate>>,
}

impl Patient {
    /// The name, opened.
    pub fn name(&self, keys: &TenantKeys) -> Result<Option<PersonName>> {
        self.name_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }

    /// The birth date, opened: YYYY, YYYY-MM or YYYY-MM-DD.
    pub fn birth_date(&self, keys: &TenantKeys) -> Result<Option<String>> {
        self.birth_date_sealed.as_ref().map(|sealed| keys.open(self.id.0, sealed)).transpose()
    }
}

impl HasPosition for Patient {
    fn position(&self) -> Position {
        Position { at: self.created_at, id: self.id.0 }
    }
}

/// SQL types of `Patient`'s columns.
type Columns =
    (SqlUuid, Text, Nullable<Timestamptz>, Integer, Timestamptz, Timestamptz, Nullable<Binary>, Nullable<Binary>);

/// One identifier of a patient: record number, insurance number, passport.
#[derive(Debug, Queryable)]
pub struct Identifier {
    id: Uuid,
    /// Whose.
    pub patient_id: PatientId,
    /// URI of what hands it out.
    pub system: String,
    value_sealed: Sealed<IdentifierValue>,
}

impl Identifier {
    /// The value, opened.
    pub fn value(&self, keys: &TenantKeys) -> Result<String> {
        keys.open(self.id, &self.value_sealed)
    }
}

/// The columns of `Patient`, in its order.
macro_rules! columns {
    () => {
        "select p.id, p.sex, p.deceased_at, p.version, p.created_at, p.updated_at, p.name_sealed, p.birth_date_sealed from "
    };
}

use columns;

/// The patients of these ids, in no order; absent ones are left out.
pub async fn by_ids(tx: &TenantTx, ids: &[PatientId]) -> Result<Vec<Patient>> {
    let query = Statement::<Columns>::new(concat!(columns!(), "patients p where id = any((select ?)::uuid[])"));
    tx.load(query.bind::<Array<SqlUuid>, _>(ids.to_vec())).await
}

/// The one patient who carries this identifier. Where several do, the one for whom the organisation issued it;
/// where that does not decide, nobody is guessed.
pub async fn by_identifier(tx: &TenantTx, system: &str, value: &str) -> Result<Option<PatientId>> {
    let query = Statement::<(SqlUuid, Bool)>::new(CARRIERS)
        .bind::<Binary, _>(tx.keys().blind("identifier", &[system, value]).to_vec())
        .bind::<Text, _>(system.to_owned());
    let carriers: Vec<Carrier> = tx.load(query).await?;
    match carriers.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only.patient)),
        [first, second, ..] if first.exclusive && !second.exclusive => Ok(Some(first.patient)),
        _ => Err(Error::Conflict { current_version: None, reason: "several patients carry this identifier" }),
    }
}

/// The identifiers in use of these patients, each patient's in the order of the chart.
pub async fn identifiers(tx: &TenantTx, ids: &[PatientId]) -> Result<Vec<Identifier>> {
    let query = Statement::<(SqlUuid, SqlUuid, Text, Binary)>::new(IDENTIFIERS).bind::<Array<SqlUuid>, _>(ids.to_vec());
    tx.load(query).await
}

const IDENTIFIERS: &str = "select id, patient_id, system, value_sealed from patient_identifiers \
    where patient_id = any((select ?)::uuid[]) and retired_at is null order by position, id";

#[derive(Queryable)]
struct Carrier {
    patient: PatientId,
    exclusive: bool,
}

/// Two rows are enough to know whether it is one patient.
const CARRIERS: &str = "select patient_id, bool_or(exclusive) from patient_identifiers \
    where value_hash = ? and system = ? and retired_at is null group by patient_id order by 2 desc, 1 limit 2";
