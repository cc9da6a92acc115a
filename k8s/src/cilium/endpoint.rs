//! `CiliumEndpoint`: a pod as its node's agent sees it. Everything stands in `status`; the object has the pod's name
//! and namespace.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::KIND_CILIUM_ENDPOINT;

/// A pod with its identity and addresses.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CiliumEndpoint {
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    #[serde(default = "kind")]
    pub kind: String,
    pub metadata: ObjectMeta,
    /// Cilium has no status subresource for this kind: the status is written with the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<CiliumEndpointStatus>,
}

impl CiliumEndpoint {
    /// The endpoint of pod `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str, status: CiliumEndpointStatus) -> CiliumEndpoint {
        CiliumEndpoint {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            status: Some(status),
        }
    }
}

/// The fields beside `metadata`, for the schema.
#[derive(JsonSchema)]
pub(crate) struct CiliumEndpointFields {
    /// The endpoint as the agent of its node sees it.
    #[expect(dead_code, reason = "read by the schema generator only")]
    status: Option<CiliumEndpointStatus>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub struct CiliumEndpointStatus {
    /// Number of the endpoint on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Names of the endpoint in other systems.
    #[serde(rename = "external-identifiers", skip_serializing_if = "Option::is_none")]
    pub external_identifiers: Option<ExternalIdentifiers>,
    /// Security identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<EndpointIdentity>,
    /// Addresses and node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// Encryption of the endpoint's node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<super::node::EncryptionSpec>,
    /// Policy enforcement in both directions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<EndpointPolicy>,
    /// State: `waiting-for-identity`, `not-ready`, `ready`, `disconnected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Named ports of the pod's containers.
    #[serde(rename = "named-ports", default, skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<NamedPort>,
    /// Service account of the pod.
    #[serde(rename = "service-account", skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct ExternalIdentifiers {
    /// Identifier of this CNI attachment: `<container id>:<interface>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cni_attachment_id: Option<String>,
    /// Identifier of the container by its runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Name of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
    /// Namespace of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_namespace: Option<String>,
    /// Name of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s_pod_name: Option<String>,
    /// `namespace/name` of the pod, as older readers want it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointIdentity {
    /// Numeric identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Labels of the identity as `source:key=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointNetworking {
    /// Addresses of the pod.
    pub addressing: Vec<AddressPair>,
    /// Address of the pod's node, reachable from the other nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// An IPv4 and an IPv6 address; either may be absent.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPair {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// Traffic to the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<EndpointPolicyDirection>,
    /// Traffic from the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<EndpointPolicyDirection>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPolicyDirection {
    /// Whether policy is enforced in this direction.
    pub enforcing: bool,
    /// State of enforcement: `enforcing`, `non-enforcing`, `disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Peers that are allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<IdentityTuple>,
    /// Peers that are denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<IdentityTuple>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct IdentityTuple {
    /// Numeric identity of the peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<i64>,
    /// Labels of the peer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identity_labels: BTreeMap<String, String>,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dest_port: Option<i32>,
    /// IP protocol number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<i32>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedPort {
    /// Name of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// `TCP`, `UDP`, `SCTP` or `ANY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

fn api_version() -> String {
    "cilium.io/v2".to_owned()
}

fn kind() -> String {
    KIND_CILIUM_ENDPOINT.to_owned()
}

crate::resource::resource! {
    CiliumEndpoint: NamespaceResourceScope { kind: KIND_CILIUM_ENDPOINT, group: crate::GROUP, version: crate::VERSION, plural: "ciliumendpoints" }
}
