//! The guard: the one way from a request to a tenant's data.
//!
//! One `GuardFactory` per process admits a verified principal to one tenant and returns a `Guard` for one operation.
//! The reads of the operation share one REPEATABLE READ transaction, which is begun when it is first needed; after each
//! write they use a new one, which sees the write. Nothing is ambient: a `Guard` and a `TenantTx` are values. Only the
//! guard begins a tenant transaction, and what was read through it is returned only after `finish` has written who saw
//! it.

mod idempotency;
pub mod keeper;
mod reads;
mod role_table;
mod ticket;
mod tx;
mod write;

pub use idempotency::IdempotencyKey;
pub use role_table::RoleTable;
pub use ticket::{Actor, TxKind};
pub use tx::{TenantQuery, TenantTx};
pub use write::{RecordId, require_version};

use crate::audit::{AccessRecord, AuditAction, ClientInfo, OPERATION, Outcome};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::flags::{Evaluations, Flag, FlagContext, Flags};
use crate::ids::{RequestId, StaffId, TenantId};
use crate::isolation::{BootCheck, CheckedPlacements};
use crate::telemetry::{Metrics, RequestStats, span};
use crate::tenant::catalog::Catalog;
use crate::tenant::events::SecurityEvents;
use crate::tenant::keys::KeyRing;
use crate::tenant::router::Router;
use crate::tenant::{State, Tenant, is_slug};
use parking_lot::Mutex;
use reads::Reads;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tracing::Instrument;

/// What a request says about the tenant besides its token. It may choose among the tenants of the token or confirm the
/// only one, and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct TenantHint<'a> {
    /// `X-Tenant-ID`: an id or a slug.
    pub header: Option<&'a str>,
    /// The first label of the host name under `http.domain`: a slug.
    pub subdomain: Option<&'a str>,
}

/// What the audit log and the metrics keep of a request.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    /// The request's id, which is in each of its audit rows and log lines.
    pub request: RequestId,
    /// The client's address and software, for the audit log.
    pub client: ClientInfo,
    /// Counts the database work of the request.
    pub stats: Arc<RequestStats>,
}

/// Timeouts of the statements of a tenant transaction, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Maximum duration of one statement.
    pub statement_ms: u64,
    /// Maximum time that a statement waits for a lock.
    pub lock_ms: u64,
}

/// What a `GuardFactory` is made of.
pub struct GuardParts {
    /// The tenants and their placements.
    pub catalog: Arc<Catalog>,
    /// The tenants' keys and the keys of the binding.
    pub keys: Arc<KeyRing>,
    /// Sessions with the tenants' databases.
    pub router: Arc<Router>,
    /// Counts refusals that belong to no verified tenant.
    pub events: Arc<SecurityEvents>,
    /// Counts the evaluations of flags and the placements with a wall down.
    pub metrics: Arc<Metrics>,
    /// Answers which features are enabled for a tenant.
    pub flags: Arc<Flags>,
    /// Which roles may do what.
    pub roles: RoleTable,
    /// Timeouts for tenants without a setting of their own.
    pub timeouts: Timeouts,
}

/// Admits principals to tenants. One per process.
pub struct GuardFactory {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    router: Arc<Router>,
    events: Arc<SecurityEvents>,
    metrics: Arc<Metrics>,
    flags: Arc<Flags>,
    roles: RoleTable,
    timeouts: Timeouts,
    /// `None`: placements are not checked, for tests that take walls down.
    checked: Option<CheckedPlacements>,
}

impl GuardFactory {
    /// Creates a factory. Unless the boot check is off, each placement is checked before its first transaction.
    pub fn new(parts: GuardParts, boot_check: BootCheck) -> Arc<Self> {
        let GuardParts { catalog, keys, router, events, metrics, flags, roles, timeouts } = parts;
        let checked = (boot_check != BootCheck::Off).then(|| CheckedPlacements::new(boot_check));
        Arc::new(Self { catalog, keys, router, events, metrics, flags, roles, timeouts, checked })
    }

    /// Resolves the tenant and returns a guard for one operation. No tenant database is used yet.
    ///
    /// # Errors
    /// `TenantMismatch` where the token does not name the tenant, the hints disagree, or the tenant is being created or
    /// removed; `TenantSuspended` where it is suspended; otherwise the errors of reading the catalog.
    pub async fn open_guard(
        self: &Arc<Self>,
        principal: &Principal,
        hint: TenantHint<'_>,
        info: RequestInfo,
    ) -> Result<Guard> {
        let tenant = self.resolve_tenant(principal, hint).await.inspect_err(|error| {
            if *error == Error::TenantMismatch {
                self.events.count("tenant_mismatch");
            }
        })?;
        let actor = Actor {
            id: Actor::id_of(tenant.id, &principal.issuer, &principal.subject),
            issuer: principal.issuer.clone(),
            subject: principal.subject.clone(),
            name: principal.name.clone(),
            acting: principal.acting.clone(),
            roles: principal.roles.clone(),
        };
        Ok(Guard {
            guards: Arc::clone(self),
            tenant,
            actor,
            info,
            features: OnceLock::new(),
            reads: Reads::default(),
            refusals: Mutex::default(),
            committed: Mutex::default(),
        })
    }

    /// Begins a transaction for an operation that no request started, such as an import. The placement is read from the
    /// catalog again, so that it is current.
    pub async fn begin_operation(
        &self,
        tenant: TenantId,
        actor: &Actor,
        kind: TxKind,
        request: RequestId,
    ) -> Result<TenantTx> {
        let tenant = self.catalog.refresh(tenant).await?.ok_or(Error::NotFound)?;
        let info = RequestInfo { request, client: ClientInfo::default(), stats: Arc::default() };
        self.begin(&tenant, actor, kind, None, &info).await
    }

    /// Counts a refusal that belongs to no verified tenant.
    pub fn count_security_event(&self, kind: &'static str) {
        self.events.count(kind);
    }

    async fn resolve_tenant(&self, principal: &Principal, hint: TenantHint<'_>) -> Result<Arc<Tenant>> {
        let mut hinted: Option<Arc<Tenant>> = None;
        for hint in [hint.header, hint.subdomain].into_iter().flatten() {
            let tenant = self.resolve_hint(principal, hint).await?;
            if hinted.as_ref().is_some_and(|other| other.id != tenant.id) {
                return Err(Error::TenantMismatch);
            }
            hinted = Some(tenant);
        }
        let tenant = match (hinted, principal.tenants.as_slice()) {
            (Some(tenant), _) => tenant,
            (None, [only]) => self.catalog.tenant(*only).await?.ok_or(Error::TenantMismatch)?,
            (None, _) => return Err(Error::TenantMismatch),
        };
        match tenant.state {
            State::Active => Ok(tenant),
            State::Suspended => Err(Error::TenantSuspended),
            State::Provisioning | State::Offboarding | State::Destroyed => Err(Error::TenantMismatch),
        }
    }

    /// Returns the tenant that a hint names, among those of the token. Any other is treated as if it did not exist.
    async fn resolve_hint(&self, principal: &Principal, hint: &str) -> Result<Arc<Tenant>> {
        if let Ok(id) = hint.parse::<TenantId>() {
            if !principal.tenants.contains(&id) {
                return Err(Error::TenantMismatch);
            }
            return self.catalog.tenant(id).await?.ok_or(Error::TenantMismatch);
        }
        if is_slug(hint) {
            for id in &principal.tenants {
                if let Some(tenant) = self.catalog.tenant(*id).await?
                    && tenant.slug == hint
                    && tenant.state != State::Destroyed
                {
                    return Ok(tenant);
                }
            }
        }
        Err(Error::TenantMismatch)
    }

    async fn begin(
        &self,
        tenant: &Tenant,
        actor: &Actor,
        kind: TxKind,
        action: Option<AuditAction>,
        info: &RequestInfo,
    ) -> Result<TenantTx> {
        let placement = tenant.placement.as_ref().ok_or(Error::Unavailable)?;
        let keys = self.keys.tenant(tenant.id).await?;
        let binding = self.keys.binding(placement.server, &placement.database).await?;
        let started = Instant::now();
        let session = self.router.checkout(tenant.id, placement).instrument(span::pool(tenant.id)).await;
        info.stats.add_pool_wait(started.elapsed());
        let session = session?;
        if let Some(checked) = &self.checked {
            checked.check(&session, placement, &self.metrics).await?;
        }
        // The tenant's own timeout is for requests. Imports and migrations may take longer.
        let for_request = matches!(kind, TxKind::Read | TxKind::Write);
        let own_timeout = tenant.settings.statement_timeout_ms.filter(|_| for_request).map(u64::from);
        Ok(TenantTx::begin(tx::Opening {
            session,
            binding: &binding,
            keys,
            tenant: tenant.id,
            placement,
            actor,
            kind,
            action,
            request: info.request,
            client: info.client.clone(),
            stats: Arc::clone(&info.stats),
            statement_timeout_ms: own_timeout.unwrap_or(self.timeouts.statement_ms),
            lock_timeout_ms: self.timeouts.lock_ms,
        }))
    }
}

/// One operation of one principal in one tenant: its transactions, rights, flags and audit records.
pub struct Guard {
    guards: Arc<GuardFactory>,
    tenant: Arc<Tenant>,
    actor: Actor,
    info: RequestInfo,
    features: OnceLock<Evaluations>,
    reads: Reads,
    /// Refused attempts, which `finish` writes to the audit log.
    refusals: Mutex<Vec<AccessRecord>>,
    /// The actions of committed writes.
    committed: Mutex<Vec<AuditAction>>,
}

impl Guard {
    /// Returns the tenant as it was when the guard was opened.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Returns the principal who acts, as the audit log names them.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Returns the id of the caller's staff row, which may not exist yet.
    pub fn staff_id(&self) -> StaffId {
        self.actor.id
    }

    /// Returns the id of the request that this operation belongs to.
    pub fn request(&self) -> RequestId {
        self.info.request
    }

    /// Returns the tenant's flags. They are evaluated on the first call and stay the same until the end of the
    /// operation.
    pub fn features(&self) -> &Evaluations {
        self.features.get_or_init(|| {
            let Tenant { id, plan, placement, .. } = self.tenant();
            let model = placement.as_ref().map(|placement| placement.model.as_str());
            let region = placement.as_ref().and_then(|placement| placement.region.as_deref());
            let answers = self.guards.flags.evaluate(FlagContext { tenant: *id, plan, model, region });
            answers.iter().for_each(|(flag, answer)| {
                self.guards.metrics.count_flag_evaluation(flag.name(), answer.enabled, answer.variant.as_deref())
            });
            answers
        })
    }

    /// Fails with `FeatureDisabled` unless the flag is enabled for the tenant.
    pub fn require_flag(&self, flag: Flag) -> Result<()> {
        if self.features().is_on(flag) { Ok(()) } else { Err(Error::FeatureDisabled) }
    }

    /// Returns whether the caller's roles allow `operation`. A refusal is not audited; see `authorize`.
    pub fn allows(&self, operation: &'static str) -> bool {
        self.guards.roles.allows(operation, &self.actor.roles)
    }

    /// Fails with `Forbidden` unless the caller's roles allow `operation`, and records the refusal for the audit log.
    pub fn authorize(&self, operation: &'static str) -> Result<()> {
        if self.allows(operation) {
            return Ok(());
        }
        self.record_refusal(AccessRecord {
            action: operation,
            patient: None,
            resource_type: OPERATION,
            resource_ids: Vec::new(),
            fields: Vec::new(),
            outcome: Outcome::Denied,
        });
        Err(Error::Forbidden)
    }

    fn record_refusal(&self, record: AccessRecord) {
        self.refusals.lock().push(record);
    }

    /// Returns the operation's read transaction, which is begun on the first call. All reads between two writes see one
    /// snapshot.
    pub async fn read(&self) -> Result<Arc<TenantTx>> {
        let begin = async || self.begin(TxKind::Read, None).await.map(Arc::new);
        self.reads.current().get_or_try_init(begin).await.map(Arc::clone)
    }

    /// Writes the audit rows of reads and refusals and commits. Nothing that was read may be returned to the client
    /// before this has returned `Ok`.
    pub async fn finish(&self) -> Result<()> {
        if self.reads.failed() {
            return Err(Error::Unavailable);
        }
        let refusals = std::mem::take(&mut *self.refusals.lock());
        let open = self.reads.current().get().is_some_and(|tx| !tx.has_ended());
        if !open && refusals.is_empty() {
            return Ok(());
        }
        let tx = self.read().await?;
        refusals.into_iter().for_each(|refusal| tx.record_access(refusal));
        tx.commit().await
    }

    /// Rolls the read transaction back after a failure, so that its session can be used again.
    pub async fn rollback(&self) {
        let current = self.reads.current();
        if let Some(tx) = current.get()
            && let Err(error) = tx.rollback().await
        {
            tracing::debug!(error = %error, "A failed transaction could not be rolled back; its session is closed");
        }
    }

    /// Reads the tenant's placement from the catalog again, after the fence reported that it changed. This guard keeps
    /// the old placement; the next guard uses the new one.
    pub async fn refresh_placement(&self) -> Result<()> {
        self.guards.catalog.refresh(self.tenant.id).await.map(|_| ())
    }

    async fn begin(&self, kind: TxKind, action: Option<AuditAction>) -> Result<TenantTx> {
        self.guards.begin(&self.tenant, &self.actor, kind, action, &self.info).await
    }
}
