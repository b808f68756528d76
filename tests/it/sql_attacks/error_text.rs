//! Error text of PostgreSQL never leaves the process: an error names no table, constraint, value or tenant.

use crate::support::marked_chart::MarkedChart;
use crate::support::site::{Site, actor};
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;
use diesel::sql_query;
use uuid::Uuid;

#[tokio::test]
async fn l24_errors_contain_no_database_error_text() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    settings.database.statement_timeout_ms = 200;
    let app = cordon::app::App::new(settings, BootCheck::Dev).unwrap();
    let chart = MarkedChart::of(site, &app, TenancyModel::Shared).await;
    let (tenant, patient) = (chart.tenant.id, chart.patient);
    for sql in [
        "select 1/0".to_owned(),
        "select 'canary-7f3a'::int".into(),
        "select * from canary_7f3a".into(),
        "selec canary_7f3a".into(),
        "select pg_sleep(5), 'canary-7f3a'".into(),
        format!("insert into patients (tenant_id, id) values ('{tenant}', '{patient}')"),
        format!("insert into patients (tenant_id, id, sex) values ('{tenant}', '{}', 'canary-7f3a')", Uuid::now_v7()),
        format!("insert into staff (tenant_id, id, name) values ('{tenant}', '{}', 'canary-7f3a')", Uuid::now_v7()),
        format!("insert into note_types (tenant_id, code) values ('{tenant}', 'canary-7f3a')"),
        format!(
            "insert into note_versions (tenant_id, id, note_id, number, body_sealed) values ('{tenant}', '{0}', '{0}', \
             1, 'canary-7f3a')",
            Uuid::now_v7()
        ),
        format!("update note_versions set number = 7 where id = '{}'", chart.version),
        "set local transaction isolation level serializable".into(),
        "select pg_read_file('canary-7f3a')".into(),
        "delete from patients".into(),
    ] {
        let tx = app
            .guards
            .begin_operation(tenant, &actor(tenant, "clinician"), TxKind::Import, RequestId::new())
            .await
            .unwrap();
        let error = tx.execute(sql_query(&sql)).await.expect_err(&sql);
        let output = format!("{error} {error:?} {}", error.code()).to_lowercase();
        for internal in [
            "canary",
            "patients",
            "staff",
            "note_",
            "constraint",
            "pkey",
            "select",
            "permission",
            &patient.to_string(),
            &tenant.to_string(),
        ] {
            assert!(!output.contains(internal), "{sql}: {output}");
        }
        let _ = tx.rollback().await;
    }
}
