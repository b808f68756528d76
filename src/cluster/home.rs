//! A cluster's directory: who owns it, who has it, and what a killed predecessor left in it.
//! Makes the data, the password and the socket's directory; never starts the server and never removes data that was finished.

use super::binaries::Binaries;
use super::{ClusterError, Durability, SUPERUSER, at};
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

/// A socket's full path must stay below this: systems allow 104 to 108.
const LONGEST_SOCKET: usize = 100;
/// The socket's file name.
const SOCKET: &str = ".s.PGSQL.5432";
/// For an orphaned server that is stopping.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// For an orphaned server that has not noticed yet.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

/// The unprivileged user that root drops to.
#[derive(Debug)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// A directory that is ours while this value lives.
#[derive(Debug)]
pub struct Home {
    pub dir: PathBuf,
    pub data: PathBuf,
    pub sockets: PathBuf,
    account: Option<Account>,
    /// Locked; the system unlocks it when this process ends, however it ends.
    _lock: File,
}

impl Account {
    /// Whom the server runs as: `None` is whoever runs this process.
    pub fn of_server() -> Result<Option<Self>, ClusterError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .ok_or(ClusterError::NoUser)?;
        Ok(Some(Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
    }

    fn must_enter(&self, dir: &Path) -> Result<(), ClusterError> {
        for dir in dir.ancestors() {
            let meta = at(dir, std::fs::metadata(dir))?;
            let bit = match () {
                () if meta.uid() == self.uid => 0o100,
                () if meta.gid() == self.gid => 0o010,
                () => 0o001,
            };
            if meta.mode() & bit == 0 {
                return Err(ClusterError::Unreachable { user: self.name.clone(), path: dir.to_owned() });
            }
        }
        Ok(())
    }
}

impl Home {
    /// Makes the directory when it is absent, and takes it.
    pub fn open(dir: &Path, account: Option<Account>) -> Result<Self, ClusterError> {
        if let Some(parent) = dir.parent() {
            at(parent, std::fs::create_dir_all(parent))?;
        }
        make_private(dir, account.as_ref())?;
        let dir = at(dir, dir.canonicalize())?;
        let lock = take_lock(&dir)?;
        let sockets = socket_dir(&dir);
        make_private(&sockets, account.as_ref())?;
        let home = Self { data: dir.join("data"), dir, sockets, account, _lock: lock };
        home.account_enters(&home.sockets)?;
        Ok(home)
    }

    /// Major version of the data; `None` before there are any.
    pub fn made_by(&self) -> Option<u32> {
        std::fs::read_to_string(self.data.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Whether whoever the server runs as gets there.
    pub fn account_enters(&self, dir: &Path) -> Result<(), ClusterError> {
        self.account.as_ref().map_or(Ok(()), |account| account.must_enter(dir))
    }

    /// A program of PostgreSQL: as the server's user, with nothing of our environment, and ended with the calling thread.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC");
        command.stdin(Stdio::null()).process_group(0);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        end_with_thread(&mut command);
        command
    }

    /// The superuser's password, made once.
    pub fn superuser_password(&self) -> Result<SecretString, ClusterError> {
        let path = self.dir.join("superuser");
        match std::fs::read_to_string(&path) {
            Err(absent) if absent.kind() == ErrorKind::NotFound => {}
            read => return Ok(at(&path, read)?.trim().into()),
        }
        let mut random = [0; 32];
        at(&path, aws_lc_rs::rand::fill(&mut random).map_err(|_| ErrorKind::Other.into()))?;
        let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let draft = self.dir.join("superuser.new");
        let written =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).and_then(|mut file| {
                file.write_all(password.as_bytes())?;
                file.sync_all()?;
                self.give(&draft)?;
                std::fs::rename(&draft, &path)
            });
        at(&path, written)?;
        Ok(password.into())
    }

    /// Runs `initdb` when there are no data. What a killed `initdb` left is never taken for data.
    pub fn make_data(&self, binaries: &Binaries, durability: Durability) -> Result<(), ClusterError> {
        if self.made_by().is_some() {
            return Ok(());
        }
        let draft = self.dir.join("data.new");
        match std::fs::remove_dir_all(&draft) {
            Err(absent) if absent.kind() == ErrorKind::NotFound => {}
            removed => at(&draft, removed)?,
        }
        let program = binaries.program("initdb");
        let mut command = self.command(&program);
        command
            .args(["-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-instructions", "-D"])
            .arg(&draft);
        command.arg("--pwfile").arg(self.dir.join("superuser"));
        command.arg(match durability {
            Durability::Durable => "--data-checksums",
            Durability::Scratch => "--no-sync",
        });
        let output = at(&program, command.output())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ClusterError::Failed { program: "initdb", said });
        }
        at(&self.data, std::fs::rename(&draft, &self.data).and_then(|()| File::open(&self.dir)?.sync_all()))
    }

    /// What the server is told, whatever its configuration file says. Statements and rows stay out of its log.
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
        if durability == Durability::Scratch {
            settings.extend([("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off")]);
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The lock is ours, so a server still here is the orphan of a killed process, which is stopping, or was started by hand, which is refused.
    pub fn wait_until_free(&self) -> Result<(), ClusterError> {
        let began = Instant::now();
        while let Some(pid) = self.recorded_pid().filter(|pid| self.is_ours(*pid)) {
            let stopping =
                std::fs::read_to_string(self.data.join("postmaster.pid")).is_ok_and(|text| text.contains("stopping"));
            if began.elapsed() > if stopping { STOPPED_WITHIN } else { NOTICED_WITHIN } {
                return Err(ClusterError::InUse { dir: self.dir.clone(), pid: pid.to_string() });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Removes what would keep the server from starting although nobody is here: a pid that another process got since, and sockets.
    /// Puts the last log aside.
    pub fn clear_stale(&self) -> Result<(), ClusterError> {
        let recycled = self.recorded_pid().is_some_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH));
        let stale =
            [self.data.join("postmaster.pid"), self.sockets.join(SOCKET), self.sockets.join(format!("{SOCKET}.lock"))];
        for path in stale.iter().skip(usize::from(!recycled || !cfg!(target_os = "linux"))) {
            match std::fs::remove_file(path) {
                Err(absent) if absent.kind() == ErrorKind::NotFound => {}
                removed => at(path, removed)?,
            }
        }
        let log = self.dir.join("log");
        let _ = std::fs::rename(&log, self.dir.join("log.old"));
        Ok(())
    }

    /// Ends backends whose server was killed and that have not noticed, because they are busy.
    pub fn end_leftovers(&self) {
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

    /// A server works in its data directory. Where that cannot be seen, its name has to do.
    fn is_ours(&self, pid: i32) -> bool {
        match std::fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(cwd) => cwd == self.data,
            Err(hidden) if hidden.kind() == ErrorKind::PermissionDenied && self.account.is_some() => {
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
            }
            Err(_) => false,
        }
    }

    fn give(&self, path: &Path) -> std::io::Result<()> {
        self.account.as_ref().map_or(Ok(()), |account| chown(path, Some(account.uid), Some(account.gid)))
    }
}

/// Two processes never share a cluster: the second is refused, with the first one's id.
fn take_lock(dir: &Path) -> Result<File, ClusterError> {
    let path = dir.join("lock");
    let mut lock =
        at(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(ClusterError::InUse { dir: dir.to_owned(), pid });
        }
        Err(TryLockError::Error(cause)) => return Err(ClusterError::File { path, cause }),
    }
    at(&path, lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())))?;
    Ok(lock)
}

/// Beside the data or, where that path is too long for a socket, in the system's directory for temporary files.
fn socket_dir(dir: &Path) -> PathBuf {
    let beside = dir.join("run");
    if beside.join(SOCKET).as_os_str().len() < LONGEST_SOCKET {
        return beside;
    }
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    PathBuf::from(format!("/tmp/cordon-{:016x}", hasher.finish()))
}

/// A directory for the server's user alone: made, or an empty one of ours adopted. What somebody else made under this name is refused.
fn make_private(dir: &Path, account: Option<&Account>) -> Result<(), ClusterError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(exists) if exists.kind() == ErrorKind::AlreadyExists => {}
        made => at(dir, made)?,
    }
    let ours = geteuid().as_raw();
    let owner = account.map_or(ours, |account| account.uid);
    let meta = at(dir, std::fs::symlink_metadata(dir))?;
    if meta.is_dir() && meta.uid() == owner && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    if !meta.is_dir() || meta.uid() != ours || at(dir, std::fs::read_dir(dir))?.next().is_some() {
        let refused = std::io::Error::new(
            ErrorKind::PermissionDenied,
            "it exists and is not a private directory of the server's user",
        );
        return at(dir, Err(refused));
    }
    at(dir, std::fs::set_permissions(dir, Permissions::from_mode(0o700)))?;
    account.map_or(Ok(()), |account| at(dir, chown(dir, Some(account.uid), Some(account.gid))))
}

/// Interrupts the program when the thread that started it ends, which it does at the latest with the process.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "there is no safe way to run code between fork and exec")]
fn end_with_thread(command: &mut Command) {
    let parent = nix::unistd::getpid();
    let ask = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGINT)?;
        // The parent may have ended before it was asked for.
        if nix::unistd::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
    };
    // SAFETY: the closure makes two system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// Elsewhere the server outlives a killed parent; the next start finds it and refuses until it is stopped.
#[cfg(not(target_os = "linux"))]
fn end_with_thread(_command: &mut Command) {}
