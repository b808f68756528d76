//! A proxy on a Unix socket in front of PostgreSQL. It counts sessions, round trips and statements, and changes
//! nothing.

use crate::support::site::Site;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Forwards all traffic until the runtime that created it ends.
pub struct CountingProxy {
    directory: PathBuf,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    sessions: AtomicUsize,
    round_trips: AtomicUsize,
    statements: AtomicUsize,
}

/// Counts since the start of the proxy, or between two points in time.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    pub sessions: usize,
    /// How often a client sent something after the server had sent something.
    pub round_trips: usize,
    /// Executions of prepared statements. The guard's messages at the start and end of a transaction use the simple
    /// protocol and do not count.
    pub statements: usize,
}

impl Traffic {
    pub fn since(self, before: Self) -> Self {
        Self {
            sessions: self.sessions - before.sessions,
            round_trips: self.round_trips - before.round_trips,
            statements: self.statements - before.statements,
        }
    }
}

impl CountingProxy {
    pub fn in_front_of(sockets: &Path) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let directory = crate::support::run_dir().join(format!("proxy-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
        let server = sockets.join(".s.PGSQL.5432");
        let proxy = Self { directory, counts: Arc::default() };
        let counts = Arc::clone(&proxy.counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counts.sessions.fetch_add(1, Ordering::SeqCst);
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(forward(client, server, Arc::clone(&counts)));
            }
        });
        proxy
    }

    /// Changes the address in the catalog, so that servers of this installation reach its tenants through the proxy.
    pub async fn route_tenants_of(&self, site: &Site) {
        let address = format!("postgres:///?host={}&port=5432", self.directory.display());
        let updated = site
            .superuser("cordon_control")
            .await
            .execute("update cordon_catalog.servers set address = $1", &[&address])
            .await;
        assert_eq!(updated.unwrap(), 1);
    }

    pub fn traffic(&self) -> Traffic {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        Traffic {
            sessions: read(&self.counts.sessions),
            round_trips: read(&self.counts.round_trips),
            statements: read(&self.counts.statements),
        }
    }
}

async fn forward(mut client: UnixStream, mut server: UnixStream, counts: Arc<Counts>) {
    let (mut sent, mut received) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut messages = Messages { head: Vec::new(), rest: 0, started: false };
    let mut waiting_for_server = false;
    loop {
        tokio::select! {
            read = client.read(&mut sent) => match read {
                Ok(length) if length > 0 => {
                    if !std::mem::replace(&mut waiting_for_server, true) {
                        counts.round_trips.fetch_add(1, Ordering::SeqCst);
                    }
                    counts.statements.fetch_add(messages.binds(&sent[..length]), Ordering::SeqCst);
                    if server.write_all(&sent[..length]).await.is_err() { return }
                }
                _ => return,
            },
            read = server.read(&mut received) => match read {
                Ok(length) if length > 0 => {
                    waiting_for_server = false;
                    if client.write_all(&received[..length]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}

/// Finds the boundaries of a client's messages. A message is a type byte, a length of four bytes and the content; the
/// first message of a session has no type byte.
struct Messages {
    head: Vec<u8>,
    rest: usize,
    started: bool,
}

impl Messages {
    /// Counts the Bind messages that begin in `bytes`.
    fn binds(&mut self, bytes: &[u8]) -> usize {
        let (mut binds, mut bytes) = (0, bytes);
        while !bytes.is_empty() {
            if self.rest > 0 {
                let consumed = self.rest.min(bytes.len());
                self.rest -= consumed;
                bytes = &bytes[consumed..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            let type_bytes = usize::from(self.started);
            if self.head.len() == type_bytes + 4 {
                let length = u32::from_be_bytes(self.head[type_bytes..].try_into().unwrap());
                self.rest = length as usize - 4;
                binds += usize::from(self.started && self.head[0] == b'B');
                self.started = true;
                self.head.clear();
            }
        }
        binds
    }
}
