//! What a node's `causeway-wireguard` says of itself, over its control socket.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::report::until;

pub(crate) fn snapshot(lab: &Lab, node: &str) -> Result<Value> {
    let path = lab.dir().join(node).join("wireguard.sock");
    let mut stream = UnixStream::connect(&path).with_context(|| format!("connect to {}", path.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"\"snapshot\"\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("{node} answers {line:?}"))?;
    Ok(answer["snapshot"].take())
}

/// Links of a peer with what is counted of them: `[{own, remote}, {confirmed, handshakes, ...}]`.
fn links(peer: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    peer["links"].as_array().into_iter().flatten().map(|pair| (&pair[0], &pair[1]))
}

/// Completed handshakes with all peers.
pub(crate) fn handshakes(snapshot: &Value) -> u64 {
    let peers = snapshot["stats"].as_object().into_iter().flat_map(|all| all.values());
    peers.flat_map(links).filter_map(|(_, stats)| stats["handshakes"].as_u64()).sum()
}

/// Peers whose active link stands.
pub(crate) fn confirmed(snapshot: &Value) -> usize {
    let stands = |name: &str, peer: &Value| {
        let active = &snapshot["actual"]["peers"][name]["active"];
        links(peer).any(|(link, stats)| link == active && stats["confirmed"] == true)
    };
    snapshot["stats"].as_object().into_iter().flatten().filter(|(name, peer)| stands(name, peer)).count()
}

/// The key of `peer` that `node` sends to.
pub(crate) fn remote_key(snapshot: &Value, peer: &str) -> Option<String> {
    let peers = snapshot["actual"]["peers"].as_object()?;
    let (_, found) = peers.iter().find(|(name, _)| name.ends_with(&format!("/{peer}")))?;
    Some(found["active"]["remote"].as_str()?.to_owned())
}

/// Waits until every node has a session with as many peers.
pub(crate) fn sessions(lab: &Lab, nodes: &[&str], peers: usize, limit: Duration) -> Result<Duration> {
    let (_, took) = until(limit, &format!("{peers} sessions on each of {nodes:?}"), || {
        for node in nodes {
            let snapshot = snapshot(lab, node)?;
            let stand = confirmed(&snapshot);
            ensure!(stand >= peers, "{node} has {stand}, with peers {:?}", peer_names(&snapshot));
        }
        Ok(())
    })?;
    Ok(took)
}

fn peer_names(snapshot: &Value) -> Vec<&String> {
    snapshot["actual"]["peers"].as_object().into_iter().flat_map(|all| all.keys()).collect()
}
