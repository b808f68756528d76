//! The interface to a key management system (KMS). It holds one key-encryption key (KEK) per tenant and one for the
//! system, and wraps other keys with them. `KeyFile` is the embedded implementation.

use crate::error::Result;
use crate::ids::TenantId;
use futures_util::future::BoxFuture;
use std::fmt;
use zeroize::Zeroizing;

/// Identifies a key-encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KekId {
    /// The key of the installation, for secrets that belong to no tenant.
    System,
    /// The key of a tenant.
    Tenant(TenantId),
}

/// A key management system. Key-encryption keys never leave it.
pub trait Kms: Send + Sync {
    /// Creates the key. Does nothing when it exists.
    fn create(&self, kek: KekId) -> BoxFuture<'_, Result<()>>;

    /// Encrypts `plain` so that it can be unwrapped only with the same key-encryption key and the same `context`. Fails
    /// with `KeyUnavailable` when the KMS is unreachable or does not have the key.
    fn wrap<'a>(&'a self, kek: KekId, context: &'a [u8], plain: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>>;

    /// Decrypts what `wrap` returned. Fails with `KeyUnavailable` when the KMS is unreachable or does not have the key,
    /// and with `Integrity` when `wrapped` has been changed or belongs to another key or context.
    fn unwrap<'a>(
        &'a self,
        kek: KekId,
        context: &'a [u8],
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>>>;
}

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Tenant(id) => id.fmt(f),
        }
    }
}
