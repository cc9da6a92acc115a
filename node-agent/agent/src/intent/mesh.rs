//! What other clusters offer: rows made of what `causeway-mesh-remote` reads, each marked with its cluster.
//!
//! - [`sink`]: one cluster's words, typed; [`rows`] makes the rows.
//! - [`intake`]: where the words of all clusters end: the tables, the store of addresses, and [`owners`] of ranges.
//! - [`refusals`], [`progress`], [`latency`]: what people are told of it.

pub(crate) mod intake;
pub(crate) mod latency;
pub(crate) mod owners;
pub(crate) mod progress;
pub(crate) mod refusals;
mod rows;
pub(crate) mod sink;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_datapath_loader::Proto;
use causeway_mesh_remote::{RemoteInfo, Stage};
use causeway_mesh_schema::ClusterId;
use ipnet::IpNet;

use super::Key;
use super::node::NodeAddress;
use super::slice::Slice;

/// One entry of one cluster about one Service. Orders the entries of a Service next to each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OfferKey {
    pub(crate) service: Key,
    pub(crate) cluster: ClusterId,
    /// Of the EndpointSlice; empty for an entry of `services/v1`.
    pub(crate) slice: Box<str>,
}

/// Backends that a cluster shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) shared: bool,
    /// One per set of ports. Their endpoints are never `local`.
    pub(crate) slices: Box<[Arc<Slice>]>,
    /// Endpoints that are somebody else's, by address, and whose (0: this cluster). They serve nobody. The intake
    /// judges each offer when it comes, and again when a range that it lies in changes hands.
    pub(crate) foreign: Box<[(IpAddr, u16)]>,
}

impl Offer {
    /// Of all endpoints, once for each set of ports.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.slices.iter().flat_map(|slice| slice.endpoints.iter().map(|e| e.address))
    }

    pub(crate) fn is_foreign(&self, address: IpAddr) -> bool {
        self.foreign.binary_search_by_key(&address, |(ip, _)| *ip).is_ok()
    }
}

/// A remote cluster that has been read at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteCluster {
    pub(crate) info: Arc<RemoteInfo>,
    pub(crate) stage: Stage,
}

/// Names a node of a remote cluster.
pub(crate) type RemoteNodeKey = (ClusterId, Box<str>);

/// A node of a remote cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteNode {
    pub(crate) addresses: Box<[NodeAddress]>,
    pub(crate) pod_cidrs: Box<[IpNet]>,
    /// Base64 of the node's WireGuard public key; empty without one.
    pub(crate) wireguard_pub_key: Box<str>,
    /// All its keys with their epochs, as its annotation says; empty without it.
    pub(crate) wireguard_pub_keys: Box<str>,
}

/// Where a remote backend listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) proto: Proto,
}

/// What probes say of a remote backend. A target without a row has not been probed yet and counts as good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) alive: bool,
    /// Why not; empty when alive.
    pub(crate) reason: Box<str>,
}
