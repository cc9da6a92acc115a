//! Everything that the operator watches, mirrored, and which trade each change wakes.

mod mesh;

use std::collections::BTreeSet;

use causeway_k8s::watch::{Config, Event, Mirror, watch_lenient};
use causeway_k8s::{
    CiliumBGPClusterConfig, CiliumBGPNodeConfig, CiliumBGPNodeConfigOverride, CiliumBGPPeerConfig,
    CiliumEndpointOutline, CiliumIdentity, CiliumLoadBalancerIPPool, Rejected, ServiceExport, ServiceImport,
};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, NodeStatus, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;

pub(crate) use mesh::MeshWorld;

/// A planner with its applier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Trade {
    Lb,
    Bgp,
    PodCidrs,
    Identities,
    Mcs,
    Slices,
}

impl Trade {
    pub(crate) const ALL: [Trade; 6] =
        [Trade::PodCidrs, Trade::Bgp, Trade::Lb, Trade::Mcs, Trade::Slices, Trade::Identities];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Trade::Lb => "lb-ipam",
            Trade::Bgp => "bgp",
            Trade::PodCidrs => "pod-cidrs",
            Trade::Identities => "identity-gc",
            Trade::Mcs => "mcs-api",
            Trade::Slices => "endpoint-slice-sync",
        }
    }
}

/// One change of one kind.
pub(crate) enum Change {
    Service(Box<Event<Service>>),
    Pool(Event<CiliumLoadBalancerIPPool>),
    Node(Box<Event<Node>>),
    ClusterConfig(Event<CiliumBGPClusterConfig>),
    PeerConfig(Event<CiliumBGPPeerConfig>),
    Override(Event<CiliumBGPNodeConfigOverride>),
    NodeConfig(Event<CiliumBGPNodeConfig>),
    Identity(Event<CiliumIdentity>),
    Endpoint(Event<CiliumEndpointOutline>),
    Namespace(Box<Event<Namespace>>),
    Export(Event<ServiceExport>),
    Import(Event<ServiceImport>),
    Slice(Box<Event<EndpointSlice>>),
}

/// All mirrors.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) services: Mirror<Service>,
    pub(crate) pools: Mirror<CiliumLoadBalancerIPPool>,
    pub(crate) nodes: Mirror<Node>,
    pub(crate) cluster_configs: Mirror<CiliumBGPClusterConfig>,
    pub(crate) peer_configs: Mirror<CiliumBGPPeerConfig>,
    pub(crate) overrides: Mirror<CiliumBGPNodeConfigOverride>,
    pub(crate) node_configs: Mirror<CiliumBGPNodeConfig>,
    pub(crate) identities: Mirror<CiliumIdentity>,
    pub(crate) endpoints: Mirror<CiliumEndpointOutline>,
    pub(crate) mesh: MeshWorld,
}

/// The stream of all changes. Taking from it is cancel-safe.
pub(crate) struct Watches {
    changes: SelectAll<BoxStream<'static, Change>>,
}

/// Most changes taken in before the planners run; a bound on how long a flood can keep them waiting.
const MOST_CHANGES_AT_ONCE: usize = 10_000;

impl Watches {
    /// Watches what the given trades need.
    pub(crate) fn start(client: &Client, trades: &BTreeSet<Trade>) -> Watches {
        let mut changes: SelectAll<BoxStream<'static, Change>> = SelectAll::new();
        let config = Config::default;
        let wants = |trade| trades.contains(&trade);
        let mesh = wants(Trade::Mcs) || wants(Trade::Slices);
        if wants(Trade::Lb) || mesh {
            changes.push(watch_lenient(client.clone(), config()).map(|event| Change::Service(Box::new(event))).boxed());
        }
        if wants(Trade::Lb) {
            changes.push(watch_lenient(client.clone(), config()).map(Change::Pool).boxed());
        }
        if wants(Trade::Bgp) || wants(Trade::PodCidrs) {
            changes
                .push(watch_lenient(client.clone(), config()).map(|event| Change::Node(Box::new(slim(event)))).boxed());
        }
        if wants(Trade::Bgp) {
            changes.push(watch_lenient(client.clone(), config()).map(Change::ClusterConfig).boxed());
            changes.push(watch_lenient(client.clone(), config()).map(Change::PeerConfig).boxed());
            changes.push(watch_lenient(client.clone(), config()).map(Change::Override).boxed());
            changes.push(watch_lenient(client.clone(), config()).map(Change::NodeConfig).boxed());
        }
        if wants(Trade::Identities) {
            changes.push(watch_lenient(client.clone(), config()).map(Change::Identity).boxed());
            changes.push(watch_lenient(client.clone(), config()).map(Change::Endpoint).boxed());
        }
        if mesh {
            changes
                .push(watch_lenient(client.clone(), config()).map(|event| Change::Namespace(Box::new(event))).boxed());
            changes.push(watch_lenient(client.clone(), config()).map(|event| Change::Slice(Box::new(event))).boxed());
        }
        if wants(Trade::Mcs) {
            changes.push(watch_lenient(client.clone(), config()).map(Change::Export).boxed());
            changes.push(watch_lenient(client.clone(), config()).map(Change::Import).boxed());
        }
        Watches { changes }
    }

    /// Waits for a change, then takes in all that have arrived. Returns the trades that they wake.
    pub(crate) async fn next_into(&mut self, world: &mut World) -> BTreeSet<Trade> {
        let mut woken = BTreeSet::new();
        // Watches never end; without any, there is nothing to wait for.
        let Some(first) = self.changes.next().await else { return std::future::pending().await };
        woken.extend(world.take(first));
        for _ in 1..MOST_CHANGES_AT_ONCE {
            match self.changes.next().now_or_never() {
                Some(Some(change)) => woken.extend(world.take(change)),
                _ => break,
            }
        }
        woken
    }
}

impl World {
    /// Takes in one change; returns the trades that it wakes.
    fn take(&mut self, change: Change) -> Vec<Trade> {
        fn apply<K: kube::Resource>(mirror: &mut Mirror<K>, event: Event<K>, trades: &[Trade]) -> Vec<Trade> {
            // The first listing wakes even when it is empty: "nothing" is known from then on.
            let synced = matches!(event, Event::Synced);
            if mirror.apply(event).is_empty() && !synced { Vec::new() } else { trades.to_vec() }
        }
        match change {
            Change::Service(event) => {
                let synced = matches!(*event, Event::Synced);
                let keys = self.services.apply(*event);
                self.mesh.services(&keys, synced);
                let woken = synced || !keys.is_empty();
                if woken { vec![Trade::Lb, Trade::Mcs, Trade::Slices] } else { Vec::new() }
            }
            Change::Pool(event) => apply(&mut self.pools, event, &[Trade::Lb]),
            Change::Node(event) => apply(&mut self.nodes, *event, &[Trade::Bgp, Trade::PodCidrs]),
            Change::ClusterConfig(event) => apply(&mut self.cluster_configs, event, &[Trade::Bgp]),
            Change::PeerConfig(event) => apply(&mut self.peer_configs, event, &[Trade::Bgp]),
            Change::Override(event) => apply(&mut self.overrides, event, &[Trade::Bgp]),
            Change::NodeConfig(event) => apply(&mut self.node_configs, event, &[Trade::Bgp]),
            // Identities are looked at by the clock, not by the change.
            Change::Identity(event) => apply(&mut self.identities, event, &[]),
            Change::Endpoint(event) => apply(&mut self.endpoints, event, &[]),
            Change::Namespace(event) => self.mesh.namespace(*event),
            Change::Export(event) => self.mesh.export(event),
            Change::Import(event) => self.mesh.import(event),
            Change::Slice(event) => self.mesh.slice(*event),
        }
    }

    /// Whether everything that `trade` decides from has been listed completely.
    pub(crate) fn ready(&self, trade: Trade) -> bool {
        match trade {
            Trade::Lb => self.services.synced() && self.pools.synced(),
            Trade::PodCidrs => self.nodes.synced(),
            Trade::Bgp => {
                self.nodes.synced()
                    && self.cluster_configs.synced()
                    && self.peer_configs.synced()
                    && self.overrides.synced()
                    && self.node_configs.synced()
            }
            Trade::Identities => self.identities.synced() && self.endpoints.synced(),
            Trade::Slices => self.services.synced() && self.mesh.namespaces.synced() && self.mesh.slices.synced(),
            Trade::Mcs => self.ready(Trade::Slices) && self.mesh.exports.synced() && self.mesh.imports.synced(),
        }
    }

    /// Objects that could not be decoded, of the kinds that `trade` reads.
    pub(crate) fn undecodable(&self, trade: Trade) -> Vec<Rejected> {
        fn of<K: kube::Resource>(mirror: &Mirror<K>) -> Vec<Rejected> {
            mirror.rejected().values().cloned().collect()
        }
        match trade {
            Trade::Lb => [of(&self.services), of(&self.pools)].concat(),
            Trade::PodCidrs => of(&self.nodes),
            Trade::Bgp => {
                [of(&self.cluster_configs), of(&self.peer_configs), of(&self.overrides), of(&self.node_configs)]
                    .concat()
            }
            Trade::Identities => [of(&self.identities), of(&self.endpoints)].concat(),
            Trade::Slices => [of(&self.services), of(&self.mesh.namespaces), of(&self.mesh.slices)].concat(),
            Trade::Mcs => [of(&self.mesh.exports), of(&self.mesh.imports)].concat(),
        }
    }

    /// Numbers of the identities that any endpoint has.
    pub(crate) fn identities_in_use(&self) -> BTreeSet<i64> {
        self.endpoints.objects().values().filter_map(|endpoint| endpoint.identity()).collect()
    }
}

/// A Node without the bulk that we do not read: images alone are tens of kilobytes.
fn slim(event: Event<Node>) -> Event<Node> {
    match event {
        Event::Applied(mut node) => {
            let addresses = node.status.take().and_then(|status| status.addresses);
            node.status = Some(NodeStatus { addresses, ..NodeStatus::default() });
            Event::Applied(node)
        }
        other => other,
    }
}
