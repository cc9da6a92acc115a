//! `exec` and `vtysh`: this process becomes the command.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::fabric;
use crate::kubelet::PodRecord;
use crate::netns;
use crate::process;
use crate::state::{Lab, LabState};

/// Replaces this process; returns only the reason why it could not.
pub(crate) fn exec(lab: &str, host: &str, command: &[String]) -> anyhow::Error {
    let enter = || -> Result<Command> {
        let lab = Lab::open(lab)?;
        let state = lab.load()?;
        let (namespace, node) = find(&lab, &state, host)?;
        netns::enter(&namespace)?;
        let (program, arguments) = command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(cluster) = state.topology.clusters.first() {
            // The relay is not reachable in here; the API itself is.
            command.env("KUBECONFIG", lab.kubeconfig(&cluster.name, "admin"));
        }
        if let Some(node) = node {
            command.env("CAUSEWAY_SOCKET", lab.host(&node).join("agent.sock"));
        }
        Ok(command)
    };
    match enter() {
        Ok(mut command) => anyhow!(command.exec()).context(format!("cannot run {}", command.get_program().display())),
        Err(error) => error,
    }
}

/// The namespace of a host, a ToR or a pod, and the node that it is or is on.
fn find(lab: &Lab, state: &LabState, host: &str) -> Result<(PathBuf, Option<String>)> {
    let hosts = state.topology.hosts.iter().map(|host| host.name.as_str());
    let known: Vec<&str> = hosts.chain(state.topology.tors.iter().map(|tor| tor.name.as_str())).collect();
    if known.contains(&host) {
        let node = lab.host(host).is_dir().then(|| host.to_owned());
        return Ok((netns::path(&lab.netns(host)), node));
    }
    let matches: Vec<PodRecord> = pods(lab, state)
        .into_iter()
        .filter(|pod| pod.name == host || format!("{}/{}", pod.namespace, pod.name) == host)
        .collect();
    match matches.as_slice() {
        [pod] => Ok((pod.netns.clone(), Some(pod.node.clone()))),
        [] => bail!(
            "lab {} has no host or pod \"{host}\"; its hosts are {}; pods are named as in kubectl get pods -A",
            lab.name,
            known.join(", ")
        ),
        _ => bail!("several pods are named \"{host}\"; write NAMESPACE/{host}"),
    }
}

/// Every pod that a kubelet of the lab has written down.
pub(crate) fn pods(lab: &Lab, state: &LabState) -> Vec<PodRecord> {
    state.topology.hosts.iter().flat_map(|host| process::read_records(&lab.host(&host.name).join("pods"))).collect()
}

/// Replaces this process by FRR's shell.
pub(crate) fn vtysh(lab: &str, tor: &str, arguments: &[String]) -> anyhow::Error {
    let prepare = || -> Result<Command> {
        let lab = Lab::open(lab)?;
        let state = lab.load()?;
        let tors: Vec<&str> = state.topology.tors.iter().map(|tor| tor.name.as_str()).collect();
        if !tors.contains(&tor) {
            bail!("lab {} has no ToR \"{tor}\"; it has {}", lab.name, tors.join(", "));
        }
        let mut command = fabric::vtysh_command(&lab, tor);
        command.args(arguments);
        Ok(command)
    };
    match prepare() {
        Ok(mut command) => anyhow!(command.exec()).context("cannot run vtysh; install FRR"),
        Err(error) => error,
    }
}
