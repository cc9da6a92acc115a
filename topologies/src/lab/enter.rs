//! `exec` and `vtysh`: this process becomes the command.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use topology::spec::Role;

use crate::fabric;
use crate::kubelet::{PodRecord, RESOLV_CONF};
use crate::mounts;
use crate::netns;
use crate::process;
use crate::state::{Lab, LabState};

/// Replaces this process; returns only the reason why it could not.
pub(crate) fn exec(lab: &str, host: &str, command: &[String]) -> anyhow::Error {
    let enter = || -> Result<Command> {
        let lab = Lab::open(lab)?;
        let state = lab.load()?;
        let place = find(&lab, &state, host)?;
        netns::enter(&place.netns)?;
        if let Some(file) = &place.resolv_conf {
            mounts::own_resolv_conf(file)?;
        }
        let (program, arguments) = command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(cluster) = place.cluster.or(state.topology.clusters.first().map(|cluster| cluster.name.clone())) {
            // The relay is not reachable in here; the API itself is.
            command.env("KUBECONFIG", lab.kubeconfig(&cluster, "admin"));
        }
        if let Some(node) = place.node {
            command.env("CAUSEWAY_SOCKET", lab.host(&node).join("agent.sock"));
        }
        Ok(command)
    };
    match enter() {
        Ok(mut command) => anyhow!(command.exec()).context(format!("cannot run {}", command.get_program().display())),
        Err(error) => error,
    }
}

/// Where a command runs.
struct Place {
    netns: PathBuf,
    /// The node that it is or is on.
    node: Option<String>,
    cluster: Option<String>,
    /// What it sees as `/etc/resolv.conf`; `None`: the machine's.
    resolv_conf: Option<PathBuf>,
}

/// A host, a ToR or a pod.
fn find(lab: &Lab, state: &LabState, name: &str) -> Result<Place> {
    let hosts = &state.topology.hosts;
    let cluster_of =
        |name: &str| hosts.iter().find(|host| host.name == name).and_then(|host| host.cluster().map(str::to_owned));
    let known: Vec<&str> =
        hosts.iter().map(|host| &*host.name).chain(state.topology.tors.iter().map(|tor| &*tor.name)).collect();
    if known.contains(&name) {
        let node = hosts.iter().any(|host| host.name == name && matches!(host.role, Role::Node { .. }));
        return Ok(Place {
            netns: netns::path(&lab.netns(name)),
            node: node.then(|| name.to_owned()),
            cluster: cluster_of(name),
            resolv_conf: None,
        });
    }
    // A pod's name may be that of one in another cluster: CLUSTER/NAMESPACE/NAME tells them apart.
    let matches: Vec<PodRecord> = pods(lab, state)
        .into_iter()
        .filter(|pod| {
            let inner = format!("{}/{}", pod.namespace, pod.name);
            let outer = cluster_of(&pod.node).map(|cluster| format!("{cluster}/{inner}"));
            pod.name == name || inner == name || outer.as_deref() == Some(name)
        })
        .collect();
    match matches.as_slice() {
        [pod] => {
            let file = pod.dir(&lab.host(&pod.node).join("pods")).join(RESOLV_CONF);
            Ok(Place {
                netns: pod.netns.clone(),
                node: Some(pod.node.clone()),
                cluster: cluster_of(&pod.node),
                resolv_conf: file.exists().then_some(file),
            })
        }
        [] => bail!(
            "lab {} has no host or pod \"{name}\"; its hosts are {}; pods are named as in kubectl get pods -A",
            lab.name,
            known.join(", ")
        ),
        _ => bail!("several pods are named \"{name}\"; write NAMESPACE/NAME or CLUSTER/NAMESPACE/NAME"),
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
