//! What an interface shall be told, as generic netlink payloads: pure, split wherever a message would grow too long.
//!
//! `wireguard-control` cannot say all of it: it refuses a peer that does not fit into one message, knows neither
//! `WGPEER_F_UPDATE_ONLY` nor the removal of one allowed IP, and keeps copies of keys. Layout: netlink attributes
//! (Documentation/userspace-api/netlink/intro.rst), native byte order, each padded to 4 bytes; the tree is that of
//! `WG_CMD_SET_DEVICE` in include/uapi/linux/wireguard.h.

use std::net::{IpAddr, SocketAddr};

use causeway_encryption_plan::PrivateKey;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::uapi::*;

/// The header of generic netlink and the attributes behind it. May hold a private key.
pub(crate) type Payload = Zeroizing<Vec<u8>>;

/// A netlink message has room for this payload if its buffer is of 8 KiB, which every kernel takes.
pub(crate) const PAYLOAD_MAX: usize = 8192 - NLMSG_HEADER;

/// A peer's nest with every attribute but allowed IPs, the longest endpoint: 4 + 36 + 8 + 32 + 8, and the list's head.
const PEER_MAX: usize = 88 + NLA_HEADER;

/// An allowed IP with every attribute, IPv6: 4 + 8 + 20 + 8 + 8.
const ALLOWED_MAX: usize = 48;

/// The key of no node (`PublicKey` refuses it): the peer that prefixes are moved to on their way out, as Cilium does it.
pub(crate) const NOBODY: [u8; WG_KEY_LEN] = [0; WG_KEY_LEN];

/// Attributes of the interface; what is `None` stays.
#[derive(Debug, Default)]
pub(crate) struct DeviceSet<'k> {
    pub(crate) key: Option<KeySet<'k>>,
    pub(crate) port: Option<u16>,
    pub(crate) mark: Option<u32>,
    /// All peers go.
    pub(crate) clear: bool,
}

#[derive(Debug)]
pub(crate) enum KeySet<'k> {
    Private(&'k PrivateKey),
    /// None any more.
    Remove,
}

/// One peer of the interface; what is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerSet {
    pub(crate) key: [u8; WG_KEY_LEN],
    pub(crate) how: How,
    pub(crate) endpoint: Option<SocketAddr>,
    /// Seconds; 0 switches it off.
    pub(crate) keepalive_s: Option<u16>,
    pub(crate) allowed: Vec<Allowed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Made if it is not there; allowed IPs that it had and that are not named go.
    Make,
    /// Nothing if it is not there: one that somebody removed does not come back as a half.
    Update,
    /// Nothing else is told of it.
    Remove,
    /// Made if it is not there, and keeps its allowed IPs.
    Add,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) prefix: IpNet,
    /// Taken from this peer, if it has it, instead of given to it.
    pub(crate) remove: bool,
}

impl PeerSet {
    pub(crate) fn new(key: [u8; WG_KEY_LEN], how: How) -> Self {
        Self { key, how, endpoint: None, keepalive_s: None, allowed: Vec::new() }
    }
}

/// Payloads of `WG_CMD_SET_DEVICE`, to be sent in order; none if there is nothing to say. Peers may stand there several
/// times and are handled in order.
pub(crate) fn set(interface: &str, device: &DeviceSet<'_>, peers: &[PeerSet]) -> Vec<Payload> {
    let mut writer = Writer { interface, done: Vec::new(), now: begin(WG_CMD_SET_DEVICE, interface), peers: None };
    let before = writer.now.len();
    write_device(&mut writer.now, device);
    let something = writer.now.len() > before || !peers.is_empty();
    for peer in peers {
        writer.peer(peer);
    }
    if something {
        writer.flush();
    }
    writer.done
}

/// The payload of `WG_CMD_GET_DEVICE`.
pub(crate) fn get(interface: &str) -> Payload {
    begin(WG_CMD_GET_DEVICE, interface)
}

/// The same interface with prefixes taken away by way of [`NOBODY`], for kernels that cannot take away one alone: at no
/// time has a prefix that stays, or moves, no peer.
pub(crate) fn by_stealing(peers: Vec<PeerSet>) -> Vec<PeerSet> {
    let mut out = Vec::with_capacity(peers.len());
    let mut stolen = false;
    for mut peer in peers {
        let (leave, stay): (Vec<_>, Vec<_>) = peer.allowed.into_iter().partition(|allowed| allowed.remove);
        peer.allowed = stay;
        if !leave.is_empty() {
            stolen = true;
            let allowed = leave.into_iter().map(|allowed| Allowed { remove: false, ..allowed }).collect();
            out.push(PeerSet { allowed, ..PeerSet::new(NOBODY, How::Add) });
        }
        let nothing = peer.how == How::Update && peer == PeerSet::new(peer.key, How::Update);
        if !nothing {
            out.push(peer);
        }
    }
    if stolen {
        out.push(PeerSet::new(NOBODY, How::Remove));
    }
    out
}

/// As long as it will ever be at once, so that no copy of a key is left behind where it grew.
fn begin(command: u8, interface: &str) -> Payload {
    let mut payload = Zeroizing::new(Vec::with_capacity(PAYLOAD_MAX));
    payload.extend([command, WG_GENL_VERSION, 0, 0]);
    let name = [interface.as_bytes(), &[0]].concat();
    attribute(&mut payload, WGDEVICE_A_IFNAME, &name);
    payload
}

fn write_device(out: &mut Vec<u8>, device: &DeviceSet<'_>) {
    match &device.key {
        Some(KeySet::Private(key)) => attribute(out, WGDEVICE_A_PRIVATE_KEY, key.as_bytes()),
        Some(KeySet::Remove) => attribute(out, WGDEVICE_A_PRIVATE_KEY, &[0; WG_KEY_LEN]),
        None => {}
    }
    if device.clear {
        attribute(out, WGDEVICE_A_FLAGS, &WGDEVICE_F_REPLACE_PEERS.to_ne_bytes());
    }
    if let Some(port) = device.port {
        attribute(out, WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
    }
    if let Some(mark) = device.mark {
        attribute(out, WGDEVICE_A_FWMARK, &mark.to_ne_bytes());
    }
}

struct Writer<'i> {
    interface: &'i str,
    done: Vec<Payload>,
    now: Payload,
    /// Where the list of peers begins in `now`.
    peers: Option<usize>,
}

impl Writer<'_> {
    fn peer(&mut self, peer: &PeerSet) {
        let mut rest = peer.allowed.as_slice();
        let mut nest = self.head(peer, false);
        while !rest.is_empty() {
            let list = open(&mut self.now, WGPEER_A_ALLOWEDIPS);
            let room = (PAYLOAD_MAX - self.now.len()) / ALLOWED_MAX;
            let (here, later) = rest.split_at(room.min(rest.len()));
            for allowed in here {
                write_allowed(&mut self.now, *allowed);
            }
            close(&mut self.now, list);
            rest = later;
            if !rest.is_empty() {
                close(&mut self.now, nest);
                self.flush();
                nest = self.head(peer, true);
            }
        }
        close(&mut self.now, nest);
    }

    /// Begins a peer, in the next message if this one has no room for it and one allowed IP. `further`: more allowed IPs
    /// of a peer that was begun before.
    fn head(&mut self, peer: &PeerSet, further: bool) -> usize {
        if self.now.len() + NLA_HEADER + PEER_MAX + ALLOWED_MAX > PAYLOAD_MAX {
            self.flush();
        }
        if self.peers.is_none() {
            self.peers = Some(open(&mut self.now, WGDEVICE_A_PEERS));
        }
        let out = &mut self.now;
        let nest = open(out, 0);
        attribute(out, WGPEER_A_PUBLIC_KEY, &peer.key);
        let flags = match peer.how {
            _ if further => WGPEER_F_UPDATE_ONLY,
            How::Make => WGPEER_F_REPLACE_ALLOWEDIPS,
            How::Update => WGPEER_F_UPDATE_ONLY,
            How::Remove => WGPEER_F_REMOVE_ME,
            How::Add => 0,
        };
        if flags != 0 {
            attribute(out, WGPEER_A_FLAGS, &flags.to_ne_bytes());
        }
        if let Some(endpoint) = peer.endpoint.filter(|_| !further) {
            write_endpoint(out, endpoint);
        }
        if let Some(seconds) = peer.keepalive_s.filter(|_| !further) {
            attribute(out, WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, &seconds.to_ne_bytes());
        }
        nest
    }

    fn flush(&mut self) {
        if let Some(peers) = self.peers.take() {
            close(&mut self.now, peers);
        }
        let next = begin(WG_CMD_SET_DEVICE, self.interface);
        self.done.push(std::mem::replace(&mut self.now, next));
    }
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn write_endpoint(out: &mut Vec<u8>, endpoint: SocketAddr) {
    let port = endpoint.port().to_be_bytes();
    match endpoint {
        SocketAddr::V4(at) => {
            let bytes = [&AF_INET.to_ne_bytes()[..], &port, &at.ip().octets(), &[0; 8]].concat();
            attribute(out, WGPEER_A_ENDPOINT, &bytes);
        }
        SocketAddr::V6(at) => {
            let (flow, scope) = (at.flowinfo().to_be_bytes(), at.scope_id().to_ne_bytes());
            let bytes = [&AF_INET6.to_ne_bytes()[..], &port, &flow, &at.ip().octets(), &scope].concat();
            attribute(out, WGPEER_A_ENDPOINT, &bytes);
        }
    }
}

fn write_allowed(out: &mut Vec<u8>, allowed: Allowed) {
    let nest = open(out, 0);
    match allowed.prefix.addr() {
        IpAddr::V4(ip) => {
            attribute(out, WGALLOWEDIP_A_FAMILY, &AF_INET.to_ne_bytes());
            attribute(out, WGALLOWEDIP_A_IPADDR, &ip.octets());
        }
        IpAddr::V6(ip) => {
            attribute(out, WGALLOWEDIP_A_FAMILY, &AF_INET6.to_ne_bytes());
            attribute(out, WGALLOWEDIP_A_IPADDR, &ip.octets());
        }
    }
    attribute(out, WGALLOWEDIP_A_CIDR_MASK, &[allowed.prefix.prefix_len()]);
    if allowed.remove {
        attribute(out, WGALLOWEDIP_A_FLAGS, &WGALLOWEDIP_F_REMOVE_ME.to_ne_bytes());
    }
    close(out, nest);
}

/// One attribute with its padding.
pub(crate) fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(NLA_HEADER + value.len()).expect("attributes are at most 36 bytes, names at most 16");
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Begins a nest, and says where; [`close`] writes its length.
fn open(out: &mut Vec<u8>, kind: u16) -> usize {
    let at = out.len();
    attribute(out, kind | NLA_F_NESTED, &[]);
    at
}

fn close(out: &mut [u8], at: usize) {
    let length = u16::try_from(out.len() - at).expect("a payload is shorter than 8 KiB");
    out[at..at + 2].copy_from_slice(&length.to_ne_bytes());
}
