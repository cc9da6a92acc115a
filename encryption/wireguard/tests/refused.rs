//! Datagrams that must not get through, and what they must not bring about.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use net::{Node, at, link, packet, pair, v4};
use proptest::prelude::*;

/// Datagrams from node 1 to node 2, one packet each.
fn sealed(a: &Node, count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|number| a.seal(&packet(v4(1, 1), v4(2, 1), &number.to_be_bytes())).remove(0).1.to_vec()).collect()
}

#[test]
fn a_datagram_comes_once() {
    let (a, mut b) = pair();
    let datagram = sealed(&a, 1).remove(0);
    assert!(b.accepts(at(1), &datagram));
    for replays in 1..4 {
        assert!(!b.accepts(at(1), &datagram));
        assert_eq!(b.only_link(1).replays, replays);
    }
    assert_eq!(b.only_link(1).failures, 0);
}

/// The window is that of Linux, 8,192 (RFC 6479).
#[test]
fn late_datagrams_come_until_the_window_has_passed_them() {
    let (a, mut b) = pair();
    let datagrams = sealed(&a, 9_000);
    let newest = datagrams.len() - 1;
    for (late, accepted) in [(0, true), (1, true), (8_000, true), (8_191, true), (8_192, false), (8_999, false)] {
        assert_eq!(b.accepts(at(1), &datagrams[newest - late]), accepted, "{late} late");
    }
    assert_eq!(b.only_link(1).replays, 2);
    for late in (1..8_192).rev() {
        assert_eq!(b.accepts(at(1), &datagrams[newest - late]), !matches!(late, 1 | 8_000 | 8_191), "{late} late");
    }
}

#[test]
fn only_what_is_authentic_and_new_moves_the_endpoint() {
    let (mut a, mut b) = pair();
    let elsewhere = "198.51.100.7:4242".parse().unwrap();
    let there = sealed(&a, 3);
    assert!(b.accepts(elsewhere, &there[0]));
    assert_eq!(b.peer(1).endpoint, elsewhere);
    assert_eq!(b.seal(&packet(v4(2, 1), v4(1, 1), b"follows"))[0].0, elsewhere);

    let liar = "203.0.113.66:6666".parse().unwrap();
    let mut bent = there[1].clone();
    *bent.last_mut().unwrap() ^= 1;
    // To an index that is b's: a session's, as the data messages show.
    let cookie = [&[3, 0, 0, 0], &there[0][4..8], &[0x77; 56]].concat();
    let response = [&[2, 0, 0, 0], &[9; 4], &there[0][4..8], &[0x77; 80]].concat();
    for forged in [&there[0], &bent, &cookie, &response, &vec![1; 148], &vec![4; 60], &Vec::new()] {
        assert_eq!(b.open(liar, forged), []);
        assert_eq!(b.peer(1).endpoint, elsewhere, "{forged:02x?}");
    }
    assert!(b.accepts(at(1), &there[1]));
    assert_eq!(b.peer(1).endpoint, at(1));

    // An initiation is answered where it came from. The session moves with the first word on the new one, for until then its
    // owner may await the answer at the old place; a replay does nothing.
    let mut again = Node::knowing(1, &[2]);
    let initiation = again.seal(&packet(v4(1, 1), v4(2, 1), b"again")).remove(0).1;
    let answer = b.open(elsewhere, &initiation).remove(0);
    assert_eq!((answer.0, b.peer(1).endpoint), (elsewhere, at(1)));
    let replays = b.only_link(1).replays;
    assert_eq!(b.open(liar, &initiation), []);
    assert_eq!((b.peer(1).endpoint, b.only_link(1).replays), (at(1), replays + 1));
    for (_, word) in again.open(at(2), &answer.1) {
        b.open(elsewhere, &word);
    }
    assert_eq!(b.peer(1).endpoint, elsewhere);
    assert_eq!(a.open(at(2), &[]), []);
}

#[test]
fn datagrams_of_no_length_that_there_is_are_strangers() {
    let (a, mut b) = pair();
    let there = sealed(&a, 1).remove(0);
    let mut strangers = 0;
    for kind in 0..=u8::MAX {
        for length in [0, 1, 3, 4, 7, 8, 31, 32, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1500, 65_507] {
            let mut datagram = vec![0x5a; length];
            if length >= 4 {
                datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            }
            assert!(!b.accepts(at(1), &datagram));
            strangers += 1;
        }
    }
    for length in 0..32 {
        assert!(!b.accepts(at(1), &there[..length]));
        strangers += 1;
    }
    assert_eq!(b.engine.dropped().strangers, strangers);
    assert_eq!(b.only_link(1).failures, 0);
    assert!(b.accepts(at(1), &there));
}

#[test]
fn a_datagram_that_grew_is_no_longer_authentic() {
    let (a, mut b) = pair();
    let there = sealed(&a, 1).remove(0);
    for length in [there.len() + 1, there.len() + 16, 65_507] {
        let mut grown = there.clone();
        grown.resize(length, 0);
        assert!(!b.accepts(at(1), &grown));
    }
    assert_eq!(b.only_link(1).failures, 3);
}

#[test]
fn a_node_that_is_not_known_gets_no_answer() {
    let (_, mut b) = pair();
    let stranger = Node::knowing(3, &[2]);
    let initiation = stranger.seal(&packet(v4(3, 1), v4(2, 1), b"knock")).remove(0).1;
    assert_eq!(b.open(at(3), &initiation), []);
    assert_eq!(b.engine.dropped().strangers, 1);
    // Nor does one that means somebody else.
    let lost = Node::knowing(1, &[3]);
    let initiation = lost.seal(&packet(v4(1, 1), v4(3, 1), b"knock")).remove(0).1;
    assert_eq!(b.open(at(1), &initiation), []);
    assert_eq!(b.engine.dropped().strangers, 2);
    assert_eq!(b.link(1, link(2, 1)).handshakes, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_bit_is_enough_to_be_refused(at_byte in any::<prop::sample::Index>(), bit in 0..8u8, which in 0..3usize) {
        let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
        let sent = packet(v4(1, 1), v4(2, 1), b"one bit");
        let mut said = vec![a.seal(&sent).remove(0).1];
        said.push(b.open(at(1), &said[0]).remove(0).1);
        said.push(a.open(at(2), &said[1]).remove(1).1);
        let (mut a, mut b) = if which == 2 { (a, b) } else { (Node::knowing(1, &[2]), Node::knowing(2, &[1])) };
        let mut bent = match which {
            0 => a.seal(&sent).remove(0).1,
            1 => b.open(at(1), &a.seal(&sent)[0].1).remove(0).1,
            _ => said.remove(2),
        };
        // The second MAC is looked at under load only.
        let covered = if which == 2 { bent.len() } else { bent.len() - 16 };
        bent[at_byte.index(covered)] ^= 1 << bit;
        let node = if which == 1 { &mut a } else { &mut b };
        prop_assert_eq!(node.open(at(9), &bent), []);
        prop_assert_eq!(node.inner.len(), 0);
        let peer = if which == 1 { 2 } else { 1 };
        prop_assert_ne!(node.peer(peer).endpoint, at(9));
    }

    #[test]
    fn no_datagram_is_too_strange(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..50)) {
        let (_, mut b) = pair();
        for datagram in &datagrams {
            prop_assert_eq!(b.open(at(9), datagram), []);
        }
        prop_assert_eq!(b.inner.len(), 0);
        prop_assert_eq!(b.engine.dropped().strangers, datagrams.len() as u64);
    }
}
