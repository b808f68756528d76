//! The fair queue of one PostgreSQL server: decides which tenant's transaction runs next.
//! The number of transactions that run at the same time is limited. A tenant may use half of them, or all while no
//! other tenant is active; but the last free slot is reserved for a tenant that runs none. A free slot goes to the
//! tenant that runs the fewest transactions and, among equals, to the one whose first caller has waited longest. Within
//! a tenant, callers are served in order of arrival.

use crate::ids::TenantId;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A tenant counts as active for this long after its last request, so that one who sends requests now and then finds
/// its half free.
const ACTIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The fair queue of one server. Its state is held in memory only.
pub struct FairQueue {
    state: Mutex<State>,
}

/// Permission to run one transaction. Dropping it frees the slot.
pub struct FairQueuePermit {
    queue: Arc<FairQueue>,
    tenant: TenantId,
}

struct State {
    max_running: usize,
    running: usize,
    tenants: HashMap<TenantId, TenantQueue>,
    last_cleanup: Instant,
}

struct TenantQueue {
    running: usize,
    waiters: VecDeque<Waiter>,
    last_request: Instant,
}

struct Waiter {
    since: Instant,
    sender: oneshot::Sender<FairQueuePermit>,
}

impl FairQueue {
    /// Creates an empty queue for a server that runs up to `max_running` transactions at the same time; at least one.
    pub fn new(max_running: usize) -> Arc<Self> {
        let state = State {
            max_running: max_running.max(1),
            running: 0,
            tenants: HashMap::new(),
            last_cleanup: Instant::now(),
        };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// Waits until the tenant may run one more transaction. Dropping the future leaves the queue.
    pub async fn acquire(self: &Arc<Self>, tenant: TenantId) -> FairQueuePermit {
        let receiver = self.state.lock().enqueue(tenant, Instant::now());
        self.dispatch();
        match receiver.await {
            Ok(permit) => permit,
            // Never happens: the queue keeps the sender for as long as this receiver lives.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns how many callers wait for a permit.
    pub fn waiting(&self) -> usize {
        let state = self.state.lock();
        state.tenants.values().flat_map(|queue| &queue.waiters).filter(|waiter| !waiter.sender.is_closed()).count()
    }

    /// Hands free slots to waiting callers.
    fn dispatch(self: &Arc<Self>) {
        loop {
            let next = self.state.lock().next();
            let Some((tenant, sender)) = next else { return };
            // If the caller left just now, the permit comes back and is dropped here, outside the lock, which frees its
            // slot again.
            drop(sender.send(FairQueuePermit { queue: Arc::clone(self), tenant }));
        }
    }
}

impl Drop for FairQueuePermit {
    fn drop(&mut self) {
        self.queue.state.lock().release(self.tenant);
        self.queue.dispatch();
    }
}

impl State {
    /// Adds a waiting caller behind the others of its tenant. Inactive tenants are dropped here, at most once per
    /// `ACTIVE_TIMEOUT`, which bounds memory.
    fn enqueue(&mut self, tenant: TenantId, now: Instant) -> oneshot::Receiver<FairQueuePermit> {
        if now.duration_since(self.last_cleanup) >= ACTIVE_TIMEOUT {
            self.tenants.retain(|_, queue| {
                queue.waiters.retain(|waiter| !waiter.sender.is_closed());
                queue.running > 0
                    || !queue.waiters.is_empty()
                    || now.duration_since(queue.last_request) < ACTIVE_TIMEOUT
            });
            self.last_cleanup = now;
        }
        let (sender, receiver) = oneshot::channel();
        let queue = self.tenants.entry(tenant).or_insert_with(|| TenantQueue {
            running: 0,
            waiters: VecDeque::new(),
            last_request: now,
        });
        queue.last_request = now;
        queue.waiters.push_back(Waiter { since: now, sender });
        receiver
    }

    /// Removes the caller that may run next, counts it as running and returns it. `None` when nobody may run now.
    fn next(&mut self) -> Option<(TenantId, oneshot::Sender<FairQueuePermit>)> {
        let free = self.max_running.saturating_sub(self.running);
        if free == 0 {
            return None;
        }
        let share = if self.tenants.len() > 1 { self.max_running.div_ceil(2) } else { self.max_running };
        let may_run = |queue: &TenantQueue| queue.running == 0 || free > 1 && queue.running < share;
        let eligible = self.tenants.iter_mut().filter(|(_, queue)| may_run(queue));
        let ranked = eligible.filter_map(|(tenant, queue)| Some(((queue.running, queue.waiting_since()?), *tenant)));
        let (_, tenant) = ranked.min_by_key(|(rank, _)| *rank)?;
        let queue = self.tenants.get_mut(&tenant)?;
        let waiter = queue.waiters.pop_front()?;
        queue.running += 1;
        self.running += 1;
        Some((tenant, waiter.sender))
    }

    fn release(&mut self, tenant: TenantId) {
        if let Some(queue) = self.tenants.get_mut(&tenant) {
            queue.running -= 1;
            self.running -= 1;
        }
    }
}

impl TenantQueue {
    /// Returns since when the first caller has waited, after removing callers in front of it that have left.
    fn waiting_since(&mut self) -> Option<Instant> {
        while self.waiters.front()?.sender.is_closed() {
            self.waiters.pop_front();
        }
        self.waiters.front().map(|waiter| waiter.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    type Acquire = BoxFuture<'static, FairQueuePermit>;

    fn acquire(queue: &Arc<FairQueue>, tenant: TenantId) -> Acquire {
        let queue = Arc::clone(queue);
        async move { queue.acquire(tenant).await }.boxed()
    }

    /// Makes `count` requests: the permits granted at once, and the requests that wait.
    fn acquire_many(queue: &Arc<FairQueue>, tenant: TenantId, count: usize) -> (Vec<FairQueuePermit>, Vec<Acquire>) {
        let mut waiting = (0..count).map(|_| acquire(queue, tenant)).collect();
        let granted = take_granted(&mut waiting);
        (granted, waiting)
    }

    /// Polls each request once, in order, and removes those that are granted.
    fn take_granted(requests: &mut Vec<Acquire>) -> Vec<FairQueuePermit> {
        let (mut granted, mut waiting) = (Vec::new(), Vec::new());
        for mut request in requests.drain(..) {
            match (&mut request).now_or_never() {
                Some(permit) => granted.push(permit),
                None => waiting.push(request),
            }
        }
        *requests = waiting;
        granted
    }

    #[test]
    fn the_last_slot_is_reserved_for_a_tenant_that_runs_none() {
        let queue = FairQueue::new(4);
        let (noisy, quiet, third) = (TenantId::new(), TenantId::new(), TenantId::new());
        let (mut running, mut waiting) = acquire_many(&queue, noisy, 10);
        assert_eq!((running.len(), waiting.len(), queue.waiting()), (3, 7, 7), "a tenant alone gets all but one");
        let (quiet_running, mut quiet_waiting) = acquire_many(&queue, quiet, 4);
        assert_eq!((quiet_running.len(), quiet_waiting.len()), (1, 3), "the last one goes to another tenant");
        running.truncate(2);
        let granted = (take_granted(&mut quiet_waiting).len(), take_granted(&mut waiting).len());
        assert_eq!(granted, (0, 0), "and then to one more tenant");
        let (last, _) = acquire_many(&queue, third, 2);
        assert_eq!(last.len(), 1);
        drop(last);
        running.clear();
        let noisy_running = take_granted(&mut waiting);
        let granted = (take_granted(&mut quiet_waiting).len(), noisy_running.len());
        assert_eq!(granted, (0, 2), "half, while other tenants are active");
        drop((noisy_running, quiet_running));
        assert_eq!(take_granted(&mut quiet_waiting).len(), 1, "the tenant that runs the fewest is next");
    }

    #[test]
    fn among_equals_the_longest_waiting_tenant_is_next() {
        let queue = FairQueue::new(1);
        let tenants: Vec<_> = (0..3).map(|_| TenantId::new()).collect();
        let (running, _) = acquire_many(&queue, tenants[0], 1);
        let mut waiting: Vec<_> = tenants.iter().map(|tenant| acquire_many(&queue, *tenant, 1).1.remove(0)).collect();
        // Further requests of the first tenant change no one's position.
        let _further = acquire_many(&queue, tenants[0], 3);
        drop(running);
        while !waiting.is_empty() {
            let permit = waiting.remove(0).now_or_never();
            assert!(
                permit.is_some() && waiting.iter_mut().all(|request| request.now_or_never().is_none()),
                "{} left",
                waiting.len()
            );
        }
    }

    #[test]
    fn a_tenants_requests_are_served_in_order_of_arrival() {
        let queue = FairQueue::new(1);
        let tenant = TenantId::new();
        let (running, mut waiting) = acquire_many(&queue, tenant, 3);
        drop(running);
        assert!((&mut waiting[1]).now_or_never().is_none(), "another was first");
        let first = (&mut waiting[0]).now_or_never();
        assert!(first.is_some());
        assert!(acquire_many(&queue, tenant, 1).0.is_empty(), "a new request is behind those that wait");
    }

    #[test]
    fn a_request_that_is_dropped_keeps_no_slot() {
        let queue = FairQueue::new(3);
        let tenants = [TenantId::new(), TenantId::new(), TenantId::new()];
        let (running, mut waiting) = acquire_many(&queue, tenants[0], 2);
        for tenant in tenants {
            waiting.extend(acquire_many(&queue, tenant, 5).1);
        }
        // Some are dropped while they wait, some with a permit they have not received yet.
        waiting.truncate(8);
        drop(running);
        waiting.clear();
        assert_eq!(queue.waiting(), 0);
        assert_eq!(acquire_many(&queue, tenants[1], 1).0.len(), 1);
        let state = queue.state.lock();
        assert_eq!((state.running, state.tenants.values().map(|queue| queue.running).sum::<usize>()), (0, 0));
    }

    #[test]
    fn inactive_tenants_are_dropped() {
        let queue = FairQueue::new(4);
        let now = Instant::now();
        let mut state = queue.state.lock();
        for second in 0..100 {
            let tenant = TenantId::new();
            let _receiver = state.enqueue(tenant, now + Duration::from_secs(second));
            if second % 2 == 0 {
                assert!(state.next().is_some());
                state.release(tenant);
            }
        }
        assert!(state.tenants.len() <= 2, "{} tenants are known", state.tenants.len());
    }
}
