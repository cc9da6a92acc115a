//! What a device shall hold, what it holds, and the changes between them.
//!
//! The same words serve both kinds of device, the kernel's and the embedded one; they are also what the embedded device's
//! control socket speaks (JSON, one object a line).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::key::{PrivateKey, PublicKey};

/// The device itself, apart from keys and peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceSpec {
    /// Interface name, at most 15 bytes (`IFNAMSIZ`): `cilium_wg0` where Cilium's users look for it.
    pub name: String,
    /// UDP port, 51871 as Cilium's.
    pub port: u16,
    /// `SO_MARK` of encrypted datagrams, so that the datapath's guard knows them.
    pub mark: u32,
    /// MTU of the interface, in bytes.
    pub mtu: u32,
    /// Addresses that encrypted datagrams are sent from and received at: the node's own, at most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// Another node, as `cluster/node`: unique in a mesh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerName(Box<str>);

impl PeerName {
    pub fn new(cluster: &str, node: &str) -> Self {
        Self(format!("{cluster}/{node}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The two ends of a WireGuard session: our identity and the peer's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    pub own: PublicKey,
    pub remote: PublicKey,
}

/// One other node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// Where its datagrams go until an authenticated one comes from elsewhere.
    pub endpoint: SocketAddr,
    /// Seconds between keepalives when idle, for peers behind NAT. On the active link alone: on another they would keep a
    /// session, and with it a key, that nobody uses.
    pub keepalive_s: Option<u16>,
    /// Every session on which packets are accepted; at least one.
    pub links: BTreeSet<Link>,
    /// The link that new packets take; one of `links`.
    pub active: Link,
    /// Inner addresses that are the peer's: packets to them go to it, packets from them are accepted from it alone.
    pub prefixes: BTreeSet<IpNet>,
}

/// All that a device shall hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    pub identities: BTreeMap<PublicKey, PrivateKey>,
    /// No prefix and no link's remote key stands in two of them: who builds this has named and left out the second.
    pub peers: BTreeMap<PeerName, Peer>,
}

/// What a device holds. Endpoints are those that were last told to it, not those that it learned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Actual {
    pub identities: BTreeSet<PublicKey>,
    pub peers: BTreeMap<PeerName, Peer>,
}

/// One step. Applied in the order of [`plan`], every state in between passes the traffic that both ends pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "do", deny_unknown_fields)]
pub enum Change {
    AddIdentity {
        private: PrivateKey,
    },
    /// Its links are gone before.
    RemoveIdentity {
        public: PublicKey,
    },
    /// A new peer, whole but for its prefixes.
    AddPeer {
        peer: PeerName,
        endpoint: SocketAddr,
        #[serde(default, rename = "keepaliveS")]
        keepalive_s: Option<u16>,
        link: Link,
    },
    /// With its links and prefixes.
    RemovePeer {
        peer: PeerName,
    },
    SetEndpoint {
        peer: PeerName,
        endpoint: SocketAddr,
    },
    SetKeepalive {
        peer: PeerName,
        #[serde(rename = "keepaliveS")]
        keepalive_s: Option<u16>,
    },
    /// The device starts a handshake on it at once, so that it is warm before anybody uses it. Of a link that stands
    /// already: starts a handshake if there is no session, and changes nothing else.
    AddLink {
        peer: PeerName,
        link: Link,
    },
    /// Never the active one.
    RemoveLink {
        peer: PeerName,
        link: Link,
    },
    Activate {
        peer: PeerName,
        link: Link,
    },
    /// Taken from another peer if one has it: atomic, no packet finds the prefix missing.
    AddPrefix {
        peer: PeerName,
        prefix: IpNet,
    },
    /// Only if it is still the peer's. One that moves is taken by its [`Change::AddPrefix`] alone.
    RemovePrefix {
        peer: PeerName,
        prefix: IpNet,
    },
}

/// A change that does not fit what a device holds. Who planned it did so from an old state: plan again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("there is no peer {0}")]
    NoPeer(PeerName),
    #[error("peer {0} is there already")]
    PeerThere(PeerName),
    #[error("there is no identity {0}")]
    NoIdentity(PublicKey),
    #[error("identity {0} has links")]
    IdentityInUse(PublicKey),
    #[error("peer {0} has no link with key {1}")]
    NoLink(PeerName, PublicKey),
    #[error("key {0} belongs to peer {1}")]
    KeyTaken(PublicKey, PeerName),
    #[error("peer {0} sends on the link with key {1}")]
    LinkActive(PeerName, PublicKey),
    #[error("{0} has bits set behind its length")]
    NoNetwork(IpNet),
}

/// The changes that bring `actual` to `desired`, in an order that never takes away what the next step would give back:
/// identities, new peers and links first; then which link is active; then prefixes; removals last.
///
/// One case cannot be done so: a link that passes from one peer to another, as when a node takes a new name and keeps its
/// key. No device has a link twice, so the peer that has it goes first, whole, and comes back if it is wanted.
///
/// Empty when there is nothing to do.
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Change> {
    // Most are as they shall be, and are not looked into.
    let all = desired.peers.iter().map(|(name, peer)| (name, peer, actual.peers.get(name)));
    let other: Vec<Other<'_>> = all.filter(|(_, peer, old)| *old != Some(*peer)).collect();
    let renamed = renamed(&other, actual);
    let mut first: Vec<_> = renamed.iter().map(|name| Change::RemovePeer { peer: (*name).clone() }).collect();
    let mut last = Vec::new();
    for (public, private) in &desired.identities {
        if !actual.identities.contains(public) {
            first.push(Change::AddIdentity { private: private.clone() });
        }
    }
    for (name, peer, old) in &other {
        match old.filter(|_| !renamed.contains(name)) {
            Some(old) => existing_peer(name, peer, old, &mut first, &mut last),
            None => new_peer(name, peer, &mut first),
        }
    }
    drop_stolen(&first, &mut last);
    for name in actual.peers.keys().filter(|name| !desired.peers.contains_key(name) && !renamed.contains(name)) {
        last.push(Change::RemovePeer { peer: name.clone() });
    }
    for public in actual.identities.iter().filter(|public| !desired.identities.contains_key(public)) {
        last.push(Change::RemoveIdentity { public: *public });
    }
    first.append(&mut last);
    first
}

/// A peer that differs from what the device holds of it, if anything.
type Other<'a> = (&'a PeerName, &'a Peer, Option<&'a Peer>);

/// Peers of the device that have a link which another peer shall get.
fn renamed<'a>(other: &[Other<'_>], actual: &'a Actual) -> BTreeSet<&'a PeerName> {
    let has = |old: &Option<&Peer>, link: &Link| old.is_some_and(|old| old.links.contains(link));
    let wanted = other.iter().flat_map(|(_, peer, old)| peer.links.iter().map(move |link| (old, link)));
    let new: BTreeSet<&Link> = wanted.filter(|(old, link)| !has(old, link)).map(|(_, link)| link).collect();
    if new.is_empty() {
        return BTreeSet::new();
    }
    let robbed = |peer: &Peer| peer.links.iter().any(|link| new.contains(link));
    actual.peers.iter().filter(|(_, peer)| robbed(peer)).map(|(name, _)| name).collect()
}

/// A prefix that moves from one peer to another is taken by its `AddPrefix`; there is nothing left to remove.
fn drop_stolen(first: &[Change], last: &mut Vec<Change>) {
    let added = first.iter().filter_map(|change| match change {
        Change::AddPrefix { prefix, .. } => Some(*prefix),
        _ => None,
    });
    let added: BTreeSet<IpNet> = added.collect();
    last.retain(|change| !matches!(change, Change::RemovePrefix { prefix, .. } if added.contains(prefix)));
}

fn new_peer(name: &PeerName, peer: &Peer, first: &mut Vec<Change>) {
    first.push(Change::AddPeer {
        peer: name.clone(),
        endpoint: peer.endpoint,
        keepalive_s: peer.keepalive_s,
        link: peer.active,
    });
    for link in peer.links.iter().filter(|link| **link != peer.active) {
        first.push(Change::AddLink { peer: name.clone(), link: *link });
    }
    for prefix in &peer.prefixes {
        first.push(Change::AddPrefix { peer: name.clone(), prefix: *prefix });
    }
}

fn existing_peer(name: &PeerName, peer: &Peer, old: &Peer, first: &mut Vec<Change>, last: &mut Vec<Change>) {
    let named = || name.clone();
    if peer.endpoint != old.endpoint {
        first.push(Change::SetEndpoint { peer: named(), endpoint: peer.endpoint });
    }
    if peer.keepalive_s != old.keepalive_s {
        first.push(Change::SetKeepalive { peer: named(), keepalive_s: peer.keepalive_s });
    }
    for link in peer.links.difference(&old.links) {
        first.push(Change::AddLink { peer: named(), link: *link });
    }
    if peer.active != old.active {
        first.push(Change::Activate { peer: named(), link: peer.active });
    }
    for prefix in peer.prefixes.difference(&old.prefixes) {
        first.push(Change::AddPrefix { peer: named(), prefix: *prefix });
    }
    for prefix in old.prefixes.difference(&peer.prefixes) {
        last.push(Change::RemovePrefix { peer: named(), prefix: *prefix });
    }
    for link in old.links.difference(&peer.links) {
        last.push(Change::RemoveLink { peer: named(), link: *link });
    }
}

/// Counters of one link since it was added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStats {
    /// Milliseconds since the last completed handshake.
    pub handshake_age_ms: Option<u64>,
    /// A session stands on which packets can be sent now: the peer has proven that it has the keys too.
    pub confirmed: bool,
    /// Completed handshakes.
    pub handshakes: u64,
    /// Handshakes that were given up, or messages that did not authenticate.
    pub failures: u64,
    /// Datagrams that had been seen before.
    pub replays: u64,
    /// Payload bytes.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Milliseconds since the last authenticated datagram.
    pub received_age_ms: Option<u64>,
}

/// What is seen of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStats {
    /// Where it was last heard from.
    pub endpoint: SocketAddr,
    /// Index of the interface that packets to it go by; 0: the device's own, [`Snapshot::ifindex`].
    #[serde(default)]
    pub ifindex: u32,
    pub links: Vec<(Link, LinkStats)>,
    /// Packets from the peer whose source address is not among its prefixes.
    pub source_refused: u64,
}

/// Everything a device says of itself at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub spec: Option<DeviceSpec>,
    /// Interface index; the datapath redirects to it.
    pub ifindex: u32,
    /// Indexes of all interfaces by which peers' packets may arrive; empty: [`Self::ifindex`] alone.
    #[serde(default)]
    pub interfaces: BTreeSet<u32>,
    pub actual: Actual,
    pub stats: BTreeMap<PeerName, PeerStats>,
    /// Packets to an address that no peer has.
    pub no_peer: u64,
    /// Datagrams that are no WireGuard message, or belong to no link.
    pub strangers: u64,
    /// Packets whose headers contradict each other.
    pub malformed: u64,
    /// Datagrams that the socket did not take.
    pub unsent: u64,
}
