//! Handshakes and data between engines.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use causeway_encryption_plan::Change;
use causeway_wireguard::VnetHeader;
use causeway_wireguard::engine::{Dropped, Engine};
use net::{Node, at, carry, link, name, packet, pair, send, v4, v6};
use proptest::prelude::*;

const INITIATION: usize = 148;
const RESPONSE: usize = 92;
const KEEPALIVE: usize = 32;

#[test]
fn the_first_packet_waits_for_the_handshake_that_it_starts() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    let sent: Vec<_> = (0..3).map(|pod| packet(v4(1, pod), v4(2, 9), b"waits")).collect();
    let first = a.seal(&sent[0]);
    assert_eq!(first.iter().map(|(to, datagram)| (*to, datagram.len())).collect::<Vec<_>>(), [(at(2), INITIATION)]);
    assert_eq!(a.seal(&sent[1]), []);
    assert_eq!(a.seal(&sent[2]), []);

    let answer = b.open(at(1), &first[0].1);
    assert_eq!(answer.iter().map(|(to, datagram)| (*to, datagram.len())).collect::<Vec<_>>(), [(at(1), RESPONSE)]);
    let responder = b.only_link(1);
    assert_eq!((responder.handshakes, responder.confirmed), (1, false), "nobody has shown the keys yet");
    assert!(!a.only_link(2).confirmed);

    let flushed = a.open(at(2), &answer[0].1);
    let initiator = a.only_link(2);
    assert_eq!((initiator.handshakes, initiator.confirmed), (1, true));
    assert_eq!(flushed.len(), 4, "a keepalive and what waited");
    assert_eq!(flushed[0].1.len(), KEEPALIVE);

    assert_eq!(b.open(at(1), &flushed[0].1), []);
    let responder = b.only_link(1);
    assert_eq!((responder.handshakes, responder.confirmed), (1, true));
    for (_, datagram) in &flushed[1..] {
        assert_eq!(b.open(at(1), datagram), []);
    }
    assert_eq!(b.inner, sent);
    for stats in [a.only_link(2), b.only_link(1)] {
        assert_eq!((stats.handshakes, stats.failures, stats.replays), (1, 0, 0));
    }
}

#[test]
fn bytes_are_counted_at_both_ends_alike_also_of_what_waited() {
    let (mut a, mut b) = pair();
    send(2, 1, &mut b, &mut a);
    let (there, here) = (a.only_link(2), b.only_link(1));
    assert_eq!((there.tx_bytes, there.rx_bytes), (32, 32));
    assert_eq!((here.tx_bytes, here.rx_bytes), (32, 32));
    assert!(there.received_age_ms.is_some() && there.handshake_age_ms.is_some());
}

#[test]
fn data_goes_both_ways_and_both_families() {
    let (mut a, mut b) = pair();
    let there = packet(v6(1, 1), v6(2, 1), b"there");
    let out = a.seal(&there);
    assert_eq!(carry(&mut [&mut a, &mut b], at(1), out), 1);
    assert_eq!(b.inner, [there]);
    let back = send(2, 1, &mut b, &mut a);
    assert_eq!(a.inner, [back]);
}

#[test]
fn packets_are_padded_on_the_wire_and_not_behind_it() {
    let (a, mut b) = pair();
    for payload in 0..64 {
        let sent = packet(v4(1, 1), v4(2, 1), &vec![0xaa; payload]);
        let out = a.seal(&sent);
        assert_eq!(out[0].1.len(), 32 + sent.len().next_multiple_of(16));
        b.open(at(1), &out[0].1);
        assert_eq!(b.inner.pop(), Some(sent));
    }
}

#[test]
fn a_super_packet_becomes_as_many_datagrams() {
    let (mut a, mut b) = pair();
    let mut sent = packet(v4(1, 1), v4(2, 1), &[0; 8 + 2500]);
    sent[9] = 17;
    let header = VnetHeader { gso_type: VnetHeader::GSO_UDP_L4, gso_size: 1000, csum_start: 20, ..Default::default() };
    let mut out = Vec::new();
    a.engine.seal(header, &sent, &mut out);
    carry(&mut [&mut a, &mut b], at(1), out);
    assert_eq!(b.inner.iter().map(Vec::len).collect::<Vec<_>>(), [1028, 1028, 528]);
}

#[test]
fn a_source_that_is_not_the_peers_is_refused() {
    let (a, mut b) = pair();
    b.know(2, 3);
    for (source, destination) in [(v4(9, 1), v4(2, 1)), (v4(3, 1), v4(2, 1)), (v6(3, 1), v6(2, 1))] {
        let out = a.seal(&packet(source, destination, b"spoofed"));
        assert_eq!(b.open(at(1), &out[0].1), []);
    }
    assert_eq!(b.inner.len(), 0);
    assert_eq!(b.peer(1).source_refused, 3);
    assert_eq!(b.only_link(1).failures, 0);
}

/// Two sessions, an initiation, a forged source, a keepalive, a replay and rubbish, from one address and in one batch.
#[test]
fn datagrams_that_come_together_are_judged_each_by_itself() {
    let (mut a, mut b) = pair();
    let mut c = Node::knowing(3, &[2]);
    b.know(2, 3);
    send(3, 2, &mut c, &mut b);
    b.inner.clear();

    let from_a: Vec<_> = (0..4).map(|pod| packet(v4(1, pod), v4(2, 1), b"from a")).collect();
    let from_c = packet(v4(3, 1), v4(2, 1), b"from c");
    let forged = packet(v4(3, 1), v4(2, 1), b"from a, it says from c");
    let sealed = |node: &Node, packet: &[u8]| node.seal(packet).remove(0).1;
    let mut bent = sealed(&a, &from_a[0]);
    *bent.last_mut().unwrap() ^= 1;
    let first = sealed(&a, &from_a[0]);
    let stranger = Node::knowing(9, &[2]).seal(&packet(v4(9, 1), v4(2, 1), b"a stranger")).remove(0).1;
    let batch = vec![
        first.clone(),
        sealed(&a, &forged),
        sealed(&a, &from_a[1]),
        sealed(&c, &from_c),
        BytesMut::from(&[4u8, 0, 0, 0][..]),
        sealed(&a, &from_a[2]),
        bent,
        first,
        stranger,
        sealed(&a, &from_a[3]),
    ];
    let (mut out, mut inner) = (Vec::new(), Vec::new());
    b.engine.open_all(at(1), batch, &mut out, |packet| inner.push(packet.to_vec()));

    let expected = [&from_a[0], &from_a[1], &from_c, &from_a[2], &from_a[3]].map(Clone::clone);
    assert_eq!((inner, out), (expected.to_vec(), vec![]));
    assert_eq!(b.engine.dropped().strangers, 2);
    assert_eq!((b.peer(1).source_refused, b.peer(3).source_refused), (1, 0));
    let (one, three) = (b.only_link(1), b.only_link(3));
    assert_eq!((one.failures, one.replays, three.failures, three.replays), (1, 1, 0, 0));
    assert_eq!((b.peer(1).endpoint, b.peer(3).endpoint), (at(1), at(1)), "both spoke from there");
    send(1, 2, &mut a, &mut b);
}

#[test]
fn what_is_no_packet_inside_is_counted() {
    let (a, mut b) = pair();
    // Longer than it is, and shorter than its header.
    for (place, value) in [(2, 0xff), (3, 19)] {
        let mut sent = packet(v4(1, 1), v4(2, 1), b"crooked");
        sent[place] = value;
        let out = a.seal(&sent);
        assert!(!b.accepts(at(1), &out[0].1));
    }
    assert_eq!(b.engine.dropped().malformed, 2);
    assert_eq!(a.seal(&[0x55; 40]), []);
    assert_eq!(a.seal(&[]), []);
    assert_eq!(a.engine.dropped().malformed, 2);
}

#[test]
fn an_address_that_nobody_has_is_counted() {
    let (a, _) = pair();
    assert_eq!(a.seal(&packet(v4(1, 1), v4(9, 1), b"whither")), []);
    assert_eq!(a.seal(&packet(v6(1, 1), v6(9, 1), b"whither")), []);
    assert_eq!(a.engine.dropped(), Dropped { no_peer: 2, ..Dropped::default() });
}

#[test]
fn what_a_responder_had_waiting_goes_with_the_initiators_first_word() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    let waiting = packet(v4(2, 1), v4(1, 1), b"from the responder");
    let lost = b.seal(&waiting);
    assert_eq!(lost.len(), 1);
    let sent = send(1, 2, &mut a, &mut b);
    assert_eq!((&a.inner[..], &b.inner[..]), (&[waiting][..], &[sent][..]));
    assert_eq!(b.only_link(1).tx_bytes, a.only_link(2).rx_bytes);
}

#[test]
fn two_that_begin_at_once_find_together() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    let there = packet(v4(1, 1), v4(2, 1), b"there");
    let back = packet(v4(2, 1), v4(1, 1), b"back");
    let (from_a, from_b) = (a.seal(&there), b.seal(&back));
    // Neither has heard the other's when it spoke.
    let (to_a, to_b) = (b.open(at(1), &from_a[0].1), a.open(at(2), &from_b[0].1));
    carry(&mut [&mut a, &mut b], at(2), to_a);
    carry(&mut [&mut a, &mut b], at(1), to_b);
    assert_eq!((&a.inner[..], &b.inner[..]), (&[back][..], &[there][..]));
    for _ in 0..3 {
        send(1, 2, &mut a, &mut b);
        send(2, 1, &mut b, &mut a);
    }
    assert_eq!((a.inner.len(), b.inner.len()), (4, 4));
    for stats in [a.only_link(2), b.only_link(1)] {
        assert_eq!((stats.handshakes, stats.failures, stats.replays, stats.confirmed), (2, 0, 0, true));
    }
}

#[test]
fn a_lost_initiation_is_said_again() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    let sent = packet(v4(1, 1), v4(2, 1), b"late");
    let lost = a.seal(&sent);
    let start = Instant::now();
    let again = loop {
        let again = a.tick();
        if !again.is_empty() {
            break again;
        }
        assert!(start.elapsed() < Duration::from_secs(7), "REKEY_TIMEOUT is five seconds and a third");
        sleep(Duration::from_millis(50));
    };
    assert!(start.elapsed() > Duration::from_millis(4_900));
    assert_ne!(again, lost);
    carry(&mut [&mut a, &mut b], at(1), again);
    assert_eq!(b.inner, [sent]);
}

#[test]
fn keepalives_are_sent_on_the_active_link_alone() {
    let (mut a, mut b) = (Node::new(1), Node::knowing(2, &[1]));
    a.apply(Change::AddPeer { peer: name(2), endpoint: at(2), keepalive_s: Some(1), link: link(1, 2) });
    let first = a.tick();
    assert_eq!(first.len(), 1, "a keepalive needs a session, so it starts one");
    carry(&mut [&mut a, &mut b], at(1), first);
    a.apply(Change::AddIdentity { private: net::key(11) });
    b.apply(Change::AddLink { peer: name(1), link: link(2, 11) });
    let warm = a.apply(Change::AddLink { peer: name(2), link: link(11, 2) });
    carry(&mut [&mut a, &mut b], at(1), warm);
    assert!(a.link(2, link(11, 2)).confirmed);

    let said = |a: &Node, b: &mut Node| -> (bool, bool) {
        a.tick();
        sleep(Duration::from_millis(1_050));
        let before = (b.link(1, link(2, 1)).received_age_ms, b.link(1, link(2, 11)).received_age_ms);
        for (_, datagram) in a.tick() {
            assert_eq!(datagram.len(), KEEPALIVE);
            assert_eq!(b.open(at(1), &datagram), []);
        }
        let after = (b.link(1, link(2, 1)).received_age_ms, b.link(1, link(2, 11)).received_age_ms);
        (after.0 < before.0, after.1 < before.1)
    };
    assert_eq!(said(&a, &mut b), (true, false));
    a.apply(Change::Activate { peer: name(2), link: link(11, 2) });
    assert_eq!(said(&a, &mut b), (false, true));
    a.apply(Change::SetKeepalive { peer: name(2), keepalive_s: None });
    assert_eq!(said(&a, &mut b), (false, false));
    assert_eq!(b.inner.len(), 0);
}

/// What happens to the datagrams of one direction.
#[derive(Debug, Clone)]
struct Fate {
    lost: bool,
    copies: usize,
    /// How far it falls behind.
    behind: usize,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (prop::bool::weighted(0.2), 1..4usize, 0..30usize);
    prop::collection::vec(fate.prop_map(|(lost, copies, behind)| Fate { lost, copies, behind }), 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn over_a_bad_wire_every_packet_that_comes_comes_once(fates in fates()) {
        let (mut a, mut b) = pair();
        let mut wire = Vec::new();
        let mut expected = Vec::new();
        for (number, fate) in (0..u16::MAX).zip(&fates) {
            let sent = packet(v4(1, 1), v4(2, 1), &number.to_be_bytes());
            let out = a.seal(&sent);
            if !fate.lost {
                expected.push(sent);
                for copy in 0..fate.copies {
                    wire.push((usize::from(number) + fate.behind * (copy + 1), out[0].1.clone()));
                }
            }
        }
        wire.sort_by_key(|(when, _)| *when);
        let copies = wire.len() - expected.len();
        for (_, datagram) in wire {
            b.open(at(1), &datagram);
        }
        b.inner.sort();
        prop_assert_eq!(&b.inner, &expected);
        prop_assert_eq!(b.only_link(1).replays, copies as u64);
        b.inner.clear();
        send(1, 2, &mut a, &mut b);
        prop_assert_eq!(b.inner.len(), 1);
    }

    #[test]
    fn handshakes_that_come_twice_and_in_any_order_do_no_harm(order in prop::collection::vec(0..8usize, 1..40)) {
        let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
        let mut wire: Vec<_> = a.seal(&packet(v4(1, 1), v4(2, 1), b"a")).into_iter().map(|out| (at(1), out)).collect();
        wire.extend(b.seal(&packet(v4(2, 1), v4(1, 1), b"b")).into_iter().map(|out| (at(2), out)));
        for pick in order {
            let (from, (to, datagram)) = wire[pick % wire.len()].clone();
            let node = if to == at(1) { &mut a } else { &mut b };
            let answers = node.open(from, &datagram);
            wire.extend(answers.into_iter().map(|answer| (to, answer)));
        }
        // Whatever came of it, all that was said and not heard is heard now.
        for (from, datagram) in wire {
            carry(&mut [&mut a, &mut b], from, vec![datagram]);
        }
        prop_assert_eq!((a.inner.len(), b.inner.len()), (1, 1));
        send(1, 2, &mut a, &mut b);
        send(2, 1, &mut b, &mut a);
        prop_assert_eq!((a.inner.len(), b.inner.len()), (2, 2));
    }

    #[test]
    fn no_packet_from_the_kernel_is_too_strange(
        header in any::<[u8; VnetHeader::LEN]>(),
        kind in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()],
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        start in prop_oneof![Just(Vec::new()), Just(packet(v4(1, 1), v4(2, 1), b"")), Just(packet(v6(1, 1), v6(2, 1), b""))],
    ) {
        let a = Node::knowing(1, &[2]);
        let header = VnetHeader { gso_type: kind, ..VnetHeader::read(&header).unwrap() };
        let mut out = Vec::new();
        a.engine.seal(header, &[start, bytes].concat(), &mut out);
        prop_assert!(out.len() <= 1);
    }
}

#[test]
fn an_engine_that_knows_nobody_says_nothing() {
    let engine = Engine::default();
    let mut out = Vec::new();
    engine.tick(&mut out);
    engine.open(at(1), &[1; INITIATION], &mut out, |_| panic!("nothing can come of it"));
    engine.seal(VnetHeader::default(), &packet(v4(1, 1), v4(2, 1), b""), &mut out);
    assert_eq!(out, []);
    assert_eq!(engine.dropped(), Dropped { no_peer: 1, strangers: 1, malformed: 0 });
}
