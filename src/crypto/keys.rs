//! The keys of one tenant, opened: data keys by version, search key, signing key. Made by the key ring, lent as `&TenantKeys` or in an `Arc`;
//! not clonable, wiped when dropped (AWS-LC wipes what it holds), never printed. Sealing and opening are in `seal.rs`.

use super::cipher::Cipher;
use super::frame;
use crate::error::{Error, Result};
use crate::ids::TenantId;
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use std::collections::BTreeMap;
use std::fmt;
use zeroize::Zeroizing;

const KEY_LENGTH: usize = 32;

/// 32 random bytes: a data key, a search key or the seed of a signing key.
///
/// # Panics
/// When the system has no randomness: nothing may go on then.
pub fn fresh_key() -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; KEY_LENGTH]);
    assert!(aws_lc_rs::rand::fill(&mut key).is_ok(), "no random bytes");
    key
}

/// The opened keys of one tenant.
pub struct TenantKeys {
    tenant: TenantId,
    current: (u32, Cipher),
    older: BTreeMap<u32, Cipher>,
    search: hmac::Key,
    signing: Ed25519KeyPair,
}

impl TenantKeys {
    /// From unwrapped keys; the data key with the highest version is the current one.
    pub fn assemble(
        tenant: TenantId,
        data: Vec<(u32, Zeroizing<Vec<u8>>)>,
        search: Zeroizing<Vec<u8>>,
        signing: Zeroizing<Vec<u8>>,
    ) -> Result<Self> {
        let mut older =
            data.iter().map(|(version, key)| Ok((*version, Cipher::new(key)?))).collect::<Result<BTreeMap<_, _>>>()?;
        let current =
            older.pop_last().ok_or_else(|| Error::internal("A tenant's data keys are unusable", "there is none"))?;
        if search.len() != KEY_LENGTH {
            return Err(Error::internal("A tenant's search key is unusable", "its length is wrong"));
        }
        let search = hmac::Key::new(hmac::HMAC_SHA256, &search);
        let signing = Ed25519KeyPair::from_seed_unchecked(&signing)
            .map_err(|error| Error::internal("A tenant's signing key is unusable", error))?;
        Ok(Self { tenant, current, older, search, signing })
    }

    /// Whose keys these are.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Finds an identifier or a source key again without storing it: equal parts, equal bytes, within one tenant.
    pub fn blind(&self, domain: &str, parts: &[&str]) -> [u8; 16] {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        truncated(&self.mac("blind", domain, &parts))
    }

    /// Tells whether imported content changed.
    pub fn digest(&self, domain: &str, bytes: &[u8]) -> [u8; 32] {
        truncated(&self.mac("digest", domain, &[bytes]))
    }

    /// A word as it is searched for.
    pub fn term(&self, domain: &str, word: &str) -> i64 {
        i64::from_be_bytes(truncated(&self.mac("term", domain, &[word.as_bytes()])))
    }

    /// Proves that a cursor was made here, for this tenant.
    pub fn cursor_tag(&self, bytes: &[u8]) -> [u8; 16] {
        truncated(&self.mac("cursor", "", &[bytes]))
    }

    /// Ed25519 signature in the tenant's name.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.signing.sign(message);
        let mut bytes = [0; 64];
        bytes.copy_from_slice(signature.as_ref());
        bytes
    }

    /// The public key that verifies what `sign` signed.
    pub fn verify_key(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.signing.public_key().as_ref());
        bytes
    }

    pub(super) fn current_data_key(&self) -> &(u32, Cipher) {
        &self.current
    }

    pub(super) fn data_key(&self, version: u32) -> Option<&Cipher> {
        if version == self.current.0 { Some(&self.current.1) } else { self.older.get(&version) }
    }

    fn mac(&self, usage: &str, domain: &str, parts: &[&[u8]]) -> hmac::Tag {
        let mut framed = frame(&[b"cordon.v1", usage.as_bytes(), domain.as_bytes()]);
        framed.extend(frame(parts));
        hmac::sign(&self.search, &Zeroizing::new(framed))
    }
}

impl fmt::Debug for TenantKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantKeys({}, redacted)", self.tenant)
    }
}

/// The first bytes of a tag.
fn truncated<const N: usize>(tag: &hmac::Tag) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use std::collections::BTreeSet;

    fn keys(search: u8) -> TenantKeys {
        let key = |byte: u8| Zeroizing::new(vec![byte; KEY_LENGTH]);
        TenantKeys::assemble(TenantId::new(), vec![(1, key(1))], key(search), key(3)).unwrap()
    }

    #[test]
    fn blinding_keeps_parts_domains_and_tenants_apart() {
        let keys = keys(2);
        assert_eq!(keys.blind("id", &["a", "b"]), keys.blind("id", &["a", "b"]));
        let all = [
            keys.blind("id", &["a", "b"]),
            keys.blind("id", &["ab"]),
            keys.blind("id", &["a", "b", ""]),
            keys.blind("ida", &["b"]),
            keys.cursor_tag(b"ab"),
            self::keys(9).blind("id", &["a", "b"]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_ne!(keys.term("note", "pain"), keys.term("patient.name", "pain"));
    }

    #[test]
    fn signatures_verify() {
        let keys = keys(2);
        assert!(UnparsedPublicKey::new(&ED25519, keys.verify_key()).verify(b"note", &keys.sign(b"note")).is_ok());
        assert!(UnparsedPublicKey::new(&ED25519, keys.verify_key()).verify(b"other", &keys.sign(b"note")).is_err());
    }

    #[test]
    fn unusable_keys_are_refused() {
        let key = |length: usize| Zeroizing::new(vec![1; length]);
        assert!(TenantKeys::assemble(TenantId::new(), vec![], key(32), key(32)).is_err());
        assert!(TenantKeys::assemble(TenantId::new(), vec![(1, key(16))], key(32), key(32)).is_err());
        assert!(TenantKeys::assemble(TenantId::new(), vec![(1, key(32))], key(0), key(32)).is_err());
        assert!(TenantKeys::assemble(TenantId::new(), vec![(1, key(32))], key(32), key(31)).is_err());
    }
}
