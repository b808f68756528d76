//! Prepared statements and generic plans that are used by several tenants on one session return the rows of the bound
//! tenant only.

use super::{MODELS_WITH_SHARED_DATABASE, TwoTenants};
use crate::support::intruder::TicketFields;
use crate::support::marked_chart::MarkedChart;
use crate::support::site::{Site, actor};
use cordon::db::schema::tenant::patients;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;
use diesel::QueryDsl;
use uuid::Uuid;

#[tokio::test]
async fn l03_prepared_statements_follow_the_search_path() {
    let site = Site::shared().await;
    let tenants = TwoTenants::create(site, TenancyModel::Schema).await;
    let session = &tenants.intruder.session;
    let head = async |chart: &MarkedChart| {
        let bind = tenants.intruder.bind(&TicketFields::of(chart.tenant.id, "read")).await;
        session
            .batch_execute(&format!("begin; set local search_path = {}, pg_temp; {bind}", chart.schema()))
            .await
            .unwrap();
    };
    head(&tenants.a).await;
    let narrow = session.prepare("select tableoid::regclass::text, id::text from patients").await.unwrap();
    let all = session.prepare("select * from patients").await.unwrap();
    session.batch_execute("commit").await.unwrap();
    let mut changed = 0;
    for turn in 0..200 {
        let chart = if turn % 2 == 0 { &tenants.a } else { &tenants.b };
        if turn == 100 {
            // From here on the tables of the two tenants have different columns.
            tenants
                .intruder
                .superuser
                .batch_execute(&format!("alter table {}.patients add column extra text", tenants.b.schema()))
                .await
                .unwrap();
        }
        head(chart).await;
        let rows = session.query(&narrow, &[]).await.unwrap();
        let found: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(found, [("patients".to_owned(), chart.patient.to_string())], "turn {turn}");
        match session.query(&all, &[]).await {
            Ok(rows) => assert_eq!(rows.len(), 1),
            Err(error) => {
                assert_eq!(error.as_db_error().unwrap().message(), "cached plan must not change result type");
                changed += 1;
            }
        }
        session.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(changed, 50, "other columns are an error, never a row of another table");

    // The same through the guard, with the statement cache of Diesel and one session for both tenants.
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    let app = cordon::app::App::new(settings, BootCheck::Dev).unwrap();
    for turn in 0..20 {
        let chart = if turn % 2 == 0 { &tenants.a } else { &tenants.b };
        let tx = app
            .guards
            .begin_operation(chart.tenant.id, &actor(chart.tenant.id, "clinician"), TxKind::Read, RequestId::new())
            .await
            .unwrap();
        let ids: Vec<Uuid> = tx.load(patients::table.select(patients::id)).await.unwrap();
        assert_eq!(ids, [chart.patient]);
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn l08_generic_plans_follow_the_binding() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let forms = [
            "select id from patients",
            "with x as (select * from patients) select id from x",
            "with x as materialized (select * from patients) select id from x",
            "select p.id from patients p where exists (select from encounters e where e.patient_id = p.id)",
            "select (select max(id::text) from patients)",
            "select id from (select * from patients offset 0) s",
            "select p.id from patients p where p.tenant_id = cordon.current_tenant()",
            "select p.id from generate_series(1, (select count(*)::int from patients)) g, lateral (select id from \
             patients limit 1) p",
            "select id from patients where tenant_id = (select cordon.current_tenant()) union all select patient_id \
             from encounters",
        ];
        let session = &tenants.intruder.session;
        let head = async |chart: &MarkedChart| {
            let bind = tenants.intruder.bind(&TicketFields::of(chart.tenant.id, "read")).await;
            session
                .batch_execute(&format!("begin; set local search_path = {}, pg_temp; {bind}", chart.schema()))
                .await
                .unwrap();
        };
        for mode in ["force_generic_plan", "auto"] {
            tenants.intruder.query(&format!("set plan_cache_mode = {mode}")).await.unwrap();
            for form in forms {
                head(&tenants.a).await;
                let wrapped = format!("select string_agg(x::text, ' ') from ({form}) x");
                let statement = session.prepare(&wrapped).await.unwrap();
                let first: String = session.query_one(&statement, &[]).await.unwrap().get(0);
                session.batch_execute("commit").await.unwrap();
                assert!(first.contains(&tenants.a.patient.to_string()), "{form}");
                for _ in 0..10 {
                    head(&tenants.b).await;
                    let output: String = session.query_one(&statement, &[]).await.unwrap().get(0);
                    session.batch_execute("commit").await.unwrap();
                    assert!(
                        output.contains(&tenants.b.patient.to_string())
                            && !output.contains(&tenants.a.patient.to_string()),
                        "{form}"
                    );
                }
                // With the search path, because concurrent tests change tables, and PostgreSQL then parses the
                // statement again.
                session
                    .batch_execute(&format!("begin; set local search_path = {}, pg_temp", tenants.a.schema()))
                    .await
                    .unwrap();
                let refused = session.query(&statement, &[]).await.unwrap_err();
                session.batch_execute("rollback").await.unwrap();
                assert_eq!(refused.code().unwrap().code(), "42501", "{form}");
            }
        }
    }
}
