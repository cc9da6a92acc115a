//! `services/v1`: a global Service with the backends of one cluster (Cilium `ClusterService`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Port name to port; the name of an unnamed port is empty.
pub type Ports = BTreeMap<String, L4Addr>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterService {
    pub cluster: String,
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub frontends: BTreeMap<IpAddr, Ports>,
    /// Only backends that serve; there are no conditions.
    #[serde(default)]
    pub backends: BTreeMap<IpAddr, Ports>,
    /// Of headless Services' endpoints.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hostnames: BTreeMap<IpAddr, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<IpAddr, Zone>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    #[serde(default)]
    pub include_external: bool,
    #[serde(default)]
    pub shared: bool,
    #[serde(rename = "clusterID", default)]
    pub cluster_id: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L4Addr {
    #[serde(rename = "Protocol")]
    pub protocol: String,
    #[serde(rename = "Port")]
    pub port: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub for_zones: Vec<ForZone>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForZone {
    pub name: String,
}
