//! Certificates and kubeconfigs of a cluster.
//!
//! One authority per cluster signs the API server's certificate and one client certificate for each kind of client.
//! They live as long as the lab's directory; nothing outside the lab trusts them.

use std::path::{Path, PathBuf};

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
        let access = [Access { cluster: cluster.name.clone(), dir: dir.clone(), who, server }];
        write_kubeconfig(&lab.kubeconfig(&cluster.name, who), &access)?;
    }
    Ok(())
}

/// The kubeconfig for people, once the relay's port is known.
pub(crate) fn outer_kubeconfig(lab: &Lab, cluster: &Cluster, port: u16) -> Result<()> {
    let access = [Access::outer(lab, cluster, port)];
    write_kubeconfig(&lab.outer_kubeconfig(&cluster.name), &access)
}

/// One kubeconfig with a context for each cluster, the first of which is the current one.
pub(crate) fn common_kubeconfig<'a>(lab: &Lab, clusters: impl Iterator<Item = (&'a Cluster, u16)>) -> Result<()> {
    let all: Vec<Access> = clusters.map(|(cluster, port)| Access::outer(lab, cluster, port)).collect();
    write_kubeconfig(&lab.dir.join("kubeconfig"), &all)
}

/// One way into one cluster.
struct Access {
    cluster: String,
    dir: PathBuf,
    who: &'static str,
    server: String,
}

impl Access {
    fn outer(lab: &Lab, cluster: &Cluster, port: u16) -> Self {
        let server = format!("https://127.0.0.1:{port}");
        Self { cluster: cluster.name.clone(), dir: lab.cluster(&cluster.name), who: "admin", server }
    }
}

/// Contexts, clusters and users are named after the cluster.
fn write_kubeconfig(path: &Path, all: &[Access]) -> Result<()> {
    let user = |access: &Access| format!("{}-{}", access.cluster, access.who);
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config",
        "current-context": all.first().map(|access| &access.cluster),
        "clusters": all.iter().map(|access| serde_json::json!({"name": access.cluster, "cluster": {
            "server": access.server, "certificate-authority": access.dir.join("ca.crt") }})).collect::<Vec<_>>(),
        "users": all.iter().map(|access| serde_json::json!({"name": user(access), "user": {
            "client-certificate": access.dir.join(format!("{}.crt", access.who)),
            "client-key": access.dir.join(format!("{}.key", access.who)) }})).collect::<Vec<_>>(),
        "contexts": all.iter().map(|access| serde_json::json!({"name": access.cluster, "context": {
            "cluster": access.cluster, "user": user(access), "namespace": "default" }})).collect::<Vec<_>>(),
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
