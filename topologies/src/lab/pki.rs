//! Certificates and kubeconfigs of a cluster.
//!
//! One authority per cluster signs the API server's certificate and one client certificate for each kind of client.
//! They live as long as the lab's directory; nothing outside the lab trusts them.

use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use topology::plan::{API_PORT, HostPlan};
use topology::spec::Cluster;

use crate::state::{Lab, write_whole};

/// Who gets a client certificate: file name, common name, organisation.
const CLIENTS: &[(&str, &str, &str)] = &[
    ("admin", "causeway-lab:admin", "system:masters"),
    ("agent", "causeway:agent", "system:masters"),
    ("operator", "causeway:operator", "system:masters"),
    ("kubelet", "causeway-lab:kubelet", "system:masters"),
];

/// Writes `ca.crt`, `ca.key`, `api.crt`, `api.key`, `service-account.key` and the inner kubeconfigs.
pub(crate) fn issue(lab: &Lab, cluster: &Cluster, plane: &HostPlan) -> Result<()> {
    let dir = lab.cluster(&cluster.name);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let (ca_pem, ca_key, issuer) = authority(&cluster.name)?;
    write_whole(&dir.join("ca.crt"), ca_pem.as_bytes(), 0o644)?;
    write_whole(&dir.join("ca.key"), ca_key.as_bytes(), 0o600)?;

    let service = |hosts: &mut dyn Iterator<Item = String>| hosts.next();
    let names = [
        Some(plane.loopback.v4.to_string()),
        Some(plane.loopback.v6.to_string()),
        service(&mut cluster.services.v4.hosts().map(|address| address.to_string())),
        service(&mut cluster.services.v6.hosts().skip(1).map(|address| address.to_string())),
    ];
    let fixed = ["127.0.0.1", "::1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let names: Vec<String> = names.into_iter().flatten().chain(fixed.map(String::from)).collect();
    let (cert, key) = leaf(&issuer, names, "kube-apiserver", "causeway-lab", ExtendedKeyUsagePurpose::ServerAuth)?;
    write_whole(&dir.join("api.crt"), cert.as_bytes(), 0o644)?;
    write_whole(&dir.join("api.key"), key.as_bytes(), 0o600)?;
    let service_account = KeyPair::generate().context("cannot make a key")?;
    write_whole(&dir.join("service-account.key"), service_account.serialize_pem().as_bytes(), 0o600)?;
    write_whole(&dir.join("service-account.pub"), service_account.public_key_pem().as_bytes(), 0o644)?;

    for (who, name, organisation) in CLIENTS {
        let (cert, key) = leaf(&issuer, Vec::new(), name, organisation, ExtendedKeyUsagePurpose::ClientAuth)?;
        write_whole(&dir.join(format!("{who}.crt")), cert.as_bytes(), 0o644)?;
        write_whole(&dir.join(format!("{who}.key")), key.as_bytes(), 0o600)?;
        let server = format!("https://{}:{API_PORT}", plane.loopback.v4);
        write_kubeconfig(&lab.kubeconfig(&cluster.name, who), &dir, lab, cluster, who, &server)?;
    }
    Ok(())
}

/// The kubeconfig for people, once the relay's port is known.
pub(crate) fn outer_kubeconfig(lab: &Lab, cluster: &Cluster, port: u16) -> Result<()> {
    let path = lab.outer_kubeconfig(&cluster.name);
    let server = format!("https://127.0.0.1:{port}");
    write_kubeconfig(&path, &lab.cluster(&cluster.name), lab, cluster, "admin", &server)
}

fn write_kubeconfig(path: &Path, dir: &Path, lab: &Lab, cluster: &Cluster, who: &str, server: &str) -> Result<()> {
    let context = format!("{}-{}", lab.name, cluster.name);
    let file = |name: String| dir.join(name);
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": context, "cluster": {
            "server": server, "certificate-authority": file("ca.crt".into()) }}],
        "users": [{"name": who, "user": {
            "client-certificate": file(format!("{who}.crt")), "client-key": file(format!("{who}.key")) }}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": who, "namespace": "default"}}],
    });
    write_whole(path, serde_yaml_ng::to_string(&config)?.as_bytes(), 0o600)
}

fn authority(cluster: &str) -> Result<(String, String, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::new(Vec::new()).context("cannot describe the authority")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("causeway-lab {cluster}"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().context("cannot make a key")?;
    let cert = params.self_signed(&key).context("cannot sign the authority's certificate")?;
    Ok((cert.pem(), key.serialize_pem(), Issuer::new(params, key)))
}

fn leaf(
    issuer: &Issuer<'static, KeyPair>,
    names: Vec<String>,
    common_name: &str,
    organisation: &str,
    usage: ExtendedKeyUsagePurpose,
) -> Result<(String, String)> {
    let mut params = CertificateParams::new(names).with_context(|| format!("names of {common_name}"))?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().context("cannot make a key")?;
    let cert =
        params.signed_by(&key, issuer).with_context(|| format!("cannot sign the certificate of {common_name}"))?;
    Ok((cert.pem(), key.serialize_pem()))
}
