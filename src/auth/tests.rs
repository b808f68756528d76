//! Tests of the verifier: valid tokens are accepted, and every forged or malformed one is refused with
//! `Unauthenticated` and no reason.

use super::dev::{Claims, DevIssuer, ISSUER};
use super::*;
use jsonwebtoken::crypto;
use serde_json::{Value, json};
use std::time::Duration;

struct Fixture {
    _dir: tempfile::TempDir,
    issuer: DevIssuer,
    verifier: Verifier,
    tenant: TenantId,
}

fn auth(issuers: Vec<config::Issuer>) -> config::Auth {
    config::Auth { audience: "cordon".into(), leeway_seconds: 30, max_lifetime_seconds: 43200, issuers }
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let issuer = DevIssuer::open(dir.path(), "cordon").unwrap();
    let verifier = Verifier::new(&auth(vec![issuer.settings()])).unwrap();
    Fixture { _dir: dir, issuer, verifier, tenant: TenantId::new() }
}

impl Fixture {
    fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": "at+jwt", "kid": self.issuer.key_id() })
    }

    fn claims(&self) -> Value {
        let now = Utc::now().timestamp();
        json!({
            "iss": ISSUER, "aud": "cordon", "sub": "ada", "iat": now, "exp": now + 600,
            "tenants": [self.tenant], "roles": ["clinician"],
        })
    }

    /// Verifies a token whose claims have this change.
    async fn with_claims(&self, change: Value) -> Result<Principal> {
        self.verifier
            .verify(&self.issuer.sign(&self.header().to_string(), &merged(self.claims(), change).to_string()).unwrap())
            .await
    }

    /// Verifies a token whose header has this change.
    async fn with_header(&self, change: Value) -> Result<Principal> {
        self.verifier
            .verify(&self.issuer.sign(&merged(self.header(), change).to_string(), &self.claims().to_string()).unwrap())
            .await
    }

    /// Verifies a token whose claims end with more JSON text, which may be such that no `Value` can hold it.
    async fn with_text(&self, more: &str) -> Result<Principal> {
        let claims = self.claims().to_string();
        let claims = format!("{},{more}}}", claims.strip_suffix('}').unwrap());
        self.verifier.verify(&self.issuer.sign(&self.header().to_string(), &claims).unwrap()).await
    }
}

/// Returns `base` with the members of `change`. A `null` removes a member.
fn merged(mut base: Value, change: Value) -> Value {
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(base.as_object_mut().unwrap().remove(name)),
            value => base[name] = value.clone(),
        }
    }
    base
}

#[tokio::test]
async fn a_valid_token_yields_its_principal() {
    let fixture = fixture();
    let claims = Claims {
        subject: r#"o"brien\'; drop"#.into(),
        name: Some("Ada O'Brien".into()),
        tenants: vec![fixture.tenant, TenantId::new()],
        roles: vec!["clinician".into(), "records".into()],
        acting: Some("grace".into()),
        lifetime: Duration::from_secs(43200),
    };
    let principal = fixture.verifier.verify(&fixture.issuer.mint(&claims).unwrap()).await.unwrap();
    assert_eq!((&principal.subject, &principal.name), (&claims.subject, &claims.name));
    assert_eq!((&principal.tenants, &principal.roles), (&claims.tenants, &claims.roles));
    assert_eq!((principal.issuer.as_str(), principal.acting), (ISSUER, claims.acting));
    assert!(principal.expires_at > Utc::now() + Duration::from_secs(43190));
    assert!(
        fixture.with_claims(json!({ "aud": ["other", "cordon"], "nbf": Utc::now().timestamp() + 20 })).await.is_ok()
    );
    assert!(
        fixture
            .with_header(json!({ "typ": "application/at+jwt", "jku": "https://evil.example", "jwk": {} }))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn forged_headers_are_refused() {
    let fixture = fixture();
    assert!(fixture.with_header(json!({})).await.is_ok());
    for change in [
        json!({ "alg": "none" }),
        json!({ "alg": "ES384" }),
        json!({ "alg": "es256" }),
        json!({ "alg": null }),
        json!({ "alg": ["ES256"] }),
        json!({ "kid": "other" }),
        json!({ "kid": null }),
        json!({ "typ": null }),
        json!({ "typ": "JWT" }),
        json!({ "typ": "id+jwt" }),
        json!({ "crit": ["exp"], "exp": 1 }),
        json!({ "crit": [] }),
    ] {
        assert_eq!(fixture.with_header(change.clone()).await, Err(Error::Unauthenticated), "{change}");
    }
    let mut lenient = fixture.issuer.settings();
    lenient.allow_typ_jwt = true;
    let token = fixture
        .issuer
        .sign(&merged(fixture.header(), json!({ "typ": "JWT" })).to_string(), &fixture.claims().to_string())
        .unwrap();
    assert!(Verifier::new(&auth(vec![lenient])).unwrap().verify(&token).await.is_ok());
}

#[tokio::test]
async fn forged_signatures_are_refused() {
    let fixture = fixture();
    let token = fixture.issuer.sign(&fixture.header().to_string(), &fixture.claims().to_string()).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    // From now on the signature of this token is remembered as verified. No other token may profit from that.
    assert_eq!(fixture.verifier.verify(&token).await, fixture.verifier.verify(&token).await);
    assert!(fixture.verifier.verify(&token).await.is_ok());

    // One token is signed by HMAC with the public JWK set as its secret, others claim to need no signature.
    let set = std::fs::read(fixture.issuer.jwks_path()).unwrap();
    let hmac_header = URL_SAFE_NO_PAD.encode(merged(fixture.header(), json!({ "alg": "HS256" })).to_string());
    let hmac_message = format!("{hmac_header}.{claims}");
    let hmac =
        crypto::sign(hmac_message.as_bytes(), &jsonwebtoken::EncodingKey::from_secret(&set), Algorithm::HS256).unwrap();
    let none_header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);

    // Another issuer's key signs with our key id.
    let other_dir = tempfile::tempdir().unwrap();
    let other_issuer = DevIssuer::open(other_dir.path(), "cordon").unwrap();
    let swapped = URL_SAFE_NO_PAD.encode(merged(fixture.claims(), json!({ "sub": "eve" })).to_string());
    for forged in [
        format!("{hmac_message}.{hmac}"),
        format!("{none_header}.{claims}."),
        format!("{none_header}.{claims}.{signature}"),
        other_issuer.sign(&fixture.header().to_string(), &fixture.claims().to_string()).unwrap(),
        format!("{header}.{swapped}.{signature}"),
        format!("{message}."),
        format!("{message}.{signature}="),
        format!("{message}.{signature}.{signature}"),
        format!("{message}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        message.to_owned(),
        String::new(),
        "..".to_owned(),
        format!(" {token}"),
    ] {
        assert_eq!(fixture.verifier.verify(&forged).await, Err(Error::Unauthenticated), "{forged}");
    }
}

#[tokio::test]
async fn a_remembered_signature_does_not_extend_a_token() {
    let fixture = fixture();
    let short_lived = merged(fixture.claims(), json!({ "exp": Utc::now().timestamp() + 2 }));
    let token = fixture.issuer.sign(&fixture.header().to_string(), &short_lived.to_string()).unwrap();
    assert!(fixture.verifier.verify(&token).await.is_ok());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(fixture.verifier.verify(&token).await, Err(Error::Unauthenticated));
}

#[tokio::test]
async fn claims_that_break_a_rule_are_refused() {
    let fixture = fixture();
    let now = Utc::now().timestamp();
    let (id, long) = (fixture.tenant.to_string(), "x".repeat(256));
    for change in [
        json!({ "iss": "urn:cordon:dev/" }),
        json!({ "iss": null }),
        json!({ "aud": "cordon2" }),
        json!({ "aud": ["cordon", 7] }),
        json!({ "aud": null }),
        json!({ "exp": now }),
        json!({ "exp": now + 13 * 3600 }),
        json!({ "exp": 1e300 }),
        json!({ "exp": (now + 600).to_string() }),
        json!({ "exp": null }),
        json!({ "nbf": now + 60 }),
        json!({ "nbf": "now" }),
        json!({ "iat": now + 60 }),
        json!({ "sub": null }),
        json!({ "sub": "" }),
        json!({ "sub": 7 }),
        json!({ "sub": long }),
        json!({ "sub": "a\u{0}b" }),
        json!({ "sub": "a\nb" }),
        json!({ "name": "x".repeat(201) }),
        json!({ "name": "a\u{7}" }),
        json!({ "act": "grace" }),
        json!({ "act": { "sub": "" } }),
        json!({ "tenants": null }),
        json!({ "tenants": id }),
        json!({ "tenants": { "0": id } }),
        json!({ "tenants": [id.to_uppercase()] }),
        json!({ "tenants": [id.replace('-', "")] }),
        json!({ "tenants": [format!("{{{id}}}")] }),
        json!({ "tenants": [id, 7] }),
        json!({ "tenants": [format!("{id} ")] }),
        json!({ "roles": null }),
        json!({ "roles": "clinician" }),
        json!({ "roles": ["Clinician"] }),
        json!({ "roles": ["_x"] }),
        json!({ "roles": [""] }),
        json!({ "roles": ["x".repeat(33)] }),
        json!({ "roles": vec!["nurse"; 17] }),
    ] {
        assert_eq!(fixture.with_claims(change.clone()).await, Err(Error::Unauthenticated), "{change}");
    }
    assert!(fixture.with_claims(json!({ "name": "x".repeat(200), "sub": "x".repeat(255) })).await.is_ok());
}

/// Names that other systems give to a tenant with access to everything, or to a default one, are not tenant ids.
#[tokio::test]
async fn l21_tenants_are_named_by_id_only() {
    let fixture = fixture();
    for name in [
        "__system__",
        "system",
        "default",
        "public",
        "DEFAULT",
        "pg_catalog",
        "shared",
        "*",
        "",
        "null",
        "riverside",
        "ｒiverside",
    ] {
        assert_eq!(fixture.with_claims(json!({ "tenants": [name] })).await, Err(Error::Unauthenticated), "{name}");
        assert_eq!(
            fixture.with_claims(json!({ "tenants": [fixture.tenant, name] })).await,
            Err(Error::Unauthenticated),
            "{name}"
        );
    }
}

#[tokio::test]
async fn json_that_parsers_read_differently_is_refused() {
    let fixture = fixture();
    assert!(fixture.with_text(r#""x":{"a":1,"b":[1.5,null,true]}"#).await.is_ok());
    for more in [
        r#""tenants":[]"#,
        r#""sub":"eve""#,
        r#""s\u0075b":"eve""#,
        r#""exp":9999999999"#,
        r#""x":{"a":1,"a":2}"#,
        r#""x":"\ud800""#,
        r#""x":"\u0"#,
        r#""x":1e999"#,
    ] {
        assert_eq!(fixture.with_text(more).await, Err(Error::Unauthenticated), "{more}");
    }
    let claims = fixture.claims().to_string().replace("\"ada\"", "\"a\\ud800da\"");
    assert_eq!(
        fixture.verifier.verify(&fixture.issuer.sign(&fixture.header().to_string(), &claims).unwrap()).await,
        Err(Error::Unauthenticated)
    );
    assert_eq!(
        fixture.with_text(&format!(r#""x":"{}""#, "x".repeat(8192))).await,
        Err(Error::Unauthenticated),
        "oversize"
    );
    let repeated_alg = fixture.header().to_string().replacen('{', r#"{"alg":"none","#, 1);
    assert_eq!(
        fixture.verifier.verify(&fixture.issuer.sign(&repeated_alg, &fixture.claims().to_string()).unwrap()).await,
        Err(Error::Unauthenticated)
    );
}

#[tokio::test]
async fn a_key_file_may_be_missing_and_may_change() {
    let fixture = fixture();
    let token = fixture.issuer.sign(&fixture.header().to_string(), &fixture.claims().to_string()).unwrap();
    let set = std::fs::read(fixture.issuer.jwks_path()).unwrap();
    std::fs::remove_file(fixture.issuer.jwks_path()).unwrap();
    assert_eq!(fixture.verifier.verify(&token).await, Err(Error::Unavailable));
    std::fs::write(fixture.issuer.jwks_path(), &set).unwrap();
    assert!(fixture.verifier.verify(&token).await.is_ok());
    std::fs::write(fixture.issuer.jwks_path(), "half").unwrap();
    assert!(fixture.verifier.verify(&token).await.is_ok(), "the last valid set stays in use");
    std::fs::write(fixture.issuer.jwks_path(), r#"{"keys":[]}"#).unwrap();
    assert_eq!(fixture.verifier.verify(&token).await, Err(Error::Unauthenticated), "the key was withdrawn");
}

#[test]
fn settings_that_would_weaken_verification_are_refused() {
    let fixture = fixture();
    let with = |change: fn(&mut config::Issuer)| {
        let mut entry = fixture.issuer.settings();
        change(&mut entry);
        Verifier::new(&auth(vec![entry])).err().map(|problem| problem.to_string())
    };
    assert_eq!(with(|_| ()), None);
    assert!(with(|entry| entry.algorithms = vec!["HS256".into()]).is_some());
    assert!(with(|entry| entry.algorithms = vec!["ES256".into(), "none".into()]).is_some());
    assert!(with(|entry| entry.algorithms.clear()).is_some());
    assert!(with(|entry| entry.jwks_file = None).is_some());
    assert!(with(|entry| entry.jwks_url = Some("https://login.example/jwks".into())).is_some());
    assert!(Verifier::new(&auth(vec![fixture.issuer.settings(), fixture.issuer.settings()])).is_err());
}
