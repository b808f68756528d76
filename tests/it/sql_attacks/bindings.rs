//! Tenant bindings under attack: without one every statement fails, and nothing that a session can set replaces one.

use super::{MODELS_WITH_SHARED_DATABASE, TwoTenants};
use crate::support::intruder::TicketFields;
use crate::support::marked_chart::TABLES;
use crate::support::site::Site;

#[tokio::test]
async fn l01_statements_without_a_binding_fail() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let canary = format!("select 1 from {}.patients", tenants.b.schema());
        for turn in 0..100 {
            let (chart, other) = if turn % 2 == 0 { (&tenants.a, &tenants.b) } else { (&tenants.b, &tenants.a) };
            let output = tenants.intruder.run_as(chart, "read", "select tenant_id from patients").await.unwrap();
            assert_eq!((chart.count_rows_in(&output), other.count_rows_in(&output)), (1, 0));
            if turn % 3 == 0 {
                tenants.intruder.run_as(chart, "read", "select 1/0").await.unwrap_err();
            }
            for unbound in
                [canary.clone(), format!("begin; {canary}"), format!("begin read only; savepoint s; {canary}")]
            {
                let refused = tenants.intruder.query(&unbound).await.unwrap_err();
                assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "tenant binding refused"));
            }
        }
    }
}

#[tokio::test]
async fn l07_settings_do_not_replace_a_binding() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        let tenants = TwoTenants::create(site, model).await;
        let (a, home) = (tenants.a.tenant.id, tenants.a.schema());
        let foreign_ticket = tenants.intruder.ticket(&TicketFields::of(a, "read"));
        let all = TABLES.map(|(table, columns)| format!("select {columns} from {home}.{table}"));
        for setting in [
            format!("select set_config('app.current_tenant', '{a}', true)"),
            format!(
                "set local app.current_tenant = '{a}'; select set_config('app.current_user', '{}', true)",
                tenants.a.staff
            ),
            format!("set app.current_tenant = '{a}'"),
            format!("set local search_path = {home}, cordon, pg_catalog"),
            "set local session_replication_role = origin".into(),
            "set local check_function_bodies = off; set local default_transaction_isolation = 'serializable'".into(),
        ] {
            for read in &all {
                let outcome = tenants.intruder.run_as(&tenants.b, "read", &format!("{setting}; {read}")).await;
                match outcome {
                    Ok(output) => assert_eq!(
                        output
                            .lines()
                            .filter(|line| line.contains('\t'))
                            .map(|line| tenants.a.count_rows_in(line))
                            .sum::<usize>(),
                        0,
                        "{setting}"
                    ),
                    Err(refused) => assert_eq!(refused.code, "42501", "{setting}: {}", refused.message),
                }
            }
        }
        for setting in [
            format!("set local app.claims = '{foreign_ticket}'"),
            format!("select set_config('app.claims', '{foreign_ticket}', false)"),
            "set local app.binding = 'planted'".into(),
            "set local app.binding = ''".into(),
            "reset app.claims".into(),
        ] {
            tenants.assert_rejected("read", &format!("{setting}; select 1 from patients"), "42501").await;
            tenants
                .assert_rejected(
                    "write",
                    &format!("{setting}; insert into note_types (tenant_id, code, display) values ('{a}', 'x', 'x')"),
                    "42501",
                )
                .await;
        }
        // Without row security the query is an error, and the role cannot be changed.
        for attempt in [
            "set local row_security = off; select 1 from patients",
            "set role cordon_owner",
            "set role cordon_guard",
            "set session authorization postgres",
        ] {
            tenants.assert_rejected("read", attempt, "42501").await;
        }
        // Settings that outlive the transaction do not bind the next one.
        let bind = tenants.intruder.bind(&TicketFields::of(tenants.b.tenant.id, "read"));
        let keep = "select set_config(n, current_setting(n), false) from unnest('{app.claims,app.binding}'::text[]) n";
        tenants.intruder.run(tenants.b.schema(), &bind, keep).await.unwrap();
        assert_eq!(
            tenants.intruder.run(tenants.b.schema(), "", "select 1 from patients").await.unwrap_err().code,
            "42501"
        );
    }
}

#[tokio::test]
async fn l36_a_session_with_residual_state_is_not_bound() {
    let site = Site::shared().await;
    for model in MODELS_WITH_SHARED_DATABASE {
        for (plant, clear) in [
            ("prepare planted as select 1", "deallocate planted"),
            ("declare planted cursor with hold for select id from patients", "close planted"),
        ] {
            let tenants = TwoTenants::create(site, model).await;
            tenants.intruder.run_as(&tenants.b, "read", plant).await.unwrap();
            let refused = tenants.intruder.run_as(&tenants.a, "read", "select id from patients").await.unwrap_err();
            assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "binding refused"), "{plant}");
            tenants.intruder.query(clear).await.unwrap();
            tenants.intruder.run_as(&tenants.a, "read", "select id from patients").await.unwrap();
        }
    }
}
