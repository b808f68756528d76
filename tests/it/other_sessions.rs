//! What the server's own database role can see of other sessions, and do to them: nothing. The tests are named after
//! the leaks of `docs/threats.md`.

use crate::catalog_visibility::names;
use crate::sql_attacks::TwoTenants;
use crate::support::intruder::{Intruder, TicketFields, login};
use crate::support::site::{MODELS, Site};
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;
use std::collections::BTreeSet;

#[tokio::test]
async fn l35_other_sessions_and_old_tickets_cannot_be_read() {
    let site = Site::shared().await;
    let tenants = TwoTenants::create(site, TenancyModel::Shared).await;
    for sql in [
        "select * from pg_stat_activity",
        "select * from pg_stat_replication",
        "select * from pg_stat_ssl",
        "select * from pg_stat_gssapi",
        "select * from pg_prepared_statements",
        "select * from pg_cursors",
        "select * from pg_stat_get_activity(null)",
        "select pg_stat_get_backend_activity(n) from pg_stat_get_backend_idset() n",
        "select pg_stat_get_backend_client_addr(n) from pg_stat_get_backend_idset() n",
        "select * from pg_prepared_statement()",
        "select * from pg_cursor()",
        "select * from pg_show_all_file_settings()",
        "select pg_current_logfile(), pg_read_file(pg_current_logfile())",
        "select pg_terminate_backend(pg_backend_pid() - 1), 1 / 0 from pg_stat_activity",
    ] {
        tenants.assert_rejected("read", sql, "42501").await;
    }
    // A ticket of another session is rejected, and nothing of a ticket remains readable after its transaction.
    let ticket = TicketFields::of(tenants.a.tenant.id, "read");
    let elsewhere = Intruder::connect(site, &login(site, &site.app(BootCheck::Dev), &tenants.a.tenant).await).await;
    let foreign_bind = elsewhere.bind(&ticket).await;
    elsewhere.run(tenants.a.schema(), &foreign_bind, "select 1 from patients").await.unwrap();
    let foreign_bind = elsewhere.bind(&ticket).await;
    assert_eq!(tenants.intruder.run(tenants.a.schema(), &foreign_bind, "select 1").await.unwrap_err().code, "42501");
    let settings = "select current_setting('backtrace_functions') || current_setting('app.current_tenant', true)";
    assert_eq!(elsewhere.query(settings).await.unwrap().trim(), "");
    // What a session shows of itself is its own statement.
    assert!(
        !tenants.intruder.query("select current_query()").await.unwrap().contains(&tenants.a.tenant.id.to_string())
    );
}

/// The volatile functions of PostgreSQL that the server's role may call, none of which reaches another session. A new
/// major version may add names here only after somebody has looked at them.
const CALLABLE: [&str; 19] = [
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "pg_is_in_recovery",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "set_config",
    "setval",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

#[tokio::test]
async fn l41_functions_do_not_reach_other_sessions() {
    let site = Site::shared().await;
    for model in MODELS {
        let tenants = TwoTenants::create(site, model).await;
        let user = tenants.intruder.session.query_one("select session_user::text", &[]).await.unwrap();
        let callable = format!(
            "select distinct p.proname::text from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace
               and p.provolatile = 'v' and has_function_privilege('{}', p.oid, 'EXECUTE')
               and not 'internal'::regtype = any (p.proargtypes)
               and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype)",
            user.get::<_, String>(0)
        );
        let mut callable = names(&tenants.intruder.superuser, &callable).await;
        callable.retain(|name| !CALLABLE.contains(&name.as_str()));
        assert_eq!(callable, BTreeSet::new(), "{model}");
        // Another session of the same login, which a tenant's SQL must not end, cancel or watch.
        let app = site.app(BootCheck::Dev);
        let login = login(site, &app, &tenants.a.tenant).await;
        let other = Intruder::connect(site, &login).await;
        for sql in [
            format!("select pg_terminate_backend({})", other.pid),
            format!("select pg_terminate_backend({}, 100)", other.pid),
            format!("select pg_cancel_backend({})", other.pid),
            format!("select pg_blocking_pids({})", other.pid),
            "select * from pg_locks".into(),
            "select * from pg_lock_status()".into(),
            "select * from pg_prepared_xacts".into(),
            "select * from pg_stat_get_backend_idset()".into(),
            "select pg_stat_get_backend_xact_start(1), pg_stat_get_backend_wait_event(1)".into(),
            "select * from pg_stat_all_tables".into(),
            "select * from pg_stat_database".into(),
            "select * from pg_replication_slots".into(),
            "select pg_export_snapshot()".into(),
            "select pg_notify('cordon_catalog', '')".into(),
            "select pg_logical_emit_message(false, 'a', 'b')".into(),
            "select query_to_xml('select 1', true, true, '')".into(),
            "select setseed(0)".into(),
        ] {
            tenants.assert_rejected("read", &sql, "42501").await;
        }
        assert_eq!(other.query("select 1").await.unwrap(), "1\n", "{model}: the other session lives");
    }
}
