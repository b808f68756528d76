//! Tickets: what the guard tells the database about a transaction, signed with a key that only server and database have.
//! Every part is made of characters that need no quoting; what people typed goes in as hex.

use crate::audit::{ClientInfo, hex};
use crate::ids::{RequestId, StaffId, TenantId};
use crate::tenant::keys::BindingKey;
use aws_lc_rs::{digest, hmac};
use uuid::Uuid;

/// Milliseconds a ticket is good for on the database's clock; it accepts ten seconds at most.
const GOOD_FOR_MS: i64 = 8_000;

/// Why a transaction runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxKind {
    /// Answering a query; writes nothing.
    Read,
    /// A change of a chart.
    Write,
    /// History from elsewhere.
    Import,
    /// A data step of a migration; keepers only.
    Migrate,
}

impl TxKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Import => "import",
            Self::Migrate => "migrate",
        }
    }

    /// Writers see the fence only when each statement takes a snapshot of its own.
    pub(super) fn isolation(self) -> &'static str {
        match self {
            Self::Read => "REPEATABLE READ",
            Self::Write | Self::Import | Self::Migrate => "READ COMMITTED",
        }
    }
}

/// What a write is, in the words of the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAction {
    /// A chart was opened.
    PatientRegistered,
    /// Demographics changed.
    PatientUpdated,
    /// A visit began.
    EncounterStarted,
    /// A visit ended.
    EncounterFinished,
    /// A visit did not happen.
    EncounterCancelled,
    /// A note was begun.
    NoteDrafted,
    /// A draft changed.
    NoteRevised,
    /// A draft was given up.
    NoteDiscarded,
    /// A draft became a signed note.
    NoteSigned,
}

impl AuditAction {
    /// As the audit log spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PatientRegistered => "patient.registered",
            Self::PatientUpdated => "patient.updated",
            Self::EncounterStarted => "encounter.started",
            Self::EncounterFinished => "encounter.finished",
            Self::EncounterCancelled => "encounter.cancelled",
            Self::NoteDrafted => "note.drafted",
            Self::NoteRevised => "note.revised",
            Self::NoteDiscarded => "note.discarded",
            Self::NoteSigned => "note.signed",
        }
    }
}

/// Who acts, in a tenant. The id is derived from the issuer's and its name for the person, so that it is known before any row is.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The staff row this person or client has, or will have.
    pub id: StaffId,
    /// Who vouches for the identity.
    pub issuer: String,
    /// The issuer's name for it.
    pub subject: String,
    /// For people to read.
    pub name: Option<String>,
    /// Whose request a client passes on.
    pub acting: Option<String>,
    /// Checked words only: `[a-z_]`.
    pub roles: Vec<String>,
}

impl Actor {
    /// A command run by someone at the machine: the operating system vouches for the name.
    pub fn command(tenant: TenantId, role: &str) -> Self {
        let subject =
            std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".into());
        let (issuer, roles) = ("cordon:command".to_owned(), vec![role.to_owned()]);
        Self { id: Self::id_of(tenant, &issuer, &subject), issuer, subject, name: None, acting: None, roles }
    }

    /// The id of `subject` at `issuer` in `tenant`: UUIDv8 over SHA-256.
    pub fn id_of(tenant: TenantId, issuer: &str, subject: &str) -> StaffId {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [b"cordon.staff.v1".as_slice(), tenant.0.as_bytes(), issuer.as_bytes(), subject.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let sum = context.finish();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(sum.as_ref()).for_each(|(to, from)| *to = *from);
        StaffId(Uuid::new_v8(bytes))
    }
}

/// What is signed for one transaction.
pub struct Ticket<'a> {
    /// The tenant, and the placement's generation as the guard knows it.
    pub tenant: TenantId,
    /// See `Placement::generation`.
    pub generation: i32,
    /// Who.
    pub actor: &'a Actor,
    /// Why.
    pub purpose: TxKind,
    /// For the audit log.
    pub request: RequestId,
    /// What a write is and where it comes from: the rows that its statements leave in the audit log say so.
    pub write: Option<(AuditAction, &'a ClientInfo)>,
}

impl Ticket<'_> {
    /// The statement that binds a transaction of backend `pid`, whose clock shows `now_ms`.
    pub fn bind(&self, key: &BindingKey, pid: i32, mark: Uuid, now_ms: i64) -> String {
        let ticket = self.text(key.kid, now_ms + GOOD_FOR_MS);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &key.key);
        let mac = hmac::sign(&secret, format!("ticket.{ticket}.{pid}").as_bytes());
        // On a backend that is marked as another session's there is no MAC, and the binding is refused.
        let mac = format!("CASE current_setting('cordon.session',true) WHEN '{mark}' THEN '{}' END", hex(mac.as_ref()));
        format!("SELECT cordon.bind('{ticket}',{mac})")
    }

    fn text(&self, kid: i32, expiry_ms: i64) -> String {
        let Self { tenant, generation, actor, purpose, request, write } = self;
        let who = (&actor.issuer, &actor.subject, &actor.name, &actor.acting);
        let who = match write {
            None => serde_json::to_vec(&who),
            Some((_, from)) => {
                serde_json::to_vec(&(who.0, who.1, who.2, who.3, from.ip, &from.user_agent, &from.trace_id))
            }
        };
        let who = hex(&who.unwrap_or_default());
        let event = write.map(|(event, _)| event.as_str().replace('.', "-")).unwrap_or_default();
        let roles: Vec<_> = actor.roles.iter().filter(|role| is_word(role)).map(String::as_str).collect();
        let (roles, purpose, id) = (roles.join(","), purpose.as_str(), actor.id);
        format!("v1.{kid}.{expiry_ms}.{generation}.{tenant}.{id}.{roles}.{purpose}.{request}.{who}.{event}")
    }
}

fn is_word(role: &str) -> bool {
    !role.is_empty() && role.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
