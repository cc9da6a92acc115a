//! Cookies under load (white paper section 5.3). The initiator is the library's session itself, which can speak at will.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::noise::{Tunn, TunnResult};
use gotatun::packet::{Packet, WgKind};
use gotatun::x25519::{PublicKey, StaticSecret};
use net::{Node, at, key};

const COOKIE_REPLY: usize = 64;
const RESPONSE: usize = 92;
/// Handshakes a second and address that are answered without one.
const LIMIT: usize = 100;

fn session(own: u8, remote: u8) -> Tunn {
    let private = StaticSecret::from(*key(own).as_bytes());
    let limiter = Arc::new(RateLimiter::new(&PublicKey::from(&private), 1_000));
    let remote = PublicKey::from(*key(remote).public().as_bytes());
    Tunn::new(private, remote, None, None, IndexTable::from_os_rng(), limiter)
}

fn initiation(session: &mut Tunn) -> Vec<u8> {
    let message = session.format_handshake_initiation(true).unwrap();
    Packet::<[u8]>::from(WgKind::HandshakeInit(message)).to_vec()
}

/// Length of the answer to a new initiation from `from`, and the answer.
fn knock(session: &mut Tunn, node: &mut Node, from: SocketAddr) -> (usize, Vec<u8>) {
    let answers = node.open(from, &initiation(session));
    assert_eq!(answers.iter().map(|answer| answer.0).collect::<Vec<_>>(), [from]);
    (answers[0].1.len(), answers[0].1.to_vec())
}

#[test]
fn who_speaks_too_often_must_show_that_it_is_where_it_says() {
    let mut b = Node::knowing(2, &[1, 3]);
    let (mut one, mut three) = (session(1, 2), session(3, 2));
    for _ in 0..LIMIT {
        assert_eq!(knock(&mut one, &mut b, at(1)).0, RESPONSE);
    }
    let handshakes = b.only_link_of(1).0;
    let (length, cookie) = knock(&mut one, &mut b, at(1));
    assert_eq!(length, COOKIE_REPLY);
    assert_eq!(b.only_link_of(1), (handshakes, 0), "no work was done for it");

    assert_eq!(knock(&mut three, &mut b, at(3)).0, RESPONSE, "another address is not under load");

    let WgKind::CookieReply(cookie) = Packet::copy_from(&cookie[..]).try_into_wg().unwrap() else {
        panic!("no cookie")
    };
    assert!(matches!(one.handle_incoming_packet(WgKind::CookieReply(cookie)), TunnResult::Done));
    assert_eq!(knock(&mut one, &mut b, at(1)).0, RESPONSE, "the cookie is shown");
    assert_eq!(b.only_link_of(1).0, handshakes + 1);
    let moved = SocketAddr::new(at(1).ip(), 1);
    assert_eq!(knock(&mut one, &mut b, moved).0, COOKIE_REPLY, "it holds for one address and port");
    assert_eq!(b.peer(1).endpoint, at(1));

    sleep(Duration::from_millis(1_050));
    b.tick();
    assert_eq!(knock(&mut session(1, 2), &mut b, at(1)).0, RESPONSE, "a second later the load is gone");
}

#[test]
fn an_engine_takes_a_cookie_and_shows_it() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    // Somebody else, known as little as can be, speaks from the same address.
    let mut noise = session(9, 2);
    for _ in 0..LIMIT {
        assert_eq!(b.open(at(1), &initiation(&mut noise)), []);
    }
    let sent = net::packet(net::v4(1, 1), net::v4(2, 1), b"under load");
    let first = a.seal(&sent);
    let cookie = b.open(at(1), &first[0].1);
    assert_eq!(cookie[0].1.len(), COOKIE_REPLY);
    assert_eq!(a.open(at(2), &cookie[0].1), [], "kept for the next initiation");
    assert_eq!(a.only_link(2).failures, 0);
    let again = (0..140).find_map(|_| {
        sleep(Duration::from_millis(50));
        a.tick().pop()
    });
    let again = again.expect("the initiation is said again after five seconds");
    assert_ne!(again.1[132..], [0; 16], "with the second MAC");
    // Node 2 keeps no timers in this test, so that it is still under load.
    let answer = b.open(at(1), &again.1);
    assert_eq!(answer[0].1.len(), RESPONSE);
    net::carry(&mut [&mut a, &mut b], at(2), answer);
    assert_eq!(b.inner, [sent]);
}

impl Node {
    /// Handshakes and failures.
    fn only_link_of(&self, peer: u8) -> (u64, u64) {
        let stats = self.only_link(peer);
        (stats.handshakes, stats.failures)
    }
}
