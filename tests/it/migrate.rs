//! Migrations: every set goes up, down and up again, and the structure of the databases is the same afterwards.

use crate::support::site::Site;
use crate::support::{cluster_of_own, site};
use cordon::db::migrate::{Direction, MigrationSet};
use cordon::ops::OpsError;
use cordon::ops::migrate::{self, MigrationTarget};
use cordon::tenant::TenancyModel;
use std::sync::Arc;
use std::time::Duration;

/// Returns the columns, constraints, indexes, policies, triggers, functions and grants of a database, one line each.
async fn structure(site: &Site, database: &str) -> Vec<String> {
    let rows = site
        .superuser(database)
        .await
        .query(
            "with s as (select oid, nspname from pg_namespace where nspname !~ '^(pg_|information_schema)'),
             c as (select c.*, s.nspname from pg_class c join s on s.oid = c.relnamespace where c.relname <> \
             '__diesel_schema_migrations')
             select x from (
               select format('%s.%s.%s %s %s', c.nspname, c.relname, a.attname, a.atttypid::regtype, a.attnotnull) x
                 from c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 where c.relkind in ('r', 'p')
               union all select format('%s.%s %s %s %s %s', nspname, relname, relowner::regrole, relrowsecurity, \
               relforcerowsecurity,
                   array(select unnest(relacl)::text order by 1)) from c where relkind in ('r', 'p')
               union all select format('%s %s', c.nspname, pg_get_indexdef(c.oid)) from c where relkind in ('i', 'I')
               union all select format('%s.%s %s', c.nspname, c.relname, pg_get_constraintdef(k.oid)) from c join \
               pg_constraint k on k.conrelid = c.oid
               union all select format('%s.%s %s %s', c.nspname, c.relname, p.polname, pg_get_expr(p.polqual, \
               p.polrelid)) from c join pg_policy p on p.polrelid = c.oid
               union all select format('%s.%s %s %s', c.nspname, c.relname, t.tgname, t.tgenabled) from c join \
               pg_trigger t on t.tgrelid = c.oid where not t.tgisinternal
               union all select format('%s %s %s %s', p.oid::regprocedure, p.proowner::regrole, p.prosecdef, \
               array(select unnest(p.proacl)::text order by 1))
                 from pg_proc p join s on s.oid = p.pronamespace
             ) everything order by x",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn targets(site: &Site, set: MigrationSet) -> Vec<MigrationTarget> {
    migrate::targets(&site.operator).await.unwrap().into_iter().filter(|target| target.set == set).collect()
}

async fn all_down(site: &Site, set: MigrationSet) {
    for target in targets(site, set).await {
        while !migrate::run(&site.operator, &target, Direction::Down).await.unwrap().is_empty() {}
    }
}

#[tokio::test]
async fn every_set_goes_up_down_and_up_again() {
    let cluster = cluster_of_own("migrations");
    let site = Site::create(&cluster, "migrations-site").await;
    let mut databases = vec!["cordon_control".to_owned(), "cordon_data".to_owned()];
    for model in site::MODELS {
        let tenant = site.tenant(model).await;
        databases.extend((model == TenancyModel::Database).then(|| tenant.placement.unwrap().database));
    }
    let before = structures(&site, &databases).await;

    // The functions cannot be dropped while policies depend on them.
    let [_, data] =
        <[_; 2]>::try_from(targets(&site, MigrationSet::Database).await.into_iter().take(2).collect::<Vec<_>>())
            .ok()
            .unwrap();
    assert!(matches!(migrate::run(&site.operator, &data, Direction::Down).await, Err(OpsError::Failed(_))));

    all_down(&site, MigrationSet::Tenant).await;
    let bare = structures(&site, &databases).await;
    assert!(bare.iter().flatten().all(|line| !line.contains("clinical_notes")), "{bare:?}");
    for target in targets(&site, MigrationSet::Tenant).await {
        let status = migrate::status(&site.operator, &target).await.unwrap();
        assert!(status.applied.is_empty() && !status.pending.is_empty());
        migrate::run(&site.operator, &target, Direction::Up).await.unwrap();
    }
    assert_eq!(structures(&site, &databases).await, before);

    // Every run is recorded with its direction and outcome.
    let control = site.superuser("cordon_control").await;
    let runs =
        "select count(*), count(*) filter (where direction = 'down' and outcome = 'done'), count(*) filter (where \
         outcome = 'failed'),
                count(*) filter (where duration_ms is null) from cordon_catalog.migration_runs";
    let row = control.query_one(runs, &[]).await.unwrap();
    let (all, down, failed, untimed): (i64, i64, i64, i64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    assert!(all > down && down >= 6 && failed == 1 && untimed == 0, "{all} {down} {failed} {untimed}");

    // The catalog's set is last, because it drops the list of servers.
    let catalog = targets(&site, MigrationSet::Catalog).await;
    for direction in [Direction::Down, Direction::Up] {
        assert_eq!(migrate::run(&site.operator, catalog.first().unwrap(), direction).await.unwrap().len(), 1);
    }
    assert_eq!(structure(&site, "cordon_control").await, before[0]);
}

async fn structures(site: &Site, databases: &[String]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for database in databases {
        all.push(structure(site, database).await);
    }
    all
}

#[tokio::test]
async fn concurrent_migrations_run_once() {
    let cluster = cluster_of_own("migrations-twice");
    let site = Site::create(&cluster, "migrations-twice-site").await;
    let shared = targets(&site, MigrationSet::Tenant).await.into_iter().next().unwrap();
    for _ in 0..2 {
        migrate::run(&site.operator, &shared, Direction::Down).await.unwrap();
    }
    let runs = [0, 1, 2].map(|_| migrate::run(&site.operator, &shared, Direction::Up));
    let ran: usize = futures_util::future::try_join_all(runs).await.unwrap().iter().map(Vec::len).sum();
    assert_eq!(ran, 2);
}

/// A process that dies between the commit of a migration and its record leaves a row in state `running`. The next
/// process completes the row with the actual outcome.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outcome_of_a_killed_run_is_recorded_by_the_next() {
    let cluster = cluster_of_own("migrations-died");
    let site = Arc::new(Site::create(&cluster, "migrations-died-site").await);
    let shared = targets(&site, MigrationSet::Tenant).await.into_iter().next().unwrap();
    let control = site.superuser("cordon_control").await;
    let newest = async || {
        let newest = "select direction, outcome, error from cordon_catalog.migration_runs where schema_name = 'shared' \
            order by started_at desc limit 1";
        let row = control.query_one(newest, &[]).await.unwrap();
        [0, 1, 2].map(|column| row.get::<_, Option<String>>(column).unwrap_or_default())
    };
    let applied = migrate::status(&site.operator, &shared).await.unwrap().applied.len();

    // A lock blocks the migration while its caller is aborted. The first migration then completes; the backend of the
    // second is terminated.
    for (terminated, outcome, error) in [(false, "done", ""), (true, "failed", "interrupted")] {
        let mut blocker = site.superuser("cordon_data").await;
        let blocking = blocker.transaction().await.unwrap();
        // Whichever tables the newest migration changes are among these.
        let all = "select string_agg(format('shared.%I', tablename), ', ') from pg_tables where schemaname = 'shared'";
        let tables: String = blocking.query_one(all, &[]).await.unwrap().get(0);
        blocking.batch_execute(&format!("lock table {tables} in access share mode")).await.unwrap();
        let (own_site, target) = (Arc::clone(&site), shared.clone());
        let aborted =
            tokio::spawn(async move { migrate::run(&own_site.operator, &target, Direction::Down).await.map(drop) });
        let waiting = "select pid from pg_stat_activity where usename = 'cordon_operator' and wait_event_type = 'Lock'";
        let superuser = site.superuser("postgres").await;
        let pid: i32 = loop {
            if let Some(row) = superuser.query_opt(waiting, &[]).await.unwrap() {
                break row.get(0);
            }
            assert!(!aborted.is_finished(), "the migration waits for the lock");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        aborted.abort();
        assert_eq!(newest().await, ["down", "running", ""]);
        if terminated {
            superuser.execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
        }
        blocking.rollback().await.unwrap();
        let left = migrate::status(&site.operator, &shared).await.unwrap().applied.len();
        assert_eq!(
            (left, newest().await),
            (applied - 1, ["down", outcome, error].map(str::to_owned)),
            "terminated: {terminated}"
        );
    }
    migrate::run(&site.operator, &shared, Direction::Up).await.unwrap();
    assert_eq!(newest().await, ["up", "done", ""]);
}
