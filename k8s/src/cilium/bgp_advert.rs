//! `CiliumBGPAdvertisement`: what to advertise, chosen by a peer configuration through labels.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::{self, one_of};
use crate::selector::LabelSelector;

/// Names of well-known communities that the schema accepts, with their values (IANA "BGP Well-known Communities").
pub const WELL_KNOWN_COMMUNITIES: [(&str, u32); 14] = [
    ("internet", 0x0000_0000),
    ("planned-shut", 0xffff_0000),
    ("accept-own", 0xffff_0001),
    ("route-filter-translated-v4", 0xffff_0002),
    ("route-filter-v4", 0xffff_0003),
    ("route-filter-translated-v6", 0xffff_0004),
    ("route-filter-v6", 0xffff_0005),
    ("llgr-stale", 0xffff_0006),
    ("no-llgr", 0xffff_0007),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumBGPAdvertisement",
    plural = "ciliumbgpadvertisements",
    shortname = "cbgpadvert",
    category = "cilium",
    category = "ciliumbgp",
    derive = "PartialEq",
    doc = "Routes to advertise to the BGP peers whose configuration selects this object."
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
pub struct CiliumBGPAdvertisementSpec {
    /// Kinds of routes, each with its selector and attributes.
    pub advertisements: Vec<BgpAdvertisement>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("self.advertisementType != 'Service' || has(self.service)")
        .message("service field is required for the 'Service' advertisementType"),
    validation = Rule::new("self.advertisementType == 'Service' || !has(self.service)")
        .message("service field is not allowed for non-'Service' advertisementType"),
    validation = Rule::new("self.advertisementType != 'Interface' || has(self.interface)")
        .message("interface field is required for the 'Interface' advertisementType"),
    validation = Rule::new("self.advertisementType == 'Interface' || !has(self.interface)")
        .message("interface field is not allowed for non-'Interface' advertisementType"),
    validation = Rule::new("self.advertisementType != 'PodCIDR' || !has(self.selector)")
        .message("selector field is not allowed for the 'PodCIDR' advertisementType")
)]
pub struct BgpAdvertisement {
    /// What the routes are made of.
    #[serde(rename = "advertisementType")]
    #[schemars(schema_with = "advertisement_type_schema")]
    pub advertisement_type: String,
    /// Settings of type `Service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceOptions>,
    /// Settings of type `Interface`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceOptions>,
    /// Objects to advertise, by label. Absent: none. Not for `PodCIDR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Path attributes to add.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BgpAttributes>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOptions {
    /// Which of a Service's addresses to advertise.
    #[schemars(schema_with = "addresses_schema")]
    pub addresses: Vec<String>,
    /// Advertise IPv4 addresses as one prefix of this length.
    #[serde(rename = "aggregationLengthIPv4", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31))]
    pub aggregation_length_ipv4: Option<i32>,
    /// Advertise IPv6 addresses as one prefix of this length.
    #[serde(rename = "aggregationLengthIPv6", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 127))]
    pub aggregation_length_ipv6: Option<i32>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceOptions {
    /// Name of the local interface whose addresses are advertised, each as a host route.
    pub name: String,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpAttributes {
    /// Communities to attach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub communities: Option<BgpCommunities>,
    /// Local preference, sent to iBGP peers only.
    #[serde(rename = "localPreference", skip_serializing_if = "Option::is_none")]
    pub local_preference: Option<i64>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpCommunities {
    /// RFC 1997 communities: `65000:100`, or one number of 32 bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = patterns::STANDARD_COMMUNITY)))]
    pub standard: Vec<String>,
    /// Communities by their registered names.
    #[serde(rename = "wellKnown", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "well_known_schema")]
    pub well_known: Vec<String>,
    /// RFC 8092 large communities: `65000:1:2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = patterns::LARGE_COMMUNITY)))]
    pub large: Vec<String>,
}

fn advertisement_type_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    one_of(&["PodCIDR", "CiliumPodIPPool", "Service", "Interface"])
}

fn addresses_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "items": { "type": "string", "enum": ["LoadBalancerIP", "ClusterIP", "ExternalIP"] },
    })
}

fn well_known_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let names = WELL_KNOWN_COMMUNITIES.map(|(name, _)| name);
    schemars::json_schema!({ "type": "array", "items": { "type": "string", "enum": names } })
}
