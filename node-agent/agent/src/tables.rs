//! The agent's tables by name. `intent` and `cni` fill the first group, `control` the second, `realize` reads it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_api::cni::Attachment;
use causeway_bgp_speaker::Secret;
use causeway_datapath_loader::Frontend;
use causeway_k8s::checked::{Advertisement, PeerConfig};
use causeway_mesh_schema::ClusterId;
use causeway_table::Shared;
use ipnet::IpNet;

use crate::control::ipcache::IpcacheRow;
use crate::control::services::LbRow;
use crate::intent::bgp::OwnConfig;
use crate::intent::cilium::{CiliumNode, Identity, RemoteEndpoint};
use crate::intent::endpoint::LocalEndpoint;
use crate::intent::mesh::{Health, Offer, OfferKey, RemoteCluster, RemoteNode, RemoteNodeKey, Target};
use crate::intent::node::{Namespace, Node};
use crate::intent::own_node::OwnNode;
use crate::intent::pod::Pod;
use crate::intent::service::Service;
use crate::intent::slice::{Slice, SliceKey};
use crate::intent::watch::{RejectedKey, WatchState};
use crate::intent::{Key, Rejected};

/// Handles of all tables; clones name the same tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    // Intent.
    pub(crate) services: Shared<Key, Service>,
    pub(crate) slices: Shared<SliceKey, Slice>,
    pub(crate) nodes: Shared<Key, Node>,
    /// At most one row: the own CiliumNode.
    pub(crate) own_node: Shared<Key, OwnNode>,
    /// All CiliumNodes of this cluster; read only where traffic between nodes is encrypted.
    pub(crate) cilium_nodes: Shared<Key, CiliumNode>,
    pub(crate) namespaces: Shared<Key, Namespace>,
    /// Pods of this node.
    pub(crate) pods: Shared<Key, Pod>,
    /// Endpoints that other agents, and this one, have told Kubernetes of.
    pub(crate) remote_endpoints: Shared<Key, RemoteEndpoint>,
    pub(crate) identities: Shared<u32, Identity>,
    /// At most one row: the own node's.
    pub(crate) bgp_config: Shared<Key, OwnConfig>,
    pub(crate) bgp_peer_configs: Shared<Key, PeerConfig>,
    pub(crate) bgp_advertisements: Shared<Key, Advertisement>,
    pub(crate) bgp_secrets: Shared<Key, Secret>,
    /// Pods attached to this node, written by `cni`.
    pub(crate) endpoints: Shared<Attachment, LocalEndpoint>,

    // Intent from other clusters, written by `intent::mesh`; `target_health` by the prober. `realize::mesh` marks them
    // synced when every configured cluster has been read once, or has been waited for long enough; at once without a mesh.
    pub(crate) mesh_clusters: Shared<ClusterId, RemoteCluster>,
    pub(crate) mesh_offers: Shared<OfferKey, Offer>,
    pub(crate) mesh_nodes: Shared<RemoteNodeKey, RemoteNode>,
    pub(crate) mesh_identities: Shared<u32, Identity>,
    pub(crate) target_health: Shared<Target, Health>,

    // Made real, and asked for by others.
    /// Ranges that nothing leaves for in plaintext, written by `realize::encryption`; without encryption complete at once.
    pub(crate) guarded: Shared<IpNet, ()>,

    // Desired.
    pub(crate) lb: Shared<Frontend, LbRow>,
    pub(crate) ipcache: Shared<IpNet, IpcacheRow>,

    // What is not used.
    /// Backends of other clusters that lie in no range of `guarded`, by Service.
    pub(crate) withheld: Shared<Key, BTreeSet<IpAddr>>,

    // About the inputs.
    pub(crate) rejected: Shared<RejectedKey, Rejected>,
    pub(crate) watches: Shared<String, WatchState>,
}
