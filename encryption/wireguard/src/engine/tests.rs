//! What is left in the tables when somebody goes, which cannot be seen from outside.

use std::net::SocketAddr;

use causeway_encryption_plan::{Change, Link, PeerName, PrivateKey};

use super::{Datagram, Engine};
use crate::split::VnetHeader;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

fn link(own: u8, remote: u8) -> Link {
    Link { own: key(own).public(), remote: key(remote).public() }
}

fn name() -> PeerName {
    PeerName::new("c", "node")
}

fn at() -> SocketAddr {
    "192.0.2.1:51871".parse().unwrap()
}

/// Identities 1 and 11, one peer with key 2 and both links, sessions on both.
struct Pair {
    engine: Engine,
    other: Engine,
}

fn told(own: &[u8], remote: &[u8]) -> Engine {
    let engine = Engine::new();
    let mut changes: Vec<_> = own.iter().map(|own| Change::AddIdentity { private: key(*own) }).collect();
    let mut links = own.iter().flat_map(|own| remote.iter().map(|remote| link(*own, *remote)));
    let first = links.next().unwrap();
    changes.push(Change::AddPeer { peer: name(), endpoint: at(), keepalive_s: None, link: first });
    changes.extend(links.map(|link| Change::AddLink { peer: name(), link }));
    for prefix in ["0.0.0.0/0", "10.0.0.0/8", "fd00::/8"] {
        changes.push(Change::AddPrefix { peer: name(), prefix: prefix.parse().unwrap() });
    }
    for change in changes {
        engine.apply(change, &mut Vec::new()).unwrap();
    }
    engine
}

impl Pair {
    fn new() -> Self {
        let pair = Self { engine: told(&[1, 11], &[2]), other: told(&[2], &[1]) };
        let mut out = Vec::new();
        pair.engine.seal(VnetHeader::default(), &packet(), &mut out);
        pair.carry(out);
        // The other learns of the second link late, so that it is the initiator there.
        let mut out = Vec::new();
        pair.other.apply(Change::AddLink { peer: name(), link: link(2, 11) }, &mut out).unwrap();
        pair.carry_from_other(out);
        for (link, stats) in &pair.engine.look().1[&name()].links {
            assert!(stats.confirmed, "{link:?}");
        }
        pair
    }

    fn carry(&self, datagrams: Vec<Datagram>) {
        let mut answers = Vec::new();
        for (_, datagram) in datagrams {
            self.other.open(at(), &datagram, &mut answers, |_| {});
        }
        if !answers.is_empty() {
            self.carry_from_other(answers);
        }
    }

    fn carry_from_other(&self, datagrams: Vec<Datagram>) {
        let mut answers = Vec::new();
        for (_, datagram) in datagrams {
            self.engine.open(at(), &datagram, &mut answers, |_| {});
        }
        if !answers.is_empty() {
            self.carry(answers);
        }
    }

    /// Links, prefixes and indexes that the engine holds.
    fn sizes(&self) -> (usize, usize, usize) {
        self.engine.tick(&mut Vec::new());
        let table = self.engine.table.read();
        (table.links.len(), table.routes.len().0 + table.routes.len().1, self.engine.by_index.read().len())
    }
}

/// From anywhere to 10.0.0.2.
fn packet() -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[3] = 20;
    packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
    packet
}

#[test]
fn a_link_leaves_nothing_behind() {
    let pair = Pair::new();
    let (links, routes, _) = pair.sizes();
    assert_eq!((links, routes), (2, 3));
    pair.engine.apply(Change::RemoveLink { peer: name(), link: link(11, 2) }, &mut Vec::new()).unwrap();
    assert_eq!(pair.sizes(), (1, 3, 1));
    pair.engine.apply(Change::RemoveIdentity { public: key(11).public() }, &mut Vec::new()).unwrap();
    assert_eq!(pair.engine.table.read().identities.len(), 1);
}

#[test]
fn a_peer_leaves_nothing_behind() {
    let pair = Pair::new();
    pair.engine.apply(Change::RemovePeer { peer: name() }, &mut Vec::new()).unwrap();
    assert_eq!(pair.sizes(), (0, 0, 0));
    let (actual, stats) = pair.engine.look();
    assert!(actual.peers.is_empty() && stats.is_empty());
}

#[test]
fn a_peer_that_goes_in_the_middle_of_a_handshake_leaves_nothing_behind() {
    let engine = told(&[1], &[2]);
    engine.seal(VnetHeader::default(), &packet(), &mut Vec::new());
    assert_eq!(engine.by_index.read().len(), 1);
    engine.apply(Change::RemovePeer { peer: name() }, &mut Vec::new()).unwrap();
    engine.tick(&mut Vec::new());
    assert_eq!(engine.by_index.read().len(), 0);
}

/// Where the peer's kernel has its second key.
fn elsewhere() -> SocketAddr {
    "192.0.2.1:51872".parse().unwrap()
}

/// Where packets to the peer go.
fn way(engine: &Engine) -> SocketAddr {
    let mut out = Vec::new();
    engine.seal(VnetHeader::default(), &packet(), &mut out);
    assert_eq!(out.len(), 1);
    assert_eq!(engine.look().1[&name()].endpoint, out[0].0);
    out[0].0
}

#[test]
fn each_link_leads_to_where_it_was_heard_from() {
    let pair = Pair::new();
    let mut out = Vec::new();
    pair.other.apply(Change::Activate { peer: name(), link: link(2, 11) }, &mut out).unwrap();
    pair.other.seal(VnetHeader::default(), &packet(), &mut out);
    assert_eq!(out.len(), 1);
    pair.engine.open(elsewhere(), &out[0].1, &mut Vec::new(), |_| {});
    assert_eq!(way(&pair.engine), at(), "the active link was not heard");
    pair.engine.apply(Change::Activate { peer: name(), link: link(11, 2) }, &mut Vec::new()).unwrap();
    assert_eq!(way(&pair.engine), elsewhere());
    pair.engine.apply(Change::SetEndpoint { peer: name(), endpoint: at() }, &mut Vec::new()).unwrap();
    assert_eq!(way(&pair.engine), at(), "what is told counts for all");
}

#[test]
fn a_session_moves_when_the_new_one_is_heard_and_not_before() {
    let pair = Pair::new();
    pair.engine.apply(Change::Activate { peer: name(), link: link(11, 2) }, &mut Vec::new()).unwrap();
    let mut first = Vec::new();
    pair.other.apply(Change::RemoveLink { peer: name(), link: link(2, 11) }, &mut Vec::new()).unwrap();
    pair.other.apply(Change::AddLink { peer: name(), link: link(2, 11) }, &mut first).unwrap();
    let mut answer = Vec::new();
    pair.engine.open(elsewhere(), &first[0].1, &mut answer, |_| {});
    assert_eq!(answer[0].0, elsewhere());
    assert_eq!(way(&pair.engine), at(), "the peer may still await the answer");
    let mut word = Vec::new();
    pair.other.open(at(), &answer[0].1, &mut word, |_| {});
    pair.engine.open(elsewhere(), &word[0].1, &mut Vec::new(), |_| {});
    assert_eq!(way(&pair.engine), elsewhere());
}
