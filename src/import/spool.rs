//! Keeps standard input for several passes: on disk, encrypted with a key that only this process has.
//! The file has no name, so the operating system removes it when the process ends for any reason.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use uuid::Uuid;
use zeroize::Zeroizing;

const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;

/// The input in encrypted chunks of `CHUNK_BYTES`, each followed by its tag.
pub(super) struct Spool {
    file: File,
    key: LessSafeKey,
    length: u64,
}

impl Spool {
    /// Reads `input` to its end.
    pub(super) fn fill(mut input: impl Read) -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| io::Error::other("no randomness"))?;
        let key = UnboundKey::new(&AES_256_GCM, secret.as_slice()).map_err(|_| io::Error::other("no cipher"))?;
        let mut spool = Self { file: unnamed_file()?, key: LessSafeKey::new(key), length: 0 };
        let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES + TAG_BYTES));
        for number in 0.. {
            chunk.clear();
            let read = input.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut chunk)?;
            if read == 0 {
                break;
            }
            spool
                .key
                .seal_in_place_append_tag(nonce(number), Aad::empty(), &mut *chunk)
                .map_err(|_| io::Error::other("cannot seal"))?;
            spool.file.write_all_at(&chunk, offset(number))?;
            spool.length += read as u64;
        }
        Ok(spool)
    }

    /// Returns a reader at the beginning of the input. Any number of readers may be used.
    pub(super) fn read(&self) -> SpoolReader<'_> {
        SpoolReader { spool: self, number: 0, chunk: Zeroizing::new(Vec::new()), position: 0 }
    }

    /// Decrypts the chunk with this number into `chunk`, which stays empty after the last chunk. A modified chunk is an
    /// error.
    fn open(&self, number: u64, chunk: &mut Vec<u8>) -> io::Result<()> {
        let plain_bytes = self.length.saturating_sub(number.saturating_mul(CHUNK_BYTES as u64)).min(CHUNK_BYTES as u64);
        chunk.clear();
        if plain_bytes == 0 {
            return Ok(());
        }
        chunk.resize(usize::try_from(plain_bytes).map_err(io::Error::other)? + TAG_BYTES, 0);
        self.file.read_exact_at(chunk, offset(number))?;
        let opened = self
            .key
            .open_in_place(nonce(number), Aad::empty(), chunk)
            .map_err(|_| io::Error::other("the spooled input was changed"))?;
        let length = opened.len();
        chunk.truncate(length);
        Ok(())
    }
}

/// Reads a spool from the beginning.
pub(super) struct SpoolReader<'s> {
    spool: &'s Spool,
    number: u64,
    chunk: Zeroizing<Vec<u8>>,
    position: usize,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.len() {
            self.spool.open(self.number, &mut self.chunk)?;
            self.number += 1;
            self.position = 0;
        }
        let mut rest = self.chunk.get(self.position..).unwrap_or_default();
        let read = rest.read(out)?;
        self.position += read;
        Ok(read)
    }
}

/// Returns the nonce of a chunk. A key encrypts one spool, so each chunk number is used once.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    for (target, byte) in bytes.iter_mut().zip(number.to_be_bytes()) {
        *target = byte;
    }
    Nonce::assume_unique_for_key(bytes)
}

fn offset(number: u64) -> u64 {
    number * (CHUNK_BYTES + TAG_BYTES) as u64
}

fn unnamed_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("cordon-{}", Uuid::now_v7()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_can_be_read_several_times() {
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5] {
            let content: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let spool = Spool::fill(content.as_slice()).unwrap();
            for _ in 0..2 {
                let mut again = Vec::new();
                spool.read().read_to_end(&mut again).unwrap();
                assert!(again == content, "{length}");
            }
        }
    }

    #[test]
    fn the_file_holds_no_plaintext_and_modifications_are_detected() {
        let words = b"planted name ".repeat(9000);
        let spool = Spool::fill(words.as_slice()).unwrap();
        let mut stored = vec![0; usize::try_from(spool.file.metadata().unwrap().len()).unwrap()];
        spool.file.read_exact_at(&mut stored, 0).unwrap();
        assert!(stored.len() > words.len());
        assert!(!stored.windows(7).any(|window| window == b"planted"));
        spool.file.write_all_at(b"x", 100).unwrap();
        assert!(spool.read().read_to_end(&mut Vec::new()).is_err());
    }
}
