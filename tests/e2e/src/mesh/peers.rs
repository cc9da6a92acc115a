//! What a peer, or its certificates, can do wrong.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};

use super::faults::alive_again;
use super::stream::during;
use super::{EAST, SOON, WEB, WEST, Who, answer_from, asker, remote_status, store};
use crate::lab::{Lab, text, tool};
use crate::report::until;

/// Rotations of all certificates of both clusters; a hundred of one connection's are rotated in `kv`'s tests.
const ROTATIONS: u32 = 10;

/// Entries that a reader must not believe, with a word of why.
const GARBAGE: &[(&str, &str)] = &[
    ("cilium/state/ip/v1/default/10.66.0.1", "no JSON at all"),
    // East's own identities and addresses, claimed by west.
    (
        "cilium/state/ip/v1/default/10.66.0.2",
        r#"{"IP":"10.66.0.2","Mask":null,"HostIP":"10.0.1.11","ID":65800,"Key":0,"Metadata":""}"#,
    ),
    // Key and value disagree.
    (
        "cilium/state/ip/v1/default/10.66.0.3",
        r#"{"IP":"10.66.0.9","Mask":null,"HostIP":"10.0.1.11","ID":131500,"Key":0,"Metadata":""}"#,
    ),
    ("cilium/state/identities/v1/id/65801", "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=west;"),
    ("cilium/state/identities/v1/id/131999", "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;"),
    (
        "cilium/state/nodes/v1/west/evil",
        r#"{"Name":"evil","Cluster":"east","IPAddresses":[{"Type":"InternalIP","IP":"10.66.0.4"}],"ClusterID":2}"#,
    ),
    (
        "cilium/state/nodes/v1/west/evil2",
        r#"{"Name":"evil2","Cluster":"west","IPAddresses":[{"Type":"InternalIP","IP":"10.66.0.5"}],"ClusterID":1}"#,
    ),
    (
        "cilium/state/services/v1/west/default/web2",
        r#"{"cluster":"west","namespace":"other","name":"web2","frontends":{},"backends":{"10.66.0.6":{"":{"Protocol":"TCP","Port":80}}},"shared":true,"clusterID":2}"#,
    ),
    ("cilium/state/services/v1/west/default/web3", "\u{1}\u{2}{"),
    ("cilium/state/endpointslices/v1/west/default/web-x", "not a zstd frame"),
];

/// A node of west that claims east's own pods: believable by its form, and a conflict.
const THIEF: (&str, &str) = (
    "cilium/state/nodes/v1/west/thief",
    r#"{"Name":"thief","Cluster":"west","IPAddresses":[{"Type":"InternalIP","IP":"10.66.0.7"}],"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"//8AAA=="},"ClusterID":2,"Source":"custom-resource"}"#,
);

pub(crate) fn garbage(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        let before = remote_status(lab, "e1", WEST)?["rejected"].as_u64().unwrap_or(0);
        for (key, value) in GARBAGE.iter().chain([&THIEF]) {
            put(lab, key, value)?;
        }
        let (row, _) = until(SOON, "e1 names what it refuses", || {
            let row = remote_status(lab, "e1", WEST)?;
            let refused = row["rejected"].as_u64().unwrap_or(0) - before.min(row["rejected"].as_u64().unwrap_or(0));
            ensure!(refused >= 8, "only {refused} entries are refused: {row}");
            ensure!(row["conflicts"].as_u64().unwrap_or(0) >= 1, "the stolen range is no conflict: {row}");
            Ok(row)
        })?;
        let known = lab.causeway_json("e1", &["ip", "list"])?.to_string();
        ensure!(!known.contains("10.66.0."), "something of it is programmed: {known}");
        // What is good still arrives.
        alive_again(lab)?;
        for (key, _) in GARBAGE.iter().chain([&THIEF]) {
            store::etcdctl(lab, "cp-west", &["del", key])?;
        }
        until(SOON, "the conflict is over", || {
            let row = remote_status(lab, "e1", WEST)?;
            ensure!(row["conflicts"].as_u64() == Some(0), "{row}");
            Ok(())
        })?;
        let named: Vec<&str> =
            row["refusals"].as_array().into_iter().flatten().filter_map(|r| r["name"].as_str()).take(3).collect();
        Ok(format!("{} entries refused and named ({} ...), 0 programmed", row["rejected"], named.join(", ")))
    })
}

fn put(lab: &Lab, key: &str, value: &str) -> Result<()> {
    store::etcdctl(lab, "cp-west", &["put", key, "--", value]).map(drop)
}

/// The cache of east holds a certificate that is no longer good and must connect anew: refused, named, and nothing lost.
pub(crate) fn expired(lab: &Lab) -> Result<String> {
    let secret = "cilium-kvstoremesh";
    let good = lab.cluster(EAST).json(&["-n", "kube-system", "get", "secret", secret])?;
    during(lab, &asker(EAST), WEB, || {
        let field = |suffix: &str| -> Result<(String, String)> {
            let data = good["data"].as_object().context("data")?;
            let (name, value) = data.iter().find(|(name, _)| name.ends_with(suffix)).context("no such file")?;
            Ok((name.clone(), value.as_str().unwrap_or_default().to_owned()))
        };
        let (name, _) = field(".etcd-client.crt")?;
        let (key_name, _) = field(".etcd-client.key")?;
        let (cert, key) = expired_pair(lab)?;
        let patch = serde_json::json!({"data": {name.clone(): cert, key_name.clone(): key}}).to_string();
        lab.cluster(EAST).run(&["-n", "kube-system", "patch", "secret", secret, "--type=merge", "-p", &patch])?;
        until(SOON, "the file is on the control plane", || {
            let file = store::files(lab, "cp-east", "clustermesh")?.join(&name);
            let there = std::fs::read(&file)?;
            ensure!(base64(&there)? == cert, "{} is still the old one", file.display());
            Ok(())
        })?;
        // Everything must connect anew.
        lab.lab("kill", &["etcd-cp-west"])?;
        lab.lab("start", &["etcd-cp-west"])?;
        let (told, _) = until(SOON, "east says why it cannot read west", || {
            let row = remote_status(lab, "e1", WEST)?;
            ensure!(row["stage"] != "fresh", "{row}");
            Ok(row["stage"].clone())
        })?;
        answer_from(lab, &asker(EAST), WEB, Who::Both)?;
        let back = serde_json::json!({"data": good["data"]}).to_string();
        lab.cluster(EAST).run(&["-n", "kube-system", "patch", "secret", secret, "--type=merge", "-p", &back])?;
        let took = alive_again(lab)?;
        Ok(format!("stage {told}, services kept; read again {:.1} s after the good one", took.as_secs_f64()))
    })
}

fn base64(bytes: &[u8]) -> Result<String> {
    let mut child = std::process::Command::new("base64")
        .arg("-w0")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(bytes)?;
    Ok(String::from_utf8(child.wait_with_output()?.stdout)?)
}

/// A client certificate of west's CA that was good until yesterday, and its key, in base64.
fn expired_pair(lab: &Lab) -> Result<(String, String)> {
    let ca = lab.cluster(WEST).json(&["-n", "kube-system", "get", "secret", "cilium-ca"])?;
    let text_of = |name: &str| -> Result<String> {
        let data = ca["data"][name].as_str().with_context(|| format!("cilium-ca has no {name}"))?;
        let out = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$0\" | base64 -d", data])
            .output()
            .context("base64")?;
        Ok(String::from_utf8(out.stdout)?)
    };
    let ca_key = rcgen::KeyPair::from_pem(&text_of("ca.key")?)?;
    let issuer = rcgen::Issuer::from_ca_cert_pem(&text_of("ca.crt")?, ca_key)?;
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(rcgen::DnType::CommonName, "remote");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let cert = params.signed_by(&key, &issuer)?;
    Ok((base64(cert.pem().as_bytes())?, base64(key.serialize_pem().as_bytes())?))
}

/// `causeway clustermesh VERB...` as a person types it.
fn causeway(lab: &Lab, verb: &[&str], contexts: &[&str]) -> Result<()> {
    let kubeconfig = lab.dir().join("kubeconfig");
    let out =
        tool("causeway")?.arg("clustermesh").args(verb).arg("--kubeconfig").arg(kubeconfig).args(contexts).output()?;
    ensure!(out.status.success(), "causeway clustermesh {verb:?}: {}", text(&out));
    Ok(())
}

/// `causeway clustermesh enable --renew`, again and again: no watch is dropped, and every new connection is good.
pub(crate) fn rotated(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        let failures = |lab: &Lab| -> Result<u64> {
            remote_status(lab, "e1", WEST)?["failures"].as_u64().context("no failures in the status")
        };
        let before = failures(lab)?;
        for n in 0..ROTATIONS {
            for cluster in [EAST, WEST] {
                causeway(lab, &["enable", "--secrets-only", "--renew"], &["--context", cluster])
                    .with_context(|| format!("rotation {n}"))?;
            }
            let ends = ["--source-endpoint", "10.0.0.5:2379", "--endpoint", "10.0.1.5:2379"];
            let between = ["--context", EAST, "--destination-context", WEST, "--mode", "cached"];
            causeway(lab, &["connect"], &[between.as_slice(), &ends].concat())?;
        }
        let after = failures(lab)?;
        ensure!(after == before, "{} connections were lost", after - before);
        // A new connection with the newest certificates.
        lab.lab("kill", &["kvstoremesh-cp-east"])?;
        lab.lab("start", &["kvstoremesh-cp-east"])?;
        alive_again(lab)?;
        Ok(format!("{ROTATIONS} rotations, 0 connections lost"))
    })
}
