//! The key ring: tenants' keys, opened through the KMS and kept in memory for a bounded time.
//! Reads wrapped keys from the catalog; nothing of an opened key is ever written anywhere.

use super::catalog::Catalog;
use crate::crypto::{KekId, Kms, TenantKeys};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use parking_lot::Mutex;
use secrecy::SecretString;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The key that signs bindings in one database.
pub struct BindingKey {
    /// Its number in that database.
    pub kid: i32,
    /// 32 bytes.
    pub key: Zeroizing<Vec<u8>>,
}

struct Kept<T> {
    value: Arc<T>,
    opened: Instant,
}

/// Opened keys, by tenant and by database.
pub struct KeyRing {
    kms: Arc<dyn Kms>,
    catalog: Arc<Catalog>,
    keep: Duration,
    tenants: Mutex<HashMap<TenantId, Kept<TenantKeys>>>,
    bindings: Mutex<HashMap<(ServerId, String), Kept<BindingKey>>>,
    misses: AtomicU64,
}

/// What a wrapped secret is for: part of its associated data, so that one cannot stand in for another.
pub fn context(kind: &str, of: impl std::fmt::Display, version: i32) -> Vec<u8> {
    format!("{kind}:{of}:{version}").into_bytes()
}

impl KeyRing {
    /// A ring that keeps opened keys for `keep`.
    pub fn new(kms: Arc<dyn Kms>, catalog: Arc<Catalog>, keep: Duration) -> Arc<Self> {
        Arc::new(Self {
            kms,
            catalog,
            keep,
            tenants: Mutex::default(),
            bindings: Mutex::default(),
            misses: AtomicU64::new(0),
        })
    }

    /// A tenant's keys.
    pub async fn tenant(&self, tenant: TenantId) -> Result<Arc<TenantKeys>> {
        if let Some(keys) = fresh(&self.tenants, &tenant, self.keep) {
            return Ok(keys);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let (mut data, mut search, mut signing) = (Vec::new(), None, None);
        for wrapped in self.catalog.tenant_keys(tenant).await? {
            let context = context(&wrapped.kind, tenant, wrapped.version);
            let key = self.kms.unwrap(KekId::Tenant(tenant), &context, &wrapped.wrapped).await?;
            match wrapped.kind.as_str() {
                "data" => data.push((u32::try_from(wrapped.version).map_err(|_| Error::KeyUnavailable)?, key)),
                "search" => search = Some(key),
                "signing" => signing = Some(key),
                _ => {}
            }
        }
        let (Some(search), Some(signing)) = (search, signing) else { return Err(Error::KeyUnavailable) };
        let keys = TenantKeys::assemble(tenant, data, search, signing)?;
        Ok(keep(&self.tenants, tenant, keys))
    }

    /// The key that signs bindings in a database.
    pub async fn binding(&self, server: ServerId, database: &str) -> Result<Arc<BindingKey>> {
        let place = (server, database.to_owned());
        if let Some(key) = fresh(&self.bindings, &place, self.keep) {
            return Ok(key);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let wrapped = self.catalog.binding_key(server, database).await?;
        let context = context("binding", format_args!("{server}/{database}"), wrapped.version);
        let key = self.kms.unwrap(KekId::System, &context, &wrapped.wrapped).await?;
        Ok(keep(&self.bindings, place, BindingKey { kid: wrapped.version, key }))
    }

    /// How often a key was not in memory.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Password of `cordon_app` on a server.
    pub async fn app_password(&self, server: ServerId, wrapped: &[u8]) -> Result<SecretString> {
        self.password(&context("app", server, 1), wrapped).await
    }

    /// Password of the login a placement has to itself.
    pub async fn own_password(&self, placement: PlacementId, wrapped: &[u8]) -> Result<SecretString> {
        self.password(&context("own", placement, 1), wrapped).await
    }

    async fn password(&self, context: &[u8], wrapped: &[u8]) -> Result<SecretString> {
        let plain = self.kms.unwrap(KekId::System, context, wrapped).await?;
        let text = std::str::from_utf8(&plain).map_err(|_| Error::KeyUnavailable)?;
        Ok(SecretString::from(text))
    }

    /// Forgets a tenant's keys, or everyone's.
    pub fn forget(&self, tenant: Option<TenantId>) {
        let mut kept = self.tenants.lock();
        match tenant {
            Some(tenant) => {
                kept.remove(&tenant);
            }
            None => kept.clear(),
        }
    }
}

fn fresh<K: std::hash::Hash + Eq, T>(kept: &Mutex<HashMap<K, Kept<T>>>, key: &K, keep: Duration) -> Option<Arc<T>> {
    let mut kept = kept.lock();
    kept.retain(|_, entry| entry.opened.elapsed() < keep);
    kept.get(key).map(|entry| Arc::clone(&entry.value))
}

fn keep<K: std::hash::Hash + Eq, T>(kept: &Mutex<HashMap<K, Kept<T>>>, key: K, value: T) -> Arc<T> {
    let value = Arc::new(value);
    kept.lock().insert(key, Kept { value: Arc::clone(&value), opened: Instant::now() });
    value
}
