//! `CiliumLoadBalancerIPPool`: addresses that the operator may give to Services of type LoadBalancer.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::one_of;
use crate::condition::{Condition, conditions_schema};
use crate::selector::LabelSelector;

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumLoadBalancerIPPool",
    plural = "ciliumloadbalancerippools",
    shortname = "ippools",
    shortname = "ippool",
    shortname = "lbippool",
    shortname = "lbippools",
    category = "cilium",
    status = "CiliumLoadBalancerIPPoolStatus",
    derive = "PartialEq",
    doc = "Addresses for Services of type LoadBalancer."
)]
#[kube(printcolumn = r#"{"name":"Disabled", "type":"boolean", "jsonPath":".spec.disabled"}"#)]
#[kube(
    printcolumn = r#"{"name":"Conflicting", "type":"string", "jsonPath":".status.conditions[?(@.type==\"cilium.io/PoolConflict\")].status"}"#
)]
#[kube(
    printcolumn = r#"{"name":"IPs Available", "type":"string", "jsonPath":".status.conditions[?(@.type==\"cilium.io/IPsAvailable\")].message"}"#
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
pub struct CiliumLoadBalancerIPPoolSpec {
    /// Services that may have addresses of this pool. Absent: all.
    #[serde(rename = "serviceSelector", skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// `No` keeps the first and last address of each CIDR free (but not of /31, /32, /127, /128). Absent: `Yes`.
    #[serde(rename = "allowFirstLastIPs", default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "yes_no_schema")]
    pub allow_first_last_ips: Option<String>,
    /// Ranges of addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<IpBlock>,
    /// True: no new addresses are given out; those given stay.
    #[serde(default)]
    pub disabled: bool,
}

/// One range: a CIDR, or `start` with an optional `stop`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct IpBlock {
    /// A CIDR: `192.0.2.0/24`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "cidr"))]
    pub cidr: Option<String>,
    /// First address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Last address. Absent: the range is `start` alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<String>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CiliumLoadBalancerIPPoolStatus {
    /// Conflicts, and counts of addresses as messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

fn yes_no_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    one_of(&["Yes", "No"])
}
