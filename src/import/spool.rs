//! Standard input, kept for as long as the passes over it take: on disk, and sealed under a key that only this process has.
//! The file has no name, so nothing is left of it when the process ends, however it ends.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use uuid::Uuid;
use zeroize::Zeroizing;

const CHUNK: usize = 64 << 10;
const TAG: usize = 16;

/// Sealed chunks in a file without a name.
pub(super) struct Spool {
    file: File,
    key: LessSafeKey,
    length: u64,
}

impl Spool {
    /// Takes in everything `input` has.
    pub(super) fn fill(mut input: impl Read) -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(secret.as_mut_slice()).map_err(|_| io::Error::other("no randomness"))?;
        let key = UnboundKey::new(&AES_256_GCM, secret.as_slice()).map_err(|_| io::Error::other("no cipher"))?;
        let mut spool = Self { file: nameless()?, key: LessSafeKey::new(key), length: 0 };
        let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK + TAG));
        for number in 0.. {
            chunk.clear();
            let read = input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
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

    /// Reads it from the beginning, as often as wanted.
    pub(super) fn read(&self) -> SpoolReader<'_> {
        SpoolReader { spool: self, number: 0, chunk: Zeroizing::new(Vec::new()), at: 0 }
    }

    /// Opens the chunk of this number; an empty one is the end.
    fn open(&self, number: u64, chunk: &mut Vec<u8>) -> io::Result<()> {
        let plain = self.length.saturating_sub(number.saturating_mul(CHUNK as u64)).min(CHUNK as u64);
        chunk.clear();
        if plain == 0 {
            return Ok(());
        }
        chunk.resize(usize::try_from(plain).map_err(io::Error::other)? + TAG, 0);
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

/// One reading of a spool.
pub(super) struct SpoolReader<'s> {
    spool: &'s Spool,
    number: u64,
    chunk: Zeroizing<Vec<u8>>,
    at: usize,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            self.spool.open(self.number, &mut self.chunk)?;
            self.number += 1;
            self.at = 0;
        }
        let mut rest = self.chunk.get(self.at..).unwrap_or_default();
        let read = rest.read(out)?;
        self.at += read;
        Ok(read)
    }
}

/// The key seals one spool, so the number of a chunk is used once.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    for (place, byte) in bytes.iter_mut().zip(number.to_be_bytes()) {
        *place = byte;
    }
    Nonce::assume_unique_for_key(bytes)
}

fn offset(number: u64) -> u64 {
    number * (CHUNK + TAG) as u64
}

fn nameless() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("cordon-{}", Uuid::now_v7()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_as_often_as_wanted() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let text: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let spool = Spool::fill(text.as_slice()).unwrap();
            for _ in 0..2 {
                let mut again = Vec::new();
                spool.read().read_to_end(&mut again).unwrap();
                assert!(again == text, "{length}");
            }
        }
    }

    #[test]
    fn nothing_lies_on_disk_in_clear_and_changes_are_seen() {
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
