//! The mesh vocabulary: what Cilium's clusters write into each other's etcd, byte for byte.
//!
//! Names and numbers of clusters, the key space, and an exact codec with checks for every kind of value. Pure: no clock,
//! no socket, no etcd. [`read`] is the one door for bytes that another cluster wrote: it never panics, and what it
//! refuses it names.
//!
//! Not here: how keys travel (`causeway-mesh-kv`), when they are believed (`causeway-mesh-remote`), what becomes of them
//! (the agent, the operator).

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

mod cluster;
mod config;
mod export;
mod invalid;
mod ip;
mod json;
mod kind;
pub mod labels;
mod node;
mod prefix;
mod proto;
mod read;
mod remote_cluster;
mod service;
mod slice;

pub use cluster::{BadId, BadName, ClusterId, ClusterName, Origin, Scale};
pub use config::{Capabilities, ClusterConfig, ExportMode};
pub use export::{ExportPort, ServiceExportSpec};
pub use invalid::Invalid;
pub use ip::{IpIdentity, NamedPort};
pub use kind::{HEARTBEAT, Kind, Layout, cluster_config_key, silence_key};
pub use node::{Node, NodeAddress, NodeAddressKind};
pub use read::read;
pub use remote_cluster::{RemoteCluster, RemoteClusterConfig, RemoteClusterSynced};
pub use service::{ClusterService, ForZone, L4Addr, Ports, Zone};
pub use slice::{AddressType, ClusterEndpointSlice, Endpoint, EndpointPort};

/// An entry that has been decoded and checked against its [`Origin`] and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Node(Node),
    /// A number and its labels, as `source:key=value`, sorted by key.
    Identity {
        id: u32,
        labels: Vec<String>,
    },
    Ip(IpIdentity),
    Service(ClusterService),
    EndpointSlice(ClusterEndpointSlice),
    ServiceExport(ServiceExportSpec),
}
