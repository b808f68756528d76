//! The listener's certificate: read from PEM files, and again when they change. Connections that are open keep the one they began with; files that
//! cannot be used leave the certificate that is served in place. TLS 1.2 and 1.3, keys and ciphers of AWS-LC; actix offers h2 and http/1.1.

use crate::config;
use crate::crypto::private_file::Stamp;
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

/// How often the files are looked at while clients come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a listener needs. The files must be usable now.
pub fn settings(files: &config::Tls) -> io::Result<ServerConfig> {
    let shown = Shown { stamps: stamps(files), looked: Instant::now(), key: read(files)? };
    let certificate = Arc::new(Certificate { files: files.clone(), shown: Mutex::new(shown) });
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(io::Error::other)?;
    Ok(builder.with_no_client_auth().with_cert_resolver(certificate))
}

/// What clients are shown.
struct Certificate {
    files: config::Tls,
    shown: Mutex<Shown>,
}

struct Shown {
    stamps: [Option<Stamp>; 2],
    looked: Instant,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock();
        if shown.looked.elapsed() >= LOOK_EVERY {
            shown.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != shown.stamps {
                shown.stamps = stamps;
                match read(&self.files) {
                    Ok(key) => {
                        shown.key = key;
                        tracing::info!("The certificate was read again");
                    }
                    // Half of a pair may have been replaced; the other half changes its stamp, too.
                    Err(error) => {
                        tracing::error!(error = %error, "The new certificate cannot be used; the old one is still served")
                    }
                }
            }
        }
        Some(Arc::clone(&shown.key))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

fn stamps(files: &config::Tls) -> [Option<Stamp>; 2] {
    [&files.certificate, &files.key].map(|file| Stamp::of(file).ok())
}

fn read(files: &config::Tls) -> io::Result<Arc<CertifiedKey>> {
    let wrong = |file: &Path, cause: &dyn fmt::Display| io::Error::other(format!("{}: {cause}", file.display()));
    let certificate = |cause: &dyn fmt::Display| wrong(&files.certificate, cause);
    let chain = CertificateDer::pem_file_iter(&files.certificate).map_err(|error| certificate(&error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| certificate(&error))?;
    if chain.is_empty() {
        return Err(certificate(&"no certificate in it"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let both = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| wrong(&files.key, &error))?;
    Ok(Arc::new(both))
}
