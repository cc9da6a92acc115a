//! Faults on purpose: links that are cut, hosts and clusters that do not hear each other, processes that stand still.
//!
//! A partition is a set of nftables rules in every ToR; all traffic between hosts passes one. What is in force is
//! written down in the lab's directory, and the rules always follow from the whole of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use topology::plan::{HostPlan, Plan};
use topology::spec::Role;

use crate::kubernetes::Kubernetes;
use crate::netns;
use crate::state::{Lab, write_whole};
use crate::wiring;

/// The lab's nftables table in each ToR.
const TABLE: &str = "causeway_lab";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkState {
    Up,
    Down,
}

#[derive(Args)]
pub(crate) struct Between {
    /// A host or a cluster
    #[arg(long, value_name = "NAME")]
    from: String,
    /// A host or a cluster
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Only what `from` sends is lost
    #[arg(long)]
    one_way: bool,
}

/// Traffic that is lost: from whom, to whom, and their addresses when it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Loss {
    from: String,
    to: String,
    sources: Vec<IpNet>,
    targets: Vec<IpNet>,
}

/// `link`. A link between ToRs is cut at both ends, a host's cable at the ToR's alone: the host merely sees that nobody
/// is there any more, and keeps its routes for later.
pub(crate) fn link(lab: &str, state: LinkState, a: &str, b: &str) -> Result<()> {
    let lab = Lab::open(lab)?;
    let plan = lab.load()?.plan()?;
    let same = |one: &str, other: &str| (one, other) == (a, b) || (other, one) == (a, b);
    let up = state == LinkState::Up;
    if let Some(link) = plan.links.iter().find(|link| same(&link.a.tor, &link.b.tor)) {
        wiring::set_interface(&lab, &link.a.tor, &link.b.tor, up)?;
        return wiring::set_interface(&lab, &link.b.tor, &link.a.tor, up);
    }
    let mut cables = plan.hosts.iter().flat_map(|host| host.cables.iter().map(move |cable| (host, cable)));
    match cables.find(|(host, cable)| same(&host.name, &cable.tor)) {
        Some((host, cable)) => wiring::set_interface(&lab, &cable.tor, &host.name, up),
        None => {
            let all: Vec<String> = plan.links.iter().map(|link| format!("{} {}", link.a.tor, link.b.tor)).collect();
            let all = if all.is_empty() { "none".into() } else { all.join(", ") };
            bail!("lab {} has no cable between {a} and {b}; links between its ToRs: {all}", lab.name)
        }
    }
}

/// `partition`.
pub(crate) fn partition(lab: &str, between: &Between) -> Result<()> {
    let lab = Lab::open(lab)?;
    let plan = lab.load()?.plan()?;
    let (from, to) = (addresses(&lab, &plan, &between.from)?, addresses(&lab, &plan, &between.to)?);
    let loss = |from: &str, to: &str, sources: &[IpNet], targets: &[IpNet]| Loss {
        from: from.into(),
        to: to.into(),
        sources: sources.to_vec(),
        targets: targets.to_vec(),
    };
    let mut losses = vec![loss(&between.from, &between.to, &from, &to)];
    if !between.one_way {
        losses.push(loss(&between.to, &between.from, &to, &from));
    }
    let mut all = read(&lab)?;
    all.retain(|known| losses.iter().all(|new| (&known.from, &known.to) != (&new.from, &new.to)));
    all.extend(losses);
    enforce(&lab, &plan, &all)
}

/// `heal`: one pair in both directions, or everything.
pub(crate) fn heal(lab: &str, pair: Option<(&str, &str)>) -> Result<()> {
    let lab = Lab::open(lab)?;
    let plan = lab.load()?.plan()?;
    let mut all = read(&lab)?;
    let Some((a, b)) = pair else { return enforce(&lab, &plan, &[]) };
    let before = all.len();
    all.retain(|loss| {
        (loss.from.as_str(), loss.to.as_str()) != (a, b) && (loss.to.as_str(), loss.from.as_str()) != (a, b)
    });
    if all.len() == before {
        bail!("lab {} has no partition between {a} and {b}; heal without --from and --to ends all", lab.name);
    }
    enforce(&lab, &plan, &all)
}

/// What a host or a cluster sends from and receives at.
fn addresses(lab: &Lab, plan: &Plan, name: &str) -> Result<Vec<IpNet>> {
    if let Some(host) = plan.host(name) {
        let mut all = of_host(host);
        if matches!(host.role, Role::Node { .. }) {
            all.extend(pod_ranges(lab, host)?);
        }
        return Ok(all);
    }
    if let Some(cluster) = plan.cluster(name) {
        let hosts = plan.hosts.iter().filter(|host| host.cluster_name() == name);
        let ranges = [cluster.pods, cluster.load_balancers];
        let ranges = ranges.into_iter().flat_map(|range| [IpNet::V4(range.v4), IpNet::V6(range.v6)]);
        return Ok(hosts.flat_map(of_host).chain(ranges).collect());
    }
    let known = plan.clusters.iter().map(|cluster| cluster.name.as_str());
    let known: Vec<&str> = known.chain(plan.hosts.iter().map(|host| host.name.as_str())).collect();
    bail!("lab {} has no host or cluster \"{name}\"; it has {}", lab.name, known.join(", "))
}

fn of_host(host: &HostPlan) -> Vec<IpNet> {
    let loopback = [IpAddr::V4(host.loopback.v4), IpAddr::V6(host.loopback.v6)];
    let cables = host.cables.iter().flat_map(|cable| [IpAddr::V4(cable.v4.addr()), IpAddr::V6(cable.v6.addr())]);
    loopback.into_iter().chain(cables).map(IpNet::from).collect()
}

/// The pods of a node, when its cluster has an API.
fn pod_ranges(lab: &Lab, host: &HostPlan) -> Result<Vec<IpNet>> {
    let kubeconfig = lab.outer_kubeconfig(host.cluster_name());
    if !kubeconfig.is_file() {
        return Ok(Vec::new());
    }
    let ranges = Kubernetes::connect(&kubeconfig)?.pod_ranges(&host.name)?;
    ranges.iter().map(|text| text.parse().with_context(|| format!("{}: pod range {text}", host.name))).collect()
}

fn file(lab: &Lab) -> PathBuf {
    lab.dir.join("partitions.json")
}

fn read(lab: &Lab) -> Result<Vec<Loss>> {
    let path = file(lab);
    match std::fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("{} is not what a lab writes", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn enforce(lab: &Lab, plan: &Plan, losses: &[Loss]) -> Result<()> {
    let rules = rules(losses);
    wiring::each(plan.tors.iter().map(|tor| {
        let (namespace, rules) = (lab.netns(&tor.name), &rules);
        move || netns::inside(&netns::path(&namespace), || nft(rules)).with_context(|| tor.name.clone())
    }))?;
    write_whole(&file(lab), &serde_json::to_vec_pretty(losses)?, 0o644)
}

/// The whole table anew, in one transaction. The first line makes the second one never fail.
fn rules(losses: &[Loss]) -> String {
    let mut text = format!("table inet {TABLE}\ndelete table inet {TABLE}\n");
    if losses.is_empty() {
        return text;
    }
    let _ = writeln!(text, "table inet {TABLE} {{\n  chain lost {{\n    type filter hook forward priority 0;");
    for loss in losses {
        for (family, v4) in [("ip", true), ("ip6", false)] {
            let list = |all: &[IpNet]| {
                let mut nets: Vec<IpNet> =
                    all.iter().filter(|net| matches!(net, IpNet::V4(_)) == v4).copied().collect();
                nets = IpNet::aggregate(&nets);
                nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let (sources, targets) = (list(&loss.sources), list(&loss.targets));
            if !sources.is_empty() && !targets.is_empty() {
                let _ =
                    writeln!(text, "    {family} saddr {{ {sources} }} {family} daddr {{ {targets} }} counter drop");
            }
        }
    }
    text.push_str("  }\n}\n");
    text
}

fn nft(rules: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft; install nftables")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe means that `nft` has failed; it says why below.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_each_family_by_itself() {
        let nets = |all: &[&str]| all.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>();
        let loss = Loss {
            from: "east".into(),
            to: "w1".into(),
            sources: nets(&["10.1.0.0/16", "10.1.4.0/24", "fd00:1::/48"]),
            targets: nets(&["10.0.1.11/32", "fd00:10:1::11/128"]),
        };
        let text = rules(&[loss]);
        assert!(text.contains("ip saddr { 10.1.0.0/16 } ip daddr { 10.0.1.11/32 } counter drop"), "{text}");
        assert!(text.contains("ip6 saddr { fd00:1::/48 } ip6 daddr { fd00:10:1::11/128 } counter drop"), "{text}");
        assert!(!rules(&[]).contains("chain"));
    }
}
