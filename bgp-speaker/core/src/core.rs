//! All instances and peers behind one `handle`, `poll_output`, `deadline`. The shell that drives it waits, feeds and
//! drains; it decides nothing.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use causeway_bgp_wire::{CeaseError, Family, Notification};

use crate::config::{InstanceConfig, PeerConfig, RouteSet};
use crate::export::Plans;
use crate::io::{Input, Output};
use crate::negotiate::LocalAddresses;
use crate::peer::{Cx, Peer, Start, deconfigured, reconfigured};
use crate::session::{ConnId, Endpoints};
use crate::status::{InstanceStatus, SpeakerStatus};
use crate::timing::Jitter;

/// What the core has to know about the process it lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreOptions {
    /// The first OPENs carry the R bit of graceful restart.
    pub restarting: bool,
    /// And the F bit of each family.
    pub forwarding_preserved: bool,
    /// For the FQDN capability; empty leaves it out.
    pub hostname: String,
    /// For the software version capability; empty leaves it out.
    pub software: String,
    /// Seed of the jitter.
    pub seed: u64,
}

#[derive(Debug)]
struct Instance {
    config: InstanceConfig,
    complete: bool,
    /// Peer name to index.
    peers: BTreeMap<String, u32>,
}

/// The speaker without its sockets.
#[derive(Debug)]
pub struct Core {
    start: Start,
    instances: BTreeMap<String, Instance>,
    /// By the index that stands in their connections' names.
    peers: BTreeMap<u32, Peer>,
    next_peer: u32,
    /// Routes as they were set, also for peers that are not configured yet.
    routes: BTreeMap<(String, String), Arc<RouteSet>>,
    outputs: VecDeque<Output>,
    jitter: Jitter,
    plans: Plans,
    stopping: bool,
}

impl Core {
    /// A speaker without instances, started at `now`.
    #[must_use]
    pub fn new(now: Instant, options: CoreOptions) -> Self {
        Self {
            start: Start {
                at: now,
                restarting: options.restarting,
                forwarding_preserved: options.forwarding_preserved,
                hostname: options.hostname,
                software: options.software,
            },
            instances: BTreeMap::new(),
            peers: BTreeMap::new(),
            next_peer: 0,
            routes: BTreeMap::new(),
            outputs: VecDeque::new(),
            jitter: Jitter::new(options.seed),
            plans: Plans::default(),
            stopping: false,
        }
    }

    /// Takes one input. `now` must not go backwards.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::SetInstance(config) => self.set_instance(now, config),
            Input::RemoveInstance(name) => self.remove_instance(now, &name),
            Input::SetRoutes { instance, peer, routes } => self.set_routes(now, instance, peer, routes),
            Input::RoutesComplete(name) => self.routes_complete(now, &name),
            Input::Connected { conn, endpoints, addresses } => {
                self.with_owner(now, conn, |peer, cx| peer.connected(cx, conn, endpoints, addresses));
            }
            Input::ConnectFailed { conn, error } => {
                self.with_owner(now, conn, |peer, cx| peer.connect_failed(cx, conn, error));
            }
            Input::Accepted { token, instance, endpoints, addresses } => {
                self.accepted(now, token, &instance, endpoints, addresses);
            }
            Input::Received { conn, bytes } => self.with_owner(now, conn, |peer, cx| peer.received(cx, conn, &bytes)),
            Input::Written { conn, octets, sends } => {
                self.with_owner(now, conn, |peer, cx| peer.written(cx, conn, octets, sends));
            }
            Input::Closed { conn, error } => self.with_owner(now, conn, |peer, cx| peer.closed(cx, conn, error)),
            Input::Tick => {
                for index in self.indices() {
                    self.with_peer(now, index, |peer, cx| peer.tick(cx));
                }
            }
            Input::Shutdown { graceful, text } => self.shutdown(now, graceful, &text),
        }
        self.plans.trim();
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::deadline).min()
    }

    /// Everything, at this moment. `wall_clock` is the time of day at `now`.
    #[must_use]
    pub fn status(&self, now: Instant, wall_clock: SystemTime) -> SpeakerStatus {
        let instance_status = |instance: &Instance| InstanceStatus {
            local_asn: instance.config.local_asn,
            router_id: instance.config.router_id,
            local_port: instance.config.local_port,
            listen_error: None,
            routes_complete: instance.complete,
            peers: instance
                .peers
                .iter()
                .filter_map(|(name, index)| Some((name.clone(), self.peers.get(index)?.status())))
                .collect(),
        };
        SpeakerStatus {
            epoch: (now, wall_clock),
            instances: self
                .instances
                .iter()
                .map(|(name, instance)| (name.clone(), instance_status(instance)))
                .collect(),
        }
    }

    /// What a peer has been told, with the next hop per family; `None` if there is no such peer.
    #[must_use]
    pub fn told(&self, instance: &str, peer: &str) -> Option<(Vec<(Family, IpAddr)>, RouteSet)> {
        let index = self.instances.get(instance)?.peers.get(peer)?;
        Some(self.peers.get(index)?.told())
    }

    fn indices(&self) -> Vec<u32> {
        self.peers.keys().copied().collect()
    }

    fn with_owner(&mut self, now: Instant, conn: ConnId, act: impl FnOnce(&mut Peer, &mut Cx<'_>)) {
        self.with_peer(now, conn.peer(), act);
    }

    fn with_peer(&mut self, now: Instant, index: u32, act: impl FnOnce(&mut Peer, &mut Cx<'_>)) {
        if let Some(peer) = self.peers.get_mut(&index) {
            let mut cx = Cx {
                now,
                outputs: &mut self.outputs,
                jitter: &mut self.jitter,
                plans: &mut self.plans,
                start: &self.start,
            };
            act(peer, &mut cx);
        }
    }

    fn set_instance(&mut self, now: Instant, mut config: InstanceConfig) {
        if self.stopping {
            return;
        }
        let wanted = std::mem::take(&mut config.peers);
        let name = config.name.clone();
        let old = self.instances.remove(&name);
        // Another AS number or router id is another speaker to every peer.
        let same_identity = old
            .as_ref()
            .is_none_or(|old| (old.config.local_asn, old.config.router_id) == (config.local_asn, config.router_id));
        let (complete, mut known) = old.map_or((false, BTreeMap::new()), |old| (old.complete, old.peers));
        let mut peers = BTreeMap::new();
        for peer in wanted {
            let before = known.remove(&peer.name).or_else(|| peers.remove(&peer.name));
            let peer_name = peer.name.clone();
            let index = self.set_peer(now, &config, peer, before, same_identity, complete);
            peers.insert(peer_name, index);
        }
        for index in known.into_values() {
            self.remove_peer(now, index, "the peer was removed from the configuration", &deconfigured(), true);
        }
        let names: BTreeSet<String> = peers.keys().cloned().collect();
        self.instances.insert(name.clone(), Instance { config, complete, peers });
        self.routes.retain(|(instance, peer), _| *instance != name || names.contains(peer));
    }

    fn set_peer(
        &mut self,
        now: Instant,
        identity: &InstanceConfig,
        config: PeerConfig,
        before: Option<u32>,
        same_identity: bool,
        complete: bool,
    ) -> u32 {
        let old = before.and_then(|index| Some((index, self.peers.get_mut(&index)?)));
        if let Some((index, old)) = old
            && same_identity
            && config.keeps_session_of(old.config())
        {
            old.retune(config);
            return index;
        }
        let key = (identity.name.clone(), config.name.clone());
        self.next_peer += 1;
        let index = self.next_peer;
        let mut peer = Peer::new(now, index, identity.clone(), config);
        if let Some(before) = before
            && let Some(old) = self.remove_peer(now, before, "the configuration changed", &reconfigured(), false)
        {
            peer.inherit(&old);
        }
        self.peers.insert(index, peer);
        let routes = self.routes.get(&key).cloned();
        self.with_peer(now, index, |peer, cx| {
            if let Some(routes) = routes {
                peer.set_routes(cx, routes);
            }
            if complete {
                peer.set_complete(cx);
            }
            peer.start(cx);
        });
        index
    }

    fn remove_peer(&mut self, now: Instant, index: u32, why: &str, say: &Notification, hard: bool) -> Option<Peer> {
        self.with_peer(now, index, |peer, cx| peer.stop(cx, why, Some(say), hard));
        self.peers.remove(&index)
    }

    fn remove_instance(&mut self, now: Instant, name: &str) {
        if let Some(instance) = self.instances.remove(name) {
            for index in instance.peers.into_values() {
                self.remove_peer(now, index, "the instance was removed from the configuration", &deconfigured(), true);
            }
        }
        self.routes.retain(|(instance, _), _| instance != name);
    }

    fn set_routes(&mut self, now: Instant, instance: String, peer: String, routes: Arc<RouteSet>) {
        let index = self.instances.get(&instance).and_then(|known| known.peers.get(&peer)).copied();
        let routes = self.shared(&instance, routes);
        self.routes.insert((instance, peer), Arc::clone(&routes));
        if let Some(index) = index {
            self.with_peer(now, index, |peer, cx| {
                if !Arc::ptr_eq(peer.desired(), &routes) {
                    peer.set_routes(cx, routes);
                }
            });
        }
    }

    /// The set that another peer of the instance already has, if it is equal: equal sets are encoded once.
    fn shared(&self, instance: &str, routes: Arc<RouteSet>) -> Arc<RouteSet> {
        let same = self
            .peers
            .values()
            .filter(|peer| **peer.instance() == *instance)
            .map(Peer::desired)
            .find(|known| Arc::ptr_eq(known, &routes) || (known.len() == routes.len() && **known == routes));
        same.cloned().unwrap_or(routes)
    }

    fn routes_complete(&mut self, now: Instant, name: &str) {
        let Some(instance) = self.instances.get_mut(name) else { return };
        if !std::mem::replace(&mut instance.complete, true) {
            for index in instance.peers.values().copied().collect::<Vec<u32>>() {
                self.with_peer(now, index, |peer, cx| peer.set_complete(cx));
            }
        }
    }

    fn accepted(&mut self, now: Instant, token: u64, name: &str, endpoints: Endpoints, addresses: LocalAddresses) {
        let remote = endpoints.remote.ip().to_canonical();
        let index = self.instances.get(name).and_then(|instance| {
            let is_it = |index: &&u32| self.peers.get(index).is_some_and(|peer| peer.config().address == remote);
            instance.peers.values().find(is_it).copied()
        });
        match index {
            Some(index) => self.with_peer(now, index, |peer, cx| peer.accept(cx, token, endpoints, addresses)),
            None => {
                let reason = format!("{remote} is not a peer of instance {name}");
                self.outputs.push_back(Output::Refuse { token, reason });
            }
        }
    }

    fn shutdown(&mut self, now: Instant, graceful: bool, text: &str) {
        self.stopping = true;
        let say = (!graceful).then(|| Notification::shutdown(CeaseError::AdministrativeShutdown, text));
        for index in self.indices() {
            self.with_peer(now, index, |peer, cx| peer.stop(cx, "the speaker stops", say.as_ref(), true));
        }
    }
}
