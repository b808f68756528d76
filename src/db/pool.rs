//! Pools of sessions with a PostgreSQL server.
//! A session goes back to its pool only after a clean end of its transaction; any other is cancelled, closed and counted.
//! Hands out `PooledSession`s to the guard and to nobody else.

use super::budget::Counted;
pub use super::budget::{Budget, Limits, Used};
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
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use uuid::Uuid;

/// Sessions closed because their transaction did not end cleanly, since the start of the process.
static CLOSED_UNCLEAN: AtomicU64 = AtomicU64::new(0);

/// A session serves its own pool this long at least before its backend goes to another pool that waits, so that pools do not
/// spend their time connecting.
const TURN: Duration = Duration::from_millis(100);
/// A server that is asked to cancel must take the request in this time.
const CANCEL_WITHIN: Duration = Duration::from_secs(5);

/// How many sessions were closed because their transaction did not end cleanly.
pub fn closed_unclean() -> u64 {
    CLOSED_UNCLEAN.load(Ordering::Relaxed)
}

/// A session that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// The server refused, or does not answer.
    #[error("{0}")]
    Away(String),
    /// All sessions were busy for as long as one waits.
    #[error("no free session in time")]
    Busy,
}

pub(super) struct Lane(bb8::Pool<Manager>, Failures);

/// Failed attempts to connect, told to those who wait for a session, so that they need not wait for the time-out.
#[derive(Debug, Clone, Default)]
struct Failures {
    told: Arc<Notify>,
    last: Arc<Mutex<String>>,
}

impl bb8::ErrorSink<ConnectError> for Failures {
    fn sink(&self, error: ConnectError) {
        *self.last.lock() = error.to_string();
        self.told.notify_waiters();
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<ConnectError>> {
        Box::new(self.clone())
    }
}

impl Lane {
    /// Sessions that nobody uses.
    pub(super) fn idle(&self) -> usize {
        self.0.state().idle_connections as usize
    }

    /// Closes one of them, if there still is one. Waits for nothing.
    pub(super) fn close_idle(&self) -> bool {
        let session = if self.idle() > 0 { self.0.get().now_or_never() } else { None };
        session.and_then(Result::ok).map(|session| session.close()).is_some()
    }

    async fn get(&self) -> Result<bb8::PooledConnection<'static, Manager>, CheckoutError> {
        let away = || CheckoutError::Away(self.1.last.lock().clone());
        let mut session = pin!(self.0.get_owned());
        let mut failed = false;
        loop {
            tokio::select! {
                biased;
                got = &mut session => return got.map_err(|_| if failed { away() } else { CheckoutError::Busy }),
                () = self.1.told.notified() => {
                    // While other sessions live, one of them may come back.
                    if self.0.state().connections == 0 {
                        return Err(away());
                    }
                    failed = true;
                }
            }
        }
    }
}

/// Sessions of one login to one database, in lanes: a schema keeps to the sessions it used last, because a changed
/// `search_path` plans every statement anew and a backend keeps what it learnt of each schema it touched.
pub struct Pool {
    lanes: Vec<Arc<Lane>>,
    budget: Arc<Budget>,
}

impl Pool {
    /// A pool that opens its first session when one is asked for.
    pub fn new(config: Config, budget: &Arc<Budget>) -> Self {
        let limits = budget.limits;
        let count = (limits.backends / 8).clamp(1, 8);
        let waiting = Arc::new(AtomicUsize::new(0));
        let lanes: Vec<_> = (0..count)
            .map(|lane| {
                // Together exactly the budget: a pool that has it all never waits for a backend of its own.
                let size = limits.backends / count + usize::from(lane < limits.backends % count);
                let manager =
                    Manager { config: config.clone(), budget: Arc::clone(budget), waiting: Arc::clone(&waiting) };
                let failures = Failures::default();
                let pool = bb8::Pool::builder()
                    .max_size(u32::try_from(size).unwrap_or(u32::MAX))
                    .max_lifetime(limits.lifetime)
                    .idle_timeout(limits.idle)
                    .connection_timeout(limits.connect_timeout)
                    .reaper_rate(limits.idle.min(Duration::from_secs(10)))
                    .retry_connection(false)
                    .test_on_check_out(false)
                    .queue_strategy(bb8::QueueStrategy::Lifo)
                    .error_sink(Box::new(failures.clone()))
                    .build_unchecked(manager);
                Arc::new(Lane(pool, failures))
            })
            .collect();
        budget.join(&lanes);
        Self { lanes, budget: Arc::clone(budget) }
    }

    /// A clean session, preferably one that last served `schema`.
    pub async fn checkout(&self, schema: &str) -> Result<PooledSession, CheckoutError> {
        let _counted = Counted::one(&self.budget.asking);
        loop {
            let mut session = self.lane(schema).get().await?;
            // A session that died while idle is closed on return; the next one is tried.
            if !session.pg.is_broken() {
                return Ok(PooledSession(session, None));
            }
        }
    }

    fn lane(&self, schema: &str) -> &Lane {
        let mut hasher = DefaultHasher::new();
        schema.hash(&mut hasher);
        let home = usize::try_from(hasher.finish() % self.lanes.len() as u64).unwrap_or(0);
        let (before, from_home) = self.lanes.split_at(home);
        let mut turn = from_home.iter().chain(before);
        let free = |lane: &&Arc<Lane>| {
            let state = lane.0.state();
            state.idle_connections > 0 || state.connections < lane.0.config().max_size
        };
        let first = from_home.first();
        let chosen = turn.find(free).or(first);
        #[expect(clippy::expect_used, reason = "a pool is made with one lane at least")]
        chosen.expect("a lane")
    }
}

/// Makes sessions for bb8 and decides which may be used again.
struct Manager {
    config: Config,
    budget: Arc<Budget>,
    /// Who of this pool waits for a backend.
    waiting: Arc<AtomicUsize>,
}

impl Manager {
    async fn open(&self, permit: OwnedSemaphorePermit) -> Result<Session, ConnectError> {
        let pg = connect::open(&self.config).await?;
        let mark = Uuid::now_v7();
        let About { pid, clock_ms } = About::of(&pg, mark).await?;
        Ok(Session {
            pg,
            pid,
            mark,
            clock_ahead_ms: clock_ms - now_ms(),
            state: AtomicU8::new(CLEAN),
            opened: Instant::now(),
            runtime: Handle::current(),
            tls: self.config.tls().clone(),
            permit: Some(permit),
        })
    }

    /// Whether another pool waits for a backend and this session has had its turn here.
    fn gives_up(&self, session: &Session) -> bool {
        self.budget.waiting.load(Ordering::Relaxed) > self.waiting.load(Ordering::Relaxed)
            && session.opened.elapsed() >= TURN
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Session;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Session, ConnectError> {
        let permit = self.budget.permit(&self.waiting).await;
        // All of it in time: a server may take the connection and then say nothing.
        let opened = tokio::time::timeout(self.budget.limits.connect_timeout, self.open(permit)).await;
        opened.unwrap_or_else(|_| Err(ConnectError::Session("no answer in time".into())))
    }

    async fn is_valid(&self, _session: &mut Session) -> Result<(), ConnectError> {
        Ok(())
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.state.load(Ordering::Relaxed) != CLEAN || session.pg.is_broken() || self.gives_up(session)
    }
}

#[derive(QueryableByName)]
struct About {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = BigInt)]
    clock_ms: i64,
}

impl About {
    /// Marks the backend as this session's and asks it what it is. In one transaction: a pooler could give each statement another backend.
    async fn of(mut pg: &AsyncPgConnection, mark: Uuid) -> Result<Self, ConnectError> {
        use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _}; // here only: `load` would take that of the atomics above
        let failed = |error: diesel::result::Error| ConnectError::Session(error.to_string());
        pg.batch_execute(&format!("BEGIN; SELECT set_config('cordon.session','{mark}',false)"))
            .await
            .map_err(failed)?;
        let ask = sql_query(
            "select pg_backend_pid() as pid, (extract(epoch from clock_timestamp()) * 1000)::bigint as clock_ms",
        );
        let about = ask.get_result(&mut pg).await.map_err(failed)?;
        pg.batch_execute("COMMIT").await.map_err(failed).map(|()| about)
    }
}

const CLEAN: u8 = 0;
const OPEN: u8 = 1;
const CLOSING: u8 = 2;

/// One session with PostgreSQL, with what the guard needs to know of it.
pub struct Session {
    pg: AsyncPgConnection,
    pid: i32,
    mark: Uuid,
    clock_ahead_ms: i64,
    state: AtomicU8,
    opened: Instant,
    /// The one its socket belongs to: a lease may be dropped anywhere.
    runtime: Handle,
    tls: Tls,
    permit: Option<OwnedSemaphorePermit>,
}

impl Session {
    /// Through which queries are sent; shared, so that they can be pipelined.
    pub fn pg(&self) -> &AsyncPgConnection {
        &self.pg
    }

    /// The backend's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What this session, and none since, has left on its backend: behind a pooler, whoever comes later may put other statements there.
    pub fn mark(&self) -> Uuid {
        self.mark
    }

    /// Milliseconds since 1970 on the database's clock.
    pub fn clock_ms(&self) -> i64 {
        now_ms() + self.clock_ahead_ms
    }

    /// A transaction is about to begin: from here on only `ended` makes this session reusable.
    pub fn begins(&self) {
        self.state.store(OPEN, Ordering::Relaxed);
    }

    /// The transaction has ended: PostgreSQL has answered COMMIT or ROLLBACK.
    pub fn ended(&self) {
        let _ = self.state.compare_exchange(OPEN, CLEAN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Never to be used again, whatever its transaction does.
    pub fn close(&self) {
        self.state.store(CLOSING, Ordering::Relaxed);
    }
}

/// A session on loan, with its tenant's turn where it has one. Dropped before its transaction has ended, the statement is cancelled and
/// the session closed.
pub struct PooledSession(bb8::PooledConnection<'static, Manager>, Option<FairQueuePermit>);

impl PooledSession {
    /// The turn lasts as long as the lease.
    pub fn within(self, turn: FairQueuePermit) -> Self {
        let mut lease = self;
        lease.1 = Some(turn);
        lease
    }
}

impl std::ops::Deref for PooledSession {
    type Target = Session;
    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Drop for PooledSession {
    fn drop(&mut self) {
        if self.0.state.load(Ordering::Relaxed) == CLEAN {
            return;
        }
        CLOSED_UNCLEAN.fetch_add(1, Ordering::Relaxed);
        let session = &mut *self.0;
        let (token, tls) = (session.pg.cancel_token(), session.tls.clone());
        let held = (session.permit.take(), self.1.take());
        // The backend may be busy until it has heard of it, so its permits are given back only then. The token names this backend alone:
        // another that gets its process id has another secret.
        session.runtime.spawn(async move {
            let _held = held;
            let _ = tokio::time::timeout(CANCEL_WITHIN, connect::cancel(token, &tls)).await;
        });
    }
}

fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
