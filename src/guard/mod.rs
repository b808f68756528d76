//! The guard: the one door from a request to a tenant's data.
//!
//! A `GuardFactory` is made once at start. It admits a verified principal to one tenant and hands out a `Guard` for one operation, through which
//! reads share one REPEATABLE READ transaction, opened when first needed; after each write they begin a new one, which sees it.
//! Nothing is ambient: a `Guard` and a `TenantTx` are values.
//! No one else opens a tenant transaction, and what a guard read is answered only after `finish` has written who saw it.

mod idempotency;
pub mod keeper;
mod policy;
mod reads;
mod ticket;
mod tx;
mod write;

pub use idempotency::IdempotencyKey;
pub use policy::Policy;
pub use ticket::{Actor, AuditAction, TxKind};
pub use tx::TenantTx;
pub use write::{RecordId, expect};

use crate::audit::{AccessRecord, ClientInfo, Outcome};
use crate::auth::Principal;
use crate::error::{Error, Result};
use crate::flags::{Answers, Flag, Flags, Subject};
use crate::ids::{RequestId, StaffId, TenantId};
use crate::isolation::{self, BootCheck};
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

/// What a request says about the tenant besides its token: it may only choose among the token's, or confirm.
#[derive(Debug, Clone, Copy, Default)]
pub struct TenantHint<'a> {
    /// `X-Tenant-ID`: an id or a slug.
    pub header: Option<&'a str>,
    /// First label of the host name under `http.domain`: a slug.
    pub subdomain: Option<&'a str>,
}

/// What the audit log keeps of a request.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    /// In every audit row and log line of this request.
    pub request: RequestId,
    /// From where it came.
    pub client: ClientInfo,
    /// What it causes is counted here.
    pub stats: Arc<RequestStats>,
}

/// Times of a tenant's statements, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// One statement.
    pub statement_ms: u64,
    /// Waiting for a lock.
    pub lock_ms: u64,
}

/// What a door is made of.
pub struct GuardParts {
    /// Who the tenants are and where they live.
    pub catalog: Arc<Catalog>,
    /// Their keys.
    pub keys: Arc<KeyRing>,
    /// Sessions with their databases.
    pub router: Arc<Router>,
    /// Where refusals are counted that no tenant stands behind.
    pub events: Arc<SecurityEvents>,
    /// Where flags are counted.
    pub metrics: Arc<Metrics>,
    /// What is switched on for whom.
    pub flags: Arc<Flags>,
    /// Which roles may do what.
    pub policy: Policy,
    /// Of statements.
    pub timeouts: Timeouts,
}

/// Admits principals to tenants. One a process.
pub struct GuardFactory {
    catalog: Arc<Catalog>,
    keys: Arc<KeyRing>,
    router: Arc<Router>,
    events: Arc<SecurityEvents>,
    metrics: Arc<Metrics>,
    flags: Arc<Flags>,
    policy: Policy,
    timeouts: Timeouts,
    /// `None`: not looked at, as tests do that take walls down.
    inspected: Option<isolation::CheckedPlacements>,
}

impl GuardFactory {
    /// A door to the tenants of the catalog.
    pub fn new(parts: GuardParts, boot_check: BootCheck) -> Arc<Self> {
        let GuardParts { catalog, keys, router, events, metrics, flags, policy, timeouts } = parts;
        let inspected = (boot_check != BootCheck::Off).then(|| isolation::CheckedPlacements::new(boot_check));
        Arc::new(Self { catalog, keys, router, events, metrics, flags, policy, timeouts, inspected })
    }

    /// Chooses the tenant and opens a guard for one operation. No tenant database is touched yet.
    pub async fn admit(
        self: &Arc<Self>,
        principal: &Principal,
        hint: TenantHint<'_>,
        info: RequestInfo,
    ) -> Result<Guard> {
        let tenant = match self.choose(principal, hint).await {
            Err(Error::TenantMismatch) => {
                self.events.count("tenant_mismatch");
                return Err(Error::TenantMismatch);
            }
            chosen => chosen?,
        };
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
            written: Mutex::default(),
        })
    }

    /// Opens a transaction for an operation that no request stands behind: an import, a data step of a migration.
    pub async fn work(&self, tenant: TenantId, actor: &Actor, purpose: TxKind, request: RequestId) -> Result<TenantTx> {
        let tenant = self.catalog.refresh(tenant).await?.ok_or(Error::NotFound)?;
        let info = RequestInfo { request, client: ClientInfo::default(), stats: Arc::default() };
        self.open(&tenant, actor, purpose, None, &info).await
    }

    /// Counts a refusal that no verified tenant stands behind.
    pub fn refused(&self, kind: &'static str) {
        self.events.count(kind);
    }

    async fn choose(&self, principal: &Principal, hint: TenantHint<'_>) -> Result<Arc<Tenant>> {
        let mut chosen: Option<Arc<Tenant>> = None;
        for hint in [hint.header, hint.subdomain].into_iter().flatten() {
            let named = self.named(principal, hint).await?;
            if chosen.as_ref().is_some_and(|other| other.id != named.id) {
                return Err(Error::TenantMismatch);
            }
            chosen = Some(named);
        }
        let tenant = match (chosen, principal.tenants.as_slice()) {
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

    /// The tenant of the token that a hint names. What is not in the token does not exist.
    async fn named(&self, principal: &Principal, hint: &str) -> Result<Arc<Tenant>> {
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

    async fn open(
        &self,
        tenant: &Tenant,
        actor: &Actor,
        purpose: TxKind,
        event: Option<AuditAction>,
        info: &RequestInfo,
    ) -> Result<TenantTx> {
        let placement = tenant.placement.as_ref().ok_or(Error::Unavailable)?;
        let keys = self.keys.tenant(tenant.id).await?;
        let binding = self.keys.binding(placement.server, &placement.database).await?;
        let began = Instant::now();
        let session = self.router.checkout(tenant.id, placement).instrument(span::pool(tenant.id)).await;
        info.stats.waited(began.elapsed());
        let session = session?;
        if let Some(inspected) = &self.inspected {
            inspected.check(&session, placement, &self.metrics).await?;
        }
        // Operations take the time they need.
        let of_requests = matches!(purpose, TxKind::Read | TxKind::Write);
        let set = tenant.settings.statement_timeout_ms.filter(|_| of_requests).map(u64::from);
        Ok(TenantTx::open(tx::Opening {
            session,
            binding: &binding,
            keys,
            tenant: tenant.id,
            placement,
            actor,
            purpose,
            event,
            request: info.request,
            client: info.client.clone(),
            stats: Arc::clone(&info.stats),
            statement_timeout_ms: set.unwrap_or(self.timeouts.statement_ms),
            lock_timeout_ms: self.timeouts.lock_ms,
        }))
    }
}

/// One operation of one person in one tenant.
pub struct Guard {
    guards: Arc<GuardFactory>,
    tenant: Arc<Tenant>,
    actor: Actor,
    info: RequestInfo,
    features: OnceLock<Answers>,
    reads: Reads,
    /// What was refused, to be written down with the next read.
    refusals: Mutex<Vec<AccessRecord>>,
    /// What was changed for good.
    written: Mutex<Vec<AuditAction>>,
}

impl Guard {
    /// The tenant.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Who acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The id of the caller's staff row, whether there is one yet or not.
    pub fn staff_id(&self) -> StaffId {
        self.actor.id
    }

    /// The request this belongs to.
    pub fn request(&self) -> RequestId {
        self.info.request
    }

    /// The tenant's flags: asked when the first is wanted, and the same to the end of the operation, whatever changes meanwhile.
    pub fn features(&self) -> &Answers {
        self.features.get_or_init(|| {
            let Tenant { id, plan, placement, .. } = self.tenant();
            let (model, region) = (
                placement.as_ref().map(|at| at.model.as_str()),
                placement.as_ref().and_then(|at| at.region.as_deref()),
            );
            let answers = self.guards.flags.answers(Subject { tenant: *id, plan, model, region });
            answers.iter().for_each(|(flag, answer)| {
                self.guards.metrics.flag(flag.name(), answer.enabled, answer.variant.as_deref())
            });
            answers
        })
    }

    /// Refuses what is not switched on for the tenant.
    pub fn needs(&self, flag: Flag) -> Result<()> {
        if self.features().is_on(flag) { Ok(()) } else { Err(Error::SwitchedOff) }
    }

    /// Whether the caller's roles allow `operation`, where there is another way if they do not.
    pub fn allows(&self, operation: &'static str) -> bool {
        self.guards.policy.allows(operation, &self.actor.roles)
    }

    /// Whether the caller's roles allow `operation`; a refusal goes into the tenant's audit log.
    pub fn may(&self, operation: &'static str) -> Result<()> {
        if self.allows(operation) {
            return Ok(());
        }
        let (patient, resource_type, resource_ids, fields) = (None, "operation", Vec::new(), Vec::new());
        self.refuse(AccessRecord {
            action: operation,
            patient,
            resource_type,
            resource_ids,
            fields,
            outcome: Outcome::Denied,
        });
        Err(Error::Forbidden)
    }

    fn refuse(&self, refusal: AccessRecord) {
        self.refusals.lock().push(refusal);
    }

    /// The operation's read transaction: one snapshot for the whole answer, or for what is read after a write.
    pub async fn read(&self) -> Result<Arc<TenantTx>> {
        let opened = async || self.open(TxKind::Read, None).await.map(Arc::new);
        self.reads.current().get_or_try_init(opened).await.map(Arc::clone)
    }

    /// Writes who saw what and commits. Until this has returned `Ok`, nothing that was read may leave.
    pub async fn finish(&self) -> Result<()> {
        if self.reads.failed() {
            return Err(Error::Unavailable);
        }
        let refusals = std::mem::take(&mut *self.refusals.lock());
        let open = self.reads.current().get().is_some_and(|tx| !tx.is_over());
        if !open && refusals.is_empty() {
            return Ok(());
        }
        let tx = self.read().await?;
        refusals.into_iter().for_each(|refusal| tx.record_access(refusal));
        tx.commit().await
    }

    /// Ends the read transaction after a failure, so that its session can be used again.
    pub async fn abandon(&self) {
        let current = self.reads.current();
        if let Some(tx) = current.get()
            && let Err(error) = tx.rollback().await
        {
            tracing::debug!(error = %error, "A failed transaction could not be rolled back; its session is closed");
        }
    }

    /// Looks the tenant's placement up again, after the fence said that it changed.
    pub async fn look_again(&self) -> Result<()> {
        self.guards.catalog.refresh(self.tenant.id).await.map(|_| ())
    }

    async fn open(&self, purpose: TxKind, event: Option<AuditAction>) -> Result<TenantTx> {
        self.guards.open(&self.tenant, &self.actor, purpose, event, &self.info).await
    }
}
