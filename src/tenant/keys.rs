//! The key ring: tenants' keys, unwrapped by the KMS and cached in memory for a bounded time. It reads wrapped keys
//! from the catalog. An unwrapped key is never written anywhere.

use super::catalog::Catalog;
use crate::crypto::{KekId, Kms, TenantKeys};
use crate::error::{Error, Result};
use crate::ids::{PlacementId, ServerId, TenantId};
use parking_lot::Mutex;
use secrecy::SecretString;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// The key that signs the bindings of transactions in one database.
pub struct BindingKey {
    /// The id of the key in `cordon.binding_keys`, which tickets name.
    pub kid: i32,
    /// The HMAC-SHA-256 key, 32 bytes.
    pub key: Zeroizing<Vec<u8>>,
}

type Cache<K, T> = Mutex<HashMap<K, CacheEntry<T>>>;

struct CacheEntry<T> {
    value: Arc<T>,
    inserted_at: Instant,
}

/// The cache of unwrapped keys, by tenant and by database. One per process.
pub struct KeyRing {
    kms: Arc<dyn Kms>,
    catalog: Arc<Catalog>,
    max_age: Duration,
    tenants: Cache<TenantId, TenantKeys>,
    bindings: Cache<(ServerId, String), BindingKey>,
    misses: AtomicU64,
}

/// Returns the context of a wrapped secret: what it is, whose, and its version. It is part of the associated data of
/// the wrapping, so that one secret cannot be used in place of another.
pub fn wrap_context(kind: &str, of: impl std::fmt::Display, version: i32) -> Vec<u8> {
    format!("{kind}:{of}:{version}").into_bytes()
}

impl KeyRing {
    /// Creates a key ring that caches unwrapped keys for at most `max_age`.
    pub fn new(kms: Arc<dyn Kms>, catalog: Arc<Catalog>, max_age: Duration) -> Arc<Self> {
        Arc::new(Self {
            kms,
            catalog,
            max_age,
            tenants: Mutex::default(),
            bindings: Mutex::default(),
            misses: AtomicU64::new(0),
        })
    }

    /// Returns the tenant's data, search and signing keys.
    ///
    /// # Errors
    /// `KeyUnavailable` where a key is missing or the KMS does not unwrap it; otherwise the errors of reading the
    /// catalog.
    pub async fn tenant(&self, tenant: TenantId) -> Result<Arc<TenantKeys>> {
        if let Some(keys) = cached(&self.tenants, &tenant, self.max_age) {
            return Ok(keys);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let (mut data, mut search, mut signing) = (Vec::new(), None, None);
        for wrapped in self.catalog.tenant_keys(tenant).await? {
            let context = wrap_context(&wrapped.kind, tenant, wrapped.version);
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
        Ok(insert(&self.tenants, tenant, keys))
    }

    /// Returns the newest key that signs bindings in a database.
    ///
    /// # Errors
    /// As `tenant`.
    pub async fn binding(&self, server: ServerId, database: &str) -> Result<Arc<BindingKey>> {
        let database_key = (server, database.to_owned());
        if let Some(binding) = cached(&self.bindings, &database_key, self.max_age) {
            return Ok(binding);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let wrapped = self.catalog.binding_key(server, database).await?;
        let context = wrap_context("binding", format_args!("{server}/{database}"), wrapped.version);
        let key = self.kms.unwrap(KekId::System, &context, &wrapped.wrapped).await?;
        Ok(insert(&self.bindings, database_key, BindingKey { kid: wrapped.version, key }))
    }

    /// Returns how often a key was not in the cache since the process started.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    /// Unwraps the password of `cordon_app` on a server. Passwords are not cached.
    pub async fn app_password(&self, server: ServerId, wrapped: &[u8]) -> Result<SecretString> {
        self.password(&wrap_context("app", server, 1), wrapped).await
    }

    /// Unwraps the password of the login that belongs to one placement alone.
    pub async fn own_password(&self, placement: PlacementId, wrapped: &[u8]) -> Result<SecretString> {
        self.password(&wrap_context("own", placement, 1), wrapped).await
    }

    async fn password(&self, context: &[u8], wrapped: &[u8]) -> Result<SecretString> {
        let plain = self.kms.unwrap(KekId::System, context, wrapped).await?;
        let text = std::str::from_utf8(&plain).map_err(|_| Error::KeyUnavailable)?;
        Ok(SecretString::from(text))
    }

    /// Removes the keys of a tenant from the cache; those of all tenants where `tenant` is `None`.
    pub fn evict(&self, tenant: Option<TenantId>) {
        let mut cached = self.tenants.lock();
        match tenant {
            Some(tenant) => {
                cached.remove(&tenant);
            }
            None => cached.clear(),
        }
    }
}

/// Returns a cached value, after removing all that are too old.
fn cached<K: Hash + Eq, T>(cache: &Cache<K, T>, key: &K, max_age: Duration) -> Option<Arc<T>> {
    let mut cache = cache.lock();
    cache.retain(|_, entry| entry.inserted_at.elapsed() < max_age);
    cache.get(key).map(|entry| Arc::clone(&entry.value))
}

fn insert<K: Hash + Eq, T>(cache: &Cache<K, T>, key: K, value: T) -> Arc<T> {
    let value = Arc::new(value);
    cache.lock().insert(key, CacheEntry { value: Arc::clone(&value), inserted_at: Instant::now() });
    value
}
