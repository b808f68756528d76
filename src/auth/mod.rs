//! Authentication: verifies access tokens and turns them into principals. The claims of a token are trusted only after
//! its signature has been verified with a key of the issuer that it names. The reason why a token was refused is logged
//! at level `debug`; the token and its claims are never logged and never returned.

mod claims;
pub mod dev;
mod jwks;

use crate::config;
use crate::error::{Error, Result};
use crate::ids::TenantId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use claims::{ClaimRules, JsonObject};
use jsonwebtoken::Algorithm;
use jwks::KeySet;
use std::sync::Arc;
use tracing::debug;

const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The authenticated caller of a request, as its token describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The claim `iss`. `subject` is unique only together with it.
    pub issuer: String,
    /// The claim `sub`, unchanged. It has 1 to 255 characters, none of them a control character.
    pub subject: String,
    /// The display name, of 1 to 200 characters, if the token has one.
    pub name: Option<String>,
    /// The tenants that the principal may choose from, each once.
    pub tenants: Vec<TenantId>,
    /// The roles, each once. They hold for every tenant in `tenants`.
    pub roles: Vec<String>,
    /// The claim `act.sub` of a delegated token (RFC 8693), if it has one.
    pub acting: Option<String>,
    /// The time at which the token expires: the claim `exp`.
    pub expires_at: DateTime<Utc>,
}

/// Why the settings of `auth` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("auth: {0}")]
pub struct AuthConfigError(String);

/// Verifies tokens of the configured issuers. Each `App` has one, which all threads share.
pub struct Verifier {
    rules: ClaimRules,
    issuers: Vec<Issuer>,
}

struct Issuer {
    name: String,
    algorithms: Vec<Algorithm>,
    allow_typ_jwt: bool,
    claims: config::ClaimNames,
    keys: Arc<KeySet>,
}

/// Why a token was not accepted.
enum TokenError {
    /// The token is invalid, for this reason.
    Invalid(&'static str),
    /// The issuer's keys are not available, so the token cannot be checked.
    KeysUnavailable,
}

impl From<&'static str> for TokenError {
    fn from(reason: &'static str) -> Self {
        Self::Invalid(reason)
    }
}

impl Verifier {
    /// Checks the settings. Keys are not loaded before the first token arrives.
    ///
    /// # Errors Fails when the audience is empty, a number is too large, or an issuer has no unique name, no accepted
    /// algorithm or no single, trusted source of keys.
    pub fn new(settings: &config::Auth) -> Result<Self, AuthConfigError> {
        if settings.audience.is_empty() {
            return Err(AuthConfigError("audience is empty".into()));
        }
        let mut issuers: Vec<Issuer> = Vec::new();
        for entry in &settings.issuers {
            let problem = |what: &str| AuthConfigError(format!("issuer {}: {what}", entry.issuer));
            if entry.issuer.is_empty() || issuers.iter().any(|other| other.name == entry.issuer) {
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
        let leeway = i64::try_from(settings.leeway_seconds)
            .map_err(|_| AuthConfigError("leeway_seconds is too large".into()))?;
        let max_lifetime = i64::try_from(settings.max_lifetime_seconds)
            .map_err(|_| AuthConfigError("max_lifetime_seconds is too large".into()))?;
        Ok(Self { rules: ClaimRules { audience: settings.audience.clone(), leeway, max_lifetime }, issuers })
    }

    /// Verifies a token, which is the text after `Bearer `, and returns its principal.
    ///
    /// # Errors `Unauthenticated` when the token is invalid. `Unavailable` when the issuer's keys have never been
    /// loaded, or were last loaded too long ago.
    pub async fn verify(&self, token: &str) -> Result<Principal> {
        self.check(token).await.map_err(|error| match error {
            TokenError::Invalid(reason) => {
                debug!(auth.reason = reason, "Token refused: {reason}");
                Error::Unauthenticated
            }
            TokenError::KeysUnavailable => Error::Unavailable,
        })
    }

    async fn check(&self, token: &str) -> Result<Principal, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err("too long".into());
        }
        let (message, _) = token.rsplit_once('.').ok_or("not three parts")?;
        let (header, claims) =
            message.split_once('.').filter(|(_, claims)| !claims.contains('.')).ok_or("not three parts")?;
        let header = decode(header).ok_or("header unreadable")?;
        let claims = decode(claims).ok_or("claims unreadable")?;

        // The claims are not trusted yet: `iss` only selects the issuer whose settings and keys apply.
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

        let key =
            issuer.keys.find(kid, algorithm).await.map_err(|_| TokenError::KeysUnavailable)?.ok_or("unknown key")?;
        if !key.verifies(token, algorithm) {
            return Err("signature".into());
        }
        Ok(self.rules.principal(&issuer.name, &issuer.claims, &claims, Utc::now())?)
    }
}

impl Issuer {
    fn accepts_type(&self, typ: &str) -> bool {
        let typ_is = |name: &str| typ.eq_ignore_ascii_case(name);
        typ_is("at+jwt") || typ_is("application/at+jwt") || (self.allow_typ_jwt && typ_is("JWT"))
    }
}

/// Parses the name of an asymmetric algorithm. HMAC is never accepted: the verifier holds public keys only, and a
/// public key used as an HMAC secret would let anyone sign.
fn asymmetric(name: &str) -> Option<Algorithm> {
    name.parse().ok().filter(|algorithm: &Algorithm| algorithm.family() != jsonwebtoken::AlgorithmFamily::Hmac)
}

fn decode(part: &str) -> Option<JsonObject> {
    JsonObject::parse(&URL_SAFE_NO_PAD.decode(part).ok()?)
}

#[cfg(test)]
mod tests;
