//! TLS with client certificates: the common name is the user, organisations are groups.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

/// Clients without a certificate may connect, and are answered 401.
pub fn server_config(cert: &Path, key: &Path, client_ca: &Path) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("reading the server certificate {}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("reading the server key {}", key.display()))?;
    let mut roots = RootCertStore::empty();
    let authorities: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(client_ca)
        .and_then(Iterator::collect)
        .map_err(|e| anyhow!("{e}"))
        .with_context(|| format!("reading the client authority {}", client_ca.display()))?;
    for authority in authorities {
        roots
            .add(authority)
            .with_context(|| format!("a certificate in {} is not an authority", client_ca.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .context("building the client verifier")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the server key does not fit its certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The identity in a certificate that has been verified.
pub fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    // Certificate { tbs { [0] version, serial, algorithm, issuer, validity, subject, ... } ... }
    let mut outer = Der(certificate.as_ref());
    let mut tbs = Der(Der(outer.next()?.1).next()?.1);
    let mut field = tbs.next()?;
    if field.0 == 0xa0 {
        field = tbs.next()?;
    }
    let _serial = field;
    let (_algorithm, _issuer, _validity) = (tbs.next()?, tbs.next()?, tbs.next()?);
    let mut names = Der(tbs.next()?.1);
    let mut identity = Identity { user: String::new(), groups: Vec::new() };
    while let Some((_, set)) = names.next() {
        let mut set = Der(set);
        while let Some((_, attribute)) = set.next() {
            let mut attribute = Der(attribute);
            let (oid, text) = (attribute.next()?.1, attribute.next()?.1);
            let text = String::from_utf8_lossy(text).into_owned();
            match oid {
                // 2.5.4.3 commonName, 2.5.4.10 organizationName (X.520)
                [0x55, 0x04, 0x03] => identity.user = text,
                [0x55, 0x04, 0x0a] => identity.groups.push(text),
                _ => {}
            }
        }
    }
    if identity.user.is_empty() {
        return None;
    }
    identity.groups.push("system:authenticated".to_owned());
    Some(identity)
}

/// Walks DER: each step is a tag and its contents.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let (bytes, tail) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.len() > 4 {
                return None;
            }
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = tail;
        }
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn subject_becomes_identity() {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:n1");
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        let found = identity(cert.der()).expect("an identity");
        assert_eq!(found.user, "system:node:n1");
        assert_eq!(found.groups, ["system:nodes", "system:authenticated"]);
    }

    #[test]
    fn broken_certificates_are_nobody() {
        for bytes in [&b""[..], &b"\x30"[..], &b"\x30\x84\xff\xff\xff\xff"[..], &b"\x30\x02\x30\x00"[..]] {
            assert_eq!(identity(&CertificateDer::from(bytes.to_vec())), None);
        }
    }
}
