//! A small node with everything on it: the fixture of the tests.
//!
//! Two pods live here, one on the node next door; there is a service of each kind, in both families. Interface 10 is
//! pod A's veth, 11 pod B's, 12 the uplink. `Family` gives every name its address in one family.

use std::collections::HashMap;
use std::vec;

use causeway_datapath_abi::{
    Addr, Endpoint, IpcacheKey, NodeConfig, Service, ServiceKey, Slot, Tuple, config_flag, service_flag, slot_flag,
};

use super::{MemoryNode, MemoryRoute};
use crate::{NextHop, Route};

pub const IF_UPLINK: u32 = 12;
pub const IF_A: u32 = 10;
pub const IF_B: u32 = 11;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// WireGuard's first port; the fixture does not encrypt unless a test says so.
pub const WG_PORT: u16 = 51871;
/// It has this one and the next.
pub const WG_PORTS: u16 = 2;

/// An address family's names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    pub is_v6: bool,
}

pub const V4: Family = Family { is_v6: false };
pub const V6: Family = Family { is_v6: true };
pub const BOTH: [Family; 2] = [V4, V6];

/// `a.b.c.d` or `fd00:a:b:c::d`.
fn addr(f: Family, [a, b, c, d]: [u8; 4]) -> Addr {
    if f.is_v6 { Addr([0xfd, 0, 0, a, 0, b, 0, c, 0, 0, 0, 0, 0, 0, 0, d]) } else { Addr::v4([a, b, c, d]) }
}

impl Family {
    pub fn node(self) -> Addr {
        addr(self, [10, 0, 0, 11])
    }

    pub fn pod_a(self) -> Addr {
        addr(self, [10, 1, 1, 2])
    }

    pub fn pod_b(self) -> Addr {
        addr(self, [10, 1, 1, 3])
    }

    /// A pod of another node.
    pub fn remote_pod(self) -> Addr {
        addr(self, [10, 1, 2, 2])
    }

    /// The node of that pod.
    pub fn remote_node(self) -> Addr {
        addr(self, [10, 0, 0, 12])
    }

    /// Outside of the cluster.
    pub fn outside(self) -> Addr {
        addr(self, [203, 0, 113, 9])
    }

    /// Another one.
    pub fn router(self) -> Addr {
        addr(self, [198, 51, 100, 1])
    }

    /// An address with a route that refuses: 1 as unreachable, 2 as a blackhole.
    pub fn nowhere(self, n: u8) -> Addr {
        addr(self, [203, 0, n, 1])
    }

    /// A link-local one in IPv4, as Cilium's.
    pub fn hairpin(self) -> Addr {
        addr(self, [169, 254, 42, 1])
    }

    /// Services by their last byte; see [`world`].
    pub fn vip(self, n: u8) -> Addr {
        addr(self, [192, 0, 2, n])
    }

    pub fn icmp(self) -> u8 {
        if self.is_v6 { 58 } else { 1 }
    }

    /// A tuple of this family.
    pub fn tuple(self, proto: u8, src: Addr, sport: u16, dst: Addr, dport: u16) -> Tuple {
        Tuple { src, dst, sport: sport.to_be_bytes(), dport: dport.to_be_bytes(), proto, zero: [0; 3] }
    }

    pub fn prefix(self, net: [u8; 4], v4_len: u32) -> IpcacheKey {
        let prefix_len = if self.is_v6 { 64 } else { 96 + v4_len };
        IpcacheKey { prefix_len, addr: addr(self, net) }
    }
}

/// A service whose backends all lie on this node.
pub const VIP_LOCAL: u8 = 1;
/// A service whose only backend is on another node.
pub const VIP_REMOTE: u8 = 2;
/// A ClusterIP: not open to the wire. Its backend is pod B.
pub const VIP_INTERNAL: u8 = 3;
/// `externalTrafficPolicy: Local` with a local and a remote backend.
pub const VIP_ETP_LOCAL: u8 = 4;
/// No backend.
pub const VIP_EMPTY: u8 = 5;
/// A second service with the backend of [`VIP_LOCAL`].
pub const VIP_TWIN: u8 = 6;
/// Its only backend is pod A.
pub const VIP_A: u8 = 7;
/// Its backend lies outside of the cluster.
pub const VIP_OUTSIDE: u8 = 8;
/// Its backend is the node itself.
pub const VIP_NODE: u8 = 9;
/// `internalTrafficPolicy: Local` without a local backend.
pub const VIP_ITP_LOCAL: u8 = 10;

/// The node.
pub fn world() -> MemoryNode {
    let mut node = MemoryNode {
        config: NodeConfig {
            node_v4: V4.node(),
            node_v6: V6.node(),
            hairpin_v4: V4.hairpin(),
            hairpin_v6: V6.hairpin(),
            snat_port_min: 1024,
            snat_port_max: 32767,
            seed: 42,
            flags: config_flag::MASQUERADE_V4 | config_flag::MASQUERADE_V6,
            wireguard_port: WG_PORT,
            wireguard_ports: WG_PORTS,
        },
        now_s: 1000,
        ..MemoryNode::default()
    };
    for f in BOTH {
        populate(&mut node, f);
    }
    node
}

fn populate(node: &mut MemoryNode, f: Family) {
    for (ip, ifindex, last) in [(f.pod_a(), IF_A, 0xa), (f.pod_b(), IF_B, 0xb)] {
        let row =
            Endpoint { ifindex, mac: [2, 0, 0, 0, 0, last], host_mac: [6, 0, 0, 0, 0, last], ..Endpoint::default() };
        node.endpoints.insert(ip, row);
    }
    for (net, len) in [([10, 0, 0, 0], 24), ([10, 1, 1, 0], 24), ([10, 1, 2, 0], 24)] {
        let key = f.prefix(net, len);
        node.add_cluster(key.prefix_len, key.addr);
    }
    let via = |last| NextHop { ifindex: IF_UPLINK, addr: addr(f, [172, 16, 1, last]), mtu: 0 };
    let route = |prefix, route, next_hop| MemoryRoute { prefix, route, next_hop, mtu: 1500 };
    let host = IpcacheKey { prefix_len: 128, addr: f.node() };
    let all = IpcacheKey {
        prefix_len: if f.is_v6 { 0 } else { 96 },
        addr: if f.is_v6 { Addr::ZERO } else { Addr::v4([0; 4]) },
    };
    node.routes.extend(vec![
        route(all, Route::Forward, via(1)),
        route(host, Route::Host, NextHop::default()),
        route(f.prefix([203, 0, 1, 0], 24), Route::Unreachable, NextHop::default()),
        route(f.prefix([203, 0, 2, 0], 24), Route::Refused, NextHop::default()),
    ]);
    let slot = |ip, port: u16, flags| Slot { addr: ip, port: port.to_be_bytes(), flags };
    let local = |ip| slot(ip, 8080, slot_flag::LOCAL);
    let remote = |ip| slot(ip, 8080, 0);
    let open = service_flag::EXTERNAL;
    let services = [
        (VIP_LOCAL, open, 1, vec![local(f.pod_b())]),
        (VIP_REMOTE, open, 0, vec![remote(f.remote_pod())]),
        (VIP_INTERNAL, 0, 1, vec![local(f.pod_b())]),
        (VIP_ETP_LOCAL, open | service_flag::EXTERNAL_LOCAL, 1, vec![local(f.pod_b()), remote(f.remote_pod())]),
        (VIP_EMPTY, open, 0, vec![]),
        (VIP_TWIN, open, 1, vec![local(f.pod_b())]),
        (VIP_A, open, 1, vec![local(f.pod_a())]),
        (VIP_OUTSIDE, open, 0, vec![remote(f.outside())]),
        (VIP_NODE, open, 0, vec![remote(f.node())]),
        (VIP_ITP_LOCAL, service_flag::INTERNAL_LOCAL, 0, vec![remote(f.remote_pod())]),
    ];
    for (n, flags, local_count, slots) in services {
        for proto in [TCP, UDP] {
            let id = u32::from(n) * 100 + u32::from(proto) * 2 + u32::from(f.is_v6);
            let key = ServiceKey { addr: f.vip(n), port: 80u16.to_be_bytes(), proto, zero: 0 };
            node.add_service(key, Service { id, generation: 3, count: 0, local_count, flags }, &slots);
        }
    }
}

/// The rows that the programs wrote, in a comparable form.
pub fn flow_keys(node: &MemoryNode) -> HashMap<Tuple, Tuple> {
    node.flows.iter().map(|(key, row)| (*key, row.to)).collect()
}
