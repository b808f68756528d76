//! The unwrapped keys of one tenant: data keys by version, search key, signing key. The key ring creates them and lends
//! them as `&TenantKeys` or in an `Arc`. They cannot be cloned, are wiped when dropped (AWS-LC wipes what it holds) and
//! are never printed. Sealing and opening are in `seal.rs`.

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

/// Returns 32 random bytes, for a data key, a search key or the seed of a signing key.
///
/// # Panics
/// When the system provides no random bytes, because nothing can be done safely then.
pub fn fresh_key() -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(vec![0; KEY_LENGTH]);
    assert!(aws_lc_rs::rand::fill(&mut key).is_ok(), "no random bytes");
    key
}

/// The unwrapped keys of one tenant.
pub struct TenantKeys {
    tenant: TenantId,
    /// The data key with the highest version, which seals, and its version.
    current: (u32, Cipher),
    /// The other data keys by version; they only open.
    older: BTreeMap<u32, Cipher>,
    search: hmac::Key,
    signing: Ed25519KeyPair,
}

impl TenantKeys {
    /// Builds the keys from unwrapped bytes. The data key with the highest version becomes the current one. Fails when
    /// there is no data key or a key has the wrong length.
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

    /// The tenant that the keys belong to.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Computes a blind index: a keyed hash by which an identifier or a source key is found without being stored. Equal
    /// parts of one `domain` give equal bytes within one tenant, and different bytes in another.
    pub fn blind_index(&self, domain: &str, parts: &[&str]) -> [u8; 16] {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        truncated(&self.mac("blind", domain, &parts))
    }

    /// Computes a keyed hash of content, which shows whether the same content was received before. Not comparable
    /// between tenants.
    pub fn digest(&self, domain: &str, bytes: &[u8]) -> [u8; 32] {
        truncated(&self.mac("digest", domain, &[bytes]))
    }

    /// Computes the blind index of a search word, truncated to 64 bits.
    pub fn search_term(&self, domain: &str, word: &str) -> i64 {
        i64::from_be_bytes(truncated(&self.mac("term", domain, &[word.as_bytes()])))
    }

    /// Computes the authentication tag of a pagination cursor. It proves that the cursor was created by this
    /// installation for this tenant.
    pub fn cursor_tag(&self, bytes: &[u8]) -> [u8; 16] {
        truncated(&self.mac("cursor", "", &[bytes]))
    }

    /// Signs `message` with the tenant's Ed25519 key.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.signing.sign(message);
        let mut bytes = [0; 64];
        bytes.copy_from_slice(signature.as_ref());
        bytes
    }

    /// The Ed25519 public key that verifies the signatures of `sign`.
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

    /// HMAC-SHA-256 with the search key. `usage` keeps the kinds of tags apart, and `domain` the values of one kind.
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
    fn blind_indexes_differ_by_parts_domain_and_key() {
        let keys = keys(2);
        assert_eq!(keys.blind_index("id", &["a", "b"]), keys.blind_index("id", &["a", "b"]));
        let all = [
            keys.blind_index("id", &["a", "b"]),
            keys.blind_index("id", &["ab"]),
            keys.blind_index("id", &["a", "b", ""]),
            keys.blind_index("ida", &["b"]),
            keys.cursor_tag(b"ab"),
            self::keys(9).blind_index("id", &["a", "b"]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_ne!(keys.search_term("note", "pain"), keys.search_term("patient.name", "pain"));
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
