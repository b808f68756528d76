//! Stores imported patients: the chart's head, its identifiers and its search terms. Touches `patients`,
//! `patient_identifiers` and `patient_terms`. An id in the source does not prove identity, so a chart is updated only
//! by a resource that is plainly the same person.

use super::identifiers::{
    CurrentIdentifier, add_identifiers, current_identifiers, exclusive, identifier_rows, owners, retire,
};
use super::identity::{self, Identity};
use super::{CHANGED_HERE, Store, Stored, fingerprint, identifier_hash, look_up, require_updated};
use crate::crypto::{Sealed, TenantKeys};
use crate::db::schema::tenant::{patient_terms, patients};
use crate::error::Result;
use crate::fhir::ImportedPatient;
use crate::guard::TenantTx;
use crate::ids::{PatientId, TenantId};
use crate::model::fields::{PatientBirthDate, PatientContact, PatientName, PatientSource, PersonName};
use crate::model::patient;
use crate::model::sql::{each_key, limited};
use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable};
use std::collections::{HashMap, HashSet};

#[derive(Insertable)]
#[diesel(table_name = patients)]
struct NewRow {
    tenant_id: TenantId,
    id: PatientId,
    source_key: Vec<u8>,
    #[diesel(embed)]
    content: Content,
}

/// The columns that an import writes, for new and for changed rows. `None` clears a column: the source decides about
/// its own charts until they are changed in Cordon.
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
#[diesel(table_name = patient_terms)]
struct TermsRow {
    tenant_id: TenantId,
    patient_id: PatientId,
    terms: Vec<i64>,
}

/// The row that a patient of the source has already.
#[derive(Queryable, Selectable)]
#[diesel(table_name = patients, check_for_backend(Pg))]
struct Existing {
    id: PatientId,
    source_hash: Option<Vec<u8>>,
    version: i32,
    source_version: Option<i32>,
}

/// Who an existing patient is.
#[derive(Queryable, Selectable)]
#[diesel(table_name = patients, check_for_backend(Pg))]
struct Person {
    id: PatientId,
    name_sealed: Option<Sealed<PatientName>>,
    birth_date_sealed: Option<Sealed<PatientBirthDate>>,
}

pub(super) struct Planned<'a> {
    pub(super) patient: &'a ImportedPatient,
    pub(super) id: PatientId,
    key: Vec<u8>,
    hash: Vec<u8>,
    /// The resource's index in the batch.
    index: usize,
    /// The hashes of the exclusive identifiers that it brings.
    exclusive: HashSet<Vec<u8>>,
    /// The identifiers of the existing chart; `None` for a new one.
    pub(super) before: Option<&'a [CurrentIdentifier]>,
    /// The version of the existing chart, 0 for a new one.
    version: i32,
    /// Whether the chart was changed in Cordon since the last import.
    changed_here: bool,
}

/// The resource's key is known, and the person is not the one who is stored under it.
const IDENTITY_CHANGED: &str = "identity_changed";

impl Store {
    /// Stores a batch of patients and remembers for this run the keys that turned out to mean another person.
    pub async fn patients(&mut self, batch: &[&ImportedPatient]) -> Result<Stored> {
        let key = |patient: &&ImportedPatient| patient.key.clone();
        let stored = self.in_runs(batch, key, async |tx, run| self.patients_once(tx, run).await).await?;
        let changed = stored.refused.iter().filter(|(_, reason)| *reason == IDENTITY_CHANGED);
        let keys = changed.filter_map(|(index, _)| batch.get(*index)).map(|patient| patient.key.clone());
        self.refused.extend(keys);
        Ok(stored)
    }

    async fn patients_once(&self, tx: &TenantTx, batch: &[&ImportedPatient]) -> Result<Stored> {
        let keys = tx.keys();
        let source_keys: Vec<_> = batch.iter().map(|patient| self.key(keys, &patient.key)).collect();
        let by_source = patients::table
            .filter(patients::tenant_id.eq(tx.tenant()))
            .filter(patients::source_key.eq(each_key::<Nullable<Binary>>()))
            .select(Existing::as_select());
        let existing: HashMap<_, Existing> =
            look_up(tx, source_keys.clone(), limited(by_source, 1)).await?.into_iter().collect();

        let (mut stored, mut changed, mut plans) = (Stored::default(), Vec::new(), Vec::new());
        for (index, (patient, key)) in batch.iter().zip(source_keys).enumerate() {
            let hash = fingerprint(keys, "patient", *patient)?;
            let before = existing.get(&key);
            if before.is_some_and(|before| before.source_hash.as_ref() == Some(&hash)) {
                stored.unchanged += 1;
                continue;
            }
            changed.extend(before.map(|before| before.id));
            let id = before.map_or_else(PatientId::new, |before| before.id);
            let version = before.map_or(0, |before| before.version);
            let changed_here = before.is_some_and(|before| before.source_version != Some(before.version));
            let exclusive = exclusive(keys, patient).collect();
            plans.push(Planned { patient, id, key, hash, index, exclusive, before: None, version, changed_here });
        }
        let there = current_identifiers(tx, &changed).await?;
        let identities = identities(tx, &changed).await?;
        plans.iter_mut().for_each(|plan| {
            plan.before = identities.contains_key(&plan.id).then(|| there.get(&plan.id).map_or(&[][..], Vec::as_slice))
        });
        plans.retain(|plan| {
            let Some((before, stored_identity)) = plan.before.zip(identities.get(&plan.id)) else { return true };
            let numbers: HashSet<_> =
                before.iter().filter(|number| number.exclusive).map(|number| number.value_hash.clone()).collect();
            let same = identity::same(
                stored_identity,
                &numbers,
                &Identity::new(person(plan.patient), plan.patient.birth_date.clone()),
                &plan.exclusive,
            );
            // Identity is checked first: later resources of this run may still refer to a chart that was changed here,
            // never to another person's.
            let refused = if same { plan.changed_here.then_some(CHANGED_HERE) } else { Some(IDENTITY_CHANGED) };
            stored.refused.extend(refused.map(|reason| (plan.index, reason)));
            refused.is_none()
        });
        let (plans, duplicates) = without_duplicates(plans, &owners(tx, batch).await?);
        stored.refused.extend(duplicates.into_iter().map(|index| (index, "duplicate_identifier")));
        // An identifier that one patient gives up may be taken over by another, whatever their order in the batch.
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
        require_updated(tx.execute(diesel::update(row).set((content(keys, plan)?, bump))).await?)?;

        let stay: HashSet<_> =
            plan.before.unwrap_or_default().iter().map(|number| (&number.value_hash, number.exclusive)).collect();
        let mut rows = identifier_rows(tx.tenant(), keys, plan)?;
        rows.retain(|row| !stay.contains(&(&row.value_hash, row.exclusive)));
        add_identifiers(tx, &rows).await?;
        let named = diesel::update(patient_terms::table.filter(patient_terms::patient_id.eq(plan.id)));
        tx.execute(named.set(patient_terms::terms.eq(terms(keys, plan)))).await?;
        Ok(())
    }
}

/// Who these existing patients are.
async fn identities(tx: &TenantTx, ids: &[PatientId]) -> Result<HashMap<PatientId, Identity>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let people: Vec<Person> =
        tx.load(patients::table.filter(patients::id.eq_any(ids)).select(Person::as_select())).await?;
    let open = |Person { id, name_sealed, birth_date_sealed }: Person| {
        let name = name_sealed.map(|sealed| tx.keys().open(id.0, &sealed)).transpose()?;
        let birth_date = birth_date_sealed.map(|sealed| tx.keys().open(id.0, &sealed)).transpose()?;
        Ok((id, Identity::new(name, birth_date)))
    };
    people.into_iter().map(open).collect()
}

/// Removes the patients who bring an exclusive identifier that another patient carries and keeps; returns their
/// indices.
fn without_duplicates<'a>(
    plans: Vec<Planned<'a>>,
    taken: &HashMap<Vec<u8>, PatientId>,
) -> (Vec<Planned<'a>>, Vec<usize>) {
    // A refused patient gives up nothing, which may cause others to be refused in turn.
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
    let (duplicates, plans): (Vec<_>, Vec<_>) = plans.into_iter().partition(|plan| refused.contains(&plan.id));
    (plans, duplicates.into_iter().map(|plan| plan.index).collect())
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
