//! Admission: limits the rate and the concurrency of requests for each tenant and for each principal in it, so that
//! none of them uses up what all share. A request is admitted after its caller and tenant are known and before anything
//! is read for it. The counts are kept in this process alone: with three replicas a tenant has three times the rate.
//! Buckets not used for one second are dropped, which bounds memory.

use crate::config;
use crate::error::{Error, Result};
use crate::ids::{StaffId, TenantId};
use crate::tenant::Tenant;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time in which an empty bucket becomes full: a bucket holds as many tokens as are added in this time.
const REFILL_TIME: Duration = Duration::from_secs(1);

/// Rate and concurrency of all tenants and principals. One per process.
pub struct Admission {
    defaults: config::Admission,
    buckets: Mutex<TokenBuckets>,
}

/// The right of one request to run. It counts towards the concurrency of its tenant and principal until it is dropped.
pub struct AdmissionPermit {
    admission: Arc<Admission>,
    callers: [Caller; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Caller {
    Tenant(TenantId),
    Principal(TenantId, StaffId),
}

#[derive(Debug, Clone, Copy)]
struct Limit {
    per_second: u32,
    concurrency: u32,
}

struct TokenBuckets {
    by_caller: HashMap<Caller, TokenBucket>,
    last_sweep: Instant,
}

/// The token bucket of one caller, and the number of its running requests.
struct TokenBucket {
    tokens: f64,
    refilled_at: Instant,
    running: u32,
}

impl Admission {
    /// Creates an admission with full buckets. `defaults` apply where a tenant has no setting of its own.
    pub fn new(defaults: config::Admission) -> Arc<Self> {
        Arc::new(Self {
            defaults,
            buckets: Mutex::new(TokenBuckets { by_caller: HashMap::new(), last_sweep: Instant::now() }),
        })
    }

    /// Admits one request of a principal. A refused request uses up no token of the principal or the tenant.
    ///
    /// # Errors
    /// `RateLimited`, with the number of seconds after which the request can be repeated, at least one.
    pub fn admit(self: &Arc<Self>, tenant: &Tenant, principal: StaffId) -> Result<AdmissionPermit> {
        let (tenant, settings) = (tenant.id, &tenant.settings);
        let tenant_limit = Limit {
            per_second: settings.requests_per_second.unwrap_or(self.defaults.requests_per_second),
            concurrency: settings.concurrency.unwrap_or(self.defaults.concurrency),
        };
        // One principal gets at most half of the tenant's concurrency, rounded up.
        let concurrency = self.defaults.principal_concurrency.min(tenant_limit.concurrency.div_ceil(2));
        let principal_limit = Limit { per_second: self.defaults.principal_requests_per_second, concurrency };
        let callers = [Caller::Principal(tenant, principal), Caller::Tenant(tenant)];
        let wait =
            self.buckets.lock().take([(callers[0], principal_limit), (callers[1], tenant_limit)], Instant::now());
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
            if let Some(bucket) = buckets.by_caller.get_mut(caller) {
                bucket.running = bucket.running.saturating_sub(1);
            }
        }
    }
}

impl TokenBuckets {
    /// Takes one token of each caller, or none. Returns how long to wait where one of them has to wait.
    fn take(&mut self, callers: [(Caller, Limit); 2], now: Instant) -> Option<Duration> {
        self.sweep(now);
        let waits = callers.map(|(caller, limit)| {
            self.by_caller.entry(caller).or_insert_with(|| TokenBucket::full(limit, now)).wait(limit, now)
        });
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Some(wait);
        }
        for (caller, _) in callers {
            if let Some(bucket) = self.by_caller.get_mut(&caller) {
                bucket.tokens -= 1.0;
                bucket.running += 1;
            }
        }
        None
    }

    /// Drops buckets that were not used for the time in which they become full, which bounds memory. A new bucket is
    /// full as well.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.last_sweep) >= REFILL_TIME {
            self.by_caller
                .retain(|_, bucket| bucket.running > 0 || now.duration_since(bucket.refilled_at) < REFILL_TIME);
            self.last_sweep = now;
        }
    }
}

impl TokenBucket {
    fn full(limit: Limit, now: Instant) -> Self {
        Self { tokens: f64::from(limit.per_second), refilled_at: now, running: 0 }
    }

    /// Returns how long the next request has to wait; `None` where it may run now.
    fn wait(&mut self, limit: Limit, now: Instant) -> Option<Duration> {
        let rate = f64::from(limit.per_second.max(1));
        self.tokens = (self.tokens + now.duration_since(self.refilled_at).as_secs_f64() * rate)
            .min(rate * REFILL_TIME.as_secs_f64());
        self.refilled_at = now;
        if self.running >= limit.concurrency.max(1) {
            // When a running request ends is unknown.
            return Some(REFILL_TIME);
        }
        (self.tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - self.tokens) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Limit = Limit { per_second: 4, concurrency: 100 };
    const NARROW: Limit = Limit { per_second: 1000, concurrency: 2 };

    fn buckets(now: Instant) -> TokenBuckets {
        TokenBuckets { by_caller: HashMap::new(), last_sweep: now }
    }

    fn principal(tenant: TenantId) -> Caller {
        Caller::Principal(tenant, StaffId::new())
    }

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let now = Instant::now();
        let (mut buckets, tenant) = (buckets(now), TenantId::new());
        let take = |buckets: &mut TokenBuckets, when: Instant| {
            buckets.take([(principal(tenant), NARROW), (Caller::Tenant(tenant), SLOW)], when)
        };
        for _ in 0..4 {
            assert_eq!(take(&mut buckets, now), None);
        }
        assert_eq!(take(&mut buckets, now), Some(Duration::from_millis(250)));
        assert!(take(&mut buckets, now + Duration::from_millis(249)).is_some());
        assert_eq!(take(&mut buckets, now + Duration::from_millis(251)), None);
        // After any pause, no more than one second's worth of tokens.
        let later = now + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| take(&mut buckets, later).is_none()).count(), 4);
    }

    #[test]
    fn a_refusal_costs_the_tenant_nothing() {
        let now = Instant::now();
        let (mut buckets, tenant) = (buckets(now), TenantId::new());
        let (noisy, quiet) = (principal(tenant), principal(tenant));
        let take = |buckets: &mut TokenBuckets, who| buckets.take([(who, NARROW), (Caller::Tenant(tenant), SLOW)], now);
        assert_eq!((take(&mut buckets, noisy), take(&mut buckets, noisy)), (None, None));
        for _ in 0..100 {
            assert_eq!(take(&mut buckets, noisy), Some(REFILL_TIME), "two of its requests are running");
        }
        assert_eq!(
            (take(&mut buckets, quiet), take(&mut buckets, quiet)),
            (None, None),
            "the remaining tokens are for other principals"
        );
    }

    #[test]
    fn unused_buckets_are_dropped() {
        let now = Instant::now();
        let (mut buckets, tenant) = (buckets(now), TenantId::new());
        let take = |buckets: &mut TokenBuckets, when| {
            buckets.take([(principal(tenant), NARROW), (Caller::Tenant(tenant), NARROW)], when)
        };
        for turn in 0..1000 {
            let _ = take(&mut buckets, now + Duration::from_millis(turn * 10));
            buckets.by_caller.values_mut().for_each(|bucket| bucket.running = 0);
        }
        assert!(
            buckets.by_caller.len() < 210,
            "{} buckets, of callers of the last two seconds",
            buckets.by_caller.len()
        );
        let _ = take(&mut buckets, now + Duration::from_secs(20));
        assert_eq!(buckets.by_caller.len(), 2, "one principal, one tenant");
        let _ = take(&mut buckets, now + Duration::from_secs(30));
        assert_eq!(buckets.by_caller.len(), 3, "a bucket with a running request is kept");
    }
}
