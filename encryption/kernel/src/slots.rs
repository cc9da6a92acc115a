//! Identities and links on interfaces: pure.
//!
//! An interface of the kernel has one private key, one port, a peer's key once, and a prefix once. So each session with a
//! peer, a [`Link`], needs an interface of the link's identity on which the peer has no other. Four interfaces, *slots*,
//! hold everything that two ends with two keys each can want, when all nodes rotate at once: `cilium_wg0` at the port of
//! the spec and three at the next ports, which are there only while somebody rotates. A peer's prefixes stand on every
//! interface where it has a link, so that packets are accepted on all; the active link decides alone by which of them
//! packets go ([`Slots::slot_of`]). A link that finds no slot waits for one, unconfirmed.
//!
//! # Finding each other
//! Nobody tells the other side at which port a link lives. Both sides put a pair of new keys into the same slots more often
//! than not, so the first handshake goes to the port of the own slot; one that goes unanswered for 5 s is followed by one to
//! the next port ([`candidate`]), and whoever is reached learns the address. Nodes that have one port only (Cilium's, and
//! those with the embedded device) are found at the second attempt. The ports of all slots must be open between nodes.
//! An interface is switched on after a snapshot has named it, so that whoever must attach something to it comes first.
//!
//! # Going home
//! When the identity at the announced port is removed, the one that is left lives at another port. It gets the first slot
//! too, and each peer follows there without loss:
//! 1. The peer is set up on the first slot, with its prefixes, and the snapshot says that packets go by it. The first of
//!    them starts a handshake and waits for it in the kernel. Meanwhile the other side's still arrive on the old slot.
//! 2. After a snapshot has told so, a handshake is started where no packet did, by peers' old addresses.
//! 3. When it stands (or the old session does not), the old peer goes, and the interface with its last peer.
//!
//! A peer goes home when its session is at rest, and stays where it is as long as it is not. For the other side's kernel takes
//! the new port as soon as it hears a handshake from there, and the new session a round trip later, with the first packet
//! in it; what it sends in between belongs to the old session and arrives at the interface that does not know it.
//!
//! Two ends that did so at the same time would each shake hands with what the other is about to remove: while the peer is
//! not at its announced port itself, the side with the larger key waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use causeway_encryption_plan::{Actual, Change, Link, Peer, PeerName, PublicKey, Unfit};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::decode::Observed;
use crate::encode::{Allowed, How, PeerSet};

/// Two keys of ours times two of a peer's.
pub(crate) const SLOTS: usize = 4;

/// Any interval starts a handshake at once when there was none before; this one does nothing else before it is taken back.
const KICK_S: u16 = u16::MAX;

/// What is to be done to interfaces, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// The interface with this identity's private key, at the slot's port; made if it is not there.
    Open {
        slot: usize,
        identity: PublicKey,
    },
    /// Without key and peers; the interface itself goes too, but for the first.
    Close {
        slot: usize,
    },
    Set {
        slot: usize,
        peer: PeerSet,
    },
}

/// Where a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    pub(crate) slot: usize,
    /// Where the peer's datagrams go: what it was told, or has learned.
    pub(crate) at: SocketAddr,
    /// On its way home from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaving: Option<(usize, Stage)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// Nobody knows.
    New,
    /// A snapshot has said so.
    Told,
    /// The handshake was begun.
    Kicked,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerState {
    endpoint: SocketAddr,
    keepalive_s: Option<u16>,
    active: Link,
    #[serde(with = "pairs")]
    pub(crate) links: BTreeMap<Link, Option<Place>>,
    /// Not stored: the kernel knows them.
    #[serde(skip)]
    prefixes: BTreeSet<IpNet>,
}

impl PeerState {
    /// Slots where it has a peer, and under which key.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, PublicKey)> {
        let of = |(link, place): (&Link, &Option<Place>)| {
            let key = link.remote;
            let place = *place;
            place.into_iter().flat_map(move |place| {
                [Some(place.slot), place.leaving.map(|(slot, _)| slot)].into_iter().flatten().map(move |s| (s, key))
            })
        };
        self.links.iter().flat_map(of)
    }

    fn has(&self, slot: usize) -> bool {
        self.places().any(|(taken, _)| taken == slot)
    }

    fn keepalive_on(&self, link: Link) -> u16 {
        if link == self.active { self.keepalive_s.unwrap_or_default() } else { 0 }
    }
}

/// What stands where. Stored between processes, for the kernel knows no names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Slots {
    slots: [Option<PublicKey>; SLOTS],
    #[serde(skip)]
    identities: BTreeSet<PublicKey>,
    peers: BTreeMap<PeerName, PeerState>,
    /// Whose a prefix is.
    #[serde(skip)]
    owners: BTreeMap<IpNet, PeerName>,
    /// Whose a link is.
    #[serde(skip)]
    links: BTreeMap<Link, PeerName>,
}

impl Slots {
    pub(crate) fn identity(&self, slot: usize) -> Option<PublicKey> {
        self.slots[slot]
    }

    pub(crate) fn peers(&self) -> &BTreeMap<PeerName, PeerState> {
        &self.peers
    }

    /// Whether it can be what [`Slots`] wrote: every slot there is.
    pub(crate) fn is_sound(&self) -> bool {
        self.peers.values().flat_map(PeerState::places).all(|(slot, _)| slot < SLOTS)
    }

    pub(crate) fn actual(&self) -> Actual {
        let peer = |state: &PeerState| Peer {
            endpoint: state.endpoint,
            keepalive_s: state.keepalive_s,
            links: state.links.keys().copied().collect(),
            active: state.active,
            prefixes: state.prefixes.clone(),
        };
        Actual {
            identities: self.identities.clone(),
            peers: self.peers.iter().map(|(name, state)| (name.clone(), peer(state))).collect(),
        }
    }

    /// By which interface packets to the peer go; `None`: by none, the link waits.
    pub(crate) fn slot_of(&self, name: &PeerName) -> Option<usize> {
        let state = self.peers.get(name)?;
        Some((*state.links.get(&state.active)?)?.slot)
    }

    /// A change that fails changes nothing. After the last of several comes [`Self::tidy`].
    pub(crate) fn change(&mut self, change: &Change, ops: &mut Vec<Op>) -> Result<(), Unfit> {
        match change {
            Change::AddIdentity { private } => {
                self.identities.insert(private.public());
            }
            Change::RemoveIdentity { public } => self.remove_identity(*public, ops)?,
            Change::AddPeer { peer, endpoint, keepalive_s, link } => {
                if self.peers.contains_key(peer) {
                    return Err(Unfit::PeerThere(peer.clone()));
                }
                self.check_new(*link)?;
                let state = PeerState {
                    endpoint: *endpoint,
                    keepalive_s: *keepalive_s,
                    active: *link,
                    links: BTreeMap::from([(*link, None)]),
                    prefixes: BTreeSet::new(),
                };
                self.peers.insert(peer.clone(), state);
                self.links.insert(*link, peer.clone());
                self.place(peer, *link, ops);
            }
            Change::RemovePeer { peer } => self.remove_peer(peer, ops)?,
            Change::SetEndpoint { peer, endpoint } => self.set_endpoint(peer, *endpoint, ops)?,
            Change::SetKeepalive { peer, keepalive_s } => {
                let state = known(&mut self.peers, peer)?;
                state.keepalive_s = *keepalive_s;
                let active = state.active;
                keepalive(state, active, ops);
            }
            Change::AddLink { peer, link } => self.add_link(peer, *link, ops)?,
            Change::RemoveLink { peer, link } => {
                let state = known(&mut self.peers, peer)?;
                if state.active == *link {
                    return Err(Unfit::LinkActive(peer.clone(), link.remote));
                }
                let Some(place) = state.links.remove(link) else {
                    return Err(Unfit::NoLink(peer.clone(), link.remote));
                };
                self.links.remove(link);
                vacate(*link, place, ops);
            }
            Change::Activate { peer, link } => {
                let state = known(&mut self.peers, peer)?;
                if !state.links.contains_key(link) {
                    return Err(Unfit::NoLink(peer.clone(), link.remote));
                }
                let before = std::mem::replace(&mut state.active, *link);
                if before != *link && state.keepalive_s.is_some() {
                    keepalive(state, before, ops);
                    keepalive(state, *link, ops);
                }
            }
            Change::AddPrefix { peer, prefix } => self.add_prefix(peer, *prefix, ops)?,
            Change::RemovePrefix { peer, prefix } => {
                let state = known(&mut self.peers, peer)?;
                if state.prefixes.remove(prefix) {
                    self.owners.remove(prefix);
                    state.places().for_each(|(slot, key)| ops.push(prefix_op(slot, key, *prefix, true)));
                }
            }
        }
        Ok(())
    }

    /// Compares with what the kernel has, after somebody else's doings, a change that the kernel refused half-way, or a
    /// restart: forgets what is not there, so that it is told anew, and removes what nobody has told.
    pub(crate) fn absorb(&mut self, seen: &[Option<Observed>; SLOTS], ops: &mut Vec<Op>) {
        for (slot, seen) in seen.iter().enumerate() {
            let there = seen.as_ref().and_then(|seen| seen.public);
            let stray = seen.as_ref().is_some_and(|seen| slot > 0 || there.is_some() || !seen.peers.is_empty());
            if self.slots[slot].is_some() && there == self.slots[slot] {
                self.identities.extend(there);
            } else if self.slots[slot].take().is_some() || stray {
                // Another key is as good as none: its sessions are over.
                ops.push(Op::Close { slot });
            }
        }
        self.absorb_places(seen);
        self.absorb_strangers(seen, ops);
        self.absorb_prefixes(seen, ops);
    }

    fn absorb_places(&mut self, seen: &[Option<Observed>; SLOTS]) {
        let slots = &self.slots;
        let peer = |slot: usize, key: PublicKey| {
            let seen = seen[slot].as_ref().filter(|_| slots[slot].is_some());
            seen.and_then(|seen| seen.peers.get(key.as_bytes()))
        };
        self.peers.retain(|_, state| {
            let mut dark = false;
            state.links.retain(|link, place| {
                let Some(place) = place else { return true };
                place.leaving = place.leaving.filter(|(old, _)| peer(*old, link.remote).is_some());
                if peer(place.slot, link.remote).is_none()
                    && let Some((old, _)) = place.leaving.take()
                {
                    place.slot = old;
                }
                let seen = peer(place.slot, link.remote);
                place.at = seen.and_then(|seen| seen.endpoint).unwrap_or(place.at);
                dark |= seen.is_none() && *link == state.active;
                seen.is_some()
            });
            !dark
        });
        let links = self.peers.iter().flat_map(|(name, state)| state.links.keys().map(|link| (*link, name.clone())));
        self.links = links.collect();
    }

    fn absorb_strangers(&self, seen: &[Option<Observed>; SLOTS], ops: &mut Vec<Op>) {
        let places = self.peers.values().flat_map(PeerState::places);
        let known: BTreeSet<(usize, [u8; 32])> = places.map(|(slot, key)| (slot, *key.as_bytes())).collect();
        // What has no identity is closed, and with it all that is on it.
        for (slot, seen) in seen.iter().enumerate().filter(|(slot, _)| self.slots[*slot].is_some()) {
            let strangers =
                seen.iter().flat_map(|seen| seen.peers.keys()).filter(|key| !known.contains(&(slot, **key)));
            ops.extend(strangers.map(|key| Op::Set { slot, peer: PeerSet::new(*key, How::Remove) }));
        }
    }

    /// A peer has what stands on all its interfaces; what stands on some only goes, and is told anew if it is wanted.
    fn absorb_prefixes(&mut self, seen: &[Option<Observed>; SLOTS], ops: &mut Vec<Op>) {
        self.owners.clear();
        for (name, state) in &mut self.peers {
            let places: Vec<(usize, PublicKey)> = state.places().collect();
            let set = |(slot, key): &(usize, PublicKey)| {
                seen[*slot].as_ref().and_then(|seen| seen.peers.get(key.as_bytes())).map(|peer| &peer.prefixes)
            };
            let sets: Vec<&BTreeSet<IpNet>> = places.iter().filter_map(set).collect();
            if let Some((first, rest)) = sets.split_first() {
                let everywhere = first.iter().filter(|prefix| rest.iter().all(|set| set.contains(prefix)));
                state.prefixes = everywhere.copied().collect();
            }
            state.prefixes.retain(|prefix| !self.owners.contains_key(prefix));
            for ((slot, key), set) in places.iter().zip(sets) {
                ops.extend(set.difference(&state.prefixes).map(|prefix| prefix_op(*slot, *key, *prefix, true)));
            }
            self.owners.extend(state.prefixes.iter().map(|prefix| (*prefix, name.clone())));
        }
    }

    /// A snapshot is about to say where packets go.
    pub(crate) fn told(&mut self) {
        for place in self.peers.values_mut().flat_map(|state| state.links.values_mut()).flatten() {
            if let Some((_, stage @ Stage::New)) = &mut place.leaving {
                *stage = Stage::Told;
            }
        }
    }

    /// Helps peers on their way home along. `confirmed`: a session of this slot and key stands. `at_rest`: and nobody would
    /// miss it for a moment.
    pub(crate) fn settle(
        &mut self,
        confirmed: impl Fn(usize, PublicKey) -> bool,
        at_rest: impl Fn(usize, PublicKey) -> bool,
        ops: &mut Vec<Op>,
    ) {
        for state in self.peers.values_mut() {
            let on_way = |(link, place): (&Link, &Option<Place>)| Some((*link, (*place)?.leaving?));
            let on_way: Vec<(Link, (usize, Stage))> = state.links.iter().filter_map(on_way).collect();
            for (link, (from, stage)) in on_way {
                let Some(Some(place)) = state.links.get_mut(&link) else { continue };
                let old_is_over = stage == Stage::Kicked && !confirmed(from, link.remote);
                if stage != Stage::New && (confirmed(place.slot, link.remote) || old_is_over) {
                    place.leaving = None;
                    let slot = place.slot;
                    ops.push(Op::Set { slot: from, peer: PeerSet::new(*link.remote.as_bytes(), How::Remove) });
                    // Whatever the old interface sent last has led the other side astray.
                    kick(state, link, slot, ops);
                } else if stage == Stage::Told {
                    place.leaving = Some((from, Stage::Kicked));
                    let slot = place.slot;
                    kick(state, link, slot, ops);
                }
            }
        }
        self.tidy(at_rest, ops);
    }

    /// The session that was tried for at the present address did not come to stand: on to the next. `tries`: how many were
    /// in vain.
    pub(crate) fn try_next(&mut self, name: &PeerName, link: Link, tries: u32, ops: &mut Vec<Op>) {
        let Some(state) = self.peers.get_mut(name) else { return };
        let Some(Some(place)) = state.links.get_mut(&link) else { return };
        // What was learned and is so no longer is given up for what was told.
        let stale = tries <= 1 && place.at != state.endpoint;
        place.at = if stale { state.endpoint } else { candidate(state.endpoint, place.slot, tries) };
        ops.push(endpoint_op(place.slot, link.remote, place.at));
    }

    /// The interface has just been switched on: what was begun before came to nothing.
    pub(crate) fn on(&self, slot: usize, ops: &mut Vec<Op>) {
        for state in self.peers.values() {
            let here = |(_, place): &(&Link, &Option<Place>)| place.is_some_and(|place| place.slot == slot);
            state.links.iter().filter(here).for_each(|(link, _)| kick(state, *link, slot, ops));
        }
    }

    fn check_new(&self, link: Link) -> Result<(), Unfit> {
        if !self.identities.contains(&link.own) {
            return Err(Unfit::NoIdentity(link.own));
        }
        self.links.get(&link).map_or(Ok(()), |name| Err(Unfit::KeyTaken(link.remote, name.clone())))
    }

    fn add_link(&mut self, name: &PeerName, link: Link, ops: &mut Vec<Op>) -> Result<(), Unfit> {
        let state = known(&mut self.peers, name)?;
        if !state.links.contains_key(&link) {
            self.check_new(link)?;
            known(&mut self.peers, name)?.links.insert(link, None);
            self.links.insert(link, name.clone());
            self.place(name, link, ops);
        }
        let state = known(&mut self.peers, name)?;
        if let Some(Some(place)) = state.links.get(&link).copied() {
            // The kernel begins none while a session stands, and no second one within 5 s.
            kick(state, link, place.slot, ops);
        }
        Ok(())
    }

    fn remove_peer(&mut self, name: &PeerName, ops: &mut Vec<Op>) -> Result<(), Unfit> {
        let state = self.peers.remove(name).ok_or_else(|| Unfit::NoPeer(name.clone()))?;
        for (link, place) in state.links {
            self.links.remove(&link);
            vacate(link, place, ops);
        }
        for prefix in state.prefixes {
            self.owners.remove(&prefix);
        }
        Ok(())
    }

    fn remove_identity(&mut self, public: PublicKey, ops: &mut Vec<Op>) -> Result<(), Unfit> {
        if self.links.keys().any(|link| link.own == public) {
            return Err(Unfit::IdentityInUse(public));
        }
        self.identities.remove(&public);
        for slot in (0..SLOTS).filter(|slot| self.slots[*slot] == Some(public)).collect::<Vec<_>>() {
            self.slots[slot] = None;
            ops.push(Op::Close { slot });
        }
        Ok(())
    }

    fn set_endpoint(&mut self, name: &PeerName, endpoint: SocketAddr, ops: &mut Vec<Op>) -> Result<(), Unfit> {
        let state = known(&mut self.peers, name)?;
        state.endpoint = endpoint;
        for (link, place) in state.links.iter_mut().filter_map(|(link, place)| Some((link, place.as_mut()?))) {
            place.at = candidate(endpoint, place.slot, 0);
            ops.push(endpoint_op(place.slot, link.remote, place.at));
        }
        Ok(())
    }

    fn add_prefix(&mut self, name: &PeerName, prefix: IpNet, ops: &mut Vec<Op>) -> Result<(), Unfit> {
        if prefix != prefix.trunc() {
            return Err(Unfit::NoNetwork(prefix));
        }
        let state = known(&mut self.peers, name)?;
        state.prefixes.insert(prefix);
        let places: Vec<(usize, PublicKey)> = state.places().collect();
        // Where both have a peer the kernel moves it at once.
        ops.extend(places.iter().map(|(slot, key)| prefix_op(*slot, *key, prefix, false)));
        let before = self.owners.insert(prefix, name.clone()).filter(|before| before != name);
        if let Some(old) = before.and_then(|before| self.peers.get_mut(&before)) {
            old.prefixes.remove(&prefix);
            let alone = old.places().filter(|(slot, _)| !places.iter().any(|(other, _)| other == slot));
            ops.extend(alone.map(|(slot, key)| prefix_op(slot, key, prefix, true)));
        }
        Ok(())
    }

    /// Gives a link that waits its slot, if there is one.
    fn place(&mut self, name: &PeerName, link: Link, ops: &mut Vec<Op>) {
        let Some(state) = self.peers.get_mut(name) else { return };
        let of_identity = (0..SLOTS).find(|slot| self.slots[*slot] == Some(link.own) && !state.has(*slot));
        let Some(slot) = of_identity.or_else(|| (0..SLOTS).find(|slot| self.slots[*slot].is_none())) else { return };
        if self.slots[slot].is_none() {
            self.slots[slot] = Some(link.own);
            ops.push(Op::Open { slot, identity: link.own });
        }
        let at = candidate(state.endpoint, slot, 0);
        let place = Place { slot, at, leaving: None };
        state.links.insert(link, Some(place));
        ops.push(make(state, link, place, state.keepalive_on(link)));
    }

    /// Closes interfaces that nobody is on, gives links that wait their slots, and begins the way home of those that can go.
    pub(crate) fn tidy(&mut self, at_rest: impl Fn(usize, PublicKey) -> bool, ops: &mut Vec<Op>) {
        let mut used = [0usize; SLOTS];
        for (slot, _) in self.peers.values().flat_map(PeerState::places) {
            used[slot] += 1;
        }
        for slot in (1..SLOTS).filter(|slot| used[*slot] == 0) {
            if self.slots[slot].take().is_some() {
                ops.push(Op::Close { slot });
            }
        }
        if self.slots[0].is_none()
            && let Some(slot) = (1..SLOTS).rev().filter(|slot| used[*slot] > 0).max_by_key(|slot| used[*slot])
            && let Some(identity) = self.slots[slot]
        {
            self.slots[0] = Some(identity);
            ops.push(Op::Open { slot: 0, identity });
        }
        let waiting: Vec<(PeerName, Link)> = self.waiting().collect();
        for (name, link) in waiting {
            self.place(&name, link, ops);
        }
        let home = self.slots[0];
        for state in self.peers.values_mut().filter(|state| !state.has(0)) {
            go_home(state, home, &at_rest, ops);
        }
    }

    fn waiting(&self) -> impl Iterator<Item = (PeerName, Link)> {
        self.peers.iter().flat_map(|(name, state)| {
            let without = state.links.iter().filter(|(_, place)| place.is_none());
            // The one that packets take comes first.
            let active = without.clone().filter(|(link, _)| **link == state.active);
            let others = without.filter(|(link, _)| **link != state.active);
            active.chain(others).map(|(link, _)| (name.clone(), *link))
        })
    }
}

fn go_home(
    state: &mut PeerState,
    home: Option<PublicKey>,
    at_rest: impl Fn(usize, PublicKey) -> bool,
    ops: &mut Vec<Op>,
) {
    let may = |link: &Link, place: &Place| {
        let peer_is_home = place.at.port() == state.endpoint.port();
        let turn = peer_is_home || link.own < link.remote;
        Some(link.own) == home && place.leaving.is_none() && turn && at_rest(place.slot, link.remote)
    };
    let goes = state.links.iter().filter_map(|(link, place)| Some((*link, (*place)?)));
    let Some((link, old)) = goes.filter(|(link, place)| may(link, place)).max_by_key(|(link, _)| *link == state.active)
    else {
        return;
    };
    let place = Place { slot: 0, at: old.at, leaving: Some((old.slot, Stage::New)) };
    // Keepalives of the old interface would draw the other side back to it; the new one's begin with its handshake.
    if state.keepalive_on(link) != 0 {
        ops.push(keepalive_op(old.slot, link.remote, 0));
    }
    ops.push(make(state, link, place, 0));
    state.links.insert(link, Some(place));
}

/// Where a peer that was told to be at `told` is tried at from `slot`, after so many tries that were in vain.
pub(crate) fn candidate(told: SocketAddr, slot: usize, tries: u32) -> SocketAddr {
    let others: Vec<usize> = (1..SLOTS).map(|i| (slot.max(1) - 1 + i - 1) % (SLOTS - 1) + 1).collect();
    let round = usize::try_from(tries / 2).unwrap_or_default() % others.len();
    // Every second one goes where the peer is announced; the first, for a link that is not at the announced port itself,
    // to its like.
    let offset = if tries.is_multiple_of(2) == (slot == 0) { 0 } else { others[round] };
    let port = u16::try_from(offset).ok().and_then(|offset| told.port().checked_add(offset));
    SocketAddr::new(told.ip(), port.unwrap_or(told.port()))
}

fn known<'p>(peers: &'p mut BTreeMap<PeerName, PeerState>, name: &PeerName) -> Result<&'p mut PeerState, Unfit> {
    peers.get_mut(name).ok_or_else(|| Unfit::NoPeer(name.clone()))
}

/// The peer whole, on one interface.
fn make(state: &PeerState, link: Link, place: Place, keepalive_s: u16) -> Op {
    let allowed = state.prefixes.iter().map(|prefix| Allowed { prefix: *prefix, remove: false }).collect();
    let new = PeerSet::new(*link.remote.as_bytes(), How::Make);
    let peer = PeerSet { endpoint: Some(place.at), keepalive_s: Some(keepalive_s), allowed, ..new };
    Op::Set { slot: place.slot, peer }
}

fn vacate(link: Link, place: Option<Place>, ops: &mut Vec<Op>) {
    let slots = place.into_iter().flat_map(|place| [Some(place.slot), place.leaving.map(|(slot, _)| slot)]).flatten();
    ops.extend(slots.map(|slot| Op::Set { slot, peer: PeerSet::new(*link.remote.as_bytes(), How::Remove) }));
}

/// What the link's keepalive shall be now.
fn keepalive(state: &PeerState, link: Link, ops: &mut Vec<Op>) {
    if let Some(Some(place)) = state.links.get(&link)
        // On its way home: comes with the handshake.
        && place.leaving.is_none_or(|(_, stage)| stage == Stage::Kicked)
    {
        ops.push(keepalive_op(place.slot, link.remote, state.keepalive_on(link)));
    }
}

/// Something authentic is sent at once: a handshake, or a keepalive where a session stands.
fn kick(state: &PeerState, link: Link, slot: usize, ops: &mut Vec<Op>) {
    // Only the step from none to some does it.
    let steps = [0, KICK_S, state.keepalive_on(link)];
    ops.extend(steps.map(|seconds| keepalive_op(slot, link.remote, seconds)));
}

fn update(slot: usize, key: PublicKey, tell: impl FnOnce(&mut PeerSet)) -> Op {
    let mut peer = PeerSet::new(*key.as_bytes(), How::Update);
    tell(&mut peer);
    Op::Set { slot, peer }
}

fn keepalive_op(slot: usize, key: PublicKey, seconds: u16) -> Op {
    update(slot, key, |peer| peer.keepalive_s = Some(seconds))
}

fn endpoint_op(slot: usize, key: PublicKey, at: SocketAddr) -> Op {
    update(slot, key, |peer| peer.endpoint = Some(at))
}

fn prefix_op(slot: usize, key: PublicKey, prefix: IpNet, remove: bool) -> Op {
    update(slot, key, |peer| peer.allowed.push(Allowed { prefix, remove }))
}

/// JSON has no objects as keys.
mod pairs {
    use super::{BTreeMap, Link, Place};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<Link, Option<Place>>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Link, Option<Place>>, D::Error> {
        Ok(Vec::<(Link, Option<Place>)>::deserialize(from)?.into_iter().collect())
    }
}
