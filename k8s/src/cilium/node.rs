//! `CiliumNode`: what one node says of itself to the others. Fields for public clouds are kept by the schema but not
//! known here.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumNode",
    plural = "ciliumnodes",
    shortname = "cn",
    shortname = "ciliumn",
    category = "cilium",
    status = "CiliumNodeStatus",
    derive = "PartialEq",
    doc = "A node as its agent describes it."
)]
#[kube(
    printcolumn = r#"{"name":"CiliumInternalIP", "type":"string", "description":"Address of the agent's own interface", "jsonPath":".spec.addresses[?(@.type==\"CiliumInternalIP\")].ip"}"#
)]
#[kube(
    printcolumn = r#"{"name":"InternalIP", "type":"string", "description":"Address of the node", "jsonPath":".spec.addresses[?(@.type==\"InternalIP\")].ip"}"#
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct CiliumNodeSpec {
    /// Identifier of the machine.
    #[serde(rename = "instance-id", skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Identifier of this boot of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootid: Option<String>,
    /// All addresses of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// Addresses of the health endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<FamilyAddresses>,
    /// Addresses of the ingress listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<FamilyAddresses>,
    /// Encryption between nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
    /// Addresses that pods of this node get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<IpamSpec>,
    /// Numeric identity of the node, if it has one.
    #[serde(rename = "nodeidentity", skip_serializing_if = "Option::is_none")]
    pub node_identity: Option<i64>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeAddress {
    /// Kind of address: `InternalIP`, `ExternalIP`, `CiliumInternalIP`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<String>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyAddresses {
    /// IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    /// IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionSpec {
    /// Index of the key; 0 when encryption is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<i64>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct IpamSpec {
    /// CIDRs of the node's pods.
    #[serde(rename = "podCIDRs", default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
    /// CIDRs per address pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pools: Option<IpamPools>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct IpamPools {
    /// CIDRs that the node has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocated: Vec<IpamPoolAllocation>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct IpamPoolAllocation {
    /// Name of the pool.
    #[schemars(length(min = 1))]
    pub pool: String,
    /// CIDRs of the pool that the node has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct CiliumNodeStatus {
    /// Everything else that a Cilium may have written here.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}
