//! What a node's device holds and has seen, as `causeway encrypt status` says; the embedded one's own words where those count
//! what the agent does not.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::report::until;

fn status(lab: &Lab, node: &str) -> Result<Value> {
    lab.causeway_json(node, &["encrypt", "status"])
}

/// Whether the kernel's device is in use, and no process of ours.
pub(crate) fn is_kernels(lab: &Lab, node: &str) -> Result<bool> {
    Ok(status(lab, node)?["backend"].as_str().is_some_and(|words| words.starts_with("kernel")))
}

/// Ends the device of a node, and nobody makes it again: the embedded one's process, or the agent with the kernel's interface.
pub(crate) fn stop(lab: &Lab, node: &str, kernels: bool) -> Result<()> {
    if kernels {
        lab.lab("kill", &[&format!("agent-{node}"), "--signal", "KILL"])?;
        return lab.exec(node, &["ip", "link", "del", "cilium_wg0"]).map(drop);
    }
    lab.lab("kill", &[&format!("wireguard-{node}"), "--signal", "KILL"])?;
    Ok(())
}

/// After [`stop`].
pub(crate) fn start(lab: &Lab, node: &str, kernels: bool) -> Result<()> {
    let process = if kernels { "agent" } else { "wireguard" };
    lab.lab("start", &[&format!("{process}-{node}")])?;
    Ok(())
}

/// Completed handshakes with all peers, by the embedded device's own count.
pub(crate) fn handshakes(lab: &Lab, node: &str) -> Result<u64> {
    let snapshot = snapshot(&socket(lab, node)).with_context(|| format!("the device of {node}"))?;
    let peers = snapshot["stats"].as_object().into_iter().flat_map(|all| all.values());
    let links = peers.filter_map(|peer| peer["links"].as_array()).flatten();
    Ok(links.filter_map(|pair| pair[1]["handshakes"].as_u64()).sum())
}

fn socket(lab: &Lab, node: &str) -> PathBuf {
    lab.dir().join(node).join("wireguard.sock")
}

fn snapshot(path: &Path) -> Result<Value> {
    let mut stream = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"\"snapshot\"\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("it answers {line:?}"))?;
    Ok(answer["snapshot"].take())
}

/// The oldest of the sessions that stand: seconds since its handshake.
pub(crate) fn oldest_session(lab: &Lab, node: &str) -> Result<u64> {
    let status = status(lab, node)?;
    let ages = peers(&status).filter_map(|peer| peer["handshakeAgeS"].as_u64());
    ages.max().with_context(|| format!("{node} has no session: {status}"))
}

fn peers(status: &Value) -> impl Iterator<Item = &Value> {
    status["peers"].as_array().into_iter().flatten()
}

/// The key of `peer` that `node` sends to.
pub(crate) fn remote_key(lab: &Lab, node: &str, peer: &str) -> Result<Option<String>> {
    let status = status(lab, node)?;
    let is_it = |found: &&Value| found["name"].as_str().is_some_and(|name| name.ends_with(&format!("/{peer}")));
    let key = peers(&status).find(is_it).and_then(|found| found["publicKey"].as_str());
    Ok(key.map(str::to_owned))
}

/// Waits until every node has a session with as many peers.
pub(crate) fn sessions(lab: &Lab, nodes: &[&str], wanted: usize, limit: Duration) -> Result<Duration> {
    let (_, took) = until(limit, &format!("{wanted} sessions on each of {nodes:?}"), || {
        for node in nodes {
            let status = status(lab, node)?;
            let stand = peers(&status).filter(|peer| peer["verdict"] == "encrypted").count();
            ensure!(stand >= wanted, "{node} has {stand}: {status}");
        }
        Ok(())
    })?;
    Ok(took)
}
