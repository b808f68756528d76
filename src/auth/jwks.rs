//! An issuer's public keys, from a file or by URL. The last good set is kept; a URL is asked once at a time and not more often than every
//! ten seconds, however many unknown key ids arrive, and a set older than a day is no longer believed.
//! The one HTTP client of the project: time-outs, no redirects, bounded answers.

use crate::config;
use crate::crypto::private_file::Stamp;
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

const TIMEOUT: Duration = Duration::from_secs(3);
const LARGEST: usize = 256 * 1024;
/// Tokens that a key is known to have signed, at most.
const KNOWN: usize = 10_000;
/// Between two fetches, whatever happens.
const FLOOR: Duration = Duration::from_secs(10);
/// A set older than this is fetched again in the background.
const FRESH: Duration = Duration::from_secs(300);
/// A set older than this is not used.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The issuer's keys were never had, or too long ago.
#[derive(Debug)]
pub(super) struct KeysAway;

pub(super) struct KeySet {
    issuer: String,
    source: Source,
    floor: Duration,
    current: RwLock<Option<Loaded>>,
    /// What the last attempt to load saw. Held while loading.
    last: Mutex<Option<Attempt>>,
}

enum Source {
    File(PathBuf),
    Url(Client, Url),
}

#[derive(Clone)]
struct Loaded {
    keys: Arc<[Key]>,
    at: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum Attempt {
    File(Option<Stamp>),
    Url(Instant),
}

struct Key {
    id: String,
    algorithms: Vec<Algorithm>,
    key: Arc<VerifyKey>,
}

/// A public key, and which tokens it is known to have signed: a client sends the same one again and again, and looking at the signature costs
/// more than all else that is done with it. Goes with the key when the issuer's keys change. What a token claims is looked at each time.
pub(super) struct VerifyKey {
    key: DecodingKey,
    /// SHA-256 of whole tokens.
    signed: parking_lot::Mutex<HashSet<[u8; 32]>>,
}

impl VerifyKey {
    fn new(key: DecodingKey) -> Self {
        Self { key, signed: parking_lot::Mutex::default() }
    }

    /// Whether this key made the signature of a token: header and claims, a dot, and the signature. The header names the algorithm.
    pub(super) fn signed(&self, token: &str, algorithm: Algorithm) -> bool {
        let Ok(digest) = digest(&SHA256, token.as_bytes()).as_ref().try_into() else { return false };
        if self.signed.lock().contains(&digest) {
            return true;
        }
        let Some((message, signature)) = token.rsplit_once('.') else { return false };
        let genuine = crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false);
        if genuine {
            let mut signed = self.signed.lock();
            // Tokens end, and what is asked often is soon back.
            if signed.len() >= KNOWN {
                signed.clear();
            }
            signed.insert(digest);
        }
        genuine
    }
}

impl KeySet {
    /// From the settings of an issuer; loads nothing yet.
    pub(super) fn new(issuer: &config::Issuer) -> Result<Self, &'static str> {
        let source = match (&issuer.jwks_file, &issuer.jwks_url) {
            (Some(path), None) => Source::File(path.clone()),
            (None, Some(url)) => Source::Url(client()?, trusted(url)?),
            _ => return Err("needs either jwks_file or jwks_url"),
        };
        Ok(Self {
            issuer: issuer.issuer.clone(),
            source,
            floor: FLOOR,
            current: RwLock::default(),
            last: Mutex::default(),
        })
    }

    /// The key with this id, if it verifies this algorithm.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: &str,
        algorithm: Algorithm,
    ) -> Result<Option<Arc<VerifyKey>>, KeysAway> {
        if let Source::File(path) = &self.source {
            self.read(path).await;
            return self.loaded().map(|loaded| loaded.find(id, algorithm)).ok_or(KeysAway);
        }
        if let Some(loaded) = self.loaded()
            && let Some(key) = loaded.find(id, algorithm)
        {
            // Nobody waits for a refresh of keys that still serve; who finds it under way leaves it alone.
            if loaded.at.elapsed() > FRESH && self.last.try_lock().is_ok_and(|last| self.due(*last)) {
                tokio::spawn(self.clone().fetch());
            }
            return Ok(Some(key));
        }
        // In a task of its own: a caller that gives up must not take the answer from those who wait.
        let _ = tokio::spawn(self.clone().fetch()).await;
        self.loaded().map(|loaded| loaded.find(id, algorithm)).ok_or(KeysAway)
    }

    /// The last good set: a file's for ever, a URL's for a day.
    fn loaded(&self) -> Option<Loaded> {
        let loaded = self.current.read().clone();
        loaded.filter(|loaded| matches!(self.source, Source::File(_)) || loaded.at.elapsed() < STALE)
    }

    /// Reads the file if it is another one than at the last attempt.
    async fn read(&self, path: &PathBuf) {
        let mut last = self.last.lock().await;
        let stamp = tokio::fs::metadata(path).await.ok().map(|metadata| Stamp::from(&metadata));
        if *last != Some(Attempt::File(stamp)) {
            self.take(tokio::fs::read(path).await.map_err(|error| error.to_string()));
            *last = Some(Attempt::File(stamp));
        }
    }

    /// Asks the URL, unless somebody just did.
    async fn fetch(self: Arc<Self>) {
        let Source::Url(client, url) = &self.source else { return };
        let mut last = self.last.lock().await;
        if self.due(*last) {
            *last = Some(Attempt::Url(Instant::now()));
            self.take(get(client, url).await);
        }
    }

    fn due(&self, last: Option<Attempt>) -> bool {
        !matches!(last, Some(Attempt::Url(at)) if at.elapsed() < self.floor)
    }

    /// Takes what was loaded into use, or keeps what there is.
    fn take(&self, content: Result<Vec<u8>, String>) {
        match content.and_then(|content| parse(&content)) {
            Ok(keys) => {
                info!(auth.issuer = self.issuer, keys = keys.len(), "Loaded the issuer's keys");
                *self.current.write() = Some(Loaded { keys, at: Instant::now() });
            }
            Err(error) => warn!(auth.issuer = self.issuer, error, "The issuer's keys cannot be loaded"),
        }
    }
}

impl Loaded {
    fn find(&self, id: &str, algorithm: Algorithm) -> Option<Arc<VerifyKey>> {
        self.keys.iter().find(|key| key.id == id && key.algorithms.contains(&algorithm)).map(|key| key.key.clone())
    }
}

fn client() -> Result<Client, &'static str> {
    // No idle connections: they would belong to the runtime of the worker that opened them.
    let client = Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .build();
    client.map_err(|_| "needs an HTTP client, and none can be made here")
}

/// Whoever can change the answer makes tokens: HTTPS, or this machine.
fn trusted(url: &str) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "has a jwks_url that is not a URL")?;
    let here = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    if url.scheme() == "https" || (url.scheme() == "http" && here) {
        Ok(url)
    } else {
        Err("has a jwks_url that is not https")
    }
}

async fn get(client: &Client, url: &Url) -> Result<Vec<u8>, String> {
    let mut response = client.get(url.clone()).send().await.map_err(|error| error.without_url().to_string())?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("the answer is {}", response.status()));
    }
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.without_url().to_string())? {
        if content.len() + chunk.len() > LARGEST {
            return Err("the answer is too large".into());
        }
        content.extend_from_slice(&chunk);
    }
    Ok(content)
}

/// The keys of a set that can verify tokens; others in it are none of ours.
fn parse(content: &[u8]) -> Result<Arc<[Key]>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(content).map_err(|_| "not a JWK set")?;
    let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.key());
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
    fn key(self) -> Option<Key> {
        let verifies = self.usage.is_none_or(|usage| usage == "sig")
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
        (verifies && !algorithms.is_empty()).then_some(Key {
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

    /// A JWKS server that counts: answers with the body there is, 500 while there is none.
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

    fn key_set(url: &str, floor: Duration) -> Arc<KeySet> {
        let source = Source::Url(client().unwrap(), trusted(url).unwrap());
        Arc::new(KeySet { issuer: "test".into(), source, floor, current: RwLock::default(), last: Mutex::default() })
    }

    async fn all(keys: &Arc<KeySet>, id: &str) -> Vec<bool> {
        let asks = (0..100).map(|_| {
            let (keys, id) = (keys.clone(), id.to_owned());
            tokio::spawn(async move { keys.find(&id, Algorithm::ES256).await.map(|key| key.is_some()).unwrap() })
        });
        futures_util::future::join_all(asks.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_flood_of_unknown_keys_is_one_fetch() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open(dir.path(), "cordon").unwrap();
        let set = std::fs::read(issuer.jwks_path()).unwrap();
        let (url, fetches) = serve(Arc::new(RwLock::new(Some(set)))).await;
        let keys = key_set(&url, FLOOR);
        assert!(all(&keys, "unknown").await.iter().all(|found| !found));
        assert!(all(&keys, issuer.key_id()).await.iter().all(|found| *found));
        assert!(keys.find(issuer.key_id(), Algorithm::RS256).await.unwrap().is_none());
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn keys_away_come_back_and_good_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = DevIssuer::open(dir.path(), "cordon").unwrap();
        let body = Arc::new(RwLock::new(None));
        let (url, fetches) = serve(body.clone()).await;
        let keys = key_set(&url, Duration::ZERO);
        let find = async || keys.find(issuer.key_id(), Algorithm::ES256).await.map(|key| key.is_some()).ok();
        assert_eq!(find().await, None);
        *body.write() = Some(std::fs::read(issuer.jwks_path()).unwrap());
        assert_eq!(find().await, Some(true));
        for bad in [None, Some(b"<html>".to_vec()), Some(vec![b' '; LARGEST + 1])] {
            *body.write() = bad;
            assert!(keys.find("rotated", Algorithm::ES256).await.unwrap().is_none());
            assert_eq!(find().await, Some(true));
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 5);
    }

    #[test]
    fn only_fitting_keys_are_taken() {
        let ec = r#""kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
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
        assert!(trusted("http://login.example/jwks").is_err());
        assert!(trusted("file:///etc/passwd").is_err());
    }
}
