//! The tenant in telemetry: `tenant.id` on spans and log records, `tenant_id` on metrics. Only this file spells these
//! names. A span may name any tenant. Metric labels name a bounded number of tenants, those with the most requests, and
//! call all others `other`.

use crate::ids::TenantId;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use std::collections::HashMap;
use tracing::Span;
use tracing::field::display;

/// The field of spans. A span must declare it before `tag` can set it.
pub(super) const SPAN_FIELD: &str = "tenant.id";
const METRIC_LABEL: &str = "tenant_id";
/// The request counts are halved after this many requests for each label, so that older requests count less and less.
const REQUESTS_PER_DECAY: u32 = 100;

/// Sets the field `tenant.id` of a span.
pub(super) fn tag(span: Span, tenant: TenantId) -> Span {
    span.record(SPAN_FIELD, display(tenant));
    span
}

/// Decides which tenants have a metric label of their own.
pub(super) struct TenantLabels {
    limit: usize,
    counts: Mutex<RequestCounts>,
    none: KeyValue,
    other: KeyValue,
}

#[derive(Default)]
struct RequestCounts {
    labelled: HashMap<TenantId, LabelledTenant>,
    /// The requests of tenants without a label.
    unlabelled: HashMap<TenantId, u32>,
    /// The number of labels ever assigned. It is limited, because a time series stays in memory until the process ends.
    assigned: usize,
    since_decay: u32,
}

struct LabelledTenant {
    label: KeyValue,
    requests: u32,
}

impl TenantLabels {
    /// Creates labels for at most `limit` tenants at a time, and for at most twice as many until the process ends.
    pub(super) fn new(limit: usize) -> Self {
        let label = |value: &'static str| KeyValue::new(METRIC_LABEL, value);
        Self { limit, counts: Mutex::default(), none: label("none"), other: label("other") }
    }

    /// Returns how many different values the label can take, `none` and `other` included.
    pub(super) fn max_values(&self) -> usize {
        2 * self.limit + 2
    }

    /// Counts one request and returns its label. The first `limit` tenants get a label of their own at once. After
    /// that, a tenant with more than twice the requests of the least active labelled tenant takes over its place, until
    /// twice `limit` labels have been assigned.
    pub(super) fn count_request(&self, tenant: Option<TenantId>) -> KeyValue {
        let Some(tenant) = tenant else { return self.none.clone() };
        let mut counts = self.counts.lock();
        counts.decay(u32::try_from(self.limit).unwrap_or(u32::MAX).saturating_mul(REQUESTS_PER_DECAY));
        if let Some(labelled) = counts.labelled.get_mut(&tenant) {
            labelled.requests += 1;
            return labelled.label.clone();
        }
        if counts.labelled.len() < self.limit {
            return counts.assign(tenant, 1);
        }
        let count = counts.unlabelled.entry(tenant).or_default();
        *count += 1;
        let requests = *count;
        let least_active = counts.labelled.iter().min_by_key(|(_, labelled)| labelled.requests);
        match least_active.map(|(id, labelled)| (*id, labelled.requests)) {
            Some((id, least)) if requests > 2 * least && counts.assigned < 2 * self.limit => {
                counts.labelled.remove(&id);
                counts.unlabelled.remove(&tenant);
                counts.unlabelled.insert(id, least);
                counts.assign(tenant, requests)
            }
            _ => self.other.clone(),
        }
    }
}

impl RequestCounts {
    fn assign(&mut self, tenant: TenantId, requests: u32) -> KeyValue {
        let label = KeyValue::new(METRIC_LABEL, tenant.to_string());
        self.assigned += 1;
        self.labelled.insert(tenant, LabelledTenant { label: label.clone(), requests });
        label
    }

    /// Counts a request, and halves all counts after every `interval` requests.
    fn decay(&mut self, interval: u32) {
        self.since_decay += 1;
        if self.since_decay > interval {
            self.since_decay = 0;
            self.labelled.values_mut().for_each(|labelled| labelled.requests /= 2);
            self.unlabelled.values_mut().for_each(|requests| *requests /= 2);
            self.unlabelled.retain(|_, requests| *requests > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn gets_label(labels: &TenantLabels, tenant: TenantId) -> bool {
        labels.count_request(Some(tenant)).value.to_string() == tenant.to_string()
    }

    #[test]
    fn the_number_of_labels_is_bounded() {
        let labels = TenantLabels::new(10);
        let tenants: Vec<_> = (0..200).map(|_| TenantId::new()).collect();
        let mut values = BTreeSet::from([labels.count_request(None).value.to_string()]);
        // The worst case: each tenant is active for a while and never again.
        for tenant in &tenants {
            for _ in 0..500 {
                values.insert(labels.count_request(Some(*tenant)).value.to_string());
            }
        }
        assert_eq!(values.len(), labels.max_values(), "{values:?}");
        assert!(values.contains("none") && values.contains("other"));
        let counts = labels.counts.lock();
        assert!(counts.labelled.len() == 10 && counts.unlabelled.len() <= 200);
    }

    #[test]
    fn the_first_tenants_get_labels_and_later_the_most_active_ones() {
        let labels = TenantLabels::new(2);
        let [early, quiet, late, rare] = [(); 4].map(|()| TenantId::new());
        assert!(gets_label(&labels, early) && gets_label(&labels, quiet));
        assert!(!gets_label(&labels, rare), "both labels are assigned");
        for _ in 0..20 {
            assert!(gets_label(&labels, early));
            labels.count_request(Some(late));
        }
        assert!(gets_label(&labels, late) && gets_label(&labels, early));
        assert!(!gets_label(&labels, quiet) && !gets_label(&labels, rare));
    }

    #[test]
    fn older_requests_count_less() {
        let labels = TenantLabels::new(1);
        let [past, present] = [(); 2].map(|()| TenantId::new());
        (0..150).for_each(|_| assert!(gets_label(&labels, past)));
        let turns = (0..1000).take_while(|_| !gets_label(&labels, present)).count();
        assert!(turns < 200, "{turns}");
    }

    #[test]
    fn with_a_limit_of_zero_every_tenant_is_other() {
        assert_eq!(TenantLabels::new(0).count_request(Some(TenantId::new())).value.to_string(), "other");
    }
}
