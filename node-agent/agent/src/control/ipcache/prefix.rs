//! Prefixes of both families in one small form, ordered so that what lies within a prefix stands next to it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 /n is /(96 + n) of the mapped address, as in the datapath's maps.
const V4_BITS: u8 = 96;

/// A prefix in 17 bytes: the address without the bits that do not count, IPv4 mapped into `::ffff:0:0/96`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Prefix {
    address: [u8; 16],
    /// Bits of the 16-byte address that count.
    bits: u8,
}

impl Prefix {
    /// Before all others.
    pub(crate) const FIRST: Prefix = Prefix { address: [0; 16], bits: 0 };

    pub(crate) fn host(ip: IpAddr) -> Prefix {
        Prefix { address: bytes(ip), bits: 128 }
    }

    /// Reads `10.1.1.5`, `10.1.1.0/24` and the like.
    pub(crate) fn parse(text: &str) -> Option<Prefix> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Some(Prefix::host(ip)),
            Err(_) => text.parse::<IpNet>().ok().map(Prefix::from),
        }
    }

    pub(crate) fn net(self) -> IpNet {
        let v6 = Ipv6Addr::from(self.address);
        match (v6.to_ipv4_mapped(), self.bits.checked_sub(V4_BITS)) {
            (Some(v4), Some(bits)) => Ipv4Net::new(v4, bits).map_or_else(|_| IpNet::from(IpAddr::V4(v4)), IpNet::V4),
            _ => Ipv6Net::new(v6, self.bits).map_or_else(|_| IpNet::from(IpAddr::V6(v6)), IpNet::V6),
        }
    }

    pub(crate) fn is_host(self) -> bool {
        self.bits == 128
    }

    /// The prefix of this length around it.
    fn shortened(self, bits: u8) -> Prefix {
        Prefix { address: (u128::from_be_bytes(self.address) & mask(bits)).to_be_bytes(), bits }
    }

    /// The prefixes that contain it, itself not included, longest first.
    pub(crate) fn parents(self) -> impl Iterator<Item = Prefix> {
        (0..self.bits).rev().map(move |bits| self.shortened(bits))
    }

    /// The greatest prefix that lies within it.
    fn last(self) -> Prefix {
        let address = u128::from_be_bytes(self.address) | !mask(self.bits);
        Prefix { address: address.to_be_bytes(), bits: 128 }
    }

    /// Where a map keyed by prefixes has all that lies within this one, itself included.
    pub(crate) fn span(self) -> std::ops::RangeInclusive<Prefix> {
        self..=self.last()
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

fn bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Prefix {
        let bits = net.prefix_len() + if net.addr().is_ipv4() { V4_BITS } else { 0 };
        Prefix { address: bytes(net.addr()), bits }.shortened(bits)
    }
}

/// As in keys of `ip/v1`: a host without its length.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = self.net();
        if self.is_host() { net.addr().fmt(f) } else { net.fmt(f) }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Says of prefixes what lies around and within them.
#[derive(Debug, Clone)]
pub(crate) struct Ranges<T> {
    by_prefix: BTreeMap<Prefix, T>,
    /// How many prefixes of each length there are: few lengths, so that few are looked for.
    lengths: BTreeMap<u8, usize>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Ranges { by_prefix: BTreeMap::new(), lengths: BTreeMap::new() }
    }
}

impl<T> Ranges<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_prefix.is_empty()
    }

    pub(crate) fn get_mut(&mut self, prefix: &Prefix) -> Option<&mut T> {
        self.by_prefix.get_mut(prefix)
    }

    pub(crate) fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        let old = self.by_prefix.insert(prefix, value);
        if old.is_none() {
            *self.lengths.entry(prefix.bits).or_default() += 1;
        }
        old
    }

    pub(crate) fn remove(&mut self, prefix: &Prefix) -> Option<T> {
        let old = self.by_prefix.remove(prefix)?;
        if let Some(count) = self.lengths.get_mut(&prefix.bits) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.bits);
            }
        }
        Some(old)
    }

    /// All that contain the prefix, itself included, shortest first.
    pub(crate) fn around(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &T)> {
        self.lengths.range(..=prefix.bits).filter_map(move |(bits, _)| {
            let (found, value) = self.by_prefix.get_key_value(&prefix.shortened(*bits))?;
            Some((*found, value))
        })
    }

    /// All that share an address with the prefix.
    pub(crate) fn overlapping(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &T)> {
        let within = self.by_prefix.range(prefix.span()).filter(move |(p, _)| **p != prefix);
        self.around(prefix).chain(within.map(|(p, value)| (*p, value)))
    }
}

/// For tests and messages: an IPv4 address of four bytes.
#[cfg(test)]
pub(crate) fn v4(a: u8, b: u8, c: u8, d: u8) -> Prefix {
    Prefix::host(IpAddr::from([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    #[test]
    fn prefixes_survive() {
        for text in ["10.1.2.0/24", "0.0.0.0/0", "::/0", "fd00:1::/64", "10.1.2.3", "fd00::5"] {
            assert_eq!(p(text).to_string(), text);
        }
        assert_eq!(p("10.1.2.3/32"), v4(10, 1, 2, 3));
        assert_eq!(p("10.1.2.3/24"), p("10.1.2.0/24"), "bits that do not count are dropped");
        assert_eq!(p("10.1.2.0/24").net(), "10.1.2.0/24".parse().unwrap());
        assert_eq!(Prefix::parse("here"), None);
        assert_eq!(size_of::<Prefix>(), 17);
    }

    #[test]
    fn what_lies_around_and_within() {
        let mut r = Ranges::default();
        for text in ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "10.2.0.0/16", "fd00::/48", "fd00:0:0:1::/64"] {
            r.insert(p(text), text);
        }
        let around = |text| r.around(p(text)).map(|(_, v)| *v).collect::<Vec<_>>();
        let overlapping = |text| r.overlapping(p(text)).map(|(_, v)| *v).collect::<Vec<_>>();
        assert_eq!(around("10.1.2.3"), ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.3"]);
        assert_eq!(around("10.1.3.0/24"), ["10.1.0.0/16"]);
        assert_eq!(around("10.3.0.1"), [] as [&str; 0]);
        assert_eq!(overlapping("10.1.2.0/23"), ["10.1.0.0/16", "10.1.2.0/24", "10.1.2.3"]);
        assert_eq!(overlapping("10.0.0.0/8").len(), 4);
        assert_eq!(overlapping("fd00::/48"), ["fd00::/48", "fd00:0:0:1::/64"]);
        assert_eq!(overlapping("0.0.0.0/0").len(), 4);
        assert_eq!(r.remove(&p("10.1.2.0/24")), Some("10.1.2.0/24"));
        assert_eq!(r.around(p("10.1.2.3")).count(), 2);
        assert_eq!(r.remove(&p("10.1.2.0/24")), None);
    }
}
