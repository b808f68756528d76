//! L-1, L-3, L-26: pooled sessions are shared between tenants, and their state is not. Also the budget of backends over
//! all pools, and the statement cache.

use crate::support::site::{
    Site, admitted_guard, backend_pid, execute_sql, insert_patient, patient_names, patient_names_in,
};
use cordon::app::App;
use cordon::config::Database;
use cordon::db::pool::closed_unclean;
use cordon::error::Error;
use cordon::ids::TenantId;
use cordon::isolation::BootCheck;
use cordon::ops::provision;
use cordon::tenant::{TenancyModel, Tenant, own_database_name};
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use uuid::Uuid;

const BACKENDS: &str =
    "select count(*) from pg_stat_activity where usename = 'cordon_app' or usename like 'cordon\\_t\\_%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l01_tenants_on_one_session_see_their_own_patients() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 1);
    let tenants = tenants(
        site,
        &app,
        &[TenancyModel::Shared, TenancyModel::Schema, TenancyModel::Shared, TenancyModel::Database],
    )
    .await;
    let suspended = site.tenant(TenancyModel::Shared).await;
    assert_eq!(patient_names(&app, suspended.id).await.unwrap(), Vec::<String>::new());
    provision::suspend(&site.operator, &suspended.slug).await.unwrap();

    let (mut random, mut outcomes, before) = (Random(20_261_122), [0_u32; 6], closed_unclean());
    for turn in 0..10_000 {
        // The database tenant needs the only backend for its own pool, so it is used seldom.
        let tenant = if turn % 100 == 99 { &tenants[3] } else { &tenants[turn % 2 * (1 + random.below(2))] };
        let fault = random.below(200);
        match fault {
            0 => run_failing_statement(&app, tenant, "select nonsense from patients", Error::Internal).await,
            1 => {
                let taken = insert_patient(&app, tenant.id, tenant.patient, "an impostor").await;
                assert!(matches!(taken, Err(Error::Conflict { .. })), "{taken:?}");
            }
            2 => run_panicking_request(&app, tenant).await,
            3 => {
                // Cancelled while the response is on its way.
                let guard = admitted_guard(&app, tenant.id).await.unwrap();
                let _ = patient_names_in(&guard.read().await.unwrap()).now_or_never();
            }
            // The start of this transaction is rejected. No query behind it in the pipeline may return a row or hide
            // the error.
            4 => assert_eq!(patient_names(&app, suspended.id).await, Err(Error::TenantSuspended)),
            _ => {}
        }
        outcomes[fault.min(5)] += 1;
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.name), "turn {turn}");
    }
    println!(
        "10,000 requests on one backend; wrong statements, conflicts, panics, cancelled, rejected, without fault: \
         {outcomes:?}"
    );
    assert!(outcomes.iter().all(|count| *count > 20));
    assert!(closed_unclean() - before >= u64::from(outcomes[0] + outcomes[2] + outcomes[3]));

    let mut times = measure_reads(&app, &tenants[0]).await;
    times.sort();
    println!("a guarded and audited read: median {:?}, 99th percentile {:?}", times[500], times[990]);
    assert_unbound_queries_fail(site, &tenants).await;
}

/// With the server's login but without a binding, a query is an error and not an empty result.
async fn assert_unbound_queries_fail(site: &Site, tenants: &[TestTenant]) {
    let bare = site.superuser("cordon_data").await;
    bare.batch_execute("set session authorization cordon_app").await.unwrap();
    for schema in ["shared".to_owned(), format!("t_{}", tenants[1].id.0.simple())] {
        let text = format!("select id from {schema}.patients");
        let refused = bare.query(&text, &[]).await.unwrap_err();
        assert_eq!(refused.as_db_error().unwrap().message(), "tenant binding refused");
        bare.batch_execute(&format!("set app.current_tenant = '{}'", tenants[0].id)).await.unwrap();
        assert!(bare.query(&text, &[]).await.is_err(), "an unsigned setting does not replace a binding");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_clean_sessions_are_reused() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 1);
    let tenant = &tenants(site, &app, &[TenancyModel::Schema]).await[0];
    let first = current_backend(&app, tenant).await;
    assert_eq!(current_backend(&app, tenant).await, first);
    assert!(insert_patient(&app, tenant.id, tenant.patient, "an impostor").await.is_err());
    assert_eq!(current_backend(&app, tenant).await, first, "a conflict that was rolled back leaves a clean session");

    run_failing_statement(&app, tenant, "select nonsense", Error::Internal).await;
    let second = current_backend(&app, tenant).await;
    assert_ne!(second, first, "a wrong statement closes the session");
    run_panicking_request(&app, tenant).await;
    let third = current_backend(&app, tenant).await;
    assert_ne!(third, second, "a panic closes the session");

    let guard = admitted_guard(&app, tenant.id).await.unwrap();
    let tx = guard.read().await.unwrap();
    assert_eq!(patient_names_in(&tx).await.unwrap(), from_ref(&tenant.name));
    guard.finish().await.unwrap();
    assert_eq!(patient_names_in(&tx).await, Err(Error::Internal), "a transaction sends nothing after its end");
    drop((tx, guard));
    assert_eq!(current_backend(&app, tenant).await, third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l03_the_statement_cache_follows_the_schema() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 1);
    let tenants = tenants(site, &app, &[TenancyModel::Schema, TenancyModel::Schema]).await;
    let first = current_backend(&app, &tenants[0]).await;
    for turn in 0..1000 {
        let tenant = &tenants[turn % 2];
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.name));
    }
    assert_eq!(current_backend(&app, &tenants[1]).await, first, "all requests used one session");

    // One schema has another column type in the same table, as during a migration.
    let inside = site.superuser("cordon_data").await;
    let other =
        format!("alter table t_{}.patients alter name_sealed type text using 'other'", tenants[1].id.0.simple());
    inside.batch_execute(&other).await.unwrap();
    assert_eq!(patient_names(&app, tenants[0].id).await.unwrap(), from_ref(&tenants[0].name));
    let before = current_backend(&app, &tenants[0]).await;
    assert_eq!(patient_names(&app, tenants[1].id).await, Err(Error::PlacementChanged), "this error is retried");
    assert_ne!(current_backend(&app, &tenants[0]).await, before, "the session is closed");
    assert_eq!(patient_names(&app, tenants[0].id).await.unwrap(), from_ref(&tenants[0].name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l26_interleaved_requests_keep_their_tenants() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 3);
    let tenants = tenants(site, &app, &[TenancyModel::Shared, TenancyModel::Schema]).await;
    let workers = (0..8).map(|worker| {
        let (app, tenants) = (Arc::clone(&app), tenants.clone());
        tokio::spawn(async move {
            for turn in 0..100 {
                let (tenant, other) = (&tenants[(worker + turn) % 2], &tenants[(worker + turn + 1) % 2]);
                // Two guards at the same time in one task, each with its own session and tenant.
                let guard = admitted_guard(&app, tenant.id).await.unwrap();
                if worker == 0 {
                    assert_eq!(patient_names(&app, other.id).await.unwrap(), from_ref(&other.name));
                }
                assert_eq!(patient_names_in(&guard.read().await.unwrap()).await.unwrap(), from_ref(&tenant.name));
                tokio::task::yield_now().await;
                assert_eq!(patient_names_in(&guard.read().await.unwrap()).await.unwrap(), from_ref(&tenant.name));
                guard.finish().await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pools_share_one_budget_and_none_starves() {
    let (_cluster, site) = Site::with_own_cluster("budget").await;
    let app = app(&site, |database| database.backends = 2);
    let tenants = tenants(&site, &app, &[TenancyModel::Shared, TenancyModel::Database, TenancyModel::Database]).await;
    let (done, superuser) = (Arc::new(AtomicBool::new(false)), site.superuser("postgres").await);
    let counted = tokio::spawn(sample_backend_counts(superuser, Arc::clone(&done)));
    let busy = tenants.iter().flat_map(|tenant| [tenant, tenant]).map(|tenant| {
        let (app, tenant) = (Arc::clone(&app), tenant.clone());
        tokio::spawn(async move {
            for _ in 0..50 {
                assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.name));
            }
        })
    });
    for worker in busy.collect::<Vec<_>>() {
        worker.await.unwrap();
    }

    // A pool that is never idle gives backends to another pool that waits.
    let hog = (0..16).map(|_| {
        let (app, tenant, done) = (Arc::clone(&app), tenants[0].clone(), Arc::clone(&done));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                patient_names(&app, tenant.id).await.unwrap();
            }
        })
    });
    let hog: Vec<_> = hog.collect();
    let mut longest = Duration::ZERO;
    for turn in 0..20 {
        let tenant = &tenants[1 + turn % 2];
        let started = Instant::now();
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.name));
        longest = longest.max(started.elapsed());
    }
    println!("beside a pool that is never idle, another waits at most {longest:?} for a backend");
    assert!(longest < Duration::from_secs(1), "waited {longest:?}");
    done.store(true, Ordering::Relaxed);
    join_all(hog).await.into_iter().for_each(|end| end.unwrap());
    // PostgreSQL needs a moment to end the backend of a closed session, and the next backend may start meanwhile.
    let counts = counted.await.unwrap();
    let (all, most) = (counts.iter().sum::<i64>(), counts.iter().max());
    let average = all as f64 / counts.len() as f64;
    println!("three pools, a budget of 2 backends: {average:.2} on average, {most:?} at most");
    assert!(average < 2.5, "{average:.2} backends on average, {most:?} at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_a_session_times_out_and_can_be_cancelled() {
    let site = Site::shared().await;
    let app = app(site, |database| (database.backends, database.connect_timeout_ms) = (1, 400));
    let tenants = tenants(site, &app, &[TenancyModel::Shared, TenancyModel::Database]).await;
    for holder in [0, 1] {
        let guard = admitted_guard(&app, tenants[holder].id).await.unwrap();
        patient_names_in(&guard.read().await.unwrap()).await.unwrap();
        for tenant in &tenants {
            let started = Instant::now();
            assert_eq!(patient_names(&app, tenant.id).await, Err(Error::Unavailable));
            assert!((300..900).contains(&started.elapsed().as_millis()), "failed after {:?}", started.elapsed());
            for _ in 0..10 {
                assert!(tokio::time::timeout(Duration::from_millis(5), patient_names(&app, tenant.id)).await.is_err());
            }
        }
        guard.finish().await.unwrap();
        drop(guard);
        for tenant in &tenants {
            assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.name));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_old_sessions_are_closed() {
    let site = Site::shared().await;
    let idle = app(site, |database| database.idle_seconds = 1);
    let tenants = tenants(site, &idle, &[TenancyModel::Database]).await;
    let superuser = site.superuser("postgres").await;
    let sessions = async || -> i64 {
        let count = "select count(*) from pg_stat_activity where usename = $1::text::name";
        superuser.query_one(count, &[&own_database_name(tenants[0].id)]).await.unwrap().get(0)
    };
    assert!(sessions().await > 0);
    let started = Instant::now();
    while sessions().await > 0 {
        assert!(started.elapsed() < Duration::from_secs(4), "an idle session is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let old = app(site, |database| (database.backends, database.lifetime_seconds) = (1, 1));
    let (mut pids, started) = (BTreeSet::new(), Instant::now());
    while started.elapsed() < Duration::from_millis(2500) {
        pids.insert(current_backend(&old, &tenants[0]).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((2..=4).contains(&pids.len()), "a session in constant use is closed after a second: {pids:?}");
}

/// A tenant with one patient, whose name is unique.
#[derive(Clone)]
struct TestTenant {
    id: TenantId,
    patient: Uuid,
    name: String,
}

async fn tenants(site: &Site, app: &App, models: &[TenancyModel]) -> Vec<TestTenant> {
    let mut tenants = Vec::new();
    for model in models {
        let Tenant { id, slug, .. } = site.tenant(*model).await;
        let tenant = TestTenant { id, patient: Uuid::now_v7(), name: format!("patient of {slug}") };
        insert_patient(app, id, tenant.patient, &tenant.name).await.unwrap();
        tenants.push(tenant);
    }
    tenants
}

fn app(site: &Site, set: impl FnOnce(&mut Database)) -> Arc<App> {
    let mut settings = site.server_settings();
    set(&mut settings.database);
    App::new(settings, BootCheck::Dev).unwrap()
}

async fn current_backend(app: &App, tenant: &TestTenant) -> i32 {
    let guard = admitted_guard(app, tenant.id).await.unwrap();
    let pid = backend_pid(&guard.read().await.unwrap()).await.unwrap();
    guard.finish().await.unwrap();
    pid
}

async fn run_failing_statement(app: &App, tenant: &TestTenant, text: &str, expected: Error) {
    let guard = admitted_guard(app, tenant.id).await.unwrap();
    let tx = guard.read().await.unwrap();
    assert_eq!(execute_sql(&tx, text).await, Err(expected));
    assert_eq!(patient_names_in(&tx).await, Err(Error::Unavailable), "after an error only a rollback is possible");
    assert_eq!(guard.finish().await, Err(Error::Unavailable), "a commit fails");
    guard.rollback().await;
}

/// Runs a request that panics while its transaction is open.
async fn run_panicking_request(app: &Arc<App>, tenant: &TestTenant) {
    let (app, id) = (Arc::clone(app), tenant.id);
    let task = tokio::spawn(async move {
        let guard = admitted_guard(&app, id).await.unwrap();
        patient_names_in(&guard.read().await.unwrap()).await.unwrap();
        // Unwinds like a panic, but without the message.
        std::panic::resume_unwind(Box::new("a deliberate panic"));
    });
    assert!(task.await.unwrap_err().is_panic());
}

async fn measure_reads(app: &App, tenant: &TestTenant) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..1000 {
        let started = Instant::now();
        patient_names(app, tenant.id).await.unwrap();
        times.push(started.elapsed());
    }
    times
}

async fn sample_backend_counts(superuser: Client, done: Arc<AtomicBool>) -> Vec<i64> {
    let (mut counts, count) = (Vec::new(), superuser.prepare(BACKENDS).await.unwrap());
    while !done.load(Ordering::Relaxed) {
        counts.push(superuser.query_one(&count, &[]).await.unwrap().get(0));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    counts
}

/// A xorshift generator with a fixed seed: the numbers are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}
