//! Who is there: identities, peers with their links, and whose prefix is whose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use causeway_encryption_plan::{Actual, Link, Peer, PeerName, PeerStats, PublicKey};
use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;
use ipnet::IpNet;
use parking_lot::RwLock;

use super::link::{Identity, LinkState};

pub(crate) struct Table {
    pub(crate) identities: BTreeMap<PublicKey, Arc<Identity>>,
    pub(crate) peers: BTreeMap<PeerName, Arc<PeerState>>,
    pub(crate) links: HashMap<Link, Arc<LinkState>>,
    pub(crate) routes: IpNetworkTable<Arc<PeerState>>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            identities: BTreeMap::new(),
            peers: BTreeMap::new(),
            links: HashMap::new(),
            routes: IpNetworkTable::new(),
        }
    }
}

impl Table {
    /// Whose address this is.
    pub(crate) fn peer_of(&self, address: IpAddr) -> Option<&Arc<PeerState>> {
        self.routes.longest_match(address).map(|(_, peer)| peer)
    }

    pub(crate) fn peer_by_name(&self, name: &PeerName) -> Option<&Arc<PeerState>> {
        self.peers.get(name)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<PeerState>> {
        self.peers.values()
    }

    pub(crate) fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.identities.values()
    }

    pub(crate) fn link(&self, own: PublicKey, remote: PublicKey) -> Option<Arc<LinkState>> {
        self.links.get(&Link { own, remote }).cloned()
    }

    pub(crate) fn actual(&self) -> Actual {
        Actual {
            identities: self.identities.keys().copied().collect(),
            peers: self.peers.iter().map(|(name, peer)| (name.clone(), peer.told())).collect(),
        }
    }

    pub(crate) fn stats(&self) -> BTreeMap<PeerName, PeerStats> {
        self.peers.iter().map(|(name, peer)| (name.clone(), peer.stats())).collect()
    }
}

/// `None` for what is no network: host bits are set.
pub(crate) fn network(prefix: IpNet) -> Option<IpNetwork> {
    IpNetwork::new(prefix.addr(), prefix.prefix_len()).ok()
}

pub(crate) struct PeerState {
    active: RwLock<Arc<LinkState>>,
    pub(crate) told: RwLock<Told>,
    source_refused: AtomicU64,
}

/// What was told of a peer, beside the active link.
pub(crate) struct Told {
    pub(crate) endpoint: SocketAddr,
    pub(crate) keepalive_s: Option<u16>,
    pub(crate) links: BTreeMap<Link, Arc<LinkState>>,
    pub(crate) prefixes: BTreeSet<IpNet>,
}

impl PeerState {
    /// `link`: its first one, which leads to the endpoint that was told.
    pub(crate) fn new(keepalive_s: Option<u16>, link: Arc<LinkState>) -> Self {
        let endpoint = link.endpoint();
        let links = BTreeMap::from([(link.link, Arc::clone(&link))]);
        Self {
            active: RwLock::new(link),
            told: RwLock::new(Told { endpoint, keepalive_s, links, prefixes: BTreeSet::new() }),
            source_refused: AtomicU64::new(0),
        }
    }

    pub(crate) fn active(&self) -> Arc<LinkState> {
        Arc::clone(&self.active.read())
    }

    pub(crate) fn activate(&self, link: Arc<LinkState>) {
        *self.active.write() = link;
    }

    pub(crate) fn links(&self) -> Vec<Arc<LinkState>> {
        self.told.read().links.values().cloned().collect()
    }

    pub(crate) fn refuse_source(&self) {
        self.source_refused.fetch_add(1, Ordering::Relaxed);
    }

    fn told(&self) -> Peer {
        let told = self.told.read();
        Peer {
            endpoint: told.endpoint,
            keepalive_s: told.keepalive_s,
            links: told.links.keys().copied().collect(),
            active: self.active.read().link,
            prefixes: told.prefixes.clone(),
        }
    }

    fn stats(&self) -> PeerStats {
        PeerStats {
            endpoint: self.active().endpoint(),
            // The engine knows of no interface; the device fills it in.
            ifindex: 0,
            links: self.links().iter().map(|link| (link.link, link.stats())).collect(),
            source_refused: self.source_refused.load(Ordering::Relaxed),
        }
    }
}
