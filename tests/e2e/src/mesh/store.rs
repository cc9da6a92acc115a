//! A cluster's etcd, asked and spoiled with etcd's own tool.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::lab::{Lab, text};

/// `etcdctl` on a control plane, as the user that may do everything.
pub(crate) fn etcdctl(lab: &Lab, plane: &str, args: &[&str]) -> Result<String> {
    let certs = files(lab, plane, "certificates/admin")?;
    let file = |name: &str| certs.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.crt"), file("tls.crt"), file("tls.key"));
    let mut all = vec!["etcdctl", "--endpoints=https://127.0.0.1:2379", "--dial-timeout=3s", "--command-timeout=10s"];
    all.extend(["--cacert", &ca, "--cert", &cert, "--key", &key]);
    all.extend(args);
    let mut command = lab.command(plane, &["env", "ETCDCTL_API=3"])?;
    let out = command.args(&all).output().context("etcdctl")?;
    ensure!(out.status.success(), "etcdctl {args:?} at {plane}: {}", text(&out));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Where files of the mesh are on a control plane.
pub(crate) fn files(lab: &Lab, plane: &str, what: &str) -> Result<PathBuf> {
    let dir = lab.dir().join(plane).join("mesh").join(what);
    ensure!(dir.is_dir(), "{} is not there", dir.display());
    Ok(dir)
}

/// The keys that begin with a prefix.
pub(crate) fn keys(lab: &Lab, plane: &str, prefix: &str) -> Result<Vec<String>> {
    let printed = etcdctl(lab, plane, &["get", "--prefix", "--keys-only", prefix])?;
    Ok(printed.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect())
}

/// The store's revision.
pub(crate) fn revision(lab: &Lab, plane: &str) -> Result<u64> {
    let printed = etcdctl(lab, plane, &["get", "cilium/.heartbeat", "-w", "json"])?;
    let json: serde_json::Value = serde_json::from_str(&printed)?;
    json["header"]["revision"].as_u64().with_context(|| format!("no revision in {json}"))
}
