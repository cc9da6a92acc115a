//! Which link lives where, step by step and in any order.

use std::collections::{BTreeMap, BTreeSet};

use causeway_encryption_plan::{Change, Desired, Link, Peer, plan};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{at, link, name, net, private, public};
use crate::slots::{Op, SLOTS, Slots, candidate};

fn apply(slots: &mut Slots, change: &Change) -> Vec<Op> {
    let mut ops = Vec::new();
    slots.change(change, &mut ops).unwrap();
    slots.tidy(|_, _| true, &mut ops);
    ops
}

fn places(slots: &Slots, number: u8) -> BTreeMap<Link, Option<usize>> {
    slots.peers()[&name(number)].links.iter().map(|(link, place)| (*link, place.map(|place| place.slot))).collect()
}

fn identities(slots: &Slots) -> [Option<causeway_encryption_plan::PublicKey>; SLOTS] {
    std::array::from_fn(|slot| slots.identity(slot))
}

fn opened(ops: &[Op]) -> Vec<usize> {
    ops.iter().filter_map(|op| if let Op::Open { slot, .. } = op { Some(*slot) } else { None }).collect()
}

fn closed(ops: &[Op]) -> Vec<usize> {
    ops.iter().filter_map(|op| if let Op::Close { slot } = op { Some(*slot) } else { None }).collect()
}

/// Identity 1, and peers 101 and 102 with the keys of their numbers.
fn pair() -> Slots {
    let mut slots = Slots::default();
    apply(&mut slots, &Change::AddIdentity { private: private(1) });
    for number in [101, 102] {
        let link = link(1, number);
        let ops =
            apply(&mut slots, &Change::AddPeer { peer: name(number), endpoint: at(number), keepalive_s: None, link });
        assert_eq!(opened(&ops), if number == 101 { vec![0] } else { vec![] });
        apply(&mut slots, &Change::AddPrefix { peer: name(number), prefix: net(&format!("10.0.{number}.0/24")) });
    }
    slots
}

#[test]
fn our_rotation_and_the_way_home() {
    let mut slots = pair();
    apply(&mut slots, &Change::AddIdentity { private: private(2) });
    for number in [101, 102] {
        let ops = apply(&mut slots, &Change::AddLink { peer: name(number), link: link(2, number) });
        assert_eq!(opened(&ops), if number == 101 { vec![1] } else { vec![] });
        // Whole with its prefix, and a handshake.
        let on_1 = ops.iter().filter(|op| matches!(op, Op::Set { slot: 1, .. })).count();
        assert_eq!(on_1, 4, "{ops:?}");
        assert_eq!(slots.slot_of(&name(number)), Some(0));
        assert!(apply(&mut slots, &Change::Activate { peer: name(number), link: link(2, number) }).is_empty());
        assert_eq!(slots.slot_of(&name(number)), Some(1));
    }
    for number in [101, 102] {
        apply(&mut slots, &Change::RemoveLink { peer: name(number), link: link(1, number) });
    }
    assert_eq!(identities(&slots), [Some(public(1)), Some(public(2)), None, None]);
    let ops = apply(&mut slots, &Change::RemoveIdentity { public: public(1) });
    assert_eq!((closed(&ops), opened(&ops)), (vec![0], vec![0]));
    // Packets go by the first from the next snapshot on; the second is there until a handshake was made.
    for number in [101, 102] {
        let away = slots.peers()[&name(number)].links[&link(2, number)].unwrap().at.port() != at(number).port();
        let goes = !away || public(2) < public(number);
        assert_eq!(slots.slot_of(&name(number)), Some(usize::from(!goes)), "{number}");
    }
}

/// Ours and theirs at once, as when a whole cluster's keys come of age together.
#[test]
fn two_keys_at_each_end_fill_four_slots() {
    let mut slots = pair();
    apply(&mut slots, &Change::AddIdentity { private: private(2) });
    for more in [link(2, 201), link(2, 101), link(1, 201)] {
        apply(&mut slots, &Change::AddLink { peer: name(101), link: more });
    }
    let mut taken: Vec<_> = places(&slots, 101).into_values().map(Option::unwrap).collect();
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2, 3]);
    // Another peer shares them, whichever link comes first.
    for more in [link(1, 202), link(2, 202), link(2, 102)] {
        apply(&mut slots, &Change::AddLink { peer: name(102), link: more });
    }
    assert!(places(&slots, 102).values().all(Option::is_some));
    for (slots_of, number) in [(places(&slots, 101), 101), (places(&slots, 102), 102)] {
        for (link, slot) in slots_of {
            assert_eq!(slots.identity(slot.unwrap()), Some(link.own), "{number}");
        }
    }
    // A fifth waits, and has a slot when there is one.
    apply(&mut slots, &Change::AddLink { peer: name(101), link: link(1, 203) });
    assert_eq!(places(&slots, 101)[&link(1, 203)], None);
    apply(&mut slots, &Change::RemoveLink { peer: name(101), link: link(1, 201) });
    assert!(places(&slots, 101)[&link(1, 203)].is_some());
}

#[test]
fn the_peers_rotation() {
    let mut slots = pair();
    let ops = apply(&mut slots, &Change::AddLink { peer: name(101), link: link(1, 201) });
    assert_eq!(opened(&ops), [1]);
    assert_eq!(identities(&slots)[..2], [Some(public(1)), Some(public(1))], "the same key at another port");
    apply(&mut slots, &Change::Activate { peer: name(101), link: link(1, 201) });
    apply(&mut slots, &Change::RemoveLink { peer: name(101), link: link(1, 101) });
    // Away from home at the peer too, until it moves: the side with the smaller key goes first.
    let first = public(1) < public(201);
    assert_eq!(slots.slot_of(&name(101)), Some(usize::from(!first)));
}

#[test]
fn home_in_three_steps() {
    let mut slots = Slots::default();
    let (own, remote) = (0..=200u8)
        .zip(1..=201u8)
        .find(|(own, remote)| public(*own) < public(*remote) && *own != 50)
        .expect("about half of them are so");
    apply(&mut slots, &Change::AddIdentity { private: private(50) });
    apply(&mut slots, &Change::AddIdentity { private: private(own) });
    let (peer, old, new) = (name(1), link(50, remote), link(own, remote));
    let told = Change::AddPeer { peer: peer.clone(), endpoint: at(1), keepalive_s: Some(25), link: old };
    apply(&mut slots, &told);
    apply(&mut slots, &Change::AddLink { peer: peer.clone(), link: new });
    apply(&mut slots, &Change::Activate { peer: peer.clone(), link: new });
    apply(&mut slots, &Change::RemoveLink { peer: peer.clone(), link: old });
    apply(&mut slots, &Change::RemoveIdentity { public: public(50) });
    assert_eq!(
        (slots.slot_of(&peer), slots.identity(0), slots.identity(1)),
        (Some(0), Some(public(own)), Some(public(own)))
    );
    let settle = |slots: &mut Slots, confirmed: &[usize]| {
        let mut ops = Vec::new();
        slots.settle(|slot, key| key == public(remote) && confirmed.contains(&slot), |_, _| true, &mut ops);
        ops
    };
    // Nobody has heard of it yet: even a session that stands changes nothing, for packets still go the old way.
    assert_eq!(settle(&mut slots, &[0, 1]), []);
    slots.told();
    assert_eq!(settle(&mut slots, &[1]).len(), 3, "a handshake");
    assert_eq!(settle(&mut slots, &[1]), [], "patience");
    let ops = settle(&mut slots, &[0, 1]);
    assert_eq!(closed(&ops), [1]);
    assert_eq!(identities(&slots), [Some(public(own)), None, None, None]);
}

#[test]
fn whom_to_try() {
    let offsets = |slot| (0..8).map(|tries| candidate(at(1), slot, tries).port() - 51871).collect::<Vec<_>>();
    assert_eq!(offsets(0), [0, 1, 0, 2, 0, 3, 0, 1]);
    assert_eq!(offsets(1), [1, 0, 2, 0, 3, 0, 1, 0]);
    assert_eq!(offsets(2), [2, 0, 3, 0, 1, 0, 2, 0]);
    assert_eq!(offsets(3), [3, 0, 1, 0, 2, 0, 3, 0]);
    let last = std::net::SocketAddr::from(([192, 0, 2, 1], u16::MAX));
    assert_eq!(candidate(last, 1, 0), last);
}

#[test]
fn what_does_not_fit() {
    let mut slots = pair();
    let before = slots.clone();
    let peer = || name(101);
    let add = |name, link| Change::AddPeer { peer: name, endpoint: at(9), keepalive_s: None, link };
    for (change, error) in [
        (add(peer(), link(1, 9)), "peer c/node101 is there already".to_owned()),
        (add(name(9), link(9, 9)), format!("there is no identity {}", public(9))),
        (add(name(9), link(1, 101)), format!("key {} belongs to peer c/node101", public(101))),
        (Change::AddLink { peer: name(9), link: link(1, 9) }, "there is no peer c/node9".into()),
        (
            Change::AddLink { peer: peer(), link: link(1, 102) },
            format!("key {} belongs to peer c/node102", public(102)),
        ),
        (
            Change::RemoveLink { peer: peer(), link: link(1, 101) },
            format!("peer c/node101 sends on the link with key {}", public(101)),
        ),
        (
            Change::Activate { peer: peer(), link: link(1, 9) },
            format!("peer c/node101 has no link with key {}", public(9)),
        ),
        (Change::RemoveIdentity { public: public(1) }, format!("identity {} has links", public(1))),
        (Change::RemovePeer { peer: name(9) }, "there is no peer c/node9".into()),
        (
            Change::AddPrefix { peer: peer(), prefix: net("10.0.0.1/24") },
            "10.0.0.1/24 has bits set behind its length".into(),
        ),
    ] {
        let mut ops = Vec::new();
        assert_eq!(slots.change(&change, &mut ops).unwrap_err().to_string(), error);
        assert_eq!((&slots, ops), (&before, vec![]), "{change:?}");
    }
}

#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Two keys of ours, or one: `epoch`, and the one after it.
    pub(super) epoch: u8,
    pub(super) rotating: bool,
    pub(super) peers: Vec<Option<WishedPeer>>,
}

/// Its epoch, whether it rotates, which link is active, and prefixes by number.
type WishedPeer = (u8, bool, usize, BTreeSet<u8>);

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    let peer = (0..4u8, any::<bool>(), 0..4usize, proptest::collection::btree_set(0..12u8, 0..5));
    (0..6u8, any::<bool>(), vec(proptest::option::weighted(0.8, peer), 4)).prop_map(|(epoch, rotating, peers)| Wish {
        epoch,
        rotating,
        peers,
    })
}

impl Wish {
    pub(super) fn desired(&self) -> Desired {
        let own: Vec<u8> = if self.rotating { vec![self.epoch, self.epoch + 1] } else { vec![self.epoch] };
        let mut desired = Desired::default();
        desired.identities.extend(own.iter().map(|number| (public(*number), private(*number))));
        let mut given = BTreeSet::new();
        for (number, peer) in (1u8..).zip(&self.peers) {
            let Some((epoch, rotating, active, prefixes)) = peer else { continue };
            let base = 50 + 10 * number + epoch;
            let remote: Vec<u8> = if *rotating { vec![base, base + 1] } else { vec![base] };
            let links: Vec<Link> = remote.iter().flat_map(|remote| own.iter().map(|own| link(*own, *remote))).collect();
            let prefixes = prefixes.iter().filter(|prefix| given.insert(**prefix));
            let peer = Peer {
                endpoint: at(number),
                keepalive_s: (epoch % 2 == 1).then_some(25),
                active: links[active % links.len()],
                links: links.into_iter().collect(),
                prefixes: prefixes.map(|prefix| net(&format!("10.0.{prefix}.0/24"))).collect(),
            };
            desired.peers.insert(name(number), peer);
        }
        desired
    }
}

/// What must be true of every state.
pub(super) fn check(slots: &Slots) {
    let mut used = [false; SLOTS];
    for (name, state) in slots.peers() {
        let mut taken = BTreeSet::new();
        for (slot, _) in state.places() {
            assert!(taken.insert(slot), "{name} is on slot {slot} twice");
            used[slot] = true;
        }
        for (link, place) in &state.links {
            match place {
                Some(place) => {
                    assert_eq!(slots.identity(place.slot), Some(link.own));
                    assert!(place.leaving.is_none_or(|(old, _)| slots.identity(old) == Some(link.own)));
                }
                None => {
                    let room = |slot| slots.identity(slot).is_none_or(|own| own == link.own && !taken.contains(&slot));
                    assert!(!(0..SLOTS).any(room), "{name} waits for nothing");
                }
            }
        }
    }
    for (slot, used) in used.into_iter().enumerate().skip(1) {
        assert_eq!(slots.identity(slot).is_some(), used, "slot {slot} is open for nobody");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_order_ends_where_it_should(wishes in vec((wish(), any::<bool>(), 0..3u8), 1..8)) {
        let mut slots = Slots::default();
        for (wish, live, rounds) in wishes {
            let desired = wish.desired();
            let mut ops = Vec::new();
            for change in plan(&desired, &slots.actual()) {
                slots.change(&change, &mut ops).unwrap();
            }
            slots.tidy(|_, _| true, &mut ops);
            check(&slots);
            prop_assert_eq!(plan(&desired, &slots.actual()), vec![]);
            for _ in 0..rounds {
                slots.told();
                slots.settle(|_, _| live, |_, _| true, &mut ops);
                check(&slots);
                prop_assert_eq!(plan(&desired, &slots.actual()), vec![]);
            }
        }
    }

    /// When everybody has one key, everything is at home soon, as long as somebody goes first.
    #[test]
    fn all_come_home(wishes in vec(wish(), 1..6), live: bool) {
        let mut slots = Slots::default();
        let mut ops = Vec::new();
        let last = wishes.last().unwrap().clone();
        let still = Wish { rotating: false, peers: last.peers.into_iter().map(|peer| {
            peer.map(|(epoch, _, active, prefixes)| (epoch, false, active, prefixes))
        }).collect(), ..last };
        for wish in wishes.into_iter().chain([still]) {
            for change in plan(&wish.desired(), &slots.actual()) {
                slots.change(&change, &mut ops).unwrap();
            }
            slots.tidy(|_, _| true, &mut ops);
        }
        for _ in 0..6 {
            slots.told();
            slots.settle(|_, _| live, |_, _| true, &mut ops);
        }
        for state in slots.peers().values() {
            for (link, place) in &state.links {
                let place = place.unwrap();
                let waits = place.at.port() != 51871 && link.own > link.remote;
                prop_assert!(place.slot == 0 && place.leaving.is_none() || waits, "{:?}", place);
            }
        }
    }
}
