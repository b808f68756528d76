//! AES-256-GCM with random nonces: `header | nonce (12 bytes) | ciphertext | tag (16 bytes)`.
//! AWS-LC draws a new nonce for every message. Random nonces limit a key to 2^32 messages, which is why data keys have
//! versions.

use crate::error::{Error, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

pub(super) struct Cipher(RandomizedNonceKey);

impl Cipher {
    /// Fails unless `key` has 32 bytes.
    pub(super) fn new(key: &[u8]) -> Result<Self> {
        RandomizedNonceKey::new(&AES_256_GCM, key)
            .map(Self)
            .map_err(|error| Error::internal("A data key is not an AES-256 key", error))
    }

    /// Encrypts `plain` and returns it behind `header`. The header stays in clear text and is authenticated only as far
    /// as `associated` repeats it.
    pub(super) fn seal(&self, header: &[u8], associated: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        // Allocated once: a buffer that grows would leave copies of the plaintext in freed memory.
        let mut sealed = Vec::with_capacity(header.len() + NONCE_LEN + plain.len() + MAX_TAG_LEN);
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(&[0; NONCE_LEN]);
        sealed.extend_from_slice(plain);
        let (prefix, body) = sealed.split_at_mut(header.len() + NONCE_LEN);
        let (nonce, tag) = self
            .0
            .seal_in_place_separate_tag(Aad::from(associated), body)
            .map_err(|error| Error::internal("Sealing failed", error))?;
        for (to, from) in prefix.iter_mut().skip(header.len()).zip(nonce.as_ref()) {
            *to = *from;
        }
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Decrypts what `seal` wrote after the header. `None` when it or the associated data has been changed, or the key
    /// is another.
    pub(super) fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = Zeroizing::new(body.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(associated), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}
