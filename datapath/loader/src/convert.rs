//! The agent's words to the kernel's and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_datapath_abi as abi;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Backend, EncryptEntry, Endpoint, FlowRow, Frontend, IpcacheEntry, LbService, Proto, Tuple};

/// IPv4 /n is /(96 + n) of the mapped address.
const V4_PREFIX: u8 = 96;

/// An address as the maps hold it. A mapped IPv6 address means the IPv4 one, as in the maps themselves.
pub fn addr(ip: IpAddr) -> abi::Addr {
    match ip {
        IpAddr::V4(v4) => abi::Addr::v4(v4.octets()),
        IpAddr::V6(v6) => abi::Addr(v6.octets()),
    }
}

pub fn ip(addr: abi::Addr) -> IpAddr {
    addr.as_v4().map_or_else(|| Ipv6Addr::from(addr.0).into(), |v4| Ipv4Addr::from(v4).into())
}

pub(crate) fn ipcache_key(prefix: IpNet) -> abi::IpcacheKey {
    let prefix = prefix.trunc();
    let bits = match prefix {
        IpNet::V4(v4) => V4_PREFIX + v4.prefix_len(),
        IpNet::V6(v6) => v6.prefix_len(),
    };
    abi::IpcacheKey { prefix_len: bits.into(), addr: addr(prefix.addr()) }
}

/// `None` for a row that no prefix of ours makes.
pub(crate) fn prefix(key: abi::IpcacheKey) -> Option<IpNet> {
    let bits = u8::try_from(key.prefix_len).ok()?;
    match key.addr.as_v4() {
        Some(v4) if bits >= V4_PREFIX => Ipv4Net::new(v4.into(), bits - V4_PREFIX).ok().map(IpNet::V4),
        _ => Ipv6Net::new(key.addr.0.into(), bits).ok().map(IpNet::V6),
    }
}

pub(crate) fn ipcache_entry(entry: IpcacheEntry) -> abi::IpcacheEntry {
    let flags = if entry.in_cluster { abi::ipcache_flag::IN_CLUSTER } else { 0 };
    abi::IpcacheEntry { identity: entry.identity, flags }
}

pub(crate) fn ipcache_entry_back(entry: abi::IpcacheEntry) -> IpcacheEntry {
    IpcacheEntry { identity: entry.identity, in_cluster: entry.flags & abi::ipcache_flag::IN_CLUSTER != 0 }
}

pub(crate) fn encrypt_entry(entry: EncryptEntry) -> abi::EncryptEntry {
    use abi::encrypt_flag::{LOCAL_POD, NODE_TOO, PLAIN, REMOTE_NODE, REMOTE_POD};
    let flags = match entry {
        EncryptEntry::RemotePods => REMOTE_POD,
        EncryptEntry::RemoteNode { hosts_too: false } => REMOTE_NODE,
        EncryptEntry::RemoteNode { hosts_too: true } => REMOTE_NODE | NODE_TOO,
        EncryptEntry::LocalPods => LOCAL_POD,
        EncryptEntry::Plain => PLAIN,
    };
    abi::EncryptEntry { flags, zero: 0 }
}

/// `None` for a row that this version does not write.
pub(crate) fn encrypt_entry_back(entry: abi::EncryptEntry) -> Option<EncryptEntry> {
    let hosts_too = entry.flags & abi::encrypt_flag::NODE_TOO != 0;
    let all = [
        EncryptEntry::RemotePods,
        EncryptEntry::RemoteNode { hosts_too },
        EncryptEntry::LocalPods,
        EncryptEntry::Plain,
    ];
    all.into_iter().find(|known| encrypt_entry(*known) == entry)
}

pub(crate) fn endpoint(e: Endpoint) -> abi::Endpoint {
    let Endpoint { ifindex, identity, id, mac, host_mac } = e;
    abi::Endpoint { ifindex, identity, id, flags: 0, mac, host_mac }
}

pub(crate) fn endpoint_back(e: abi::Endpoint) -> Endpoint {
    let abi::Endpoint { ifindex, identity, id, flags: _, mac, host_mac } = e;
    Endpoint { ifindex, identity, id, mac, host_mac }
}

pub(crate) fn service_key(frontend: Frontend) -> abi::ServiceKey {
    abi::ServiceKey {
        addr: addr(frontend.addr),
        port: frontend.port.to_be_bytes(),
        proto: frontend.proto.number(),
        zero: 0,
    }
}

/// `None` for catch-all rows and for protocols that we do not write.
pub(crate) fn frontend(key: abi::ServiceKey) -> Option<Frontend> {
    let proto = Proto::from_number(key.proto)?;
    Some(Frontend { addr: ip(key.addr), port: u16::from_be_bytes(key.port), proto })
}

/// The row that makes an address a service's, whatever the port.
pub(crate) fn catch_all_key(ip: IpAddr) -> abi::ServiceKey {
    abi::ServiceKey { addr: addr(ip), ..abi::ServiceKey::default() }
}

pub(crate) fn is_catch_all(key: abi::ServiceKey) -> bool {
    key.port == [0, 0] && key.proto == 0
}

pub(crate) fn service_flags(service: &LbService) -> u16 {
    use abi::service_flag::{EXTERNAL, EXTERNAL_LOCAL, INTERNAL_LOCAL};
    let bit = |on: bool, flag: u16| if on { flag } else { 0 };
    bit(service.external_local, EXTERNAL_LOCAL)
        | bit(service.internal_local, INTERNAL_LOCAL)
        | bit(service.external, EXTERNAL)
}

pub(crate) fn slot(backend: &Backend) -> abi::Slot {
    let flags = if backend.local { abi::slot_flag::LOCAL } else { 0 };
    abi::Slot { addr: addr(backend.addr.ip()), port: backend.addr.port().to_be_bytes(), flags }
}

pub(crate) fn backend(slot: &abi::Slot) -> Backend {
    Backend {
        addr: SocketAddr::new(ip(slot.addr), u16::from_be_bytes(slot.port)),
        local: slot.flags & abi::slot_flag::LOCAL != 0,
    }
}

fn tuple(t: &abi::Tuple) -> Tuple {
    Tuple {
        src: SocketAddr::new(ip(t.src), u16::from_be_bytes(t.sport)),
        dst: SocketAddr::new(ip(t.dst), u16::from_be_bytes(t.dport)),
        proto: t.proto,
    }
}

pub(crate) fn flow(key: &abi::Tuple, flow: &abi::Flow) -> FlowRow {
    FlowRow {
        from: tuple(key),
        to: tuple(&flow.to),
        expires_s: flow.expires_s,
        service_id: flow.service_id,
        flags: flow.flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_survive_the_maps_form() {
        for text in ["0.0.0.0/0", "10.1.2.0/24", "10.1.2.3/32", "::/0", "fd00:1::/64", "fd00:1::5/128", "::/64"] {
            let net: IpNet = text.parse().unwrap();
            assert_eq!(prefix(ipcache_key(net)), Some(net), "{text}");
        }
        let key = ipcache_key("10.1.2.3/24".parse().unwrap());
        assert_eq!(key.prefix_len, 120);
        assert_eq!(ip(key.addr), IpAddr::from([10, 1, 2, 0]));
        assert_eq!(prefix(abi::IpcacheKey { prefix_len: 129, addr: abi::Addr::ZERO }), None);
    }

    #[test]
    fn encrypt_rows_survive_and_unknown_ones_are_none() {
        let mut known = 0;
        for flags in 0..64 {
            let row = abi::EncryptEntry { flags, zero: 0 };
            if let Some(entry) = encrypt_entry_back(row) {
                assert_eq!(encrypt_entry(entry), row);
                known += 1;
            }
        }
        assert_eq!(known, 5);
    }

    #[test]
    fn frontends_survive_and_catch_alls_are_none() {
        let f = Frontend { addr: [192, 0, 2, 1].into(), port: 8080, proto: Proto::Udp };
        assert_eq!(frontend(service_key(f)), Some(f));
        assert_eq!(service_key(f).port, [0x1f, 0x90]);
        assert!(is_catch_all(catch_all_key(f.addr)) && frontend(catch_all_key(f.addr)).is_none());
    }

    #[test]
    fn backends_survive() {
        for (addr, local) in [("10.1.2.3:80", true), ("[fd00:1::5]:65535", false)] {
            let b = Backend { addr: addr.parse().unwrap(), local };
            assert_eq!(backend(&slot(&b)), b);
        }
    }
}
