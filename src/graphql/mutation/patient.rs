//! Mutations of patients.

use super::input::{birth_date, line, past};
use super::{TargetRecords, run_mutation};
use crate::audit::AuditAction;
use crate::error::{Error, Result};
use crate::graphql::context::RecordType;
use crate::graphql::ids;
use crate::graphql::patient::{Patient, Sex};
use crate::graphql::scalars::{Date, DateTime};
use crate::ids::PatientId;
use crate::model::fields::PersonName;
use crate::model::patient::rules::{
    MAX_GIVEN_NAMES, MAX_IDENTIFIERS, MAX_NAME_CHARS, MAX_SYSTEM_CHARS, MAX_VALUE_CHARS, is_identifier_system,
};
use crate::model::patient::write::{self as rows, NewIdentifier, NewPatient, PatientEdit};
use async_graphql::{Context, ID, InputObject, MaybeUndefined, Object};

/// Root fields for changing patients.
#[derive(Default)]
pub struct PatientMutation;

#[Object]
impl PatientMutation {
    /// Registers a patient and opens a chart. CONFLICT when another patient has one of the identifiers in use.
    #[graphql(complexity = "20 + child_complexity")]
    async fn register_patient(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The new patient.")] input: RegisterPatientInput,
    ) -> Result<Option<RegisterPatientPayload>> {
        let new = NewPatient {
            identifiers: parse_identifiers(input.identifiers)?,
            name: input.name.map(parse_name).transpose()?,
            birth_date: input.birth_date.map(|date| birth_date("input.birthDate", date.0)).transpose()?,
            sex: input.sex.into(),
        };
        let id = run_mutation(
            ctx,
            "registerPatient",
            AuditAction::PatientRegistered,
            TargetRecords(RecordType::Patient, Vec::new()),
            async |tx| rows::register(tx, new).await,
        )
        .await?;
        Ok(Some(RegisterPatientPayload(id)))
    }

    /// Changes a patient's demographics and identifiers. Absent fields stay as they are; null clears a field. NOT_FOUND
    /// when the organisation has no such patient; CONFLICT when the patient has changed, or when another patient has
    /// one of the new identifiers in use.
    #[graphql(complexity = "20 + child_complexity")]
    async fn update_patient(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The patient, and the fields to change.")] input: UpdatePatientInput,
    ) -> Result<Option<UpdatePatientPayload>> {
        let id = ids::patient("input.id", &input.id)?;
        let (expected, edit) = (input.expected_version, input.edit()?);
        let update = async |tx: &mut _| rows::update(tx, id, expected, edit).await;
        let id = run_mutation(ctx, "updatePatient", AuditAction::PatientUpdated, (RecordType::Patient, id.0), update)
            .await?;
        Ok(Some(UpdatePatientPayload(id)))
    }
}

/// An identifier of a patient, such as a record number.
#[derive(InputObject)]
pub struct IdentifierInput {
    /// The URI of the system that issues identifiers of this kind. At most 500 characters, without white space, `|` and
    /// `"`.
    system: String,
    /// The value of the identifier. At most 200 characters.
    value: String,
}

/// A person's name. At least one of its fields must be given.
#[derive(InputObject)]
pub struct HumanNameInput {
    /// The family name. At most 250 characters.
    family: Option<String>,
    /// The given names, in order. At most 20, each of at most 250 characters.
    #[graphql(default)]
    given: Vec<String>,
    /// The whole name as it is displayed. At most 250 characters. Default: the given names and the family name,
    /// separated by spaces.
    text: Option<String>,
}

/// A new patient.
#[derive(InputObject)]
pub struct RegisterPatientInput {
    /// The identifiers, such as record number, insurance number and passport. At most 50, none of them twice. May be
    /// empty.
    identifiers: Vec<IdentifierInput>,
    /// The name in use.
    name: Option<HumanNameInput>,
    /// The date of birth as precisely as it is known, not in the future.
    birth_date: Option<Date>,
    /// The administrative sex.
    sex: Sex,
}

/// A patient, and the fields to change. Absent fields stay as they are.
#[derive(InputObject)]
pub struct UpdatePatientInput {
    /// The id of the patient.
    id: ID,
    /// The version that the client has read. CONFLICT when the stored version differs; `extensions.currentVersion` is
    /// the stored one.
    expected_version: i32,
    /// All identifiers in use, at most 50. Identifiers that are not among them are retired; null retires all.
    identifiers: MaybeUndefined<Vec<IdentifierInput>>,
    /// The name in use. Null clears it.
    name: MaybeUndefined<HumanNameInput>,
    /// The date of birth as precisely as it is known, not in the future. Null clears it.
    birth_date: MaybeUndefined<Date>,
    /// The administrative sex. Null is refused with INVALID_INPUT; send UNKNOWN instead.
    sex: MaybeUndefined<Sex>,
    /// When the patient died, not in the future. Null clears it.
    deceased_at: MaybeUndefined<DateTime>,
}

impl UpdatePatientInput {
    fn edit(self) -> Result<PatientEdit> {
        Ok(PatientEdit {
            identifiers: match self.identifiers {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => Some(Vec::new()),
                MaybeUndefined::Value(list) => Some(parse_identifiers(list)?),
            },
            name: parse_optional(self.name, parse_name)?,
            birth_date: parse_optional(self.birth_date, |date| birth_date("input.birthDate", date.0))?,
            sex: match self.sex {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => return Err(Error::invalid("input.sex", "must not be null")),
                MaybeUndefined::Value(sex) => Some(sex.into()),
            },
            deceased_at: parse_optional(self.deceased_at, |at| past("input.deceasedAt", at.0))?,
        })
    }
}

record_payload! {
    /// The result of `registerPatient`.
    RegisterPatientPayload(PatientId) {
        /// The patient as stored. Null, with an error, when it cannot be read; the mutation is committed nevertheless.
        patient: Patient
    }
}

record_payload! {
    /// The result of `updatePatient`.
    UpdatePatientPayload(PatientId) {
        /// The patient as stored. Null, with an error, when it cannot be read; the mutation is committed nevertheless.
        patient: Patient
    }
}

/// Returns `None` for an absent field, `Some(None)` for null, and else the parsed value.
fn parse_optional<T, U>(value: MaybeUndefined<T>, parse: impl FnOnce(T) -> Result<U>) -> Result<Option<Option<U>>> {
    match value {
        MaybeUndefined::Undefined => Ok(None),
        MaybeUndefined::Null => Ok(Some(None)),
        MaybeUndefined::Value(value) => parse(value).map(|value| Some(Some(value))),
    }
}

fn parse_identifiers(list: Vec<IdentifierInput>) -> Result<Vec<NewIdentifier>> {
    if list.len() > MAX_IDENTIFIERS {
        return Err(Error::invalid("input.identifiers", format!("must have at most {MAX_IDENTIFIERS} entries")));
    }
    let mut identifiers = Vec::with_capacity(list.len());
    for (index, IdentifierInput { system, value }) in list.into_iter().enumerate() {
        let identifier = NewIdentifier {
            system: line(&format!("input.identifiers.{index}.system"), system, MAX_SYSTEM_CHARS)?,
            value: line(&format!("input.identifiers.{index}.value"), value, MAX_VALUE_CHARS)?,
        };
        if !is_identifier_system(&identifier.system) {
            return Err(Error::invalid(format!("input.identifiers.{index}.system"), "must be a URI"));
        }
        if identifiers.contains(&identifier) {
            return Err(Error::invalid(format!("input.identifiers.{index}"), "appears twice"));
        }
        identifiers.push(identifier);
    }
    Ok(identifiers)
}

fn parse_name(input: HumanNameInput) -> Result<PersonName> {
    let HumanNameInput { family, given, text } = input;
    if given.len() > MAX_GIVEN_NAMES {
        return Err(Error::invalid("input.name.given", format!("must have at most {MAX_GIVEN_NAMES} entries")));
    }
    let family = family.map(|family| line("input.name.family", family, MAX_NAME_CHARS)).transpose()?;
    let given =
        given.into_iter().map(|given| line("input.name.given", given, MAX_NAME_CHARS)).collect::<Result<Vec<_>>>()?;
    let text = match text {
        Some(text) => line("input.name.text", text, MAX_NAME_CHARS)?,
        None => given.iter().chain(&family).map(String::as_str).collect::<Vec<_>>().join(" "),
    };
    match text.is_empty() {
        true => Err(Error::invalid("input.name", "must have at least one field")),
        false => Ok(PersonName { family, given, text }),
    }
}
