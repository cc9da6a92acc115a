//! Addresses of everything in a topology: a pure function of it.
//!
//! T and L are a ToR's and a link's place in the file from 1, C a cluster's place from 0, N a host's number. Numbers in IPv6 addresses are
//! written with the same decimal digits as in IPv4, so that `10.0.0.11` and `fd00:10::11` are seen to belong together.
//!
//! | what                      | IPv4              | IPv6                  |
//! |---------------------------|-------------------|-----------------------|
//! | ToR's bridge `rack`       | 172.16.T.1/24     | fd00:16:T::1/64       |
//! | ToR's bridge `out`        | 172.17.T.1/24     | fd00:17:T::1/64       |
//! | link L, its ends `a`, `b` | 172.18.L.1,2/30   | fd00:18:L::1,2/64     |
//! | loopback of node N        | 10.0.C.(10+N)     | fd00:10:C::(10+N)     |
//! | loopback of control plane | 10.0.C.5          | fd00:10:C::5          |
//! | loopback of client N      | 10.9.0.(9+N)      | fd00:9::(9+N)         |
//!
//! On a bridge a host has the last number of its loopback, plus 50 for each cluster before its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::spec::{Cluster, Host, Role, Software, Topology};

/// Clusters in one topology: each takes 50 of the 250 addresses of a rack bridge.
pub const MAX_CLUSTERS: usize = 4;
/// Nodes of one cluster: 11 to 49 on the rack bridge.
pub const MAX_NODES: u8 = 39;
/// Clients: 10 to 99 on the `out` bridge.
pub const MAX_CLIENTS: u8 = 90;
/// ToRs: the number stands in an IPv4 byte and in four IPv6 digits alike.
pub const MAX_TORS: usize = 99;
/// Links between ToRs, for the same reason.
pub const MAX_LINKS: usize = 99;
/// The port of every cluster's API server.
pub const API_PORT: u16 = 6443;

/// The ranges that all loopbacks lie in: of clusters, of clients.
pub const LOOPBACKS: [(&str, &str); 2] = [("10.0.0.0/16", "fd00:10::/32"), ("10.9.0.0/24", "fd00:9::/48")];

/// A pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// Everything that the lab configures, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub name: String,
    pub clusters: Vec<Cluster>,
    pub tors: Vec<TorPlan>,
    pub links: Vec<LinkPlan>,
    pub hosts: Vec<HostPlan>,
}

/// A switch with its two bridges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorPlan {
    pub name: String,
    pub asn: u32,
    pub software: Software,
    pub router_id: Ipv4Addr,
    pub rack: BridgePlan,
    pub out: BridgePlan,
}

/// A bridge and the ToR's own addresses on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BridgePlan {
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

/// A cable between two ToRs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    pub a: LinkEnd,
    pub b: LinkEnd,
}

/// One end of a link. In its ToR the interface has the name of the ToR at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkEnd {
    pub tor: String,
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

/// A host with its loopback and cables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlan {
    pub name: String,
    pub role: Role,
    pub loopback: Pair,
    pub cables: Vec<CablePlan>,
}

impl HostPlan {
    /// The cluster it belongs to; empty for a client.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        match &self.role {
            Role::Node { cluster } | Role::ControlPlane { cluster } => cluster,
            Role::Client => "",
        }
    }
}

/// One cable, from a host's interface to a ToR's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CablePlan {
    /// In the host: `eth0`, `eth1`, ...
    pub interface: String,
    pub tor: String,
    /// `rack` or `out`.
    pub bridge: &'static str,
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
    /// The ToR's addresses on that bridge.
    pub gateway: Pair,
}

/// Why a topology cannot be given addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("{what}: {count} of them, at most {limit} fit the address plan; take some away")]
    TooMany { what: String, count: usize, limit: usize },
    #[error("{a} ({a_net}) and {b} ({b_net}) overlap; choose another range for the cluster in topology.toml")]
    Overlap { a: String, a_net: IpNet, b: String, b_net: IpNet },
}

impl Plan {
    /// Derives all addresses and checks that no two ranges overlap.
    pub fn new(topology: &Topology) -> Result<Self, PlanError> {
        check_limits(topology)?;
        let tors: Vec<TorPlan> = (1u8..).zip(&topology.tors).map(|(number, tor)| tor_plan(number, tor)).collect();
        let links = (1u8..).zip(&topology.links).map(|(number, link)| link_plan(number, link)).collect();
        let hosts = topology.hosts.iter().map(|host| host_plan(topology, &tors, host)).collect();
        let plan = Self { name: topology.name.clone(), clusters: topology.clusters.clone(), tors, links, hosts };
        plan.check_overlaps()?;
        Ok(plan)
    }

    #[must_use]
    pub fn host(&self, name: &str) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| host.name == name)
    }

    #[must_use]
    pub fn tor(&self, name: &str) -> Option<&TorPlan> {
        self.tors.iter().find(|tor| tor.name == name)
    }

    /// The nodes of a cluster.
    pub fn nodes<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a HostPlan> {
        self.hosts.iter().filter(move |host| matches!(&host.role, Role::Node { cluster: of } if of == cluster))
    }

    /// The control plane of a cluster; the parser has seen to it that there is one.
    #[must_use]
    pub fn control_plane(&self, cluster: &str) -> Option<&HostPlan> {
        self.hosts.iter().find(|host| matches!(&host.role, Role::ControlPlane { cluster: of } if of == cluster))
    }

    /// The cables that end in a ToR, with their hosts.
    pub fn cables_of<'a>(&'a self, tor: &'a str) -> impl Iterator<Item = (&'a HostPlan, &'a CablePlan)> {
        self.hosts.iter().flat_map(move |host| {
            host.cables.iter().filter(move |cable| cable.tor == tor).map(move |cable| (host, cable))
        })
    }

    /// The links of a ToR: its own end, then the other.
    pub fn links_of<'a>(&'a self, tor: &'a str) -> impl Iterator<Item = (&'a LinkEnd, &'a LinkEnd)> {
        self.links.iter().filter_map(move |link| match (&link.a, &link.b) {
            (a, b) if a.tor == tor => Some((a, b)),
            (a, b) if b.tor == tor => Some((b, a)),
            _ => None,
        })
    }

    /// The cluster of that name.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// Every range in use, with a name for error messages.
    #[must_use]
    pub fn ranges(&self) -> Vec<(String, IpNet)> {
        let mut ranges = Vec::new();
        for tor in &self.tors {
            for (bridge, net) in [("rack", tor.rack), ("out", tor.out)] {
                ranges.push((format!("{} {bridge}", tor.name), IpNet::V4(net.v4.trunc())));
                ranges.push((format!("{} {bridge}", tor.name), IpNet::V6(net.v6.trunc())));
            }
        }
        for LinkPlan { a, b } in &self.links {
            ranges.push((format!("link {} to {}", a.tor, b.tor), IpNet::V4(a.v4.trunc())));
            ranges.push((format!("link {} to {}", a.tor, b.tor), IpNet::V6(a.v6.trunc())));
        }
        for cluster in &self.clusters {
            for (what, of) in
                [("pods", cluster.pods), ("services", cluster.services), ("load balancers", cluster.load_balancers)]
            {
                ranges.push((format!("cluster {} {what}", cluster.name), IpNet::V4(of.v4)));
                ranges.push((format!("cluster {} {what}", cluster.name), IpNet::V6(of.v6)));
            }
        }
        for host in &self.hosts {
            ranges.push((format!("{} loopback", host.name), IpNet::from(IpAddr::V4(host.loopback.v4))));
            ranges.push((format!("{} loopback", host.name), IpNet::from(IpAddr::V6(host.loopback.v6))));
        }
        ranges
    }

    fn check_overlaps(&self) -> Result<(), PlanError> {
        let ranges = self.ranges();
        for (i, (a, a_net)) in ranges.iter().enumerate() {
            for (b, b_net) in &ranges[i + 1..] {
                if a_net.contains(b_net) || b_net.contains(a_net) {
                    let (a, b) = (a.clone(), b.clone());
                    return Err(PlanError::Overlap { a, a_net: *a_net, b, b_net: *b_net });
                }
            }
        }
        Ok(())
    }
}

fn check_limits(topology: &Topology) -> Result<(), PlanError> {
    let check = |what: &str, count: usize, limit: usize| {
        if count > limit { Err(PlanError::TooMany { what: what.into(), count, limit }) } else { Ok(()) }
    };
    check("clusters", topology.clusters.len(), MAX_CLUSTERS)?;
    check("ToRs", topology.tors.len(), MAX_TORS)?;
    check("links", topology.links.len(), MAX_LINKS)?;
    for host in &topology.hosts {
        match &host.role {
            Role::Node { cluster } => {
                check(&format!("nodes of cluster {cluster}"), host.number.into(), MAX_NODES.into())?;
            }
            Role::Client => check("clients", host.number.into(), MAX_CLIENTS.into())?,
            Role::ControlPlane { .. } => {}
        }
    }
    Ok(())
}

/// The IPv6 group that shows `number` with its decimal digits: 11 becomes `::11`, which is 0x11.
fn digits(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) << 8 | (number / 10 % 10) << 4 | (number % 10)
}

fn bridge(family: u8, tor: u8, host: u8) -> BridgePlan {
    let v6 = Ipv6Addr::new(0xfd00, digits(family), digits(tor), 0, 0, 0, 0, digits(host));
    BridgePlan { v4: Ipv4Net::new_assert(Ipv4Addr::new(172, family, tor, host), 24), v6: Ipv6Net::new_assert(v6, 64) }
}

const RACK: u8 = 16;
const OUT: u8 = 17;
const LINK: u8 = 18;

fn tor_plan(number: u8, tor: &crate::spec::Tor) -> TorPlan {
    let rack = bridge(RACK, number, 1);
    let router_id = rack.v4.addr();
    TorPlan {
        name: tor.name.clone(),
        asn: tor.asn,
        software: tor.software,
        router_id,
        rack,
        out: bridge(OUT, number, 1),
    }
}

fn link_plan(number: u8, link: &crate::spec::Link) -> LinkPlan {
    let end = |tor: &str, last: u8| {
        let net = bridge(LINK, number, last);
        let v4 = Ipv4Net::new_assert(net.v4.addr(), 30);
        LinkEnd { tor: tor.to_owned(), v4, v6: net.v6 }
    };
    LinkPlan { a: end(&link.a, 1), b: end(&link.b, 2) }
}

fn host_plan(topology: &Topology, tors: &[TorPlan], host: &Host) -> HostPlan {
    let place = |cluster: &str| {
        (0u8..).zip(&topology.clusters).find(|(_, of)| of.name == cluster).map_or(0, |(place, _)| place)
    };
    let (family, bridge_name, loopback, last) = match &host.role {
        Role::Node { cluster } => {
            let (c, last) = (place(cluster), 10 + host.number);
            (RACK, "rack", pair(10, 0, c, last), 50 * c + last)
        }
        Role::ControlPlane { cluster } => {
            let c = place(cluster);
            (RACK, "rack", pair(10, 0, c, 5), 50 * c + 5)
        }
        Role::Client => {
            let last = 9 + host.number;
            (OUT, "out", pair(9, 9, 0, last), last)
        }
    };
    let cables = host.cables.iter().enumerate().filter_map(|(index, name)| {
        let (number, tor) = (1u8..).zip(tors).find(|(_, tor)| tor.name == *name)?;
        let here = bridge(family, number, last);
        let there = if family == OUT { tor.out } else { tor.rack };
        Some(CablePlan {
            interface: format!("eth{index}"),
            tor: name.clone(),
            bridge: bridge_name,
            v4: here.v4,
            v6: here.v6,
            gateway: Pair { v4: there.v4.addr(), v6: there.v6.addr() },
        })
    });
    HostPlan { name: host.name.clone(), role: host.role.clone(), loopback, cables: cables.collect() }
}

/// `10.<second>.<third>.<last>` and `fd00:<group>:<third>::<last>`.
fn pair(group: u8, second: u8, third: u8, last: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, second, third, last),
        v6: Ipv6Addr::new(0xfd00, digits(group), digits(third), 0, 0, 0, 0, digits(last)),
    }
}
