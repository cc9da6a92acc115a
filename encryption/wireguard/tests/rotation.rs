//! Two identities on one engine: from the old key to the new one without losing a packet.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use bytes::BytesMut;
use causeway_encryption_plan::{Change, Link};
use net::{Node, at, carry, key, link, name, packet, pair, send, v4};

const OLD: u8 = 1;
const NEW: u8 = 11;

/// The link as node 1 has it, and as node 2 does.
fn ends(own: u8) -> (Link, Link) {
    (link(own, 2), link(2, own))
}

/// Node 1 has announced its new key, and both have warmed it.
fn warm() -> (Node, Node) {
    let (mut a, mut b) = pair();
    a.apply(Change::AddIdentity { private: key(NEW) });
    b.apply(Change::AddLink { peer: name(1), link: ends(NEW).1 });
    let first = a.apply(Change::AddLink { peer: name(2), link: ends(NEW).0 });
    assert_eq!(first.iter().map(|(to, out)| (*to, out[0])).collect::<Vec<_>>(), [(at(2), 1)], "an initiation at once");
    carry(&mut [&mut a, &mut b], at(1), first);
    assert!(a.link(2, ends(NEW).0).confirmed && b.link(1, ends(NEW).1).confirmed);
    (a, b)
}

fn numbered(from: u8, to: u8, number: u8) -> Vec<u8> {
    packet(v4(from, 1), v4(to, 1), &[number])
}

/// Datagrams from node 1, on whatever link is active.
fn sealed(a: &Node, numbers: std::ops::Range<u8>) -> Vec<BytesMut> {
    numbers.map(|number| a.seal(&numbered(1, 2, number)).remove(0).1).collect()
}

#[test]
fn a_new_key_is_warmed_beside_the_old_one_which_goes_on() {
    let (a, mut b) = warm();
    assert_eq!(a.engine.look().0.peers[&name(2)].active, ends(OLD).0);
    let before = b.link(1, ends(NEW).1).rx_bytes;
    assert!(b.accepts(at(1), &sealed(&a, 0..1)[0]));
    assert_eq!(b.link(1, ends(NEW).1).rx_bytes, before, "still on the old one");
    for (_, stats) in a.peer(2).links.iter().chain(&b.peer(1).links) {
        assert_eq!((stats.handshakes, stats.failures, stats.replays), (1, 0, 0));
    }
}

#[test]
fn both_links_receive_and_each_side_turns_when_it_wants() {
    let (mut a, mut b) = warm();
    let old = sealed(&a, 0..5);
    a.apply(Change::Activate { peer: name(2), link: ends(NEW).0 });
    let new = sealed(&a, 5..10);
    // The first of the new before the last of the old.
    for datagram in new.iter().chain(&old) {
        assert!(b.accepts(at(1), datagram));
    }
    assert_eq!(b.link(1, ends(OLD).1).rx_bytes, 32 * 6);
    assert_eq!(b.link(1, ends(NEW).1).rx_bytes, 32 * 5);
    // Node 2 has not turned.
    let back = send(2, 1, &mut b, &mut a);
    assert_eq!(a.inner, std::slice::from_ref(&back));
    assert_eq!(a.link(2, ends(OLD).0).rx_bytes, 32);
    b.apply(Change::Activate { peer: name(1), link: ends(NEW).1 });
    assert_eq!(send(2, 1, &mut b, &mut a), back);
    assert_eq!((a.inner.len(), a.link(2, ends(NEW).0).rx_bytes), (2, 32));
}

#[test]
fn the_old_keys_end_loses_nothing_that_came_before_it() {
    let (mut a, mut b) = warm();
    let old = sealed(&a, 0..10);
    a.apply(Change::Activate { peer: name(2), link: ends(NEW).0 });
    b.apply(Change::Activate { peer: name(1), link: ends(NEW).1 });
    let new = sealed(&a, 10..20);
    for datagram in &old[..9] {
        assert!(b.accepts(at(1), datagram));
    }
    a.apply(Change::RemoveLink { peer: name(2), link: ends(OLD).0 });
    a.apply(Change::RemoveIdentity { public: key(OLD).public() });
    b.apply(Change::RemoveLink { peer: name(1), link: ends(OLD).1 });
    assert!(!b.accepts(at(1), &old[9]), "its link is gone");
    for datagram in &new {
        assert!(b.accepts(at(1), datagram));
    }
    assert_eq!(b.inner, (0..9).chain(10..20).map(|number| numbered(1, 2, number)).collect::<Vec<_>>());
    send(2, 1, &mut b, &mut a);
    send(1, 2, &mut a, &mut b);
    assert_eq!((a.inner.len(), b.inner.len()), (1, 20));
    b.tick();
    let strangers = b.engine.dropped().strangers;
    assert!(!b.accepts(at(1), &old[9]));
    assert_eq!(b.engine.dropped().strangers, strangers + 1);
}

#[test]
fn what_waits_goes_out_on_the_link_that_it_waits_in() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    let waits = numbered(1, 2, 0);
    let first = a.seal(&waits);
    a.apply(Change::AddIdentity { private: key(NEW) });
    b.apply(Change::AddLink { peer: name(1), link: ends(NEW).1 });
    let warmed = a.apply(Change::AddLink { peer: name(2), link: ends(NEW).0 });
    carry(&mut [&mut a, &mut b], at(1), warmed);
    a.apply(Change::Activate { peer: name(2), link: ends(NEW).0 });
    assert!(b.accepts(at(1), &sealed(&a, 1..2)[0]));
    carry(&mut [&mut a, &mut b], at(1), first);
    assert_eq!(b.inner, [numbered(1, 2, 1), waits]);
}

#[test]
fn both_nodes_rotate_at_once() {
    const OTHER: u8 = 12;
    let (mut a, mut b) = warm();
    b.apply(Change::AddIdentity { private: key(OTHER) });
    let mut first: Vec<_> = [OLD, NEW]
        .into_iter()
        .flat_map(|own| a.apply(Change::AddLink { peer: name(2), link: link(own, OTHER) }))
        .collect();
    let answers: Vec<_> = [OLD, NEW]
        .into_iter()
        .flat_map(|remote| b.apply(Change::AddLink { peer: name(1), link: link(OTHER, remote) }))
        .collect();
    assert_eq!((first.len(), answers.len()), (2, 2));
    // Both say their first word at once, and reordered.
    first.reverse();
    carry(&mut [&mut a, &mut b], at(1), first);
    carry(&mut [&mut a, &mut b], at(2), answers);
    for own in [OLD, NEW] {
        for remote in [2, OTHER] {
            assert!(a.link(2, link(own, remote)).confirmed && b.link(1, link(remote, own)).confirmed);
            a.apply(Change::Activate { peer: name(2), link: link(own, remote) });
            b.apply(Change::Activate { peer: name(1), link: link(remote, own) });
            send(1, 2, &mut a, &mut b);
            send(2, 1, &mut b, &mut a);
        }
    }
    assert_eq!((a.inner.len(), b.inner.len()), (4, 4));
}
