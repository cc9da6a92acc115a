//! A node's WireGuard process, and what the node's agent is told of it.
//!
//! The process holds the device and outlives the agent, as it does in a cluster. Keys lie in the node's directory of the
//! lab, which stands for a disk: a restart of either process finds them again.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use topology::plan::{HostPlan, Plan};
use topology::spec::{Cluster, Encryption};

use crate::cluster::{path, spec};
use crate::process::{self, Record};
use crate::progress::wait_for;
use crate::state::{Lab, Programs};

/// It opens a socket and waits: milliseconds, on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(10);

fn socket(lab: &Lab, node: &HostPlan) -> PathBuf {
    lab.host(&node.name).join("wireguard.sock")
}

fn key_file(lab: &Lab, node: &HostPlan) -> PathBuf {
    lab.host(&node.name).join("keys").join("wireguard.json")
}

/// Starts the process, where the node's cluster encrypts, and waits until it listens.
pub(crate) fn start(lab: &Lab, programs: &Programs, node: &HostPlan, cluster: &Cluster) -> Result<Option<Record>> {
    if cluster.encryption == Encryption::None {
        return Ok(None);
    }
    let socket = socket(lab, node);
    let argv = vec![path(&programs.wireguard), "--socket".into(), path(&socket)];
    let record = process::start(lab, spec(lab, &format!("wireguard-{}", node.name), Some(node), argv))?;
    let records = [record];
    wait_for(&format!("the socket of wireguard-{}", node.name), START_LIMIT, || {
        process::check_alive(&records)?;
        Ok(if socket.exists() { Ok(()) } else { Err(format!("no {}", socket.display())) })
    })?;
    let [record] = records;
    Ok(Some(record))
}

/// The agent's options about encryption.
pub(crate) fn agent_options(lab: &Lab, plan: &Plan, node: &HostPlan, cluster: &Cluster) -> Vec<String> {
    let Encryption::Wireguard { nodes, clusters } = &cluster.encryption else { return Vec::new() };
    let mut options = vec![
        ("--enable-wireguard", "true".to_owned()),
        ("--encrypt-node", nodes.to_string()),
        ("--wireguard-socket", path(&socket(lab, node))),
        ("--wireguard-key-file", path(&key_file(lab, node))),
    ];
    // Whole ranges, of all clusters that encrypt: an address that no node has, or none that is known yet, is refused too.
    let encrypt = plan.clusters.iter().filter(|cluster| cluster.encryption != Encryption::None);
    let ranges: Vec<String> = encrypt.map(|cluster| format!("{},{}", cluster.pods.v4, cluster.pods.v6)).collect();
    options.push(("--encryption-strict-mode-cidr", ranges.join(",")));
    options.extend(clusters.as_ref().map(|clusters| ("--encryption-clusters", clusters.clone())));
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}
