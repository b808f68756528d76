//! The listener's certificate. It is read from PEM files, and read again when the files change. Open connections keep
//! the certificate they began with; when changed files cannot be used, the previous certificate stays in service. TLS
//! 1.2 and 1.3 with keys and ciphers of AWS-LC; actix negotiates h2 or http/1.1.

use crate::config;
use crate::crypto::private_file::FileStamp;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, crypto::aws_lc_rs};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The files are checked during a handshake, at most once in this time.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Builds the TLS configuration of a listener, without client authentication.
///
/// # Errors
/// Fails when a file cannot be read, holds no certificate, or when the key does not belong to the certificate.
pub fn server_config(files: &config::Tls) -> io::Result<ServerConfig> {
    let current = LoadedCertificate { stamps: stamps(files), checked_at: Instant::now(), key: load(files)? };
    let resolver = Arc::new(ReloadingResolver { files: files.clone(), current: Mutex::new(current) });
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(io::Error::other)?;
    Ok(builder.with_no_client_auth().with_cert_resolver(resolver))
}

/// Gives each handshake the current certificate.
struct ReloadingResolver {
    files: config::Tls,
    current: Mutex<LoadedCertificate>,
}

struct LoadedCertificate {
    stamps: [Option<FileStamp>; 2],
    checked_at: Instant,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ReloadingResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock();
        if current.checked_at.elapsed() >= CHECK_INTERVAL {
            current.checked_at = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != current.stamps {
                current.stamps = stamps;
                match load(&self.files) {
                    Ok(key) => {
                        current.key = key;
                        tracing::info!("Reloaded the certificate");
                    }
                    // Perhaps only one file of the pair has been replaced so far; the other changes its stamp when it
                    // follows.
                    Err(error) => {
                        tracing::error!(%error, "The new certificate cannot be used; the old one stays in service");
                    }
                }
            }
        }
        Some(Arc::clone(&current.key))
    }
}

impl fmt::Debug for ReloadingResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingResolver").field("files", &self.files).finish_non_exhaustive()
    }
}

fn stamps(files: &config::Tls) -> [Option<FileStamp>; 2] {
    [&files.certificate, &files.key].map(|file| FileStamp::of(file).ok())
}

fn load(files: &config::Tls) -> io::Result<Arc<CertifiedKey>> {
    let unusable = |file: &Path, cause: &dyn fmt::Display| io::Error::other(format!("{}: {cause}", file.display()));
    let bad_certificate = |cause: &dyn fmt::Display| unusable(&files.certificate, cause);
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(|error| bad_certificate(&error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| bad_certificate(&error))?;
    if chain.is_empty() {
        return Err(bad_certificate(&"no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| unusable(&files.key, &error))?;
    Ok(Arc::new(certified))
}
