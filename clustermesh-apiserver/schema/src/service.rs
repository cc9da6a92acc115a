//! `services/v1`: a global Service with the backends of one cluster (Cilium `pkg/clustermesh/store.ClusterService`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::json::{self, by_text, ip_map, list_or_null, or_default};
use crate::{Invalid, Kind};

/// Port name to port; the name of an unnamed port is empty (Cilium `PortConfiguration`).
pub type Ports = BTreeMap<String, L4Addr>;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterService {
    #[serde(default, deserialize_with = "or_default")]
    pub cluster: String,
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "ip_map", serialize_with = "by_text")]
    pub frontends: BTreeMap<IpAddr, Ports>,
    /// Only backends that serve; there are no conditions.
    #[serde(default, deserialize_with = "ip_map", serialize_with = "by_text")]
    pub backends: BTreeMap<IpAddr, Ports>,
    /// Of headless Services' endpoints.
    #[serde(
        default,
        deserialize_with = "ip_map",
        serialize_with = "by_text",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub hostnames: BTreeMap<IpAddr, String>,
    #[serde(
        default,
        deserialize_with = "ip_map",
        serialize_with = "by_text",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub zones: BTreeMap<IpAddr, Zone>,
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub include_external: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub shared: bool,
    #[serde(rename = "clusterID", default, deserialize_with = "or_default")]
    pub cluster_id: u32,
}

/// Cilium `loadbalancer.L4Addr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct L4Addr {
    #[serde(rename = "Protocol")]
    pub protocol: String,
    #[serde(rename = "Port")]
    pub port: u16,
}

/// Where a backend is, and for which zones (Cilium `BackendZone`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    #[serde(default, deserialize_with = "or_default")]
    pub zone: String,
    #[serde(default, deserialize_with = "or_default", serialize_with = "list_or_null")]
    pub for_zones: Vec<ForZone>,
}

/// Cilium `ForZone`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForZone {
    pub name: String,
}

impl ClusterService {
    /// The JSON that Cilium writes, byte for byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// `name` is the entry's name, for errors.
    ///
    /// # Errors
    /// Not JSON, or a field is not what it should be; an address is none or has a zone. Whether it belongs to a cluster
    /// is [`read`](crate::read)'s matter.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<ClusterService, Invalid> {
        json::decode(&Kind::Services.entry(name), bytes)
    }
}
