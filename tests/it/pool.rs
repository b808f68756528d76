//! L-1, L-3, L-26: sessions are shared, what they saw is not. Pools, the budget of backends they have together, and the statement cache.

use crate::site::{Site, admitted, names, pid, plant, seen, statement};
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
async fn l01_pool_of_one() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 1);
    let clinics = clinics(
        site,
        &app,
        &[TenancyModel::Shared, TenancyModel::Schema, TenancyModel::Shared, TenancyModel::Database],
    )
    .await;
    let suspended = site.tenant(TenancyModel::Shared).await;
    assert_eq!(names(&app, suspended.id).await.unwrap(), Vec::<String>::new());
    provision::suspend(&site.operator, &suspended.slug).await.unwrap();

    let (mut dice, mut outcomes, before) = (Dice(20_261_122), [0_u32; 6], closed_unclean());
    for turn in 0..10_000 {
        // The database tenant needs the one backend for itself, so it comes seldom.
        let clinic = if turn % 100 == 99 { &clinics[3] } else { &clinics[turn % 2 * (1 + dice.below(2))] };
        let misfortune = dice.below(200);
        match misfortune {
            0 => fails(&app, clinic, "select nonsense from patients", Error::Internal).await,
            1 => {
                let taken = plant(&app, clinic.id, clinic.patient, "an impostor").await;
                assert!(matches!(taken, Err(Error::Conflict { .. })), "{taken:?}");
            }
            2 => panics(&app, clinic).await,
            3 => {
                // Given up while the answer is on its way.
                let guard = admitted(&app, clinic.id).await.unwrap();
                let _ = seen(&guard.read().await.unwrap()).now_or_never();
            }
            // The canary: its head is refused, so no query behind it may bring a row, and none may lose its refusal on the way.
            4 => assert_eq!(names(&app, suspended.id).await, Err(Error::TenantSuspended)),
            _ => {}
        }
        outcomes[misfortune.min(5)] += 1;
        assert_eq!(names(&app, clinic.id).await.unwrap(), from_ref(&clinic.name), "turn {turn}");
    }
    println!("10,000 turns on one backend; bad statements, conflicts, panics, dropped, refused, none: {outcomes:?}");
    assert!(outcomes.iter().all(|count| *count > 20));
    assert!(closed_unclean() - before >= u64::from(outcomes[0] + outcomes[2] + outcomes[3]));

    let mut times = timed(&app, &clinics[0]).await;
    times.sort();
    println!("a guarded and audited read: median {:?}, 99 of 100 below {:?}", times[500], times[990]);
    no_context_no_rows(site, &clinics).await;
}

/// As the server's login, but without a binding: an error, not an empty answer.
async fn no_context_no_rows(site: &Site, clinics: &[Clinic]) {
    let bare = site.superuser("cordon_data").await;
    bare.batch_execute("set session authorization cordon_app").await.unwrap();
    for schema in ["shared".to_owned(), format!("t_{}", clinics[1].id.0.simple())] {
        let text = format!("select id from {schema}.patients");
        let refused = bare.query(&text, &[]).await.unwrap_err();
        assert_eq!(refused.as_db_error().unwrap().message(), "tenant binding refused");
        bare.batch_execute(&format!("set app.current_tenant = '{}'", clinics[0].id)).await.unwrap();
        assert!(bare.query(&text, &[]).await.is_err(), "an unsigned setting proves nothing");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_used_again_after_a_clean_end_only() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 1);
    let clinic = &clinics(site, &app, &[TenancyModel::Schema]).await[0];
    let first = backend(&app, clinic).await;
    assert_eq!(backend(&app, clinic).await, first);
    assert!(plant(&app, clinic.id, clinic.patient, "an impostor").await.is_err());
    assert_eq!(backend(&app, clinic).await, first, "a conflict that was rolled back leaves a clean session");

    fails(&app, clinic, "select nonsense", Error::Internal).await;
    let second = backend(&app, clinic).await;
    assert_ne!(second, first, "a wrong statement closes it");
    panics(&app, clinic).await;
    let third = backend(&app, clinic).await;
    assert_ne!(third, second, "a panic closes it");

    let guard = admitted(&app, clinic.id).await.unwrap();
    let tx = guard.read().await.unwrap();
    assert_eq!(seen(&tx).await.unwrap(), from_ref(&clinic.name));
    guard.finish().await.unwrap();
    assert_eq!(seen(&tx).await, Err(Error::Internal), "after its end a transaction sends nothing more");
    drop((tx, guard));
    assert_eq!(backend(&app, clinic).await, third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l03_statement_cache_follows_the_schema() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 1);
    let clinics = clinics(site, &app, &[TenancyModel::Schema, TenancyModel::Schema]).await;
    let first = backend(&app, &clinics[0]).await;
    for turn in 0..1000 {
        let clinic = &clinics[turn % 2];
        assert_eq!(names(&app, clinic.id).await.unwrap(), from_ref(&clinic.name));
    }
    assert_eq!(backend(&app, &clinics[1]).await, first, "all of it went over one connection");

    // The same table with another type of column in one schema, as halfway through a migration.
    let inside = site.superuser("cordon_data").await;
    let other =
        format!("alter table t_{}.patients alter name_sealed type text using 'other'", clinics[1].id.0.simple());
    inside.batch_execute(&other).await.unwrap();
    assert_eq!(names(&app, clinics[0].id).await.unwrap(), from_ref(&clinics[0].name));
    let before = backend(&app, &clinics[0]).await;
    assert_eq!(names(&app, clinics[1].id).await, Err(Error::PlacementChanged), "the class that is tried again");
    assert_ne!(backend(&app, &clinics[0]).await, before, "and the connection is closed");
    assert_eq!(names(&app, clinics[0].id).await.unwrap(), from_ref(&clinics[0].name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn l26_interleaved_workers() {
    let site = Site::shared().await;
    let app = app(site, |database| database.backends = 3);
    let clinics = clinics(site, &app, &[TenancyModel::Shared, TenancyModel::Schema]).await;
    let workers = (0..8).map(|worker| {
        let (app, clinics) = (Arc::clone(&app), clinics.clone());
        tokio::spawn(async move {
            for turn in 0..100 {
                let (mine, other) = (&clinics[(worker + turn) % 2], &clinics[(worker + turn + 1) % 2]);
                // Two guards at once in one task, each with its own session and tenant.
                let guard = admitted(&app, mine.id).await.unwrap();
                if worker == 0 {
                    assert_eq!(names(&app, other.id).await.unwrap(), from_ref(&other.name));
                }
                assert_eq!(seen(&guard.read().await.unwrap()).await.unwrap(), from_ref(&mine.name));
                tokio::task::yield_now().await;
                assert_eq!(seen(&guard.read().await.unwrap()).await.unwrap(), from_ref(&mine.name));
                guard.finish().await.unwrap();
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pools_share_one_budget_and_all_get_on() {
    let (_cluster, site) = Site::alone("budget").await;
    let app = app(&site, |database| database.backends = 2);
    let clinics = clinics(&site, &app, &[TenancyModel::Shared, TenancyModel::Database, TenancyModel::Database]).await;
    let (over, superuser) = (Arc::new(AtomicBool::new(false)), site.superuser("postgres").await);
    let counted = tokio::spawn(backends(superuser, Arc::clone(&over)));
    let busy = clinics.iter().flat_map(|clinic| [clinic, clinic]).map(|clinic| {
        let (app, clinic) = (Arc::clone(&app), clinic.clone());
        tokio::spawn(async move {
            for _ in 0..50 {
                assert_eq!(names(&app, clinic.id).await.unwrap(), from_ref(&clinic.name));
            }
        })
    });
    for worker in busy.collect::<Vec<_>>() {
        worker.await.unwrap();
    }

    // A pool that is never idle gives way to another that waits.
    let hog = (0..16).map(|_| {
        let (app, clinic, over) = (Arc::clone(&app), clinics[0].clone(), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                names(&app, clinic.id).await.unwrap();
            }
        })
    });
    let hog: Vec<_> = hog.collect();
    let mut longest = Duration::ZERO;
    for turn in 0..20 {
        let clinic = &clinics[1 + turn % 2];
        let began = Instant::now();
        assert_eq!(names(&app, clinic.id).await.unwrap(), from_ref(&clinic.name));
        longest = longest.max(began.elapsed());
    }
    println!("beside a pool that is never idle, another waits {longest:?} at most for a backend");
    assert!(longest < Duration::from_secs(1), "waited {longest:?}");
    over.store(true, Ordering::Relaxed);
    join_all(hog).await.into_iter().for_each(|end| end.unwrap());
    // PostgreSQL needs a moment to end a backend whose session was closed; the next one may begin in it.
    let counts = counted.await.unwrap();
    let (all, most) = (counts.iter().sum::<i64>(), counts.iter().max());
    let average = all as f64 / counts.len() as f64;
    println!("three pools, a budget of 2 backends: {average:.2} on average, {most:?} at most");
    assert!(average < 2.5, "{average:.2} backends on average, {most:?} at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_is_told_and_who_gives_up_leaves_nothing() {
    let site = Site::shared().await;
    let app = app(site, |database| (database.backends, database.connect_timeout_ms) = (1, 400));
    let clinics = clinics(site, &app, &[TenancyModel::Shared, TenancyModel::Database]).await;
    for holder in [0, 1] {
        let guard = admitted(&app, clinics[holder].id).await.unwrap();
        seen(&guard.read().await.unwrap()).await.unwrap();
        for clinic in &clinics {
            let began = Instant::now();
            assert_eq!(names(&app, clinic.id).await, Err(Error::Unavailable));
            assert!((300..900).contains(&began.elapsed().as_millis()), "told after {:?}", began.elapsed());
            for _ in 0..10 {
                assert!(tokio::time::timeout(Duration::from_millis(5), names(&app, clinic.id)).await.is_err());
            }
        }
        guard.finish().await.unwrap();
        drop(guard);
        for clinic in &clinics {
            assert_eq!(names(&app, clinic.id).await.unwrap(), from_ref(&clinic.name));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_end_when_idle_and_when_old() {
    let site = Site::shared().await;
    let idle = app(site, |database| database.idle_seconds = 1);
    let clinics = clinics(site, &idle, &[TenancyModel::Database]).await;
    let superuser = site.superuser("postgres").await;
    let sessions = async || -> i64 {
        let count = "select count(*) from pg_stat_activity where usename = $1::text::name";
        superuser.query_one(count, &[&own_database_name(clinics[0].id)]).await.unwrap().get(0)
    };
    assert!(sessions().await > 0);
    let began = Instant::now();
    while sessions().await > 0 {
        assert!(began.elapsed() < Duration::from_secs(4), "an idle session is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let old = app(site, |database| (database.backends, database.lifetime_seconds) = (1, 1));
    let (mut pids, began) = (BTreeSet::new(), Instant::now());
    while began.elapsed() < Duration::from_millis(2500) {
        pids.insert(backend(&old, &clinics[0]).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((2..=4).contains(&pids.len()), "a session in constant use lives a second: {pids:?}");
}

/// A tenant with one patient.
#[derive(Clone)]
struct Clinic {
    id: TenantId,
    patient: Uuid,
    name: String,
}

async fn clinics(site: &Site, app: &App, models: &[TenancyModel]) -> Vec<Clinic> {
    let mut clinics = Vec::new();
    for model in models {
        let Tenant { id, slug, .. } = site.tenant(*model).await;
        let clinic = Clinic { id, patient: Uuid::now_v7(), name: format!("patient of {slug}") };
        plant(app, id, clinic.patient, &clinic.name).await.unwrap();
        clinics.push(clinic);
    }
    clinics
}

fn app(site: &Site, set: impl FnOnce(&mut Database)) -> Arc<App> {
    let mut settings = site.server_settings();
    set(&mut settings.database);
    App::new(settings, BootCheck::Dev).unwrap()
}

async fn backend(app: &App, clinic: &Clinic) -> i32 {
    let guard = admitted(app, clinic.id).await.unwrap();
    let pid = pid(&guard.read().await.unwrap()).await.unwrap();
    guard.finish().await.unwrap();
    pid
}

async fn fails(app: &App, clinic: &Clinic, text: &str, expected: Error) {
    let guard = admitted(app, clinic.id).await.unwrap();
    let tx = guard.read().await.unwrap();
    assert_eq!(statement(&tx, text).await, Err(expected));
    assert_eq!(seen(&tx).await, Err(Error::Unavailable), "after an error only a rollback");
    assert_eq!(guard.finish().await, Err(Error::Unavailable), "and never a commit");
    guard.abandon().await;
}

/// A request that panics with its transaction open.
async fn panics(app: &Arc<App>, clinic: &Clinic) {
    let (app, id) = (Arc::clone(app), clinic.id);
    let task = tokio::spawn(async move {
        let guard = admitted(&app, id).await.unwrap();
        seen(&guard.read().await.unwrap()).await.unwrap();
        // As a panic does, without its message.
        std::panic::resume_unwind(Box::new("a fault of ours"));
    });
    assert!(task.await.unwrap_err().is_panic());
}

async fn timed(app: &App, clinic: &Clinic) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        names(app, clinic.id).await.unwrap();
        times.push(began.elapsed());
    }
    times
}

async fn backends(superuser: Client, over: Arc<AtomicBool>) -> Vec<i64> {
    let (mut counts, count) = (Vec::new(), superuser.prepare(BACKENDS).await.unwrap());
    while !over.load(Ordering::Relaxed) {
        counts.push(superuser.query_one(&count, &[]).await.unwrap().get(0));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    counts
}

/// The same throws in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }
}
