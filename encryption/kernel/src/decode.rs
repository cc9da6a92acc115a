//! What an interface says of itself: the messages of a `WG_CMD_GET_DEVICE` dump, put together.
//!
//! A peer whose allowed IPs do not fit goes on in the next message, with its key and more of them; whoever reads puts the
//! pieces together (include/uapi/linux/wireguard.h). Malformed attributes are left out: this is the kernel's word.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use causeway_encryption_plan::{PrivateKey, PublicKey};
use ipnet::IpNet;

use crate::uapi::*;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) ifindex: u32,
    pub(crate) private: Option<PrivateKey>,
    pub(crate) public: Option<PublicKey>,
    pub(crate) port: u16,
    pub(crate) mark: u32,
    /// By key, which may be one that no node can have.
    pub(crate) peers: BTreeMap<[u8; WG_KEY_LEN], ObservedPeer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ObservedPeer {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) keepalive_s: u16,
    /// Since the Unix epoch.
    pub(crate) last_handshake: Option<Duration>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) prefixes: BTreeSet<IpNet>,
}

impl Observed {
    /// Takes in one message of the dump: its payload from the header of generic netlink on.
    pub(crate) fn take(&mut self, payload: &[u8]) {
        for (kind, value) in attributes(payload.get(GENL_HEADER..).unwrap_or_default()) {
            match kind {
                WGDEVICE_A_IFINDEX => self.ifindex = number(value).unwrap_or_default(),
                WGDEVICE_A_PRIVATE_KEY => self.private = private(value),
                WGDEVICE_A_PUBLIC_KEY => self.public = key(value).and_then(|key| PublicKey::from_bytes(key).ok()),
                WGDEVICE_A_LISTEN_PORT => self.port = short(value).unwrap_or_default(),
                WGDEVICE_A_FWMARK => self.mark = number(value).unwrap_or_default(),
                WGDEVICE_A_PEERS => attributes(value).for_each(|(_, peer)| self.take_peer(peer)),
                _ => {}
            }
        }
    }

    fn take_peer(&mut self, peer: &[u8]) {
        let named = attributes(peer).find(|(kind, _)| *kind == WGPEER_A_PUBLIC_KEY).and_then(|(_, value)| key(value));
        let Some(name) = named else { return };
        let to = self.peers.entry(name).or_default();
        for (kind, value) in attributes(peer) {
            match kind {
                WGPEER_A_ENDPOINT => to.endpoint = endpoint(value),
                WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL => to.keepalive_s = short(value).unwrap_or_default(),
                WGPEER_A_LAST_HANDSHAKE_TIME => to.last_handshake = timespec(value),
                WGPEER_A_RX_BYTES => to.rx_bytes = long(value).unwrap_or_default(),
                WGPEER_A_TX_BYTES => to.tx_bytes = long(value).unwrap_or_default(),
                WGPEER_A_ALLOWEDIPS => to.prefixes.extend(attributes(value).filter_map(|(_, one)| allowed(one))),
                _ => {}
            }
        }
    }
}

/// Types without their flags, and values; ends where the bytes make no sense.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(short(bytes.get(..2)?)?);
        let kind = short(bytes.get(2..4)?)? & NLA_TYPE_MASK;
        let value = bytes.get(NLA_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.try_into().ok()?))
}

pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.try_into().ok()?))
}

fn long(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}

fn key(value: &[u8]) -> Option<[u8; WG_KEY_LEN]> {
    value.try_into().ok()
}

fn private(value: &[u8]) -> Option<PrivateKey> {
    let bytes = zeroize::Zeroizing::new(key(value)?);
    (*bytes != [0; WG_KEY_LEN]).then(|| PrivateKey::from_random(*bytes))
}

/// `struct __kernel_timespec`; zeros: never.
fn timespec(value: &[u8]) -> Option<Duration> {
    let seconds = long(value.get(..8)?)?;
    let nanos = u32::try_from(long(value.get(8..16)?)?).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos)).filter(|time| !time.is_zero())
}

fn endpoint(value: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    match short(value.get(..2)?)? {
        AF_INET => Some(SocketAddr::from((<[u8; 4]>::try_from(value.get(4..8)?).ok()?, port))),
        AF_INET6 => {
            let flow = u32::from_be_bytes(value.get(4..8)?.try_into().ok()?);
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(value.get(8..24)?).ok()?);
            Some(SocketAddrV6::new(ip, port, flow, number(value.get(24..28)?)?).into())
        }
        _ => None,
    }
}

fn allowed(nest: &[u8]) -> Option<IpNet> {
    let find = |wanted: u16| attributes(nest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let bytes = find(WGALLOWEDIP_A_IPADDR)?;
    let ip: IpAddr = match short(find(WGALLOWEDIP_A_FAMILY)?)? {
        AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    IpNet::new(ip, *find(WGALLOWEDIP_A_CIDR_MASK)?.first()?).ok()
}
