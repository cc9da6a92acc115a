//! What an engine is told: every refusal, and that it holds what a plan says.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use causeway_encryption_plan::{Actual, Change, Desired, Link, Peer, PeerName, PrivateKey, Unfit, plan};
use causeway_wireguard::engine::Engine;
use ipnet::IpNet;
use net::{Node, at, key, link, name, packet, pair, prefixes, send, v4};
use proptest::prelude::*;

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let a = Node::knowing(1, &[2, 3]);
    a.apply(Change::AddIdentity { private: key(11) });
    let peer = |number| name(number);
    let (endpoint, keepalive_s) = (at(9), Some(5));
    let host_bits: IpNet = "10.0.2.1/24".parse().unwrap();
    let before = a.engine.look().0;
    for (change, error) in [
        (Change::AddPeer { peer: peer(2), endpoint, keepalive_s, link: link(11, 2) }, Unfit::PeerThere(peer(2))),
        (
            Change::AddPeer { peer: peer(9), endpoint, keepalive_s, link: link(12, 9) },
            Unfit::NoIdentity(key(12).public()),
        ),
        (
            Change::AddPeer { peer: peer(9), endpoint, keepalive_s, link: link(1, 2) },
            Unfit::KeyTaken(key(2).public(), peer(2)),
        ),
        (Change::RemovePeer { peer: peer(9) }, Unfit::NoPeer(peer(9))),
        (Change::SetEndpoint { peer: peer(9), endpoint }, Unfit::NoPeer(peer(9))),
        (Change::SetKeepalive { peer: peer(9), keepalive_s }, Unfit::NoPeer(peer(9))),
        (Change::AddLink { peer: peer(9), link: link(1, 9) }, Unfit::NoPeer(peer(9))),
        (Change::AddLink { peer: peer(2), link: link(12, 2) }, Unfit::NoIdentity(key(12).public())),
        (Change::AddLink { peer: peer(2), link: link(1, 3) }, Unfit::KeyTaken(key(3).public(), peer(3))),
        (Change::RemoveLink { peer: peer(9), link: link(1, 2) }, Unfit::NoPeer(peer(9))),
        (Change::RemoveLink { peer: peer(2), link: link(1, 2) }, Unfit::LinkActive(peer(2), key(2).public())),
        (Change::RemoveLink { peer: peer(2), link: link(11, 2) }, Unfit::NoLink(peer(2), key(2).public())),
        (Change::RemoveLink { peer: peer(2), link: link(1, 3) }, Unfit::NoLink(peer(2), key(3).public())),
        (Change::Activate { peer: peer(9), link: link(1, 2) }, Unfit::NoPeer(peer(9))),
        (Change::Activate { peer: peer(2), link: link(11, 2) }, Unfit::NoLink(peer(2), key(2).public())),
        (Change::AddPrefix { peer: peer(9), prefix: prefixes(2)[0] }, Unfit::NoPeer(peer(9))),
        (Change::AddPrefix { peer: peer(3), prefix: host_bits }, Unfit::NoNetwork(host_bits)),
        (Change::RemovePrefix { peer: peer(9), prefix: prefixes(2)[0] }, Unfit::NoPeer(peer(9))),
        (Change::RemoveIdentity { public: key(1).public() }, Unfit::IdentityInUse(key(1).public())),
    ] {
        assert_eq!(a.refuses(change.clone()), error, "{change:?}");
        assert_eq!(a.engine.look().0, before, "{change:?}");
    }
    // A prefix that has passed to another peer, or was never there, is not removed from whom it belongs to.
    a.apply(Change::RemovePrefix { peer: peer(3), prefix: prefixes(2)[0] });
    assert_eq!(a.engine.look().0, before);
    assert_eq!(a.seal(&packet(v4(1, 1), v4(2, 1), b"still there")).len(), 1);
}

#[test]
fn a_prefix_that_another_peer_gets_goes_there_at_once() {
    let (mut a, mut b) = pair();
    let mut c = Node::knowing(3, &[1]);
    a.know(1, 3);
    send(3, 1, &mut c, &mut a);
    a.inner.clear();
    let to = packet(v4(1, 1), v4(2, 1), b"whose?");
    let from = packet(v4(2, 1), v4(1, 1), b"whose?");
    assert_eq!(a.seal(&to)[0].0, at(2));

    a.apply(Change::AddPrefix { peer: name(3), prefix: prefixes(2)[0] });
    assert_eq!(a.seal(&to)[0].0, at(3));
    let (of_b, of_c) = (b.seal(&from).remove(0).1, c.seal(&from).remove(0).1);
    assert!(!a.accepts(at(2), &of_b));
    assert!(a.accepts(at(3), &of_c));
    assert_eq!((a.peer(2).source_refused, a.peer(3).source_refused), (1, 0));
    let told = a.engine.look().0.peers;
    assert!(!told[&name(2)].prefixes.contains(&prefixes(2)[0]));
    assert!(told[&name(3)].prefixes.contains(&prefixes(2)[0]));

    // The robbed one's removal does not take it along.
    a.apply(Change::RemovePeer { peer: name(2) });
    assert_eq!(a.seal(&to)[0].0, at(3));
    assert_eq!(b.open(at(1), &[]), []);
}

#[test]
fn the_longest_prefix_says_whose_an_address_is() {
    let (a, mut b) = pair();
    a.apply(Change::AddPrefix { peer: name(2), prefix: "10.0.0.0/8".parse().unwrap() });
    a.know(1, 3);
    let to = |address| a.seal(&packet(v4(1, 1), address, b"")).first().map(|out| out.0);
    assert_eq!((to(v4(2, 1)), to(v4(3, 1)), to(v4(4, 1))), (Some(at(2)), Some(at(3)), Some(at(2))));
    // What another has more exactly is not the peer's, for packets that come as well.
    b.know(2, 3);
    b.apply(Change::AddPrefix { peer: name(1), prefix: "10.0.0.0/8".parse().unwrap() });
    let out = a.seal(&packet(v4(3, 1), v4(2, 1), b"")).remove(0).1;
    assert!(!b.accepts(at(1), &out));
    let out = a.seal(&packet(v4(4, 1), v4(2, 1), b"")).remove(0).1;
    assert!(b.accepts(at(1), &out));
}

#[test]
fn a_removed_peers_datagrams_are_nobodys() {
    let (a, mut b) = pair();
    let sealed: Vec<_> = (0..3).map(|_| a.seal(&packet(v4(1, 1), v4(2, 1), b"late")).remove(0).1).collect();
    b.apply(Change::RemovePeer { peer: name(1) });
    assert!(!b.accepts(at(1), &sealed[0]));
    // Also when a peer of that name comes back: its sessions are new ones.
    b.know(2, 1);
    assert!(!b.accepts(at(1), &sealed[1]));
    b.tick();
    let strangers = b.engine.dropped().strangers;
    assert!(!b.accepts(at(1), &sealed[2]));
    assert_eq!(b.engine.dropped().strangers, strangers + 1);
    assert_eq!(b.seal(&packet(v4(2, 1), v4(1, 1), b"anew"))[0].1[0], 1, "an initiation");
}

#[test]
fn an_endpoint_that_is_told_is_taken() {
    let (a, _) = pair();
    a.apply(Change::SetEndpoint { peer: name(2), endpoint: at(7) });
    assert_eq!(a.seal(&packet(v4(1, 1), v4(2, 1), b""))[0].0, at(7));
    assert_eq!((a.peer(2).endpoint, a.engine.look().0.peers[&name(2)].endpoint), (at(7), at(7)));
}

#[test]
fn a_link_that_stands_is_warmed_if_it_is_cold_and_left_alone_otherwise() {
    let (a, _) = pair();
    let before = a.engine.look().0;
    assert_eq!(a.apply(Change::AddLink { peer: name(2), link: link(1, 2) }), []);
    a.know(1, 3);
    let first = a.apply(Change::AddLink { peer: name(3), link: link(1, 3) });
    assert_eq!((first.len(), first[0].0, first[0].1[0]), (1, at(3), 1));
    assert_eq!(a.apply(Change::AddLink { peer: name(3), link: link(1, 3) }), [], "one is under way");
    a.apply(Change::RemovePeer { peer: name(3) });
    assert_eq!(a.engine.look().0, before);
}

/// Identities, and peers by number: which of our keys and of its own it has links with, which is active, prefixes.
type Drawn = (BTreeSet<u8>, BTreeMap<u8, (BTreeSet<u8>, BTreeSet<u8>, usize, BTreeSet<u8>, Option<u16>, u8)>);

fn drawn() -> impl Strategy<Value = Drawn> {
    let some = |range| prop::collection::btree_set(range, 1..3usize);
    let prefixes = prop::collection::btree_set(0..12u8, 0..6usize);
    let keepalive = prop::option::of(1..3u16);
    let peer = (some(0..3u8), some(0..3u8), any::<usize>(), prefixes, keepalive, 1..4u8);
    (some(0..3u8), prop::collection::btree_map(0..4u8, peer, 0..4usize))
}

fn desired((identities, peers): Drawn) -> Desired {
    let own = |number: u8| key(100 + number);
    let mut desired = Desired::default();
    for number in &identities {
        desired.identities.insert(own(*number).public(), own(*number));
    }
    let (mut taken, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for (number, (owns, remotes, active, prefixes, keepalive_s, endpoint)) in peers {
        let owns: Vec<_> = owns.intersection(&identities).collect();
        // Keys pass from peer to peer, as when a node takes a new name; no two have one at one time.
        let remotes: Vec<_> = remotes.iter().map(|remote| 200 + number / 2 + remote).collect();
        let remotes: Vec<_> = remotes.into_iter().filter(|remote| keys.insert(*remote)).collect();
        let pairs = owns.iter().flat_map(|number| remotes.iter().map(|remote| (own(**number).public(), *remote)));
        let links: Vec<_> = pairs.map(|(own, remote)| Link { own, remote: key(remote).public() }).collect();
        let Some(active) = links.get(active % links.len().max(1)).copied() else { continue };
        let prefixes = prefixes.into_iter().filter(|prefix| taken.insert(*prefix));
        let prefixes = prefixes.map(|prefix| net::prefixes(prefix)[usize::from(prefix) % 2]).collect();
        let links = links.into_iter().collect();
        desired.peers.insert(name(number), Peer { endpoint: at(endpoint), keepalive_s, links, active, prefixes });
    }
    desired
}

fn as_actual(desired: &Desired) -> Actual {
    Actual { identities: desired.identities.keys().copied().collect(), peers: desired.peers.clone() }
}

fn apply_all(engine: &Engine, changes: Vec<Change>) -> Result<(), Unfit> {
    let mut out = Vec::new();
    changes.into_iter().try_for_each(|change| engine.apply(change, &mut out))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn an_engine_holds_what_was_planned(states in prop::collection::vec(drawn().prop_map(desired), 1..5)) {
        let engine = Engine::new();
        for state in states {
            let changes = plan(&state, &engine.look().0);
            prop_assert_eq!(apply_all(&engine, changes.clone()), Ok(()), "{:#?}", changes);
            prop_assert_eq!(engine.look().0, as_actual(&state));
        }
    }
}

/// Five thousand nodes with ten prefixes each: ten times what Cilium is tested with.
#[test]
fn a_large_mesh_fits() {
    const PEERS: u32 = 5_000;
    const PREFIXES: u32 = 10;
    let private = |number: u32| {
        let mut bytes = [3; 32];
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        PrivateKey::from_random(bytes)
    };
    let own = private(0);
    let peer = |number: u32| {
        let active = Link { own: own.public(), remote: private(number).public() };
        let prefixes = (0..PREFIXES).map(|index| {
            let text = if index % 2 == 0 {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + (number * PREFIXES + index) * 16);
                format!("{address}/28")
            } else {
                format!("fd00:{number:x}:{index:x}::/64")
            };
            text.parse().unwrap()
        });
        let [.., high, low] = number.to_be_bytes();
        let endpoint = ([172, 16, high, low], 51871).into();
        Peer { endpoint, keepalive_s: None, links: [active].into(), active, prefixes: prefixes.collect() }
    };
    let desired = Desired {
        identities: [(own.public(), own.clone())].into(),
        peers: (1..=PEERS).map(|number| (PeerName::new("c", &number.to_string()), peer(number))).collect(),
    };
    let prefixes: usize = desired.peers.values().map(|peer| peer.prefixes.len()).sum();
    let (engine, start) = (Engine::new(), Instant::now());
    apply_all(&engine, plan(&desired, &Actual::default())).unwrap();
    println!("{PEERS} peers, {prefixes} prefixes: {:?}", start.elapsed());
    assert_eq!(engine.look().0, as_actual(&desired));
    assert_eq!(prefixes, 50_000);

    let start = Instant::now();
    engine.tick(&mut Vec::new());
    println!("timers: {:?}", start.elapsed());
    let start = Instant::now();
    apply_all(&engine, plan(&Desired::default(), &engine.look().0)).unwrap();
    println!("all removed: {:?}", start.elapsed());
    assert_eq!(engine.look().0, Actual::default());
}
