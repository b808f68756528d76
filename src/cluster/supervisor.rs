//! Starts the server, waits until it accepts connections, and restarts it after a crash or an upgrade of its programs.
//! Runs on a thread of its own, because the server receives SIGINT when the thread that spawned it ends. Signals only
//! its own child, and asks `ClusterDirectory` to end backends left over in the same data directory.

use super::binaries::Binaries;
use super::directory::ClusterDirectory;
use super::{ClusterError, SUPERUSER, with_path};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::process::Child;
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tracing::{error, info, warn};

/// How long a starting server may take to accept connections. Crash recovery may take long; a server that exits is
/// noticed at once.
const READY_TIMEOUT: Duration = Duration::from_secs(300);
/// How long backends of a killed server, which may outlive it, may keep the data directory in use.
const DATA_IN_USE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long each stage of a shutdown may take: fast (SIGINT), then immediate (SIGQUIT), then SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the programs on disk are checked for an upgrade.
const UPGRADE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a run of the server ended.
enum ExitReason {
    StopRequested,
    Crashed,
    Upgraded(Binaries),
}

/// Starts and restarts one server.
pub struct Supervisor {
    pub binaries: Binaries,
    pub directory: Arc<ClusterDirectory>,
    pub settings: Vec<(String, String)>,
    pub password: SecretString,
    pub pid: Arc<AtomicU32>,
}

impl Supervisor {
    /// Keeps the server running until `stop` is sent or dropped. `started` receives the result of every start.
    pub fn run(mut self, started: &mpsc::Sender<Result<(), ClusterError>>, mut stop: oneshot::Receiver<()>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => {
                return drop(started.send(Err(ClusterError::File { path: self.directory.root.clone(), cause })));
            }
        };
        runtime.block_on(async {
            loop {
                let exit = self.run_once(started, &mut stop).await;
                self.pid.store(0, Ordering::Release);
                match exit {
                    Ok(ExitReason::StopRequested) => break,
                    Ok(ExitReason::Crashed) => warn!("PostgreSQL died and is started again"),
                    Ok(ExitReason::Upgraded(new)) => {
                        info!(
                            "PostgreSQL was upgraded from {} to {} and is started again",
                            self.binaries.version(),
                            new.version()
                        );
                        self.binaries = new;
                    }
                    Err(error) => {
                        error!("PostgreSQL does not start: {error}");
                        return drop(started.send(Err(error)));
                    }
                }
            }
        });
    }

    /// Runs the server once, from spawn to exit.
    async fn run_once(
        &self,
        started: &mpsc::Sender<Result<(), ClusterError>>,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<ExitReason, ClusterError> {
        let began = Instant::now();
        let mut child = loop {
            let (log, previous_length) = with_path(&self.directory.root, self.open_log())?;
            let mut child = with_path(&self.binaries.program("postgres"), self.spawn(&log))?;
            let ready = tokio::select! {
                _ = &mut *stop => return shut_down(&mut child).await.map(|()| ExitReason::StopRequested),
                ready = self.wait_until_ready(&mut child) => ready,
            };
            match ready {
                Ok(()) => break child,
                Err(cause) => {
                    shut_down(&mut child).await?;
                    let output = format!("{cause}\n{}", tail(log, previous_length)).trim().to_owned();
                    // Backends of a killed postmaster may outlive it for a moment, or for as long as their statement
                    // runs.
                    if !output.contains("still in use") || began.elapsed() > DATA_IN_USE_TIMEOUT {
                        return Err(ClusterError::Failed { program: "postgres", output });
                    }
                    if began.elapsed() > DATA_IN_USE_TIMEOUT / 10 {
                        self.directory.end_orphaned_backends();
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        self.pid.store(child.id().unwrap_or(0), Ordering::Release);
        let _ = started.send(Ok(()));
        let reason = tokio::select! {
            _ = &mut *stop => ExitReason::StopRequested,
            _ = child.wait() => ExitReason::Crashed,
            new = self.wait_for_upgrade() => ExitReason::Upgraded(new),
        };
        shut_down(&mut child).await?;
        Ok(reason)
    }

    fn spawn(&self, log: &File) -> std::io::Result<Child> {
        let mut command = self.directory.command(&self.binaries.program("postgres"));
        command.arg("-D").arg(&self.directory.data).stdout(log.try_clone()?).stderr(log.try_clone()?);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        tokio::process::Command::from(command).spawn()
    }

    /// Opens the log and returns it with its length in bytes before this start.
    fn open_log(&self) -> std::io::Result<(File, u64)> {
        let log = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.directory.root.join("log"))?;
        let length = log.metadata()?.len();
        Ok((log, length))
    }

    /// Waits until the server accepts connections. Fails with the reason when it exits, refuses the login or takes too
    /// long; the reason is empty when the server exits, because the log then holds it.
    async fn wait_until_ready(&self, child: &mut Child) -> Result<(), String> {
        let accepts = async {
            loop {
                match self.probe().await {
                    Err(error) if error.code().is_none_or(|code| *code == SqlState::CANNOT_CONNECT_NOW) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => {
                        break other.map_err(|error| {
                            error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
                        });
                    }
                }
            }
        };
        tokio::select! {
            _ = child.wait() => Err(String::new()),
            outcome = tokio::time::timeout(READY_TIMEOUT, accepts) => {
                outcome.unwrap_or_else(|_| Err("it does not answer".into()))
            }
        }
    }

    /// Connects and runs a block of PL/pgSQL. Unlike `select 1`, it fails when the programs have been replaced under a
    /// running server.
    async fn probe(&self) -> Result<(), tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.directory.sockets)
            .user(SUPERUSER)
            .password(self.password.expose_secret())
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let block = async move { client.batch_execute("DO $$ BEGIN PERFORM 1; END $$").await };
        tokio::join!(block, connection).0
    }

    /// Waits until the programs on disk differ from those that run, and returns the new ones. Packages are unpacked
    /// file by file, so a change counts only when it is the same after one more interval.
    async fn wait_for_upgrade(&self) -> Binaries {
        let program = self.binaries.program("postgres");
        let file_state = || std::fs::metadata(&program).map(|file| (file.ino(), file.mtime(), file.size())).ok();
        let mut known = file_state();
        loop {
            tokio::time::sleep(UPGRADE_CHECK_INTERVAL).await;
            if file_state() == known {
                continue;
            }
            known = file_state();
            tokio::time::sleep(UPGRADE_CHECK_INTERVAL).await;
            if let Some(new) = self.binaries.replaced().filter(|_| file_state() == known) {
                return new;
            }
        }
    }
}

/// Shuts the server down: in fast mode, which ends sessions and writes a checkpoint, then in immediate mode, then with
/// SIGKILL. Does nothing when the server has exited.
async fn shut_down(child: &mut Child) -> Result<(), ClusterError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        // There is no id once the child has been waited for. Until then the system gives the number to no other
        // process.
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        let _ = kill(Pid::from_raw(pid), signal);
        if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_ok() {
            return Ok(());
        }
        warn!("PostgreSQL ignores {signal}");
    }
    Err(ClusterError::Failed { program: "postgres", output: "it cannot be stopped".into() })
}

/// Returns the last 12 lines that were added to the log after `previous_length` bytes.
fn tail(mut log: File, previous_length: u64) -> String {
    let mut text = Vec::new();
    let _ = log.seek(SeekFrom::Start(previous_length)).and_then(|_| log.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).copied().collect::<Vec<_>>().join("\n")
}
