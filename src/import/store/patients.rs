//! Patients into rows: the chart's head, its identifiers and the blind terms of its name.
//! An id of the source is no proof of who somebody is: a chart is changed only by what is plainly the same person.

use super::identity::{self, Face};
use super::{
    CHANGED_HERE, FoundPatient, Store, Stored, at_its_version, fingerprint, identifier_hash, look_up, without_repeats,
};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::{patient_identifiers, patient_terms, patients};
use crate::error::Result;
use crate::fhir::ImportedPatient;
use crate::guard::TenantTx;
use crate::ids::{PatientId, TenantId};
use crate::model::fields::{IdentifierValue, PatientBirthDate, PatientContact, PatientName, PatientSource, PersonName};
use crate::model::patient;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{self, Binary, Integer, Nullable};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

#[derive(Insertable)]
#[diesel(table_name = patients)]
struct NewRow {
    tenant_id: TenantId,
    id: PatientId,
    source_key: Vec<u8>,
    #[diesel(embed)]
    content: Content,
}

/// What an import writes, new or changed. `None` clears: the source has the last word on its own charts, until they are changed here.
#[derive(Insertable, AsChangeset)]
#[diesel(table_name = patients, treat_none_as_null = true)]
struct Content {
    sex: &'static str,
    deceased_at: Option<DateTime<Utc>>,
    name_sealed: Option<Sealed<PatientName>>,
    birth_date_sealed: Option<Sealed<PatientBirthDate>>,
    contact_sealed: Option<Sealed<PatientContact>>,
    source_sealed: Option<Sealed<PatientSource>>,
    source_hash: Vec<u8>,
    source_version: i32,
}

#[derive(Insertable)]
#[diesel(table_name = patient_identifiers)]
struct IdentifierRow<'a> {
    tenant_id: TenantId,
    id: Uuid,
    patient_id: PatientId,
    position: i32,
    system: &'a str,
    kind: Option<&'a str>,
    exclusive: bool,
    value_sealed: Sealed<IdentifierValue>,
    value_hash: Vec<u8>,
}

#[derive(Insertable)]
#[diesel(table_name = patient_terms)]
struct TermsRow {
    tenant_id: TenantId,
    patient_id: PatientId,
    terms: Vec<i64>,
}

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Binary)]
    key: Vec<u8>,
    #[diesel(sql_type = sql_types::Uuid)]
    id: PatientId,
    #[diesel(sql_type = Nullable<Binary>)]
    hash: Option<Vec<u8>>,
    #[diesel(sql_type = Integer)]
    version: i32,
    #[diesel(sql_type = Nullable<Integer>)]
    imported: Option<i32>,
}

struct Planned<'a> {
    patient: &'a ImportedPatient,
    id: PatientId,
    key: Vec<u8>,
    hash: Vec<u8>,
    /// Index in the batch.
    index: usize,
    /// Exclusive numbers it brings.
    exclusive: HashSet<Vec<u8>>,
    /// What is there, unless it is new.
    before: Option<&'a [Living]>,
    /// The version that is there, 0 if it is new.
    version: i32,
    /// Whether somebody changed it here since the last import.
    changed_here: bool,
}

/// An identifier that a chart has now.
struct Living {
    id: Uuid,
    hash: Vec<u8>,
    exclusive: bool,
}

/// The key is known, and who comes under it is not who is there.
const IDENTITY_CHANGED: &str = "identity_changed";

impl Store {
    /// Stores a batch of patients, and remembers for this run whose key turned out to mean somebody else.
    pub async fn patients(&mut self, batch: &[&ImportedPatient]) -> Result<Stored> {
        let (mut stored, mut offset) = (Stored::default(), 0);
        for run in without_repeats(batch, |patient| patient.key.clone()) {
            stored.absorb(self.transaction(async |tx| self.patients_once(tx, run).await).await?, offset);
            offset += run.len();
        }
        let changed = stored.refused.iter().filter(|(_, reason)| *reason == IDENTITY_CHANGED);
        let keys = changed.filter_map(|(index, _)| batch.get(*index)).map(|patient| patient.key.clone());
        self.refused.extend(keys);
        Ok(stored)
    }

    async fn patients_once(&self, tx: &TenantTx, batch: &[&ImportedPatient]) -> Result<Stored> {
        let keys = tx.keys();
        let source_keys: Vec<_> = batch.iter().map(|patient| self.key(keys, &patient.key)).collect();
        let by_source = each!(
            "key, id, source_hash as hash, version, source_version as imported",
            "patients",
            "source_key = key limit 1"
        );
        let rows: Vec<Known> = look_up(tx, by_source, &source_keys).await?;
        let known: HashMap<_, _> = rows.into_iter().map(|row| (row.key.clone(), row)).collect();

        let (mut stored, mut changed, mut plans) = (Stored::default(), Vec::new(), Vec::new());
        for (index, (patient, key)) in batch.iter().zip(source_keys).enumerate() {
            let hash = fingerprint(keys, "patient", patient.fingerprint())?;
            let before = known.get(&key);
            if before.is_some_and(|before| before.hash.as_ref() == Some(&hash)) {
                stored.unchanged += 1;
                continue;
            }
            changed.extend(before.map(|before| before.id));
            let id = before.map_or_else(PatientId::new, |before| before.id);
            let version = before.map_or(0, |before| before.version);
            let changed_here = before.is_some_and(|before| before.imported != Some(before.version));
            let exclusive = exclusive(keys, patient).collect();
            plans.push(Planned { patient, id, key, hash, index, exclusive, before: None, version, changed_here });
        }
        let there = living(tx, &changed).await?;
        let faces = faces(tx, &changed).await?;
        plans.iter_mut().for_each(|plan| {
            plan.before = faces.contains_key(&plan.id).then(|| there.get(&plan.id).map_or(&[][..], Vec::as_slice))
        });
        plans.retain(|plan| {
            let Some((before, face)) = plan.before.zip(faces.get(&plan.id)) else { return true };
            let numbers: HashSet<_> =
                before.iter().filter(|number| number.exclusive).map(|number| number.hash.clone()).collect();
            let same = identity::same(
                face,
                &numbers,
                &Face::new(person(plan.patient), plan.patient.birth_date.clone()),
                &plan.exclusive,
            );
            // Who it is comes first: what follows in this run goes to a chart that was changed here, and to somebody else's never.
            let refused = if same { plan.changed_here.then_some(CHANGED_HERE) } else { Some(IDENTITY_CHANGED) };
            stored.refused.extend(refused.map(|reason| (plan.index, reason)));
            refused.is_none()
        });
        let (plans, twice) = without_duplicates(plans, &owners(tx, batch).await?);
        stored.refused.extend(twice.into_iter().map(|index| (index, "duplicate_identifier")));
        // What one gives up another may take over, in whatever order the two come.
        retire(tx, &plans).await?;
        let (changed, new): (Vec<_>, Vec<_>) = plans.into_iter().partition(|plan| plan.before.is_some());
        self.insert(tx, &new).await?;
        for plan in &changed {
            self.update(tx, plan).await?;
        }
        stored.new = new.len() as u64;
        stored.updated = changed.len() as u64;
        Ok(stored)
    }

    async fn insert(&self, tx: &TenantTx, new: &[Planned<'_>]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let (tenant, keys) = (tx.tenant(), tx.keys());
        let rows = new
            .iter()
            .map(|plan| {
                Ok(NewRow {
                    tenant_id: tenant,
                    id: plan.id,
                    source_key: plan.key.clone(),
                    content: content(keys, plan)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        tx.execute(diesel::insert_into(patients::table).values(rows)).await?;
        let mut identifiers = Vec::new();
        for plan in new {
            identifiers.extend(identifier_rows(tenant, keys, plan)?);
        }
        add_identifiers(tx, &identifiers).await?;
        let terms: Vec<_> = new
            .iter()
            .map(|plan| TermsRow { tenant_id: tenant, patient_id: plan.id, terms: terms(keys, plan) })
            .collect();
        tx.execute(diesel::insert_into(patient_terms::table).values(terms)).await?;
        Ok(())
    }

    async fn update(&self, tx: &TenantTx, plan: &Planned<'_>) -> Result<()> {
        let keys = tx.keys();
        let row = patients::table.filter(patients::id.eq(plan.id).and(patients::version.eq(plan.version)));
        let bump = (patients::version.eq(plan.version + 1), patients::updated_at.eq(diesel::dsl::now));
        at_its_version(tx.execute(diesel::update(row).set((content(keys, plan)?, bump))).await?)?;

        let stay: HashSet<_> =
            plan.before.unwrap_or_default().iter().map(|number| (&number.hash, number.exclusive)).collect();
        let mut rows = identifier_rows(tx.tenant(), keys, plan)?;
        rows.retain(|row| !stay.contains(&(&row.value_hash, row.exclusive)));
        add_identifiers(tx, &rows).await?;
        let named = diesel::update(patient_terms::table.filter(patient_terms::patient_id.eq(plan.id)));
        tx.execute(named.set(patient_terms::terms.eq(terms(keys, plan)))).await?;
        Ok(())
    }
}

/// Who the patients are that are there.
async fn faces(tx: &TenantTx, ids: &[PatientId]) -> Result<HashMap<PatientId, Face>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let columns = (patients::id, patients::name_sealed, patients::birth_date_sealed);
    let query = patients::table.select(columns).filter(patients::id.eq_any(ids));
    type Row = (PatientId, Option<Sealed<PatientName>>, Option<Sealed<PatientBirthDate>>);
    let rows: Vec<Row> = tx.load(query).await?;
    let open = |(id, name, birth_date): (PatientId, Option<Sealed<PatientName>>, Option<Sealed<PatientBirthDate>>)| {
        let name = name.map(|sealed| tx.keys().open(id.0, &sealed)).transpose()?;
        let birth_date = birth_date.map(|sealed| tx.keys().open(id.0, &sealed)).transpose()?;
        Ok((id, Face::new(name, birth_date)))
    };
    rows.into_iter().map(open).collect()
}

async fn living(tx: &TenantTx, ids: &[PatientId]) -> Result<HashMap<PatientId, Vec<Living>>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let columns = (
        patient_identifiers::patient_id,
        patient_identifiers::id,
        patient_identifiers::value_hash,
        patient_identifiers::exclusive,
    );
    let now = patient_identifiers::patient_id.eq_any(ids).and(patient_identifiers::retired_at.is_null());
    let rows: Vec<(PatientId, Uuid, Vec<u8>, bool)> =
        tx.load(patient_identifiers::table.select(columns).filter(now)).await?;
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for (patient, id, hash, exclusive) in rows {
        found.entry(patient).or_default().push(Living { id, hash, exclusive });
    }
    Ok(found)
}

/// Takes out those who bring a number that somebody else has and keeps. Gives their indices.
fn without_duplicates<'a>(
    plans: Vec<Planned<'a>>,
    taken: &HashMap<Vec<u8>, PatientId>,
) -> (Vec<Planned<'a>>, Vec<usize>) {
    // Who is refused gives up nothing, which may refuse others in turn.
    let mut refused: HashSet<PatientId> = HashSet::new();
    loop {
        let accepted = || plans.iter().filter(|plan| !refused.contains(&plan.id));
        let leaving: HashMap<_, _> =
            accepted().filter(|plan| plan.before.is_some()).map(|plan| (plan.id, &plan.exclusive)).collect();
        let mut claimed: HashMap<&Vec<u8>, PatientId> = HashMap::new();
        let mut more = Vec::new();
        for plan in accepted() {
            let kept =
                |owner: &PatientId, hash: &Vec<u8>| leaving.get(owner).is_none_or(|brought| brought.contains(hash));
            let elsewhere = |hash: &Vec<u8>| {
                let owner = taken.get(hash).filter(|owner| kept(owner, hash)).or_else(|| claimed.get(hash));
                owner.is_some_and(|owner| *owner != plan.id)
            };
            if plan.exclusive.iter().any(elsewhere) {
                more.push(plan.id);
            } else {
                claimed.extend(plan.exclusive.iter().map(|hash| (hash, plan.id)));
            }
        }
        if more.is_empty() {
            break;
        }
        refused.extend(more);
    }
    let (twice, plans): (Vec<_>, Vec<_>) = plans.into_iter().partition(|plan| refused.contains(&plan.id));
    (plans, twice.into_iter().map(|plan| plan.index).collect())
}

/// Ends the identifiers that changed patients have no more.
async fn retire(tx: &TenantTx, plans: &[Planned<'_>]) -> Result<()> {
    let mut gone = Vec::new();
    for plan in plans {
        let hashes = plan
            .patient
            .identifiers
            .iter()
            .map(|number| (identifier_hash(tx.keys(), &number.identifier), number.exclusive));
        let wanted: HashSet<_> = hashes.collect();
        let before = plan.before.unwrap_or_default().iter();
        gone.extend(
            before.filter(|number| !wanted.contains(&(number.hash.clone(), number.exclusive))).map(|number| number.id),
        );
    }
    if !gone.is_empty() {
        let retired = diesel::update(patient_identifiers::table.filter(patient_identifiers::id.eq_any(gone)));
        tx.execute(retired.set(patient_identifiers::retired_at.eq(Utc::now()))).await?;
    }
    Ok(())
}

async fn add_identifiers(tx: &TenantTx, rows: &[IdentifierRow<'_>]) -> Result<()> {
    // A statement has 65,535 parameters at most.
    for some in rows.chunks(5_000) {
        tx.execute(diesel::insert_into(patient_identifiers::table).values(some)).await?;
    }
    Ok(())
}

/// Who has the exclusive identifiers that a batch brings.
async fn owners(tx: &TenantTx, batch: &[&ImportedPatient]) -> Result<HashMap<Vec<u8>, PatientId>> {
    let hashes: Vec<_> = batch.iter().flat_map(|patient| exclusive(tx.keys(), patient)).collect();
    let holding = each!(
        "key, patient_id as id",
        "patient_identifiers",
        "value_hash = key and exclusive and retired_at is null limit 1"
    );
    let rows: Vec<FoundPatient> = look_up(tx, holding, &hashes).await?;
    Ok(rows.into_iter().map(|row| (row.key, row.id)).collect())
}

fn exclusive(keys: &TenantKeys, patient: &ImportedPatient) -> impl Iterator<Item = Vec<u8>> {
    patient.identifiers.iter().filter(|number| number.exclusive).map(|number| identifier_hash(keys, &number.identifier))
}

fn content(keys: &TenantKeys, plan: &Planned<'_>) -> Result<Content> {
    let Planned { patient, id, hash, .. } = plan;
    Ok(Content {
        sex: patient.sex.name(),
        deceased_at: patient.deceased_at,
        name_sealed: person(patient).map(|name| keys.seal(id.0, &name)).transpose()?,
        birth_date_sealed: patient.birth_date.as_ref().map(|date| keys.seal(id.0, date)).transpose()?,
        contact_sealed: patient.contact.as_ref().map(|contact| keys.seal(id.0, contact)).transpose()?,
        source_sealed: Some(keys.seal(id.0, &patient.source.clone().into_json())?),
        source_hash: hash.clone(),
        source_version: plan.version + 1,
    })
}

fn identifier_rows<'a>(tenant: TenantId, keys: &TenantKeys, plan: &Planned<'a>) -> Result<Vec<IdentifierRow<'a>>> {
    let mut seen = HashSet::new();
    let numbers = plan.patient.identifiers.iter().filter(|number| seen.insert(&number.identifier));
    numbers
        .zip(0..)
        .map(|(number, position)| {
            let id = Uuid::now_v7();
            Ok(IdentifierRow {
                tenant_id: tenant,
                id,
                patient_id: plan.id,
                position,
                system: &number.identifier.system,
                kind: number.kind.as_deref(),
                exclusive: number.exclusive,
                value_sealed: keys.seal(id, &number.identifier.value)?,
                value_hash: identifier_hash(keys, &number.identifier),
            })
        })
        .collect()
}

fn terms(keys: &TenantKeys, plan: &Planned<'_>) -> Vec<i64> {
    let Planned { patient, .. } = plan;
    let numbers: Vec<_> = patient.identifiers.iter().map(|number| identifier_hash(keys, &number.identifier)).collect();
    patient::terms::of_patient(
        keys,
        person(patient).as_ref(),
        patient.birth_date.as_deref(),
        numbers.iter().map(Vec::as_slice),
    )
}

fn person(patient: &ImportedPatient) -> Option<PersonName> {
    patient.name.as_ref().map(|name| PersonName {
        family: name.family.clone(),
        given: name.given.clone(),
        text: name.text.clone(),
    })
}
