//! `node add`, `node remove` and `cable`: a rack that grows and shrinks while it runs.

use anyhow::{Context as _, Result, bail};
use topology::spec::Role;

use crate::cluster;
use crate::down;
use crate::fabric;
use crate::kubelet::PodRecord;
use crate::kubernetes::Kubernetes;
use crate::netns;
use crate::process;
use crate::progress::Progress;
use crate::state::Lab;
use crate::up::wait_established;
use crate::wiring;

/// Cables a node, starts its processes and waits until it is Ready and, where there are others, its sessions are up.
pub(crate) fn add(lab: &str, node: &str, cluster: Option<&str>) -> Result<()> {
    let progress = Progress::start();
    let lab = Lab::open(lab)?;
    let mut state = lab.load()?;
    state.topology.add_node(node, cluster)?;
    let plan = state.plan()?;
    let host = plan.host(node).context("a node that was added is in the plan")?;
    wiring::add_host(&lab, host)?;
    lab.save(&state)?;
    progress.say(format!("{node} is cabled: {} and {}", host.loopback.v4, host.loopback.v6));
    let kubeconfig = lab.outer_kubeconfig(host.cluster_name());
    if !kubeconfig.is_file() {
        return Ok(());
    }
    let records = cluster::start_node(&lab, &state, &plan, host)?;
    if state.agents {
        let api = Kubernetes::connect(&kubeconfig)?;
        cluster::wait_ready(&api, &records, &[node], progress)?;
        let mut others = false;
        for tor in &plan.tors {
            others |= !fabric::sessions(&lab, &plan, &tor.name)?.is_empty();
        }
        if others {
            wait_established(&lab, &plan, &records, &[node])?;
            progress.say(format!("{node}: every BGP session is Established"));
        }
    }
    Ok(())
}

/// Lays one more cable to a host: an interface with addresses, and a next hop of its default routes.
pub(crate) fn cable(lab: &str, host: &str, tor: &str) -> Result<()> {
    let lab = Lab::open(lab)?;
    let mut state = lab.load()?;
    let names = |all: Vec<&str>| all.join(", ");
    if !state.topology.tors.iter().any(|known| known.name == tor) {
        let known = names(state.topology.tors.iter().map(|tor| tor.name.as_str()).collect());
        bail!("lab {} has no ToR \"{tor}\"; it has {known}", lab.name);
    }
    let Some(spec) = state.topology.hosts.iter_mut().find(|known| known.name == host) else {
        let known = names(state.topology.hosts.iter().map(|host| host.name.as_str()).collect());
        bail!("lab {} has no host \"{host}\"; it has {known}", lab.name);
    };
    if spec.cables.iter().any(|known| known == tor) {
        bail!("{host} has a cable to {tor} already; causeway-lab link up {} {host} {tor} mends it", lab.name);
    }
    spec.cables.push(tor.into());
    let plan = state.plan()?;
    wiring::add_cable(&lab, plan.host(host).context("a host of the topology is in the plan")?)?;
    lab.save(&state)
}

/// Ends what runs on a node and takes the node out of cluster and rack.
pub(crate) fn remove(lab: &str, node: &str) -> Result<()> {
    let progress = Progress::start();
    let lab = Lab::open(lab)?;
    let mut state = lab.load()?;
    let plan = state.plan()?;
    let host = match plan.host(node) {
        Some(host) if matches!(host.role, Role::Node { .. }) => host,
        _ => {
            let names: Vec<&str> = plan
                .hosts
                .iter()
                .filter(|host| matches!(host.role, Role::Node { .. }))
                .map(|host| host.name.as_str())
                .collect();
            bail!("lab {} has no node \"{node}\"; it has {}", lab.name, names.join(", "));
        }
    };
    let records: Vec<_> =
        process::all(&lab).into_iter().filter(|record| record.spec.host.as_deref() == Some(node)).collect();
    // The ToRs end the sessions: of an agent that merely went away they would keep the routes, for its restart.
    for cable in &host.cables {
        for peer in [cable.v4.addr().to_string(), cable.v6.addr().to_string()] {
            fabric::vtysh(&lab, &cable.tor, &format!("clear bgp {peer}"))?;
        }
    }
    // The kubelet first: it would start again what ends.
    let (kubelets, others): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.spec.name.starts_with("kubelet-"));
    process::end(&kubelets.iter().map(|record| record.id).collect::<Vec<_>>(), down::GRACE);
    let pods: Vec<PodRecord> = process::read_records(&lab.host(node).join("pods"));
    let mut ids: Vec<_> = pods.iter().flat_map(PodRecord::processes).collect();
    ids.extend(others.iter().map(|record| record.id));
    process::end(&ids, down::GRACE);
    for record in &records {
        let _ = std::fs::remove_file(lab.processes().join(format!("{}.json", record.spec.name)));
    }
    wiring::remove_host(&lab, host)?;
    for pod in &pods {
        if let Some(name) = pod.netns.file_name().and_then(|name| name.to_str()).filter(|_| !pod.host_network) {
            netns::remove(name)?;
        }
    }
    netns::remove(&lab.netns(node))?;
    down::remove_tree(&lab.bpf(node))?;
    down::remove_tree(&lab.host(node))?;
    let kubeconfig = lab.outer_kubeconfig(host.cluster_name());
    if kubeconfig.is_file() {
        let api = Kubernetes::connect(&kubeconfig)?;
        api.delete_node(node)?;
        api.delete_pods_of(node)?;
    }
    state.topology.hosts.retain(|host| host.name != node);
    lab.save(&state)?;
    progress.say(format!("{node} is gone"));
    Ok(())
}
