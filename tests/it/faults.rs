//! Unavailable, broken and slow dependencies: requests fail quickly with the right error, no wrong or unaudited data is
//! returned, and requests succeed again when the dependency has recovered.

use crate::support::options;
use crate::support::site::{
    MODELS, Site, admitted_guard, execute_sql, insert_patient, patient_names, patient_names_in,
};
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

const END_SESSIONS: &str = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'cordon_app' or \
    usename like 'cordon\\_t\\_%'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_recovers_from_a_database_outage_without_a_restart() {
    let (cluster, site) = Site::with_own_cluster("away").await;
    let app = site.app(BootCheck::Dev);
    let mut tenants = Vec::new();
    for model in MODELS {
        tenants.push(tenant_with_patient(&site, &app, model).await);
    }
    cluster.stop();
    for tenant in tenants.iter().cycle().take(9) {
        let started = Instant::now();
        assert_eq!(patient_names(&app, tenant.id).await, Err(Error::Unavailable));
        assert!(started.elapsed() < Duration::from_millis(500), "failed after {:?}", started.elapsed());
    }
    let at_once = tenants.iter().cycle().take(40).map(|tenant| patient_names(&app, tenant.id));
    let started = Instant::now();
    assert!(futures_util::future::join_all(at_once).await.iter().all(|answer| *answer == Err(Error::Unavailable)));
    assert!(started.elapsed() < Duration::from_secs(1), "40 concurrent requests failed after {:?}", started.elapsed());

    let _cluster = Cluster::start(&options("away")).unwrap();
    for tenant in &tenants {
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_backends_are_replaced() {
    let (_cluster, site) = Site::with_own_cluster("killed-backends").await;
    let (app, superuser) = (site.app(BootCheck::Dev), site.superuser("postgres").await);
    for model in MODELS {
        let tenant = tenant_with_patient(&site, &app, model).await;
        for turn in 0..20 {
            superuser.execute(END_SESSIONS, &[]).await.unwrap();
            match patient_names(&app, tenant.id).await {
                Ok(names) => assert_eq!(names, from_ref(&tenant.slug), "turn {turn}"),
                Err(error) => assert_eq!(error, Error::Unavailable, "turn {turn}"),
            }
            assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "only one request fails");
        }
        let guard = admitted_guard(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        patient_names_in(&tx).await.unwrap();
        superuser.execute(END_SESSIONS, &[]).await.unwrap();
        assert_eq!(patient_names_in(&tx).await, Err(Error::Unavailable));
        assert_eq!(guard.finish().await, Err(Error::Unavailable), "the data that was read may not be returned");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_tenants_are_served_during_a_catalog_outage() {
    let (_cluster, site) = Site::with_own_cluster("no-catalog").await;
    let (app, superuser) = (site.app(BootCheck::Dev), site.superuser("postgres").await);
    app.start_background_tasks();
    let known = tenant_with_patient(&site, &app, TenancyModel::Schema).await;
    let unknown = site.tenant(TenancyModel::Shared).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let nonexistent = TenantId::new();
    for away in [true, false] {
        let text = format!(
            "alter database cordon_control allow_connections {}; \
             select pg_terminate_backend(pid) from pg_stat_activity where datname = 'cordon_control' and {away}",
            !away
        );
        superuser.batch_execute(&text).await.unwrap();
        for _ in 0..3 {
            assert_eq!(patient_names(&app, known.id).await.unwrap(), from_ref(&known.slug));
            let started = Instant::now();
            assert_eq!(
                patient_names(&app, nonexistent).await,
                Err(if away { Error::Unavailable } else { Error::TenantMismatch })
            );
            assert!(started.elapsed() < Duration::from_secs(1));
        }
    }
    assert_eq!(patient_names(&app, unknown.id).await.unwrap(), Vec::<String>::new());
    // Changes of the catalog are received again.
    provision::suspend(&site.operator, &known.slug).await.unwrap();
    let started = Instant::now();
    while admitted_guard(&app, known.id).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(2), "the suspension was not received");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_keys_outlive_their_file_until_the_cache_expires() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Schema).await;
    let file = site.directory.join("keys-that-go-away");
    std::fs::copy(site.settings.keys.file.as_ref().unwrap(), &file).unwrap();
    let mut settings = site.server_settings();
    (settings.keys.file, settings.keys.cache_seconds) = (Some(file.clone()), 1);
    let app = App::new(settings, BootCheck::Dev).unwrap();
    insert_patient(&app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();

    let content = std::fs::read(&file).unwrap();
    let aside = file.with_extension("aside");
    let faults: [(&str, &dyn Fn()); 3] = [
        ("missing", &|| rename(&file, &aside).unwrap()),
        ("truncated", &|| write(&file, &content[..content.len() / 2]).unwrap()),
        ("readable by others", &|| set_permissions(&file, Permissions::from_mode(0o644)).unwrap()),
    ];
    for (fault, cause) in faults {
        tokio::time::sleep(Duration::from_millis(1050)).await;
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "before {fault}");
        cause();
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "{fault}, keys in memory");
        tokio::time::sleep(Duration::from_millis(1050)).await;
        for _ in 0..3 {
            assert_eq!(patient_names(&app, tenant.id).await, Err(Error::KeyUnavailable), "{fault}");
        }
        write(&file, &content).unwrap();
        set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "after {fault}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_lets_running_reads_finish_and_starts_no_other() {
    let site = Site::shared().await;
    for model in MODELS {
        // This server receives no notifications, so the fence in the tenant's database must stop it.
        let app = site.app(BootCheck::Dev);
        let tenant = tenant_with_patient(site, &app, model).await;
        let guard = admitted_guard(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        assert_eq!(patient_names_in(&tx).await.unwrap(), from_ref(&tenant.slug));
        provision::suspend(&site.operator, &tenant.slug).await.unwrap();
        assert_eq!(patient_names_in(&tx).await.unwrap(), from_ref(&tenant.slug));
        guard.finish().await.unwrap();
        assert_eq!(patient_names(&app, tenant.id).await, Err(Error::TenantSuspended));
        let late = Uuid::now_v7();
        assert_eq!(insert_patient(&app, tenant.id, late, "late").await, Err(Error::TenantSuspended));
        provision::resume(&site.operator, &tenant.slug).await.unwrap();
        app.catalog.refresh(tenant.id).await.unwrap();
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "without the late patient");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_timeout_ends_the_statement_in_postgresql() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    (settings.database.statement_timeout_ms, settings.database.backends) = (300, 1);
    let app = App::new(settings, BootCheck::Dev).unwrap();
    let tenant = tenant_with_patient(site, &app, TenancyModel::Schema).await;
    let guard = admitted_guard(&app, tenant.id).await.unwrap();
    let tx = guard.read().await.unwrap();
    let started = Instant::now();
    let slept = execute_sql(&tx, "select pg_sleep(10)").await;
    assert_eq!(slept, Err(Error::Timeout));
    assert!(started.elapsed() < Duration::from_secs(1));
    guard.rollback().await;
    drop((tx, guard));
    assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
}

/// Somebody who may, such as an operator, cancels a statement or ends its session: the request can be repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_is_cancelled_from_outside_can_be_repeated() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let tenant = tenant_with_patient(site, &app, TenancyModel::Database).await;
    let superuser = site.superuser(&tenant.placement.as_ref().unwrap().database).await;
    for end in ["pg_cancel_backend", "pg_terminate_backend"] {
        let guard = admitted_guard(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        let ended = async {
            let sql = format!(
                "select count({end}(pid)) from pg_stat_activity
                 where datname = current_database() and query like 'select pg_sleep(10)%'"
            );
            while superuser.query_one(&sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (slept, ()) = futures_util::join!(execute_sql(&tx, "select pg_sleep(10)"), ended);
        assert_eq!(slept, Err(Error::Unavailable), "{end}");
        guard.rollback().await;
        drop((tx, guard));
        assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampered_rows_are_never_returned() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let tenant = tenant_with_patient(site, &app, TenancyModel::Schema).await;
    let sound = tenant_with_patient(site, &app, TenancyModel::Schema).await;
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
    assert_eq!(patient_names(&app, tenant.id).await, Err(Error::Integrity));
    assert!(integrity_failures() > before, "the failure is counted");
    assert_eq!(patient_names(&app, sound.id).await.unwrap(), from_ref(&sound.slug));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unaudited_reads_and_writes_fail() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let tenant = tenant_with_patient(site, &app, TenancyModel::Schema).await;
    let placement = tenant.placement.clone().unwrap();
    let (schema, inside) = (placement.schema, site.superuser(&placement.database).await);
    inside.batch_execute(&format!("revoke insert on {schema}.audit_log from cordon_guard")).await.unwrap();
    let guard = admitted_guard(&app, tenant.id).await.unwrap();
    assert_eq!(patient_names_in(&guard.read().await.unwrap()).await.unwrap(), from_ref(&tenant.slug));
    assert_eq!(guard.finish().await, Err(Error::Internal), "without an audit row no data is returned");
    assert_eq!(insert_patient(&app, tenant.id, Uuid::now_v7(), "unaudited").await, Err(Error::Internal));
    inside.batch_execute(&format!("grant insert on {schema}.audit_log to cordon_guard")).await.unwrap();
    assert_eq!(patient_names(&app, tenant.id).await.unwrap(), from_ref(&tenant.slug), "nothing was written");
}

/// Creates a tenant with one patient, whose name is the slug of the tenant, and reads it once.
async fn tenant_with_patient(site: &Site, app: &Arc<App>, model: TenancyModel) -> Tenant {
    let tenant = site.tenant(model).await;
    insert_patient(app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
    assert_eq!(patient_names(app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    tenant
}
