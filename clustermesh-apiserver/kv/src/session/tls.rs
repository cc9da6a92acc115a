//! TLS as etcd wants it: both sides show a certificate. The files are read at every handshake, so that new ones are
//! used by the next connection without a word to anybody, and connections that stand go on.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::TlsFiles;

/// HTTP/2 (RFC 9113 section 3.2).
const ALPN: &[u8] = b"h2";

/// Speaks TLS over `tcp` with the server `host` (a name or an address, as in the URL).
pub(super) async fn handshake(tcp: TcpStream, host: &str, files: &TlsFiles) -> io::Result<TlsStream<TcpStream>> {
    let config = config(files).await?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| invalid(format!("{host} is no name that a certificate can bear: {error}")))?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// When the certificate of `files` stops being good: the earliest `notAfter` of its chain.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn certificate_expiry(files: &TlsFiles) -> io::Result<SystemTime> {
    let pem = std::fs::read(&files.cert).map_err(|error| naming(&files.cert, &error))?;
    let mut earliest: Option<SystemTime> = None;
    for der in certificates(&files.cert, &pem)? {
        let (_, certificate) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| invalid(format!("{}: no X.509 certificate: {error}", files.cert.display())))?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        let end = UNIX_EPOCH + Duration::from_secs(seconds);
        earliest = Some(earliest.map_or(end, |known| known.min(end)));
    }
    earliest.ok_or_else(|| invalid(format!("{}: no certificate in it", files.cert.display())))
}

async fn config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let (ca, cert, key) = tokio::try_join!(read(&files.ca), read(&files.cert), read(&files.key))?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.ca, &ca)? {
        roots.add(root).map_err(|error| invalid(format!("{}: {error}", files.ca.display())))?;
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| invalid(format!("{}: no private key: {error}", files.key.display())))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&files.cert, &cert)?, key)
        .map_err(|error| {
            invalid(format!("{} and {} do not go together: {error}", files.cert.display(), files.key.display()))
        })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

async fn read(path: &Path) -> io::Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|error| naming(path, &error))
}

fn certificates(path: &Path, pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| invalid(format!("{}: no PEM certificate: {error}", path.display())))?;
    if found.is_empty() {
        return Err(invalid(format!("{}: no certificate in it", path.display())));
    }
    Ok(found)
}

fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
