//! What the server's own database role can read, create and call: system catalogs, functions, views and keys.
//! The tests are named after the leaks of `docs/threats.md`. The lists of what is visible are literal. They may become
//! shorter, never longer.

use crate::sql_attacks::TwoTenants;
use crate::support::site::Site;
use cordon::tenant::TenancyModel;
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// L-33: what SQL can see of another tenant in the same database. This is accepted in the models `shared` and `schema`.
const VISIBLE: [&str; 8] = [
    "column names",
    "estimates of a plan",
    "names of databases",
    "names of logins",
    "names of schemas",
    "row estimates",
    "rows removed by a filter",
    "transaction ids",
];

#[tokio::test]
async fn l09_functions_are_not_immutable_and_pin_their_search_path() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let rows = superuser
        .query(
            "select p.oid::regprocedure::text, p.provolatile::text, p.prosecdef, coalesce(p.proconfig::text, ''), \
             p.proowner::regrole::text, p.proleakproof, p.prosqlbody is not null
             from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('cordon', 'shared') or \
             n.nspname ~ '^t_'",
            &[],
        )
        .await
        .unwrap();
    assert!(rows.len() > 15);
    for row in rows {
        let (name, volatility, definer, settings, owner, leakproof): (String, String, bool, String, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
        let has_standard_body: bool = row.get(6);
        assert!(["s", "v"].contains(&volatility.as_str()), "{name} is immutable");
        assert!(!leakproof, "{name} is leakproof");
        if definer {
            let plain = name.rsplit('.').next().unwrap().split('(').next().unwrap();
            let known = [
                "bind",
                "open_session",
                "audit_write",
                "audit_roles",
                "delete_expired_keys",
                "audit",
                "search_patients",
            ];
            assert!(known.contains(&plain), "{name} runs with its owner's rights and is on no list");
            assert_eq!(owner, if plain == "search_patients" { "cordon_search" } else { "cordon_guard" }, "{name}");
        }
        // This includes small SQL functions such as `app_login` and `home`. A standard body holds no names to resolve.
        assert!(has_standard_body || settings.contains("search_path=pg_catalog, pg_temp"), "{name}: {settings}");
    }
}

#[tokio::test]
async fn l12_operators_cannot_be_created_and_statistics_cannot_be_read() {
    let tenants = TwoTenants::create(Site::shared().await, TenancyModel::Shared).await;
    for view in ["pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_statistic_ext_data"] {
        tenants.assert_rejected("read", &format!("select * from {view}"), "42501").await;
    }
    for home in schemas(&tenants.intruder.superuser).await {
        for what in [
            "function {s}.f(text, text) returns boolean language internal immutable leakproof as 'texteq'",
            "operator {s}.=== (leftarg = text, rightarg = text, function = pg_catalog.texteq)",
            "table {s}.planted ()",
            "type {s}.planted as (a int)",
            "view {s}.planted as select 1",
            "cast (text as int) with inout",
        ] {
            tenants.assert_rejected("import", &format!("create {}", what.replace("{s}", &home)), "42501").await;
        }
    }
    // An error of these queries would tell that a row of another tenant was evaluated.
    for probe in [
        format!(
            "select id from patients where 1 / (case when tenant_id = '{}' then 0 else 1 end) = 1",
            tenants.a.tenant.id
        ),
        format!("select id from patients where id = '{}' or 1 / (length(sex) - length(sex)) = 1", tenants.b.patient),
        format!("select id from patients where (sex || id::text)::int > 0 and id = '{}'", tenants.a.patient),
        format!(
            "update patients set sex = (1 / (case when id = '{}' then 0 else 1 end))::text where id = '{}'",
            tenants.a.patient, tenants.a.patient
        ),
    ] {
        tenants.assert_no_rows_of_a("import", &probe).await;
    }
}

#[tokio::test]
async fn l13_no_function_was_marked_leakproof() {
    let site = Site::shared().await;
    let superuser = site.superuser("postgres").await;
    // PUBLIC must not be able to connect at any moment: for concurrent tests, such a database would be a wall that is
    // down.
    for step in [
        "create database pristine template template0 allow_connections false",
        "revoke all on database pristine from public",
        "alter database pristine allow_connections true",
    ] {
        superuser.batch_execute(step).await.unwrap();
    }
    let pristine = leakproof(&site.superuser("pristine").await).await;
    assert!(pristine.len() > 100);
    for database in ["cordon_data", "cordon_control", "cordon_template"] {
        assert_eq!(leakproof(&site.superuser(database).await).await, pristine, "{database}");
    }
}

#[tokio::test]
async fn l14_objects_cannot_be_created_in_a_search_path() {
    let tenants = TwoTenants::create(Site::shared().await, TenancyModel::Schema).await;
    for statement in [
        "create schema planted",
        "create temp table patients (id uuid)",
        "create temp view patients as select 1",
        "select * into temp patients from patients",
        "create extension dblink",
        "create extension pgcrypto",
        "create foreign data wrapper w",
        "create server s foreign data wrapper w",
        "create publication p for all tables",
        "create event trigger e on ddl_command_start execute function public.cordon_structure()",
        "alter event trigger cordon_structure disable",
        "alter table patients add column planted text",
        "alter function cordon.current_tenant() reset search_path",
        "create trigger t before insert on patients for each row execute function cordon.refuse()",
        "comment on table patients is 'planted'",
        "do $$ begin end $$",
        "do language sql 'select 1'",
        "call cordon.adopt('cordon_app')",
        "call cordon.enclose('patients')",
        "select cordon.claims() from cordon.binding_keys",
        "update cordon.tenants set state = 'active'",
        "select * from cordon.settings",
        "alter role postgres nologin",
        "alter role cordon_app bypassrls",
        "create role planted",
        "grant cordon_owner to cordon_app",
        "alter database cordon_data set search_path = planted",
        "set local session_preload_libraries = 'x'",
        "set local session_replication_role = replica",
        "set local log_statement = 'all'",
        "load 'auto_explain'",
        "copy (select 1) to program 'true'",
        "copy note_types from program 'true'",
        "copy (select 1) to '/tmp/planted'",
        "select pg_read_file('PG_VERSION')",
        "select pg_ls_dir('.')",
        "select pg_reload_conf()",
        "select lo_create(0)",
        "select lo_import('/etc/passwd')",
        "select lo_from_bytea(0, 'x')",
        "select pg_notify('cordon_catalog', '')",
        "select pg_advisory_lock(1)",
        "select pg_advisory_xact_lock(hashtextextended('x', 7))",
        "select pg_try_advisory_lock(1, 2)",
        "select pg_switch_wal()",
        "select pg_export_snapshot(), pg_read_binary_file('PG_VERSION')",
    ] {
        let refused = tenants.intruder.run_as(&tenants.b, "import", statement).await.expect_err(statement);
        assert!(
            ["42501", "55000"].contains(&refused.code.as_str()),
            "{statement}: {} {}",
            refused.code,
            refused.message
        );
    }
    for statement in ["alter system set log_statement = 'all'", "create database planted", "drop database cordon_data"]
    {
        assert_eq!(tenants.intruder.query(statement).await.expect_err(statement).code, "42501");
    }
}

#[tokio::test]
async fn l15_there_are_no_views_over_tenant_tables() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let views = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema')";
    assert_eq!(names(&superuser, views).await, BTreeSet::new());
}

#[tokio::test]
async fn l16_every_key_starts_with_the_tenant() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let keys = "select k.conrelid::regclass || '.' || k.conname from pg_constraint k join pg_namespace n on n.oid = \
        k.connamespace
        where n.nspname in ('shared') and k.contype = 'f'";
    assert_eq!(names(&superuser, keys).await.len(), 15);
    let wrong = "select k.conrelid::regclass || '.' || k.conname from pg_constraint k
        join pg_attribute mine on mine.attrelid = k.conrelid and mine.attnum = k.conkey[1]
        join pg_attribute theirs on theirs.attrelid = k.confrelid and theirs.attnum = k.confkey[1]
        where k.contype = 'f' and k.connamespace::regnamespace::text ~ '^(shared|t_)' and (mine.attname, \
        theirs.attname) <> ('tenant_id', 'tenant_id')
        union all select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indisunique and c.relnamespace::regnamespace::text ~ '^(shared|t_)' and a.attname <> 'tenant_id' and \
        c.relname !~ '^__diesel'";
    assert_eq!(names(&superuser, wrong).await, BTreeSet::new());
}

/// A foreign key without an index that begins with its columns would make PostgreSQL read the whole table when the row
/// that it names is deleted. These name rows that are never deleted.
#[tokio::test]
async fn foreign_keys_without_an_index_are_known() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let unindexed = "select k.conrelid::regclass || ': ' || string_agg(a.attname, ', ' order by u.nth)
        from pg_constraint k cross join unnest(k.conkey) with ordinality u(col, nth)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.col
        where k.contype = 'f' and k.connamespace = 'shared'::regnamespace and not exists (
          select from pg_index i where i.indrelid = k.conrelid and i.indkey[0] = k.conkey[1]
            and i.indkey[1] = any (k.conkey[2:]))
        group by k.oid, k.conrelid";
    let known = ["shared.note_signatures: tenant_id, signer_id", "shared.note_versions: tenant_id, author_id"];
    assert_eq!(names(&superuser, unindexed).await, known.map(str::to_owned).into());
}

#[tokio::test]
async fn l33_the_list_of_visible_metadata_does_not_grow() {
    let tenants = TwoTenants::create(Site::shared().await, TenancyModel::Schema).await;
    let (home, id) = (tenants.a.schema(), tenants.a.tenant.id.0.simple());
    let queries = [
        ("names of schemas", format!("select nspname from pg_namespace where nspname = '{home}'")),
        ("names of databases", "select datname from pg_database where datname = 'cordon_control'".into()),
        ("names of logins", "select rolname from pg_roles where rolname = 'cordon_keeper'".into()),
        ("column names", format!("select attname from pg_attribute where attrelid = '{home}.patients'::regclass")),
        ("row estimates", format!("select reltuples from pg_class where oid = '{home}.patients'::regclass")),
        ("sizes of tables", format!("select pg_total_relation_size('{home}.patients')")),
        (
            "activity counters",
            format!("select n_tup_ins from pg_stat_all_tables where schemaname = '{home}' and n_tup_ins > 0"),
        ),
        ("transaction ids", "select pg_current_snapshot()".into()),
        ("estimates of a plan", format!("explain select * from {home}.patients")),
        (
            "rows removed by a filter",
            format!("explain (analyze, costs off, timing off, summary off) select * from {home}.patients"),
        ),
        ("statements of others", "select query from pg_stat_activity".into()),
        ("statements of others by function", "select pg_stat_get_backend_activity(1)".into()),
        ("prepared statements", "select * from pg_prepared_statements".into()),
        ("held cursors", "select * from pg_cursors".into()),
        ("column statistics", format!("select most_common_vals from pg_stats where schemaname = '{home}'")),
        ("passwords", "select rolpassword from pg_authid".into()),
        ("binding keys", "select * from cordon.binding_keys".into()),
        ("fences", "select * from cordon.tenants".into()),
        ("login rules", "select * from pg_hba_file_rules".into()),
        ("the server's settings file", "select * from pg_file_settings".into()),
        ("memory of backends", "select * from pg_backend_memory_contexts".into()),
        ("large objects", "select * from pg_largeobject".into()),
        ("blind terms", format!("select terms from {home}.patient_terms")),
        ("rows of an audit partition", format!("select 1 from {home}.audit_log_rest")),
        ("bookkeeping of migrations", format!("select * from {home}.__diesel_schema_migrations")),
    ];
    let mut seen = BTreeSet::new();
    for (what, query) in &queries {
        match tenants.intruder.run_as(&tenants.b, "read", query).await {
            Ok(output) => {
                assert!(!tenants.a.leaks_into(&output), "{what}");
                if output.lines().count() > 1 {
                    seen.insert(*what);
                }
            }
            Err(refused) => assert_eq!(refused.code, "42501", "{what}: {}", refused.message),
        }
    }
    assert_eq!(seen, BTreeSet::from(VISIBLE), "the list of visible metadata may become shorter, never longer");
    let slug = tenants.a.tenant.slug.clone();
    let everything =
        "select string_agg(n.nspname || coalesce(obj_description(n.oid, 'pg_namespace'), ''), ' ') from pg_namespace n";
    let output = tenants.intruder.run_as(&tenants.b, "read", everything).await.unwrap();
    assert!(output.contains(&id.to_string()) && !output.contains(&format!(" {slug} ")), "names carry ids, never slugs");
}

async fn schemas(superuser: &Client) -> BTreeSet<String> {
    names(
        superuser,
        "select nspname::text from pg_namespace where nspname in ('cordon', 'shared', 'public', \
        'pg_catalog', 'information_schema', 'cordon_migrations')",
    )
    .await
}

async fn leakproof(superuser: &Client) -> BTreeSet<String> {
    names(superuser, "select oid::regprocedure::text from pg_proc where proleakproof").await
}

pub async fn names(superuser: &Client, query: &str) -> BTreeSet<String> {
    superuser.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
