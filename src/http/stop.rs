//! How a server ends. The first signal: `/readyz` says so, the listener closes, requests in flight are answered, connections and sessions
//! end. The second: at once. Knows nothing of what is answered.

use crate::app::App;
use actix_web::dev::Server;
use std::io;
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// To end what is idle; what hangs longer ends with the process.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// SIGTERM and SIGINT, heard from the moment it is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything was answered, or had its time.
    Drained,
    /// Told twice.
    AtOnce,
}

impl Signals {
    /// From now on a signal does not end the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next of them. One that comes meanwhile is not lost.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs the server until it is told to stop, and stops it.
pub async fn until_told(server: Server, app: &App, mut signals: Signals) -> io::Result<Ended> {
    let handle = server.handle();
    let mut server = pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map(|()| Ended::Drained),
        () = signals.next() => {}
    }
    app.readiness.stop();
    let settings = &app.settings.http;
    tracing::info!(notice_seconds = settings.notice_seconds, drain_seconds = settings.drain_seconds, "Stopping");
    let end = async {
        let notice = tokio::time::sleep(Duration::from_secs(settings.notice_seconds));
        tokio::select! {
            ended = &mut server => return ended,
            () = notice => {}
        }
        let ((), ended) = futures_util::join!(handle.stop(true), server);
        if tokio::time::timeout(CLOSE_WITHIN, app.close()).await.is_err() {
            tracing::warn!("The catalog does not answer; what was counted for it is lost");
        }
        ended
    };
    tokio::select! {
        ended = end => {
            tracing::info!("Stopped");
            ended.map(|()| Ended::Drained)
        }
        () = signals.next() => {
            tracing::warn!("Told to stop a second time: ending at idempotency");
            Ok(Ended::AtOnce)
        }
    }
}
