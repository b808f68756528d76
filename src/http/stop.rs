//! How a server shuts down. After the first signal `/readyz` reports that the server is stopping, the listener closes,
//! requests in progress are answered, and connections and database sessions are closed. A second signal ends the
//! process at once.

use crate::app::App;
use actix_web::dev::Server;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time for closing idle sessions and flushing counters; what takes longer ends with the process.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Listeners for SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// How the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Every request was answered, or the drain time was over.
    Drained,
    /// A second signal ended the server while requests may have been in progress.
    Immediate,
}

impl Signals {
    /// Starts listening. From here on, SIGTERM and SIGINT no longer end the process by themselves.
    ///
    /// # Errors
    /// Fails when the handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal. A signal that arrived since `listen` or the last call is not lost.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the server until a signal arrives, then shuts it down: it waits `http.notice_seconds` so that load balancers
/// see `/readyz` fail, and gives requests in progress `http.drain_seconds`.
///
/// # Errors
/// Fails when the server itself fails.
pub async fn run_until_signal(server: Server, app: &App, mut signals: Signals) -> io::Result<Shutdown> {
    let handle = server.handle();
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map(|()| Shutdown::Drained),
        () = signals.next() => {}
    }
    app.readiness.stop();
    let settings = &app.settings.http;
    tracing::info!(notice_seconds = settings.notice_seconds, drain_seconds = settings.drain_seconds, "Stopping");
    let drain = async {
        let notice = tokio::time::sleep(Duration::from_secs(settings.notice_seconds));
        tokio::select! {
            ended = &mut server => return ended,
            () = notice => {}
        }
        let ((), ended) = futures_util::join!(handle.stop(true), server);
        if tokio::time::timeout(CLOSE_TIMEOUT, app.close()).await.is_err() {
            tracing::warn!("The catalog does not answer; counters that were to be written to it are lost");
        }
        ended
    };
    tokio::select! {
        ended = drain => {
            tracing::info!("Stopped");
            ended.map(|()| Shutdown::Drained)
        }
        () = signals.next() => {
            tracing::warn!("Received a second signal: ending at once");
            Ok(Shutdown::Immediate)
        }
    }
}
