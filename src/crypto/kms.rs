//! What Cordon asks of a key management system: hold a key-encryption key per tenant and one for the system, and wrap keys with them.
//! `KeyFile` is the embedded one.

use crate::error::Result;
use crate::ids::TenantId;
use futures_util::future::BoxFuture;
use std::fmt;
use zeroize::Zeroizing;

/// Names a key-encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KekId {
    /// The one of the installation: for secrets of no tenant's.
    System,
    /// The one of a tenant.
    Tenant(TenantId),
}

/// A key management system. Key-encryption keys never leave it.
pub trait Kms: Send + Sync {
    /// Makes the key; nothing happens when it exists.
    fn create(&self, kek: KekId) -> BoxFuture<'_, Result<()>>;

    /// Wraps `plain` so that it unwraps only under the same key and `context`.
    fn wrap<'a>(&'a self, kek: KekId, context: &'a [u8], plain: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>>;

    /// Unwraps. `KeyUnavailable`: the system is away or does not have the key; `Integrity`: what is wrapped was changed or is not this key's.
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
