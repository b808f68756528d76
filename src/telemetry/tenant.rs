//! The tenant in telemetry: `tenant.id` on spans and log lines, `tenant_id` on metrics, spelled here and nowhere else.
//! A span may name any tenant; labels name a bounded number of them, those with the most requests, and call the rest `other`.

use crate::ids::TenantId;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use std::collections::HashMap;

use tracing::Span;
use tracing::field::display;

/// The field, which a span must declare.
pub(super) const FIELD: &str = "tenant.id";
const LABEL: &str = "tenant_id";
/// After this many requests for each name, counts are halved, so that what was long ago counts less and less.
const FADE: u32 = 100;

/// The span is about this tenant.
pub(super) fn tag(span: Span, tenant: TenantId) -> Span {
    span.record(FIELD, display(tenant));
    span
}

/// Who has a name among the labels.
pub(super) struct Names {
    limit: usize,
    known: Mutex<Known>,
    nobody: KeyValue,
    other: KeyValue,
}

#[derive(Default)]
struct Known {
    named: HashMap<TenantId, Named>,
    /// Requests of those without a name.
    unnamed: HashMap<TenantId, u32>,
    /// Names ever given: a series that was begun stays until the process ends.
    given: usize,
    since_fade: u32,
}

struct Named {
    label: KeyValue,
    requests: u32,
}

impl Names {
    /// `limit` names at a time, twice as many in the life of the process.
    pub(super) fn new(limit: usize) -> Self {
        let label = |value: &'static str| KeyValue::new(LABEL, value);
        Self { limit, known: Mutex::default(), nobody: label("none"), other: label("other") }
    }

    /// How many different values the label can take.
    pub(super) fn most(&self) -> usize {
        2 * self.limit + 2
    }

    /// The label of one more request. Who comes early has a name at once; later, whoever has twice the requests of the least of the named
    /// takes its place, while there are names to give.
    pub(super) fn label(&self, tenant: Option<TenantId>) -> KeyValue {
        let Some(tenant) = tenant else { return self.nobody.clone() };
        let mut known = self.known.lock();
        known.fade(u32::try_from(self.limit).unwrap_or(u32::MAX).saturating_mul(FADE));
        if let Some(named) = known.named.get_mut(&tenant) {
            named.requests += 1;
            return named.label.clone();
        }
        if known.named.len() < self.limit {
            return known.name(tenant, 1);
        }
        let count = known.unnamed.entry(tenant).or_default();
        *count += 1;
        let requests = *count;
        let least = known.named.iter().min_by_key(|(_, named)| named.requests).map(|(id, named)| (*id, named.requests));
        match least {
            Some((id, least)) if requests > 2 * least && known.given < 2 * self.limit => {
                known.named.remove(&id);
                known.unnamed.remove(&tenant);
                known.unnamed.insert(id, least);
                known.name(tenant, requests)
            }
            _ => self.other.clone(),
        }
    }
}

impl Known {
    fn name(&mut self, tenant: TenantId, requests: u32) -> KeyValue {
        let label = KeyValue::new(LABEL, tenant.to_string());
        self.given += 1;
        self.named.insert(tenant, Named { label: label.clone(), requests });
        label
    }

    fn fade(&mut self, after: u32) {
        self.since_fade += 1;
        if self.since_fade > after {
            self.since_fade = 0;
            self.named.values_mut().for_each(|named| named.requests /= 2);
            self.unnamed.values_mut().for_each(|requests| *requests /= 2);
            self.unnamed.retain(|_, requests| *requests > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn named(names: &Names, tenant: TenantId) -> bool {
        names.label(Some(tenant)).value.to_string() == tenant.to_string()
    }

    #[test]
    fn the_number_of_labels_is_bounded_whatever_comes() {
        let names = Names::new(10);
        let tenants: Vec<_> = (0..200).map(|_| TenantId::new()).collect();
        let mut seen = BTreeSet::from([names.label(None).value.to_string()]);
        // Each is busy for a while, and then gone: the worst case.
        for tenant in &tenants {
            for _ in 0..500 {
                seen.insert(names.label(Some(*tenant)).value.to_string());
            }
        }
        assert_eq!(seen.len(), names.most(), "{seen:?}");
        assert!(seen.contains("none") && seen.contains("other"));
        let known = names.known.lock();
        assert!(known.named.len() == 10 && known.unnamed.len() <= 200);
    }

    #[test]
    fn the_busy_have_names_and_the_first_ones_at_once() {
        let names = Names::new(2);
        let [early, quiet, late, rare] = [(); 4].map(|()| TenantId::new());
        assert!(named(&names, early) && named(&names, quiet));
        assert!(!named(&names, rare), "all names are given");
        for _ in 0..20 {
            assert!(named(&names, early));
            names.label(Some(late));
        }
        assert!(named(&names, late) && named(&names, early));
        assert!(!named(&names, quiet) && !named(&names, rare));
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let names = Names::new(1);
        let [past, present] = [(); 2].map(|()| TenantId::new());
        (0..150).for_each(|_| assert!(named(&names, past)));
        let turns = (0..1000).take_while(|_| !named(&names, present)).count();
        assert!(turns < 200, "{turns}");
    }

    #[test]
    fn without_names_everyone_is_other() {
        assert_eq!(Names::new(0).label(Some(TenantId::new())).value.to_string(), "other");
    }
}
