//! `CiliumBGPClusterConfig`: what a user says once about BGP for a group of nodes. The operator expands it into one
//! `CiliumBGPNodeConfig` per node.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::patterns::{self, one_of};
use crate::condition::{Condition, conditions_schema};
use crate::selector::LabelSelector;

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumBGPClusterConfig",
    plural = "ciliumbgpclusterconfigs",
    shortname = "cbgpcluster",
    category = "cilium",
    category = "ciliumbgp",
    status = "CiliumBGPClusterConfigStatus",
    derive = "PartialEq",
    doc = "BGP instances and peers of a group of nodes."
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
pub struct CiliumBGPClusterConfigSpec {
    /// Nodes that this configuration is for. Empty or absent: every node.
    #[serde(rename = "nodeSelector", skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// BGP instances that run on each selected node, at most 16.
    #[serde(rename = "bgpInstances")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub bgp_instances: Vec<CiliumBGPInstance>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CiliumBGPInstance {
    /// Name of the instance, unique in this configuration.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// Our autonomous system number, 1 to 4294967295.
    #[serde(rename = "localASN", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub local_asn: Option<i64>,
    /// Port to listen on. Absent: the instance only connects, it does not listen.
    #[serde(rename = "localPort", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub local_port: Option<i32>,
    /// Neighbours of the instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub peers: Vec<CiliumBGPPeer>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("has(self.peerAddress) || has(self.autoDiscovery)")
    .message("one of peerAddress or autoDiscovery must be set"))]
pub struct CiliumBGPPeer {
    /// Name of the peer, unique in its instance.
    #[schemars(length(min = 1, max = 255))]
    pub name: String,
    /// IPv4 or IPv6 address of the peer; a link-local one carries its interface as `%zone`.
    #[serde(rename = "peerAddress", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = patterns::IP_ADDRESS))]
    pub peer_address: Option<String>,
    /// The peer's autonomous system number; 0 accepts the one that the peer opens with.
    #[serde(rename = "peerASN", default)]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub peer_asn: i64,
    /// How to find the peer when its address is not given.
    #[serde(rename = "autoDiscovery", skip_serializing_if = "Option::is_none")]
    pub auto_discovery: Option<AutoDiscovery>,
    /// The CiliumBGPPeerConfig of the session. Absent: the defaults.
    #[serde(rename = "peerConfigRef", skip_serializing_if = "Option::is_none")]
    pub peer_config_ref: Option<PeerConfigReference>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.mode != 'DefaultGateway' || has(self.defaultGateway)")
    .message("defaultGateway must be set when mode is DefaultGateway"))]
pub struct AutoDiscovery {
    /// `DefaultGateway`: the peer is the next hop of the node's default route.
    #[schemars(schema_with = "mode_schema")]
    pub mode: String,
    /// Settings of mode `DefaultGateway`.
    #[serde(rename = "defaultGateway", skip_serializing_if = "Option::is_none")]
    pub default_gateway: Option<DefaultGateway>,
}

#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultGateway {
    /// Family of the default route to follow.
    #[serde(rename = "addressFamily")]
    #[schemars(schema_with = "family_schema")]
    pub address_family: String,
}

/// Names a CiliumBGPPeerConfig.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerConfigReference {
    /// Name of the CiliumBGPPeerConfig.
    pub name: String,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CiliumBGPClusterConfigStatus {
    /// What is wrong with this configuration, if anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

fn mode_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    one_of(&["DefaultGateway"])
}

fn family_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    one_of(&["ipv4", "ipv6"])
}
