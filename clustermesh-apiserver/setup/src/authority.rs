//! A CA: made here, or read back from what another tool made, and what it signs.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::leaf::{CA_LIFE, LEAF_LIFE, RENEW_WITHIN, SKEW};
use crate::{Leaf, SetupError, pem, secret};

/// A CA's certificate and key.
pub struct Authority {
    cert_pem: Vec<u8>,
    key_pem: Zeroizing<Vec<u8>>,
    cert_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

/// A certificate with its key, as PEM.
pub struct Issued {
    pub cert_pem: Vec<u8>,
    pub key_pem: Zeroizing<Vec<u8>>,
    pub not_after: Timestamp,
}

/// Never the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Never the key.
impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one: ECDSA on P-256, valid for three years.
    ///
    /// # Errors
    /// The operating system gives no randomness, or `now` is no time that a certificate can hold.
    pub fn make(now: Timestamp) -> Result<Authority, SetupError> {
        let key = KeyPair::generate().map_err(|error| failed("the CA", &error))?;
        let mut params = params(now, now + CA_LIFE, "Cilium CA", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key).map_err(|error| failed("the CA", &error))?;
        let key_pem = Zeroizing::new(key.serialize_pem().into_bytes());
        Authority::load("the new CA", cert.pem().as_bytes(), &key_pem, now)
    }

    /// Reads one back. `object` says where it is from. Keys may be PKCS#8, PKCS#1 or SEC1: Helm and cfssl differ.
    ///
    /// # Errors
    /// Not a certificate or key, not of each other, not a CA, or about to expire: what it signs would expire with it.
    pub fn load(object: &str, cert_pem: &[u8], key_pem: &[u8], now: Timestamp) -> Result<Authority, SetupError> {
        let bad = |problem: &str, remedy: &str| SetupError::new(object, problem, remedy);
        let whole = "give both files of one CA with --ca-from";
        let cert_der = pem::certificate(cert_pem).ok_or_else(|| bad("ca.crt holds no PEM certificate", whole))?;
        let cert = parse(&cert_der).ok_or_else(|| bad("ca.crt cannot be read", whole))?;
        if !cert.is_ca() {
            return Err(bad("ca.crt is no CA's certificate", "give the CA's own, not one that it signed"));
        }
        let not_after = not_after(&cert);
        if not_after < now + RENEW_WITHIN {
            let problem = format!("the CA expires at {not_after}, and with it all that it signs");
            let remedy =
                "delete the Secret cilium-ca, run enable --renew in this cluster and connect to every other again";
            return Err(bad(&problem, remedy));
        }
        let key_der = pem::private_key(key_pem, cert.public_key().raw)
            .ok_or_else(|| bad("ca.key holds no PEM private key", whole))?;
        let key = KeyPair::try_from(key_der.as_slice())
            .map_err(|_| bad("ca.key is no key that can sign here", "use ECDSA on P-256 or P-384, Ed25519, or RSA"))?;
        if key.public_key_raw() != cert.public_key().subject_public_key.data.as_ref() {
            return Err(bad("ca.key does not belong to ca.crt", whole));
        }
        let issuer =
            Issuer::from_ca_cert_der(&cert_der.as_slice().into(), key).map_err(|error| failed(object, &error))?;
        let (cert_pem, key_pem) = (cert_pem.to_vec(), Zeroizing::new(key_pem.to_vec()));
        Ok(Authority { cert_pem, key_pem, cert_der, issuer, not_after })
    }

    #[must_use]
    pub fn cert_pem(&self) -> &[u8] {
        &self.cert_pem
    }

    /// For the Secret, and for nothing else.
    #[must_use]
    pub fn key_pem(&self) -> &Zeroizing<Vec<u8>> {
        &self.key_pem
    }

    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether it is the same CA, whatever its PEM looks like.
    #[must_use]
    pub fn is(&self, other: &Authority) -> bool {
        self.cert_der == other.cert_der
    }

    /// Signs a new key pair for a year, or until the CA itself expires.
    ///
    /// # Errors
    /// A name that is neither an address nor ASCII, or no randomness.
    pub fn issue(&self, leaf: &Leaf, now: Timestamp) -> Result<Issued, SetupError> {
        let not_after = self.not_after.min(now + LEAF_LIFE);
        let mut params = params(now, not_after, &leaf.common_name, &leaf.names)?;
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if leaf.is_server() {
            // etcd's gateway is a client of itself with the same certificate, hence both.
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate().map_err(|error| failed(leaf.secret, &error))?;
        let cert = params.signed_by(&key, &self.issuer).map_err(|error| failed(leaf.secret, &error))?;
        let key_pem = Zeroizing::new(key.serialize_pem().into_bytes());
        Ok(Issued { cert_pem: cert.pem().into_bytes(), key_pem, not_after })
    }

    /// Whether a certificate can go on serving as `leaf`.
    ///
    /// # Errors
    /// Says why it cannot.
    pub(crate) fn vouches(&self, leaf: &Leaf, cert_pem: &[u8], key_pem: &[u8], now: Timestamp) -> Result<(), String> {
        let der = pem::certificate(cert_pem).ok_or("it cannot be read")?;
        let cert = parse(&der).ok_or("it cannot be read")?;
        let ours = parse(&self.cert_der).ok_or("its CA cannot be read")?;
        cert.verify_signature(Some(ours.public_key())).map_err(|_| "another CA signed it")?;
        let key = pem::private_key(key_pem, cert.public_key().raw).ok_or("it has no key")?;
        let key = KeyPair::try_from(key.as_slice()).map_err(|_| "its key cannot be read")?;
        if key.public_key_raw() != cert.public_key().subject_public_key.data.as_ref() {
            return Err("its key is another one's".to_owned());
        }
        let cn = cert.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default();
        if cn != leaf.common_name {
            return Err(format!("it is for {cn:?}, not {:?}", leaf.common_name));
        }
        let names = names(&cert);
        if let Some(missing) = leaf.names.iter().find(|name| !names.contains(name)) {
            return Err(format!("it is not for {missing}"));
        }
        match not_after(&cert) {
            end if end < now + RENEW_WITHIN => Err(format!("it expires at {end}")),
            _ => Ok(()),
        }
    }
}

fn params(from: Timestamp, to: Timestamp, cn: &str, names: &[String]) -> Result<CertificateParams, SetupError> {
    let bad = |error: rcgen::Error| {
        SetupError::new(format!("the certificate of {cn}"), error.to_string(), "give DNS names in ASCII, or addresses")
    };
    let mut params = CertificateParams::new(names.to_vec()).map_err(bad)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cn);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let after_epoch = |at: Timestamp| {
        u64::try_from(at.as_second())
            .map(Duration::from_secs)
            .map_err(|_| SetupError::new("the clock", format!("{at} is no time for a certificate"), "set the clock"))
    };
    params.not_before = epoch + after_epoch(from - SKEW)?;
    params.not_after = epoch + after_epoch(to)?;
    Ok(params)
}

fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, cert)| cert)
}

fn not_after(cert: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_second(cert.validity().not_after.timestamp()).unwrap_or(Timestamp::MIN)
}

/// DNS names and addresses that a certificate is for.
fn names(cert: &X509Certificate<'_>) -> Vec<String> {
    let general = cert.subject_alternative_name().ok().flatten();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
        },
        _ => None,
    };
    general.map(|san| san.value.general_names.iter().filter_map(text).collect()).unwrap_or_default()
}

fn failed(object: &str, error: &rcgen::Error) -> SetupError {
    SetupError::new(object, error.to_string(), format!("look at {} and the system's randomness", secret::CA))
}
