//! `CiliumEndpointSlice`: many CiliumEndpoints of one namespace in one object, so that large clusters watch fewer. Its
//! fields stand at the top level.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoint::{EndpointNetworking, NamedPort};
use super::node::EncryptionSpec;
use crate::names::KIND_CILIUM_ENDPOINT_SLICE;

/// The only version under which the kind is served.
pub(crate) const VERSION: &str = "v2alpha1";

/// Endpoints of one namespace.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CiliumEndpointSlice {
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    #[serde(default = "kind")]
    pub kind: String,
    pub metadata: ObjectMeta,
    /// Namespace of all its endpoints. The object itself has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub endpoints: Vec<CoreCiliumEndpoint>,
}

/// The fields beside `metadata`, for the schema.
#[derive(JsonSchema)]
pub(crate) struct CiliumEndpointSliceFields {
    /// Namespace of all endpoints.
    #[expect(dead_code, reason = "read by the schema generator only")]
    namespace: Option<String>,
    /// The endpoints.
    #[expect(dead_code, reason = "read by the schema generator only")]
    endpoints: Vec<CoreCiliumEndpoint>,
}

/// What others need to know of a CiliumEndpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CoreCiliumEndpoint {
    /// Name of the CiliumEndpoint, which is the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Numeric identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Addresses and node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub networking: Option<EndpointNetworking>,
    /// Encryption of the endpoint's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
    /// Named ports of the pod's containers.
    #[serde(rename = "named-ports", default, skip_serializing_if = "Vec::is_empty")]
    pub named_ports: Vec<NamedPort>,
    /// Service account of the pod.
    #[serde(rename = "service-account", default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}

fn api_version() -> String {
    format!("{}/{VERSION}", crate::GROUP)
}

fn kind() -> String {
    KIND_CILIUM_ENDPOINT_SLICE.to_owned()
}

crate::resource::resource! {
    CiliumEndpointSlice: ClusterResourceScope { kind: KIND_CILIUM_ENDPOINT_SLICE, group: crate::GROUP, version: VERSION, plural: "ciliumendpointslices" }
}
