//! `CiliumBGPNodeConfig`, which the operator writes for one node and the node's agent obeys, and
//! `CiliumBGPNodeConfigOverride`, with which a user changes details for one node.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bgp_cluster::{AutoDiscovery, PeerConfigReference};
use super::patterns::{self, afi_schema, safi_schema};
use crate::condition::{Condition, conditions_schema};

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumBGPNodeConfig",
    plural = "ciliumbgpnodeconfigs",
    shortname = "cbgpnode",
    category = "cilium",
    category = "ciliumbgp",
    status = "CiliumBGPNodeConfigStatus",
    derive = "PartialEq",
    doc = "BGP configuration of one node, written by the operator; its name is the node's."
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
pub struct CiliumBGPNodeConfigSpec {
    /// BGP instances of the node.
    #[serde(rename = "bgpInstances")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub bgp_instances: Vec<CiliumBGPNodeInstance>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CiliumBGPNodeInstance {
    /// Name of the instance.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Our autonomous system number.
    #[serde(rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub local_asn: Option<i64>,
    /// Router ID in dotted form. Absent: the node's IPv4 address.
    #[serde(rename = "routerID", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "ipv4"))]
    pub router_id: Option<String>,
    /// Port to listen on. Absent: the instance only connects.
    #[serde(rename = "localPort", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub local_port: Option<i32>,
    /// Neighbours of the instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub peers: Vec<CiliumBGPNodePeer>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.peerAddress) || has(self.autoDiscovery)")
    .message("one of peerAddress or autoDiscovery must be set"))]
pub struct CiliumBGPNodePeer {
    /// Name of the peer.
    pub name: String,
    /// Address of the peer, with an optional `%zone`.
    #[serde(rename = "peerAddress", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::IP_ADDRESS))]
    pub peer_address: Option<String>,
    /// The peer's autonomous system number; 0 or absent accepts any.
    #[serde(rename = "peerASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub peer_asn: Option<i64>,
    /// How to find the peer when its address is not given.
    #[serde(rename = "autoDiscovery", skip_serializing_if = "Option::is_none")]
    pub auto_discovery: Option<AutoDiscovery>,
    /// Source address of the session.
    #[serde(rename = "localAddress", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::IP_ADDRESS))]
    pub local_address: Option<String>,
    /// The CiliumBGPPeerConfig of the session. Absent: the defaults.
    #[serde(rename = "peerConfigRef", skip_serializing_if = "Option::is_none")]
    pub peer_config_ref: Option<PeerConfigReference>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CiliumBGPNodeConfigStatus {
    /// State of the instances, written by the agent.
    #[serde(rename = "bgpInstances", default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub bgp_instances: Vec<InstanceStatus>,
    /// What is wrong on this node, if anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InstanceStatus {
    /// Name of the instance.
    pub name: String,
    /// Our autonomous system number.
    #[serde(rename = "localASN", skip_serializing_if = "Option::is_none")]
    pub local_asn: Option<i64>,
    /// State of the peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub peers: Vec<PeerStatus>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct PeerStatus {
    /// Name of the peer.
    pub name: String,
    /// Address of the peer.
    #[serde(rename = "peerAddress")]
    pub peer_address: String,
    /// The peer's autonomous system number.
    #[serde(rename = "peerASN", skip_serializing_if = "Option::is_none")]
    pub peer_asn: Option<i64>,
    /// State of the session: idle, connect, active, open_sent, open_confirm, established.
    #[serde(rename = "peeringState", skip_serializing_if = "Option::is_none")]
    pub peering_state: Option<String>,
    /// Negotiated timers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timers: Option<TimersState>,
    /// When the session was established, RFC 3339 in UTC.
    #[serde(rename = "establishedTime", skip_serializing_if = "Option::is_none")]
    pub established_time: Option<String>,
    /// Routes per address family.
    #[serde(rename = "routeCount", default, skip_serializing_if = "Vec::is_empty")]
    pub route_count: Vec<RouteCount>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct TimersState {
    /// Negotiated hold time in seconds.
    #[serde(rename = "appliedHoldTimeSeconds", skip_serializing_if = "Option::is_none")]
    pub applied_hold_time_seconds: Option<i32>,
    /// Keepalive time in seconds.
    #[serde(rename = "appliedKeepaliveSeconds", skip_serializing_if = "Option::is_none")]
    pub applied_keepalive_seconds: Option<i32>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteCount {
    /// Address family.
    #[schemars(schema_with = "afi_schema")]
    pub afi: String,
    /// Subsequent address family.
    #[schemars(schema_with = "safi_schema")]
    pub safi: String,
    /// Routes received from the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<i32>,
    /// Routes advertised to the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertised: Option<i32>,
}

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumBGPNodeConfigOverride",
    plural = "ciliumbgpnodeconfigoverrides",
    shortname = "cbgpnodeoverride",
    category = "cilium",
    category = "ciliumbgp",
    derive = "PartialEq",
    doc = "Changes to the BGP configuration of the node that has the same name."
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
pub struct CiliumBGPNodeConfigOverrideSpec {
    /// Instances to change, by name.
    #[serde(rename = "bgpInstances")]
    #[schemars(length(min = 1))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub bgp_instances: Vec<InstanceOverride>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct InstanceOverride {
    /// Name of the instance to change.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Router ID in dotted form, unique in the network.
    #[serde(rename = "routerID", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "ipv4"))]
    pub router_id: Option<String>,
    /// Port to listen on.
    #[serde(rename = "localPort", skip_serializing_if = "Option::is_none")]
    pub local_port: Option<i32>,
    /// Our autonomous system number on this node.
    #[serde(rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub local_asn: Option<i64>,
    /// Peers to change, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub peers: Vec<PeerOverride>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerOverride {
    /// Name of the peer to change.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Source address of the session.
    #[serde(rename = "localAddress", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::IP_ADDRESS))]
    pub local_address: Option<String>,
    /// Has no effect; kept because Cilium's schema has it.
    #[serde(rename = "localPort", skip_serializing_if = "Option::is_none")]
    pub local_port: Option<i32>,
}
