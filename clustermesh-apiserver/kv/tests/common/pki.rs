//! A certificate authority for tests.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

pub struct Pki {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "test ca");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let dir = tempfile::tempdir().context("a directory for certificates")?;
        std::fs::write(dir.path().join("ca.crt"), issuer.pem())?;
        Ok(Self { dir, issuer })
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// `<file>.crt` and `<file>.key` for `common_name`, good for `names` (DNS names and addresses) until `year`.
    pub fn issue(
        &self,
        file: &str,
        common_name: &str,
        names: &[&str],
        year: i32,
    ) -> anyhow::Result<(PathBuf, PathBuf)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let paths = (self.dir.path().join(format!("{file}.crt")), self.dir.path().join(format!("{file}.key")));
        // Renamed into place, so that nobody reads half a file.
        replace(&paths.0, &cert.pem())?;
        replace(&paths.1, &key.serialize_pem())?;
        Ok(paths)
    }
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).with_context(|| path.display().to_string())
}
