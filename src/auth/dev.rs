//! The development issuer: signs tokens for `cordon dev`, `cordon token` and tests. Its directory holds an ES256 key,
//! which is created on first use, and the JWK set with the public key. The verifier has no special case for it: its
//! tokens are accepted only where the settings name it like any other issuer.

use crate::config;
use crate::crypto::private_file;
use crate::error::{Error, Result};
use crate::ids::TenantId;
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::Utc;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The claim `iss` of every development token. `serve` refuses settings that name it, except in profile `dev`.
pub const ISSUER: &str = "urn:cordon:dev";

/// The development issuer of one directory.
pub struct DevIssuer {
    audience: String,
    key: EcdsaKeyPair,
    key_id: String,
    jwks_path: PathBuf,
}

/// The claims of a development token. `mint` does not check them.
#[derive(Debug, Clone)]
pub struct Claims {
    /// The claim `sub`.
    pub subject: String,
    /// The claim `name`, left out if `None`.
    pub name: Option<String>,
    /// The claim `tenants`.
    pub tenants: Vec<TenantId>,
    /// The claim `roles`.
    pub roles: Vec<String>,
    /// The claim `act.sub`, left out if `None`.
    pub acting: Option<String>,
    /// The time from `iat`, which is now, to `exp`.
    pub lifetime: Duration,
}

impl DevIssuer {
    /// Loads the key `dev-issuer.pem` of the directory, or creates it, and writes the JWK set `dev-jwks.json`. Blocks
    /// the calling thread.
    ///
    /// # Errors
    /// `Internal` when the files cannot be read or written, or the key is not a P-256 key.
    pub fn open(directory: &Path, audience: &str) -> Result<Self> {
        let io_error = |error: std::io::Error| Error::internal("The development issuer's files cannot be used", error);
        let (path, jwks_path) = (directory.join("dev-issuer.pem"), directory.join("dev-jwks.json"));
        let _lock = private_file::lock(&path).map_err(io_error)?;
        if !path.exists() {
            private_file::replace(&path, generate_pem()?.as_bytes()).map_err(io_error)?;
        }
        let (_, pem) = private_file::read(&path).map_err(io_error)?;
        let unusable = |error: &dyn fmt::Display| Error::internal("The development issuer's key is unusable", error);
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| unusable(&error))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .map_err(|error| unusable(&error))?;
        let (key_id, jwk_set) = jwk_set(&key).ok_or_else(|| unusable(&"not an uncompressed point"))?;
        private_file::replace(&jwks_path, jwk_set.to_string().as_bytes()).map_err(io_error)?;
        Ok(Self { audience: audience.to_owned(), key, key_id, jwks_path })
    }

    /// Returns the entry of `auth.issuers` that accepts this issuer's tokens.
    pub fn settings(&self) -> config::Issuer {
        config::Issuer {
            issuer: ISSUER.to_owned(),
            jwks_url: None,
            jwks_file: Some(self.jwks_path.clone()),
            algorithms: vec!["ES256".to_owned()],
            allow_typ_jwt: false,
            claims: config::ClaimNames::default(),
        }
    }

    /// Returns the path of the JWK set.
    pub fn jwks_path(&self) -> &Path {
        &self.jwks_path
    }

    /// Returns the `kid` of the key, which is its RFC 7638 thumbprint.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs a token with these claims. It is valid from now on.
    ///
    /// # Errors
    /// `Internal` when signing fails.
    pub fn mint(&self, claims: &Claims) -> Result<String> {
        let now = Utc::now();
        let mut body = json!({
            "iss": ISSUER, "aud": self.audience, "sub": claims.subject,
            "tenants": claims.tenants, "roles": claims.roles,
            "iat": now.timestamp(), "exp": (now + claims.lifetime).timestamp(),
        });
        let name = claims.name.iter().map(|name| ("name".to_owned(), json!(name)));
        let act = claims.acting.iter().map(|subject| ("act".to_owned(), json!({ "sub": subject })));
        if let Some(body) = body.as_object_mut() {
            body.extend(name.chain(act));
        }
        self.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.key_id }).to_string(), &body.to_string())
    }

    /// Signs a header and claims exactly as given. Neither has to be valid.
    ///
    /// # Errors
    /// `Internal` when signing fails.
    pub fn sign(&self, header: &str, claims: &str) -> Result<String> {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|error| Error::internal("Signing failed", error))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn generate_pem() -> Result<Zeroizing<String>> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let key = key.map_err(|error| Error::internal("A key cannot be generated", error))?;
    let text = Zeroizing::new(STANDARD.encode(key.as_ref()));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + 128));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// Returns the id of the key, which is its RFC 7638 thumbprint, and the JWK set that contains it.
fn jwk_set(key: &EcdsaKeyPair) -> Option<(String, Value)> {
    let point = key.public_key().as_ref().strip_prefix(&[4])?;
    let (x, y) = point.split_at_checked(32)?;
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let set =
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id, "alg": "ES256", "use": "sig" }] });
    Some((id, set))
}
