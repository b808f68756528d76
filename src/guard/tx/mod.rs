//! The tenant transaction: the one thing through which a chart can be read or written. Only the guard makes one.
//! Its head (BEGIN, settings, binding) travels with the first query; its audit rows and COMMIT travel together at the end.

mod query;

use super::ticket::{Actor, AuditAction, Ticket, TxKind};
use crate::audit::{AccessRecord, AccessRecords, ClientInfo};
use crate::crypto::TenantKeys;
use crate::db::fault::classify;
use crate::db::pool::PooledSession;
use crate::error::{Error, Result};
use crate::ids::{RequestId, TenantId};
use crate::telemetry::RequestStats;
use crate::telemetry::span::{self, Statement};
use crate::tenant::keys::BindingKey;
use crate::tenant::{Placement, SchemaName};
use diesel::QueryResult;
use diesel_async::SimpleAsyncConnection;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Instrument;

/// A transaction bound to one tenant, one person and one purpose.
///
/// Its connection is private: every statement goes through `load`, `first`, `optional` or `execute`, behind the head.
///
/// ```compile_fail,E0616
/// # fn reach(tx: &cordon::guard::TenantTx) {
/// let _ = &tx.session;
/// # }
/// ```
///
/// ```compile_fail,E0599
/// # fn reach(tx: &cordon::guard::TenantTx) {
/// let _ = tx.conn();
/// # }
/// ```
///
/// Dropped before `commit` or `rollback` has answered, its session is cancelled and closed.
pub struct TenantTx {
    session: Arc<PooledSession>,
    head: Shared<BoxFuture<'static, Result<()>>>,
    keys: Arc<TenantKeys>,
    tenant: TenantId,
    schema: SchemaName,
    client: ClientInfo,
    stats: Arc<RequestStats>,
    pending: Mutex<AccessRecords>,
    failed: AtomicBool,
    over: AtomicBool,
}

/// What a transaction is opened with.
pub(super) struct Opening<'a> {
    pub session: PooledSession,
    pub binding: &'a BindingKey,
    pub keys: Arc<TenantKeys>,
    pub tenant: TenantId,
    pub placement: &'a Placement,
    pub actor: &'a Actor,
    pub purpose: TxKind,
    pub event: Option<AuditAction>,
    pub request: RequestId,
    pub client: ClientInfo,
    pub stats: Arc<RequestStats>,
    pub statement_timeout_ms: u64,
    pub lock_timeout_ms: u64,
}

impl TenantTx {
    /// Nothing is sent yet: the head goes out with whatever is run first.
    pub(super) fn open(opening: Opening<'_>) -> Self {
        let Opening {
            session, binding, keys, tenant, placement, actor, purpose, event, request, client, stats, ..
        } = opening;
        let write = event.map(|event| (event, &client));
        let ticket = Ticket { tenant, generation: placement.generation, actor, purpose, request, write };
        let bind = ticket.bind(binding, session.pid(), session.mark(), session.clock_ms());
        let schema = placement.schema.clone();
        let text = head(&schema, purpose, opening.statement_timeout_ms, opening.lock_timeout_ms, &bind);
        let session = Arc::new(session);
        session.begins();
        let sent_by = Arc::clone(&session);
        let head = async move {
            match (&mut sent_by.pg()).batch_execute(&text).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    sent_by.close();
                    Err(classify(&error).error)
                }
            }
        };
        let (head, pending, failed, over) =
            (head.boxed().shared(), Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        Self { session, head, keys, tenant, schema, client, stats, pending, failed, over }
    }

    /// The tenant's keys.
    pub fn keys(&self) -> &TenantKeys {
        &self.keys
    }

    /// The tenant this is bound to.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn send<T>(&self, statement: Statement, query: impl Future<Output = QueryResult<T>>) -> Result<T> {
        if self.over.load(Ordering::Relaxed) {
            return Err(Error::internal("A query came after its transaction", "it was not sent"));
        }
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Unavailable);
        }
        // The head is polled first, so its message is the first on the wire.
        let asking = self.stats.asks();
        let both = async { futures_util::join!(self.head.clone(), query) };
        let (bound, outcome) = both.instrument(span::sql(self.tenant, statement)).await;
        drop(asking);
        if let Err(error) = bound {
            self.stats.refused(&error);
            self.failed.store(true, Ordering::Relaxed);
            return Err(error);
        }
        outcome.map_err(|error| {
            let fault = classify(&error);
            if fault.error != Error::NotFound {
                self.failed.store(true, Ordering::Relaxed);
            }
            if fault.close {
                self.session.close();
            }
            self.stats.refused(&fault.error);
            fault.error
        })
    }

    /// Whether it was committed or rolled back.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Notes a disclosure, to be written before COMMIT.
    pub fn record_access(&self, disclosure: AccessRecord) {
        self.pending.lock().add(disclosure);
    }

    /// Writes the audit rows and commits, in one message: either both happen or neither.
    pub async fn commit(&self) -> Result<()> {
        let (audit, rows) = {
            let mut pending = self.pending.lock();
            let pending = std::mem::take(&mut *pending);
            let audit = match pending.is_empty() {
                true => String::new(),
                false => format!("SELECT {}.audit('{}');", self.schema, pending.to_hex(&self.client)),
            };
            (audit, pending.len())
        };
        // `send` refuses after an error: a COMMIT of a failed transaction would answer ROLLBACK and look like success.
        self.send(Statement::Commit, async { (&mut self.session.pg()).batch_execute(&format!("{audit}COMMIT")).await })
            .await?;
        self.ended();
        self.stats.audited(rows);
        Ok(())
    }

    /// Undoes everything and makes the session reusable.
    pub async fn rollback(&self) -> Result<()> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _ = self.head.clone().await;
        match (&mut self.session.pg()).batch_execute("ROLLBACK").await {
            Ok(()) => {
                self.ended();
                Ok(())
            }
            Err(error) => {
                self.session.close();
                Err(classify(&error).error)
            }
        }
    }

    /// PostgreSQL has answered COMMIT or ROLLBACK. Nothing may be sent through this value any more.
    fn ended(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.session.ended();
    }
}

/// Everything a transaction relies on is set here, whatever the session's last user left behind. No table is walked: each has an index that
/// fits, and a plan that was kept while it was small would go on walking it until it is analysed. What has to be walked then looks dear
/// enough to be compiled first, which it is not.
fn head(schema: &SchemaName, purpose: TxKind, statement_ms: u64, lock_ms: u64, bind: &str) -> String {
    let isolation = purpose.isolation();
    format!(
        "BEGIN ISOLATION LEVEL {isolation} READ WRITE;\
         SELECT set_config('search_path','{schema}, pg_temp',true),set_config('statement_timeout','{statement_ms}',true),\
         set_config('lock_timeout','{lock_ms}',true),set_config('idle_in_transaction_session_timeout','30000',true),\
         set_config('synchronous_commit','on',true),set_config('row_security','on',true),set_config('enable_seqscan','off',true),set_config('jit','off',true),\
         set_config('standard_conforming_strings','on',true),set_config('client_encoding','UTF8',true),\
         set_config('TimeZone','UTC',true);{bind}"
    )
}
