//! `plan`: each change by itself, and what holds between any two states of a device.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use causeway_encryption_plan::{Actual, Change, Desired, Link, Peer, PeerName, plan};
use ipnet::IpNet;
use model::{Device, private, public};
use proptest::prelude::*;

fn name(text: &str) -> PeerName {
    PeerName::new("c", text)
}

fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51871))
}

fn prefix(number: u32) -> IpNet {
    IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), 32).unwrap()
}

/// Our identity `own`, the peer's key `remote`.
fn link(own: u64, remote: u64) -> Link {
    Link { own: private(own).public(), remote: public(remote) }
}

fn peer(links: &[Link], prefixes: &[u32]) -> Peer {
    Peer {
        endpoint: endpoint(1),
        keepalive_s: None,
        links: links.iter().copied().collect(),
        active: links[0],
        prefixes: prefixes.iter().map(|number| prefix(*number)).collect(),
    }
}

fn desired(identities: &[u64], peers: &[(&str, Peer)]) -> Desired {
    Desired {
        identities: identities.iter().map(|own| (private(*own).public(), private(*own))).collect(),
        peers: peers.iter().map(|(text, peer)| (name(text), peer.clone())).collect(),
    }
}

fn as_actual(desired: &Desired) -> Actual {
    Actual { identities: desired.identities.keys().copied().collect(), peers: desired.peers.clone() }
}

/// From `from` to `to` the plan is `changes`, and it leads there.
#[track_caller]
fn check(from: &Desired, to: &Desired, changes: &[Change]) {
    let planned = plan(to, &as_actual(from));
    assert_eq!(planned, changes);
    let mut device = Device { actual: as_actual(from) };
    for change in &planned {
        device.apply(change).unwrap();
    }
    assert_eq!(device.actual, as_actual(to));
}

#[test]
fn nothing_to_do() {
    let state = desired(&[1], &[("a", peer(&[link(1, 1)], &[1, 2]))]);
    check(&state, &state, &[]);
    check(&Desired::default(), &Desired::default(), &[]);
}

#[test]
fn an_identity_comes_first_and_goes_last() {
    let (old, new) = (link(1, 1), link(2, 1));
    check(
        &desired(&[1], &[("a", peer(&[old], &[1]))]),
        &desired(&[2], &[("a", peer(&[new], &[1]))]),
        &[
            Change::AddIdentity { private: private(2) },
            Change::AddLink { peer: name("a"), link: new },
            Change::Activate { peer: name("a"), link: new },
            Change::RemoveLink { peer: name("a"), link: old },
            Change::RemoveIdentity { public: old.own },
        ],
    );
}

#[test]
fn a_peer_comes_and_goes() {
    let none = desired(&[1, 2], &[]);
    let mut new = peer(&[link(2, 1), link(1, 1)], &[1, 2]);
    new.keepalive_s = Some(25);
    let one = desired(&[1, 2], &[("a", new)]);
    check(
        &none,
        &one,
        &[
            Change::AddPeer { peer: name("a"), endpoint: endpoint(1), keepalive_s: Some(25), link: link(2, 1) },
            Change::AddLink { peer: name("a"), link: link(1, 1) },
            Change::AddPrefix { peer: name("a"), prefix: prefix(1) },
            Change::AddPrefix { peer: name("a"), prefix: prefix(2) },
        ],
    );
    check(&one, &none, &[Change::RemovePeer { peer: name("a") }]);
}

#[test]
fn the_endpoint_and_keepalive_are_set_by_themselves() {
    let old = peer(&[link(1, 1)], &[1]);
    let moved = Peer { endpoint: endpoint(9), ..old.clone() };
    let kept = Peer { keepalive_s: Some(25), ..old.clone() };
    let before = desired(&[1], &[("a", old)]);
    check(&before, &desired(&[1], &[("a", moved)]), &[Change::SetEndpoint { peer: name("a"), endpoint: endpoint(9) }]);
    let with_keepalive = desired(&[1], &[("a", kept)]);
    check(&before, &with_keepalive, &[Change::SetKeepalive { peer: name("a"), keepalive_s: Some(25) }]);
    check(&with_keepalive, &before, &[Change::SetKeepalive { peer: name("a"), keepalive_s: None }]);
}

#[test]
fn another_link_is_active_before_the_old_one_goes() {
    let (old, new) = (link(1, 1), link(1, 2));
    let before = desired(&[1], &[("a", peer(&[old], &[]))]);
    let both = desired(&[1], &[("a", peer(&[old, new], &[]))]);
    let switched = desired(&[1], &[("a", peer(&[new, old], &[]))]);
    let after = desired(&[1], &[("a", peer(&[new], &[]))]);
    let add = Change::AddLink { peer: name("a"), link: new };
    let activate = Change::Activate { peer: name("a"), link: new };
    let remove = Change::RemoveLink { peer: name("a"), link: old };
    check(&before, &both, std::slice::from_ref(&add));
    check(&both, &switched, std::slice::from_ref(&activate));
    check(&switched, &after, std::slice::from_ref(&remove));
    check(&before, &after, &[add, activate, remove]);
}

#[test]
fn prefixes_come_before_others_go() {
    let before = desired(&[1], &[("a", peer(&[link(1, 1)], &[1, 2]))]);
    let after = desired(&[1], &[("a", peer(&[link(1, 1)], &[2, 3]))]);
    check(
        &before,
        &after,
        &[
            Change::AddPrefix { peer: name("a"), prefix: prefix(3) },
            Change::RemovePrefix { peer: name("a"), prefix: prefix(1) },
        ],
    );
}

#[test]
fn a_prefix_that_moves_is_one_change() {
    for (from, to) in [("a", "b"), ("b", "a")] {
        let state = |owner: &str| {
            let of = |name: &str, own: u32| if name == owner { vec![own, 7] } else { vec![own] };
            let (a, b) = (of("a", 1), of("b", 2));
            desired(&[1], &[("a", peer(&[link(1, 1)], &a)), ("b", peer(&[link(1, 2)], &b))])
        };
        check(&state(from), &state(to), &[Change::AddPrefix { peer: name(to), prefix: prefix(7) }]);
    }
}

#[test]
fn a_prefix_of_a_peer_that_goes_is_taken_first() {
    for (from, to) in [("a", "b"), ("b", "a")] {
        let before = desired(&[1], &[(from, peer(&[link(1, 1)], &[7]))]);
        let after = desired(&[1], &[(to, peer(&[link(1, 2)], &[7]))]);
        check(
            &before,
            &after,
            &[
                Change::AddPeer { peer: name(to), endpoint: endpoint(1), keepalive_s: None, link: link(1, 2) },
                Change::AddPrefix { peer: name(to), prefix: prefix(7) },
                Change::RemovePeer { peer: name(from) },
            ],
        );
    }
}

/// The key is the same, so the device could not have both at once.
#[test]
fn a_node_with_a_new_name_goes_before_it_comes() {
    for (from, to) in [("a", "b"), ("b", "a")] {
        let state = |name| desired(&[1], &[(name, peer(&[link(1, 1)], &[7])), ("z", peer(&[link(1, 9)], &[9]))]);
        check(
            &state(from),
            &state(to),
            &[
                Change::RemovePeer { peer: name(from) },
                Change::AddPeer { peer: name(to), endpoint: endpoint(1), keepalive_s: None, link: link(1, 1) },
                Change::AddPrefix { peer: name(to), prefix: prefix(7) },
            ],
        );
    }
}

/// What the embedded device's socket carries is what was planned.
#[test]
fn changes_survive_json() {
    let old = peer(&[link(1, 1)], &[1, 2]);
    let mut new = peer(&[link(2, 1), link(2, 2)], &[2, 3]);
    (new.endpoint, new.keepalive_s) = (endpoint(9), Some(25));
    let before = desired(&[1], &[("a", old.clone()), ("gone", peer(&[link(1, 8)], &[]))]);
    let after = desired(&[2], &[("a", new), ("new", peer(&[link(2, 9)], &[]))]);
    let planned = plan(&after, &as_actual(&before));
    let kinds: BTreeSet<_> = planned.iter().map(std::mem::discriminant).map(|kind| format!("{kind:?}")).collect();
    assert_eq!(kinds.len(), 11, "every kind of change: {planned:?}");
    for change in planned {
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change, "{text}");
    }
    let unknown = r#"{"do":"removePeer","peer":"c/a","more":1}"#;
    assert!(serde_json::from_str::<Change>(unknown).is_err());
}

#[test]
fn a_large_mesh_costs_what_has_changed() {
    let mut state = desired(&[1], &[]);
    let own = *state.identities.keys().next().unwrap();
    for number in 0..5_000u32 {
        let link = Link { own, remote: public(number.into()) };
        let numbers: Vec<_> = (number * 10..number * 10 + 10).collect();
        state.peers.insert(name(&format!("n{number}")), peer(&[link], &numbers));
    }
    assert_eq!(plan(&state, &Actual::default()).len(), 1 + 5_000 + 50_000);

    let actual = as_actual(&state);
    assert_eq!(plan(&state, &actual), []);
    state.peers.get_mut(&name("n4711")).unwrap().prefixes.insert(prefix(99_999));
    assert_eq!(plan(&state, &actual), [Change::AddPrefix { peer: name("n4711"), prefix: prefix(99_999) }]);
}

/// A state out of a small world, so that any two have much in common: 4 identities, 5 peers, 12 prefixes. Whether keys may
/// stand under another name than in the next state is `keys_move`.
fn state(keys_move: bool) -> impl Strategy<Value = Desired> {
    let one = (
        any::<bool>(),
        0u8..3,
        0u8..3,
        prop::collection::btree_set((0u64..4, 0u64..3), 1..6),
        any::<prop::sample::Index>(),
    );
    let owners = prop::collection::vec(0usize..8, 12);
    let shift = if keys_move { 0u64..3 } else { 0u64..1 };
    (prop::collection::vec(one, 5), owners, shift, 0u64..4).prop_map(|(peers, owners, shift, spare)| {
        let mut state = desired(&[spare], &[]);
        for (number, (present, end, keepalive, pairs, active)) in peers.into_iter().enumerate() {
            if !present {
                continue;
            }
            let remotes = (number as u64 + shift) % 5 * 10;
            let links: Vec<_> = pairs.iter().map(|(own, remote)| link(*own, remotes + remote)).collect();
            for (own, _) in &pairs {
                state.identities.insert(private(*own).public(), private(*own));
            }
            let mine = (0u32..).zip(&owners).filter(|(_, owner)| **owner == number).map(|(at, _)| prefix(at));
            let new = Peer {
                endpoint: endpoint(end),
                keepalive_s: (keepalive > 0).then_some(u16::from(keepalive)),
                active: *active.get(&links),
                links: links.into_iter().collect(),
                prefixes: mine.collect(),
            };
            state.peers.insert(name(&number.to_string()), new);
        }
        state
    })
}

fn prefixes(peers: &BTreeMap<PeerName, Peer>) -> BTreeSet<IpNet> {
    peers.values().flat_map(|peer| &peer.prefixes).copied().collect()
}

fn links(peers: &BTreeMap<PeerName, Peer>) -> BTreeSet<(PeerName, Link)> {
    peers.iter().flat_map(|(name, peer)| peer.links.iter().map(|link| (name.clone(), *link))).collect()
}

/// Applies the plan step by step and calls `between` after each.
fn walk(to: &Desired, from: &Desired, mut between: impl FnMut(&Actual)) -> Result<(), TestCaseError> {
    let mut device = Device { actual: as_actual(from) };
    for change in plan(to, &device.actual) {
        device.apply(&change).map_err(TestCaseError::fail)?;
        between(&device.actual);
    }
    prop_assert_eq!(&device.actual, &as_actual(to));
    prop_assert_eq!(plan(to, &device.actual), []);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every step is one that the device may be asked for, the end is what was asked for, and then nothing is left to do.
    #[test]
    fn a_plan_leads_to_what_is_desired(from in state(true), to in state(true)) {
        walk(&to, &from, |_| {})?;
        prop_assert_eq!(plan(&to, &as_actual(&to)), []);
    }

    /// What stands before and after stands all the time: prefixes, maybe under another peer, and links.
    #[test]
    fn there_is_no_gap(from in state(false), to in state(false)) {
        let kept_prefixes: BTreeSet<_> = prefixes(&from.peers).intersection(&prefixes(&to.peers)).copied().collect();
        let kept_links: BTreeSet<_> = links(&from.peers).intersection(&links(&to.peers)).cloned().collect();
        let mut gaps = Vec::new();
        walk(&to, &from, |now| {
            gaps.extend(kept_prefixes.difference(&prefixes(&now.peers)).map(ToString::to_string));
            gaps.extend(kept_links.difference(&links(&now.peers)).map(|(name, link)| format!("{name} {link:?}")));
        })?;
        prop_assert!(gaps.is_empty(), "missing in between: {gaps:?}");
    }
}
