//! A kernel with WireGuard, in memory: it reads what it is sent by its own decoder, strictly, and carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use causeway_encryption_plan::PrivateKey;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::encode::{PAYLOAD_MAX, Payload, attribute};
use crate::wire::{Clock, Wire};

/// When time begins, by the wall clock.
pub(super) const EPOCH: Duration = Duration::from_secs(1_800_000_000);

pub(super) type Key = [u8; 32];

/// One peer as a message has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TellPeer {
    pub(super) key: Key,
    pub(super) flags: u32,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive_s: Option<u16>,
    /// And whether it is to be removed.
    pub(super) allowed: Vec<(IpNet, bool)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tell {
    pub(super) interface: String,
    pub(super) private: Option<Key>,
    pub(super) flags: u32,
    pub(super) port: Option<u16>,
    pub(super) mark: Option<u32>,
    pub(super) peers: Vec<TellPeer>,
}

/// Type as it stands there, and value. Panics at what the kernel would refuse.
fn split(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let padded = length.next_multiple_of(4);
        assert!(length >= 4 && padded <= bytes.len(), "torn: {length} of {}", bytes.len());
        assert!(bytes[length..padded].iter().all(|byte| *byte == 0), "padding is zeros");
        all.push((u16::from_ne_bytes([bytes[2], bytes[3]]), &bytes[4..length]));
        bytes = &bytes[padded..];
    }
    all
}

fn int16(value: &[u8]) -> u16 {
    u16::from_ne_bytes(value.try_into().unwrap())
}

fn int32(value: &[u8]) -> u32 {
    u32::from_ne_bytes(value.try_into().unwrap())
}

/// A payload of `WG_CMD_SET_DEVICE`.
pub(super) fn read(payload: &[u8]) -> Tell {
    assert!(payload.len() <= PAYLOAD_MAX, "{} bytes", payload.len());
    assert_eq!(payload[..4], [1, 1, 0, 0], "WG_CMD_SET_DEVICE, WG_GENL_VERSION");
    let mut tell = Tell::default();
    for (kind, value) in split(&payload[4..]) {
        match kind {
            2 => tell.interface = String::from_utf8(value.strip_suffix(&[0]).unwrap().to_vec()).unwrap(),
            3 => tell.private = Some(value.try_into().unwrap()),
            5 => tell.flags = int32(value),
            6 => tell.port = Some(int16(value)),
            7 => tell.mark = Some(int32(value)),
            0x8008 => tell.peers = split(value).into_iter().map(read_peer).collect(),
            other => panic!("attribute {other:#x} of the interface"),
        }
    }
    tell
}

fn read_peer((kind, value): (u16, &[u8])) -> TellPeer {
    assert_eq!(kind, 0x8000, "each peer is a nest");
    let mut peer = TellPeer::default();
    for (kind, value) in split(value) {
        match kind {
            1 => peer.key = value.try_into().unwrap(),
            3 => peer.flags = int32(value),
            4 => peer.endpoint = Some(read_endpoint(value)),
            5 => peer.keepalive_s = Some(int16(value)),
            0x8009 => peer.allowed = split(value).into_iter().map(read_allowed).collect(),
            other => panic!("attribute {other:#x} of a peer"),
        }
    }
    peer
}

fn read_endpoint(value: &[u8]) -> SocketAddr {
    let port = u16::from_be_bytes([value[2], value[3]]);
    match (int16(&value[..2]), value.len()) {
        (2, 16) => SocketAddr::from((Ipv4Addr::new(value[4], value[5], value[6], value[7]), port)),
        (10, 28) => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&value[8..24]).unwrap());
            let flow = u32::from_be_bytes(value[4..8].try_into().unwrap());
            SocketAddrV6::new(ip, port, flow, int32(&value[24..])).into()
        }
        other => panic!("sockaddr {other:?}"),
    }
}

fn read_allowed((kind, value): (u16, &[u8])) -> (IpNet, bool) {
    assert_eq!(kind, 0x8000, "each allowed IP is a nest");
    let (mut family, mut ip, mut length, mut flags) = (0, &[][..], 0, 0);
    for (kind, value) in split(value) {
        match kind {
            1 => family = int16(value),
            2 => ip = value,
            3 => length = <[u8; 1]>::try_from(value).unwrap()[0],
            4 => flags = int32(value),
            other => panic!("attribute {other:#x} of an allowed IP"),
        }
    }
    let ip = match family {
        2 => Ipv4Addr::from(<[u8; 4]>::try_from(ip).unwrap()).into(),
        10 => Ipv6Addr::from(<[u8; 16]>::try_from(ip).unwrap()).into(),
        other => panic!("family {other}"),
    };
    (IpNet::new(ip, length).unwrap(), flags == 1)
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KernelPeer {
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) keepalive_s: u16,
    pub(super) prefixes: BTreeSet<IpNet>,
    pub(super) last_handshake: Option<Duration>,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    /// How often something was sent because a keepalive was switched on.
    pub(super) kicks: u32,
    /// Numbers of the sessions that it can read, the newest last.
    pub(super) sessions: Vec<u32>,
    /// That of a handshake that the other side began, until its first packet in it: not sent on before.
    pub(super) next: Option<u32>,
    /// A handshake is wanted since then, and was sent then.
    pub(super) trying: Option<(Duration, Option<Duration>)>,
}

impl KernelPeer {
    pub(super) fn reads(&self, session: u32) -> bool {
        self.sessions.contains(&session) || self.next == Some(session)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) private: Option<Key>,
    pub(super) port: u16,
    pub(super) mark: u32,
    pub(super) mtu: Option<u32>,
    pub(super) peers: BTreeMap<Key, KernelPeer>,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) interfaces: BTreeMap<String, Interface>,
    /// Before Linux 6.16: one allowed IP cannot be removed.
    pub(super) old: bool,
    /// UDP ports that somebody else has.
    pub(super) taken: BTreeSet<u16>,
    pub(super) made: u32,
    pub(super) now: Duration,
    pub(super) messages: usize,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Memory {
    /// A handshake with the peer has just been completed.
    pub(super) fn shake(&mut self, interface: &str, key: Key) {
        let peer = self.interfaces.get_mut(interface).unwrap().peers.get_mut(&key).unwrap();
        peer.last_handshake = Some(EPOCH + self.now);
    }

    fn tell_peer(interface: &mut Interface, tell: TellPeer, old: bool, now: Duration) -> io::Result<()> {
        let (remove, replace, update_only) = (tell.flags & 1 != 0, tell.flags & 2 != 0, tell.flags & 4 != 0);
        assert_eq!(tell.flags & !7, 0);
        if !interface.peers.contains_key(&tell.key) && (remove || update_only) {
            return Ok(());
        }
        if remove {
            interface.peers.remove(&tell.key);
            return Ok(());
        }
        let running = interface.mtu.is_some();
        let peer = interface.peers.entry(tell.key).or_default();
        if replace {
            peer.prefixes.clear();
        }
        peer.endpoint = tell.endpoint.or(peer.endpoint);
        for (prefix, away) in tell.allowed {
            if away && old {
                return Err(errno(libc::EINVAL));
            }
            if away {
                interface.peers.get_mut(&tell.key).unwrap().prefixes.remove(&prefix);
            } else {
                for peer in interface.peers.values_mut() {
                    peer.prefixes.remove(&prefix);
                }
                interface.peers.get_mut(&tell.key).unwrap().prefixes.insert(prefix);
            }
        }
        let peer = interface.peers.get_mut(&tell.key).unwrap();
        if let Some(seconds) = tell.keepalive_s {
            if running && peer.keepalive_s == 0 && seconds != 0 {
                peer.kicks += 1;
                peer.trying.get_or_insert((now, None));
            }
            peer.keepalive_s = seconds;
        }
        Ok(())
    }
}

impl Wire for Memory {
    fn now(&self) -> Clock {
        Clock { steady: self.now, wall: EPOCH + self.now }
    }

    fn make(&mut self, interface: &str) -> io::Result<()> {
        self.made += 1;
        let new = Interface { index: 10 + self.made, ..Interface::default() };
        self.interfaces.entry(interface.to_owned()).or_insert(new);
        Ok(())
    }

    fn remove(&mut self, interface: &str) -> io::Result<()> {
        self.interfaces.remove(interface);
        Ok(())
    }

    fn configure(&mut self, interface: &str, mtu: u32, _like: &str) -> io::Result<()> {
        let interface = self.interfaces.get_mut(interface).ok_or_else(|| errno(libc::ENODEV))?;
        if self.taken.contains(&interface.port) {
            return Err(errno(libc::EADDRINUSE));
        }
        interface.mtu = Some(mtu);
        Ok(())
    }

    fn set(&mut self, payload: &[u8]) -> io::Result<()> {
        self.messages += 1;
        let tell = read(payload);
        let interface = self.interfaces.get_mut(&tell.interface).ok_or_else(|| errno(libc::ENODEV))?;
        interface.port = tell.port.unwrap_or(interface.port);
        interface.mark = tell.mark.unwrap_or(interface.mark);
        if tell.flags == 1 {
            interface.peers.clear();
        }
        if let Some(key) = tell.private {
            interface.private = (key != [0; 32]).then_some(key);
        }
        tell.peers.into_iter().try_for_each(|peer| Self::tell_peer(interface, peer, self.old, self.now))
    }

    /// Three allowed IPs a message, so that most peers are torn apart.
    fn get(&mut self, interface: &str) -> io::Result<Option<Vec<Payload>>> {
        let Some(interface) = self.interfaces.get(interface) else { return Ok(None) };
        let mut head = vec![0, 1, 0, 0];
        attribute(&mut head, 1, &interface.index.to_ne_bytes());
        if let Some(key) = interface.private {
            attribute(&mut head, 3, &key);
            attribute(&mut head, 4, PrivateKey::from_random(key).public().as_bytes());
        }
        attribute(&mut head, 6, &interface.port.to_ne_bytes());
        attribute(&mut head, 7, &interface.mark.to_ne_bytes());
        let mut out = vec![Zeroizing::new(head)];
        for (key, peer) in &interface.peers {
            let prefixes: Vec<&IpNet> = peer.prefixes.iter().collect();
            let pieces = if prefixes.is_empty() { vec![&[][..]] } else { prefixes.chunks(3).collect() };
            for (piece, here) in pieces.into_iter().enumerate() {
                out.push(Zeroizing::new(dump(*key, (piece == 0).then_some(peer), here)));
            }
        }
        Ok(Some(out))
    }
}

fn nest(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
    out.extend((kind | 0x8000).to_ne_bytes());
    out.extend(value);
}

fn dump(key: Key, whole: Option<&KernelPeer>, prefixes: &[&IpNet]) -> Vec<u8> {
    let mut peer = Vec::new();
    attribute(&mut peer, 1, &key);
    if let Some(whole) = whole {
        if let Some(SocketAddr::V4(at)) = whole.endpoint {
            let parts = [&2u16.to_ne_bytes()[..], &at.port().to_be_bytes(), &at.ip().octets(), &[0; 8]];
            attribute(&mut peer, 4, &parts.concat());
        }
        attribute(&mut peer, 5, &whole.keepalive_s.to_ne_bytes());
        let last = whole.last_handshake.unwrap_or_default();
        let time = [last.as_secs().to_ne_bytes(), u64::from(last.subsec_nanos()).to_ne_bytes()].concat();
        attribute(&mut peer, 6, &time);
        attribute(&mut peer, 7, &whole.rx_bytes.to_ne_bytes());
        attribute(&mut peer, 8, &whole.tx_bytes.to_ne_bytes());
    }
    let mut list = Vec::new();
    for prefix in prefixes {
        let mut one = Vec::new();
        let (family, ip) = match prefix.addr() {
            std::net::IpAddr::V4(ip) => (2u16, ip.octets().to_vec()),
            std::net::IpAddr::V6(ip) => (10, ip.octets().to_vec()),
        };
        attribute(&mut one, 1, &family.to_ne_bytes());
        attribute(&mut one, 2, &ip);
        attribute(&mut one, 3, &[prefix.prefix_len()]);
        nest(&mut list, 0, &one);
    }
    nest(&mut peer, 9, &list);
    let mut peers = Vec::new();
    nest(&mut peers, 0, &peer);
    let mut out = vec![0, 1, 0, 0];
    nest(&mut out, 8, &peers);
    out
}
