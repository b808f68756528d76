//! Changes of a chart by SQL as the server's role, with a write binding of the same tenant: no key or parent changes,
//! and nobody writes in another person's name.

use super::TwoTenants;
use crate::support::intruder::TicketFields;
use crate::support::marked_chart::{MarkedChart, TABLES};
use crate::support::site::{MODELS, Site};
use uuid::Uuid;

#[tokio::test]
async fn l40_keys_parents_and_other_peoples_records_do_not_change() {
    let site = Site::shared().await;
    for model in MODELS {
        let tenants = TwoTenants::create(site, model).await;
        let MarkedChart { staff, patient, identifier, encounter, note, .. } = tenants.b;
        let (own, other, draft, new) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let drafted = format!(
            "insert into patients (id) values ('{other}'); insert into clinical_notes (id, patient_id, author_id, \
             type_code, authored_at) values ('{draft}', '{patient}', '{staff}', '11506-3', now()); insert into \
             note_versions (id, note_id, number, body_sealed) values (gen_random_uuid(), '{draft}', 1, '\\x00')"
        );
        tenants.intruder.run_as(&tenants.b, "write", &drafted).await.unwrap();
        let before = tenants.b.fingerprint(&tenants.intruder.superuser).await;
        // Bound as somebody else of the same tenant.
        let ticket = TicketFields { principal: own, ..TicketFields::of(tenants.b.tenant.id, "write") };
        let signature = |note: Uuid, signer: Uuid| {
            format!(
                "insert into note_signatures (id, note_id, number, signer_id, meaning, signed_at, salt_sealed, hash, \
                 signature, verify_key) values ('{new}', '{note}', 1, '{signer}', 'AUTHOR', now(), '', \
                 decode(repeat('00', 32), 'hex'), decode(repeat('00', 64), 'hex'), decode(repeat('00', 32), 'hex'))"
            )
        };
        let version = |note: Uuid| {
            format!(
                "insert into note_versions (id, note_id, number, body_sealed) values ('{new}', '{note}', 9, '\\x00')"
            )
        };
        for sql in [
            format!("update patient_identifiers set patient_id = '{other}' where id = '{identifier}'"),
            format!("update patient_identifiers set value_hash = '\\x00' where id = '{identifier}'"),
            format!("update encounters set id = '{new}' where id = '{encounter}'"),
            format!("update encounters set patient_id = '{other}' where id = '{encounter}'"),
            format!("update encounters set created_at = now(), source_key = '\\x00' where id = '{encounter}'"),
            format!("update patients set id = '{new}' where id = '{patient}'"),
            format!("update clinical_notes set patient_id = '{other}' where id = '{draft}'"),
            format!("update clinical_notes set author_id = '{own}' where id = '{draft}'"),
            format!("update clinical_notes set author_id = '{own}' where id = '{note}'"),
            format!("update clinical_notes set entered_by = '{own}' where id = '{draft}'"),
            format!("update clinical_notes set authored_at = now() where id = '{draft}'"),
            format!("update staff set name = 'Dr. Somebody Else' where id = '{staff}'"),
            format!("update staff set subject = 'x' where id = '{staff}'"),
            format!("insert into staff (id, issuer, subject, name) values ('{new}', 'i', 's', 'Dr. Made Up')"),
            "update note_types set display = 'another type'".into(),
            "update note_types set code = 'x'".into(),
            format!("update note_signers set staff_id = '{own}'"),
            format!("insert into note_signers (note_id, staff_id) values ('{draft}', '{staff}')"),
            format!("insert into note_signers (note_id, staff_id) values ('{note}', '{staff}')"),
            signature(note, staff),
            signature(draft, staff),
            signature(draft, own),
            version(note),
            version(draft),
            format!(
                "insert into clinical_notes (id, patient_id, author_id, type_code, authored_at) values ('{new}', \
                 '{patient}', '{staff}', '11506-3', now())"
            ),
            format!(
                "insert into clinical_notes (id, patient_id, author_id, status, type_code, authored_at) values \
                 ('{new}', '{patient}', '{own}', 'SIGNED', '11506-3', now())"
            ),
        ] {
            let bind = tenants.intruder.bind(&ticket).await;
            let refused = tenants.intruder.run(tenants.b.schema(), &bind, &sql).await.unwrap_err();
            assert_eq!(refused.code, "42501", "{model} {sql}: {}", refused.message);
        }
        // Keys do not change either where the privilege is not missing: keepers and superusers meet a trigger.
        for (table, column) in [("patients", "id"), ("encounters", "patient_id"), ("patient_identifiers", "id")] {
            let sql = format!("update {}.{table} set {column} = '{new}'", tenants.b.schema());
            let refused = tenants.intruder.superuser.batch_execute(&sql).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "42501", "{model} {sql}");
        }
        assert_eq!(tenants.b.fingerprint(&tenants.intruder.superuser).await, before, "{model}");
    }
}

/// LOCK TABLE in a strong mode needs UPDATE or DELETE of the whole table.
#[tokio::test]
async fn l43_tables_cannot_be_locked() {
    let site = Site::shared().await;
    for model in MODELS {
        let tenants = TwoTenants::create(site, model).await;
        for (table, _) in TABLES {
            for mode in ["access exclusive", "exclusive", "share row exclusive", "share", "share update exclusive"] {
                tenants.assert_rejected("write", &format!("lock table {table} in {mode} mode nowait"), "42501").await;
            }
        }
    }
}
