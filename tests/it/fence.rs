//! The fence in the tenant's database: no write is committed after a suspension or a new generation, even if the server
//! received no notification. Also, provisioning and `init` can be killed at any step and resumed.

use crate::support::intruder::{Intruder, TicketFields, login};
use crate::support::marked_chart::MarkedChart;
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site, actor};
use cordon::app::App;
use cordon::auth::Principal;
use cordon::cluster::Cluster;
use cordon::db::schema::tenant::{note_types, patients};
use cordon::error::Error;
use cordon::guard::{Guard, RequestInfo, TenantHint, TxKind};
use cordon::ids::{RequestId, TenantId};
use cordon::isolation::BootCheck;
use cordon::ops::init;
use cordon::ops::provision::{self, NewTenant};
use cordon::tenant::{State, TenancyModel};
use diesel::{ExpressionMethods, QueryDsl};
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use uuid::Uuid;

#[tokio::test]
async fn l37_no_write_is_committed_after_a_fence_change() {
    let site = Site::shared().await;
    for model in MODELS {
        let app = site.app(BootCheck::Dev);
        let chart = MarkedChart::of(site, &app, model).await;
        let superuser = site.superuser(&chart.placement().database).await;
        let suspend = async || provision::suspend(&site.operator, &chart.tenant.slug).await.map(|_| ()).unwrap();
        let (written, errors) = write_during_fence_change(&app, &chart, &superuser, suspend).await;
        println!("{:8} suspended after {written} writes", model.as_str());
        assert!(written > 0 && errors.iter().all(|error| *error == Error::TenantSuspended), "{errors:?}");
        assert_eq!(write(&app, chart.tenant.id).await, Err(Error::TenantSuspended));

        provision::resume(&site.operator, &chart.tenant.slug).await.unwrap();
        let raise_generation = async || {
            let id = chart.tenant.id;
            let sql = format!(
                "begin; select pg_advisory_xact_lock(hashtextextended('{id}', 7)); update cordon.tenants set \
                 generation = 2 where tenant_id = '{id}'; commit"
            );
            superuser.batch_execute(&sql).await.unwrap();
        };
        let (written, errors) = write_during_fence_change(&app, &chart, &superuser, raise_generation).await;
        assert!(written > 0 && errors.iter().all(|error| *error == Error::PlacementChanged), "{errors:?}");
        let guard = admit(&app, chart.tenant.id).await.unwrap();
        assert_eq!(read(&guard).await, Err(Error::PlacementChanged));
    }
}

/// The second attempt of a request, made because the tenant may have moved, uses the database permit of the first.
#[tokio::test]
async fn a_retry_keeps_the_database_permit() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let mut settings = site.server_settings();
    settings.database.at_once = 1;
    let server = TestServer::start(site, settings, BootCheck::Dev);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let superuser = site.superuser("cordon_data").await;
    let query = async || server.send_query(&token, "{ patients { edges { node { id } } } }", Value::Null).await;
    let raise_generation = async |by: i32| {
        let sql = format!("update cordon.tenants set generation = generation + {by} where tenant_id = '{}'", tenant.id);
        superuser.batch_execute(&sql).await.unwrap();
    };
    assert_eq!(query().await.status, 200);
    raise_generation(1).await;
    let started = Instant::now();
    assert_eq!(query().await.status, 503);
    assert!(started.elapsed() < Duration::from_secs(2), "the request waited {:?}", started.elapsed());
    raise_generation(-1).await;
    assert_eq!(query().await.status, 200);
}

/// Runs six writers until each fails, and `change_fence` meanwhile. Checks that no row was committed after
/// `change_fence` returned. Returns the number of writes and the error of each writer.
async fn write_during_fence_change(
    app: &Arc<App>,
    chart: &MarkedChart,
    superuser: &Client,
    change_fence: impl AsyncFn(),
) -> (u32, Vec<Error>) {
    let written = Arc::new(AtomicU32::new(0));
    let writers: Vec<_> = (0..6)
        .map(|_| {
            let (app, tenant, written) = (Arc::clone(app), chart.tenant.id, Arc::clone(&written));
            tokio::spawn(async move {
                loop {
                    match write(&app, tenant).await {
                        Ok(()) => written.fetch_add(1, Ordering::Relaxed),
                        Err(error) => return error,
                    };
                }
            })
        })
        .collect();
    while AtomicU32::load(&written, Ordering::Relaxed) < 30 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    change_fence().await;
    let snapshot: String = superuser.query_one("select pg_current_snapshot()::text", &[]).await.unwrap().get(0);
    let mut errors = Vec::new();
    for writer in writers {
        errors.push(writer.await.unwrap());
    }
    let late = format!(
        "select count(*) from {}.patients where tenant_id = '{}' and not pg_visible_in_snapshot(changed_in, \
         '{snapshot}')",
        chart.schema(),
        chart.tenant.id
    );
    assert_eq!(
        superuser.query_one(&late, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "a row was committed after the change of the fence"
    );
    (AtomicU32::load(&written, Ordering::Relaxed), errors)
}

async fn write(app: &App, tenant: TenantId) -> Result<(), Error> {
    let tx = app.guards.begin_operation(tenant, &actor(tenant, "clinician"), TxKind::Write, RequestId::new()).await?;
    let row = diesel::insert_into(patients::table)
        .values((patients::tenant_id.eq(tenant.0), patients::id.eq(Uuid::now_v7())));
    let outcome = tx.execute(row).await;
    match outcome {
        Ok(_) => tx.commit().await,
        Err(error) => tx.rollback().await.and(Err(error)),
    }
}

async fn admit(app: &Arc<App>, tenant: TenantId) -> Result<Guard, Error> {
    let principal = Principal {
        issuer: "test".into(),
        subject: "someone".into(),
        name: None,
        tenants: vec![tenant],
        roles: vec!["clinician".into()],
        acting: None,
        expires_at: chrono::Utc::now() + Duration::from_secs(600),
    };
    let info = RequestInfo { request: RequestId::new(), client: Default::default(), stats: Default::default() };
    app.guards.open_guard(&principal, TenantHint::default(), info).await
}

async fn read(guard: &Guard) -> Result<usize, Error> {
    let tx = guard.read().await?;
    let ids: Vec<Uuid> = tx.load(patients::table.select(patients::id)).await?;
    guard.finish().await?;
    Ok(ids.len())
}

/// One server receives notifications of the catalog, the other does not. Both stop serving the tenant, and both resume.
#[tokio::test]
async fn a_suspension_takes_effect_without_its_notification() {
    let site = Site::shared().await;
    let (unnotified, notified) = (site.app(BootCheck::Dev), site.app(BootCheck::Dev));
    notified.start_background_tasks();
    for model in MODELS {
        let chart = MarkedChart::of(site, &unnotified, model).await;
        let (id, slug) = (chart.tenant.id, &chart.tenant.slug);
        for app in [&unnotified, &notified] {
            assert_eq!(read(&admit(app, id).await.unwrap()).await, Ok(1));
        }
        let in_flight = admit(&unnotified, id).await.unwrap();
        provision::suspend(&site.operator, slug).await.unwrap();
        assert_eq!(
            read(&in_flight).await,
            Err(Error::TenantSuspended),
            "{model}: a transaction opened after the suspension"
        );
        assert_eq!(
            read(&admit(&unnotified, id).await.unwrap()).await,
            Err(Error::TenantSuspended),
            "{model}: a server without notifications"
        );
        within_a_second(async || matches!(admit(&notified, id).await, Err(Error::TenantSuspended))).await;
        provision::resume(&site.operator, slug).await.unwrap();
        within_a_second(async || match admit(&notified, id).await {
            Ok(guard) => read(&guard).await == Ok(1),
            Err(_) => false,
        })
        .await;
    }
}

#[tokio::test]
async fn a_running_server_serves_new_tenants() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    app.start_background_tasks();
    let chart = MarkedChart::of(site, &app, TenancyModel::Schema).await;
    within_a_second(async || read(&admit(&app, chart.tenant.id).await.unwrap()).await == Ok(1)).await;
    assert!(matches!(admit(&app, TenantId::new()).await, Err(Error::TenantMismatch)));
}

async fn within_a_second(condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(1), "not true within a second");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_server_cannot_bind_for_purposes_of_operations() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    for model in MODELS {
        let chart = MarkedChart::of(site, &app, model).await;
        let tenant = chart.tenant.id;
        let tx = app
            .guards
            .begin_operation(tenant, &actor(tenant, "migrate"), TxKind::Migrate, RequestId::new())
            .await
            .unwrap();
        let refused = tx.load::<_, String>(note_types::table.select(note_types::code)).await;
        assert_eq!(refused, Err(Error::Unavailable), "{model}");
        let intruder = Intruder::connect(site, &login(site, &app, &chart.tenant).await).await;
        for purpose in ["migrate", "move", "restore", "reseal", "purge", "backup", "seal"] {
            let refused = intruder
                .run(chart.schema(), &intruder.bind(&TicketFields::of(tenant, purpose)).await, "select 1")
                .await
                .unwrap_err();
            assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "binding refused"), "{purpose}");
        }
    }
}

/// Polls a future at most `polls` times and then drops it, as a kill would.
async fn killed_after<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let (mut future, mut left) = (pin!(future), polls);
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

#[tokio::test]
async fn provisioning_resumes_after_a_kill_at_any_step() {
    let site = Site::shared().await;
    for (model, step) in [(TenancyModel::Shared, 1), (TenancyModel::Schema, 1), (TenancyModel::Database, 3)] {
        let new =
            NewTenant { slug: format!("killed-{model}"), name: "A clinic".into(), model, server: None, plan: None };
        let mut polls = step;
        // A statement of a killed run may still be running in PostgreSQL. A failure counts as one more kill.
        while !matches!(killed_after(provision::create(&site.operator, &new), polls).await, Some(Ok(_))) {
            polls += step;
            assert!(polls < 1_000, "it does not finish");
        }
        println!("{:8} provisioned after kills at 1…{polls} polls", model.as_str());
        let tenant = provision::create(&site.operator, &new).await.unwrap();
        assert_eq!(tenant.state, State::Active);
        let same: Vec<_> =
            provision::list(&site.operator).await.unwrap().into_iter().filter(|other| other.slug == new.slug).collect();
        assert_eq!((same.len(), same[0].id), (1, tenant.id));
        let control = site.superuser("cordon_control").await;
        let count = |table: &str, column: &str| {
            format!("select count(*) from cordon_catalog.{table} where {column} = '{}'", tenant.id)
        };
        for (query, expected) in [(count("placements", "tenant_id"), 1), (count("wrapped_keys", "tenant_id"), 3)] {
            assert_eq!(control.query_one(&query, &[]).await.unwrap().get::<_, i64>(0), expected, "{query}");
        }
        // A chart can be written and read, the walls are checked, and the note types exist once.
        let app = site.app(BootCheck::Dev);
        let chart = MarkedChart::write(&app, tenant).await;
        let guard = admit(&app, chart.tenant.id).await.unwrap();
        assert_eq!(read(&guard).await, Ok(1));
        let tx = app
            .guards
            .begin_operation(chart.tenant.id, &actor(chart.tenant.id, "clinician"), TxKind::Read, RequestId::new())
            .await
            .unwrap();
        assert_eq!(tx.first(note_types::table.count()).await, Ok(12));
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn init_resumes_after_a_kill_at_any_step() {
    let cluster = Cluster::start(&crate::support::options("killed-init")).unwrap();
    let admin = cordon::db::connect::parse(&cluster.superuser_url("postgres")).unwrap();
    let directory = crate::support::run_dir().join("killed-init-site");
    let mut polls = 1;
    while !matches!(killed_after(init::run(&admin, &directory), polls).await, Some(Ok(_))) {
        polls += 3;
        assert!(polls < 2_000, "it does not finish");
    }
    println!("init done after kills at 1…{polls} polls");
    let site = Site::create(&cluster, "killed-init-site").await;
    assert_eq!(site.app(BootCheck::Dev).check_isolation(BootCheck::Dev).await.unwrap(), Vec::<String>::new());
    let servers = site
        .superuser("cordon_control")
        .await
        .query_one("select count(*) from cordon_catalog.servers", &[])
        .await
        .unwrap();
    assert_eq!(servers.get::<_, i64>(0), 1);
    for model in MODELS {
        let app = site.app(BootCheck::Dev);
        let chart = MarkedChart::of(&site, &app, model).await;
        assert_eq!(read(&admit(&app, chart.tenant.id).await.unwrap()).await, Ok(1));
    }
}
