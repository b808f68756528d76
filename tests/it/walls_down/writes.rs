//! The write attempts that are repeated with each wall down.

use super::Attack;
use crate::support::marked_chart::TABLES;
use uuid::Uuid;

impl Attack {
    /// Returns SQL that tries to change, insert, move, delete or expose rows of the victim.
    pub fn write_attempts(&self) -> Vec<String> {
        let (a, b, home) = (self.victim.tenant.id, self.neighbour.tenant.id, self.victim.schema());
        let (patient, note, version, new) =
            (self.victim.patient, self.victim.note, self.victim.version, Uuid::now_v7());
        let mut all = Vec::new();
        for (table, _) in TABLES {
            let time = if table == "audit_log" { "recorded_at" } else { "created_at" };
            all.extend([
                format!("update {table} set {time} = now() where tenant_id <> '{b}'"),
                format!("update {table} set {time} = now()"),
                format!("update {table} set tenant_id = '{b}' where tenant_id = '{a}'"),
                format!("update {table} set tenant_id = '{a}' where tenant_id = '{b}'"),
                format!("delete from {table}"),
                format!("truncate {table} cascade"),
                format!("alter table {table} disable row level security"),
                format!("alter table {table} disable trigger all"),
                format!("alter table {table} drop constraint if exists {table}_pin"),
                format!("drop policy tenant on {table}"),
                format!("grant all on {table} to public"),
                format!("create rule r as on insert to {table} do instead nothing"),
            ]);
        }
        all.extend([
            format!("insert into staff (tenant_id, id, issuer, subject) values ('{a}', '{new}', 'planted', 'planted')"),
            format!("insert into patients (tenant_id, id) values ('{a}', '{new}')"),
            format!("insert into note_types (tenant_id, code, display) values ('{a}', 'planted', 'planted')"),
            format!(
                "insert into note_types (tenant_id, code, display) values ('{a}', '11506-3', 'planted') on \
                conflict (tenant_id, code) do update set display = 'planted'"
            ),
            format!(
                "insert into encounters (tenant_id, id, patient_id, status, ordered_at) values ('{a}', '{new}', \
                '{patient}', 'PLANNED', now())"
            ),
            format!(
                "insert into note_versions (tenant_id, id, note_id, number, body_sealed) values ('{a}', '{new}', \
                '{note}', 2, '\\x00')"
            ),
            format!("insert into note_signers (tenant_id, note_id, staff_id) values ('{a}', '{note}', '{new}')"),
            format!(
                "insert into idempotency_keys (tenant_id, id, principal_id, key_hash, body_hash) values ('{a}', \
                '{new}', '{new}', '', '')"
            ),
            format!(
                "merge into patients p using (select '{a}'::uuid t) x on p.tenant_id = x.t when matched then \
                update set sex = 'OTHER'"
            ),
            format!("select * from note_versions where id = '{version}' for update"),
            format!("update patients set sex = 'OTHER' where id = '{patient}' returning *"),
            "create temp table patients (tenant_id uuid)".into(),
            "create schema planted".into(),
            format!("create function {home}.sha256(bytea) returns bytea language sql return $1"),
            format!("create function {home}.now() returns timestamptz language internal as 'now'"),
        ]);
        all
    }
}
