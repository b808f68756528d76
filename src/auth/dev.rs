//! The development issuer: an ES256 key in a directory, made on demand, its public set beside it, and tokens for `cordon token` and tests.
//! The verifier knows nothing of it: it is accepted where, and only where, the settings name it like any other issuer.

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

/// `iss` of every development token; `serve` refuses settings that name it outside profile `dev`.
pub const ISSUER: &str = "urn:cordon:dev";

/// The development issuer of one directory.
pub struct DevIssuer {
    audience: String,
    key: EcdsaKeyPair,
    key_id: String,
    jwks: PathBuf,
}

/// What a development token says.
#[derive(Debug, Clone)]
pub struct Claims {
    /// `sub`
    pub subject: String,
    /// Display name.
    pub name: Option<String>,
    /// The tenants.
    pub tenants: Vec<TenantId>,
    /// The roles.
    pub roles: Vec<String>,
    /// `act.sub`
    pub acting: Option<String>,
    /// From now to `exp`.
    pub lifetime: Duration,
}

impl DevIssuer {
    /// Loads `dev-issuer.pem` of the directory, making it if need be, and writes its public set, `dev-jwks.json`. Blocking.
    pub fn open(directory: &Path, audience: &str) -> Result<Self> {
        let fault = |error: std::io::Error| Error::internal("The development issuer's files cannot be used", error);
        let (path, jwks) = (directory.join("dev-issuer.pem"), directory.join("dev-jwks.json"));
        let _lock = private_file::lock(&path).map_err(fault)?;
        if !path.exists() {
            private_file::replace(&path, fresh_pem()?.as_bytes()).map_err(fault)?;
        }
        let (_, pem) = private_file::read(&path).map_err(fault)?;
        let unusable = |error: &dyn fmt::Display| Error::internal("The development issuer's key is unusable", error);
        let der = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|error| unusable(&error))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der())
            .map_err(|error| unusable(&error))?;
        let (key_id, set) = public_set(&key).ok_or_else(|| unusable(&"not an uncompressed point"))?;
        private_file::replace(&jwks, set.to_string().as_bytes()).map_err(fault)?;
        Ok(Self { audience: audience.to_owned(), key, key_id, jwks })
    }

    /// Its entry in the settings.
    pub fn settings(&self) -> config::Issuer {
        config::Issuer {
            issuer: ISSUER.to_owned(),
            jwks_url: None,
            jwks_file: Some(self.jwks.clone()),
            algorithms: vec!["ES256".to_owned()],
            allow_typ_jwt: false,
            claims: config::ClaimNames::default(),
        }
    }

    /// Where its public set lies.
    pub fn jwks_path(&self) -> &Path {
        &self.jwks
    }

    /// `kid` of its key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// A token.
    pub fn mint(&self, claims: &Claims) -> Result<String> {
        let now = Utc::now();
        let mut body = json!({
            "iss": ISSUER, "aud": self.audience, "sub": claims.subject, "tenants": claims.tenants, "roles": claims.roles,
            "iat": now.timestamp(), "exp": (now + claims.lifetime).timestamp(),
        });
        let name = claims.name.iter().map(|name| ("name".to_owned(), json!(name)));
        let act = claims.acting.iter().map(|subject| ("act".to_owned(), json!({ "sub": subject })));
        if let Some(body) = body.as_object_mut() {
            body.extend(name.chain(act));
        }
        self.sign(&json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.key_id }).to_string(), &body.to_string())
    }

    /// Signs a header and claims as they are given, whether or not they make sense.
    pub fn sign(&self, header: &str, claims: &str) -> Result<String> {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .map_err(|error| Error::internal("Signing failed", error))?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn fresh_pem() -> Result<Zeroizing<String>> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let key = key.map_err(|error| Error::internal("A key cannot be made", error))?;
    let text = Zeroizing::new(STANDARD.encode(key.as_ref()));
    let mut pem = Zeroizing::new(String::with_capacity(text.len() + 128));
    pem.push_str("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// The id of the key (its RFC 7638 thumbprint) and the JWK set that holds it.
fn public_set(key: &EcdsaKeyPair) -> Option<(String, Value)> {
    let point = key.public_key().as_ref().strip_prefix(&[4])?;
    let (x, y) = point.split_at_checked(32)?;
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
    let set =
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id, "alg": "ES256", "use": "sig" }] });
    Some((id, set))
}
