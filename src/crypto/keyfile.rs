//! The embedded KMS: a JSON file of mode 0600 with one key-encryption key (KEK) per tenant and one for the system. The
//! file is read again when it has changed. While it is missing or unreadable, every operation fails, also with keys
//! that were read before; once it is back, operations succeed again.

use super::cipher::Cipher;
use super::keys::fresh_key;
use super::kms::{KekId, Kms};
use super::private_file::{self, FileStamp};
use super::{count_integrity_failure, frame};
use crate::error::{Error, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::error;
use zeroize::Zeroizing;

const FORMAT: u8 = 1;

/// A key file. Clones share one cache of its content.
#[derive(Clone)]
pub struct KeyFile(Arc<Shared>);

struct Shared {
    path: PathBuf,
    /// The content as last read, and the stamp the file had then.
    cache: Mutex<Option<(FileStamp, Arc<Keks>)>>,
}

/// The content of a key file: the key-encryption keys by owner.

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keks {
    system: Kek,
    tenants: BTreeMap<String, Kek>,
}

/// A key-encryption key of 32 bytes, in base64 in the file.
struct Kek(Zeroizing<Vec<u8>>);

impl KeyFile {
    /// Refers to the key file at `path`. The file is not read yet and may be missing for now.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Shared { path: path.into(), cache: Mutex::default() }))
    }

    /// Creates a key file with a new key for the system. Fails with `Conflict`, and changes nothing, when the file
    /// exists.
    pub fn init(path: &Path) -> Result<Self> {
        let file = Self::new(path);
        let shared = &file.0;
        let _lock = private_file::lock(path).map_err(|error| shared.unavailable(error))?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::Conflict { current_version: None, reason: "a key file exists there already" });
        }
        shared.write(&Keks { system: Kek(fresh_key()), tenants: BTreeMap::new() })?;
        Ok(file)
    }

    /// Runs `work`, which waits for the disk, on a thread that may block.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let shared = self.0.clone();
        let task = tokio::task::spawn_blocking(move || work(&shared));
        async { task.await.map_err(|error| Error::internal("The key file's thread failed", error))? }.boxed()
    }
}

impl Kms for KeyFile {
    fn create(&self, kek: KekId) -> BoxFuture<'_, Result<()>> {
        self.blocking(move |shared| shared.create(kek))
    }

    fn wrap<'a>(&'a self, kek: KekId, context: &'a [u8], plain: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>>> {
        let (associated, plain) = (associated(kek, context), Zeroizing::new(plain.to_vec()));
        self.blocking(move |shared| shared.cipher(kek)?.seal(&[FORMAT], &associated, &plain))
    }

    fn unwrap<'a>(
        &'a self,
        kek: KekId,
        context: &'a [u8],
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>>> {
        let (associated, wrapped) = (associated(kek, context), wrapped.to_vec());
        self.blocking(move |shared| {
            let cipher = shared.cipher(kek)?;
            let plain = wrapped
                .split_first()
                .filter(|(format, _)| **format == FORMAT)
                .and_then(|(_, body)| cipher.open(&associated, body));
            plain.ok_or_else(|| {
                count_integrity_failure();
                error!(kek.id = %kek, "A wrapped key does not open");
                Error::Integrity
            })
        })
    }
}

fn associated(kek: KekId, context: &[u8]) -> Vec<u8> {
    frame(&[b"cordon.kek.v1", kek.to_string().as_bytes(), context])
}

impl Shared {
    fn cipher(&self, kek: KekId) -> Result<Cipher> {
        let keks = self.current()?;
        match keks.get(kek) {
            Some(Kek(key)) => Cipher::new(key),
            None => {
                error!(kek.id = %kek, file.path = %self.path.display(), "The key file has no such key");
                Err(Error::KeyUnavailable)
            }
        }
    }

    fn create(&self, kek: KekId) -> Result<()> {
        let _lock = private_file::lock(&self.path).map_err(|error| self.unavailable(error))?;
        let (_, mut keks) = self.load()?;
        let KekId::Tenant(tenant) = kek else { return Ok(()) };
        if keks.get(kek).is_some() {
            return Ok(());
        }
        keks.tenants.insert(tenant.to_string(), Kek(fresh_key()));
        self.write(&keks)
    }

    /// Returns the keys that are in the file now, from the cache if the file is unchanged.
    fn current(&self) -> Result<Arc<Keks>> {
        let mut cache = self.cache.lock();
        let current_stamp = FileStamp::of(&self.path).map_err(|error| {
            *cache = None;
            self.unavailable(error)
        })?;
        if let Some((_, keks)) = cache.as_ref().filter(|(stamp, _)| *stamp == current_stamp) {
            return Ok(keks.clone());
        }
        *cache = None;
        let (stamp, keks) = self.load()?;
        let (_, keks) = cache.insert((stamp, Arc::new(keks)));
        Ok(keks.clone())
    }

    fn load(&self) -> Result<(FileStamp, Keks)> {
        let (stamp, content) = private_file::read(&self.path).map_err(|error| self.unavailable(error))?;
        // Only the position is reported: the parser's own message quotes the content, which is secret.
        let keks = serde_json::from_slice(&content).map_err(|error| {
            self.unavailable(io::Error::other(format!(
                "not a key file, line {} column {}",
                error.line(),
                error.column()
            )))
        })?;
        Ok((stamp, keks))
    }

    fn write(&self, keks: &Keks) -> Result<()> {
        let content = serde_json::to_vec_pretty(keks)
            .map(Zeroizing::new)
            .map_err(|error| Error::internal("A key file cannot be written", error))?;
        private_file::replace(&self.path, &content).map_err(|error| self.unavailable(error))
    }

    /// Logs why the file cannot be used, and returns the error for the caller.
    fn unavailable(&self, error: io::Error) -> Error {
        error!(file.path = %self.path.display(), error = %error, "The key file cannot be used");
        Error::KeyUnavailable
    }
}

impl Keks {
    fn get(&self, kek: KekId) -> Option<&Kek> {
        match kek {
            KekId::System => Some(&self.system),
            KekId::Tenant(tenant) => self.tenants.get(&tenant.to_string()),
        }
    }
}

impl Serialize for Kek {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Kek {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key =
            STANDARD.decode(<&str>::deserialize(deserializer)?).map(Zeroizing::new).ok().filter(|key| key.len() == 32);
        key.map(Self).ok_or_else(|| serde::de::Error::custom("not 32 bytes in base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TenantId;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    fn new_key_file() -> (tempfile::TempDir, PathBuf, KeyFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let file = KeyFile::init(&path).unwrap();
        (dir, path, file)
    }

    #[tokio::test]
    async fn unwraps_only_with_the_same_key_and_context() {
        let (_dir, _, file) = new_key_file();
        let (ours, theirs) = (KekId::Tenant(TenantId::new()), KekId::Tenant(TenantId::new()));
        assert_eq!(file.wrap(ours, b"data 1", b"secret").await, Err(Error::KeyUnavailable), "not created yet");
        file.create(ours).await.unwrap();
        file.create(theirs).await.unwrap();
        let wrapped = file.wrap(ours, b"data 1", b"secret").await.unwrap();
        file.create(ours).await.unwrap();
        assert_eq!(file.unwrap(ours, b"data 1", &wrapped).await.unwrap().as_slice(), b"secret");
        assert_eq!(file.unwrap(ours, b"data 2", &wrapped).await, Err(Error::Integrity));
        assert_eq!(file.unwrap(theirs, b"data 1", &wrapped).await, Err(Error::Integrity));
        assert_eq!(file.unwrap(KekId::System, b"data 1", &wrapped).await, Err(Error::Integrity));
        assert_eq!(file.unwrap(ours, b"data 1", b"").await, Err(Error::Integrity));
    }

    #[tokio::test]
    async fn fails_while_the_file_is_unsafe_or_missing_and_recovers() {
        let (_dir, path, file) = new_key_file();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(KeyFile::init(&path), Err(Error::Conflict { .. })));
        let wrapped = file.wrap(KekId::System, b"", b"secret").await.unwrap();

        for mode in [0o640, 0o604, 0o622] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(file.unwrap(KekId::System, b"", &wrapped).await, Err(Error::KeyUnavailable), "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(file.unwrap(KekId::System, b"", &wrapped).await.is_ok());

        let moved = path.with_extension("moved");
        fs::rename(&path, &moved).unwrap();
        assert_eq!(file.unwrap(KekId::System, b"", &wrapped).await, Err(Error::KeyUnavailable));
        assert_eq!(file.create(KekId::Tenant(TenantId::new())).await, Err(Error::KeyUnavailable));
        fs::write(&path, "{\"system\":").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(file.unwrap(KekId::System, b"", &wrapped).await, Err(Error::KeyUnavailable));
        fs::rename(&moved, &path).unwrap();
        assert!(file.unwrap(KekId::System, b"", &wrapped).await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_creations_lose_no_key() {
        let (_dir, path, file) = new_key_file();
        let tenants: Vec<_> = (0..24).map(|_| KekId::Tenant(TenantId::new())).collect();
        // Each task has a `KeyFile` of its own, as separate processes would: the lock belongs to the open file.
        let tasks = tenants.iter().map(|kek| {
            let (path, kek) = (path.clone(), *kek);
            tokio::spawn(async move { KeyFile::new(path).create(kek).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
        for kek in tenants {
            assert!(file.wrap(kek, b"", b"secret").await.is_ok());
        }
    }
}
