//! Nodes with engines, and a wire between them that the test holds in its hands.
#![allow(dead_code, unreachable_pub, reason = "each test binary takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_encryption_plan::{Change, Link, LinkStats, PeerName, PeerStats, PrivateKey, Unfit};
use causeway_wireguard::VnetHeader;
use causeway_wireguard::engine::{Datagram, Engine};
use ipnet::IpNet;

/// Keys that are told apart by their number.
pub fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

pub fn name(number: u8) -> PeerName {
    PeerName::new("c", &format!("node{number}"))
}

/// Where node `number` is found.
pub fn at(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51871))
}

/// Pods of node `number`.
pub fn prefixes(number: u8) -> [IpNet; 2] {
    [format!("10.0.{number}.0/24").parse().unwrap(), format!("fd00:{number}::/64").parse().unwrap()]
}

/// Pod `pod` of node `number`.
pub fn v4(number: u8, pod: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, number, pod).into()
}

pub fn v6(number: u8, pod: u8) -> IpAddr {
    Ipv6Addr::from([0xfd00, u16::from_str_radix(&number.to_string(), 16).unwrap(), 0, 0, 0, 0, 0, pod.into()]).into()
}

/// `own` and `remote` are numbers of keys.
pub fn link(own: u8, remote: u8) -> Link {
    Link { own: key(own).public(), remote: key(remote).public() }
}

/// An IP packet of a protocol that nobody looks into (RFC 3692).
pub fn packet(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    const EXPERIMENT: u8 = 253;
    let length = u16::try_from(payload.len()).unwrap();
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (20 + length).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, EXPERIMENT, 0, 0];
            header.extend([from.octets(), to.octets()].concat());
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, EXPERIMENT, 64];
            header.extend([from.octets(), to.octets()].concat());
            header
        }
        _ => panic!("{from} and {to} are of two families"),
    };
    packet.extend(payload);
    packet
}

pub struct Node {
    pub engine: Engine,
    pub at: SocketAddr,
    /// What came out of the tunnel.
    pub inner: Vec<Vec<u8>>,
}

impl Node {
    /// Its identity is the key of the same number.
    pub fn new(number: u8) -> Self {
        let node = Self { engine: Engine::new(), at: at(number), inner: Vec::new() };
        node.apply(Change::AddIdentity { private: key(number) });
        node
    }

    /// One that knows `others`, with their prefixes.
    pub fn knowing(number: u8, others: &[u8]) -> Self {
        let node = Self::new(number);
        for other in others {
            node.know(number, *other);
        }
        node
    }

    pub fn know(&self, own: u8, other: u8) {
        let (peer, link) = (name(other), link(own, other));
        self.apply(Change::AddPeer { peer, endpoint: at(other), keepalive_s: None, link });
        for prefix in prefixes(other) {
            self.apply(Change::AddPrefix { peer: name(other), prefix });
        }
    }

    #[track_caller]
    pub fn apply(&self, change: Change) -> Vec<Datagram> {
        let mut out = Vec::new();
        self.engine.apply(change, &mut out).unwrap();
        out
    }

    pub fn refuses(&self, change: Change) -> Unfit {
        let mut out = Vec::new();
        let error = self.engine.apply(change, &mut out).unwrap_err();
        assert_eq!(out, []);
        error
    }

    pub fn seal(&self, packet: &[u8]) -> Vec<Datagram> {
        let mut out = Vec::new();
        self.engine.seal(VnetHeader::default(), packet, &mut out);
        out
    }

    /// What is answered to a datagram.
    pub fn open(&mut self, from: SocketAddr, datagram: &[u8]) -> Vec<Datagram> {
        let mut out = Vec::new();
        self.engine.open(from, datagram, &mut out, |packet| self.inner.push(packet.to_vec()));
        out
    }

    /// Whether a datagram brought a packet.
    pub fn accepts(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let before = self.inner.len();
        self.open(from, datagram);
        self.inner.len() > before
    }

    pub fn tick(&self) -> Vec<Datagram> {
        let mut out = Vec::new();
        self.engine.tick(&mut out);
        out
    }

    pub fn peer(&self, number: u8) -> PeerStats {
        self.engine.look().1.remove(&name(number)).unwrap()
    }

    pub fn link(&self, peer: u8, link: Link) -> LinkStats {
        self.peer(peer).links.into_iter().find(|(other, _)| *other == link).unwrap().1
    }

    /// What is seen of the one link with node `number`.
    pub fn only_link(&self, number: u8) -> LinkStats {
        let mut links = self.peer(number).links;
        assert_eq!(links.len(), 1);
        links.remove(0).1
    }
}

/// Carries what `sender` sends, and all that is answered, until nobody says more. Returns how many datagrams that were.
pub fn carry(nodes: &mut [&mut Node], sender: SocketAddr, datagrams: Vec<Datagram>) -> usize {
    let mut wire: VecDeque<(SocketAddr, Datagram)> = datagrams.into_iter().map(|datagram| (sender, datagram)).collect();
    let mut carried = 0;
    while let Some((from, (to, datagram))) = wire.pop_front() {
        carried += 1;
        assert!(carried < 100_000, "the nodes never fall silent");
        if let Some(node) = nodes.iter_mut().find(|node| node.at == to) {
            let answers = node.open(from, &datagram);
            wire.extend(answers.into_iter().map(|answer| (to, answer)));
        }
    }
    carried
}

/// Node `from` sends a packet to a pod of node `to`, and everything is carried.
pub fn send(from: u8, to: u8, a: &mut Node, b: &mut Node) -> Vec<u8> {
    let packet = packet(v4(from, 1), v4(to, 1), b"hello");
    let out = a.seal(&packet);
    let sender = a.at;
    carry(&mut [a, b], sender, out);
    packet
}

/// Nodes 1 and 2 with a session between them, of which 1 was the initiator, and nothing else said.
pub fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    let sent = send(1, 2, &mut a, &mut b);
    assert_eq!(b.inner, [sent]);
    b.inner.clear();
    (a, b)
}
