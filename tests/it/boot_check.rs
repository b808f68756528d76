//! The boot check finds every wall that is down, and nothing after the repair. A wall that is common to all tenants
//! stops the server; a wall of one placement stops that placement only.

use crate::support::intruder::login;
use crate::support::marked_chart::MarkedChart;
use crate::support::site::{MODELS, Site, actor};
use cordon::app::App;
use cordon::cluster::Cluster;
use cordon::db::schema::tenant::patients;
use cordon::error::Error;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::{self, BootCheck};
use cordon::tenant::TenancyModel;
use diesel::QueryDsl;
use uuid::Uuid;

/// Common walls of the data database: SQL that takes the wall down, SQL that restores it, and a part of the finding.
const COMMON_WALLS: [(&str, &str, &str); 43] = [
    ("alter role cordon_app superuser", "alter role cordon_app nosuperuser", "is a superuser, bypasses"),
    ("alter role cordon_app bypassrls", "alter role cordon_app nobypassrls", "bypasses row security"),
    ("alter role cordon_app createrole", "alter role cordon_app nocreaterole", "can make roles"),
    ("alter role cordon_app createdb", "alter role cordon_app nocreatedb", "or databases"),
    ("alter role cordon_app replication", "alter role cordon_app noreplication", "login cordon_app is a superuser"),
    ("grant cordon_owner to cordon_app", "revoke cordon_owner from cordon_app", "is a member of cordon_owner"),
    (
        "alter table shared.staff owner to cordon_app",
        "alter table shared.staff owner to cordon_owner; revoke all on shared.staff from cordon_owner; grant all on \
         shared.staff to cordon_owner; grant select, insert, update (name, roles, updated_at, version) on \
         shared.staff to cordon_app",
        "owns shared.staff",
    ),
    (
        "alter function cordon.stamp() owner to cordon_app",
        "alter function cordon.stamp() owner to cordon_owner",
        "owns function cordon.stamp()",
    ),
    ("create schema planted authorization cordon_app", "drop schema planted", "owns schema planted"),
    (
        "alter database cordon_template owner to cordon_app",
        "alter database cordon_template owner to cordon_owner; revoke all on database cordon_template from cordon_app",
        "owns database cordon_template",
    ),
    (
        "grant create on schema shared to cordon_app",
        "revoke create on schema shared from cordon_app",
        "may create in schema shared",
    ),
    ("alter role cordon_guard login", "alter role cordon_guard nologin", "role cordon_guard can log in"),
    ("alter role cordon_owner bypassrls", "alter role cordon_owner nobypassrls", "role cordon_owner"),
    ("alter role cordon_search superuser", "alter role cordon_search nosuperuser", "role cordon_search"),
    ("alter role cordon_keeper bypassrls", "alter role cordon_keeper nobypassrls", "role cordon_keeper"),
    ("alter role cordon_operator superuser", "alter role cordon_operator nosuperuser", "role cordon_operator"),
    (
        "alter role cordon_catalog_reader bypassrls",
        "alter role cordon_catalog_reader nobypassrls",
        "role cordon_catalog_reader",
    ),
    (
        "grant connect on database cordon_data to public",
        "revoke connect on database cordon_data from public",
        "PUBLIC has CONNECT",
    ),
    (
        "grant temporary on database cordon_data to public",
        "revoke temporary on database cordon_data from public",
        "PUBLIC has TEMPORARY",
    ),
    ("grant usage on schema public to public", "revoke usage on schema public from public", "PUBLIC has USAGE"),
    ("grant create on schema public to public", "revoke create on schema public from public", "PUBLIC has CREATE"),
    ("grant usage on language plpgsql to public", "revoke usage on language plpgsql from public", "language plpgsql"),
    ("grant usage on language sql to public", "revoke usage on language sql from public", "language sql"),
    (
        "grant select on pg_stat_activity to public",
        "revoke select on pg_stat_activity from public",
        "may read pg_stat_activity",
    ),
    ("grant select on pg_stats to public", "revoke select on pg_stats from public", "may read pg_stats"),
    (
        "grant select on pg_prepared_statements to public",
        "revoke select on pg_prepared_statements from public",
        "may read pg_prepared_statements",
    ),
    (
        "grant execute on function pg_stat_get_activity(int) to public",
        "revoke execute on function pg_stat_get_activity(int) from public",
        "may call pg_stat_get_activity",
    ),
    (
        "grant execute on function lo_create(oid) to public",
        "revoke execute on function lo_create(oid) from public",
        "may call lo_create",
    ),
    (
        "grant execute on function pg_advisory_lock(bigint) to public",
        "revoke execute on function pg_advisory_lock(bigint) from public",
        "may call pg_advisory_lock",
    ),
    (
        "alter function cordon.purpose() rename to gone",
        "alter function cordon.gone() rename to purpose",
        "function cordon.purpose is missing",
    ),
    (
        "alter function cordon.current_tenant() set search_path = public",
        "alter function cordon.current_tenant() reset search_path",
        "cordon.current_tenant() differs from its migration",
    ),
    (
        "grant execute on function pg_terminate_backend(int, bigint) to public",
        "revoke execute on function pg_terminate_backend(int, bigint) from public",
        "may call pg_terminate_backend",
    ),
    (
        "grant set on parameter backtrace_functions to cordon_app",
        "revoke set on parameter backtrace_functions from cordon_app",
        "may set backtrace_functions",
    ),
    (
        "grant set on parameter backtrace_functions to public",
        "revoke set on parameter backtrace_functions from public",
        "PUBLIC may set backtrace_functions",
    ),
    (
        "revoke set on parameter backtrace_functions from cordon_guard",
        "grant set on parameter backtrace_functions to cordon_guard",
        "cordon_guard may not set backtrace_functions",
    ),
    (
        "grant usage on sequence cordon.bindings to cordon_app",
        "revoke usage on sequence cordon.bindings from cordon_app",
        "may use sequence cordon.bindings",
    ),
    (
        "alter function cordon.claims() immutable",
        "alter function cordon.claims() stable",
        "cordon.claims() differs from its migration",
    ),
    (
        "alter function cordon.bind(int, bigint, bigint, int, text, text) security invoker",
        "alter function cordon.bind(int, bigint, bigint, int, text, text) security definer",
        "cordon.bind(integer,bigint,bigint,integer,text,text) differs",
    ),
    (
        "alter function cordon.note_lock() security definer",
        "alter function cordon.note_lock() security invoker",
        "cordon.note_lock() runs with",
    ),
    (
        "alter function cordon.own_rows() reset search_path",
        "alter function cordon.own_rows() set search_path = pg_catalog, pg_temp",
        "cordon.own_rows() runs with",
    ),
    (
        "grant execute on function cordon.bind(int, bigint, bigint, int, text, text) to public",
        "revoke execute on function cordon.bind(int, bigint, bigint, int, text, text) from public",
        "may call cordon.bind",
    ),
    (
        "grant select on cordon.binding_keys to cordon_app",
        "revoke select on cordon.binding_keys from cordon_app",
        "may read or write cordon.binding_keys",
    ),
    (
        "alter event trigger cordon_structure disable",
        "alter event trigger cordon_structure enable always",
        "event trigger cordon_structure",
    ),
];

/// Walls of one schema. `{s}` is the schema, `{app}` the login.
const SCHEMA_WALLS: [(&str, &str, &str); 24] = [
    (
        "alter table {s}.patients disable row level security",
        "alter table {s}.patients enable row level security",
        "not enabled and forced",
    ),
    (
        "alter table {s}.note_versions no force row level security",
        "alter table {s}.note_versions force row level security",
        "not enabled and forced",
    ),
    (
        "alter table {s}.audit_log_rest no force row level security",
        "alter table {s}.audit_log_rest force row level security",
        "not enabled and forced",
    ),
    (
        "alter table {s}.encounters owner to cordon_operator",
        "alter table {s}.encounters owner to cordon_owner",
        "owned by cordon_operator",
    ),
    (
        "alter policy tenant on {s}.patients rename to gone",
        "alter policy gone on {s}.patients rename to tenant",
        "policy tenant is missing or altered",
    ),
    (
        "alter policy tenant on {s}.staff using (true)",
        "alter policy tenant on {s}.staff using (tenant_id = (select cordon.current_tenant()))",
        "policy tenant is missing or altered",
    ),
    (
        "alter policy tenant on {s}.staff with check (true)",
        "alter policy tenant on {s}.staff with check (tenant_id = (select cordon.writing_tenant()))",
        "policy tenant is missing or altered",
    ),
    (
        "alter policy tenant on {s}.staff to cordon_keeper",
        "alter policy tenant on {s}.staff to public",
        "policy tenant is missing or altered",
    ),
    (
        "create policy open on {s}.patients using (true)",
        "drop policy open on {s}.patients",
        "policy open, which no migration creates",
    ),
    (
        "create policy open on {s}.audit_log_rest using (true)",
        "drop policy open on {s}.audit_log_rest",
        "policy open, which no migration creates",
    ),
    (
        "alter policy reader on {s}.audit_log using (true)",
        "alter policy reader on {s}.audit_log using (tenant_id = (select cordon.current_tenant()) and ((select \
         cordon.has_role('auditor')) or (select cordon.has_role('records'))))",
        "policy reader of",
    ),
    (
        "alter policy guard on {s}.audit_log with check (true)",
        "alter policy guard on {s}.audit_log with check (tenant_id = (select cordon.current_tenant()))",
        "policy guard of",
    ),
    ("grant delete on {s}.patients to {app}", "revoke delete on {s}.patients from {app}", "may DELETE"),
    ("grant truncate on {s}.staff to public", "revoke truncate on {s}.staff from public", "may TRUNCATE"),
    ("grant trigger on {s}.staff to {app}", "revoke trigger on {s}.staff from {app}", "may TRIGGER"),
    ("grant insert on {s}.audit_log to {app}", "revoke insert on {s}.audit_log from {app}", "may write"),
    (
        "grant select on {s}.audit_log_rest to {app}",
        "revoke select on {s}.audit_log_rest from {app}",
        "reaches partition",
    ),
    (
        "alter table {s}.note_versions disable trigger b_lock",
        "alter table {s}.note_versions enable always trigger b_lock",
        "trigger b_lock of note_versions",
    ),
    (
        "alter table {s}.patients enable trigger audit_update",
        "alter table {s}.patients enable always trigger audit_update",
        "trigger audit_update of patients",
    ),
    (
        "alter table {s}.staff disable trigger own_update",
        "alter table {s}.staff enable always trigger own_update",
        "trigger own_update of staff",
    ),
    (
        "alter table {s}.staff disable trigger a_stamp",
        "alter table {s}.staff enable always trigger a_stamp",
        "trigger a_stamp of staff",
    ),
    ("create unique index planted on {s}.patients (id)", "drop index {s}.planted", "does not begin with tenant_id"),
    ("create view {s}.planted as select 1", "drop view {s}.planted", "could show rows"),
    (
        "alter function {s}.audit(text) reset search_path",
        "alter function {s}.audit(text) set search_path = pg_catalog, pg_temp",
        "audit(text) differs from its migration",
    ),
];

/// Walls that the models `schema` and `database` have in addition. `{id}` is the tenant.
const PIN_WALLS: [(&str, &str, &str); 2] = [
    (
        "alter table {s}.staff drop constraint staff_pin",
        "alter table {s}.staff add constraint staff_pin check (tenant_id = '{id}')",
        "is not pinned",
    ),
    (
        "alter table {s}.audit_log drop constraint audit_log_pin",
        "alter table {s}.audit_log add constraint audit_log_pin check (tenant_id = '{id}')",
        "is not pinned",
    ),
];

#[tokio::test]
async fn l05_every_wall_that_is_down_is_found() {
    let cluster = Cluster::start(&crate::support::options("boot")).unwrap();
    let site = Site::create(&cluster, "boot-site").await;
    let app = site.app(BootCheck::Dev);
    let data = site.superuser("cordon_data").await;
    assert_eq!(app.check_isolation(BootCheck::Dev).await.unwrap(), Vec::<String>::new());
    let shared = MarkedChart::of(&site, &app, TenancyModel::Shared).await;
    for (down, up, expected) in COMMON_WALLS {
        data.batch_execute(down).await.unwrap_or_else(|error| panic!("{down}: {error:?}"));
        let findings = app.check_isolation(BootCheck::Dev).await.unwrap();
        let served = count_patients(&site.app(BootCheck::Dev), &shared).await;
        data.batch_execute(up).await.unwrap_or_else(|error| panic!("{up}: {error:?}"));
        assert!(findings.iter().any(|wall| wall.contains(expected)), "{down}: {findings:?}");
        assert_eq!(served, Err(Error::Unavailable), "{down}");
        assert_eq!(app.check_isolation(BootCheck::Dev).await.unwrap(), Vec::<String>::new(), "after {up}");
    }
    for model in MODELS {
        let chart = MarkedChart::of(&site, &app, model).await;
        let superuser = site.superuser(&chart.placement().database).await;
        let config = login(&site, &app, &chart.tenant).await;
        let pins = if model == TenancyModel::Shared { &[][..] } else { &PIN_WALLS[..] };
        for (down, up, expected) in SCHEMA_WALLS.iter().chain(pins) {
            let [down, up] = [down, up].map(|sql| {
                sql.replace("{s}", chart.schema())
                    .replace("{app}", config.get_user().unwrap())
                    .replace("{id}", &chart.tenant.id.to_string())
            });
            superuser.batch_execute(&down).await.unwrap_or_else(|error| panic!("{down}: {error:?}"));
            let session = app.router.checkout(chart.tenant.id, chart.placement()).await.unwrap();
            let findings = isolation::check_schema(&session, &chart.placement().schema).await.unwrap();
            drop(session);
            let fresh = site.app(BootCheck::Dev);
            let served = count_patients(&fresh, &chart).await;
            superuser.batch_execute(&up).await.unwrap_or_else(|error| panic!("{up}: {error:?}"));
            assert!(findings.iter().any(|wall| wall.contains(expected)), "{down}: {findings:?}");
            assert_eq!(served, Err(Error::Unavailable), "{down}");
            let metrics = fresh.metrics.render();
            assert!(
                metrics.lines().any(|line| line.starts_with("cordon_walls_down_total") && line.ends_with(" 1")),
                "{metrics}"
            );
            // The same process serves the placement after the repair, because it checks the placement again.
            assert_eq!(count_patients(&fresh, &chart).await, Ok(1), "after {up}");
            if model == TenancyModel::Schema {
                assert_eq!(count_patients(&fresh, &shared).await, Ok(1), "a wall of one placement stops that one only");
            }
        }
    }
    assert_eq!(app.check_isolation(BootCheck::Dev).await.unwrap(), Vec::<String>::new());
}

#[test]
fn l11_old_minor_versions_are_reported() {
    for old in [140_030, 150_018, 150_019, 160_015, 170_011, 180_006, 90_624] {
        let finding = isolation::too_old(old).expect("too old");
        assert!(finding.contains(&format!("PostgreSQL {}.{} is too old", old / 10_000, old % 10_000)), "{finding}");
    }
    for new in [150_020, 150_021, 160_016, 170_012, 180_007, 190_000] {
        assert_eq!(isolation::too_old(new), None);
    }
}

async fn count_patients(app: &App, chart: &MarkedChart) -> Result<usize, Error> {
    let tenant = chart.tenant.id;
    let tx = app.guards.begin_operation(tenant, &actor(tenant, "clinician"), TxKind::Read, RequestId::new()).await?;
    let ids: Vec<Uuid> = tx.load(patients::table.select(patients::id)).await?;
    tx.commit().await?;
    Ok(ids.len())
}
