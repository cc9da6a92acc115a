//! `nodes/v1`: a node of a remote cluster (Cilium `pkg/node/types.Node`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::json::{self, ip_text, list_or_null, map_or_null, or_default};
use crate::prefix::Prefix;
use crate::{Invalid, Kind};

/// Encoded with Cilium's capitalised names; prefixes as `{"IP": ..., "Mask": base64}`, read in the newer text form too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// A host name for the kinds that end with `name` or `Dns`, else an address.
    pub ip: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeAddressKind {
    Hostname,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    #[serde(rename = "InternalIP")]
    InternalIp,
    #[serde(rename = "ExternalDNS")]
    ExternalDns,
    #[serde(rename = "InternalDNS")]
    InternalDns,
    #[serde(rename = "CiliumInternalIP")]
    CiliumInternalIp,
}

impl NodeAddressKind {
    /// Whether it is an address, not a name.
    #[must_use]
    pub fn is_ip(self) -> bool {
        match self {
            NodeAddressKind::ExternalIp | NodeAddressKind::InternalIp | NodeAddressKind::CiliumInternalIp => true,
            NodeAddressKind::Hostname | NodeAddressKind::ExternalDns | NodeAddressKind::InternalDns => false,
        }
    }
}

impl Node {
    /// All ranges that its pods have.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = IpNet> {
        let first = self.ipv4_alloc_cidr.iter().chain(&self.ipv6_alloc_cidr);
        first.chain(&self.ipv4_secondary_alloc_cidrs).chain(&self.ipv6_secondary_alloc_cidrs).copied()
    }

    /// Its addresses of one kind.
    pub fn ips(&self, kind: NodeAddressKind) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(move |a| a.kind == kind).filter_map(|a| json::parse_ip(&a.ip).ok())
    }

    /// The JSON that Cilium 1.20 writes, byte for byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        json::encode(&Wire::from(self.clone()))
    }

    /// Reads what Cilium 1.15 to 1.22 write. Addresses of a kind that is not known are left out. `name` is the entry's
    /// name, for errors.
    ///
    /// # Errors
    /// Not JSON, or a field is not what it should be. Whether it belongs to a cluster is [`read`](crate::read)'s matter.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Node, Invalid> {
        json::decode::<Wire>(&Kind::Nodes.entry(name), bytes).map(Node::from)
    }
}

/// In Cilium's order. Fields that Go does not omit are always written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    cluster: String,
    #[serde(rename = "IPAddresses", default, deserialize_with = "or_default", serialize_with = "list_or_null")]
    addresses: Vec<WireAddress>,
    #[serde(rename = "IPv4AllocCIDR", default)]
    ipv4_alloc_cidr: Prefix,
    #[serde(
        rename = "IPv4SecondaryAllocCIDRs",
        default,
        deserialize_with = "or_default",
        serialize_with = "list_or_null"
    )]
    ipv4_secondary_alloc_cidrs: Vec<Prefix>,
    #[serde(rename = "IPv6AllocCIDR", default)]
    ipv6_alloc_cidr: Prefix,
    #[serde(
        rename = "IPv6SecondaryAllocCIDRs",
        default,
        deserialize_with = "or_default",
        serialize_with = "list_or_null"
    )]
    ipv6_secondary_alloc_cidrs: Vec<Prefix>,
    #[serde(rename = "IPv4HealthIP", default, with = "ip_text")]
    ipv4_health_ip: Option<IpAddr>,
    #[serde(rename = "IPv6HealthIP", default, with = "ip_text")]
    ipv6_health_ip: Option<IpAddr>,
    #[serde(rename = "IPv4IngressIP", default, with = "ip_text")]
    ipv4_ingress_ip: Option<IpAddr>,
    #[serde(rename = "IPv6IngressIP", default, with = "ip_text")]
    ipv6_ingress_ip: Option<IpAddr>,
    #[serde(rename = "ClusterID", default, deserialize_with = "or_default")]
    cluster_id: u32,
    #[serde(default, deserialize_with = "or_default")]
    source: String,
    #[serde(default, deserialize_with = "or_default")]
    encryption_key: u8,
    #[serde(default, deserialize_with = "or_default", serialize_with = "map_or_null")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default", serialize_with = "map_or_null")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    wireguard_pub_key: String,
    #[serde(rename = "BootID", default, deserialize_with = "or_default")]
    boot_id: String,
}

#[derive(Serialize, Deserialize)]
struct WireAddress {
    #[serde(rename = "Type", default, deserialize_with = "or_default")]
    kind: WireKind,
    #[serde(rename = "IP", default, deserialize_with = "or_default")]
    ip: String,
}

/// A kind, or a word that a newer or older writer has for one.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum WireKind {
    Known(NodeAddressKind),
    Other(String),
}

impl Default for WireKind {
    fn default() -> WireKind {
        WireKind::Other(String::new())
    }
}

impl From<Node> for Wire {
    fn from(node: Node) -> Wire {
        let prefixes = |nets: Vec<IpNet>| nets.into_iter().map(|net| Prefix(Some(net))).collect();
        let address = |a: NodeAddress| WireAddress { kind: WireKind::Known(a.kind), ip: a.ip };
        Wire {
            name: node.name,
            cluster: node.cluster,
            addresses: node.addresses.into_iter().map(address).collect(),
            ipv4_alloc_cidr: Prefix(node.ipv4_alloc_cidr),
            ipv4_secondary_alloc_cidrs: prefixes(node.ipv4_secondary_alloc_cidrs),
            ipv6_alloc_cidr: Prefix(node.ipv6_alloc_cidr),
            ipv6_secondary_alloc_cidrs: prefixes(node.ipv6_secondary_alloc_cidrs),
            ipv4_health_ip: node.ipv4_health_ip,
            ipv6_health_ip: node.ipv6_health_ip,
            ipv4_ingress_ip: node.ipv4_ingress_ip,
            ipv6_ingress_ip: node.ipv6_ingress_ip,
            cluster_id: node.cluster_id,
            source: node.source,
            encryption_key: node.encryption_key,
            labels: node.labels,
            annotations: node.annotations,
            wireguard_pub_key: node.wireguard_pub_key,
            boot_id: node.boot_id,
        }
    }
}

impl From<Wire> for Node {
    fn from(wire: Wire) -> Node {
        let nets = |prefixes: Vec<Prefix>| prefixes.into_iter().filter_map(|prefix| prefix.0).collect();
        let address = |a: WireAddress| match a.kind {
            WireKind::Known(kind) => Some(NodeAddress { kind, ip: a.ip }),
            WireKind::Other(_) => None,
        };
        Node {
            name: wire.name,
            cluster: wire.cluster,
            addresses: wire.addresses.into_iter().filter_map(address).collect(),
            ipv4_alloc_cidr: wire.ipv4_alloc_cidr.0,
            ipv4_secondary_alloc_cidrs: nets(wire.ipv4_secondary_alloc_cidrs),
            ipv6_alloc_cidr: wire.ipv6_alloc_cidr.0,
            ipv6_secondary_alloc_cidrs: nets(wire.ipv6_secondary_alloc_cidrs),
            ipv4_health_ip: wire.ipv4_health_ip,
            ipv6_health_ip: wire.ipv6_health_ip,
            ipv4_ingress_ip: wire.ipv4_ingress_ip,
            ipv6_ingress_ip: wire.ipv6_ingress_ip,
            cluster_id: wire.cluster_id,
            source: wire.source,
            encryption_key: wire.encryption_key,
            labels: wire.labels,
            annotations: wire.annotations,
            wireguard_pub_key: wire.wireguard_pub_key,
            boot_id: wire.boot_id,
        }
    }
}
