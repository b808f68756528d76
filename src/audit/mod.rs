//! What is written about a read: shape and wire form of audit rows. Written, never read, from here.
//! Who, for whom, in which tenant and when are not here: the database takes them from the signed binding and its own clock.

use crate::ids::PatientId;
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// How an operation ended, as the log spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The records named were shown.
    Success,
    /// Nothing was there; the ids asked for are named.
    NotFound,
    /// The caller's roles did not allow it.
    Denied,
}

/// One reading of one patient's records of one kind.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// `patient.read`, `note.read`, …
    pub action: &'static str,
    /// Whose record; none where the patient is not known.
    pub patient: Option<PatientId>,
    /// `patient`, `encounter`, `note`.
    pub resource_type: &'static str,
    /// Every record shown.
    pub resource_ids: Vec<Uuid>,
    /// Names of the fields shown.
    pub fields: Vec<&'static str>,
    /// How it ended.
    pub outcome: Outcome,
}

/// From where a request came.
#[derive(Debug, Clone, Default)]
pub struct ClientInfo {
    /// The caller's address.
    pub ip: Option<IpAddr>,
    /// The caller's software, as it names itself.
    pub user_agent: Option<String>,
    /// W3C trace id.
    pub trace_id: Option<String>,
}

/// Disclosures of one transaction, one row per action, patient and kind of record.
#[derive(Debug, Default)]
pub struct AccessRecords(Vec<Row>);

#[derive(Debug)]
struct Row {
    of: AccessRecord,
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
    /// Adds a disclosure to the row it belongs to.
    pub fn add(&mut self, disclosure: AccessRecord) {
        let same = |row: &&mut Row| {
            (row.of.action, row.of.patient, row.of.resource_type, row.of.outcome)
                == (disclosure.action, disclosure.patient, disclosure.resource_type, disclosure.outcome)
        };
        if let Some(row) = self.0.iter_mut().find(same) {
            row.ids.extend(disclosure.resource_ids);
            row.fields.extend(disclosure.fields);
            return;
        }
        let (ids, fields) =
            (disclosure.resource_ids.iter().copied().collect(), disclosure.fields.iter().copied().collect());
        self.0.push(Row { of: disclosure, ids, fields });
    }

    /// How many rows there are to write.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows as hex of JSON: the argument of the schema's `audit(text)`, safe to stand in any statement.
    pub fn to_hex(&self, client: &ClientInfo) -> String {
        let rows: Vec<_> = self.0.iter().map(|row| row.wire(client)).collect();
        // Strings and ids only: serialisation cannot fail, and an empty text would make the database refuse.
        hex(&serde_json::to_vec(&rows).unwrap_or_default())
    }
}

impl Row {
    fn wire<'a>(&'a self, client: &'a ClientInfo) -> Wire<'a> {
        Wire {
            action: self.of.action,
            outcome: self.of.outcome,
            resource_type: self.of.resource_type,
            patient_id: self.of.patient,
            resource_ids: &self.ids,
            fields: &self.fields,
            ip: client.ip,
            user_agent: client.user_agent.as_deref(),
            trace_id: client.trace_id.as_deref(),
        }
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' + half - 10 });
    let mut text = String::with_capacity(bytes.len() * 2);
    bytes.iter().for_each(|byte| text.extend([digit(byte >> 4), digit(byte & 15)]));
    text
}
