//! Audit coverage. A table without audit triggers is named by the isolation check, and the trigger function refuses
//! writes to a table that it has no words for. Both are shown with a table that a migration added without further
//! thought.

use crate::support::intruder::{Intruder, login};
use crate::support::marked_chart::MarkedChart;
use crate::support::site::{MODELS, Site};
use cordon::isolation::{self, BootCheck};

/// A table with all that `cordon.enclose` gives one, added as a migration would add it.
fn add_table(schema: &str, options: &str) -> String {
    format!(
        "set cordon.home = '{schema}';
         create table {schema}.allergies (tenant_id uuid not null default cordon.current_tenant(), id uuid not null,
           patient_id uuid not null, changed_in xid8 not null default pg_current_xact_id(),
           primary key (tenant_id, id));
         call cordon.enclose('allergies'{options})"
    )
}

const INSERT: &str = "insert into allergies (id, patient_id) values (gen_random_uuid(), gen_random_uuid())";

#[tokio::test]
async fn tables_without_audit_are_named_and_unknown_tables_are_refused() {
    let (_cluster, site) = Site::with_own_cluster("audit-coverage").await;
    let app = site.app(BootCheck::Dev);
    for model in MODELS {
        let chart = MarkedChart::of(&site, &app, model).await;
        let superuser = site.superuser(&chart.placement().database).await;
        let intruder = Intruder::connect(&site, &login(&site, &app, &chart.tenant).await).await;
        let check = async || {
            let session = app.router.checkout(chart.tenant.id, chart.placement()).await.unwrap();
            isolation::check_schema(&session, &chart.placement().schema).await.unwrap()
        };
        let remove = format!("drop table {}.allergies", chart.schema());
        assert_eq!(check().await, Vec::<String>::new(), "{model:?}");

        superuser.batch_execute(&add_table(chart.schema(), ", audited => false")).await.unwrap();
        let mut findings = check().await;
        findings.sort();
        let expected = ["audit_delete", "audit_insert", "audit_update"]
            .map(|trigger| format!("trigger {trigger} of allergies is missing, altered or not always on"));
        assert_eq!(findings, expected, "{model:?}");
        superuser.batch_execute(&remove).await.unwrap();

        superuser.batch_execute(&add_table(chart.schema(), ", audited => true")).await.unwrap();
        assert_eq!(check().await, Vec::<String>::new(), "{model:?}: it has its triggers");
        let refusal =
            intruder.run_as(&chart, "write", INSERT).await.expect_err("a write that no audit row can describe");
        assert_eq!(refusal.message, "table allergies is unknown to audit_write()", "{model:?}");
        superuser.batch_execute(&remove).await.unwrap();

        // An enclosed table is audited unless its migration says that it is not.
        superuser.batch_execute(&add_table(chart.schema(), "")).await.unwrap();
        assert_eq!(check().await, Vec::<String>::new(), "{model:?}: it has its triggers by default");
        superuser.batch_execute(&remove).await.unwrap();
    }
}
