//! AES-256-GCM with random nonces: `header | nonce (12) | ciphertext | tag (16)`.
//! The nonce is drawn by AWS-LC for every message; 2^32 messages a key is its limit, which is why data keys have versions.

use crate::error::{Error, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// One AES-256 key, ready for use.
pub(super) struct Cipher(RandomizedNonceKey);

impl Cipher {
    /// From the 32 bytes of the key.
    pub(super) fn new(key: &[u8]) -> Result<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key)
            .map(Self)
            .map_err(|error| Error::internal("A data key is not an AES-256 key", error))
    }

    /// `header`, in clear and not covered by itself, then `plain` under this key and `associated` data.
    pub(super) fn seal(&self, header: &[u8], associated: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        // Allocated once, so that no copy of the plaintext stays behind in memory given back.
        let mut sealed = Vec::with_capacity(header.len() + NONCE_LEN + plain.len() + MAX_TAG_LEN);
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(&[0; NONCE_LEN]);
        sealed.extend_from_slice(plain);
        let (head, body) = sealed.split_at_mut(header.len() + NONCE_LEN);
        let (nonce, tag) = self
            .0
            .seal_in_place_separate_tag(Aad::from(associated), body)
            .map_err(|error| Error::internal("Sealing failed", error))?;
        for (to, from) in head.iter_mut().skip(header.len()).zip(nonce.as_ref()) {
            *to = *from;
        }
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// What `seal` wrote after the header; `None` when anything of it, or of the associated data, is not as it was.
    pub(super) fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(associated), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}
