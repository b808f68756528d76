//! L-2: work given up at any point leaves nothing behind: no open transaction, no half of a write, no tenant for the next borrower.
//! A future is dropped after its 1st, 2nd, … poll, at once or when it is woken next, until it finishes once.

use crate::site::{MODELS, Site, actor, admitted, insert, names, plant, seen, statement};
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

/// When a future is dropped after its last poll.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dropped {
    /// What it just sent may not even have left.
    AtOnce,
    /// The answer it waited for is there, unread.
    WhenWoken,
}

/// Polls a future so many times and no more; `None` when that was not enough.
struct Fuse<'a, T> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>,
    polls: usize,
    dropped: Dropped,
}

impl<T> Future for Fuse<'_, T> {
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

/// One after the other, because each looks at what all backends of the cluster do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l02_cancelled_anywhere() {
    let (_cluster, site) = Site::alone("cancelled").await;
    let superuser = site.superuser("postgres").await;
    reads_leave_nothing(&site, &superuser).await;
    writes_are_whole_or_absent(&site, &superuser).await;
    the_server_stops_what_nobody_waits_for(&site, &superuser).await;
}

async fn reads_leave_nothing(site: &Site, superuser: &Client) {
    let mut tenants = Vec::new();
    for model in MODELS {
        let tenant = site.tenant(model).await;
        plant(&pool_of_one(site), tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
        tenants.push(tenant);
    }
    let before = closed_unclean();
    for (at, tenant) in tenants.iter().enumerate() {
        let neighbour = &tenants[(at + 1) % tenants.len()];
        for (dropped, warm) in
            [(Dropped::AtOnce, true), (Dropped::WhenWoken, true), (Dropped::AtOnce, false), (Dropped::WhenWoken, false)]
        {
            if at == 0 && !warm {
                continue; // As for a schema tenant: the same pool.
            }
            let warm_app = warm.then(|| pool_of_one(site));
            let (mut polls, mut finished) = (0, None);
            while finished.is_none() {
                polls += 1;
                assert!(polls < 200, "a read that takes 200 polls");
                let app = warm_app.clone().unwrap_or_else(|| pool_of_one(site));
                finished = Fuse { future: Some(Box::pin(read_twice(&app, tenant.id))), polls, dropped }.await;
                settled(superuser).await;
                borrowed_by(&app, &[neighbour, tenant]).await;
            }
            assert_eq!(finished.unwrap().unwrap(), [tenant.slug.clone(), tenant.slug.clone()]);
            let pools = if warm { "warm" } else { "cold" };
            println!(
                "{} tenant, {pools}: a read dropped after each of its {polls} polls, {dropped:?}",
                tenant.placement.as_ref().unwrap().model
            );
        }
    }
    // How many polls a read takes varies with what else runs, so not each of these ways need meet it with its transaction open; most do.
    assert!(closed_unclean() >= before + 10, "what was given up is closed and counted");
}

async fn writes_are_whole_or_absent(site: &Site, superuser: &Client) {
    for model in MODELS {
        let tenant = site.tenant(model).await;
        let placement = tenant.placement.clone().unwrap();
        let inside = site.superuser(&placement.database).await;
        let app = pool_of_one(site);
        let mut kept = 0;
        for dropped in [Dropped::AtOnce, Dropped::WhenWoken] {
            let (mut polls, mut finished) = (0, None);
            while finished.is_none() {
                polls += 1;
                assert!(polls < 200, "a write that takes 200 polls");
                let ids = [Uuid::now_v7(), Uuid::now_v7()];
                finished = Fuse { future: Some(Box::pin(write_two(&app, tenant.id, ids))), polls, dropped }.await;
                settled(superuser).await;
                let stored = stored(&inside, placement.schema.as_str(), ids).await;
                assert!(
                    [(0, 0), (2, 2)].contains(&stored),
                    "{stored:?}: rows, and rows that the audit log names, after poll {polls}"
                );
                kept += usize::from(stored == (2, 2)) * 2;
                assert_eq!(names(&app, tenant.id).await.unwrap().len(), kept);
            }
            assert_eq!(finished, Some(Ok(())));
            println!("{model} tenant: a write dropped after each of its {polls} polls, {dropped:?}");
        }
    }
}

async fn the_server_stops_what_nobody_waits_for(site: &Site, superuser: &Client) {
    let tenant = site.tenant(MODELS[0]).await;
    let app = pool_of_one(site);
    plant(&app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
    for elsewhere in [false, true] {
        let guard = admitted(&app, tenant.id).await.unwrap();
        let tx = guard.read().await.unwrap();
        let sleeps = statement(&tx, "select pg_sleep(20)");
        assert!(tokio::time::timeout(Duration::from_millis(300), sleeps).await.is_err());
        assert_eq!(busy(superuser).await, 1);
        let began = Instant::now();
        match elsewhere {
            false => drop((tx, guard)),
            // Where there is no runtime to send the cancellation from.
            true => std::thread::spawn(move || drop((tx, guard))).join().unwrap(),
        }
        settled(superuser).await;
        assert!(began.elapsed() < Duration::from_secs(1), "stopped after {:?}", began.elapsed());
        borrowed_by(&app, &[&tenant]).await;
    }
}

/// Everything a request does: in at the door, two queries, audit and commit.
async fn read_twice(app: &App, tenant: TenantId) -> Result<Vec<String>> {
    let guard = admitted(app, tenant).await?;
    let tx = guard.read().await?;
    let mut names = seen(&tx).await?;
    names.extend(seen(&tx).await?);
    guard.finish().await?;
    Ok(names)
}

async fn write_two(app: &App, tenant: TenantId, ids: [Uuid; 2]) -> Result<()> {
    let tx = app.guards.work(tenant, &actor(tenant, "clinician"), TxKind::Import, RequestId::new()).await?;
    for id in ids {
        insert(&tx, id, "someone").await?;
    }
    tx.commit().await
}

fn pool_of_one(site: &Site) -> Arc<App> {
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    App::new(settings, BootCheck::Dev).unwrap()
}

/// The next borrowers of the one backend see what is theirs and nothing else.
async fn borrowed_by(app: &App, tenants: &[&Tenant]) {
    for tenant in tenants {
        assert_eq!(names(app, tenant.id).await.unwrap(), from_ref(&tenant.slug));
    }
}

/// Waits until no backend of the server's logins runs anything or is in a transaction.
async fn settled(superuser: &Client) {
    let began = Instant::now();
    while busy(superuser).await > 0 {
        assert!(began.elapsed() < Duration::from_secs(2), "a transaction is still open after 2 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn busy(superuser: &Client) -> i64 {
    let count = "select count(*) from pg_stat_activity where (usename = 'cordon_app' or usename like 'cordon\\_t\\_%') and state <> 'idle'";
    superuser.query_one(count, &[]).await.unwrap().get(0)
}

/// How many of these patients there are, and how many of them the audit log names.
async fn stored(inside: &Client, schema: &str, ids: [Uuid; 2]) -> (i64, i64) {
    let text = format!(
        "select (select count(*) from {schema}.patients where id = any ($1::text[]::uuid[])),
           (select count(distinct r) from {schema}.audit_log, unnest(resource_ids) r where action = 'insert' and r = any ($1::text[]::uuid[]))"
    );
    let row = inside.query_one(&text, &[&ids.map(|id| id.to_string()).to_vec()]).await.unwrap();
    (row.get(0), row.get(1))
}
