//! Stores imported practitioners as staff who never log in. Touches `staff`. Two sources may give the same number to
//! different people, so a person is recognised by a number or an id in the source together with a name. Names of staff
//! are not sealed and a relative's name is PHI, so an author gets a row only where the source says that it is staff.

use super::{Found, Store, Stored, look_up};
use crate::crypto::TenantKeys;
use crate::db::schema::tenant::staff;
use crate::error::Result;
use crate::fhir::{Author, Identifier, ImportedPractitioner, SourceRef};
use crate::guard::TenantTx;
use crate::ids::{StaffId, TenantId};
use crate::model::sql::{each_key, limited};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Nullable};
use futures_util::try_join;
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

/// A person to find or to add.
#[derive(Clone)]
struct Person {
    source_key: Option<Vec<u8>>,
    identifier_key: Option<Vec<u8>>,
    name: Option<String>,
}

/// Ids of staff rows by both of their keys.
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
    /// Stores a batch of practitioners and remembers their ids for this run.
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

    /// Finds the staff rows of authors, in the order given.
    pub(super) async fn find_authors(
        &self,
        tx: &TenantTx,
        authors: &[Option<&Author>],
    ) -> Result<Vec<Option<StaffId>>> {
        let people: Vec<_> =
            authors.iter().map(|author| author.and_then(|author| self.author(tx.keys(), author))).collect();
        let known = known(tx, &people.iter().flatten().filter_map(AuthorRow::unknown).collect::<Vec<_>>()).await?;
        let found = people.iter().map(|person| match person.as_ref()? {
            AuthorRow::Known(id) => Some(*id),
            AuthorRow::Unknown(person) => known.id(person),
        });
        Ok(found.collect())
    }

    /// Finds the staff rows of authors, in the order given, and adds those that are missing. Callers pass only authors
    /// whom the source calls staff.
    pub(super) async fn authors(&self, tx: &TenantTx, authors: &[Option<&Author>]) -> Result<Vec<Option<StaffId>>> {
        let people: Vec<_> =
            authors.iter().map(|author| author.and_then(|author| self.author(tx.keys(), author))).collect();
        let mut known = known(tx, &people.iter().flatten().filter_map(AuthorRow::unknown).collect::<Vec<_>>()).await?;
        let (mut ids, mut new) = (Vec::with_capacity(people.len()), Vec::new());
        for person in &people {
            ids.push(match person {
                None => None,
                Some(AuthorRow::Known(id)) => Some(*id),
                Some(AuthorRow::Unknown(person)) => Some(known.id(person).unwrap_or_else(|| {
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

    fn author(&self, keys: &TenantKeys, author: &Author) -> Option<AuthorRow> {
        let name = author.display.as_deref();
        let (source_key, identifier_key) = match &author.reference {
            Some(SourceRef::Key(key)) => match self.practitioners.get(key) {
                Some(id) => return Some(AuthorRow::Known(*id)),
                None => (Some(self.staff_key(keys, key, name)), None),
            },
            Some(SourceRef::Identifier(number)) => (None, Some(self.number_key(keys, number, name))),
            // A name alone identifies a person of this source, though not apart from a namesake.
            None => (Some(self.staff_key(keys, "name", Some(name?))), None),
        };
        Some(AuthorRow::Unknown(Person { source_key, identifier_key, name: author.display.clone() }))
    }

    fn staff_key(&self, keys: &TenantKeys, key: &str, name: Option<&str>) -> Vec<u8> {
        keys.blind_index("staff", &[&self.source, key, &plain(name)]).to_vec()
    }

    fn number_key(&self, keys: &TenantKeys, number: &Identifier, name: Option<&str>) -> Vec<u8> {
        keys.blind_index("staff-number", &[&number.system, &number.value, &plain(name)]).to_vec()
    }
}

enum AuthorRow {
    Known(StaffId),
    Unknown(Person),
}

impl AuthorRow {
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
    let keys = people.iter().filter_map(|person| person.source_key.clone()).collect();
    let numbers = people.iter().filter_map(|person| person.identifier_key.clone()).collect();
    let found = staff::table.filter(staff::tenant_id.eq(tx.tenant())).select(FoundStaff::as_select());
    let by_source = found.filter(staff::source_key.eq(each_key::<Nullable<Binary>>()));
    let by_number = found.filter(staff::identifier_key.eq(each_key::<Nullable<Binary>>()));
    let (by_source, by_number): (Found<FoundStaff>, Found<FoundStaff>) =
        try_join!(look_up(tx, keys, limited(by_source, 1)), look_up(tx, numbers, limited(by_number, 1)))?;
    let mut known = Known::default();
    for (_, FoundStaff { id, source_key, identifier_key }) in by_source.into_iter().chain(by_number) {
        known.add(&Person { source_key, identifier_key, name: None }, id);
    }
    Ok(known)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = staff, check_for_backend(Pg))]
struct FoundStaff {
    id: StaffId,
    source_key: Option<Vec<u8>>,
    identifier_key: Option<Vec<u8>>,
}

/// Returns a name without title, case and repeated spaces: "Dr. Ann Lee" and "Ann  LEE" are equal.
fn plain(name: Option<&str>) -> String {
    let words = name.unwrap_or_default().split_whitespace();
    let untitled = words.filter(|word| {
        !matches!(word.trim_end_matches('.').to_ascii_lowercase().as_str(), "dr" | "prof" | "mr" | "mrs" | "ms")
    });
    untitled.collect::<Vec<_>>().join(" ").to_lowercase()
}
