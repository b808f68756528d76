//! Practitioners into staff who never log in.
//! Two sources give the same number to different doctors, so who somebody is takes a number or an id in the source *and* a name.
//! Names of staff are not sealed and a relative's is PHI, so an author gets a row only where the source says that this is staff.

use super::{Store, Stored, look_up};
use crate::crypto::TenantKeys;
use crate::db::schema::tenant::staff;
use crate::error::Result;
use crate::fhir::{Author, Identifier, ImportedPractitioner, SourceRef};
use crate::guard::TenantTx;
use crate::ids::{StaffId, TenantId};
use diesel::prelude::*;
use diesel::sql_types::{self, Binary, Nullable};
use std::collections::HashMap;

#[derive(Insertable)]
#[diesel(table_name = staff)]
struct NewRow {
    tenant_id: TenantId,
    id: StaffId,
    source_key: Option<Vec<u8>>,
    identifier_key: Option<Vec<u8>>,
    name: Option<String>,
}

/// Somebody to find or to add.
#[derive(Clone)]
struct Person {
    source_key: Option<Vec<u8>>,
    identifier_key: Option<Vec<u8>>,
    name: Option<String>,
}

/// Staff rows by both of their keys.
#[derive(Default)]
struct Known {
    by_source: HashMap<Vec<u8>, StaffId>,
    by_identifier: HashMap<Vec<u8>, StaffId>,
}

impl Known {
    fn id(&self, person: &Person) -> Option<StaffId> {
        let by_source = person.source_key.as_ref().and_then(|key| self.by_source.get(key));
        by_source.or_else(|| person.identifier_key.as_ref().and_then(|key| self.by_identifier.get(key))).copied()
    }

    fn add(&mut self, person: &Person, id: StaffId) {
        if let Some(key) = &person.source_key {
            self.by_source.entry(key.clone()).or_insert(id);
        }
        if let Some(key) = &person.identifier_key {
            self.by_identifier.entry(key.clone()).or_insert(id);
        }
    }
}

impl Store {
    /// Stores a batch of practitioners, and remembers for this run who they are.
    pub async fn practitioners(&mut self, batch: &[&ImportedPractitioner]) -> Result<Stored> {
        let (stored, ids) = self.transaction(async |tx| self.practitioners_once(tx, batch).await).await?;
        self.practitioners.extend(batch.iter().map(|practitioner| practitioner.key.clone()).zip(ids));
        Ok(stored)
    }

    async fn practitioners_once(
        &self,
        tx: &TenantTx,
        batch: &[&ImportedPractitioner],
    ) -> Result<(Stored, Vec<StaffId>)> {
        let people: Vec<_> = batch.iter().map(|practitioner| self.practitioner(tx.keys(), practitioner)).collect();
        let mut known = known(tx, &people).await?;
        let (mut stored, mut new, mut ids) = (Stored::default(), Vec::new(), Vec::with_capacity(people.len()));
        for person in &people {
            let id = match known.id(person) {
                Some(id) => {
                    stored.unchanged += 1;
                    id
                }
                None => {
                    stored.new += 1;
                    let id = StaffId::new();
                    new.push(row(tx.tenant(), id, person));
                    id
                }
            };
            known.add(person, id);
            ids.push(id);
        }
        add(tx, new).await?;
        Ok((stored, ids))
    }

    /// The staff rows of authors who are there already; in the order given.
    pub(super) async fn find_authors(
        &self,
        tx: &TenantTx,
        authors: &[Option<&Author>],
    ) -> Result<Vec<Option<StaffId>>> {
        let people: Vec<_> =
            authors.iter().map(|author| author.and_then(|author| self.author(tx.keys(), author))).collect();
        let known = known(tx, &people.iter().flatten().filter_map(Someone::unknown).collect::<Vec<_>>()).await?;
        let found = people.iter().map(|person| match person.as_ref()? {
            Someone::Known(id) => Some(*id),
            Someone::Unknown(person) => known.id(person),
        });
        Ok(found.collect())
    }

    /// The staff rows of authors, added where they are not there; in the order given. Who may be no staff has been looked for before.
    pub(super) async fn authors(&self, tx: &TenantTx, authors: &[Option<&Author>]) -> Result<Vec<Option<StaffId>>> {
        let people: Vec<_> =
            authors.iter().map(|author| author.and_then(|author| self.author(tx.keys(), author))).collect();
        let mut known = known(tx, &people.iter().flatten().filter_map(Someone::unknown).collect::<Vec<_>>()).await?;
        let (mut ids, mut new) = (Vec::with_capacity(people.len()), Vec::new());
        for person in &people {
            ids.push(match person {
                None => None,
                Some(Someone::Known(id)) => Some(*id),
                Some(Someone::Unknown(person)) => Some(known.id(person).unwrap_or_else(|| {
                    let id = StaffId::new();
                    known.add(person, id);
                    new.push(row(tx.tenant(), id, person));
                    id
                })),
            });
        }
        add(tx, new).await?;
        Ok(ids)
    }

    fn practitioner(&self, keys: &TenantKeys, practitioner: &ImportedPractitioner) -> Person {
        let name = practitioner.name.as_deref();
        Person {
            source_key: Some(self.staff_key(keys, &practitioner.key, name)),
            identifier_key: practitioner
                .identifiers
                .as_slice()
                .first()
                .map(|number| self.number_key(keys, number, name)),
            name: practitioner.name.clone(),
        }
    }

    fn author(&self, keys: &TenantKeys, author: &Author) -> Option<Someone> {
        let name = author.display.as_deref();
        let (source_key, identifier_key) = match &author.reference {
            Some(SourceRef::Key(key)) => match self.practitioners.get(key) {
                Some(id) => return Some(Someone::Known(*id)),
                None => (Some(self.staff_key(keys, key, name)), None),
            },
            Some(SourceRef::Identifier(number)) => (None, Some(self.number_key(keys, number, name))),
            // A name alone is somebody, though not somebody who could be told from a namesake.
            None => (Some(self.staff_key(keys, "name", Some(name?))), None),
        };
        Some(Someone::Unknown(Person { source_key, identifier_key, name: author.display.clone() }))
    }

    fn staff_key(&self, keys: &TenantKeys, key: &str, name: Option<&str>) -> Vec<u8> {
        keys.blind("staff", &[&self.source, key, &plain(name)]).to_vec()
    }

    fn number_key(&self, keys: &TenantKeys, number: &Identifier, name: Option<&str>) -> Vec<u8> {
        keys.blind("staff-number", &[&number.system, &number.value, &plain(name)]).to_vec()
    }
}

enum Someone {
    Known(StaffId),
    Unknown(Person),
}

impl Someone {
    fn unknown(&self) -> Option<Person> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(person) => Some(person.clone()),
        }
    }
}

fn row(tenant_id: TenantId, id: StaffId, person: &Person) -> NewRow {
    let Person { source_key, identifier_key, name } = person.clone();
    NewRow { tenant_id, id, source_key, identifier_key, name }
}

async fn add(tx: &TenantTx, new: Vec<NewRow>) -> Result<()> {
    if !new.is_empty() {
        tx.execute(diesel::insert_into(staff::table).values(new)).await?;
    }
    Ok(())
}

async fn known(tx: &TenantTx, people: &[Person]) -> Result<Known> {
    let keys: Vec<_> = people.iter().filter_map(|person| person.source_key.clone()).collect();
    let numbers: Vec<_> = people.iter().filter_map(|person| person.identifier_key.clone()).collect();
    let by_key = each!("id, source_key, identifier_key", "staff", "source_key = key limit 1");
    let by_number = each!("id, source_key, identifier_key", "staff", "identifier_key = key limit 1");
    let (some, others): (Vec<FoundStaff>, Vec<FoundStaff>) =
        futures_util::try_join!(look_up(tx, by_key, &keys), look_up(tx, by_number, &numbers))?;
    let mut known = Known::default();
    for FoundStaff { id, source_key, identifier_key } in some.into_iter().chain(others) {
        known.add(&Person { source_key, identifier_key, name: None }, id);
    }
    Ok(known)
}

#[derive(QueryableByName)]
struct FoundStaff {
    #[diesel(sql_type = sql_types::Uuid)]
    id: StaffId,
    #[diesel(sql_type = Nullable<Binary>)]
    source_key: Option<Vec<u8>>,
    #[diesel(sql_type = Nullable<Binary>)]
    identifier_key: Option<Vec<u8>>,
}

/// A name without title, case and spacing: "Dr. Ann Lee" and "Ann  LEE" are one.
fn plain(name: Option<&str>) -> String {
    let words = name.unwrap_or_default().split_whitespace();
    let untitled = words.filter(|word| {
        !matches!(word.trim_end_matches('.').to_ascii_lowercase().as_str(), "dr" | "prof" | "mr" | "mrs" | "ms")
    });
    untitled.collect::<Vec<_>>().join(" ").to_lowercase()
}
