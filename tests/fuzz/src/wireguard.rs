//! What the fuzz targets ask of the embedded WireGuard device. Used by the libFuzzer targets here, and by a plain test of
//! the device's crate (`encryption/wireguard/tests/corpus.rs` replays the corpus), which includes this file.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use bytes::BytesMut;
use causeway_encryption_plan::{Change, Link, PeerName, PrivateKey, Request};
use causeway_wireguard::VnetHeader;
use causeway_wireguard::engine::{Datagram, Engine};

/// A node that is honest, and one that is not heard from: datagrams of the input come from there.
const HONEST: ([u8; 4], u16) = ([192, 0, 2, 1], 51871);
const LIAR: ([u8; 4], u16) = ([203, 0, 113, 66], 6666);

/// Fewer than the handshakes of one second that are answered without a cookie.
const STEPS: usize = 64;

/// Datagrams at a device that has a session. The input is a list of steps, each a kind, a number of changes, and those: a
/// place (two octets) and what is put there by exclusive or. What they are done to is a message of the session, whose keys
/// are new every time; or the changes' octets are the datagram. Whatever was changed, and whatever comes twice, must bring
/// no packet and move no endpoint.
pub(crate) fn datagrams(input: &[u8]) {
    let (honest, device) = (node(1, 2), node(2, 1));
    let mut heard = Vec::new();
    let initiation = sealed(&honest);
    heard.push(initiation.clone());
    for response in open(&device, HONEST.into(), &initiation).0 {
        heard.push(response.1.clone());
        heard.extend(open(&honest, HONEST.into(), &response.1).0.into_iter().map(|(_, datagram)| datagram));
    }
    let live: Vec<_> = heard.iter().skip(2).map(|datagram| open(&device, HONEST.into(), datagram).1).collect();
    assert_eq!(live, [0, 1], "a keepalive and what waited for the handshake");

    let mut rest = input;
    let mut handshakes = 1;
    for _ in 0..STEPS {
        let Some((&[kind, count], tail)) = rest.split_first_chunk::<2>() else { break };
        let (changes, tail) = tail.split_at(tail.len().min(usize::from(count) * 3));
        rest = tail;
        match kind % 8 {
            0 => refused(&device, changes),
            // As after a restart of the same node.
            1 => {
                let initiation = sealed(&node(1, 2));
                let bent = bent(&initiation, changes);
                // The second MAC is looked at under load only.
                if bent.get(..132) != Some(&initiation[..132]) || bent.len() != initiation.len() {
                    refused(&device, &bent);
                }
                assert_eq!(open(&device, HONEST.into(), &initiation).0.len(), 1, "a response");
                handshakes += 1;
            }
            2 => {
                let datagram = sealed(&honest);
                let bent = bent(&datagram, changes);
                if bent != datagram {
                    refused(&device, &bent);
                }
                // The library keeps eight sessions.
                if handshakes <= 8 {
                    assert_eq!(open(&device, HONEST.into(), &datagram).1, 1, "an honest datagram");
                }
            }
            kind => refused(&device, &bent(&heard[usize::from(kind) % heard.len()], changes)),
        }
    }
    device.tick(&mut Vec::new());
}

/// A line of the control socket: what was understood can be said and understood again, and changes leave an engine in
/// which no link and no prefix is held twice.
pub(crate) fn request(line: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
    let text = serde_json::to_vec(&request).expect("every request can be said");
    let again: Request = serde_json::from_slice(&text).expect("our own words are understood");
    assert_eq!(again, request);
    let Request::Apply(changes) = request else { return };
    let (engine, mut out) = (Engine::new(), Vec::new());
    for change in changes {
        let before = engine.look().0;
        if engine.apply(change, &mut out).is_err() {
            assert_eq!(engine.look().0, before, "what is refused changes nothing");
        }
    }
    let (actual, stats) = engine.look();
    assert!(actual.peers.keys().eq(stats.keys()));
    let (mut links, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for peer in actual.peers.values() {
        assert!(peer.links.contains(&peer.active));
        assert!(peer.links.iter().all(|link| actual.identities.contains(&link.own) && links.insert(*link)));
        assert!(peer.prefixes.iter().all(|prefix| prefixes.insert(*prefix)));
    }
    for name in actual.peers.into_keys() {
        engine.apply(Change::RemovePeer { peer: name }, &mut out).expect("it is there");
    }
    engine.tick(&mut out);
}

/// With key `own`, and everything behind the node with key `remote`.
fn node(own: u8, remote: u8) -> Engine {
    let key = |number| PrivateKey::from_random([number; 32]);
    let peer = || PeerName::new("c", "other");
    let link = Link { own: key(own).public(), remote: key(remote).public() };
    let engine = Engine::new();
    for change in [
        Change::AddIdentity { private: key(own) },
        Change::AddPeer { peer: peer(), endpoint: HONEST.into(), keepalive_s: None, link },
        Change::AddPrefix { peer: peer(), prefix: "10.0.0.0/8".parse().expect("a prefix") },
    ] {
        engine.apply(change, &mut Vec::new()).expect("it fits");
    }
    engine
}

/// What a node sends for a packet: a data message, or the initiation of a handshake.
fn sealed(engine: &Engine) -> BytesMut {
    let packet = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 1, 1, 10, 0, 2, 1];
    let mut out = Vec::new();
    engine.seal(VnetHeader::default(), &packet, &mut out);
    out.remove(0).1
}

/// Answers, and how many packets came.
fn open(engine: &Engine, from: SocketAddr, datagram: &[u8]) -> (Vec<Datagram>, usize) {
    let (mut out, mut packets) = (Vec::new(), 0);
    engine.open(from, datagram, &mut out, |_| packets += 1);
    (out, packets)
}

fn refused(device: &Engine, datagram: &[u8]) {
    let (answers, packets) = open(device, LIAR.into(), datagram);
    assert!(answers.is_empty() && packets == 0, "{datagram:02x?}");
    let (_, stats) = device.look();
    assert!(stats.values().all(|peer| peer.endpoint == HONEST.into()), "{datagram:02x?}");
}

/// A place beyond the end cuts or lengthens the datagram.
fn bent(original: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bent = original.to_vec();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        match bent.get_mut(at) {
            Some(octet) => *octet ^= change[2],
            None => bent.resize(at % 2_000, change[2]),
        }
    }
    bent
}
