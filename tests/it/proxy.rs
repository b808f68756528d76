//! A socket in front of PostgreSQL's that counts what passes: sessions, flights and statements. Changes nothing.

use crate::site::Site;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// Passes everything on for as long as the runtime lives that made it.
pub struct Proxy {
    directory: PathBuf,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    sessions: AtomicUsize,
    flights: AtomicUsize,
    statements: AtomicUsize,
}

/// What has passed so far.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub sessions: usize,
    /// How often clients spoke after the server had spoken.
    pub flights: usize,
    /// Prepared statements that were run. What the guard says at head and end of a transaction is none.
    pub statements: usize,
}

impl Seen {
    pub fn since(self, before: Self) -> Self {
        Self {
            sessions: self.sessions - before.sessions,
            flights: self.flights - before.flights,
            statements: self.statements - before.statements,
        }
    }
}

impl Proxy {
    pub fn before(sockets: &Path) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let directory = crate::run_dir().join(format!("proxy-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
        let server = sockets.join(".s.PGSQL.5432");
        let proxy = Self { directory, counts: Arc::default() };
        let counts = Arc::clone(&proxy.counts);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                counts.sessions.fetch_add(1, Ordering::SeqCst);
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(pass(client, server, Arc::clone(&counts)));
            }
        });
        proxy
    }

    /// From here on a site's servers reach its tenants through this.
    pub async fn stands_before(&self, site: &Site) {
        let address = format!("postgres:///?host={}&port=5432", self.directory.display());
        let moved = site
            .superuser("cordon_control")
            .await
            .execute("update cordon_catalog.servers set address = $1", &[&address])
            .await;
        assert_eq!(moved.unwrap(), 1);
    }

    pub fn seen(&self) -> Seen {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        Seen {
            sessions: read(&self.counts.sessions),
            flights: read(&self.counts.flights),
            statements: read(&self.counts.statements),
        }
    }
}

async fn pass(mut client: UnixStream, mut server: UnixStream, counts: Arc<Counts>) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut messages = Messages { head: Vec::new(), rest: 0, started: false };
    let mut servers_turn = false;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(length) if length > 0 => {
                    if !std::mem::replace(&mut servers_turn, true) {
                        counts.flights.fetch_add(1, Ordering::SeqCst);
                    }
                    counts.statements.fetch_add(messages.binds(&asked[..length]), Ordering::SeqCst);
                    if server.write_all(&asked[..length]).await.is_err() { return }
                }
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(length) if length > 0 => {
                    servers_turn = false;
                    if client.write_all(&answered[..length]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}

/// Where one message of a client ends and the next begins: a letter, four bytes of length, the rest. The first has no letter.
struct Messages {
    head: Vec<u8>,
    rest: usize,
    started: bool,
}

impl Messages {
    /// How many Bind messages begin in `bytes`.
    fn binds(&mut self, bytes: &[u8]) -> usize {
        let (mut binds, mut bytes) = (0, bytes);
        while !bytes.is_empty() {
            if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            let letters = usize::from(self.started);
            if self.head.len() == letters + 4 {
                let length = u32::from_be_bytes(self.head[letters..].try_into().unwrap());
                self.rest = length as usize - 4;
                binds += usize::from(self.started && self.head[0] == b'B');
                self.started = true;
                self.head.clear();
            }
        }
        binds
    }
}
