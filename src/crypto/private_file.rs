//! Files that hold secrets: mode 0600, replaced as a whole, changed under a lock. After a crash a file has the old
//! content or the new one. The functions block, so call them from a blocking thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The identity, length and times of a file. Two stamps of a path differ when the file was replaced or written in
/// between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Reads the stamp of the file at `path`, following symbolic links.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for FileStamp {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads a file and its stamp. Fails with `PermissionDenied` when its mode gives the group or others any permission.
pub(crate) fn read(path: &Path) -> io::Result<(FileStamp, Zeroizing<Vec<u8>>)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "must be a file only its owner may use (chmod 600)",
        ));
    }
    // Allocated once: a buffer that grows would leave copies of the secret in freed memory.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.read_to_end(&mut content)?;
    Ok((FileStamp::from(&metadata), content))
}

/// Waits for the exclusive right to change the file at `path`. Dropping the returned file releases it. The lock is on a
/// file beside `path`, because the file itself is replaced.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(beside(path, ".lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Replaces the file at `path` with `content`, atomically and durably. The caller must hold the lock.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // A symbolic link is resolved first, so that its target is replaced and not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let next = write_next(&path, content)?;
    fs::rename(next, &path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_next(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let next = beside(path, ".next");
    // A killed writer may have left this file with any content and mode, so it is removed and created anew.
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&next)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(next)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_killed_before_the_rename_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        replace(&path, b"old").unwrap();
        write_next(&path, b"half-writ").unwrap();
        assert_eq!(read(&path).unwrap().1.as_slice(), b"old");
        replace(&path, b"new").unwrap();
        assert_eq!(read(&path).unwrap().1.as_slice(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
