//! Answers as tables. Columns are those that users of Cilium's tools know, where there are such.

use std::fmt::Write as _;

use causeway_api::bgp::{Family, Peer, Route};
use causeway_api::datapath::{Backend, Count, Endpoint, Flow, Identity, Ip, Node, Service};
use causeway_api::status::{Health, Status};

use crate::table::Table;

pub(crate) fn status(status: &Status, verbose: bool) -> String {
    let mut text = String::new();
    let verdict = if status.healthy { "healthy" } else { "NOT HEALTHY" };
    let _ = writeln!(
        text,
        "{} in cluster {}: {verdict} (agent {}, up {})\n",
        status.node,
        status.cluster,
        status.version,
        duration(status.uptime_s)
    );
    let mut components = Table::new(&["Component", "Health", ""]);
    for c in &status.components {
        components.row([c.name.clone(), health(c.health).into(), c.message.clone()]);
    }
    text += &components.render();
    if let Some(encryption) = status.components.iter().find(|c| c.name == "encryption") {
        text += &crate::encrypt::line(&encryption.message);
    }
    if !status.rejected.is_empty() {
        let _ = writeln!(text, "\nRejected objects: {} (the agent goes on without them)", status.rejected.len());
        for r in &status.rejected {
            let field = if r.field.is_empty() { String::new() } else { format!(" {}:", r.field) };
            let _ = writeln!(text, "  {} {}:{field} {}; remedy: {}", r.kind, r.name, r.message, r.remedy);
        }
    }
    let failed = status.tables.iter().filter(|t| t.failed > 0);
    for t in failed.filter(|_| !verbose) {
        let _ = writeln!(text, "\nTable {}: {} rows failed, as {}", t.name, t.failed, t.error);
    }
    if verbose {
        text.push('\n');
        let mut tables = Table::new(&["Table", "Rows", "Pending", "Failed", "Revision", "Synced", "Error"]);
        for t in &status.tables {
            tables.row([
                t.name.clone(),
                t.rows.to_string(),
                t.pending.to_string(),
                t.failed.to_string(),
                t.revision.to_string(),
                yes(t.synced),
                t.error.clone(),
            ]);
        }
        text += &tables.render();
        text.push('\n');
        let mut probes = Table::new(&["Kernel feature", "Available", ""]);
        for p in &status.probes {
            probes.row([p.name.clone(), yes(p.ok), p.message.clone()]);
        }
        text += &probes.render();
    }
    text
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Ok => "OK",
        Health::Degraded => "Degraded",
        Health::Failed => "Failed",
        Health::Starting => "Starting",
        Health::Disabled => "Disabled",
    }
}

pub(crate) fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

/// As Cilium's `bgp peers`: a line per family, the session on the first.
pub(crate) fn peers(peers: &[Peer]) -> String {
    let mut t = Table::new(&[
        "Node",
        "Local AS",
        "Peer AS",
        "Peer Address",
        "Session State",
        "Uptime",
        "Family",
        "Received",
        "Advertised",
        "Peer",
        "Last error",
    ]);
    for p in peers {
        let families: Vec<[String; 3]> = if p.families.is_empty() {
            vec![[String::new(), String::new(), String::new()]]
        } else {
            p.families
                .iter()
                .map(|f| [format!("{}/unicast", family(f.family)), f.received.to_string(), f.advertised.to_string()])
                .collect()
        };
        for (i, [family, received, advertised]) in families.into_iter().enumerate() {
            let first = |text: String| if i == 0 { text } else { String::new() };
            t.row([
                first(p.node.clone()),
                first(p.local_asn.to_string()),
                first(if p.peer_asn == 0 { "any".into() } else { p.peer_asn.to_string() }),
                first(p.peer_address.to_string()),
                first(p.state.clone()),
                first(p.uptime_s.map_or("-".into(), duration)),
                family,
                received,
                advertised,
                first(format!("{}/{}", p.instance, p.peer)),
                first(if p.state == "established" { String::new() } else { p.last_error.clone() }),
            ]);
        }
    }
    t.render()
}

fn family(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

/// As Cilium's `bgp routes`, with the reason in place of an age that an originator's routes do not have.
pub(crate) fn routes(routes: &[Route], advertised: bool) -> String {
    let mut t = if advertised {
        Table::new(&["Node", "VRouter", "Peer", "Prefix", "NextHop", "Attrs", "Origin"])
    } else {
        Table::new(&["Node", "VRouter", "Prefix", "NextHop", "Attrs", "Origin"])
    };
    for r in routes {
        let mut attrs = Vec::new();
        if !r.communities.is_empty() {
            attrs.push(format!("communities {}", r.communities.join(" ")));
        }
        attrs.extend(r.local_pref.map(|p| format!("local-pref {p}")));
        attrs.extend(r.med.map(|m| format!("med {m}")));
        let attrs = attrs.join(", ");
        let (node, vrouter, prefix) = (r.node.clone(), r.local_asn.to_string(), r.prefix.to_string());
        let next_hop = r.next_hop.to_string();
        if advertised {
            let peer = r.peer_address.map(|a| a.to_string()).unwrap_or_default();
            t.row([node, vrouter, peer, prefix, next_hop, attrs, r.origin.clone()]);
        } else {
            t.row([node, vrouter, prefix, next_hop, attrs, r.origin.clone()]);
        }
    }
    t.render()
}

pub(crate) fn services(services: &[Service]) -> String {
    let mut t = Table::new(&["Frontend", "Service Type", "Name", "Traffic", "State", "Backends"]);
    for s in services {
        let traffic = if s.external_local || s.internal_local { "Local" } else { "Cluster" };
        let backends: Vec<String> = s.backends.iter().map(backend).collect();
        let state = if s.error.is_empty() { s.state.clone() } else { format!("{}: {}", s.state, s.error) };
        t.row([
            format!("{}/{}", s.frontend, s.protocol),
            s.service_type.clone(),
            format!("{}/{}", s.namespace, s.name),
            traffic.into(),
            state,
            if backends.is_empty() { "none".into() } else { backends.join(" ") },
        ]);
    }
    t.render() + "* on this node; @cluster: in another cluster\n"
}

fn backend(b: &Backend) -> String {
    let mark = if b.local { "*" } else { "" };
    if b.cluster.is_empty() { format!("{}{mark}", b.address) } else { format!("{}@{}", b.address, b.cluster) }
}

pub(crate) fn nodes(nodes: &[Node]) -> String {
    let mut t = Table::new(&["Node", "Addresses", "Pod CIDRs"]);
    for n in nodes {
        let words = |list: Vec<String>| if list.is_empty() { "-".to_owned() } else { list.join(" ") };
        t.row([
            n.name.clone(),
            words(n.addresses.iter().map(ToString::to_string).collect()),
            words(n.pod_cidrs.iter().map(ToString::to_string).collect()),
        ]);
    }
    t.render()
}

pub(crate) fn endpoints(endpoints: &[Endpoint]) -> String {
    let mut t = Table::new(&["Endpoint", "Identity", "IPv4", "IPv6", "State", "Pod", "Interface", "Labels"]);
    for e in endpoints {
        let ip = |ip: Option<std::net::IpAddr>| ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        t.row([
            e.id.to_string(),
            e.identity.to_string(),
            ip(e.ipv4),
            ip(e.ipv6),
            e.state.clone(),
            format!("{}/{}", e.namespace, e.pod),
            e.interface.clone(),
            e.labels.join(" "),
        ]);
    }
    t.render()
}

pub(crate) fn identities(identities: &[Identity]) -> String {
    let mut t = Table::new(&["ID", "Cluster", "Labels"]);
    for i in identities {
        let cluster = if i.cluster.is_empty() { "-".to_owned() } else { i.cluster.clone() };
        t.row([i.id.to_string(), cluster, i.labels.join(" ")]);
    }
    t.render()
}

pub(crate) fn ips(ips: &[Ip]) -> String {
    let mut t = Table::new(&["IP", "Identity", "In cluster", "State", "Source"]);
    for i in ips {
        t.row([i.prefix.to_string(), i.identity.to_string(), yes(i.in_cluster), i.state.clone(), i.source.clone()]);
    }
    t.render()
}

pub(crate) fn counts(counts: &[Count], all: bool) -> String {
    let mut t = Table::new(&["Reason", "Direction", "Packets", "Bytes"]);
    let shown = counts.iter().filter(|c| all || (c.drop && c.packets > 0));
    let mut rows = 0;
    for c in shown {
        rows += 1;
        let reason = if c.drop { c.reason.clone() } else { format!("{} (not a drop)", c.reason) };
        t.row([reason, c.direction.clone(), c.packets.to_string(), c.bytes.to_string()]);
    }
    if rows == 0 { "no packet was dropped\n".into() } else { t.render() }
}

pub(crate) fn flows(flows: &[Flow]) -> String {
    let mut t =
        Table::new(&["Proto", "Source", "Destination", "becomes Source", "becomes Destination", "Flags", "Expires"]);
    for f in flows {
        let becomes = |from: std::net::SocketAddr, to: std::net::SocketAddr| {
            if from == to { "=".to_owned() } else { to.to_string() }
        };
        t.row([
            f.protocol.clone(),
            f.source.to_string(),
            f.destination.to_string(),
            becomes(f.source, f.to_source),
            becomes(f.destination, f.to_destination),
            f.flags.join(","),
            duration(u64::from(f.expires_in_s)),
        ]);
    }
    t.render()
}

/// `1d2h3m4s` without leading zeros.
pub(crate) fn duration(seconds: u64) -> String {
    let parts = [(seconds / 86_400, 'd'), (seconds / 3600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String = parts.iter().skip_while(|(n, _)| *n == 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_api::bgp::PeerFamily;
    use causeway_api::status::{Component, Rejected};

    #[test]
    fn durations_are_short() {
        for (s, text) in [(0, "0s"), (59, "59s"), (60, "1m0s"), (3_661, "1h1m1s"), (90_000, "1d1h0m0s")] {
            assert_eq!(duration(s), text);
        }
    }

    #[test]
    fn status_names_rejected_objects_with_the_remedy() {
        let status = Status {
            node: "n1".into(),
            cluster: "rack".into(),
            version: "0.1.0".into(),
            uptime_s: 61,
            healthy: true,
            components: vec![Component { name: "bgp".into(), health: Health::Ok, message: "4 of 4 sessions".into() }],
            probes: vec![],
            tables: vec![],
            rejected: vec![Rejected {
                kind: "CiliumBGPPeerConfig".into(),
                name: "bad".into(),
                field: "spec.timers".into(),
                message: "too short".into(),
                remedy: "write 3 or more".into(),
            }],
        };
        assert_eq!(
            super::status(&status, false),
            "n1 in cluster rack: healthy (agent 0.1.0, up 1m1s)\n\n\
             Component   Health\n\
             bgp         OK       4 of 4 sessions\n\n\
             Rejected objects: 1 (the agent goes on without them)\n  \
             CiliumBGPPeerConfig bad: spec.timers: too short; remedy: write 3 or more\n"
        );
    }

    #[test]
    fn a_peer_has_a_line_per_family() {
        let peer = Peer {
            node: "n1".into(),
            instance: "rack".into(),
            peer: "tor1".into(),
            local_asn: 65010,
            peer_asn: 65101,
            peer_address: "172.16.1.1".parse().unwrap(),
            peer_port: 179,
            state: "established".into(),
            uptime_s: Some(75),
            applied_hold_time_s: 9,
            applied_keepalive_s: 3,
            graceful_restart: true,
            families: vec![
                PeerFamily { family: Family::Ipv4, received: 1, advertised: 3 },
                PeerFamily { family: Family::Ipv6, received: 0, advertised: 2 },
            ],
            withdrawals_sent: 0,
            last_error: "old".into(),
        };
        let text = peers(&[peer]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("Node   Local AS   Peer AS   Peer Address   Session State   Uptime   Family"));
        assert!(lines[1].contains("65101     172.16.1.1     established     1m15s    ipv4/unicast   1          3"));
        assert!(lines[2].trim_start().starts_with("ipv6/unicast"));
        assert!(!text.contains("old"), "an error of the past is no news of a session that is up");
    }

    #[test]
    fn drops_that_did_not_happen_are_not_shown() {
        let count = |reason: &str, drop, packets| Count {
            reason: reason.into(),
            direction: "ingress".into(),
            drop,
            packets,
            bytes: 0,
        };
        let rows = [count("no-service", true, 2), count("invalid-packet", true, 0), count("to-stack", false, 9)];
        assert_eq!(counts(&rows, false).lines().count(), 2);
        assert_eq!(counts(&rows, true).lines().count(), 4);
        assert_eq!(counts(&rows[1..2], false), "no packet was dropped\n");
    }
}
