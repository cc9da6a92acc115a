//! A destination: an address and how many of its leading bits count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::Family;

/// An IPv4 or IPv6 prefix. The length fits the address and the bits behind it are 0, so equal prefixes are equal values.
/// Ordered by family, then address, then length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Text or numbers that are no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no prefix: expected ADDRESS/LENGTH with length at most 32 (IPv4) or 128 (IPv6)")]
pub struct InvalidPrefix(String);

impl Prefix {
    /// Bits behind `len` are cleared. `None` if `len` is longer than the address.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        match address {
            IpAddr::V4(address) => Prefix::v4(address, len),
            IpAddr::V6(address) => Prefix::v6(address, len),
        }
    }

    /// Like [`Prefix::new`], at most /32.
    pub fn v4(address: Ipv4Addr, len: u8) -> Option<Prefix> {
        if len > 32 {
            return None;
        }
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        Some(Prefix { address: IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask)), len })
    }

    /// Like [`Prefix::new`], at most /128.
    pub fn v6(address: Ipv6Addr, len: u8) -> Option<Prefix> {
        if len > 128 {
            return None;
        }
        let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        Some(Prefix { address: IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)), len })
    }

    /// The one address: /32 or /128.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix { address, len: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// First address of the prefix.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Number of leading bits that count.
    #[allow(clippy::len_without_is_empty, reason = "a length in bits, not of a collection")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// IPv4 or IPv6 unicast.
    pub fn family(self) -> Family {
        match self.address {
            IpAddr::V4(_) => Family::IPV4_UNICAST,
            IpAddr::V6(_) => Family::IPV6_UNICAST,
        }
    }

    /// Whether the address lies in the prefix. Families do not mix.
    pub fn contains(self, address: IpAddr) -> bool {
        Prefix::new(address, self.len).is_some_and(|prefix| prefix == self)
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Prefix, InvalidPrefix> {
        text.split_once('/')
            .and_then(|(address, len)| Prefix::new(address.parse().ok()?, len.parse().ok()?))
            .ok_or_else(|| InvalidPrefix(text.to_owned()))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.address, self.len))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}
