//! Who comes next to a PostgreSQL server. So many transactions run there at once; a tenant may have half of them, and all but one
//! while nobody else asks. A turn goes to the tenant that runs least, so whoever seldom asks comes next; within a tenant: first come, first served.

use crate::ids::TenantId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// For as long as this after it last asked, a tenant is there for the others: one who asks now and then finds its half free.
const QUIET: Duration = Duration::from_secs(1);

/// The turns at one server. What waits for them is in memory alone.
pub struct Turns {
    at_once: usize,
    line: Mutex<Line>,
}

/// Leave to run one transaction, until it is dropped.
pub struct Turn {
    turns: Arc<Turns>,
    tenant: TenantId,
}

struct Line {
    running: usize,
    waiting: usize,
    tenants: HashMap<TenantId, Place>,
    swept: Instant,
}

struct Place {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    asked: Instant,
}

impl Turns {
    /// Nobody has come yet. At least one transaction may run.
    pub fn new(at_once: usize) -> Arc<Self> {
        let line = Line { running: 0, waiting: 0, tenants: HashMap::new(), swept: Instant::now() };
        Arc::new(Self { at_once: at_once.max(1), line: Mutex::new(line) })
    }

    /// A turn for the tenant, as soon as it has one. Whoever no longer waits gives up their place.
    pub async fn next(self: &Arc<Self>, tenant: TenantId) -> Turn {
        let waits = {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.come(tenant, self.at_once, Instant::now())
        };
        match waits {
            None => Turn { turns: Arc::clone(self), tenant },
            // The place is in the line, which is here as long as `self`, and nobody else drops it while someone waits.
            Some(mut turn) => match (&mut turn).await {
                Ok(turn) => turn,
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// How many wait for a turn.
    pub fn waiting(&self) -> usize {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.tenants.values().flat_map(|place| &place.waiting).filter(|waits| !waits.is_closed()).count()
    }

    /// Gives free turns to those who wait.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = self.line.lock().unwrap_or_else(PoisonError::into_inner).call(self.at_once);
            let Some((tenant, waits)) = next else { return };
            // Who went away just now gives the turn back: it is dropped, without the lock.
            drop(waits.send(Turn { turns: Arc::clone(self), tenant }));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.line.lock().unwrap_or_else(PoisonError::into_inner).go(self.tenant);
        self.turns.pass_on();
    }
}

impl Line {
    /// Counts one more who runs, or puts them behind those of their tenant who wait.
    fn come(&mut self, tenant: TenantId, at_once: usize, now: Instant) -> Option<oneshot::Receiver<Turn>> {
        if now.duration_since(self.swept) >= QUIET {
            let here = |place: &Place| place.running > 0 || place.waits() || now.duration_since(place.asked) < QUIET;
            self.tenants.retain(|_, place| here(place));
            self.waiting = self.tenants.values().map(|place| place.waiting.len()).sum();
            self.swept = now;
        }
        let place = self.tenants.entry(tenant).or_insert_with(|| Place { running: 0, waiting: VecDeque::new(), asked: now });
        place.asked = now;
        let (behind, running) = (place.waits(), place.running);
        if !behind && self.running < at_once && running < self.part(at_once) {
            self.run(tenant);
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        if let Some(place) = self.tenants.get_mut(&tenant) {
            place.waiting.push_back(sender);
            self.waiting += 1;
        }
        Some(receiver)
    }

    /// One who waits and may run now, counted as running: of the tenant that runs least, and of those alike the one that asked longest ago.
    fn call(&mut self, at_once: usize) -> Option<(TenantId, oneshot::Sender<Turn>)> {
        if self.waiting == 0 || self.running >= at_once {
            return None;
        }
        let part = self.part(at_once);
        let may = self.tenants.iter().filter(|(_, place)| place.running < part && place.waits());
        let tenant = may.min_by_key(|(_, place)| (place.running, place.asked)).map(|(tenant, _)| *tenant)?;
        let place = self.tenants.get_mut(&tenant)?;
        let next = loop {
            self.waiting -= 1;
            match place.waiting.pop_front()? {
                gone if gone.is_closed() => {}
                next => break next,
            }
        };
        self.run(tenant);
        Some((tenant, next))
    }

    fn run(&mut self, tenant: TenantId) {
        if let Some(place) = self.tenants.get_mut(&tenant) {
            place.running += 1;
            self.running += 1;
        }
    }

    fn go(&mut self, tenant: TenantId) {
        if let Some(place) = self.tenants.get_mut(&tenant) {
            place.running -= 1;
            self.running -= 1;
        }
    }

    /// What one tenant may run at once.
    fn part(&self, at_once: usize) -> usize {
        match self.tenants.len() {
            // However long what is alone takes, the next one finds a turn.
            0 | 1 => at_once.saturating_sub(1).max(1),
            _ => at_once.div_ceil(2),
        }
    }
}

impl Place {
    fn waits(&self) -> bool {
        self.waiting.iter().any(|waits| !waits.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    fn asks(turns: &Arc<Turns>, tenant: TenantId) -> BoxFuture<'static, Turn> {
        let turns = Arc::clone(turns);
        async move { turns.next(tenant).await }.boxed()
    }

    /// Asks so often; who comes at once, and who waits.
    fn many(turns: &Arc<Turns>, tenant: TenantId, count: usize) -> (Vec<Turn>, Vec<BoxFuture<'static, Turn>>) {
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

    #[test]
    fn who_is_alone_leaves_one_and_gives_back_half() {
        let turns = Turns::new(4);
        let (noisy, quiet) = (TenantId::new(), TenantId::new());
        let (mut run, mut wait) = many(&turns, noisy, 10);
        assert_eq!((run.len(), wait.len(), turns.waiting()), (3, 7, 7));
        let (mine, mut others) = many(&turns, quiet, 4);
        assert_eq!((mine.len(), others.len()), (1, 3), "one was left");
        run.truncate(2);
        let come = |waits: &mut Vec<BoxFuture<'static, Turn>>| {
            let at = waits.iter_mut().map(|asks| asks.now_or_never()).collect::<Vec<_>>();
            let held: Vec<Turn> = at.into_iter().flatten().collect();
            waits.drain(..held.len());
            held
        };
        let theirs = come(&mut others);
        assert_eq!((theirs.len(), come(&mut wait).len()), (1, 0), "what the noisy one ends goes to whoever runs least");
        drop((mine, theirs));
        let theirs = come(&mut others);
        assert_eq!((theirs.len(), come(&mut wait).len()), (2, 0));
        drop(theirs);
        assert_eq!(come(&mut wait).len(), 0, "half of them, while another was there in the last second");
        drop(run);
        assert_eq!(come(&mut wait).len(), 2);
    }

    #[test]
    fn within_a_tenant_first_come_first_served() {
        let turns = Turns::new(1);
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
        let turns = Turns::new(3);
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
        let line = turns.line.lock().unwrap();
        assert_eq!((line.running, line.tenants.values().map(|place| place.running).sum::<usize>()), (0, 0));
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut line = Line { running: 0, waiting: 0, tenants: HashMap::new(), swept: Instant::now() };
        let now = Instant::now();
        for second in 0..100 {
            let tenant = TenantId::new();
            assert!(line.come(tenant, 4, now + Duration::from_secs(second)).is_none());
            line.go(tenant);
        }
        assert!(line.tenants.len() <= 2, "{} tenants are known", line.tenants.len());
    }
}
