//! Health endpoints: what a replica reports without authentication, and within a bounded time, when its dependencies
//! are unavailable.

use crate::support::options;
use crate::support::server::TestServer;
use crate::support::site::{Site, insert_patient, patient_names};
use cordon::cluster::Cluster;
use cordon::db::connect;
use cordon::db::migrate::Direction;
use cordon::isolation::BootCheck;
use cordon::ops::operator::fresh_password;
use cordon::ops::{migrate, provision, server};
use cordon::tenant::{TenancyModel, own_database_name};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Returns the status, the report and whether there is a `Retry-After`. The body must not name addresses, logins or
/// tenants.
async fn get(server: &TestServer<'_>, path: &str) -> (u16, Value, bool) {
    let answer = server.http.get(server.url.replace("/graphql", path)).send().await.unwrap();
    let (status, retry) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
    let body = answer.text().await.unwrap();
    for word in ["127.0.0.1", "postgres", "main", "east", "clinic", "cordon_", "/", "password"] {
        assert!(!body.contains(word), "{word} in {body}");
    }
    (status, serde_json::from_str(&body).unwrap(), retry)
}

/// Repeats `/readyz` until the report is as expected, and returns it. A report is cached for a second.
async fn wait_for_report(server: &TestServer<'_>, status: u16, expected: &[(&str, &str)]) -> Value {
    let started = Instant::now();
    loop {
        let requested_at = Instant::now();
        let (code, report, retry) = get(server, "/readyz").await;
        assert!(requested_at.elapsed() < Duration::from_secs(3), "answered after {:?}", requested_at.elapsed());
        assert_eq!(get(server, "/healthz").await.0, 200, "the process is alive whatever its dependencies do");
        if code == status
            && expected.iter().all(|(name, value)| report[name].as_str().is_some_and(|text| text.starts_with(value)))
        {
            assert_eq!(retry, status == 503);
            return report;
        }
        assert!(started.elapsed() < Duration::from_secs(8), "{expected:?}: {code} {report}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_names_unavailable_dependencies() {
    let (_first, site) = Site::with_own_cluster("health").await;
    let second = Cluster::start(&options("health-east")).unwrap();
    let east = connect::parse(&second.superuser_url("postgres")).unwrap();
    server::add(&site.operator, "east", &east, &fresh_password()).await.unwrap();
    let tenant = site.tenant(TenancyModel::Schema).await;
    let server = TestServer::of(&site);
    insert_patient(&server.app, tenant.id, Uuid::now_v7(), "someone").await.unwrap();
    assert_eq!(get(&server, "/healthz").await.1, json!({ "status": "ok" }));
    let all = json!({ "status": "ready", "catalog": "ok", "keys": "ok", "databases": "ok", "audit": "ok" });
    assert_eq!(wait_for_report(&server, 200, &[("status", "ready")]).await, all);
    let lines = server.http.get(server.url.replace("/graphql", "/readyz")).send().await.unwrap().text().await.unwrap();
    assert_eq!(lines.lines().count(), 7, "one line per check: {lines}");
    for (path, method) in [("/readyz", "POST"), ("/healthz", "DELETE")] {
        let answer =
            server.http.request(method.parse().unwrap(), server.url.replace("/graphql", path)).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    }
    let head = server.http.head(server.url.replace("/graphql", "/readyz")).send().await.unwrap();
    assert_eq!(head.status().as_u16(), 200);

    // A thousand requests cause one check per second.
    let superuser = site.superuser("postgres").await;
    let sessions = async || -> i64 {
        let count = "select sessions from pg_stat_database where datname = 'cordon_data'";
        tokio::time::sleep(Duration::from_millis(1500)).await;
        superuser.query_one(count, &[]).await.unwrap().get(0)
    };
    let (before, started) = (sessions().await, Instant::now());
    for _ in 0..10 {
        futures_util::future::join_all((0..100).map(|_| get(&server, "/readyz"))).await;
    }
    let opened = sessions().await - before;
    println!("1,000 requests in {:?} opened {opened} sessions", started.elapsed());
    assert!(u64::try_from(opened).unwrap() <= started.elapsed().as_secs() + 2, "{opened}");

    // One PostgreSQL server that hangs, and then is down: tenants on the other server are served.
    let pid = Pid::from_raw(second.pid().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    wait_for_report(&server, 200, &[("status", "degraded"), ("databases", "1 of 2 failing")]).await;
    kill(pid, Signal::SIGCONT).unwrap();
    wait_for_report(&server, 200, &[("status", "ready")]).await;
    second.stop();
    wait_for_report(&server, 200, &[("status", "degraded"), ("databases", "1 of 2 failing"), ("audit", "ok")]).await;
    assert_eq!(patient_names(&server.app, tenant.id).await.unwrap(), ["someone"]);

    // The other server cannot load plpgsql, as during an upgrade of its packages. `select 1` still works.
    let data = site.superuser("cordon_data").await;
    let handler = |path: &str| {
        format!(
            "set allow_system_table_mods = on; update pg_proc set probin = '$libdir/{path}' where proname = \
             'plpgsql_call_handler'"
        )
    };
    data.batch_execute(&handler("nowhere")).await.unwrap();
    site.superuser("cordon_data").await.batch_execute("select 1").await.unwrap();
    wait_for_report(&server, 503, &[("status", "not_ready"), ("databases", "failing"), ("keys", "ok")]).await;
    data.batch_execute(&handler("plpgsql")).await.unwrap();
    wait_for_report(&server, 200, &[("databases", "1 of 2 failing")]).await;

    // The key file and the catalog are unavailable in turn.
    let keys = site.settings.keys.file.clone().unwrap();
    std::fs::rename(&keys, keys.with_extension("aside")).unwrap();
    wait_for_report(
        &server,
        503,
        &[("status", "not_ready"), ("catalog", "ok"), ("keys", "failing"), ("databases", "unknown")],
    )
    .await;
    std::fs::rename(keys.with_extension("aside"), &keys).unwrap();
    for (away, status) in [(true, 503), (false, 200)] {
        let text = format!(
            "alter database cordon_control allow_connections {}; \
             select pg_terminate_backend(pid) from pg_stat_activity where datname = 'cordon_control' and {away}",
            !away
        );
        superuser.batch_execute(&text).await.unwrap();
        wait_for_report(&server, status, &[("catalog", if away { "failing" } else { "ok" })]).await;
    }
    // Audit partitions that end soon are reported and do not make the replica unready.
    let years = "do $$ declare t text; begin for t in select relname from pg_class where relname ~ \
        '^audit_log_\\d{4}$' and relkind = 'r'
        and relnamespace = 'shared'::regnamespace loop execute 'drop table shared.' || t; end loop; end $$";
    data.batch_execute(years).await.unwrap();
    wait_for_report(&server, 200, &[("status", "degraded"), ("audit", "partitions end in 0 days")]).await;
    // `cordon migrate up` creates the partitions again, even when there is nothing else to migrate.
    let _second = Cluster::start(&options("health-east")).unwrap();
    let own = site.tenant(TenancyModel::Database).await;
    for target in migrate::targets(&site.operator).await.unwrap() {
        assert!(migrate::run(&site.operator, &target, Direction::Up).await.unwrap().is_empty());
    }
    wait_for_report(&server, 200, &[("status", "ready"), ("audit", "ok")]).await;
    // The same is checked in a tenant's own database, in a later check.
    let inside = site.superuser(&own_database_name(own.id)).await;
    inside.batch_execute(&years.replace("shared", "tenant")).await.unwrap();
    wait_for_report(&server, 200, &[("status", "ready"), ("audit", "partitions end in 0 days")]).await;
    // The suspension of a tenant does not affect health.
    provision::suspend(&site.operator, &own.slug).await.unwrap();
    wait_for_report(&server, 200, &[("status", "ready"), ("audit", "ok")]).await;
}

/// A replica whose sessions are all in use is ready.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_replica_is_ready() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    (settings.database.backends, settings.database.connect_timeout_ms) = (2, 300);
    let server = TestServer::start(site, settings, BootCheck::Dev);
    let tenants = [site.tenant(TenancyModel::Shared).await, site.tenant(TenancyModel::Schema).await];
    let mut guards = Vec::new();
    for tenant in &tenants {
        let guard = crate::support::site::admitted_guard(&server.app, tenant.id).await.unwrap();
        crate::support::site::patient_names_in(&guard.read().await.unwrap()).await.unwrap();
        guards.push(guard);
    }
    assert!(patient_names(&server.app, tenants[0].id).await.is_err(), "no session is left");
    wait_for_report(&server, 200, &[("status", "ready")]).await;
}
