//! What the datapath holds, as the CLI shows it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A frontend: one address, port and protocol of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub port_name: String,
    pub frontend: SocketAddr,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// `ClusterIP`, `LoadBalancer`, `ExternalIPs`.
    pub service_type: String,
    /// Only backends of this node serve traffic from outside.
    pub external_local: bool,
    /// Only backends of this node serve traffic from pods.
    pub internal_local: bool,
    pub backends: Vec<Backend>,
    /// `done`, `pending`, `error`.
    pub state: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub address: SocketAddr,
    /// On this node.
    pub local: bool,
    /// The other cluster that has it; empty: this one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub id: u16,
    pub identity: u32,
    pub labels: Vec<String>,
    pub namespace: String,
    pub pod: String,
    pub container_id: String,
    pub ipv4: Option<IpAddr>,
    pub ipv6: Option<IpAddr>,
    pub interface: String,
    pub ifindex: u32,
    pub mac: String,
    /// `ready`, `waiting-for-identity`.
    pub state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub id: u32,
    pub labels: Vec<String>,
    /// The other cluster that has it; empty: this one, or every one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// A node of this cluster or of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `node`, or `cluster/node`.
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    /// The other cluster that has it; empty: this one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IpsParams {
    /// At most this many rows of other clusters' pods; 10,000 when absent. Those of this cluster come all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only the row that decides over this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ips {
    pub rows: Vec<Ip>,
    /// Rows that are there and not in the answer.
    pub left_out: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ip {
    pub prefix: IpNet,
    pub identity: u32,
    /// Traffic of pods to it keeps its source address.
    pub in_cluster: bool,
    /// Where it is known from: `pod ns/name`, `node n1`, `pod CIDR of n2`, `reserved`.
    pub source: String,
    pub state: String,
}

/// A counter of the programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub reason: String,
    /// `ingress` or `egress`, as far as known.
    pub direction: String,
    /// False: counts something other than a drop, such as packets forwarded.
    pub drop: bool,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowsParams {
    /// At most this many; 1,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only flows with this address on either end, before or after translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// One direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    pub protocol: String,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// What a packet becomes.
    pub to_source: SocketAddr,
    pub to_destination: SocketAddr,
    /// `reply`, `established`, `closing`, `snat`.
    pub flags: Vec<String>,
    pub service_id: u32,
    pub expires_in_s: u32,
}
