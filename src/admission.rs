//! Admission: how often, and how many at once, for each tenant and for each principal in it, so that one cannot use up what all share.
//! Looked at after the caller and the tenant are known and before anything is read. Counts live in this process alone: with three replicas a
//! tenant may come three times as often. Whoever has not come for a second is forgotten, so memory is bounded by those who do come.

use crate::config;
use crate::error::{Error, Result};
use crate::ids::{StaffId, TenantId};
use crate::tenant::Tenant;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A bucket holds what comes in within this time: so many may come at once after it was quiet as long.
const WINDOW: Duration = Duration::from_secs(1);

/// What all callers have come for lately. One a process.
pub struct Admission {
    defaults: config::Admission,
    buckets: Mutex<TokenBuckets>,
}

/// A request that was let in, for as long as it is answered.
pub struct AdmissionPermit {
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
    concurrency: u32,
}

struct TokenBuckets {
    of: HashMap<Caller, TokenBucket>,
    swept: Instant,
}

/// A bucket of requests that may still come, and those that are inside.
struct TokenBucket {
    left: f64,
    filled: Instant,
    inside: u32,
}

impl Admission {
    /// Nobody has come yet.
    pub fn new(defaults: config::Admission) -> Arc<Self> {
        Arc::new(Self { defaults, buckets: Mutex::new(TokenBuckets { of: HashMap::new(), swept: Instant::now() }) })
    }

    /// Lets a principal of the tenant in, or says when to come again. A refusal costs neither the principal nor the tenant anything.
    pub fn enter(self: &Arc<Self>, tenant: &Tenant, principal: StaffId) -> Result<AdmissionPermit> {
        let (tenant, set) = (tenant.id, &tenant.settings);
        let whole = Limit {
            per_second: set.requests_per_second.unwrap_or(self.defaults.requests_per_second),
            concurrency: set.concurrency.unwrap_or(self.defaults.concurrency),
        };
        // However few an organisation has, one person leaves half of them.
        let concurrency = self.defaults.principal_concurrency.min(whole.concurrency.div_ceil(2));
        let one = Limit { per_second: self.defaults.principal_requests_per_second, concurrency };
        let callers = [Caller::Principal(tenant, principal), Caller::Tenant(tenant)];
        let wait = self.buckets.lock().enter([(callers[0], one), (callers[1], whole)], Instant::now());
        match wait {
            None => Ok(AdmissionPermit { admission: Arc::clone(self), callers }),
            Some(wait) => Err(Error::RateLimited {
                retry_after: u32::try_from(wait.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX).max(1),
            }),
        }
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        let mut buckets = self.admission.buckets.lock();
        for caller in &self.callers {
            if let Some(bucket) = buckets.of.get_mut(caller) {
                bucket.inside = bucket.inside.saturating_sub(1);
            }
        }
    }
}

impl TokenBuckets {
    /// One more of each, or of none and how long to wait.
    fn enter(&mut self, callers: [(Caller, Limit); 2], now: Instant) -> Option<Duration> {
        self.sweep(now);
        let waits = callers.map(|(caller, limit)| {
            self.of.entry(caller).or_insert_with(|| TokenBucket::full(limit, now)).wait(limit, now)
        });
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Some(wait);
        }
        for (caller, _) in callers {
            if let Some(bucket) = self.of.get_mut(&caller) {
                bucket.left -= 1.0;
                bucket.inside += 1;
            }
        }
        None
    }

    /// A bucket nobody took from for as long as it takes to fill is as good as a new one.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) >= WINDOW {
            self.of.retain(|_, bucket| bucket.inside > 0 || now.duration_since(bucket.filled) < WINDOW);
            self.swept = now;
        }
    }
}

impl TokenBucket {
    fn full(limit: Limit, now: Instant) -> Self {
        Self { left: f64::from(limit.per_second), filled: now, inside: 0 }
    }

    /// How long until one more may come; `None`: now.
    fn wait(&mut self, limit: Limit, now: Instant) -> Option<Duration> {
        let rate = f64::from(limit.per_second.max(1));
        self.left = (self.left + now.duration_since(self.filled).as_secs_f64() * rate).min(rate * WINDOW.as_secs_f64());
        self.filled = now;
        if self.inside >= limit.concurrency.max(1) {
            // When one of those inside is answered, nobody knows.
            return Some(WINDOW);
        }
        (self.left < 1.0).then(|| Duration::from_secs_f64((1.0 - self.left) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Limit = Limit { per_second: 4, concurrency: 100 };
    const NARROW: Limit = Limit { per_second: 1000, concurrency: 2 };

    fn buckets(now: Instant) -> TokenBuckets {
        TokenBuckets { of: HashMap::new(), swept: now }
    }

    fn person(tenant: TenantId) -> Caller {
        Caller::Principal(tenant, StaffId::new())
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let now = Instant::now();
        let (mut buckets, tenant) = (buckets(now), TenantId::new());
        let ask = |buckets: &mut TokenBuckets, when: Instant| {
            buckets.enter([(person(tenant), NARROW), (Caller::Tenant(tenant), SLOW)], when)
        };
        for _ in 0..4 {
            assert_eq!(ask(&mut buckets, now), None);
        }
        assert_eq!(ask(&mut buckets, now), Some(Duration::from_millis(250)));
        assert!(ask(&mut buckets, now + Duration::from_millis(249)).is_some());
        assert_eq!(ask(&mut buckets, now + Duration::from_millis(251)), None);
        // However long it was quiet, not more than a second's worth.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| ask(&mut buckets, later).is_none()).count(), 4);
    }

    #[test]
    fn a_refusal_costs_the_tenant_nothing() {
        let now = Instant::now();
        let (mut buckets, tenant) = (buckets(now), TenantId::new());
        let (noisy, quiet) = (person(tenant), person(tenant));
        let ask = |buckets: &mut TokenBuckets, who| buckets.enter([(who, NARROW), (Caller::Tenant(tenant), SLOW)], now);
        assert_eq!((ask(&mut buckets, noisy), ask(&mut buckets, noisy)), (None, None));
        for _ in 0..100 {
            assert_eq!(ask(&mut buckets, noisy), Some(WINDOW), "two of it are inside");
        }
        assert_eq!(
            (ask(&mut buckets, quiet), ask(&mut buckets, quiet)),
            (None, None),
            "what is left is for the others"
        );
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let now = Instant::now();
        let (mut buckets, tenant) = (buckets(now), TenantId::new());
        let enter = |buckets: &mut TokenBuckets, when| {
            buckets.enter([(person(tenant), NARROW), (Caller::Tenant(tenant), NARROW)], when)
        };
        for turn in 0..1000 {
            let _ = enter(&mut buckets, now + Duration::from_millis(turn * 10));
            buckets.of.values_mut().for_each(|bucket| bucket.inside = 0);
        }
        assert!(buckets.of.len() < 210, "{} callers of the last two seconds are known", buckets.of.len());
        let _ = enter(&mut buckets, now + Duration::from_secs(20));
        assert_eq!(buckets.of.len(), 2, "one person, one tenant");
        let _ = enter(&mut buckets, now + Duration::from_secs(30));
        assert_eq!(buckets.of.len(), 3, "who is inside stays known");
    }
}
