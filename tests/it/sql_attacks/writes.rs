//! Writes under attack: no command inserts, changes, deletes or references a row of another tenant, and no signed note
//! is rewritten.

use super::{MODELS_WITH_SHARED_DATABASE, TwoTenants};
use crate::support::marked_chart::MarkedChart;
use crate::support::site::Site;
use uuid::Uuid;

#[tokio::test]
async fn l10_every_command_is_restricted_by_a_policy() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let before = tenants.a.fingerprint(&tenants.intruder.superuser).await;
        let (a, b, home) = (tenants.a.tenant.id, tenants.b.tenant.id, tenants.a.schema());
        let merge = |when: &str| {
            format!(
                "merge into {home}.patients p using (select '{a}'::uuid t, '{}'::uuid i) x on p.tenant_id = x.t and \
                 p.id = x.i {when}",
                tenants.a.patient
            )
        };
        let insert =
            merge(&format!("when not matched then insert (tenant_id, id) values ('{a}', '{}')", Uuid::now_v7()));
        for command in [
            insert.as_str(),
            &format!("insert into {home}.patients (tenant_id, id) values ('{a}', '{}')", Uuid::now_v7()),
            &format!(
                "insert into {home}.patients (tenant_id, id) values ('{a}', '{}') on conflict do nothing",
                tenants.a.patient
            ),
            &format!("delete from {home}.patients"),
            &format!("truncate {home}.patients"),
            &format!("copy {home}.patients (tenant_id, id) from stdin"),
        ] {
            let refused = tenants.intruder.run_as(&tenants.b, "import", command).await.unwrap_err();
            assert!(["42501", "0A000"].contains(&refused.code.as_str()), "{command}: {}", refused.message);
        }
        for command in [
            merge("when matched then update set sex = 'OTHER'"),
            format!("update {home}.patients set sex = 'OTHER' where tenant_id <> '{b}'"),
            format!(
                "update {home}.patients p set sex = 'OTHER' from {home}.encounters e where e.patient_id = p.id and \
                 p.tenant_id = '{a}' returning p.*"
            ),
            format!("select * from {home}.patients where tenant_id = '{a}' for update"),
            format!("table {home}.clinical_notes"),
        ] {
            tenants.assert_no_rows_of_a("import", &command).await;
        }
        for command in [
            "update patients set sex = 'OTHER'",
            "insert into note_types (tenant_id, code, display) values (cordon.current_tenant(), 'x', 'x')",
        ] {
            tenants.assert_rejected("read", command, "42501").await;
        }
        tenants.assert_a_unchanged(&before).await;
    }
}

#[tokio::test]
async fn l11_upserts_do_not_reach_rows_of_another_tenant() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let superuser = &tenants.intruder.superuser;
        let before = tenants.a.fingerprint(superuser).await;
        let (a, b, home) = (tenants.a.tenant.id, tenants.b.tenant.id, tenants.a.schema());
        let key = superuser
            .query_one(
                &format!("select encode(source_key, 'hex') from {home}.patients where id = '{}'", tenants.a.patient),
                &[],
            )
            .await
            .unwrap()
            .get::<_, String>(0);
        // The same natural key in the own tenant is inserted.
        let insert = format!(
            "insert into patients (tenant_id, id, source_key) values ('{b}', '{}', '\\x{key}')",
            Uuid::now_v7()
        );
        let output = tenants
            .assert_no_rows_of_a(
                "import",
                &format!("{insert} on conflict (tenant_id, source_key) do update set sex = 'OTHER' returning sex"),
            )
            .await;
        assert!(output.contains("UNKNOWN"), "inserted, not updated: {output}");
        tenants
            .assert_no_rows_of_a(
                "import",
                &format!(
                    "insert into patients (tenant_id, id) values ('{b}', '{}') on conflict do nothing",
                    tenants.a.patient
                ),
            )
            .await;
        // In the other tenant the error is the same whether the key exists or not.
        for clause in [
            "",
            "on conflict do nothing",
            "on conflict (tenant_id, id) do update set sex = 'OTHER'",
            "on conflict (tenant_id, source_key) do update set sex = excluded.sex returning *",
        ] {
            let mut errors = Vec::new();
            for (id, key) in [(tenants.a.patient, key.as_str()), (Uuid::now_v7(), "00")] {
                let insert = format!(
                    "insert into {home}.patients (tenant_id, id, source_key) values ('{a}', '{id}', '\\x{key}') \
                     {clause}"
                );
                let refused = tenants.intruder.run_as(&tenants.b, "import", &insert).await.unwrap_err();
                assert_eq!(refused.code, "42501");
                errors.push(refused.message);
            }
            assert_eq!(errors[0], errors[1], "{clause}");
        }
        tenants.assert_a_unchanged(&before).await;
    }
}

#[tokio::test]
async fn l16_a_foreign_parent_is_treated_as_absent() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let (b, a, new) = (tenants.b.tenant.id, &tenants.a, Uuid::now_v7());
        let cases = [
            (
                a.patient,
                "insert into encounters (tenant_id, id, patient_id, status, ordered_at) values ('{b}', '{new}', \
                 '{id}', 'PLANNED', now())",
            ),
            (
                a.patient,
                "insert into patient_identifiers (tenant_id, id, patient_id, position, system, exclusive, \
                 value_sealed, value_hash) values ('{b}', '{new}', '{id}', 0, 's', false, '', '')",
            ),
            (a.patient, "insert into patient_terms (tenant_id, patient_id, terms) values ('{b}', '{id}', '{}')"),
            (
                a.note,
                "insert into note_versions (tenant_id, id, note_id, number, body_sealed) values ('{b}', '{new}', \
                 '{id}', 1, '')",
            ),
            (
                a.staff,
                "insert into note_versions (tenant_id, id, note_id, number, author_id, body_sealed) values ('{b}', \
                 '{new}', '{own}', 2, '{id}', '')",
            ),
        ];
        for (foreign, sql) in cases {
            let mut errors = Vec::new();
            for id in [foreign, Uuid::now_v7()] {
                let sql = sql
                    .replace("{b}", &b.to_string())
                    .replace("{new}", &new.to_string())
                    .replace("{id}", &id.to_string());
                let sql = sql.replace("{own}", &tenants.b.note.to_string());
                let refused = tenants.intruder.run_as(&tenants.b, "import", &sql).await.unwrap_err();
                assert_eq!(refused.code, "23503", "{sql}: {}", refused.message);
                errors.push(refused.full_text.replace(&id.to_string(), "ID"));
            }
            assert_eq!(errors[0], errors[1], "{sql}");
        }
    }
}

/// A version that was not signed cannot become the content of a signed note, and no signer can be added after the
/// signature.
#[tokio::test]
async fn signed_notes_cannot_be_rewritten() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let MarkedChart { note: signed, staff, patient, .. } = tenants.b;
        let waiting = Uuid::now_v7();
        let version = |note: Uuid, number: i32| {
            let id = Uuid::now_v7();
            format!(
                "insert into note_versions (id, note_id, number, body_sealed) values ('{id}', '{note}', {number}, \
                 '\\x00')"
            )
        };
        let signer = |note: Uuid| format!("insert into note_signers (note_id, staff_id) values ('{note}', '{staff}')");
        let drafted = format!(
            "insert into clinical_notes (id, patient_id, author_id, type_code, authored_at) values ('{waiting}', \
             '{patient}', '{staff}', '11506-3', now()); {}; {}",
            version(waiting, 1),
            signer(waiting)
        );
        tenants.assert_no_rows_of_a("write", &drafted).await;
        tenants
            .assert_no_rows_of_a(
                "write",
                &format!("update clinical_notes set status = 'UNCOSIGNED' where id = '{waiting}'"),
            )
            .await;
        let before = tenants.b.fingerprint(&tenants.intruder.superuser).await;
        for note in [signed, waiting] {
            let text = version(note, 99);
            for set in [
                "status = 'AMENDED', current_version = 99",
                "status = 'SIGNED', current_version = 99",
                "status = 'RETRACTED', current_version = 99",
                "current_version = 99",
                "status = 'AMENDED'",
                "status = 'RETRACTED'",
                "status = 'DISCARDED'",
                "status = 'DRAFT'",
                "status = 'SIGNED', authored_at = now()",
                "signed_at = now()",
            ] {
                tenants
                    .assert_rejected(
                        "write",
                        &format!("{text}; update clinical_notes set {set} where id = '{note}'"),
                        "42501",
                    )
                    .await;
            }
        }
        tenants.assert_rejected("write", &signer(signed), "42501").await;
        assert_eq!(before, tenants.b.fingerprint(&tenants.intruder.superuser).await);
        // The cosigner can still sign.
        tenants
            .assert_no_rows_of_a(
                "write",
                &format!("update clinical_notes set status = 'SIGNED' where id = '{waiting}'"),
            )
            .await;
        tenants
            .assert_rejected(
                "write",
                &format!("update clinical_notes set status = 'UNCOSIGNED' where id = '{waiting}'"),
                "42501",
            )
            .await;
    }
}
