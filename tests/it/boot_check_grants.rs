//! The boot check finds less visible breaches: grants to the login or on a column, function bodies, rules and settings.
//! A superuser makes each breach in a cluster of the test's own, the check finds it, and it is repaired.

use crate::support::intruder::login;
use crate::support::marked_chart::MarkedChart;
use crate::support::site::{MODELS, Site};
use cordon::isolation::{self, BootCheck};

/// Breaches of common walls: SQL that makes the breach, SQL that repairs it, and a part of the finding. `{app}` is the
/// login, `{db}` the database.
const COMMON_BREACHES: [(&str, &str, &str); 25] = [
    (
        "grant select (kid, ipad, opad) on cordon.binding_keys to {app}",
        "revoke select (kid, ipad, opad) on cordon.binding_keys from {app}",
        "read or write cordon.binding_keys",
    ),
    (
        "grant update (state) on cordon.tenants to {app}",
        "revoke update (state) on cordon.tenants from {app}",
        "read or write cordon.tenants",
    ),
    (
        "grant temporary on database {db} to {app}",
        "revoke temporary on database {db} from {app}",
        "has TEMPORARY on database",
    ),
    ("grant create on database {db} to {app}", "revoke create on database {db} from {app}", "has CREATE on database"),
    (
        "grant connect on database postgres to {app}",
        "revoke connect on database postgres from {app}",
        "may connect to database postgres",
    ),
    (
        "grant select on pg_stat_activity to {app}",
        "revoke select on pg_stat_activity from {app}",
        "may read pg_stat_activity",
    ),
    (
        "grant select (query) on pg_stat_activity to {app}",
        "revoke select (query) on pg_stat_activity from {app}",
        "may read pg_stat_activity",
    ),
    (
        "grant usage on language plpgsql to {app}",
        "revoke usage on language plpgsql from {app}",
        "may use language plpgsql",
    ),
    (
        "grant execute on procedure cordon.adopt(name) to {app}",
        "revoke execute on procedure cordon.adopt(name) from {app}",
        "may call cordon.adopt",
    ),
    (
        "grant execute on function cordon.audit_write() to {app}",
        "revoke execute on function cordon.audit_write() from {app}",
        "may call cordon.audit_write",
    ),
    (
        "grant execute on function lo_create(oid) to {app}",
        "revoke execute on function lo_create(oid) from {app}",
        "may call lo_create",
    ),
    (
        "grant execute on function pg_notify(text, text) to {app}",
        "revoke execute on function pg_notify(text, text) from {app}",
        "may call pg_notify",
    ),
    (
        "grant execute on function pg_advisory_lock(bigint) to {app}",
        "revoke execute on function pg_advisory_lock(bigint) from {app}",
        "may call pg_advisory_lock",
    ),
    (
        "grant execute on function pg_prepared_statement() to {app}",
        "revoke execute on function pg_prepared_statement() from {app}",
        "may call pg_prepared_statement",
    ),
    (
        "create or replace function cordon.current_tenant() returns uuid language sql stable parallel restricted
           return current_setting('app.current_tenant')::uuid",
        "create or replace function cordon.current_tenant() returns uuid language sql stable parallel restricted
           return substr(coalesce(nullif(current_setting('backtrace_functions'), ''), cordon.refuse_unbound()),
             1, 32)::uuid",
        "cordon.current_tenant() differs from its migration",
    ),
    (
        "create table public.kept as select prosrc from pg_proc where oid = 'cordon.stamp()'::regprocedure;
         update pg_proc set prosrc = 'begin return new; end' where oid = 'cordon.stamp()'::regprocedure",
        "update pg_proc set prosrc = (select prosrc from public.kept) where oid = 'cordon.stamp()'::regprocedure;
         drop table public.kept",
        "cordon.stamp() has another body",
    ),
    (
        "create function cordon.planted() returns int language sql set search_path = pg_catalog, pg_temp as 'select 1';
         revoke execute on function cordon.planted() from public",
        "drop function cordon.planted()",
        "cordon.planted() has another body",
    ),
    (
        "alter function cordon.claims() leakproof",
        "alter function cordon.claims() not leakproof",
        "cordon.claims() is leakproof",
    ),
    ("alter role cordon_keeper createrole", "alter role cordon_keeper nocreaterole", "role cordon_keeper can make"),
    ("alter role cordon_keeper createdb", "alter role cordon_keeper nocreatedb", "role cordon_keeper can make"),
    (
        "grant cordon_owner to cordon_keeper",
        "revoke cordon_owner from cordon_keeper",
        "role cordon_keeper is a member of cordon_owner",
    ),
    (
        "grant pg_read_all_data to cordon_guard",
        "revoke pg_read_all_data from cordon_guard",
        "role cordon_guard is a member",
    ),
    ("grant cordon_owner to cordon_search", "revoke cordon_owner from cordon_search", "role cordon_search is a member"),
    (
        "grant pg_read_all_data to cordon_owner",
        "revoke pg_read_all_data from cordon_owner",
        "role cordon_owner is a member",
    ),
    ("alter role {app} set row_security = off", "alter role {app} reset row_security", "is given setting row_security"),
];

/// Breaches of one schema. `{s}` is the schema.
const SCHEMA_BREACHES: [(&str, &str, &str); 17] = [
    (
        "grant select (terms) on {s}.patient_terms to {app}",
        "revoke select (terms) on {s}.patient_terms from {app}",
        "SELECT (terms)",
    ),
    (
        "grant update (tenant_id) on {s}.staff to public",
        "revoke update (tenant_id) on {s}.staff from public",
        "UPDATE (tenant_id)",
    ),
    (
        "grant update (action) on {s}.audit_log to {app}",
        "revoke update (action) on {s}.audit_log from {app}",
        "may write",
    ),
    (
        "grant select (action) on {s}.audit_log_rest to {app}",
        "revoke select (action) on {s}.audit_log_rest from {app}",
        "reaches partition",
    ),
    (
        "create table {s}.kept as select prosrc from pg_proc where oid = '{s}.audit(text)'::regprocedure;
         update pg_proc set prosrc = 'begin return 0; end' where oid = '{s}.audit(text)'::regprocedure",
        "update pg_proc set prosrc = (select prosrc from {s}.kept) where oid = '{s}.audit(text)'::regprocedure; drop \
         table {s}.kept",
        "audit(text) differs from its migration",
    ),
    (
        "alter function {s}.audit(text) leakproof",
        "alter function {s}.audit(text) not leakproof",
        "audit(text) differs from its migration",
    ),
    (
        "create rule planted as on delete to {s}.staff do also nothing",
        "drop rule planted on {s}.staff",
        "has rule planted",
    ),
    (
        "drop trigger c_lock on {s}.note_versions;
         create trigger c_lock before update or delete on {s}.note_versions for each row execute function \
         cordon.note_lock();
         alter table {s}.note_versions enable always trigger c_lock",
        "drop trigger c_lock on {s}.note_versions;
         create trigger c_lock before update or delete on {s}.note_versions for each row execute function \
         cordon.refuse();
         alter table {s}.note_versions enable always trigger c_lock",
        "trigger c_lock of note_versions",
    ),
    (
        "grant update on {s}.patients to {app}",
        "revoke update on {s}.patients from {app}; grant update (sex, deceased_at, name_sealed, birth_date_sealed, \
         contact_sealed, source_sealed, source_hash, source_version, updated_at, version) on {s}.patients to {app}",
        "may update all columns of",
    ),
    (
        "grant update (patient_id) on {s}.encounters to {app}",
        "revoke update (patient_id) on {s}.encounters from {app}",
        "UPDATE (patient_id)",
    ),
    (
        "drop trigger a_keys on {s}.encounters;
         create trigger a_keys before update on {s}.encounters for each row when (old.id is distinct from new.id) \
         execute function cordon.refuse(); alter table {s}.encounters enable always trigger a_keys",
        "drop trigger a_keys on {s}.encounters;
         create trigger a_keys before update on {s}.encounters for each row when (old.created_at is distinct from \
         new.created_at or old.id is distinct from new.id or old.patient_id is distinct from new.patient_id or \
         old.source_key is distinct from new.source_key or old.tenant_id is distinct from new.tenant_id) \
         execute function cordon.refuse(); alter table {s}.encounters enable always trigger a_keys",
        "trigger a_keys is missing, altered",
    ),
    (
        "drop trigger a_stamp on {s}.staff;
         create trigger a_stamp before insert or update on {s}.staff for each row when (false) execute function \
         cordon.stamp();
         alter table {s}.staff enable always trigger a_stamp",
        "drop trigger a_stamp on {s}.staff;
         create trigger a_stamp before insert or update on {s}.staff for each row execute function cordon.stamp();
         alter table {s}.staff enable always trigger a_stamp",
        "trigger a_stamp of staff",
    ),
    (
        "create unique index planted on {s}.patients (tenant_id, id, changed_in);
         alter table {s}.encounters add column planted uuid, add constraint planted foreign key (planted, tenant_id, \
         changed_in)
           references {s}.patients (tenant_id, id, changed_in) not valid",
        "alter table {s}.encounters drop column planted; drop index {s}.planted",
        "foreign key planted",
    ),
    ("create unique index planted on {s}.patients ((id::text))", "drop index {s}.planted", "unique index"),
    (
        "drop policy keeper on {s}.audit_log",
        "create policy keeper on {s}.audit_log for select to cordon_keeper using (tenant_id = (select \
         cordon.current_tenant()))",
        "policy keeper of audit_log",
    ),
    (
        "alter policy guard on {s}.audit_log to {app}",
        "alter policy guard on {s}.audit_log to cordon_guard",
        "policy guard of audit_log",
    ),
    (
        "grant select on {s}.patient_terms to {app}",
        "revoke select on {s}.patient_terms from {app}; grant select (tenant_id, patient_id) on {s}.patient_terms to \
         {app}",
        "may read the words",
    ),
];

#[tokio::test]
async fn l05_breaches_by_grants_are_found() {
    let (_cluster, site) = Site::with_own_cluster("boot-grants").await;
    let app = site.app(BootCheck::Dev);
    for model in MODELS {
        let chart = MarkedChart::of(&site, &app, model).await;
        let superuser = site.superuser(&chart.placement().database).await;
        superuser.batch_execute("set allow_system_table_mods = on").await.unwrap();
        let config = login(&site, &app, &chart.tenant).await;
        let findings = async || {
            let session = app.router.checkout(chart.tenant.id, chart.placement()).await.unwrap();
            let mut all = isolation::check_database(&session, BootCheck::Dev).await.unwrap();
            all.extend(isolation::check_schema(&session, &chart.placement().schema).await.unwrap());
            all
        };
        assert_eq!(findings().await, Vec::<String>::new(), "{model:?}");
        // In production an old minor version is a wall that is down.
        let version: i32 =
            superuser.query_one("select current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
        let session = app.router.checkout(chart.tenant.id, chart.placement()).await.unwrap();
        assert_eq!(
            isolation::check_database(&session, BootCheck::On).await.unwrap(),
            isolation::too_old(version).into_iter().collect::<Vec<_>>()
        );
        drop(session);
        for (down, up, expected) in COMMON_BREACHES.iter().chain(&SCHEMA_BREACHES) {
            let [down, up] = [down, up].map(|sql| {
                let sql = sql.replace("{s}", chart.schema()).replace("{app}", config.get_user().unwrap());
                sql.replace("{db}", &chart.placement().database)
            });
            superuser.batch_execute(&down).await.unwrap_or_else(|error| panic!("{down}: {error:?}"));
            let found = findings().await;
            superuser.batch_execute(&up).await.unwrap_or_else(|error| panic!("{up}: {error:?}"));
            assert!(found.iter().any(|wall| wall.contains(expected)), "{down}: {found:?}");
            assert_eq!(findings().await, Vec::<String>::new(), "after {up}");
        }
    }
}
