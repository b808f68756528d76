//! Audit: the words of the audit log, and the form in which rows about reads and refusals are sent to the database.
//! This module only builds rows to be written. The principal, the tenant, the purpose and the time are not part of
//! them: the database takes these from the signed binding and its own clock.

mod action;

pub use action::{AuditAction, OPERATION, RecordType};

use crate::ids::PatientId;
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// The outcome of an operation; the column `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The named records were shown.
    Success,
    /// Nothing was found. The row names the requested ids.
    NotFound,
    /// The caller was not allowed to perform it.
    Denied,
}

/// One access to records of one patient and type, or one refused attempt.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// What was done: `RecordType::read_action`, `AuditAction::as_str`, or the name of a refused operation.
    pub action: &'static str,
    /// The patient whose records they are; `None` where the patient is not known.
    pub patient: Option<PatientId>,
    /// `RecordType::name`, or `OPERATION`.
    pub resource_type: &'static str,
    /// The ids of all records that were shown or requested.
    pub resource_ids: Vec<Uuid>,
    /// The names of the fields that were shown.
    pub fields: Vec<&'static str>,
    /// The outcome.
    pub outcome: Outcome,
}

/// The client that sent a request.
#[derive(Debug, Clone, Default)]
pub struct ClientInfo {
    /// The client's IP address.
    pub ip: Option<IpAddr>,
    /// The header `User-Agent`.
    pub user_agent: Option<String>,
    /// The W3C trace id of the request.
    pub trace_id: Option<String>,
}

/// The access records of one transaction, merged into one row per action, patient, record type and outcome.
#[derive(Debug, Default)]
pub struct AccessRecords(Vec<Row>);

#[derive(Debug)]
struct Row {
    record: AccessRecord,
    ids: BTreeSet<Uuid>,
    fields: BTreeSet<&'static str>,
}

#[derive(serde::Serialize)]
struct Wire<'a> {
    action: &'a str,
    outcome: Outcome,
    resource_type: &'a str,
    patient_id: Option<PatientId>,
    resource_ids: &'a BTreeSet<Uuid>,
    fields: &'a BTreeSet<&'static str>,
    ip: Option<IpAddr>,
    user_agent: Option<&'a str>,
    trace_id: Option<&'a str>,
}

impl AccessRecords {
    /// Adds a record to the row that it belongs to.
    pub fn add(&mut self, record: AccessRecord) {
        let key = |record: &AccessRecord| (record.action, record.patient, record.resource_type, record.outcome);
        if let Some(row) = self.0.iter_mut().find(|row| key(&row.record) == key(&record)) {
            row.ids.extend(record.resource_ids);
            row.fields.extend(record.fields);
            return;
        }
        let ids = record.resource_ids.iter().copied().collect();
        let fields = record.fields.iter().copied().collect();
        self.0.push(Row { record, ids, fields });
    }

    /// Returns the number of rows to write.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the rows as the hex of a JSON array: the argument of the schema's function `audit(text)`, which is safe
    /// in any statement.
    pub fn to_hex(&self, client: &ClientInfo) -> String {
        let rows: Vec<_> = self.0.iter().map(|row| row.wire(client)).collect();
        // Strings and ids can always be serialised. If they could not, the database would refuse the empty text.
        hex(&serde_json::to_vec(&rows).unwrap_or_default())
    }
}

impl Row {
    fn wire<'a>(&'a self, client: &'a ClientInfo) -> Wire<'a> {
        Wire {
            action: self.record.action,
            outcome: self.record.outcome,
            resource_type: self.record.resource_type,
            patient_id: self.record.patient,
            resource_ids: &self.ids,
            fields: &self.fields,
            ip: client.ip,
            user_agent: client.user_agent.as_deref(),
            trace_id: client.trace_id.as_deref(),
        }
    }
}

/// Returns the bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' + half - 10 });
    let mut text = String::with_capacity(bytes.len() * 2);
    bytes.iter().for_each(|byte| text.extend([digit(byte >> 4), digit(byte & 15)]));
    text
}
