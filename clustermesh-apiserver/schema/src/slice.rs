//! `endpointslices/v1`: an EndpointSlice of a global Service (Cilium `ClusterEndpointSlice`): proto2 in one zstd frame.

use std::collections::BTreeMap;

/// Field numbers as Cilium's `generated.proto`; endpoints and ports as Kubernetes' `discovery/v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterEndpointSlice {
    pub cluster: String,
    pub cluster_id: u32,
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub address_type: AddressType,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AddressType {
    #[default]
    Ipv4,
    Ipv6,
}

/// `discovery.k8s.io/v1` `Endpoint`, as far as Cilium's slim form has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    /// `None` means ready.
    pub ready: Option<bool>,
    /// `None` means as `ready`.
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub hostname: Option<String>,
    pub node_name: Option<String>,
    pub zone: Option<String>,
    /// `hints.forZones`, by name.
    pub for_zones: Vec<String>,
    /// `hints.forNodes`, by name.
    pub for_nodes: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: Option<i32>,
    pub app_protocol: Option<String>,
}
