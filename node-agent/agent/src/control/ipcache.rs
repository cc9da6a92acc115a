//! Which identity each address has, and what is natively routed. Keyed: a changed object costs its own prefixes.
//!
//! Of other clusters only the nodes are here: they are few. Their pods are in [`remote`].

pub(crate) mod prefix;
pub(crate) mod remote;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_api::cni::Attachment;
use causeway_datapath_loader::IpcacheEntry;
use causeway_table::{Changes, Shared, Table};
use ipnet::IpNet;

use super::claims::Claims;
use super::services::Families;
use crate::intent::Key;
use crate::intent::cilium::RemoteEndpoint;
use crate::intent::endpoint::LocalEndpoint;
use crate::intent::mesh::{RemoteNode, RemoteNodeKey};
use crate::intent::node::Node;
use crate::intent::slice::{Slice, SliceKey};

/// Reserved identities (Cilium `pkg/identity/numericidentity.go`).
pub(crate) mod reserved {
    pub(crate) const HOST: u32 = 1;
    pub(crate) const WORLD: u32 = 2;
    /// An address of the cluster whose pod nobody has told us of.
    pub(crate) const UNMANAGED: u32 = 3;
    pub(crate) const REMOTE_NODE: u32 = 6;
    pub(crate) const KUBE_APISERVER: u32 = 7;
    /// World, told apart by family where both are served.
    pub(crate) const WORLD_IPV4: u32 = 9;
    pub(crate) const WORLD_IPV6: u32 = 10;

    /// Names as Cilium has them, for lists.
    pub(crate) const NAMES: &[(u32, &str)] = &[
        (HOST, "reserved:host"),
        (WORLD, "reserved:world"),
        (UNMANAGED, "reserved:unmanaged"),
        (4, "reserved:health"),
        (5, "reserved:init"),
        (REMOTE_NODE, "reserved:remote-node"),
        (KUBE_APISERVER, "reserved:kube-apiserver"),
        (8, "reserved:ingress"),
        (WORLD_IPV4, "reserved:world-ipv4"),
        (WORLD_IPV6, "reserved:world-ipv6"),
    ];
}

/// Who says what an address is. Of several, the first in this order is believed: what this node knows itself comes
/// before what others write.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    LocalEndpoint(Attachment),
    Node(Key),
    RemoteEndpoint(Key),
    ApiServer,
    /// Of another cluster.
    RemoteNode(RemoteNodeKey),
    PodCidrs(Key),
    /// Of another cluster's node.
    RemotePodCidrs(RemoteNodeKey),
    World,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::LocalEndpoint(a) => write!(f, "endpoint {:.12}", a.container_id),
            Source::Node(k) => write!(f, "node {k}"),
            Source::RemoteEndpoint(k) => write!(f, "pod {k}"),
            Source::ApiServer => f.write_str("service default/kubernetes"),
            Source::RemoteNode((cluster, name)) => write!(f, "node {name} of cluster {cluster}"),
            Source::PodCidrs(k) => write!(f, "pod CIDR of node {k}"),
            Source::RemotePodCidrs((cluster, name)) => write!(f, "pod CIDR of node {name} of cluster {cluster}"),
            Source::World => f.write_str("reserved"),
        }
    }
}

/// A desired row of the datapath's ipcache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IpcacheRow {
    pub(crate) entry: IpcacheEntry,
    pub(crate) source: Source,
}

/// What the controller reads.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    pub(crate) nodes: Shared<Key, Node>,
    pub(crate) endpoints: Shared<Attachment, LocalEndpoint>,
    pub(crate) remote_endpoints: Shared<Key, RemoteEndpoint>,
    pub(crate) slices: Shared<SliceKey, Slice>,
    pub(crate) remote_nodes: Shared<RemoteNodeKey, RemoteNode>,
}

impl Inputs {
    /// This cluster's own inputs have been read completely.
    pub(crate) fn synced(&self) -> bool {
        self.nodes.synced() && self.remote_endpoints.synced() && self.endpoints.synced()
    }
}

/// What changed, per input.
pub(crate) struct Changed {
    /// [`Inputs::synced`], asked before the changes were taken: then they are all among them.
    pub(crate) synced: bool,
    pub(crate) nodes: Changes<Key>,
    pub(crate) endpoints: Changes<Attachment>,
    pub(crate) remote_endpoints: Changes<Key>,
    /// A slice of `default/kubernetes` changed.
    pub(crate) api_server: bool,
    pub(crate) remote_nodes: Changes<RemoteNodeKey>,
}

pub(crate) struct Controller {
    inputs: Inputs,
    out: Shared<IpNet, IpcacheRow>,
    claims: Claims<Source, IpNet, IpcacheEntry>,
    node: String,
    families: Families,
}

impl Controller {
    pub(crate) fn new(inputs: Inputs, out: &Shared<IpNet, IpcacheRow>, node: &str, families: Families) -> Controller {
        let mut controller =
            Controller { inputs, out: out.clone(), claims: Claims::default(), node: node.to_owned(), families };
        controller.set(&Source::World, world(families));
        controller
    }

    pub(crate) fn update(&mut self, changed: Changed) {
        for key in self.nodes(changed.nodes) {
            let (addresses, cidrs) = match self.inputs.nodes.get(&key) {
                Some(node) => (self.node_addresses(&key, &node), pod_cidrs(&node)),
                None => (BTreeMap::new(), BTreeMap::new()),
            };
            self.set(&Source::Node(key.clone()), addresses);
            self.set(&Source::PodCidrs(key), cidrs);
        }
        for key in self.endpoints(changed.endpoints) {
            let rows = self.inputs.endpoints.get(&key).map(|e| {
                let ips = e.ipv4.map(IpAddr::from).into_iter().chain(e.ipv6.map(IpAddr::from));
                hosts(ips, IpcacheEntry { identity: e.identity, in_cluster: true })
            });
            self.set(&Source::LocalEndpoint(key), rows.unwrap_or_default());
        }
        for key in self.remote_endpoints(changed.remote_endpoints) {
            let rows =
                self.inputs.remote_endpoints.get(&key).map(|e| {
                    hosts(e.addresses.iter().copied(), IpcacheEntry { identity: e.identity, in_cluster: true })
                });
            self.set(&Source::RemoteEndpoint(key), rows.unwrap_or_default());
        }
        if changed.api_server {
            self.update_api_server();
        }
        for key in self.remote_nodes(changed.remote_nodes) {
            let (addresses, cidrs) = match self.inputs.remote_nodes.get(&key) {
                Some(node) => (remote_addresses(&node), self.remote_cidrs(&node)),
                None => (BTreeMap::new(), BTreeMap::new()),
            };
            self.set(&Source::RemoteNode(key.clone()), addresses);
            self.set(&Source::RemotePodCidrs(key), cidrs);
        }
        if changed.synced {
            self.out.mark_synced();
        }
    }

    fn nodes(&self, changes: Changes<Key>) -> Vec<Key> {
        let known = self.claims.owners().filter_map(|source| match source {
            Source::Node(key) | Source::PodCidrs(key) => Some(key.clone()),
            _ => None,
        });
        keys_of(changes, &self.inputs.nodes, known)
    }

    fn endpoints(&self, changes: Changes<Attachment>) -> Vec<Attachment> {
        let known = self.claims.owners().filter_map(|source| match source {
            Source::LocalEndpoint(key) => Some(key.clone()),
            _ => None,
        });
        keys_of(changes, &self.inputs.endpoints, known)
    }

    fn remote_endpoints(&self, changes: Changes<Key>) -> Vec<Key> {
        let known = self.claims.owners().filter_map(|source| match source {
            Source::RemoteEndpoint(key) => Some(key.clone()),
            _ => None,
        });
        keys_of(changes, &self.inputs.remote_endpoints, known)
    }

    fn remote_nodes(&self, changes: Changes<RemoteNodeKey>) -> Vec<RemoteNodeKey> {
        let known = self.claims.owners().filter_map(|source| match source {
            Source::RemoteNode(key) | Source::RemotePodCidrs(key) => Some(key.clone()),
            _ => None,
        });
        keys_of(changes, &self.inputs.remote_nodes, known)
    }

    /// The API server's own addresses: backends of `default/kubernetes`. They may be outside of the cluster's nodes, so
    /// that they are not taken for natively routed.
    fn update_api_server(&mut self) {
        let service = api_server();
        let ips: Vec<IpAddr> = self.inputs.slices.read(|t| {
            let from = SliceKey::first(&service);
            let mine = t.iter_from(&from).take_while(|(k, _)| k.service == service);
            mine.flat_map(|(_, s)| s.endpoints.iter().map(|e| e.address)).collect()
        });
        let entry = IpcacheEntry { identity: reserved::KUBE_APISERVER, in_cluster: false };
        self.set(&Source::ApiServer, hosts(ips.into_iter(), entry));
    }

    fn node_addresses(&self, key: &Key, node: &Node) -> BTreeMap<IpNet, IpcacheEntry> {
        let identity = if key.name == self.node { reserved::HOST } else { reserved::REMOTE_NODE };
        hosts(node.addresses.iter().map(|a| a.ip), IpcacheEntry { identity, in_cluster: true })
    }

    /// What is not known of a remote node's pods is the world, as in Cilium (`pkg/node/manager`), but reached natively.
    fn remote_cidrs(&self, node: &RemoteNode) -> BTreeMap<IpNet, IpcacheEntry> {
        let entry = |net: &IpNet| IpcacheEntry { identity: world_of(net.addr(), self.families), in_cluster: true };
        node.pod_cidrs.iter().map(|net| (*net, entry(net))).collect()
    }

    fn set(&mut self, source: &Source, mut rows: BTreeMap<IpNet, IpcacheEntry>) {
        rows.retain(|prefix, _| self.families.has(prefix.addr()));
        let touched = self.claims.set(source, rows);
        self.out.write(|t| {
            for prefix in touched {
                match self.claims.get(&prefix) {
                    Some((source, entry)) => t.set(prefix, IpcacheRow { entry: *entry, source: source.clone() }),
                    None => t.delete(&prefix),
                };
            }
        });
    }
}

/// The Service of the API server.
pub(crate) fn api_server() -> Key {
    Key::new("default", "kubernetes")
}

/// The objects to look at; `known`: those that claim something.
fn keys_of<K: Ord + Clone, V: PartialEq>(
    changes: Changes<K>,
    table: &Shared<K, V>,
    known: impl Iterator<Item = K>,
) -> Vec<K> {
    match changes {
        Changes::Keys(keys) => keys,
        // The table has forgotten who was deleted; the claims have not.
        Changes::Reset => {
            let there = table.read(|t: &Table<K, V>| t.iter().map(|(k, _)| k.clone()).collect::<BTreeSet<K>>());
            there.into_iter().chain(known).collect::<BTreeSet<K>>().into_iter().collect()
        }
    }
}

fn world(families: Families) -> BTreeMap<IpNet, IpcacheEntry> {
    let any = |ip: IpAddr| {
        let net = IpNet::new(ip, 0).expect("0 is a prefix length of both families");
        (net, IpcacheEntry { identity: world_of(ip, families), in_cluster: false })
    };
    BTreeMap::from([any(Ipv4Addr::UNSPECIFIED.into()), any(Ipv6Addr::UNSPECIFIED.into())])
}

fn world_of(ip: IpAddr, families: Families) -> u32 {
    match ip {
        _ if !(families.v4 && families.v6) => reserved::WORLD,
        IpAddr::V4(_) => reserved::WORLD_IPV4,
        IpAddr::V6(_) => reserved::WORLD_IPV6,
    }
}

fn remote_addresses(node: &RemoteNode) -> BTreeMap<IpNet, IpcacheEntry> {
    let entry = IpcacheEntry { identity: reserved::REMOTE_NODE, in_cluster: true };
    hosts(node.addresses.iter().map(|a| a.ip), entry)
}

fn pod_cidrs(node: &Node) -> BTreeMap<IpNet, IpcacheEntry> {
    let entry = IpcacheEntry { identity: reserved::UNMANAGED, in_cluster: true };
    node.pod_cidrs.iter().map(|cidr| (*cidr, entry)).collect()
}

fn hosts(ips: impl Iterator<Item = IpAddr>, entry: IpcacheEntry) -> BTreeMap<IpNet, IpcacheEntry> {
    ips.map(|ip| (IpNet::from(ip), entry)).collect()
}
