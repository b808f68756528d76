//! Tokens to principals. What a token says is believed only after its signature verified under a key of the issuer it names.
//! Why a token was refused is a debug line; neither the token nor what it claims is ever logged or answered.

mod claims;
pub mod dev;
mod jwks;

use crate::config;
use crate::error::{Error, Result};
use crate::ids::TenantId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use claims::{Object, Rules};
use jsonwebtoken::Algorithm;
use jwks::KeySet;
use std::sync::Arc;
use tracing::debug;

const LONGEST_TOKEN: usize = 8 * 1024;

/// Who calls, as its issuer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The issuer; `subject` is unique only together with it.
    pub issuer: String,
    /// `sub`, to the letter.
    pub subject: String,
    /// Display name.
    pub name: Option<String>,
    /// The tenants it may choose from.
    pub tenants: Vec<TenantId>,
    /// Its roles.
    pub roles: Vec<String>,
    /// `act.sub`: on whose behalf it acts.
    pub acting: Option<String>,
    /// When the token ends.
    pub expires_at: DateTime<Utc>,
}

/// Settings of `auth` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("auth: {0}")]
pub struct ConfigProblem(String);

/// Verifies tokens of the configured issuers. One per process, shared by all its threads.
pub struct Verifier {
    rules: Rules,
    issuers: Vec<Issuer>,
}

struct Issuer {
    name: String,
    algorithms: Vec<Algorithm>,
    allow_typ_jwt: bool,
    claims: config::ClaimNames,
    keys: Arc<KeySet>,
}

/// Why a token got no principal.
enum Refusal {
    Token(&'static str),
    KeysAway,
}

impl From<&'static str> for Refusal {
    fn from(reason: &'static str) -> Self {
        Self::Token(reason)
    }
}

impl Verifier {
    /// Checks the settings; fetches nothing yet.
    pub fn new(settings: &config::Auth) -> Result<Self, ConfigProblem> {
        if settings.audience.is_empty() {
            return Err(ConfigProblem("audience is empty".into()));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for entry in &settings.issuers {
            let problem = |what: &str| ConfigProblem(format!("issuer {}: {what}", entry.issuer));
            if entry.issuer.is_empty() || issuers.iter().any(|known| known.name == entry.issuer) {
                return Err(problem("needs a name of its own"));
            }
            let algorithms = entry
                .algorithms
                .iter()
                .map(|name| asymmetric(name).ok_or_else(|| problem("has an algorithm that is not accepted")));
            let algorithms = algorithms.collect::<Result<Vec<_>, _>>()?;
            if algorithms.is_empty() {
                return Err(problem("has no algorithms"));
            }
            let keys = Arc::new(KeySet::new(entry).map_err(problem)?);
            let (name, claims) = (entry.issuer.clone(), entry.claims.clone());
            issuers.push(Issuer { name, algorithms, allow_typ_jwt: entry.allow_typ_jwt, claims, keys });
        }
        let leeway =
            i64::try_from(settings.leeway_seconds).map_err(|_| ConfigProblem("leeway_seconds is too large".into()))?;
        let max_lifetime = i64::try_from(settings.max_lifetime_seconds)
            .map_err(|_| ConfigProblem("max_lifetime_seconds is too large".into()))?;
        Ok(Self { rules: Rules { audience: settings.audience.clone(), leeway, max_lifetime }, issuers })
    }

    /// The principal of a token (what follows `Bearer `). `Unauthenticated`, or `Unavailable` while the issuer's keys could never be had.
    pub async fn verify(&self, bearer: &str) -> Result<Principal> {
        self.check(bearer).await.map_err(|refusal| match refusal {
            Refusal::Token(reason) => {
                debug!(auth.reason = reason, "Token refused: {reason}");
                Error::Unauthenticated
            }
            Refusal::KeysAway => Error::Unavailable,
        })
    }

    async fn check(&self, bearer: &str) -> Result<Principal, Refusal> {
        if bearer.len() > LONGEST_TOKEN {
            return Err("too long".into());
        }
        let (message, _) = bearer.rsplit_once('.').ok_or("not three parts")?;
        let (header, claims) =
            message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or("not three parts")?;
        let header = decode(header).ok_or("header unreadable")?;
        let claims = decode(claims).ok_or("claims unreadable")?;

        // Not believed yet: `iss` only chooses whose rules and keys apply.
        let issuer = claims
            .text("iss")
            .and_then(|name| self.issuers.iter().find(|issuer| issuer.name == name))
            .ok_or("unknown issuer")?;
        let algorithm =
            header.text("alg").and_then(asymmetric).filter(|algorithm| issuer.algorithms.contains(algorithm));
        let algorithm = algorithm.ok_or("algorithm")?;
        if !issuer.accepts_type(header.text("typ").ok_or("no typ")?) {
            return Err("typ".into());
        }
        if header.has("crit") {
            return Err("crit".into());
        }
        let kid = header.text("kid").ok_or("no kid")?;

        let key = issuer.keys.find(kid, algorithm).await.map_err(|_| Refusal::KeysAway)?.ok_or("unknown key")?;
        if !key.signed(bearer, algorithm) {
            return Err("signature".into());
        }
        Ok(self.rules.principal(&issuer.name, &issuer.claims, &claims, Utc::now())?)
    }
}

impl Issuer {
    fn accepts_type(&self, typ: &str) -> bool {
        let is = |name: &str| typ.eq_ignore_ascii_case(name);
        is("at+jwt") || is("application/at+jwt") || (self.allow_typ_jwt && is("JWT"))
    }
}

/// The algorithms that can be accepted at all: a public key verifies, so no secret of ours could sign.
fn asymmetric(name: &str) -> Option<Algorithm> {
    name.parse().ok().filter(|algorithm: &Algorithm| algorithm.family() != jsonwebtoken::AlgorithmFamily::Hmac)
}

fn decode(part: &str) -> Option<Object> {
    Object::parse(&URL_SAFE_NO_PAD.decode(part).ok()?)
}

#[cfg(test)]
mod tests;
