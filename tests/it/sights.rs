//! What can be seen, made and called at all as the server's own role, by the numbers of THREATS: the system catalogs, keys in plans,
//! other sessions, functions and views. Lists of what is open are literal: they may shrink, not grow.

use crate::attacks::Scene;
use crate::intruder::{Intruder, Ticket};
use crate::site::{Site, open};
use crate::{cluster_of_own, run_dir};
use cordon::tenant::{TenancyModel, Tenant};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::{AsyncMessage, Client};

/// L-33: what SQL in one database sees of a neighbour. Accepted in the shared and schema models.
const SEEN: [&str; 10] = [
    "activity counters",
    "column names",
    "estimates of a plan",
    "names of databases",
    "names of logins",
    "names of schemas",
    "row estimates",
    "rows removed by a filter",
    "sizes of tables",
    "transaction ids",
];

#[tokio::test]
async fn l09_functions_are_not_folded_and_not_open() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let rows = superuser
        .query(
            "select p.oid::regprocedure::text, p.provolatile::text, p.prosecdef, coalesce(p.proconfig::text, ''), p.proowner::regrole::text, p.proleakproof
             from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname in ('cordon', 'shared') or n.nspname ~ '^t_'",
            &[],
        )
        .await
        .unwrap();
    assert!(rows.len() > 15);
    for row in rows {
        let (name, volatility, definer, settings, owner, leakproof): (String, String, bool, String, String, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
        assert!(["s", "v"].contains(&volatility.as_str()), "{name} is immutable");
        assert!(!leakproof, "{name} is leakproof");
        if definer {
            let plain = name.rsplit('.').next().unwrap().split('(').next().unwrap();
            let known = [
                "bind",
                "claims",
                "current_tenant",
                "writing_tenant",
                "purpose",
                "has_role",
                "audit_write",
                "audit_roles",
                "audit",
                "search_patients",
            ];
            assert!(known.contains(&plain), "{name} runs with its owner's rights and is on no list");
            assert_eq!(owner, if plain == "search_patients" { "cordon_search" } else { "cordon_guard" }, "{name}");
        }
        // `app_login`, `home` and the like are SQL functions with a path of their own too.
        assert!(settings.contains("search_path=pg_catalog, pg_temp"), "{name}: {settings}");
    }
}

#[tokio::test]
async fn l12_no_own_operators_and_no_statistics() {
    let scene = Scene::of(Site::shared().await, TenancyModel::Shared).await;
    for view in ["pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_statistic_ext_data"] {
        scene.refused("read", &format!("select * from {view}"), "42501").await;
    }
    for home in schemas(&scene.intruder.superuser).await {
        for what in [
            "function {s}.f(text, text) returns boolean language internal immutable leakproof as 'texteq'",
            "operator {s}.=== (leftarg = text, rightarg = text, function = pg_catalog.texteq)",
            "table {s}.planted ()",
            "type {s}.planted as (a int)",
            "view {s}.planted as select 1",
            "cast (text as int) with inout",
        ] {
            scene.refused("import", &format!("create {}", what.replace("{s}", &home)), "42501").await;
        }
    }
    // Nothing to lean on: an error would tell that a foreign row was looked at.
    for probe in [
        format!(
            "select id from patients where 1 / (case when tenant_id = '{}' then 0 else 1 end) = 1",
            scene.a.tenant.id
        ),
        format!("select id from patients where id = '{}' or 1 / (length(sex) - length(sex)) = 1", scene.b.patient),
        format!("select id from patients where (sex || id::text)::int > 0 and id = '{}'", scene.a.patient),
        format!(
            "update patients set sex = (1 / (case when id = '{}' then 0 else 1 end))::text where id = '{}'",
            scene.a.patient, scene.a.patient
        ),
    ] {
        scene.blind("import", &probe).await;
    }
}

#[tokio::test]
async fn l13_nothing_was_marked_leakproof() {
    let site = Site::shared().await;
    let superuser = site.superuser("postgres").await;
    // Open to nobody else at any moment: a database that PUBLIC may enter is a wall down for the tests beside this one.
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
async fn l14_nothing_can_be_planted_in_a_path() {
    let scene = Scene::of(Site::shared().await, TenancyModel::Schema).await;
    for what in [
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
        let refused = scene.intruder.run_as(&scene.b, "import", what).await.expect_err(what);
        assert!(["42501", "55000"].contains(&refused.code.as_str()), "{what}: {} {}", refused.code, refused.message);
    }
    for alone in ["alter system set log_statement = 'all'", "create database planted", "drop database cordon_data"] {
        assert_eq!(scene.intruder.say(alone).await.expect_err(alone).code, "42501");
    }
}

#[tokio::test]
async fn l15_there_are_no_views_of_tenants() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let views = "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema')";
    assert_eq!(names(&superuser, views).await, BTreeSet::new());
}

#[tokio::test]
async fn l16_every_key_carries_the_tenant() {
    let superuser = Site::shared().await.superuser("cordon_data").await;
    let keys = "select k.conrelid::regclass || '.' || k.conname from pg_constraint k join pg_namespace n on n.oid = k.connamespace
        where n.nspname in ('shared') and k.contype = 'f'";
    assert_eq!(names(&superuser, keys).await.len(), 15);
    let wrong = "select k.conrelid::regclass || '.' || k.conname from pg_constraint k
        join pg_attribute mine on mine.attrelid = k.conrelid and mine.attnum = k.conkey[1]
        join pg_attribute theirs on theirs.attrelid = k.confrelid and theirs.attnum = k.confkey[1]
        where k.contype = 'f' and k.connamespace::regnamespace::text ~ '^(shared|t_)' and (mine.attname, theirs.attname) <> ('tenant_id', 'tenant_id')
        union all select i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indexrelid
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where i.indisunique and c.relnamespace::regnamespace::text ~ '^(shared|t_)' and a.attname <> 'tenant_id' and c.relname !~ '^__diesel'";
    assert_eq!(names(&superuser, wrong).await, BTreeSet::new());
}

#[tokio::test]
async fn l33_the_list_of_what_is_visible_does_not_grow() {
    let scene = Scene::of(Site::shared().await, TenancyModel::Schema).await;
    let (home, id) = (scene.a.schema(), scene.a.tenant.id.0.simple());
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
        match scene.intruder.run_as(&scene.b, "read", query).await {
            Ok(said) => {
                assert!(!scene.a.shows_in(&said), "{what}");
                if said.lines().count() > 1 {
                    seen.insert(*what);
                }
            }
            Err(refused) => assert_eq!(refused.code, "42501", "{what}: {}", refused.message),
        }
    }
    assert_eq!(seen, BTreeSet::from(SEEN), "the list of what is visible may shrink, not grow");
    let slug = scene.a.tenant.slug.clone();
    let everything =
        "select string_agg(n.nspname || coalesce(obj_description(n.oid, 'pg_namespace'), ''), ' ') from pg_namespace n";
    let said = scene.intruder.run_as(&scene.b, "read", everything).await.unwrap();
    assert!(said.contains(&id.to_string()) && !said.contains(&format!(" {slug} ")), "names carry ids, never slugs");
}

#[tokio::test]
async fn l34_no_plan_shows_the_binding_key() {
    let site = Site::shared().await;
    let scene = Scene::of(site, TenancyModel::Shared).await;
    let app = site.app(cordon::isolation::BootCheck::Dev);
    let (session, mut connection) =
        crate::intruder::login(site, &app, &scene.b.tenant).await.connect(tokio_postgres::NoTls).await.unwrap();
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = pin!(futures_util::stream::poll_fn(move |context| connection.poll_message(context)));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = send.send(format!("{notice:?}"));
            }
        }
    });
    let talkative = "set client_min_messages = log; set debug_print_parse = on; set debug_print_rewritten = on; set debug_print_plan = on; \
                     set debug_pretty_print = off; set plan_cache_mode = force_custom_plan";
    let intruder = Intruder::take(session, site.superuser("cordon_data").await).await;
    intruder.say(talkative).await.unwrap();
    let mut notices = async || {
        let mut said = String::new();
        while let Ok(Some(notice)) = tokio::time::timeout(Duration::from_millis(300), receive.recv()).await {
            said += &notice;
        }
        said
    };
    for purpose in ["read", "import"] {
        let calls =
            "select cordon.has_role('auditor'), cordon.purpose(), cordon.claims(); select count(*) from patients";
        intruder.run_as(&scene.b, purpose, calls).await.unwrap();
    }
    let write =
        format!("update patients set sex = 'MALE' where id = '{}'; select shared.audit('5b5d')", scene.b.patient);
    intruder.run_as(&scene.b, "import", &write).await.unwrap();
    let forged = format!("select cordon.bind('{}', 'x')", intruder.ticket(&Ticket::of(scene.b.tenant.id, "read")));
    intruder.run(scene.b.schema(), &forged, "select 1").await.unwrap_err();
    let said = notices().await;
    assert!(said.len() > 100_000 && said.contains("binding_keys"), "plans of the functions were printed");
    let log = std::fs::read_to_string(run_dir().join("shared/log")).unwrap();
    for key in intruder.key() {
        assert!(!shows(&said, key), "the key is in a notice");
        assert!(!shows(&log, key), "the key is in the log");
    }
    // A key that is a constant would have been found.
    intruder.say(&format!("select length('\\x{}'::bytea)", "deadbeefcafe0102".repeat(8))).await.unwrap();
    assert!(shows(&notices().await, &[0xde, 0xad, 0xbe, 0xef, 0xca, 0xfe, 1, 2].repeat(8)));
}

/// The key crosses to the server once, when its database is made ready: on a server that logs all it hears, plans included.
#[tokio::test]
async fn l34_no_log_shows_the_binding_key_when_it_is_given() {
    let cluster = cluster_of_own("logs-all");
    let superuser = open(&cluster.superuser_url("postgres").expose_secret().parse().unwrap()).await;
    let all = [
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
        "log_error_verbosity = 'default'",
        "debug_print_plan = on",
    ];
    for setting in all {
        superuser.batch_execute(&format!("alter role all set {setting}")).await.unwrap();
    }
    let site = Site::make(&cluster, "logs-all-site").await;
    let Tenant { placement, .. } = site.tenant(TenancyModel::Database).await;
    let log = std::fs::read_to_string(run_dir().join("logs-all/log")).unwrap();
    assert!(
        log.matches("insert into cordon.binding_keys").count() >= 2
            && log.to_lowercase().contains("detail:  parameters:"),
        "everything was logged"
    );
    for database in ["cordon_data", &placement.unwrap().database] {
        let keys =
            site.superuser(database).await.query_one("select ipad, opad from cordon.binding_keys", &[]).await.unwrap();
        for key in [0, 1].map(|column| keys.get::<_, Vec<u8>>(column)) {
            assert!(!shows(&log, &key), "{database}");
        }
    }
}

#[tokio::test]
async fn l35_other_sessions_and_old_tickets_are_out_of_reach() {
    let site = Site::shared().await;
    let scene = Scene::of(site, TenancyModel::Shared).await;
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
        scene.refused("read", sql, "42501").await;
    }
    // A ticket of another session, and one whose transaction is over: nothing of it is left where SQL could look.
    let ticket = Ticket::of(scene.a.tenant.id, "read");
    let elsewhere = Intruder::enter(
        site,
        &crate::intruder::login(site, &site.app(cordon::isolation::BootCheck::Dev), &scene.a.tenant).await,
    )
    .await;
    let theirs = elsewhere.bind(&ticket);
    elsewhere.run(scene.a.schema(), &theirs, "select 1 from patients").await.unwrap();
    assert_eq!(scene.intruder.run(scene.a.schema(), &theirs, "select 1").await.unwrap_err().code, "42501");
    let left = "select current_setting('app.claims', true) || current_setting('app.binding', true) || current_setting('app.current_tenant', true)";
    assert_eq!(elsewhere.say(left).await.unwrap().trim(), "");
    // A backend may be ended by its own role: what is in flight is lost, nothing is seen. Its statement cannot be read.
    assert!(!scene.intruder.say("select current_query()").await.unwrap().contains(&scene.a.tenant.id.to_string()));
}

/// Whether text holds eight bytes of `key` in a row, as a plan prints constants or as hexadecimal.
fn shows(text: &str, key: &[u8]) -> bool {
    key.windows(8).any(|part| {
        let signed: Vec<_> = part.iter().map(|byte| byte.cast_signed().to_string()).collect();
        text.contains(&format!(" {} ", signed.join(" "))) || text.contains(&cordon::audit::hex(part))
    }) && !key.is_empty()
}

async fn schemas(superuser: &Client) -> BTreeSet<String> {
    names(superuser, "select nspname::text from pg_namespace where nspname in ('cordon', 'shared', 'public', 'pg_catalog', 'information_schema', 'cordon_migrations')").await
}

async fn leakproof(superuser: &Client) -> BTreeSet<String> {
    names(superuser, "select oid::regprocedure::text from pg_proc where proleakproof").await
}

async fn names(superuser: &Client, query: &str) -> BTreeSet<String> {
    superuser.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
