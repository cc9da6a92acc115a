//! What packets do: from outside through both ToRs to pods on all nodes, between pods, to ClusterIPs, out of the cluster.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::{NODES, Pod, deployed, get, pair_of, pods, url, vips};
use crate::lab::{Lab, text, tool_path};
use crate::report::{Report, until};

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = deployed("e2e-reach")?;
    let pods = pods(&lab, "echo")?;
    let cluster = vips(&lab, "echo-cluster")?;
    let local = vips(&lab, "echo-local")?;
    for (family, vip) in [("IPv4", &cluster.0), ("IPv6", &cluster.1)] {
        report.show(&format!("200 requests from the outside client, {family}"), || from_outside(&lab, vip, pods.len()));
    }
    for (family, vip, client) in [("IPv4", &local.0, "10.9.0.10"), ("IPv6", &local.1, "fd00:9::10")] {
        report.show(&format!("externalTrafficPolicy Local keeps the client's address, {family}"), || {
            keeps_client(&lab, vip, client)
        });
    }
    report.show("pod to pod across nodes, both families", || pod_to_pod(&lab, &pods));
    report.show("pod to pod on one node, both families", || same_node(&lab, &pods));
    report.show("pod to ClusterIP, both families", || cluster_ip(&lab, &pods));
    report.show("a pod reaches itself through its Service", || hairpin(&lab, &pods));
    report.show("UDP from pod to ClusterIP and from outside to LoadBalancer IP", || udp(&lab, &pods, &cluster));
    report.show("outside client straight to a pod's address: no masquerade on the way back", || direct(&lab, &pods));
    report.show("traffic that leaves the cluster carries the node's address", || masquerade(&lab, &pods));
    report.show("a port that no Service has is refused, not looped", || no_such_port(&lab, &cluster.0));
    report.show("a pod learns the path MTU from an ICMP error, through a Service", || path_mtu(&lab));
    report.show("traceroute from a pod: ICMP errors come back", || traceroute(&lab, &pods));
    lab.down()
}

fn all_answered(lab: &Lab, from: &str, url: &str, count: u32) -> Result<crate::kit::Answers> {
    let answers = get(lab, from, url, count)?;
    ensure!(answers.failed == 0, "{} of {} requests from {from} to {url} failed", answers.failed, answers.total);
    Ok(answers)
}

fn from_outside(lab: &Lab, vip: &str, replicas: usize) -> Result<String> {
    until(Duration::from_secs(20), "the address answers", || all_answered(lab, "client", &url(vip, 80), 1))?;
    let answers = all_answered(lab, "client", &url(vip, 80), 200)?;
    ensure!(answers.pods.len() == replicas, "only these pods answered: {:?}", answers.pods);
    ensure!(answers.nodes.len() == NODES.len(), "only these nodes answered: {:?}", answers.nodes);
    let least = answers.pods.values().min().copied().unwrap_or(0);
    let most = answers.pods.values().max().copied().unwrap_or(0);
    Ok(format!(
        "{} pods on {} nodes, {least} to {most} requests each, 0 failed",
        answers.pods.len(),
        answers.nodes.len()
    ))
}

fn keeps_client(lab: &Lab, vip: &str, client: &str) -> Result<String> {
    until(Duration::from_secs(20), "the address answers", || all_answered(lab, "client", &url(vip, 80), 1))?;
    let answers = all_answered(lab, "client", &url(vip, 80), 50)?;
    ensure!(answers.clients.len() == 1 && answers.clients.contains_key(client), "the pods saw {:?}", answers.clients);
    Ok(format!("50 requests, all seen as {client}"))
}

fn on_other_node<'a>(pods: &'a [Pod], from: &Pod) -> Result<&'a Pod> {
    pods.iter().find(|p| p.node != from.node).context("all pods are on one node")
}

fn pod_to_pod(lab: &Lab, pods: &[Pod]) -> Result<String> {
    let from = &pods[0];
    let to = on_other_node(pods, from)?;
    for addr in [&to.v4, &to.v6] {
        let answers = all_answered(lab, &from.name, &url(addr, 8080), 20)?;
        let own = if addr.contains(':') { &from.v6 } else { &from.v4 };
        ensure!(answers.clients.keys().eq([own]), "{} saw {:?}, not {own}", to.name, answers.clients);
    }
    Ok(format!("{} to {}, 40 requests, source kept", from.node, to.node))
}

fn same_node(lab: &Lab, pods: &[Pod]) -> Result<String> {
    for from in pods {
        if let Some(to) = pods.iter().find(|p| p.node == from.node && p.name != from.name) {
            for addr in [&to.v4, &to.v6] {
                all_answered(lab, &from.name, &url(addr, 8080), 20)?;
            }
            return Ok(format!("on {}, 40 requests", from.node));
        }
    }
    bail!("no two pods share a node")
}

fn cluster_ips(lab: &Lab, service: &str) -> Result<(String, String)> {
    let json = lab.kubectl_json(&["get", "service", service])?;
    let all: Vec<String> = json["spec"]["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    pair_of(&all)
}

fn cluster_ip(lab: &Lab, pods: &[Pod]) -> Result<String> {
    let (v4, v6) = cluster_ips(lab, "echo")?;
    let mut reached = 0;
    for addr in [&v4, &v6] {
        let answers = all_answered(lab, &pods[0].name, &url(addr, 80), 60)?;
        ensure!(answers.pods.len() == pods.len(), "only these pods answered: {:?}", answers.pods);
        reached = answers.pods.len();
    }
    Ok(format!("120 requests over {reached} pods, 0 failed"))
}

/// With every backend answering in turn, some answers come from the asking pod itself.
fn hairpin(lab: &Lab, pods: &[Pod]) -> Result<String> {
    let (v4, v6) = cluster_ips(lab, "echo")?;
    let own = &pods[0].name;
    let mut count = 0;
    for addr in [&v4, &v6] {
        let answers = all_answered(lab, own, &url(addr, 80), 60)?;
        let hits = answers.pods.get(own).copied().unwrap_or(0);
        ensure!(hits > 0, "{own} never answered itself through {addr}: {:?}", answers.pods);
        count += hits;
    }
    Ok(format!("{count} of 120 requests were answered by the pod that asked"))
}

fn udp(lab: &Lab, pods: &[Pod], vip: &(String, String)) -> Result<String> {
    let (cluster4, cluster6) = cluster_ips(lab, "echo")?;
    let echo = tool_path("causeway-echo")?;
    let mut total = 0;
    for (from, addr) in
        [(pods[0].name.as_str(), &cluster4), (pods[0].name.as_str(), &cluster6), ("client", &vip.0), ("client", &vip.1)]
    {
        let target = if addr.contains(':') { format!("udp://[{addr}]:82") } else { format!("udp://{addr}:82") };
        lab.exec(from, &[&echo, "get", &target, "--count", "20", "--json"])
            .with_context(|| format!("{target} from {from}"))?;
        total += 20;
    }
    Ok(format!("{total} datagrams answered"))
}

fn direct(lab: &Lab, pods: &[Pod]) -> Result<String> {
    let to = &pods[0];
    for (addr, client) in [(&to.v4, "10.9.0.10"), (&to.v6, "fd00:9::10")] {
        let answers = all_answered(lab, "client", &url(addr, 8080), 10)?;
        ensure!(answers.clients.contains_key(client), "{} saw {:?}", to.name, answers.clients);
    }
    Ok(format!("20 requests to {} and {}", to.v4, to.v6))
}

/// The client runs an echo server; a pod's request must arrive from the address of the pod's node.
fn masquerade(lab: &Lab, pods: &[Pod]) -> Result<String> {
    let echo = tool_path("causeway-echo")?;
    let mut server = lab.spawn("client", &[&echo, "serve", "--http", "7000"])?;
    let result = (|| {
        let mut seen = Vec::new();
        for (addr, field) in [("10.9.0.10", 0), ("fd00:9::10", 1)] {
            let (answers, _) = until(Duration::from_secs(10), "the client's server answers", || {
                all_answered(lab, &pods[0].name, &url(addr, 7000), 5)
            })?;
            let node = lab.kubectl_json(&["get", "node", &pods[0].node])?;
            let internal: Vec<String> = node["status"]["addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|a| a["type"] == "InternalIP")
                .filter_map(|a| a["address"].as_str().map(str::to_owned))
                .collect();
            let (v4, v6) = pair_of(&internal)?;
            let own = if field == 0 { v4 } else { v6 };
            ensure!(answers.clients.keys().eq([&own]), "the client saw {:?}, not {own}", answers.clients);
            seen.push(own);
        }
        Ok(format!("a pod on {} is seen as {}", pods[0].node, seen.join(" and ")))
    })();
    let _ = server.kill();
    let _ = server.wait();
    result
}

fn no_such_port(lab: &Lab, vip: &str) -> Result<String> {
    let before = drops(lab, "no-service")?;
    let echo = tool_path("causeway-echo")?;
    let out = lab.command("client", &[&echo, "get", &url(vip, 83), "--count", "1", "--timeout", "1"])?.output()?;
    ensure!(!out.status.success(), "port 83 answered: {}", text(&out));
    let after = drops(lab, "no-service")?;
    ensure!(after > before, "the counter no-service stood still at {before}");
    Ok(format!("counted as no-service: {before} -> {after} on all nodes"))
}

/// Packets of a drop counter over all nodes.
fn drops(lab: &Lab, name: &str) -> Result<u64> {
    let mut sum = 0;
    for node in NODES {
        let json = lab.causeway_json(node, &["drops"])?;
        for row in json.as_array().context("rows")? {
            if row["reason"].as_str() == Some(name) || row["name"].as_str() == Some(name) {
                sum += row["packets"].as_u64().unwrap_or(0);
            }
        }
    }
    Ok(sum)
}

/// The ToRs' links to the client's side get a smaller MTU; a large answer from a pod behind a LoadBalancer IP must still
/// arrive, which needs the ICMP errors to find their way through the translation. One node announces the address: with
/// several, a ToR would send its ICMP error to any of them.
fn path_mtu(lab: &Lab) -> Result<String> {
    lab.apply(super::SOLO)?;
    lab.kubectl(&["rollout", "status", "deployment/solo", "--timeout=30s"])?;
    for tor in super::TORS {
        lab.exec(tor, &["ip", "link", "set", "out", "mtu", "1300"])?;
    }
    let (v4, v6) = vips(lab, "solo")?;
    let echo = tool_path("causeway-echo")?;
    for addr in [&v4, &v6] {
        until(Duration::from_secs(20), "the address answers", || all_answered(lab, "client", &url(addr, 80), 1))?;
        let target = format!("{}?bytes=200000", url(addr, 80));
        lab.exec("client", &[&echo, "get", &target, "--count", "6", "--timeout", "5"]).with_context(|| target)?;
    }
    for tor in super::TORS {
        lab.exec(tor, &["ip", "link", "set", "out", "mtu", "1500"])?;
    }
    Ok("12 answers of 200 kB over a path of 1300 bytes".to_owned())
}

fn traceroute(lab: &Lab, pods: &[Pod]) -> Result<String> {
    // ping with a small TTL: the ToR's "time exceeded" must reach the pod although its echo was masqueraded.
    let out = lab.command(&pods[0].name, &["ping", "-c", "1", "-W", "2", "-t", "2", "10.9.0.10"])?.output()?;
    let printed = text(&out);
    ensure!(printed.to_lowercase().contains("time to live exceeded"), "{printed}");
    let hop = printed.lines().find(|l| l.contains("exceeded")).unwrap_or_default().trim().to_owned();
    Ok(hop)
}
