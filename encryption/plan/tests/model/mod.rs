//! A device as small as it can be: it does what each [`Change`] says and refuses what must not be asked of it.

#![allow(dead_code, unreachable_pub, reason = "each test binary takes what it needs")]

use std::collections::BTreeSet;

use causeway_encryption_plan::{Actual, Change, Link, Peer, PeerName, PrivateKey, PublicKey};

/// Keys that are told apart by their number.
pub fn private(number: u64) -> PrivateKey {
    let mut bytes = [7; 32];
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    PrivateKey::from_random(bytes)
}

/// A key that nobody has the private half of: cheaper, where only names matter.
pub fn public(number: u64) -> PublicKey {
    let mut bytes = [9; 32];
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_bytes(bytes).unwrap()
}

#[derive(Debug, Clone, Default)]
pub struct Device {
    pub actual: Actual,
}

impl Device {
    pub fn apply(&mut self, change: &Change) -> Result<(), String> {
        let refused = |why: &str| Err(format!("{why}: {change:?}"));
        match change {
            Change::AddIdentity { private } => {
                if !self.actual.identities.insert(private.public()) {
                    return refused("identity stands");
                }
            }
            Change::RemoveIdentity { public } => {
                if self.links().any(|link| link.own == *public) {
                    return refused("a link uses the identity");
                }
                if !self.actual.identities.remove(public) {
                    return refused("no such identity");
                }
            }
            Change::AddPeer { peer, endpoint, keepalive_s, link } => {
                if self.actual.peers.contains_key(peer) {
                    return refused("peer stands");
                }
                self.may_add(link)?;
                let new = Peer {
                    endpoint: *endpoint,
                    keepalive_s: *keepalive_s,
                    links: BTreeSet::from([*link]),
                    active: *link,
                    prefixes: BTreeSet::new(),
                };
                self.actual.peers.insert(peer.clone(), new);
            }
            Change::RemovePeer { peer } => {
                if self.actual.peers.remove(peer).is_none() {
                    return refused("no such peer");
                }
            }
            Change::SetEndpoint { peer, endpoint } => self.peer(peer)?.endpoint = *endpoint,
            Change::SetKeepalive { peer, keepalive_s } => self.peer(peer)?.keepalive_s = *keepalive_s,
            Change::AddLink { peer, link } => {
                if !self.peer(peer)?.links.contains(link) {
                    self.may_add(link)?;
                    self.peer(peer)?.links.insert(*link);
                }
            }
            Change::RemoveLink { peer, link } => {
                let peer = self.peer(peer)?;
                if peer.active == *link {
                    return refused("the link is active");
                }
                if !peer.links.remove(link) {
                    return refused("no such link");
                }
            }
            Change::Activate { peer, link } => {
                let peer = self.peer(peer)?;
                if !peer.links.contains(link) {
                    return refused("no such link");
                }
                peer.active = *link;
            }
            Change::AddPrefix { peer, prefix } => {
                self.peer(peer)?;
                for other in self.actual.peers.values_mut() {
                    other.prefixes.remove(prefix);
                }
                self.peer(peer)?.prefixes.insert(*prefix);
            }
            Change::RemovePrefix { peer, prefix } => {
                if !self.peer(peer)?.prefixes.remove(prefix) {
                    return refused("the prefix is not the peer's");
                }
            }
        }
        Ok(())
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.actual.peers.values().flat_map(|peer| &peer.links)
    }

    fn peer(&mut self, name: &PeerName) -> Result<&mut Peer, String> {
        self.actual.peers.get_mut(name).ok_or_else(|| format!("no peer {name}"))
    }

    fn may_add(&self, link: &Link) -> Result<(), String> {
        if !self.actual.identities.contains(&link.own) {
            return Err(format!("no identity for {link:?}"));
        }
        if self.links().any(|other| other == link) {
            return Err(format!("a peer has {link:?}"));
        }
        Ok(())
    }
}
