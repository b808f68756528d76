//! Changes of patients.

use super::input::{birth_date, line, past};
use super::{Named, change};
use crate::error::{Error, Result};
use crate::graphql::context::RecordType;
use crate::graphql::ids;
use crate::graphql::patient::{Patient, Sex};
use crate::graphql::scalars::{Date, DateTime};
use crate::guard::AuditAction;
use crate::ids::PatientId;
use crate::model::fields::PersonName;
use crate::model::patient::write::{self as rows, NewIdentifier, NewPatient, PatientEdit};
use async_graphql::{Context, ID, InputObject, MaybeUndefined, Object};

const LONGEST_NAME: usize = 250;
const MOST_GIVEN: usize = 20;
const LONGEST_SYSTEM: usize = 500;
const LONGEST_VALUE: usize = 200;
const MOST_IDENTIFIERS: usize = 50;

/// Changes of patients.
#[derive(Default)]
pub struct PatientMutation;

#[Object]
impl PatientMutation {
    /// Opens a patient's chart. CONFLICT when an identifier is in use.
    #[graphql(complexity = "20 + child_complexity")]
    async fn register_patient(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Who comes.")] input: RegisterPatientInput,
    ) -> Result<Option<RegisterPatientPayload>> {
        let new = NewPatient {
            identifiers: numbers(input.identifiers)?,
            name: input.name.map(name).transpose()?,
            birth_date: input.birth_date.map(|date| birth_date("input.birthDate", date.0)).transpose()?,
            sex: input.sex.into(),
        };
        let made = change(
            ctx,
            "registerPatient",
            AuditAction::PatientRegistered,
            Named(RecordType::Patient, Vec::new()),
            async |tx| rows::register(tx, new).await,
        )
        .await?;
        Ok(Some(RegisterPatientPayload(made)))
    }

    /// Changes what heads a chart. What is not sent stays; null clears.
    #[graphql(complexity = "20 + child_complexity")]
    async fn update_patient(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What changes.")] input: UpdatePatientInput,
    ) -> Result<Option<UpdatePatientPayload>> {
        let id = ids::patient("input.id", &input.id)?;
        let (expected, edit) = (input.expected_version, input.edit()?);
        let update = async |tx: &mut _| rows::update(tx, id, expected, edit).await;
        let made =
            change(ctx, "updatePatient", AuditAction::PatientUpdated, (RecordType::Patient, id.0), update).await?;
        Ok(Some(UpdatePatientPayload(made)))
    }
}

/// An identifier of a patient.
#[derive(InputObject)]
pub struct IdentifierInput {
    /// URI of what hands it out.
    system: String,
    /// The identifier.
    value: String,
}

/// A person's name: at least one of its parts.
#[derive(InputObject)]
pub struct HumanNameInput {
    /// Family name.
    family: Option<String>,
    /// Given names, in order.
    #[graphql(default)]
    given: Vec<String>,
    /// The whole name as it is to be written; made of the others when it is not given.
    text: Option<String>,
}

/// A patient to be registered.
#[derive(InputObject)]
pub struct RegisterPatientInput {
    /// Identifiers that nobody else has: record number, insurance number, passport.
    identifiers: Vec<IdentifierInput>,
    /// The name in use.
    name: Option<HumanNameInput>,
    /// Date of birth, as far as it is known.
    birth_date: Option<Date>,
    /// Administrative sex.
    sex: Sex,
}

/// What changes of a patient.
#[derive(InputObject)]
pub struct UpdatePatientInput {
    /// The patient's id.
    id: ID,
    /// The version that was seen; CONFLICT when another is stored.
    expected_version: i32,
    /// All identifiers in use; who is not among them is retired.
    identifiers: MaybeUndefined<Vec<IdentifierInput>>,
    /// The name in use.
    name: MaybeUndefined<HumanNameInput>,
    /// Date of birth, as far as it is known.
    birth_date: MaybeUndefined<Date>,
    /// Administrative sex; it can be UNKNOWN, not null.
    sex: MaybeUndefined<Sex>,
    /// When the patient died.
    deceased_at: MaybeUndefined<DateTime>,
}

impl UpdatePatientInput {
    fn edit(self) -> Result<PatientEdit> {
        Ok(PatientEdit {
            identifiers: match self.identifiers {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => Some(Vec::new()),
                MaybeUndefined::Value(list) => Some(numbers(list)?),
            },
            name: sent(self.name, name)?,
            birth_date: sent(self.birth_date, |date| birth_date("input.birthDate", date.0))?,
            sex: match self.sex {
                MaybeUndefined::Undefined => None,
                MaybeUndefined::Null => return Err(Error::invalid("input.sex", "must not be null")),
                MaybeUndefined::Value(sex) => Some(sex.into()),
            },
            deceased_at: sent(self.deceased_at, |at| past("input.deceasedAt", at.0))?,
        })
    }
}

payload! {
    /// The chart that was opened.
    RegisterPatientPayload(PatientId) {
        /// The patient.
        patient: Patient
    }
}

payload! {
    /// The chart that was changed.
    UpdatePatientPayload(PatientId) {
        /// The patient.
        patient: Patient
    }
}

/// Absent, cleared or parsed.
fn sent<T, U>(value: MaybeUndefined<T>, parse: impl FnOnce(T) -> Result<U>) -> Result<Option<Option<U>>> {
    match value {
        MaybeUndefined::Undefined => Ok(None),
        MaybeUndefined::Null => Ok(Some(None)),
        MaybeUndefined::Value(value) => parse(value).map(|value| Some(Some(value))),
    }
}

fn numbers(list: Vec<IdentifierInput>) -> Result<Vec<NewIdentifier>> {
    if list.len() > MOST_IDENTIFIERS {
        return Err(Error::invalid("input.identifiers", format!("must be at most {MOST_IDENTIFIERS}")));
    }
    let mut numbers = Vec::with_capacity(list.len());
    for (index, IdentifierInput { system, value }) in list.into_iter().enumerate() {
        let number = NewIdentifier {
            system: line(&format!("input.identifiers.{index}.system"), system, LONGEST_SYSTEM)?,
            value: line(&format!("input.identifiers.{index}.value"), value, LONGEST_VALUE)?,
        };
        // A search parts them there.
        if number.system.contains(|letter: char| letter == '|' || letter == '"' || letter.is_whitespace()) {
            return Err(Error::invalid(format!("input.identifiers.{index}.system"), "must be a URI"));
        }
        if numbers.contains(&number) {
            return Err(Error::invalid(format!("input.identifiers.{index}"), "is there twice"));
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn name(input: HumanNameInput) -> Result<PersonName> {
    let HumanNameInput { family, given, text } = input;
    if given.len() > MOST_GIVEN {
        return Err(Error::invalid("input.name.given", format!("must be at most {MOST_GIVEN}")));
    }
    let family = family.map(|family| line("input.name.family", family, LONGEST_NAME)).transpose()?;
    let given =
        given.into_iter().map(|given| line("input.name.given", given, LONGEST_NAME)).collect::<Result<Vec<_>>>()?;
    let text = match text {
        Some(text) => line("input.name.text", text, LONGEST_NAME)?,
        None => given.iter().chain(&family).map(String::as_str).collect::<Vec<_>>().join(" "),
    };
    match text.is_empty() {
        true => Err(Error::invalid("input.name", "must have a part")),
        false => Ok(PersonName { family, given, text }),
    }
}
