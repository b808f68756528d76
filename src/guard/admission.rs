//! Admission: how often, and how many at once, for each tenant and for each principal in it, so that one cannot use up what all share.
//! Looked at after the caller and the tenant are known and before anything is read. Counts live in this process alone: with three replicas a
//! tenant may come three times as often. Whoever has not come for a second is forgotten, so memory is bounded by those who do come.

use super::Guard;
use crate::config;
use crate::error::{Error, Result};
use crate::ids::{StaffId, TenantId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bucket holds what comes in within this time: so many may come at once after it was quiet as long.
const WINDOW: Duration = Duration::from_secs(1);

/// What all callers have come for lately. One a process.
pub struct Admission {
    defaults: config::Admission,
    gauges: Mutex<Gauges>,
}

/// A request that was let in, for as long as it is answered.
pub struct Pass {
    admission: Arc<Admission>,
    callers: [Caller; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Caller {
    Tenant(TenantId),
    Principal(TenantId, StaffId),
}

/// How often and how many at once.
#[derive(Debug, Clone, Copy)]
struct Limit {
    per_second: u32,
    at_once: u32,
}

struct Gauges {
    of: HashMap<Caller, Gauge>,
    swept: Instant,
}

/// A bucket of requests that may still come, and those that are inside.
struct Gauge {
    left: f64,
    filled: Instant,
    inside: u32,
}

impl Admission {
    /// Nobody has come yet.
    pub fn new(defaults: config::Admission) -> Arc<Self> {
        Arc::new(Self { defaults, gauges: Mutex::new(Gauges { of: HashMap::new(), swept: Instant::now() }) })
    }

    /// Lets the guard's caller in, or says when to come again. A refusal costs neither the principal nor the tenant anything.
    pub fn enter(self: &Arc<Self>, guard: &Guard) -> Result<Pass> {
        let (tenant, set) = (guard.tenant.id, &guard.tenant.terms);
        let whole = Limit {
            per_second: set.requests_per_second.unwrap_or(self.defaults.requests_per_second),
            at_once: set.concurrency.unwrap_or(self.defaults.concurrency),
        };
        // However few an organisation has, one person leaves half of them.
        let at_once = self.defaults.principal_concurrency.min(whole.at_once.div_ceil(2));
        let one = Limit { per_second: self.defaults.principal_requests_per_second, at_once };
        let callers = [Caller::Principal(tenant, guard.staff_id()), Caller::Tenant(tenant)];
        let wait =
            self.gauges.lock().unwrap_or_else(PoisonError::into_inner).enter([(callers[0], one), (callers[1], whole)], Instant::now());
        match wait {
            None => Ok(Pass { admission: Arc::clone(self), callers }),
            Some(wait) => {
                Err(Error::RateLimited { retry_after: u32::try_from(wait.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).max(1) })
            }
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut gauges = self.admission.gauges.lock().unwrap_or_else(PoisonError::into_inner);
        for caller in &self.callers {
            if let Some(gauge) = gauges.of.get_mut(caller) {
                gauge.inside = gauge.inside.saturating_sub(1);
            }
        }
    }
}

impl Gauges {
    /// One more of each, or of none and how long to wait.
    fn enter(&mut self, callers: [(Caller, Limit); 2], now: Instant) -> Option<Duration> {
        self.sweep(now);
        let waits = callers.map(|(caller, limit)| self.of.entry(caller).or_insert_with(|| Gauge::full(limit, now)).wait(limit, now));
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Some(wait);
        }
        for (caller, _) in callers {
            if let Some(gauge) = self.of.get_mut(&caller) {
                gauge.left -= 1.0;
                gauge.inside += 1;
            }
        }
        None
    }

    /// A bucket nobody took from for as long as it takes to fill is as good as a new one.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) >= WINDOW {
            self.of.retain(|_, gauge| gauge.inside > 0 || now.duration_since(gauge.filled) < WINDOW);
            self.swept = now;
        }
    }
}

impl Gauge {
    fn full(limit: Limit, now: Instant) -> Self {
        Self { left: f64::from(limit.per_second), filled: now, inside: 0 }
    }

    /// How long until one more may come; `None`: now.
    fn wait(&mut self, limit: Limit, now: Instant) -> Option<Duration> {
        let rate = f64::from(limit.per_second.max(1));
        self.left = (self.left + now.duration_since(self.filled).as_secs_f64() * rate).min(rate * WINDOW.as_secs_f64());
        self.filled = now;
        if self.inside >= limit.at_once.max(1) {
            // When one of those inside is answered, nobody knows.
            return Some(WINDOW);
        }
        (self.left < 1.0).then(|| Duration::from_secs_f64((1.0 - self.left) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Limit = Limit { per_second: 4, at_once: 100 };
    const NARROW: Limit = Limit { per_second: 1000, at_once: 2 };

    fn gauges(now: Instant) -> Gauges {
        Gauges { of: HashMap::new(), swept: now }
    }

    fn person(tenant: TenantId) -> Caller {
        Caller::Principal(tenant, StaffId::new())
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let now = Instant::now();
        let (mut gauges, tenant) = (gauges(now), TenantId::new());
        let ask = |gauges: &mut Gauges, when: Instant| gauges.enter([(person(tenant), NARROW), (Caller::Tenant(tenant), SLOW)], when);
        for _ in 0..4 {
            assert_eq!(ask(&mut gauges, now), None);
        }
        assert_eq!(ask(&mut gauges, now), Some(Duration::from_millis(250)));
        assert!(ask(&mut gauges, now + Duration::from_millis(249)).is_some());
        assert_eq!(ask(&mut gauges, now + Duration::from_millis(251)), None);
        // However long it was quiet, not more than a second's worth.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| ask(&mut gauges, later).is_none()).count(), 4);
    }

    #[test]
    fn a_refusal_costs_the_tenant_nothing() {
        let now = Instant::now();
        let (mut gauges, tenant) = (gauges(now), TenantId::new());
        let (noisy, quiet) = (person(tenant), person(tenant));
        let ask = |gauges: &mut Gauges, who| gauges.enter([(who, NARROW), (Caller::Tenant(tenant), SLOW)], now);
        assert_eq!((ask(&mut gauges, noisy), ask(&mut gauges, noisy)), (None, None));
        for _ in 0..100 {
            assert_eq!(ask(&mut gauges, noisy), Some(WINDOW), "two of it are inside");
        }
        assert_eq!((ask(&mut gauges, quiet), ask(&mut gauges, quiet)), (None, None), "what is left is for the others");
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let now = Instant::now();
        let (mut gauges, tenant) = (gauges(now), TenantId::new());
        let enter = |gauges: &mut Gauges, when| gauges.enter([(person(tenant), NARROW), (Caller::Tenant(tenant), NARROW)], when);
        for turn in 0..1000 {
            let _ = enter(&mut gauges, now + Duration::from_millis(turn * 10));
            gauges.of.values_mut().for_each(|gauge| gauge.inside = 0);
        }
        assert!(gauges.of.len() < 210, "{} callers of the last two seconds are known", gauges.of.len());
        let _ = enter(&mut gauges, now + Duration::from_secs(20));
        assert_eq!(gauges.of.len(), 2, "one person, one tenant");
        let _ = enter(&mut gauges, now + Duration::from_secs(30));
        assert_eq!(gauges.of.len(), 3, "who is inside stays known");
    }
}
