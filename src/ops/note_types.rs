//! The kinds of notes every tenant begins with, put in by a keeper through the guard.
//! LOINC codes of US Core's clinical note types (value set us-core-clinical-note-type) with the two it encourages.
//! This material contains content from LOINC (loinc.org), copyright Regenstrief Institute, Inc., available at no cost under loinc.org/license.

use super::Result;
use super::operator::{Operator, ServerRow};
use crate::db::pool::{Budget, Limits, Pool};
use crate::db::schema::tenant::note_types;
use crate::guard::{Actor, TxKind, keeper};
use crate::tenant::Tenant;
use crate::tenant::catalog::Catalog;
use crate::tenant::keys::KeyRing;
use diesel::prelude::*;
use std::sync::Arc;
use std::time::Duration;

const TYPES: [(&str, &str); 12] = [
    ("11488-4", "Consultation note"),
    ("18842-5", "Discharge summary"),
    ("34117-2", "History and physical note"),
    ("28570-0", "Procedure note"),
    ("11506-3", "Progress note"),
    ("18748-4", "Diagnostic imaging study"),
    ("11502-2", "Laboratory report"),
    ("11526-1", "Pathology study"),
    ("11504-8", "Surgical operation note"),
    ("34111-5", "Emergency department note"),
    ("57133-1", "Referral note"),
    ("34746-8", "Nurse note"),
];

/// What a kind of note is called.
pub fn display(code: &str) -> Option<&'static str> {
    TYPES.iter().find(|(known, _)| *known == code).map(|(_, display)| *display)
}

/// Adds the types that are missing; those that are there stay as they are.
pub async fn add(operator: &Operator, server: &ServerRow, tenant: &Tenant) -> Result<()> {
    let Some(placement) = &tenant.placement else { return Ok(()) };
    let keys =
        KeyRing::new(Arc::clone(&operator.kms), Catalog::new(operator.control_config()), Duration::from_secs(60));
    let seconds = Duration::from_secs;
    let limits =
        Limits { backends: 1, at_once: 1, connect_timeout: seconds(10), lifetime: seconds(600), idle: seconds(60) };
    let pool = Pool::new(operator.keeper(server, &placement.database).await?, &Budget::new(limits));
    let session = pool
        .checkout(placement.schema.as_str())
        .await
        .map_err(|error| super::OpsError::Unreachable(error.to_string()))?;
    let actor = Actor::command(tenant.id, "migrate");
    let tx = keeper::open(session, &keys, tenant, &actor, TxKind::Migrate).await?;
    let rows: Vec<_> = TYPES
        .iter()
        .map(|(code, display)| {
            (note_types::tenant_id.eq(tenant.id.0), note_types::code.eq(*code), note_types::display.eq(*display))
        })
        .collect();
    tx.execute(diesel::insert_into(note_types::table).values(rows).on_conflict_do_nothing()).await?;
    Ok(tx.commit().await?)
}
