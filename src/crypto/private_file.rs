//! Files that hold secrets: mode 0600, replaced as a whole, changed under a lock. A crash leaves the old content or the new one.
//! Blocking: call from a blocking thread.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Identity and state of a file: differs when it was replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(is: &fs::Metadata) -> Self {
        Self {
            file: (is.dev(), is.ino()),
            length: is.len(),
            modified: (is.mtime(), is.mtime_nsec()),
            changed: (is.ctime(), is.ctime_nsec()),
        }
    }
}

/// The content, unless anyone but the owner could have read or written it.
pub(crate) fn read(path: &Path) -> io::Result<(Stamp, Zeroizing<Vec<u8>>)> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "must be a file only its owner may use (chmod 600)",
        ));
    }
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.read_to_end(&mut content)?;
    Ok((Stamp::from(&metadata), content))
}

/// Waits for the right to change the file at `path`; given back on drop. The lock is a file beside it, because the file itself is replaced.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(beside(path, ".lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Puts `content` in place of the file at `path`, durably. The caller holds the lock.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // Through a link to the file itself, so that the link stays one.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let next = write_next(&path, content)?;
    fs::rename(next, &path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn write_next(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let next = beside(path, ".next");
    // What a killed writer left may have any content; a new file has the right mode.
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
