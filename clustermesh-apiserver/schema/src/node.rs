//! `nodes/v1`: a node of a remote cluster (Cilium `pkg/node/types.Node`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Encoded with Cilium's capitalised names; prefixes as `{"IP": ..., "Mask": base64}`, read in the newer text form too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub cluster: String,
    pub addresses: Vec<NodeAddress>,
    pub ipv4_alloc_cidr: Option<IpNet>,
    pub ipv4_secondary_alloc_cidrs: Vec<IpNet>,
    pub ipv6_alloc_cidr: Option<IpNet>,
    pub ipv6_secondary_alloc_cidrs: Vec<IpNet>,
    pub ipv4_health_ip: Option<IpAddr>,
    pub ipv6_health_ip: Option<IpAddr>,
    pub ipv4_ingress_ip: Option<IpAddr>,
    pub ipv6_ingress_ip: Option<IpAddr>,
    pub cluster_id: u32,
    /// `custom-resource` from an API server.
    pub source: String,
    pub encryption_key: u8,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Base64; empty without one.
    pub wireguard_pub_key: String,
    pub boot_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    pub kind: NodeAddressKind,
    pub ip: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeAddressKind {
    Hostname,
    ExternalIp,
    InternalIp,
    ExternalDns,
    InternalDns,
    CiliumInternalIp,
}

impl Node {
    /// All ranges that its pods have.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = IpNet> {
        let first = self.ipv4_alloc_cidr.iter().chain(&self.ipv6_alloc_cidr);
        first.chain(&self.ipv4_secondary_alloc_cidrs).chain(&self.ipv6_secondary_alloc_cidrs).copied()
    }
}
