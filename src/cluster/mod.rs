//! A private PostgreSQL cluster: created on first use, reached through a Unix socket only, stopped with the process
//! that started it. Everything is in one directory: `data`, `superuser` (the password), `log`, `lock` and, if the path
//! is short enough, `run` (the socket). A supervisor thread restarts the server after a crash and after its programs
//! have been upgraded on disk. When the process runs as root, the server runs as user `postgres`, or else `nobody`. The
//! development server and the tests use this module; `serve` never does.

mod binaries;
mod directory;
mod supervisor;

pub use binaries::{Binaries, MissingBinaries, ServerVersion};

use directory::{ClusterDirectory, ServerAccount};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use supervisor::Supervisor;
use tokio::sync::oneshot;
use tracing::warn;

const SUPERUSER: &str = "postgres";

/// Whether committed data survives a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// All committed data survives.
    Durable,
    /// The data may be lost or corrupted, because the server does not sync its files. Faster, for tests.
    NonDurable,
}

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cluster's directory; created when absent. When the process runs as root, an unprivileged user must be able
    /// to enter every directory above it.
    pub dir: PathBuf,
    /// Whether committed data survives a power failure.
    pub durability: Durability,
    /// Directory of the server programs. `None` searches the usual places, see [`Binaries::find`].
    pub binaries: Option<PathBuf>,
    /// Further server settings, as names and values. They override the settings of this module.
    pub settings: Vec<(String, String)>,
}

/// A running private PostgreSQL. Dropping it stops the server and waits for its end.
#[derive(Debug)]
pub struct Cluster {
    directory: Arc<ClusterDirectory>,
    password: SecretString,
    pid: Arc<AtomicU32>,
    stop: Option<oneshot::Sender<()>>,
    supervisor: Option<JoinHandle<()>>,
}

/// Why a cluster cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No usable server programs were found.
    #[error(transparent)]
    MissingBinaries(#[from] MissingBinaries),
    /// Another running process uses the cluster.
    #[error("{} is in use by process {pid}: stop that first, or choose another directory", dir.display())]
    InUse {
        /// The cluster's directory.
        dir: PathBuf,
        /// The process id of the other process, as text.
        pid: String,
    },
    /// The unprivileged user that the server runs as cannot enter a directory.
    #[error(
        "run by root, PostgreSQL runs as user {user}, who may not enter {}: choose a directory below /var/lib",
        path.display()
    )]
    Unreachable {
        /// The user's name.
        user: String,
        /// The first directory that denies access.
        path: PathBuf,
    },
    /// The process runs as root, and the system has none of the unprivileged users that the server could run as.
    #[error("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")]
    NoUser,
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Failed {
        /// The program's name.
        program: &'static str,
        /// The end of the program's error output or log.
        output: String,
    },
    /// An operation on a file failed.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        cause: std::io::Error,
    },
}

impl Cluster {
    /// Creates the cluster if the directory has none, starts the server and blocks until it accepts connections. The
    /// server then runs until `stop` or drop. On Linux it also ends with this process, however that ends.
    pub fn start(options: &Options) -> Result<Self, ClusterError> {
        let account = ServerAccount::choose()?;
        let directory = ClusterDirectory::open(&options.dir, account)?;
        let binaries = match directory.data_version() {
            Some(major) => Binaries::find_major(options.binaries.as_deref(), major)?,
            None => Binaries::find(options.binaries.as_deref())?,
        };
        directory.check_access(binaries.dir())?;
        if let Some(fixed) = binaries.version().required_upgrade() {
            let (installed, upgrade) = (binaries.version(), binaries.version().upgrade_command());
            warn!("PostgreSQL {installed} has a known bypass of row-level security, fixed in {fixed}: {upgrade}");
        }
        let password = directory.superuser_password()?;
        directory.create_data(&binaries, options.durability)?;
        directory.wait_until_free()?;
        directory.remove_stale_files()?;

        let pid = Arc::new(AtomicU32::new(0));
        let settings =
            directory.settings(options.durability).into_iter().chain(options.settings.iter().cloned()).collect();
        let directory = Arc::new(directory);
        let supervisor = Supervisor {
            binaries,
            directory: Arc::clone(&directory),
            settings,
            password: password.clone(),
            pid: Arc::clone(&pid),
        };
        let (stop, stop_requested) = oneshot::channel();
        let (started_sender, started) = mpsc::channel();
        // The server ends with the thread that spawned it, so that thread does nothing else and lives as long as the
        // server.
        let thread = std::thread::Builder::new()
            .name("postgres-supervisor".into())
            .spawn(move || supervisor.run(&started_sender, stop_requested));
        let thread = with_path(&options.dir, thread)?;
        let cluster = Self { directory, password, pid, stop: Some(stop), supervisor: Some(thread) };
        started.recv().unwrap_or_else(|_| {
            Err(ClusterError::Failed { program: "postgres", output: "its supervisor ended".into() })
        })?;
        Ok(cluster)
    }

    /// Returns a connection URL for the superuser, through the Unix socket. It contains the password.
    pub fn superuser_url(&self, database: &str) -> SecretString {
        let (host, database) = (
            percent_encode(self.directory.sockets.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC),
            percent_encode(database.as_bytes(), NON_ALPHANUMERIC),
        );
        format!("postgresql://{SUPERUSER}:{}@{host}/{database}", self.password.expose_secret()).into()
    }

    /// The directory that holds the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.directory.sockets
    }

    /// The process id of the server, or 0 while it is being restarted.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    /// Shuts the server down in PostgreSQL's fast mode (sessions are ended, a checkpoint is written) and waits for its
    /// end.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.supervisor.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("The supervisor of PostgreSQL panicked");
        }
        // The socket directory may be outside the cluster's directory; it belongs to this cluster alone and is created
        // at each start.
        let _ = std::fs::remove_dir(&self.directory.sockets);
    }
}

/// Adds the path to the error of a failed file operation.
fn with_path<T>(path: &Path, result: std::io::Result<T>) -> Result<T, ClusterError> {
    result.map_err(|cause| ClusterError::File { path: path.to_owned(), cause })
}
