//! The public keys of an issuer, loaded from a file or a URL. The last valid set stays in use when a later one cannot
//! be loaded. A URL is fetched by one task at a time and at most every ten seconds, however many unknown key ids
//! arrive, and a set that was fetched more than a day ago is not used. The HTTP client has a timeout, follows no
//! redirects and limits the size of responses.

use crate::config;
use crate::crypto::private_file::FileStamp;
use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use parking_lot::RwLock;
use reqwest::{Client, Url};
use serde::Deserialize;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tracing::{info, warn};

const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
const MAX_RESPONSE_BYTES: usize = 256 * 1024;
/// The most tokens whose verified signature is remembered for one key.
const MAX_VERIFIED_TOKENS: usize = 10_000;
/// The least time between the starts of two fetches, successful or not.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// A set of this age is fetched again in the background, when a key in it is used.
const REFRESH_AGE: Duration = Duration::from_secs(300);
/// A set of this age that came from a URL is not used.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The issuer's keys were never loaded, or were fetched too long ago.
#[derive(Debug)]
pub(super) struct KeysUnavailable;

pub(super) struct KeySet {
    issuer: String,
    source: Source,
    min_fetch_interval: Duration,
    current: RwLock<Option<LoadedKeys>>,
    /// The last attempt to load the set, successful or not. The lock is held while loading.
    last_attempt: Mutex<Option<LoadAttempt>>,
}

enum Source {
    File(PathBuf),
    Url(Client, Url),
}

#[derive(Clone)]
struct LoadedKeys {
    keys: Arc<[Key]>,
    loaded_at: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum LoadAttempt {
    /// The stamp of the file, or `None` when there was no file.
    File(Option<FileStamp>),
    /// The start of the fetch.
    Url(Instant),
}

struct Key {
    id: String,
    algorithms: Vec<Algorithm>,
    key: Arc<VerifyKey>,
}

/// A public key, and the tokens whose signature it has verified. They are remembered because clients send the same
/// token with many requests, and the check of its signature costs more than all other checks. They are dropped with the
/// key when the issuer's set changes. Only the signature is remembered: the claims of a token are checked each time.
pub(super) struct VerifyKey {
    key: DecodingKey,
    /// The SHA-256 digests of whole tokens.
    verified: parking_lot::Mutex<HashSet<[u8; 32]>>,
}

impl VerifyKey {
    fn new(key: DecodingKey) -> Self {
        Self { key, verified: parking_lot::Mutex::default() }
    }

    /// Tells whether the token, with `algorithm`, is signed by the private key that belongs to this public key.
    pub(super) fn verifies(&self, token: &str, algorithm: Algorithm) -> bool {
        let Ok(digest) = digest(&SHA256, token.as_bytes()).as_ref().try_into() else { return false };
        if self.verified.lock().contains(&digest) {
            return true;
        }
        let Some((message, signature)) = token.rsplit_once('.') else { return false };
        let valid = crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false);
        if valid {
            let mut verified = self.verified.lock();
            // All are dropped at once: tokens expire anyway, and those of active clients are soon added again.
            if verified.len() >= MAX_VERIFIED_TOKENS {
                verified.clear();
            }
            verified.insert(digest);
        }
        valid
    }
}

impl KeySet {
    /// Checks the settings of an issuer. Nothing is loaded before `find`.
    pub(super) fn new(issuer: &config::Issuer) -> Result<Self, &'static str> {
        let source = match (&issuer.jwks_file, &issuer.jwks_url) {
            (Some(path), None) => Source::File(path.clone()),
            (None, Some(url)) => Source::Url(http_client()?, trusted_url(url)?),
            _ => return Err("needs either jwks_file or jwks_url"),
        };
        Ok(Self {
            issuer: issuer.issuer.clone(),
            source,
            min_fetch_interval: MIN_FETCH_INTERVAL,
            current: RwLock::default(),
            last_attempt: Mutex::default(),
        })
    }

    /// Returns the key with this id, if there is one and it can verify signatures of this algorithm. Loads the set when
    /// it is due.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: &str,
        algorithm: Algorithm,
    ) -> Result<Option<Arc<VerifyKey>>, KeysUnavailable> {
        if let Source::File(path) = &self.source {
            self.reload_file(path).await;
            return self.usable().map(|loaded| loaded.find(id, algorithm)).ok_or(KeysUnavailable);
        }
        if let Some(loaded) = self.usable()
            && let Some(key) = loaded.find(id, algorithm)
        {
            // No request waits for the refresh of keys that can be used. When another task holds the lock, it is
            // fetching already.
            if loaded.loaded_at.elapsed() > REFRESH_AGE
                && self.last_attempt.try_lock().is_ok_and(|last| self.fetch_is_due(*last))
            {
                tokio::spawn(self.clone().fetch());
            }
            return Ok(Some(key));
        }
        // The fetch runs in its own task, so that it completes for other waiting requests when this request is
        // cancelled.
        let _ = tokio::spawn(self.clone().fetch()).await;
        self.usable().map(|loaded| loaded.find(id, algorithm)).ok_or(KeysUnavailable)
    }

    /// Returns the last valid set, if it may still be used. A set from a file does not age.
    fn usable(&self) -> Option<LoadedKeys> {
        let loaded = self.current.read().clone();
        loaded.filter(|loaded| matches!(self.source, Source::File(_)) || loaded.loaded_at.elapsed() < MAX_AGE)
    }

    /// Reads the file if it has changed since the last attempt.
    async fn reload_file(&self, path: &PathBuf) {
        let mut last = self.last_attempt.lock().await;
        let stamp = tokio::fs::metadata(path).await.ok().map(|metadata| FileStamp::from(&metadata));
        if *last != Some(LoadAttempt::File(stamp)) {
            self.install(tokio::fs::read(path).await.map_err(|error| error.to_string()));
            *last = Some(LoadAttempt::File(stamp));
        }
    }

    /// Fetches the URL, unless the last fetch started less than `min_fetch_interval` ago.
    async fn fetch(self: Arc<Self>) {
        let Source::Url(client, url) = &self.source else { return };
        let mut last = self.last_attempt.lock().await;
        if self.fetch_is_due(*last) {
            *last = Some(LoadAttempt::Url(Instant::now()));
            self.install(get(client, url).await);
        }
    }

    fn fetch_is_due(&self, last: Option<LoadAttempt>) -> bool {
        !matches!(last, Some(LoadAttempt::Url(started)) if started.elapsed() < self.min_fetch_interval)
    }

    /// Uses the set that was loaded from now on. When it could not be loaded or is invalid, logs that and keeps the
    /// current one.
    fn install(&self, content: Result<Vec<u8>, String>) {
        match content.and_then(|content| parse(&content)) {
            Ok(keys) => {
                info!(auth.issuer = self.issuer, keys = keys.len(), "Loaded the issuer's keys");
                *self.current.write() = Some(LoadedKeys { keys, loaded_at: Instant::now() });
            }
            Err(error) => warn!(auth.issuer = self.issuer, error, "The issuer's keys cannot be loaded"),
        }
    }
}

impl LoadedKeys {
    fn find(&self, id: &str, algorithm: Algorithm) -> Option<Arc<VerifyKey>> {
        self.keys.iter().find(|key| key.id == id && key.algorithms.contains(&algorithm)).map(|key| key.key.clone())
    }
}

fn http_client() -> Result<Client, &'static str> {
    // No idle connections are kept: each would belong to the runtime of the worker thread that opened it.
    let client = Client::builder()
        .timeout(FETCH_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .build();
    client.map_err(|_| "needs an HTTP client, which cannot be created")
}

/// Parses a URL. It must be HTTPS or point to this machine, because anyone who can change the response can forge
/// tokens.
fn trusted_url(url: &str) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "has a jwks_url that is not a URL")?;
    let is_local = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    if url.scheme() == "https" || (url.scheme() == "http" && is_local) {
        Ok(url)
    } else {
        Err("has a jwks_url that is not https")
    }
}

async fn get(client: &Client, url: &Url) -> Result<Vec<u8>, String> {
    let mut response = client.get(url.clone()).send().await.map_err(|error| error.without_url().to_string())?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("the response has status {}", response.status()));
    }
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
        if content.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err("the response is too large".into());
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

/// Parses a JWK set and returns the keys that can verify tokens. Other keys in it are ignored.
fn parse(content: &[u8]) -> Result<Arc<[Key]>, String> {
    #[derive(Deserialize)]
    struct JwkSet {
        keys: Vec<serde_json::Value>,
    }
    let set: JwkSet = serde_json::from_slice(content).map_err(|_| "not a JWK set")?;
    let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.into_key());
    Ok(keys.collect())
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    /// Returns the key, unless it is of a type that is not supported or must not verify signatures.
    fn into_key(self) -> Option<Key> {
        let may_verify = self.usage.is_none_or(|usage| usage == "sig")
            && self.key_ops.is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let (mut algorithms, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("EC", Some("P-256")) => (vec![Algorithm::ES256], DecodingKey::from_ec_components(&self.x?, &self.y?)),
            ("EC", Some("P-384")) => (vec![Algorithm::ES384], DecodingKey::from_ec_components(&self.x?, &self.y?)),
            ("OKP", Some("Ed25519")) => (vec![Algorithm::EdDSA], DecodingKey::from_ed_components(&self.x?)),
            ("RSA", _) => (
                jsonwebtoken::AlgorithmFamily::Rsa.algorithms().to_vec(),
                DecodingKey::from_rsa_components(&self.n?, &self.e?),
            ),
            _ => return None,
        };
        if let Some(only) = self.alg {
            algorithms.retain(|algorithm| only.parse().ok() == Some(*algorithm));
        }
        (may_verify && !algorithms.is_empty()).then_some(Key {
            id: self.kid,
            algorithms,
            key: Arc::new(VerifyKey::new(key.ok()?)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::dev::DevIssuer;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Starts a JWKS server that counts its requests. It responds with `body`, or with status 500 while `body` is
    /// `None`.
    async fn serve(body: Arc<RwLock<Option<Vec<u8>>>>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = fetches.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                let body = body.read().clone();
                let status = if body.is_some() { "200 OK" } else { "500 Internal Server Error" };
                let body = body.unwrap_or_default();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            }
        });
        (url, fetches)
    }

    fn key_set(url: &str, min_fetch_interval: Duration) -> Arc<KeySet> {
        let source = Source::Url(http_client().unwrap(), trusted_url(url).unwrap());
        let (current, last_attempt) = (RwLock::default(), Mutex::default());
        Arc::new(KeySet { issuer: "test".into(), source, min_fetch_interval, current, last_attempt })
    }

    /// Looks a key up a hundred times at once and returns whether each look-up found it.
    async fn find_concurrently(keys: &Arc<KeySet>, id: &str) -> Vec<bool> {
        let lookups = (0..100).map(|_| {
            let (keys, id) = (keys.clone(), id.to_owned());
            tokio::spawn(async move { keys.find(&id, Algorithm::ES256).await.map(|key| key.is_some()).unwrap() })
        });
        futures_util::future::join_all(lookups.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_unknown_key_ids_cause_one_fetch() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open(dir.path(), "cordon").unwrap();
        let set = std::fs::read(issuer.jwks_path()).unwrap();
        let (url, fetches) = serve(Arc::new(RwLock::new(Some(set)))).await;
        let keys = key_set(&url, MIN_FETCH_INTERVAL);
        assert!(find_concurrently(&keys, "unknown").await.iter().all(|found| !found));
        assert!(find_concurrently(&keys, issuer.key_id()).await.iter().all(|found| *found));
        assert!(keys.find(issuer.key_id(), Algorithm::RS256).await.unwrap().is_none());
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn keys_load_once_the_url_responds_and_stay_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open(dir.path(), "cordon").unwrap();
        let body = Arc::new(RwLock::new(None));
        let (url, fetches) = serve(body.clone()).await;
        let keys = key_set(&url, Duration::ZERO);
        let find = async || keys.find(issuer.key_id(), Algorithm::ES256).await.map(|key| key.is_some()).ok();
        assert_eq!(find().await, None);
        *body.write() = Some(std::fs::read(issuer.jwks_path()).unwrap());
        assert_eq!(find().await, Some(true));
        for bad in [None, Some(b"<html>".to_vec()), Some(vec![b' '; MAX_RESPONSE_BYTES + 1])] {
            *body.write() = bad;
            assert!(keys.find("rotated", Algorithm::ES256).await.unwrap().is_none());
            assert_eq!(find().await, Some(true));
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 5);
    }

    #[test]
    fn only_keys_that_can_verify_tokens_are_accepted() {
        let ec = concat!(
            r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","#,
            r#""y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#,
        );
        let count = |entry: String| parse(format!("{{\"keys\":[{entry}]}}").as_bytes()).unwrap().len();
        assert_eq!(count(format!("{{\"kid\":\"a\",{ec}}}, {{\"kty\":\"new\"}}, 7")), 1);
        assert_eq!(
            count(format!("{{\"kid\":\"a\",\"alg\":\"ES256\",\"use\":\"sig\",\"key_ops\":[\"verify\"],{ec}}}")),
            1
        );
        for wrong in ["\"alg\":\"ES384\"", "\"alg\":\"HS256\"", "\"use\":\"enc\"", "\"key_ops\":[\"sign\"]"] {
            assert_eq!(count(format!("{{\"kid\":\"a\",{wrong},{ec}}}")), 0, "{wrong}");
        }
        assert_eq!(count(format!("{{{ec}}}")), 0, "no kid");
        assert_eq!(count(r#"{"kid":"a","kty":"oct","k":"c2VjcmV0"}"#.into()), 0);
        assert!(trusted_url("http://login.example/jwks").is_err());
        assert!(trusted_url("file:///etc/passwd").is_err());
    }
}
