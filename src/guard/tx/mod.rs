//! The tenant transaction: charts are read and written only through it, and only the guard begins one. Its head (BEGIN,
//! settings, binding) is sent with the first query; its audit rows and COMMIT are sent together at the end.

mod query;

pub use query::TenantQuery;

use super::ticket::{Actor, Ticket, TxKind, WriteInfo};
use crate::audit::{AccessRecord, AccessRecords, AuditAction, ClientInfo};
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

/// A transaction bound to one tenant, one principal and one purpose.
///
/// Its connection is private: every statement is sent by `load`, `first`, `optional` or `execute`, after the head.
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
/// Where it is dropped before `commit` or `rollback` has returned, the running statement is cancelled and the session
/// is closed.
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
    ended: AtomicBool,
}

/// What `TenantTx::begin` needs.
pub(super) struct Opening<'a> {
    pub session: PooledSession,
    pub binding: &'a BindingKey,
    pub keys: Arc<TenantKeys>,
    pub tenant: TenantId,
    pub placement: &'a Placement,
    pub actor: &'a Actor,
    pub kind: TxKind,
    pub action: Option<AuditAction>,
    pub request: RequestId,
    pub client: ClientInfo,
    pub stats: Arc<RequestStats>,
    pub statement_timeout_ms: u64,
    pub lock_timeout_ms: u64,
}

impl TenantTx {
    /// Prepares a transaction. Nothing is sent yet: the head is sent with the first statement.
    pub(super) fn begin(opening: Opening<'_>) -> Self {
        let Opening { session, binding, keys, tenant, placement, actor, kind, action, request, client, stats, .. } =
            opening;
        let write = action.map(|action| WriteInfo { action, client: &client });
        let ticket = Ticket { tenant, generation: placement.generation, actor, kind, request, write };
        let bind = ticket.bind(binding, session.pid(), session.next_binding(), session.clock_ms());
        let schema = placement.schema.clone();
        let text = head(&schema, kind, opening.statement_timeout_ms, opening.lock_timeout_ms, &bind);
        let session = Arc::new(session);
        session.transaction_started();
        let head_session = Arc::clone(&session);
        let head = async move {
            match (&mut head_session.pg()).batch_execute(&text).await {
                Ok(()) => Ok(()),
                Err(error) => {
                    head_session.discard();
                    Err(classify(&error).error)
                }
            }
        };
        let head = head.boxed().shared();
        let (pending, failed, ended) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        Self { session, head, keys, tenant, schema, client, stats, pending, failed, ended }
    }

    /// Returns the keys of the bound tenant.
    pub fn keys(&self) -> &TenantKeys {
        &self.keys
    }

    /// Returns the bound tenant.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn send<T>(&self, statement: Statement, query: impl Future<Output = QueryResult<T>>) -> Result<T> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(Error::internal("A query came after its transaction", "it was not sent"));
        }
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Unavailable);
        }
        // The head is polled first and is therefore the first message that is sent.
        let round_trip = self.stats.begin_statement();
        let both = async { futures_util::join!(self.head.clone(), query) };
        let (bound, outcome) = both.instrument(span::sql(self.tenant, statement)).await;
        drop(round_trip);
        if let Err(error) = bound {
            self.stats.count_refusal(&error);
            self.failed.store(true, Ordering::Relaxed);
            return Err(error);
        }
        outcome.map_err(|error| {
            let fault = classify(&error);
            if fault.error != Error::NotFound {
                self.failed.store(true, Ordering::Relaxed);
            }
            if fault.close_session {
                self.session.discard();
            }
            self.stats.count_refusal(&fault.error);
            fault.error
        })
    }

    /// Returns whether it was committed or rolled back.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Adds an access record. `commit` writes it together with the others.
    pub fn record_access(&self, record: AccessRecord) {
        self.pending.lock().add(record);
    }

    /// Writes the audit rows and commits, in one message, so that either both happen or neither.
    ///
    /// # Errors
    /// The error of an earlier statement as `Unavailable`, or that of the audit rows or of COMMIT. The transaction's
    /// results must then not be returned to the client.
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
        // `send` refuses after an error: PostgreSQL answers COMMIT of a failed transaction with ROLLBACK, which looks
        // like success.
        self.send(Statement::Commit, async { (&mut self.session.pg()).batch_execute(&format!("{audit}COMMIT")).await })
            .await?;
        self.mark_ended();
        self.stats.add_audit_rows(rows);
        Ok(())
    }

    /// Rolls back, which makes the session reusable. Does nothing after the end of the transaction.
    pub async fn rollback(&self) -> Result<()> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(());
        }
        let _ = self.head.clone().await;
        match (&mut self.session.pg()).batch_execute("ROLLBACK").await {
            Ok(()) => {
                self.mark_ended();
                Ok(())
            }
            Err(error) => {
                self.session.discard();
                Err(classify(&error).error)
            }
        }
    }

    /// Records that PostgreSQL answered COMMIT or ROLLBACK. No more statements are sent.
    fn mark_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.session.transaction_ended();
    }
}

/// Returns the statements that begin and bind a transaction. They set every setting that the transaction relies on,
/// because an earlier user of the session may have changed it. Sequential scans are disabled: every query has an index,
/// and a plan that was cached while a table was small would keep scanning it until the table is analysed. The planner
/// then overestimates the cost of a scan that is needed, so JIT compilation is disabled as well.
fn head(schema: &SchemaName, kind: TxKind, statement_ms: u64, lock_ms: u64, bind: &str) -> String {
    let isolation = kind.isolation();
    format!(
        "BEGIN ISOLATION LEVEL {isolation} READ WRITE;\
         SELECT set_config('search_path','{schema}, pg_temp',true),\
         set_config('statement_timeout','{statement_ms}',true),\
         set_config('lock_timeout','{lock_ms}',true),set_config('idle_in_transaction_session_timeout','30000',true),\
         set_config('synchronous_commit','on',true),set_config('row_security','on',true),\
         set_config('enable_seqscan','off',true),set_config('jit','off',true),\
         set_config('standard_conforming_strings','on',true),set_config('client_encoding','UTF8',true),\
         set_config('TimeZone','UTC',true);{bind}"
    )
}
