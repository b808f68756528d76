//! Tenant bindings under attack: without one every statement fails, and nothing that a session can set replaces one.

use super::{MODELS_WITH_SHARED_DATABASE, TwoTenants};
use crate::support::intruder::TicketFields;
use crate::support::marked_chart::TABLES;
use crate::support::site::{MODELS, Site};

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
        let foreign_claims = tenants.intruder.arguments(&TicketFields::of(a, "write")).await.claims;
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
            format!("set local backtrace_functions = '{foreign_claims}'"),
            format!("select set_config('backtrace_functions', '{foreign_claims}', false)"),
            format!("select set_config('backtrace_functions', '{foreign_claims}', true)"),
            "set local backtrace_functions = ''".into(),
            "reset backtrace_functions".into(),
            format!("reset all; set local search_path = {}", tenants.b.schema()),
            "savepoint s; set local backtrace_functions to default".into(),
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
        let bind = tenants.intruder.bind(&TicketFields::of(tenants.b.tenant.id, "read")).await;
        let keep = "select set_config(n, current_setting(n), false) from \
            unnest('{app.current_tenant,app.current_user}'::text[]) n";
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

/// All transactions of one message share `transaction_timestamp()`, and a rollback takes back what SQL can remember. A
/// binding ends with its transaction all the same, and its ticket is used up.
#[tokio::test]
async fn l39_a_binding_ends_with_its_transaction() {
    let site = Site::shared().await;
    for model in MODELS {
        let tenants = TwoTenants::create(site, model).await;
        let (intruder, home) = (&tenants.intruder, tenants.b.schema());
        let ticket = TicketFields::of(tenants.b.tenant.id, "write");
        let read = format!("select id from {home}.patients");
        let write = format!(
            "insert into {home}.note_types (tenant_id, code, display) \
            values ('{}', gen_random_uuid()::text, 'late')",
            tenants.b.tenant.id
        );
        let count = "select count(*) from pg_catalog.pg_class where false";
        let late = format!("select count(*) from {home}.note_types where display = 'late'");
        for end in [
            "commit",
            "rollback",
            "commit and chain",
            "rollback and chain",
            "savepoint s; commit",
            "commit; begin; set local app.current_tenant = 'x'",
            "end; start transaction",
            "reset all",
            "savepoint s; rollback to savepoint s; reset all",
        ] {
            for late in [&read, &write] {
                let bind = intruder.bind(&ticket).await;
                let refused = intruder.query(&format!("begin; {bind}; {count}; {end}; {late}")).await.unwrap_err();
                assert_eq!(
                    (refused.code.as_str(), refused.message.as_str()),
                    ("42501", "tenant binding refused"),
                    "{model} {end}"
                );
                // The same ticket in the transaction that follows, in the same message.
                let bind = intruder.bind(&ticket).await;
                let again = format!("begin; {bind}; {count}; {end}; {bind}; {late}");
                assert_eq!(intruder.query(&again).await.unwrap_err().code, "42501", "{model} {end}");
            }
        }
        // A savepoint that is rolled back takes the binding with it.
        let bind = intruder.bind(&ticket).await;
        let refused = intruder.query(&format!("begin; savepoint s; {bind}; rollback to s; {read}")).await.unwrap_err();
        assert_eq!(refused.message, "tenant binding refused");
        let written: i64 = tenants.intruder.superuser.query_one(&late, &[]).await.unwrap().get(0);
        assert_eq!(written, 0, "{model}: no late write was committed");
    }
}
