//! Parts that are away, broken or slow: the answer is an error of the right class, soon, and everything works once the part is back.
//! Nothing wrong or unaudited is ever served meanwhile.

use crate::options;
use crate::site::{MODELS, Site, admitted, names, plant, seen, statement};
use cordon::app::App;
use cordon::cluster::Cluster;
use cordon::crypto::integrity_failures;
use cordon::error::Error;
use cordon::ids::TenantId;
use cordon::isolation::BootCheck;
use cordon::ops::provision;
use cordon::tenant::{TenancyModel, Tenant};
use std::fs::{Permissions, rename, set_permissions, write};
use std::os::unix::fs::PermissionsExt;
use std::slice::from_ref;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

const END_SESSIONS: &str = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'cordon_app' or usename like 'cordon\\_t\\_%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_comes_back_without_a_restart() {
    let (cluster, site) = Site::alone("away").await;
    let app = site.app(BootCheck::Dev);
    let mut tenants = Vec::new();
    for model in MODELS {
        tenants.push(served(&site, &app, model).await);
    }
    cluster.stop();
    for tenant in tenants.iter().cycle().take(9) {
        let began = Instant::now();
        assert_eq!(names(&app, tenant.id).await, Err(Error::Unavailable));
        assert!(began.elapsed() < Duration::from_millis(500), "told after {:?}", began.elapsed());
    }
    let at_once = tenants.iter().cycle().take(40).map(|tenant| names(&app, tenant.id));
    let began = Instant::now();
    assert!(futures_util::future::join_all(at_once).await.iter().all(|answer| *answer == Err(Error::Unavailable)));
    assert!(began.elapsed() < Duration::from_secs(1), "40 at once told after {:?}", began.elapsed());

    let _cluster = Cluster::start(&options("away")).unwrap();
    for tenant in &tenants {
        assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_backends_are_replaced() {
    let (_cluster, site) = Site::alone("killed-backends").await;
    let (app, superuser) = (site.app(BootCheck::Dev), site.superuser("postgres").await);
    for model in MODELS {
        let tenant = served(&site, &app, model).await;
        for turn in 0..20 {
            superuser.execute(END_SESSIONS, &[]).await.unwrap();
            match names(&app, tenant.id).await {
                Ok(names) => assert_eq!(names, from_ref(&tenant.slug), "turn {turn}"),
                Err(error) => assert_eq!(error, Error::Unavailable, "turn {turn}"),
            }
            assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "once, and not again");
        }
        let guard = admitted(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        seen(&tx).await.unwrap();
        superuser.execute(END_SESSIONS, &[]).await.unwrap();
        assert_eq!(seen(&tx).await, Err(Error::Unavailable));
        assert_eq!(guard.finish().await, Err(Error::Unavailable), "what was read may not leave");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_known_is_served_while_the_catalog_is_away() {
    let (_cluster, site) = Site::alone("no-catalog").await;
    let (app, superuser) = (site.app(BootCheck::Dev), site.superuser("postgres").await);
    app.run_beside();
    let known = served(&site, &app, TenancyModel::Schema).await;
    let unknown = site.tenant(TenancyModel::Shared).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stranger = TenantId::new();
    for away in [true, false] {
        let text = format!(
            "alter database cordon_control allow_connections {}; \
             select pg_terminate_backend(pid) from pg_stat_activity where datname = 'cordon_control' and {away}",
            !away
        );
        superuser.batch_execute(&text).await.unwrap();
        for _ in 0..3 {
            assert_eq!(names(&app, known.id).await.unwrap(), from_ref(&known.slug));
            let began = Instant::now();
            assert_eq!(names(&app, stranger).await, Err(if away { Error::Unavailable } else { Error::TenantMismatch }));
            assert!(began.elapsed() < Duration::from_secs(1));
        }
    }
    assert_eq!(names(&app, unknown.id).await.unwrap(), Vec::<String>::new());
    // And changes are heard again.
    provision::suspend(&site.operator, &known.slug).await.unwrap();
    let began = Instant::now();
    while admitted(&app, known.id).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(2), "a suspension was not heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_read_outlive_their_file_for_a_while() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let file = site.directory.join("keys-that-go-away");
    std::fs::copy(site.settings.keys.file.as_ref().unwrap(), &file).unwrap();
    let mut settings = site.server_settings();
    (settings.keys.file, settings.keys.cache_seconds) = (Some(file.clone()), 1);
    let app = App::new(settings, BootCheck::Dev).unwrap();
    plant(&app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();

    let kept = std::fs::read(&file).unwrap();
    let aside = file.with_extension("aside");
    let faults: [(&str, &dyn Fn()); 3] = [
        ("away", &|| rename(&file, &aside).unwrap()),
        ("cut short", &|| write(&file, &kept[..kept.len() / 2]).unwrap()),
        ("open to others", &|| set_permissions(&file, Permissions::from_mode(0o644)).unwrap()),
    ];
    for (fault, strike) in faults {
        tokio::time::sleep(Duration::from_millis(1050)).await;
        assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "before {fault}");
        strike();
        assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "{fault}, keys in memory");
        tokio::time::sleep(Duration::from_millis(1050)).await;
        for _ in 0..3 {
            assert_eq!(names(&app, tenant.id).await, Err(Error::KeyUnavailable), "{fault}");
        }
        write(&file, &kept).unwrap();
        set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "after {fault}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_lets_a_snapshot_finish_and_nothing_begin() {
    let site = Site::shared().await;
    for model in MODELS {
        // Nobody tells this server: the fence in the tenant's database has to.
        let app = site.app(BootCheck::Dev);
        let tenant = served(site, &app, model).await;
        let guard = admitted(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        assert_eq!(seen(&tx).await.unwrap(), from_ref(&tenant.slug));
        provision::suspend(&site.operator, &tenant.slug).await.unwrap();
        assert_eq!(seen(&tx).await.unwrap(), from_ref(&tenant.slug));
        guard.finish().await.unwrap();
        assert_eq!(names(&app, tenant.id).await, Err(Error::TenantSuspended));
        let late = Uuid::now_v7();
        assert_eq!(plant(&app, tenant.id, late, "late").await, Err(Error::TenantSuspended));
        provision::resume(&site.operator, &tenant.slug).await.unwrap();
        app.catalog.refresh(tenant.id).await.unwrap();
        assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "without the late one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_ends_in_the_server() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    (settings.database.statement_timeout_ms, settings.database.backends) = (300, 1);
    let app = App::new(settings, BootCheck::Dev).unwrap();
    let tenant = served(site, &app, TenancyModel::Schema).await;
    let guard = admitted(&app, tenant.id).await.unwrap();
    let tx = guard.read().await.unwrap();
    let began = Instant::now();
    let slept = statement(&tx, "select pg_sleep(10)").await;
    assert_eq!(slept, Err(Error::Timeout));
    assert!(began.elapsed() < Duration::from_secs(1));
    guard.abandon().await;
    drop((tx, guard));
    assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_underneath_is_never_served() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let tenant = served(site, &app, TenancyModel::Schema).await;
    let sound = served(site, &app, TenancyModel::Schema).await;
    let placement = tenant.placement.clone().unwrap();
    let (schema, inside) = (placement.schema, site.superuser(&placement.database).await);
    inside
        .batch_execute(&format!(
            "alter table {schema}.patients disable trigger all; \
             update {schema}.patients set name_sealed = set_byte(name_sealed, 20, get_byte(name_sealed, 20) # 1)"
        ))
        .await
        .unwrap();
    let before = integrity_failures();
    assert_eq!(names(&app, tenant.id).await, Err(Error::Integrity));
    assert!(integrity_failures() > before, "and it is counted");
    assert_eq!(names(&app, sound.id).await.unwrap(), from_ref(&sound.slug));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_audited_is_not_answered() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let tenant = served(site, &app, TenancyModel::Schema).await;
    let placement = tenant.placement.clone().unwrap();
    let (schema, inside) = (placement.schema, site.superuser(&placement.database).await);
    inside.batch_execute(&format!("revoke insert on {schema}.audit_log from cordon_guard")).await.unwrap();
    let guard = admitted(&app, tenant.id).await.unwrap();
    assert_eq!(seen(&guard.read().await.unwrap()).await.unwrap(), from_ref(&tenant.slug));
    assert_eq!(guard.finish().await, Err(Error::Internal), "no audit row, no answer");
    assert_eq!(plant(&app, tenant.id, Uuid::now_v7(), "unaudited").await, Err(Error::Internal));
    inside.batch_execute(&format!("grant insert on {schema}.audit_log to cordon_guard")).await.unwrap();
    assert_eq!(names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "and nothing was written");
}

/// A tenant with one patient, named like it, whom the server has read.
async fn served(site: &Site, app: &Arc<App>, model: TenancyModel) -> Tenant {
    let tenant = site.tenant(model).await;
    plant(app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
    assert_eq!(names(app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    tenant
}
