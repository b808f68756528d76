//! Pools of sessions with a PostgreSQL server.
//! A session returns to its pool only after its transaction has ended cleanly. In every other case its statement is
//! cancelled, the session is closed, and the closing is counted. The guard alone uses the `PooledSession`s for tenant
//! data.

use super::budget::WaiterCount;
pub use super::budget::{BackendBudget, BackendUsage, PoolLimits};
use super::connect::{self, Config, ConnectError, Tls};
use super::fair_queue::FairQueuePermit;
use diesel::sql_types::{BigInt, Integer};
use diesel::{QueryableByName, sql_query};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit};

static CLOSED_UNCLEAN: AtomicU64 = AtomicU64::new(0);

/// A session serves its own pool for at least this long before it is closed in favour of another pool that waits for a
/// backend. Without a minimum, pools would spend their time connecting.
const MIN_SESSION_LIFETIME: Duration = Duration::from_millis(100);
/// The time a server has to accept a cancel request.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns how many sessions this process has closed because their transaction did not end cleanly.
pub fn closed_unclean() -> u64 {
    CLOSED_UNCLEAN.load(Ordering::Relaxed)
}

/// Why a pool did not provide a session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// The server refused the connection or did not answer. Holds the text of the last failed attempt.
    #[error("{0}")]
    Unreachable(String),
    /// All sessions stayed busy until the connect timeout of [`PoolLimits`] passed.
    #[error("no free session in time")]
    Busy,
}

/// One of the bb8 pools that a [`Pool`] consists of.
pub(super) struct PoolShard {
    sessions: bb8::Pool<Manager>,
    failures: ConnectFailures,
}

/// Failed attempts to connect. Callers that wait for a session are notified, so that they need not wait for the
/// timeout.
#[derive(Debug, Clone, Default)]
struct ConnectFailures {
    notify: Arc<Notify>,
    last_error: Arc<Mutex<String>>,
}

impl bb8::ErrorSink<ConnectError> for ConnectFailures {
    fn sink(&self, error: ConnectError) {
        *self.last_error.lock() = error.to_string();
        self.notify.notify_waiters();
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<ConnectError>> {
        Box::new(self.clone())
    }
}

impl PoolShard {
    pub(super) fn idle_sessions(&self) -> usize {
        self.sessions.state().idle_connections as usize
    }

    /// Closes one idle session without waiting. Returns false when there is none.
    pub(super) fn close_idle_session(&self) -> bool {
        let session = if self.idle_sessions() > 0 { self.sessions.get().now_or_never() } else { None };
        session.and_then(Result::ok).map(|session| session.discard()).is_some()
    }

    async fn get(&self) -> Result<bb8::PooledConnection<'static, Manager>, CheckoutError> {
        let unreachable = || CheckoutError::Unreachable(self.failures.last_error.lock().clone());
        let mut session = pin!(self.sessions.get_owned());
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                outcome = &mut session => {
                    return outcome.map_err(|_| if failed { unreachable() } else { CheckoutError::Busy });
                }
                () = self.failures.notify.notified() => {
                    // As long as the shard has other sessions, one of them may be returned.
                    if self.sessions.state().connections == 0 {
                        return Err(unreachable());
                    }
                    failed = true;
                }
            }
        }
    }
}

/// Sessions of one login with one database, divided into shards. A schema prefers the shard it used last, because a
/// changed `search_path` makes PostgreSQL plan every statement again, and a backend caches metadata of each schema it
/// has touched.
pub struct Pool {
    shards: Vec<Arc<PoolShard>>,
    budget: Arc<BackendBudget>,
}

impl Pool {
    /// Creates an empty pool. The first session is opened by the first checkout.
    pub fn new(config: Config, budget: &Arc<BackendBudget>) -> Self {
        let limits = budget.limits;
        let count = (limits.max_backends / 8).clamp(1, 8);
        let backend_waiters = Arc::new(AtomicUsize::new(0));
        let shards: Vec<_> = (0..count)
            .map(|index| {
                // The sizes add up to exactly the budget, so a pool that holds all of it never waits for its own
                // backends.
                let size = limits.max_backends / count + usize::from(index < limits.max_backends % count);
                let manager = Manager {
                    config: config.clone(),
                    budget: Arc::clone(budget),
                    backend_waiters: Arc::clone(&backend_waiters),
                };
                let failures = ConnectFailures::default();
                let sessions = bb8::Pool::builder()
                    .max_size(u32::try_from(size).unwrap_or(u32::MAX))
                    .max_lifetime(limits.max_lifetime)
                    .idle_timeout(limits.idle_timeout)
                    .connection_timeout(limits.connect_timeout)
                    .reaper_rate(limits.idle_timeout.min(Duration::from_secs(10)))
                    .retry_connection(false)
                    .test_on_check_out(false)
                    .queue_strategy(bb8::QueueStrategy::Lifo)
                    .error_sink(Box::new(failures.clone()))
                    .build_unchecked(manager);
                Arc::new(PoolShard { sessions, failures })
            })
            .collect();
        budget.register(&shards);
        Self { shards, budget: Arc::clone(budget) }
    }

    /// Returns a session without an open transaction, preferably from the shard that last served `schema`. Fails when
    /// the server is unreachable or no session becomes free within the connect timeout.
    pub async fn checkout(&self, schema: &str) -> Result<PooledSession, CheckoutError> {
        let _waiter = WaiterCount::enter(&self.budget.session_waiters);
        loop {
            let mut session = self.shard(schema).get().await?;
            // A session that died while idle is closed when it is dropped here; the next one is tried.
            if !session.pg.is_broken() {
                return Ok(PooledSession { session, permit: None });
            }
        }
    }

    /// Returns the shard that `schema` hashes to, or the next one that has room when that shard has none.
    fn shard(&self, schema: &str) -> &PoolShard {
        let mut hasher = DefaultHasher::new();
        schema.hash(&mut hasher);
        let preferred = usize::try_from(hasher.finish() % self.shards.len() as u64).unwrap_or(0);
        let (before, from_preferred) = self.shards.split_at(preferred);
        let mut candidates = from_preferred.iter().chain(before);
        let has_room = |shard: &&Arc<PoolShard>| {
            let state = shard.sessions.state();
            state.idle_connections > 0 || state.connections < shard.sessions.config().max_size
        };
        let chosen = candidates.find(has_room).or(from_preferred.first());
        #[expect(clippy::expect_used, reason = "a pool is created with at least one shard")]
        chosen.expect("a shard")
    }
}

/// Opens sessions for bb8 and decides which of them may be reused.
struct Manager {
    config: Config,
    budget: Arc<BackendBudget>,
    /// How many callers of this pool wait for a backend.
    backend_waiters: Arc<AtomicUsize>,
}

impl Manager {
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Session, ConnectError> {
        let pg = connect::open(&self.config).await?;
        let BackendInfo { pid, clock_ms, opened_as } = BackendInfo::read(&pg).await?;
        Ok(Session {
            pg,
            pid,
            last_binding: AtomicI64::new(opened_as),
            clock_offset_ms: clock_ms - now_ms(),
            state: AtomicU8::new(CLEAN),
            opened: Instant::now(),
            runtime: Handle::current(),
            tls: self.config.tls().clone(),
            permit: Some(permit),
        })
    }

    /// Whether another pool waits for a backend and this session has served its own pool for the minimum time.
    fn yields(&self, session: &Session) -> bool {
        self.budget.backend_waiters.load(Ordering::Relaxed) > self.backend_waiters.load(Ordering::Relaxed)
            && session.opened.elapsed() >= MIN_SESSION_LIFETIME
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Session;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Session, ConnectError> {
        let permit = self.budget.permit(&self.backend_waiters).await;
        // The timeout covers login and set-up too: a server may accept the connection and then never answer.
        let opened = tokio::time::timeout(self.budget.limits.connect_timeout, self.open(permit)).await;
        opened.unwrap_or_else(|_| Err(ConnectError::Session("no answer in time".into())))
    }

    async fn is_valid(&self, _session: &mut Session) -> Result<(), ConnectError> {
        Ok(())
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.state.load(Ordering::Relaxed) != CLEAN || session.pg.is_broken() || self.yields(session)
    }
}

#[derive(QueryableByName)]
struct BackendInfo {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = BigInt)]
    clock_ms: i64,
    #[diesel(sql_type = BigInt)]
    opened_as: i64,
}

impl BackendInfo {
    /// Reads the backend's process id, its clock, and the number from which it counts its bindings. It is one
    /// statement, because a pooler could give each statement another backend.
    async fn read(mut pg: &AsyncPgConnection) -> Result<Self, ConnectError> {
        // Imported here only: at the top of the file, its `load` would shadow that of the atomics.
        use diesel_async::RunQueryDsl as _;
        let query = sql_query(
            "select pg_backend_pid() as pid, (extract(epoch from clock_timestamp()) * 1000)::bigint as clock_ms, \
             cordon.open_session() as opened_as",
        );
        query.get_result(&mut pg).await.map_err(|error| ConnectError::Session(error.to_string()))
    }
}

/// No transaction is open: the session may be reused.
const CLEAN: u8 = 0;
/// A transaction may be open.
const IN_TRANSACTION: u8 = 1;
/// The session must not be reused.
const DISCARDED: u8 = 2;

/// One session with PostgreSQL, and the facts about it that the guard needs.
pub struct Session {
    pg: AsyncPgConnection,
    pid: i32,
    /// The number of the last binding, or of the session's opening.
    last_binding: AtomicI64,
    clock_offset_ms: i64,
    /// `CLEAN`, `IN_TRANSACTION` or `DISCARDED`.
    state: AtomicU8,
    opened: Instant,
    /// The runtime that drives the socket. A `PooledSession` may be dropped on any thread, so the cancel task is
    /// spawned here.
    runtime: Handle,
    tls: Tls,
    permit: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// The connection that queries are sent on. It is a shared reference, so that queries can be pipelined.
    pub fn pg(&self) -> &AsyncPgConnection {
        &self.pg
    }

    /// The backend's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the number of the next binding of this session, and counts it. The backend counts as well: a statement
    /// that a pooler in transaction mode sends to another backend, or that is sent a second time, has a wrong number.
    pub fn next_binding(&self) -> i64 {
        self.last_binding.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The database's clock in milliseconds since 1970, computed from the offset that was measured when the session was
    /// opened.
    pub fn clock_ms(&self) -> i64 {
        now_ms() + self.clock_offset_ms
    }

    /// Records that a transaction is about to begin; sends nothing. From here on, only `transaction_ended` makes this
    /// session reusable. A discarded session stays discarded.
    pub fn transaction_started(&self) {
        let _ = self.state.compare_exchange(CLEAN, IN_TRANSACTION, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Records that PostgreSQL has acknowledged COMMIT or ROLLBACK; sends nothing. A discarded session stays discarded.
    pub fn transaction_ended(&self) {
        let _ = self.state.compare_exchange(IN_TRANSACTION, CLEAN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes the pool close this session when it is returned, however its transaction ends.
    pub fn discard(&self) {
        self.state.store(DISCARDED, Ordering::Relaxed);
    }
}

/// A session that is checked out of its pool, and the permit of the tenant's fair queue where there is one. When it is
/// dropped before its transaction has ended, the running statement is cancelled and the session is closed.
pub struct PooledSession {
    session: bb8::PooledConnection<'static, Manager>,
    permit: Option<FairQueuePermit>,
}

impl PooledSession {
    /// Attaches the permit, which is released together with the session.
    pub fn with_permit(mut self, permit: FairQueuePermit) -> Self {
        self.permit = Some(permit);
        self
    }
}

impl std::ops::Deref for PooledSession {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        if self.session.state.load(Ordering::Relaxed) == CLEAN {
            return;
        }
        CLOSED_UNCLEAN.fetch_add(1, Ordering::Relaxed);
        let session = &mut *self.session;
        let (token, tls) = (session.pg.cancel_token(), session.tls.clone());
        let permits = (session.permit.take(), self.permit.take());
        // The backend may stay busy until it receives the cancel request, so its permits are released only then. The
        // token identifies this backend alone: another backend that gets the same process id has another secret.
        session.runtime.spawn(async move {
            let _permits = permits;
            let _ = tokio::time::timeout(CANCEL_TIMEOUT, connect::cancel(token, &tls)).await;
        });
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
