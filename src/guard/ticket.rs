//! Tickets: what the guard tells the database about a transaction, signed with a key that only the server and the
//! database have. Every part consists of characters that need no quoting; text that people typed is written as hex.

use crate::audit::{AuditAction, ClientInfo, hex};
use crate::ids::{RequestId, StaffId, TenantId};
use crate::tenant::keys::BindingKey;
use aws_lc_rs::{digest, hmac};
use uuid::Uuid;

/// Validity of a ticket on the database's clock, in milliseconds. The database accepts ten seconds at most.
const TICKET_LIFETIME_MS: i64 = 8_000;

/// Why a transaction runs; the ticket's `purpose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxKind {
    /// Answers a query and writes no chart data.
    Read,
    /// Changes a chart for a request.
    Write,
    /// Imports records of another system.
    Import,
    /// A data step of a migration, in a session of `cordon_keeper` only.
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

    /// Returns the isolation level. A write sees a change of the fence only where each statement takes its own
    /// snapshot.
    pub(super) fn isolation(self) -> &'static str {
        match self {
            Self::Read => "REPEATABLE READ",
            Self::Write | Self::Import | Self::Migrate => "READ COMMITTED",
        }
    }
}

/// The person or client that acts in a tenant. The id is derived from the tenant, the issuer and the subject, so that
/// it is known before a row exists.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The id of the staff row, which the first write creates.
    pub id: StaffId,
    /// The issuer of the token: who vouches for the identity.
    pub issuer: String,
    /// The issuer's identifier of the person or client.
    pub subject: String,
    /// The name to show to people, where the issuer sends one.
    pub name: Option<String>,
    /// The subject on whose behalf a client calls (`act.sub` of the token).
    pub acting: Option<String>,
    /// Names of roles. Only those of the form `[a-z_]+` enter the ticket.
    pub roles: Vec<String>,
}

impl Actor {
    /// Returns the actor of a command: the user of the operating system, with one role.
    pub fn command(tenant: TenantId, role: &str) -> Self {
        let subject =
            std::env::var("SUDO_USER").or_else(|_| std::env::var("USER")).unwrap_or_else(|_| "unknown".into());
        let (issuer, roles) = ("cordon:command".to_owned(), vec![role.to_owned()]);
        Self { id: Self::id_of(tenant, &issuer, &subject), issuer, subject, name: None, acting: None, roles }
    }

    /// Returns the id of `subject` at `issuer` in `tenant`: a UUIDv8 over SHA-256.
    pub fn id_of(tenant: TenantId, issuer: &str, subject: &str) -> StaffId {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [b"cordon.staff.v1".as_slice(), tenant.0.as_bytes(), issuer.as_bytes(), subject.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let hash = context.finish();
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
        StaffId(Uuid::new_v8(bytes))
    }
}

/// What is signed for one transaction.
pub(super) struct Ticket<'a> {
    pub tenant: TenantId,
    /// The generation of the placement that the guard knows. The database refuses any but the current one.
    pub generation: i32,
    pub actor: &'a Actor,
    pub kind: TxKind,
    pub request: RequestId,
    pub write: Option<WriteInfo<'a>>,
}

/// What the audit rows of a write say about it: triggers take it from the ticket.
pub(super) struct WriteInfo<'a> {
    pub action: AuditAction,
    pub client: &'a ClientInfo,
}

impl Ticket<'_> {
    /// Returns the statement that binds a transaction of the backend `pid`, whose clock shows `now_ms`. `number` is the
    /// next number of the backend's bindings: the statement succeeds once at most.
    pub fn bind(&self, key: &BindingKey, pid: i32, number: i64, now_ms: i64) -> String {
        let (kid, generation, expiry_ms, claims) =
            (key.kid, self.generation, now_ms + TICKET_LIFETIME_MS, self.claims());
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &key.key);
        let signed = format!("bind.v2.{pid}.{number}.{expiry_ms}.{generation}.{claims}");
        let mac = hex(hmac::sign(&secret, signed.as_bytes()).as_ref());
        format!("SELECT cordon.bind({kid},{number},{expiry_ms},{generation},'{claims}','{mac}')")
    }

    fn claims(&self) -> String {
        let Self { tenant, actor, kind, request, write, .. } = self;
        let Actor { id, issuer, subject, name, acting, .. } = actor;
        let identity = match write {
            None => serde_json::to_vec(&(issuer, subject, name, acting)),
            Some(WriteInfo { client: ClientInfo { ip, user_agent, trace_id }, .. }) => {
                serde_json::to_vec(&(issuer, subject, name, acting, ip, user_agent, trace_id))
            }
        };
        let identity = hex(&identity.unwrap_or_default());
        let action = write.as_ref().map(|write| write.action.as_str().replace('.', " ")).unwrap_or_default();
        let roles: Vec<_> = actor.roles.iter().filter(|role| is_word(role)).map(String::as_str).collect();
        let (roles, purpose) = (roles.join(" "), kind.as_str());
        let (tenant, id, request) = (tenant.0.simple(), id.0.simple(), request.0.simple());
        format!("{tenant},{id},{roles},{purpose},{request},{identity},{action}")
    }
}

fn is_word(role: &str) -> bool {
    !role.is_empty() && role.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
