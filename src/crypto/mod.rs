//! Cryptography: sealed columns, blind indexes, signatures, and the keys for them, wrapped by the KMS. The only
//! provider is AWS-LC. Touches no database. Key material is wiped when dropped and never printed. Every list of parts
//! that is hashed or authenticated here is framed: each part follows its length, so two different lists never have the
//! same encoding.

mod cipher;
mod keyfile;
mod keys;
mod kms;
pub(crate) mod private_file;
mod seal;

pub use keyfile::KeyFile;
pub use keys::{TenantKeys, fresh_key};
pub use kms::{KekId, Kms};
pub use seal::{Field, Sealed};

use std::sync::atomic::{AtomicU64, Ordering};

static INTEGRITY_FAILURES: AtomicU64 = AtomicU64::new(0);
static SEALED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static OPENED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Returns how many stored values failed authentication in this process.
pub fn integrity_failures() -> u64 {
    INTEGRITY_FAILURES.load(Ordering::Relaxed)
}

/// Returns how many values were sealed in this process, and their total size in bytes.
pub fn sealed() -> [u64; 2] {
    SEALED.each_ref().map(|count| count.load(Ordering::Relaxed))
}

/// Returns how many values were opened in this process, and their total size in bytes.
pub fn opened() -> [u64; 2] {
    OPENED.each_ref().map(|count| count.load(Ordering::Relaxed))
}

fn count([values, bytes]: &[AtomicU64; 2], length: usize) {
    values.fetch_add(1, Ordering::Relaxed);
    bytes.fetch_add(length as u64, Ordering::Relaxed);
}

fn count_integrity_failure() {
    INTEGRITY_FAILURES.fetch_add(1, Ordering::Relaxed);
}

/// Concatenates `parts`, each preceded by its length as a big-endian `u32`.
pub fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        framed.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
}
