//! Who comes next to a PostgreSQL server. So many transactions run there at once; a tenant may have half of them, and all while nobody else
//! asks, but the last free turn is for one that runs none. A turn goes to the tenant that runs least, and of those alike to whoever waits
//! longest; within a tenant: first come, first served.

use crate::ids::TenantId;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// For as long as this after it last asked, a tenant is there for the others: one who asks now and then finds its half free.
const QUIET: Duration = Duration::from_secs(1);

/// The turns at one server. What waits for them is in memory alone.
pub struct FairQueue {
    line: Mutex<Line>,
}

/// Leave to run one transaction, until it is dropped.
pub struct FairQueuePermit {
    turns: Arc<FairQueue>,
    tenant: TenantId,
}

struct Line {
    at_once: usize,
    running: usize,
    tenants: HashMap<TenantId, Place>,
    swept: Instant,
}

struct Place {
    running: usize,
    waiting: VecDeque<Waiting>,
    asked: Instant,
}

struct Waiting {
    since: Instant,
    turn: oneshot::Sender<FairQueuePermit>,
}

impl FairQueue {
    /// Nobody has come yet. At least one transaction may run.
    pub fn new(at_once: usize) -> Arc<Self> {
        let line = Line { at_once: at_once.max(1), running: 0, tenants: HashMap::new(), swept: Instant::now() };
        Arc::new(Self { line: Mutex::new(line) })
    }

    /// A turn for the tenant, as soon as it has one. Whoever no longer waits gives up their place.
    pub async fn next(self: &Arc<Self>, tenant: TenantId) -> FairQueuePermit {
        let waits = self.line.lock().come(tenant, Instant::now());
        self.pass_on();
        match waits.await {
            Ok(turn) => turn,
            // The line keeps who waits in it for as long as they wait.
            Err(_) => std::future::pending().await,
        }
    }

    /// How many wait for a turn.
    pub fn waiting(&self) -> usize {
        let line = self.line.lock();
        line.tenants.values().flat_map(|place| &place.waiting).filter(|waiting| !waiting.turn.is_closed()).count()
    }

    /// Gives free turns to those who wait.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = self.line.lock().call();
            let Some((tenant, waits)) = next else { return };
            // Who went away just now gives the turn back: it is dropped, without the lock.
            drop(waits.send(FairQueuePermit { turns: Arc::clone(self), tenant }));
        }
    }
}

impl Drop for FairQueuePermit {
    fn drop(&mut self) {
        self.turns.line.lock().go(self.tenant);
        self.turns.pass_on();
    }
}

impl Line {
    /// One more who waits, behind those of their tenant.
    fn come(&mut self, tenant: TenantId, now: Instant) -> oneshot::Receiver<FairQueuePermit> {
        if now.duration_since(self.swept) >= QUIET {
            self.tenants.retain(|_, place| {
                place.waiting.retain(|waiting| !waiting.turn.is_closed());
                place.running > 0 || !place.waiting.is_empty() || now.duration_since(place.asked) < QUIET
            });
            self.swept = now;
        }
        let (turn, waits) = oneshot::channel();
        let place =
            self.tenants.entry(tenant).or_insert_with(|| Place { running: 0, waiting: VecDeque::new(), asked: now });
        place.asked = now;
        place.waiting.push_back(Waiting { since: now, turn });
        waits
    }

    /// One who waits and may run now, counted as running.
    fn call(&mut self) -> Option<(TenantId, oneshot::Sender<FairQueuePermit>)> {
        let free = self.at_once.saturating_sub(self.running);
        if free == 0 {
            return None;
        }
        let part = if self.tenants.len() > 1 { self.at_once.div_ceil(2) } else { self.at_once };
        let wanted = |place: &Place| place.running == 0 || free > 1 && place.running < part;
        let first = self.tenants.iter_mut().filter(|(_, place)| wanted(place));
        let first = first.filter_map(|(tenant, place)| Some(((place.running, place.first()?), *tenant)));
        let (_, tenant) = first.min_by_key(|(turn, _)| *turn)?;
        let place = self.tenants.get_mut(&tenant)?;
        let next = place.waiting.pop_front()?;
        place.running += 1;
        self.running += 1;
        Some((tenant, next.turn))
    }

    fn go(&mut self, tenant: TenantId) {
        if let Some(place) = self.tenants.get_mut(&tenant) {
            place.running -= 1;
            self.running -= 1;
        }
    }
}

impl Place {
    /// Since when the first waits who still does.
    fn first(&mut self) -> Option<Instant> {
        while self.waiting.front()?.turn.is_closed() {
            self.waiting.pop_front();
        }
        self.waiting.front().map(|waiting| waiting.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    fn asks(turns: &Arc<FairQueue>, tenant: TenantId) -> BoxFuture<'static, FairQueuePermit> {
        let turns = Arc::clone(turns);
        async move { turns.next(tenant).await }.boxed()
    }

    /// Asks so often; who comes at once, and who waits.
    fn many(
        turns: &Arc<FairQueue>,
        tenant: TenantId,
        count: usize,
    ) -> (Vec<FairQueuePermit>, Vec<BoxFuture<'static, FairQueuePermit>>) {
        let (mut run, mut wait) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut asks = asks(turns, tenant);
            match (&mut asks).now_or_never() {
                Some(turn) => run.push(turn),
                None => wait.push(asks),
            }
        }
        (run, wait)
    }

    /// Those of them who have come to their turn.
    fn come(waits: &mut Vec<BoxFuture<'static, FairQueuePermit>>) -> Vec<FairQueuePermit> {
        let (mut run, mut wait) = (Vec::new(), Vec::new());
        for mut asks in waits.drain(..) {
            match (&mut asks).now_or_never() {
                Some(turn) => run.push(turn),
                None => wait.push(asks),
            }
        }
        *waits = wait;
        run
    }

    #[test]
    fn the_last_turn_is_for_who_runs_none() {
        let turns = FairQueue::new(4);
        let (noisy, quiet, third) = (TenantId::new(), TenantId::new(), TenantId::new());
        let (mut run, mut wait) = many(&turns, noisy, 10);
        assert_eq!((run.len(), wait.len(), turns.waiting()), (3, 7, 7), "alone: all but one");
        let (mine, mut others) = many(&turns, quiet, 4);
        assert_eq!((mine.len(), others.len()), (1, 3), "which is for the next");
        run.truncate(2);
        assert_eq!((come(&mut others).len(), come(&mut wait).len()), (0, 0), "and then for one more");
        let (last, _) = many(&turns, third, 2);
        assert_eq!(last.len(), 1);
        drop(last);
        run.clear();
        let theirs = come(&mut wait);
        assert_eq!((come(&mut others).len(), theirs.len()), (0, 2), "half, while others ask");
        drop((theirs, mine));
        assert_eq!(come(&mut others).len(), 1, "whoever runs least is next");
    }

    #[test]
    fn of_those_alike_whoever_waits_longest() {
        let turns = FairQueue::new(1);
        let tenants: Vec<_> = (0..3).map(|_| TenantId::new()).collect();
        let (run, _) = many(&turns, tenants[0], 1);
        let mut waits: Vec<_> = tenants.iter().map(|tenant| many(&turns, *tenant, 1).1.remove(0)).collect();
        // That it asks again makes no one wait longer.
        let _again = many(&turns, tenants[0], 3);
        drop(run);
        while !waits.is_empty() {
            let turn = waits.remove(0).now_or_never();
            assert!(
                turn.is_some() && waits.iter_mut().all(|asks| asks.now_or_never().is_none()),
                "{} left",
                waits.len()
            );
        }
    }

    #[test]
    fn within_a_tenant_first_come_first_served() {
        let turns = FairQueue::new(1);
        let tenant = TenantId::new();
        let (run, mut wait) = many(&turns, tenant, 3);
        drop(run);
        assert!((&mut wait[1]).now_or_never().is_none(), "another was first");
        let first = (&mut wait[0]).now_or_never();
        assert!(first.is_some());
        assert!(many(&turns, tenant, 1).0.is_empty(), "whoever comes now is behind those who wait");
    }

    #[test]
    fn who_goes_away_takes_no_turn_along() {
        let turns = FairQueue::new(3);
        let tenants = [TenantId::new(), TenantId::new(), TenantId::new()];
        let (run, mut wait) = many(&turns, tenants[0], 2);
        for tenant in tenants {
            wait.extend(many(&turns, tenant, 5).1);
        }
        // Some while they wait, some with a turn they have not yet taken.
        wait.truncate(8);
        drop(run);
        wait.clear();
        assert_eq!(turns.waiting(), 0);
        assert_eq!(many(&turns, tenants[1], 1).0.len(), 1);
        let line = turns.line.lock();
        assert_eq!((line.running, line.tenants.values().map(|place| place.running).sum::<usize>()), (0, 0));
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let turns = FairQueue::new(4);
        let now = Instant::now();
        let mut line = turns.line.lock();
        for second in 0..100 {
            let tenant = TenantId::new();
            let _gone = line.come(tenant, now + Duration::from_secs(second));
            if second % 2 == 0 {
                assert!(line.call().is_some());
                line.go(tenant);
            }
        }
        assert!(line.tenants.len() <= 2, "{} tenants are known", line.tenants.len());
    }
}
