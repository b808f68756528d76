//! The snapshot: the catalog's tenants in memory, by id and by the origins they allow. Reads no database.

use crate::ids::TenantId;
use crate::tenant::{State, TenancyModel, Tenant};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tenant that does not exist or is not active is looked up in the catalog at most this often, so that invented ids
/// do not load it.
const MIN_LOOKUP_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Default)]
pub(super) struct Snapshot {
    tenants: HashMap<TenantId, Entry>,
    /// Ids that are not in the catalog, with the time when they were looked up.
    missing: HashMap<TenantId, Instant>,
    /// Active tenants by the origins they allow. Anyone can ask for an origin, so the answer must be one look-up.
    by_origin: HashMap<String, HashSet<TenantId>>,
}

struct Entry {
    tenant: Arc<Tenant>,
    read_at: Instant,
}

impl Snapshot {
    pub(super) fn of(tenants: &[Arc<Tenant>]) -> Self {
        let mut snapshot = Self::default();
        tenants.iter().for_each(|tenant| snapshot.insert(Arc::clone(tenant)));
        snapshot
    }

    /// Returns `None` where the catalog has to be asked, and `Some(None)` where it answered a moment ago that there is
    /// no such tenant. A tenant that is not active is asked for again soon, because the notification of its activation
    /// may have been missed.
    pub(super) fn lookup(&self, id: TenantId) -> Option<Option<Arc<Tenant>>> {
        if let Some(Entry { tenant, read_at }) = self.tenants.get(&id) {
            let usable = tenant.state == State::Active || read_at.elapsed() < MIN_LOOKUP_INTERVAL;
            return usable.then(|| Some(Arc::clone(tenant)));
        }
        self.missing.get(&id).filter(|read_at| read_at.elapsed() < MIN_LOOKUP_INTERVAL).map(|_| None)
    }

    pub(super) fn insert(&mut self, tenant: Arc<Tenant>) {
        self.remove(tenant.id);
        self.missing.remove(&tenant.id);
        if tenant.state == State::Active {
            for origin in &tenant.settings.origins {
                self.by_origin.entry(origin.as_str().to_owned()).or_default().insert(tenant.id);
            }
        }
        self.tenants.insert(tenant.id, Entry { tenant, read_at: Instant::now() });
    }

    /// Records that the catalog has no such tenant. Older records of this kind are dropped, which bounds memory.
    pub(super) fn insert_missing(&mut self, id: TenantId) {
        self.remove(id);
        self.missing.retain(|_, read_at| read_at.elapsed() < MIN_LOOKUP_INTERVAL);
        self.missing.insert(id, Instant::now());
    }

    fn remove(&mut self, id: TenantId) {
        let Some(removed) = self.tenants.remove(&id) else { return };
        for origin in &removed.tenant.settings.origins {
            if let Some(allowing) = self.by_origin.get_mut(origin.as_str()) {
                allowing.remove(&id);
            }
        }
        self.by_origin.retain(|_, allowing| !allowing.is_empty());
    }

    pub(super) fn allows(&self, origin: &str, slug: Option<&str>) -> bool {
        let has_slug = |id| self.tenants.get(id).is_some_and(|entry| slug.is_none_or(|slug| entry.tenant.slug == slug));
        self.by_origin.get(origin).is_some_and(|allowing| allowing.iter().any(has_slug))
    }

    pub(super) fn own_databases(&self) -> Vec<Arc<Tenant>> {
        let has_own = |tenant: &&Arc<Tenant>| {
            tenant.state == State::Active
                && tenant.placement.as_ref().is_some_and(|placement| placement.model == TenancyModel::Database)
        };
        let mut found: Vec<_> =
            self.tenants.values().map(|entry| &entry.tenant).filter(has_own).map(Arc::clone).collect();
        found.sort_by_key(|tenant| tenant.id);
        found
    }
}
