//! A private PostgreSQL: made on first use, reached through a Unix socket only, stopped with the process that started it.
//! Everything lies in one directory: `data`, `superuser` (the password), `log`, `lock` and, where the path is short enough, `run` (the socket).
//! A thread keeps the server: it starts it again after a crash and after its programs were upgraded underneath it.
//! Run by root, the server drops to `postgres`, or else `nobody`. The development server and the tests use this; `serve` never does.

mod binaries;
mod home;
mod supervisor;

pub use binaries::{Binaries, Missing, Version};

use home::{Account, Home};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use supervisor::Server;
use tokio::sync::oneshot;
use tracing::warn;

/// Name of the superuser.
const SUPERUSER: &str = "postgres";

/// What survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything committed.
    Durable,
    /// Nothing: for tests.
    Scratch,
}

/// How to start a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory; made when absent. Run by root, every directory above must let an unprivileged user pass.
    pub dir: PathBuf,
    /// What survives a power cut.
    pub durability: Durability,
    /// Directory of the server programs; `None` searches.
    pub binaries: Option<PathBuf>,
    /// Further server settings.
    pub settings: Vec<(String, String)>,
}

/// A running private PostgreSQL. Dropped, it stops.
#[derive(Debug)]
pub struct Cluster {
    home: Arc<Home>,
    password: SecretString,
    pid: Arc<AtomicU32>,
    stop: Option<oneshot::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// Why a cluster does not start.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No server programs.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// Another live process has it.
    #[error("{} is in use by process {pid}: stop that first, or choose another directory", dir.display())]
    InUse {
        /// The cluster's directory.
        dir: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// The unprivileged user cannot pass a directory.
    #[error("run by root, PostgreSQL runs as user {user}, who may not enter {}: choose a directory below /var/lib", path.display())]
    Unreachable {
        /// The user.
        user: String,
        /// The directory that keeps it out.
        path: PathBuf,
    },
    /// Run by root on a system without unprivileged users.
    #[error("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")]
    NoUser,
    /// A program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program.
        program: &'static str,
        /// The end of what it said.
        said: String,
    },
    /// A file cannot be used.
    #[error("{}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl Cluster {
    /// Makes the cluster when the directory has none, starts it and waits until it answers. Blocks; the server then lives until `stop` or drop,
    /// and ends with this process however that ends.
    pub fn start(options: &Options) -> Result<Self, ClusterError> {
        let account = Account::of_server()?;
        let home = Home::open(&options.dir, account)?;
        let binaries = match home.made_by() {
            Some(major) => Binaries::find_major(options.binaries.as_deref(), major)?,
            None => Binaries::find(options.binaries.as_deref())?,
        };
        home.account_enters(binaries.dir())?;
        if let Some(wanted) = binaries.version().wanted() {
            let (have, upgrade) = (binaries.version(), binaries.version().upgrade_command());
            warn!("PostgreSQL {have} has a known way past row-level security, fixed in {wanted}: {upgrade}");
        }
        let password = home.superuser_password()?;
        home.make_data(&binaries, options.durability)?;
        home.wait_until_free()?;
        home.clear_stale()?;

        let pid = Arc::new(AtomicU32::new(0));
        let settings = home.settings(options.durability).into_iter().chain(options.settings.iter().cloned()).collect();
        let home = Arc::new(home);
        let server =
            Server { binaries, home: Arc::clone(&home), settings, password: password.clone(), pid: Arc::clone(&pid) };
        let (stop, stopped) = oneshot::channel();
        let (answer, answered) = mpsc::channel();
        // The server ends with the thread that spawned it, so that thread does nothing else and lives as long as the server.
        let keeper =
            std::thread::Builder::new().name("postgres-keeper".into()).spawn(move || server.keep(&answer, stopped));
        let cluster = Self { home, password, pid, stop: Some(stop), keeper: Some(at(&options.dir, keeper)?) };
        answered
            .recv()
            .unwrap_or_else(|_| Err(ClusterError::Failed { program: "postgres", said: "its keeper ended".into() }))?;
        Ok(cluster)
    }

    /// A connection string for the superuser, through the socket.
    pub fn superuser_url(&self, database: &str) -> SecretString {
        let (host, database) = (
            percent_encode(self.home.sockets.as_os_str().as_encoded_bytes(), NON_ALPHANUMERIC),
            percent_encode(database.as_bytes(), NON_ALPHANUMERIC),
        );
        format!("postgresql://{SUPERUSER}:{}@{host}/{database}", self.password.expose_secret()).into()
    }

    /// The directory that holds the socket.
    pub fn socket_dir(&self) -> &Path {
        &self.home.sockets
    }

    /// Process id of the server; 0 between two lives of it.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Acquire)
    }

    /// Ends sessions, writes a checkpoint, stops the server and waits for its end.
    pub fn stop(self) {}
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.keeper.take().is_some_and(|keeper| keeper.join().is_err()) {
            warn!("The keeper of PostgreSQL panicked");
        }
        // Ours alone when it lies outside the cluster's directory; made again at the next start.
        let _ = std::fs::remove_dir(&self.home.sockets);
    }
}

/// Names the file an operation failed on.
fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, ClusterError> {
    result.map_err(|cause| ClusterError::File { path: path.to_owned(), cause })
}
