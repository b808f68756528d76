//! A cluster's directory: its owner, its lock, and the cleanup after a process that was killed.
//! Creates the data, the password and the socket directory. Never starts the server and never removes complete data.

use super::binaries::Binaries;
use super::{ClusterError, Durability, SUPERUSER, with_path};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use secrecy::SecretString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tracing::warn;

/// Socket paths are shorter than this, in bytes. Systems allow 104 to 108.
const MAX_SOCKET_PATH_BYTES: usize = 100;
const SOCKET_FILE: &str = ".s.PGSQL.5432";
/// How long to wait for an orphaned server that is shutting down.
const ORPHAN_STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for an orphaned server to begin to shut down.
const ORPHAN_NOTICE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a lock that is taken is tried again.
const LOCK_RETRY_TIMEOUT: Duration = Duration::from_millis(200);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The unprivileged user that the server runs as when this process runs as root.
#[derive(Debug)]
pub struct ServerAccount {
    name: String,
    uid: u32,
    gid: u32,
}

/// A cluster's directory, locked for this process while this value lives.
#[derive(Debug)]
pub struct ClusterDirectory {
    pub root: PathBuf,
    pub data: PathBuf,
    pub sockets: PathBuf,
    account: Option<ServerAccount>,
    /// The lock file. The system releases the lock when this process ends, however it ends.
    _lock: File,
}

impl ServerAccount {
    /// Chooses the user that the server runs as. `None` means the user of this process, which is not root.
    pub fn choose() -> Result<Option<Self>, ClusterError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .ok_or(ClusterError::NoUser)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    /// Fails with `Unreachable` unless this user may enter `dir` and every directory above it.
    fn check_access(&self, dir: &Path) -> Result<(), ClusterError> {
        for dir in dir.ancestors() {
            let meta = with_path(dir, std::fs::metadata(dir))?;
            let execute_bit = match () {
                () if meta.uid() == self.uid => 0o100,
                () if meta.gid() == self.gid => 0o010,
                () => 0o001,
            };
            if meta.mode() & execute_bit == 0 {
                return Err(ClusterError::Unreachable { user: self.name.clone(), path: dir.to_owned() });
            }
        }
        Ok(())
    }
}

impl ClusterDirectory {
    /// Creates the directory if it is absent, and locks it. Fails with `InUse` when another process has the lock.
    pub fn open(root: &Path, account: Option<ServerAccount>) -> Result<Self, ClusterError> {
        if let Some(parent) = root.parent() {
            with_path(parent, std::fs::create_dir_all(parent))?;
        }
        create_private_dir(root, account.as_ref())?;
        let root = with_path(root, root.canonicalize())?;
        let lock = take_lock(&root)?;
        let sockets = socket_dir(&root);
        create_private_dir(&sockets, account.as_ref())?;
        let directory = Self { data: root.join("data"), root, sockets, account, _lock: lock };
        directory.check_access(&directory.sockets)?;
        Ok(directory)
    }

    /// Returns PostgreSQL's major version of the data, or `None` when there is no data yet.
    pub fn data_version(&self) -> Option<u32> {
        std::fs::read_to_string(self.data.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Fails with `Unreachable` unless the server's user may enter `dir` and every directory above it. Checked only
    /// when this process runs as root.
    pub fn check_access(&self, dir: &Path) -> Result<(), ClusterError> {
        self.account.as_ref().map_or(Ok(()), |account| account.check_access(dir))
    }

    /// Prepares a program of PostgreSQL to run as the server's user, without this process's environment, in a process
    /// group of its own. On Linux it receives SIGINT when the calling thread ends.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
        command.stdin(Stdio::null()).process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        interrupt_with_parent_thread(&mut command);
        command
    }

    /// Returns the superuser's password. The first call generates and stores it.
    pub fn superuser_password(&self) -> Result<SecretString, ClusterError> {
        let path = self.root.join("superuser");
        match std::fs::read_to_string(&path) {
            Err(absent) if absent.kind() == ErrorKind::NotFound => {}
            content => return Ok(with_path(&path, content)?.trim().into()),
        }
        let mut random = [0; 32];
        with_path(&path, aws_lc_rs::rand::fill(&mut random).map_err(|_| ErrorKind::Other.into()))?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let draft = self.root.join("superuser.new");
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).and_then(|mut file| {
                file.write_all(password.as_bytes())?;
                file.sync_all()?;
                self.chown_to_server(&draft)?;
                std::fs::rename(&draft, &path)
            });
        with_path(&path, written)?;
        Ok(password.into())
    }

    /// Runs `initdb` if there is no data. `initdb` writes to a temporary directory that is renamed when it is complete,
    /// so what a killed `initdb` leaves behind is never mistaken for data.
    pub fn create_data(&self, binaries: &Binaries, durability: Durability) -> Result<(), ClusterError> {
        if self.data_version().is_some() {
            return Ok(());
        }
        let draft = self.root.join("data.new");
        match std::fs::remove_dir_all(&draft) {
            Err(absent) if absent.kind() == ErrorKind::NotFound => {}
            removed => with_path(&draft, removed)?,
        }
        let program = binaries.program("initdb");
        let mut command = self.command(&program);
        command
            .args(["-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions", "-D"])
            .arg(&draft);
        command.arg("--pwfile").arg(self.root.join("superuser"));
        command.arg(match durability {
            Durability::Durable => "--data-checksums",
            Durability::NonDurable => "--no-sync",
        });
        let output = with_path(&program, command.output())?;
        if !output.status.success() {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ClusterError::Failed { program: "initdb", output });
        }
        with_path(&self.data, std::fs::rename(&draft, &self.data).and_then(|()| File::open(&self.root)?.sync_all()))
    }

    /// Returns server settings that are passed on the command line, so they override the configuration file. With them,
    /// the server's log contains no statements and no rows.
    pub fn settings(&self, durability: Durability) -> Vec<(String, String)> {
        let sockets = format!("\"{}\"", self.sockets.to_string_lossy().replace('"', "\"\""));
        let mut settings = vec![
            ("listen_addresses", ""),
            ("port", "5432"),
            ("unix_socket_directories", &*sockets),
            ("unix_socket_permissions", "0700"),
            ("max_connections", "200"),
            ("max_prepared_transactions", "0"),
            ("logging_collector", "off"),
            ("log_error_verbosity", "terse"),
            ("log_min_error_statement", "panic"),
        ];
        if durability == Durability::NonDurable {
            settings.extend([("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")]);
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Waits until no server uses the data. This process holds the lock, so a server that is still running is either
    /// the orphan of a killed process, which is about to stop, or was started by hand. A server that does not stop in
    /// time is refused with `InUse`.
    pub fn wait_until_free(&self) -> Result<(), ClusterError> {
        let began = Instant::now();
        while let Some(pid) = self.recorded_pid().filter(|pid| self.serves_this_data(*pid)) {
            let stopping =
                std::fs::read_to_string(self.data.join("postmaster.pid")).is_ok_and(|text| text.contains("stopping"));
            if began.elapsed() > if stopping { ORPHAN_STOP_TIMEOUT } else { ORPHAN_NOTICE_TIMEOUT } {
                return Err(ClusterError::InUse { dir: self.root.clone(), pid: pid.to_string() });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Removes files that would prevent a start although no server is running: sockets, and a `postmaster.pid` whose
    /// process id another process has received since. Renames the last log to `log.old`. Call it after
    /// `wait_until_free`.
    pub fn remove_stale_files(&self) -> Result<(), ClusterError> {
        let pid_reused = self.recorded_pid().is_some_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH));
        let stale = [
            self.data.join("postmaster.pid"),
            self.sockets.join(SOCKET_FILE),
            self.sockets.join(format!("{SOCKET_FILE}.lock")),
        ];
        for path in stale.iter().skip(usize::from(!pid_reused || !cfg!(target_os = "linux"))) {
            match std::fs::remove_file(path) {
                Err(absent) if absent.kind() == ErrorKind::NotFound => {}
                removed => with_path(path, removed)?,
            }
        }
        let log = self.root.join("log");
        let _ = std::fs::rename(&log, self.root.join("log.old"));
        Ok(())
    }

    /// Sends SIGQUIT to all processes that work in the data directory: backends of a killed server that have not
    /// noticed its end because they are busy. Finds them through `/proc`.
    pub fn end_orphaned_backends(&self) {
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            if std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == self.data) {
                warn!("Ending process {pid}, left over from a PostgreSQL that was killed");
                let _ = kill(Pid::from_raw(pid), Signal::SIGQUIT);
            }
        }
    }

    fn recorded_pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.data.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
    }

    /// Whether the process works in the data directory, as its server does. Where that cannot be read, the program's
    /// name decides.
    fn serves_this_data(&self, pid: i32) -> bool {
        match std::fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) => cwd == self.data,
            Err(hidden) if hidden.kind() == ErrorKind::PermissionDenied && self.account.is_some() => {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
            }
            Err(_) => false,
        }
    }

    fn chown_to_server(&self, path: &Path) -> std::io::Result<()> {
        self.account.as_ref().map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
    }
}

/// Takes the lock that keeps two processes from sharing a cluster. Fails with `InUse` and the other process's id.
fn take_lock(dir: &Path) -> Result<File, ClusterError> {
    let path = dir.join("lock");
    let mut lock = with_path(
        &path,
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path),
    )?;
    // A child that this process forks holds a copy of the lock until its exec, also after the lock was released here.
    let began = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_RETRY_TIMEOUT => std::thread::sleep(POLL_INTERVAL),
            Err(TryLockError::WouldBlock) => {
                let pid = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(ClusterError::InUse { dir: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(cause)) => return Err(ClusterError::File { path, cause }),
        }
    }
    with_path(&path, lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())))?;
    Ok(lock)
}

/// Returns the socket directory: beside the data or, where that path is too long for a socket, below `/tmp`, named by a
/// hash of the cluster's path.
fn socket_dir(root: &Path) -> PathBuf {
    let beside_data = root.join("run");
    if beside_data.join(SOCKET_FILE).as_os_str().len() < MAX_SOCKET_PATH_BYTES {
        return beside_data;
    }
    let mut hasher = DefaultHasher::new();
    root.hash(&mut hasher);
    PathBuf::from(format!("/tmp/cordon-{:016x}", hasher.finish()))
}

/// Creates a directory that only the server's user may enter. An existing directory is accepted if it is already so; an
/// empty one that belongs to this process's user is given to the server's user; any other is refused.
fn create_private_dir(dir: &Path, account: Option<&ServerAccount>) -> Result<(), ClusterError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(exists) if exists.kind() == ErrorKind::AlreadyExists => {}
        created => with_path(dir, created)?,
    }
    let own_uid = geteuid().as_raw();
    let owner = account.map_or(own_uid, |account| account.uid);
    let meta = with_path(dir, std::fs::symlink_metadata(dir))?;
    if meta.is_dir() && meta.uid() == owner && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    if !meta.is_dir() || meta.uid() != own_uid || with_path(dir, std::fs::read_dir(dir))?.next().is_some() {
        let refused = std::io::Error::new(
            ErrorKind::PermissionDenied,
            "it exists and is not a private directory of the server's user",
        );
        return with_path(dir, Err(refused));
    }
    with_path(dir, std::fs::set_permissions(dir, Permissions::from_mode(0o700)))?;
    account.map_or(Ok(()), |account| with_path(dir, chown(dir, Some(account.uid), Some(account.gid))))
}

/// Makes the program receive SIGINT when the thread that starts it ends, which happens at the latest when this process
/// ends.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
fn interrupt_with_parent_thread(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let request_signal = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?;
        // The parent may have ended before the signal was requested.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure makes two system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(request_signal) };
}

/// Does nothing on other systems. There the server outlives a killed parent, and the next start fails with `InUse`
/// until it is stopped.
#[cfg(not(target_os = "linux"))]
fn interrupt_with_parent_thread(_command: &mut Command) {}
