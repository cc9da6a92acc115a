//! A device in memory.

use std::collections::{BTreeMap, BTreeSet};

use causeway_encryption_plan::{
    Actual, Change, DeviceSpec, Link, LinkStats, Peer, PeerName, PeerStats, PrivateKey, Snapshot, Unfit,
};
use ipnet::IpNet;

use crate::{Device, DeviceError, Ensured};

/// Holds what it is told and refuses what a real one refuses. Links are confirmed when the test says so.
#[derive(Debug, Default)]
pub struct Fake {
    spec: Option<DeviceSpec>,
    actual: Actual,
    /// Whose each prefix is.
    owners: BTreeMap<IpNet, PeerName>,
    confirmed: BTreeSet<Link>,
    /// Nobody answers while this is set.
    pub gone: bool,
}

impl Fake {
    /// The peer has proven that it has the link's keys.
    pub fn confirm(&mut self, link: Link) {
        self.confirmed.insert(link);
    }

    /// The process was started anew.
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    fn peer(&mut self, name: &PeerName) -> Result<&mut Peer, Unfit> {
        self.actual.peers.get_mut(name).ok_or_else(|| Unfit::NoPeer(name.clone()))
    }

    fn carry_out(&mut self, change: Change) -> Result<(), Unfit> {
        match change {
            Change::AddIdentity { private } => {
                self.actual.identities.insert(PrivateKey::public(&private));
            }
            Change::RemoveIdentity { public } => {
                let used = self.actual.peers.values().flat_map(|peer| &peer.links).any(|link| link.own == public);
                if used {
                    return Err(Unfit::IdentityInUse(public));
                }
                self.actual.identities.remove(&public);
            }
            Change::AddPeer { peer, endpoint, keepalive_s, link } => {
                if !self.actual.identities.contains(&link.own) {
                    return Err(Unfit::NoIdentity(link.own));
                }
                let links = BTreeSet::from([link]);
                let new = Peer { endpoint, keepalive_s, links, active: link, prefixes: BTreeSet::new() };
                if self.actual.peers.contains_key(&peer) {
                    return Err(Unfit::PeerThere(peer));
                }
                self.actual.peers.insert(peer, new);
            }
            Change::RemovePeer { peer } => {
                let gone = self.actual.peers.remove(&peer).ok_or(Unfit::NoPeer(peer))?;
                for prefix in gone.prefixes {
                    self.owners.remove(&prefix);
                }
            }
            Change::SetEndpoint { peer, endpoint } => self.peer(&peer)?.endpoint = endpoint,
            Change::SetKeepalive { peer, keepalive_s } => self.peer(&peer)?.keepalive_s = keepalive_s,
            Change::AddLink { peer, link } => {
                if !self.actual.identities.contains(&link.own) {
                    return Err(Unfit::NoIdentity(link.own));
                }
                self.peer(&peer)?.links.insert(link);
            }
            Change::RemoveLink { peer, link } => {
                let state = self.peer(&peer)?;
                if state.active == link {
                    return Err(Unfit::LinkActive(peer, link.remote));
                }
                if !state.links.remove(&link) {
                    return Err(Unfit::NoLink(peer, link.remote));
                }
            }
            Change::Activate { peer, link } => {
                let state = self.peer(&peer)?;
                if !state.links.contains(&link) {
                    return Err(Unfit::NoLink(peer, link.remote));
                }
                state.active = link;
            }
            Change::AddPrefix { peer, prefix } => {
                self.peer(&peer)?.prefixes.insert(prefix);
                if let Some(before) = self.owners.insert(prefix, peer.clone()).filter(|before| *before != peer)
                    && let Some(before) = self.actual.peers.get_mut(&before)
                {
                    before.prefixes.remove(&prefix);
                }
            }
            Change::RemovePrefix { peer, prefix } => {
                if self.peer(&peer)?.prefixes.remove(&prefix) {
                    self.owners.remove(&prefix);
                }
            }
        }
        Ok(())
    }

    fn answers(&self) -> Result<(), DeviceError> {
        if self.gone { Err(DeviceError::Gone("the fake is gone".into())) } else { Ok(()) }
    }
}

impl Device for Fake {
    fn describe(&self) -> String {
        "fake (a test)".into()
    }

    fn ensure(&mut self, spec: &DeviceSpec) -> Result<Ensured, DeviceError> {
        self.answers()?;
        let fresh = self.spec.is_none();
        self.spec = Some(spec.clone());
        Ok(Ensured { ifindex: 7, fresh })
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), DeviceError> {
        self.answers()?;
        for (applied, change) in changes.into_iter().enumerate() {
            self.carry_out(change).map_err(|error| DeviceError::Refused { error: error.to_string(), applied })?;
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Snapshot, DeviceError> {
        self.answers()?;
        let stats = self.actual.peers.iter().map(|(name, peer)| {
            let links = peer.links.iter().map(|link| {
                let confirmed = self.confirmed.contains(link);
                (*link, LinkStats { confirmed, ..LinkStats::default() })
            });
            (name.clone(), PeerStats { endpoint: peer.endpoint, ifindex: 7, links: links.collect(), source_refused: 0 })
        });
        let stats: BTreeMap<_, _> = stats.collect();
        Ok(Snapshot { spec: self.spec.clone(), ifindex: 7, actual: self.actual.clone(), stats, ..Snapshot::default() })
    }

    fn delete(&mut self) -> Result<(), DeviceError> {
        self.answers()?;
        self.restart();
        Ok(())
    }
}
