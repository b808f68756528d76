//! The keeper: starts the server, waits until it answers, and starts it again when it died or its programs were upgraded.
//! Runs on a thread of its own, because the server is told to stop when the thread that spawned it ends. Signals no process but its own child.

use super::binaries::Binaries;
use super::home::Home;
use super::{ClusterError, SUPERUSER, at};
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

/// Crash recovery may take long; a server that exits is noticed at once.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// For the backends of a killed server, which may outlive it.
const FREE_WITHIN: Duration = Duration::from_secs(10);
/// A fast shutdown that takes longer becomes an immediate one.
const STOP_WITHIN: Duration = Duration::from_secs(60);
/// How often the programs on disk are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why one life of the server ended.
enum End {
    Asked,
    Died,
    Upgraded(Binaries),
}

/// What the keeper's thread needs to start the server, again and again.
pub struct Server {
    pub binaries: Binaries,
    pub home: Arc<Home>,
    pub settings: Vec<(String, String)>,
    pub password: SecretString,
    pub pid: Arc<AtomicU32>,
}

impl Server {
    /// Keeps the server until `stop` is sent or dropped. The first start, or why it failed, goes to `answer`.
    pub fn keep(mut self, answer: &mpsc::Sender<Result<(), ClusterError>>, mut stop: oneshot::Receiver<()>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(cause) => return drop(answer.send(Err(ClusterError::File { path: self.home.dir.clone(), cause }))),
        };
        runtime.block_on(async {
            loop {
                let lived = self.live(answer, &mut stop).await;
                self.pid.store(0, Ordering::Release);
                match lived {
                    Ok(End::Asked) => break,
                    Ok(End::Died) => warn!("PostgreSQL died and is started again"),
                    Ok(End::Upgraded(now)) => {
                        info!(
                            "PostgreSQL was upgraded from {} to {} and is started again",
                            self.binaries.version(),
                            now.version()
                        );
                        self.binaries = now;
                    }
                    Err(error) => {
                        error!("PostgreSQL does not start: {error}");
                        return drop(answer.send(Err(error)));
                    }
                }
            }
        });
    }

    /// One life, from spawn to exit.
    async fn live(
        &self,
        answer: &mpsc::Sender<Result<(), ClusterError>>,
        stop: &mut oneshot::Receiver<()>,
    ) -> Result<End, ClusterError> {
        let born = Instant::now();
        let mut child = loop {
            let (log, written) = at(&self.home.dir, self.open_log())?;
            let mut child = at(&self.binaries.program("postgres"), self.spawn(&log))?;
            let ready = tokio::select! {
                _ = &mut *stop => return interrupt(&mut child).await.map(|()| End::Asked),
                ready = self.ready(&mut child) => ready,
            };
            match ready {
                Ok(()) => break child,
                Err(said) => {
                    interrupt(&mut child).await?;
                    let said = format!("{said}\n{}", tail(log, written)).trim().to_owned();
                    // Backends of a killed postmaster may outlive it for a moment, or for as long as their statement runs.
                    if !said.contains("still in use") || born.elapsed() > FREE_WITHIN {
                        return Err(ClusterError::Failed { program: "postgres", said });
                    }
                    if born.elapsed() > FREE_WITHIN / 10 {
                        self.home.end_leftovers();
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        self.pid.store(child.id().unwrap_or(0), Ordering::Release);
        let _ = answer.send(Ok(()));
        let end = tokio::select! {
            _ = &mut *stop => End::Asked,
            _ = child.wait() => End::Died,
            now = self.upgraded() => End::Upgraded(now),
        };
        interrupt(&mut child).await?;
        Ok(end)
    }

    fn spawn(&self, log: &File) -> std::io::Result<Child> {
        let mut command = self.home.command(&self.binaries.program("postgres"));
        command.arg("-D").arg(&self.home.data).stdout(log.try_clone()?).stderr(log.try_clone()?);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        tokio::process::Command::from(command).spawn()
    }

    /// The log, and how much is in it before this start.
    fn open_log(&self) -> std::io::Result<(File, u64)> {
        let log =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.home.dir.join("log"))?;
        let written = log.metadata()?.len();
        Ok((log, written))
    }

    /// Waits until the server answers, or says why it never will.
    async fn ready(&self, child: &mut Child) -> Result<(), String> {
        let answers = async {
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
            done = tokio::time::timeout(READY_WITHIN, answers) => done.unwrap_or_else(|_| Err("it does not answer".into())),
        }
    }

    /// `select 1` still works when the programs were replaced underneath the server; a block of plpgsql does not.
    async fn probe(&self) -> Result<(), tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.home.sockets)
            .user(SUPERUSER)
            .password(self.password.expose_secret())
            .dbname("postgres")
            .connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        let block = async move { client.batch_execute("DO $$ BEGIN PERFORM 1; END $$").await };
        tokio::join!(block, connection).0
    }

    /// Ends when the programs on disk are others than those that run. Packages are unpacked file by file, so what was seen must last.
    async fn upgraded(&self) -> Binaries {
        let program = self.binaries.program("postgres");
        let seen = || std::fs::metadata(&program).map(|file| (file.ino(), file.mtime(), file.size())).ok();
        let mut known = seen();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if seen() == known {
                continue;
            }
            known = seen();
            tokio::time::sleep(LOOK_EVERY).await;
            if let Some(now) = self.binaries.replaced().filter(|_| seen() == known) {
                return now;
            }
        }
    }
}

/// Ends sessions, writes a checkpoint, stops the server. Nothing to do when it is gone.
async fn interrupt(child: &mut Child) -> Result<(), ClusterError> {
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL] {
        // No id: it has been waited for. Until then the number is not given to another process.
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return Ok(()) };
        let _ = kill(Pid::from_raw(pid), signal);
        if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_ok() {
            return Ok(());
        }
        warn!("PostgreSQL ignores {signal}");
    }
    Err(ClusterError::Failed { program: "postgres", said: "it cannot be stopped".into() })
}

/// The last lines of what was added to the log.
fn tail(mut log: File, written: u64) -> String {
    let mut text = Vec::new();
    let _ = log.seek(SeekFrom::Start(written)).and_then(|_| log.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).copied().collect::<Vec<_>>().join("\n")
}
