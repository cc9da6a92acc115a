//! An Ethernet frame as far as the checks need it: who sends to whom, and what kind of traffic it is. Pure and total.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// WireGuard's port, as Cilium has it.
const WIREGUARD: u16 = 51871;
const BGP: u16 = 179;

// EtherTypes (IEEE 802 numbers at IANA).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

// Protocol numbers (IANA), for IPv6 also those of extension headers.
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMP_V6: u8 = 58;
const DESTINATION: u8 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Arp,
    /// Router and neighbour discovery, and who listens to which group.
    Neighbours,
    Wireguard,
    Bgp,
    Icmp,
    /// From, to.
    Udp(u16, u16),
    Tcp(u16, u16),
    /// Not the first one, so that there are no ports.
    Fragment,
    /// Another EtherType or IP protocol, or cut off.
    Other(u16),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arp => f.write_str("ARP"),
            Self::Neighbours => f.write_str("ND"),
            Self::Wireguard => f.write_str("WireGuard"),
            Self::Bgp => f.write_str("BGP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Udp(from, to) => write!(f, "UDP {from} to {to}"),
            Self::Tcp(from, to) => write!(f, "TCP {from} to {to}"),
            Self::Fragment => f.write_str("fragment"),
            Self::Other(number) => write!(f, "protocol {number:#x}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Source and destination of the outermost IP header.
    pub(crate) ends: Option<(IpAddr, IpAddr)>,
    pub(crate) kind: Kind,
}

pub(crate) fn parse(bytes: &[u8]) -> Frame {
    match word(bytes, 12) {
        Some(ARP) => Frame { ends: None, kind: Kind::Arp },
        Some(IPV4) => ipv4(&bytes[14..]),
        Some(IPV6) => ipv6(&bytes[14..]),
        other => Frame { ends: None, kind: Kind::Other(other.unwrap_or(0)) },
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn ipv4(bytes: &[u8]) -> Frame {
    let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?)));
    let ends = address(12).zip(address(16));
    let (Some(&first), Some(&protocol), Some(fragment)) = (bytes.first(), bytes.get(9), word(bytes, 6)) else {
        return Frame { ends, kind: Kind::Other(IPV4) };
    };
    let rest = bytes.get(usize::from(first & 0xf) * 4..).unwrap_or_default();
    let kind = if fragment & 0x1fff != 0 { Kind::Fragment } else { transport(protocol, rest) };
    Frame { ends, kind }
}

fn ipv6(bytes: &[u8]) -> Frame {
    let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?)));
    let ends = address(8).zip(address(24));
    let mut next = bytes.get(6).copied().unwrap_or(u8::MAX);
    let mut rest = bytes.get(40..).unwrap_or_default();
    while matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        let (Some(&after), Some(&length)) = (rest.first(), rest.get(1)) else { break };
        let header = if next == FRAGMENT { 8 } else { (usize::from(length) + 1) * 8 };
        if next == FRAGMENT && word(rest, 2).is_some_and(|offset| offset & 0xfff8 != 0) {
            return Frame { ends, kind: Kind::Fragment };
        }
        next = after;
        rest = rest.get(header..).unwrap_or_default();
    }
    Frame { ends, kind: transport(next, rest) }
}

fn transport(protocol: u8, bytes: &[u8]) -> Kind {
    let ports = word(bytes, 0).zip(word(bytes, 2));
    match (protocol, ports) {
        (UDP, Some((_, WIREGUARD))) => Kind::Wireguard,
        (UDP, Some((from, to))) => Kind::Udp(from, to),
        (TCP, Some((from, to))) if from == BGP || to == BGP => Kind::Bgp,
        (TCP, Some((from, to))) => Kind::Tcp(from, to),
        // RFC 2710, 3810 and 4861: MLD 130 to 132 and 143, ND 133 to 137.
        (ICMP_V6, _) if matches!(bytes.first(), Some(130..=137 | 143)) => Kind::Neighbours,
        (ICMP | ICMP_V6, _) => match quoted(protocol, bytes) {
            // Its own datagram, that nobody took.
            Some(Frame { kind: Kind::Wireguard, .. }) => Kind::Wireguard,
            _ => Kind::Icmp,
        },
        (other, _) => Kind::Other(other.into()),
    }
}

/// The packet that an ICMP error is about. RFC 792: unreachable 3, time exceeded 11, parameter problem 12; RFC 4443: 1 to 4.
fn quoted(protocol: u8, bytes: &[u8]) -> Option<Frame> {
    let rest = bytes.get(8..)?;
    match (protocol, bytes.first()?) {
        (ICMP, 3 | 11 | 12) => Some(ipv4(rest)),
        (ICMP_V6, 1..=4) => Some(ipv6(rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(ether_type: u16, rest: &[u8]) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(rest);
        for length in 0..bytes.len() {
            // Whatever is cut off, it answers.
            let _ = parse(&bytes[..length]);
        }
        parse(&bytes)
    }

    fn v4(protocol: u8, fragment: u16, rest: &[u8]) -> Frame {
        let [high, low] = fragment.to_be_bytes();
        let head = [0x45, 0, 0, 0, 0, 0, high, low, 64, protocol, 0, 0, 10, 1, 0, 2, 10, 1, 3, 4];
        frame(IPV4, &[&head, rest].concat())
    }

    fn v6(next: u8, rest: &[u8]) -> Frame {
        let mut head = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        head.extend("fd00:1::2".parse::<Ipv6Addr>().unwrap().octets());
        head.extend("fd00:1:3::4".parse::<Ipv6Addr>().unwrap().octets());
        frame(IPV6, &[&head, rest].concat())
    }

    #[test]
    fn kinds_of_both_families() {
        let wireguard = [0xca, 0x9f, 0xca, 0x9f];
        assert_eq!(v4(UDP, 0, &wireguard).kind, Kind::Wireguard);
        assert_eq!(v6(UDP, &wireguard).kind, Kind::Wireguard);
        assert_eq!(v4(TCP, 0x2000, &[0, 179, 1, 0]).kind, Kind::Bgp);
        assert_eq!(v4(UDP, 0x2001, &wireguard).kind, Kind::Fragment);
        assert_eq!(v6(FRAGMENT, &[&[UDP, 0, 0, 1, 0, 0, 0, 0], &wireguard[..]].concat()).kind, Kind::Wireguard);
        assert_eq!(v6(FRAGMENT, &[UDP, 0, 0, 9, 0, 0, 0, 0]).kind, Kind::Fragment);
        assert_eq!(v6(HOP_BY_HOP, &[ICMP_V6, 0, 5, 2, 0, 0, 0, 0, 143, 0]).kind, Kind::Neighbours);
        assert_eq!(v6(ICMP_V6, &[128, 0]).kind, Kind::Icmp);
        let inner = [&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2][..], &wireguard].concat();
        assert_eq!(v4(ICMP, 0, &[&[3, 3, 0, 0, 0, 0, 0, 0], &inner[..]].concat()).kind, Kind::Wireguard);
        assert_eq!(v4(ICMP, 0, &[&[0, 0, 0, 0, 0, 0, 0, 0], &inner[..]].concat()).kind, Kind::Icmp);
        assert_eq!(v4(47, 0, &[]).kind, Kind::Other(47));
        assert_eq!(frame(ARP, &[]).kind, Kind::Arp);
        let ends = v6(TCP, &[0, 80, 1, 0]).ends.unwrap();
        assert_eq!((ends.0.to_string(), ends.1.to_string()), ("fd00:1::2".into(), "fd00:1:3::4".into()));
        assert_eq!(v4(TCP, 0, &[0, 80, 1, 0]).ends.unwrap().1.to_string(), "10.1.3.4");
    }
}
