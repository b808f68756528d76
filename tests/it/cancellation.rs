//! L-2: a request that is cancelled at any point leaves nothing behind: no open transaction, no partial write, and no
//! tenant bound on the session of the next request. A future is dropped after its first, second, … poll, at once or
//! when it is woken, until it finishes once.

use crate::support::site::{
    MODELS, Site, actor, admitted_guard, execute_sql, insert_patient, insert_patient_row, patient_names,
    patient_names_in,
};
use cordon::app::App;
use cordon::db::pool::closed_unclean;
use cordon::error::Result;
use cordon::guard::TxKind;
use cordon::ids::{RequestId, TenantId};
use cordon::isolation::BootCheck;
use cordon::tenant::Tenant;
use std::pin::Pin;
use std::slice::from_ref;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use uuid::Uuid;

/// When a future is dropped after its last permitted poll.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dropped {
    /// Immediately. What it sent may still be in its buffer.
    AtOnce,
    /// When it is woken. The data it waited for has arrived and is unread.
    WhenWoken,
}

/// Polls a future a limited number of times. Its output is `None` when that was not enough.
struct PollLimit<'a, T> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>,
    polls: usize,
    dropped: Dropped,
}

impl<T> Future for PollLimit<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if self.polls > 0 {
            self.polls -= 1;
            if let Poll::Ready(value) = self.future.as_mut().unwrap().as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            if self.polls > 0 || self.dropped == Dropped::WhenWoken {
                return Poll::Pending;
            }
        }
        self.future = None;
        Poll::Ready(None)
    }
}

/// The three parts run one after the other, because each observes all backends of the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l02_cancellation_at_any_point_leaves_nothing_behind() {
    let (_cluster, site) = Site::with_own_cluster("cancelled").await;
    let superuser = site.superuser("postgres").await;
    cancelled_reads_leave_nothing(&site, &superuser).await;
    cancelled_writes_are_complete_or_absent(&site, &superuser).await;
    cancelled_statements_end_in_postgresql(&site, &superuser).await;
}

async fn cancelled_reads_leave_nothing(site: &Site, superuser: &Client) {
    let mut tenants = Vec::new();
    for model in MODELS {
        let tenant = site.tenant(model).await;
        insert_patient(&app_with_one_session(site), tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
        tenants.push(tenant);
    }
    let before = closed_unclean();
    for (at, tenant) in tenants.iter().enumerate() {
        let neighbour = &tenants[(at + 1) % tenants.len()];
        for (dropped, warm) in
            [(Dropped::AtOnce, true), (Dropped::WhenWoken, true), (Dropped::AtOnce, false), (Dropped::WhenWoken, false)]
        {
            if at == 0 && !warm {
                continue; // The shared model uses the same pool as the schema model.
            }
            let warm_app = warm.then(|| app_with_one_session(site));
            let (mut polls, mut finished) = (0, None);
            while finished.is_none() {
                polls += 1;
                assert!(polls < 200, "a read that takes 200 polls");
                let app = warm_app.clone().unwrap_or_else(|| app_with_one_session(site));
                finished = PollLimit { future: Some(Box::pin(read_twice(&app, tenant.id))), polls, dropped }.await;
                wait_until_idle(superuser).await;
                assert_next_requests_are_right(&app, &[neighbour, tenant]).await;
            }
            assert_eq!(finished.unwrap().unwrap(), [tenant.slug.clone(), tenant.slug.clone()]);
            let pools = if warm { "warm" } else { "cold" };
            println!(
                "{} tenant, {pools}: a read dropped after each of its {polls} polls, {dropped:?}",
                tenant.placement.as_ref().unwrap().model
            );
        }
    }
    // The number of polls of a read varies with the load, so not every drop happens while the transaction is open; most
    // do.
    assert!(closed_unclean() >= before + 10, "sessions of cancelled requests are closed and counted");
}

async fn cancelled_writes_are_complete_or_absent(site: &Site, superuser: &Client) {
    for model in MODELS {
        let tenant = site.tenant(model).await;
        let placement = tenant.placement.clone().unwrap();
        let inside = site.superuser(&placement.database).await;
        let app = app_with_one_session(site);
        let mut expected = 0;
        for dropped in [Dropped::AtOnce, Dropped::WhenWoken] {
            let (mut polls, mut finished) = (0, None);
            while finished.is_none() {
                polls += 1;
                assert!(polls < 200, "a write that takes 200 polls");
                let ids = [Uuid::now_v7(), Uuid::now_v7()];
                finished = PollLimit { future: Some(Box::pin(write_two(&app, tenant.id, ids))), polls, dropped }.await;
                wait_until_idle(superuser).await;
                let stored = stored(&inside, placement.schema.as_str(), ids).await;
                assert!(
                    [(0, 0), (2, 2)].contains(&stored),
                    "{stored:?}: rows, and rows that the audit log names, after poll {polls}"
                );
                expected += usize::from(stored == (2, 2)) * 2;
                assert_eq!(patient_names(&app, tenant.id).await.unwrap().len(), expected);
            }
            assert_eq!(finished, Some(Ok(())));
            println!("{model} tenant: a write dropped after each of its {polls} polls, {dropped:?}");
        }
    }
}

async fn cancelled_statements_end_in_postgresql(site: &Site, superuser: &Client) {
    let tenant = site.tenant(MODELS[0]).await;
    let app = app_with_one_session(site);
    insert_patient(&app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
    for elsewhere in [false, true] {
        let guard = admitted_guard(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        let sleeps = execute_sql(&tx, "select pg_sleep(20)");
        assert!(tokio::time::timeout(Duration::from_millis(300), sleeps).await.is_err());
        assert_eq!(count_busy_backends(superuser).await, 1);
        let started = Instant::now();
        match elsewhere {
            false => drop((tx, guard)),
            // Dropped on a thread without a runtime, from which the cancellation cannot be sent directly.
            true => std::thread::spawn(move || drop((tx, guard))).join().unwrap(),
        }
        wait_until_idle(superuser).await;
        assert!(started.elapsed() < Duration::from_secs(1), "stopped after {:?}", started.elapsed());
        assert_next_requests_are_right(&app, &[&tenant]).await;
    }
}

/// A whole request: admission, two queries, audit and commit.
async fn read_twice(app: &App, tenant: TenantId) -> Result<Vec<String>> {
    let guard = admitted_guard(app, tenant).await?;
    let tx = guard.read().await?;
    let mut names = patient_names_in(&tx).await?;
    names.extend(patient_names_in(&tx).await?);
    guard.finish().await?;
    Ok(names)
}

async fn write_two(app: &App, tenant: TenantId, ids: [Uuid; 2]) -> Result<()> {
    let tx = app.guards.begin_operation(tenant, &actor(tenant, "clinician"), TxKind::Import, RequestId::new()).await?;
    for id in ids {
        insert_patient_row(&tx, id, "someone").await?;
    }
    tx.commit().await
}

fn app_with_one_session(site: &Site) -> Arc<App> {
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    App::new(settings, BootCheck::Dev).unwrap()
}

/// Checks that the next requests on the session see the patients of their own tenant only.
async fn assert_next_requests_are_right(app: &App, tenants: &[&Tenant]) {
    for tenant in tenants {
        assert_eq!(patient_names(app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    }
}

/// Waits until all backends of the server's logins are idle and outside a transaction.
async fn wait_until_idle(superuser: &Client) {
    let started = Instant::now();
    while count_busy_backends(superuser).await > 0 {
        assert!(started.elapsed() < Duration::from_secs(2), "a transaction is still open after 2 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn count_busy_backends(superuser: &Client) -> i64 {
    let count = "select count(*) from pg_stat_activity where (usename = 'cordon_app' or usename like 'cordon\\_t\\_%') \
        and state <> 'idle'";
    superuser.query_one(count, &[]).await.unwrap().get(0)
}

/// Counts the stored patients among these ids, and those that the audit log names.
async fn stored(inside: &Client, schema: &str, ids: [Uuid; 2]) -> (i64, i64) {
    let text = format!(
        "select (select count(*) from {schema}.patients where id = any ($1::text[]::uuid[])),
           (select count(distinct r) from {schema}.audit_log, unnest(resource_ids) r where action = 'insert' and r = \
           any ($1::text[]::uuid[]))"
    );
    let row = inside.query_one(&text, &[&ids.map(|id| id.to_string()).to_vec()]).await.unwrap();
    (row.get(0), row.get(1))
}
