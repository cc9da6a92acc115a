//! Numbers that name or time a speaker, each valid by construction.

use std::fmt;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::str::FromStr;

/// An autonomous system number of four octets, never 0 (RFC 6793, RFC 7607).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(NonZeroU32);

/// 0, or text that is no number of 32 bits, was given as an AS number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no AS number: expected 1..4294967295 (or the dotted form 0.1..65535.65535)")]
pub struct InvalidAsn(String);

impl Asn {
    /// Stands in two-octet fields for a number that does not fit (RFC 6793 section 4.2.2).
    pub const TRANS: Asn = match Asn::new(23456) {
        Some(asn) => asn,
        None => panic!("23456 is not 0"),
    };

    /// The number, or `None` for 0.
    pub const fn new(number: u32) -> Option<Asn> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Asn(number)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The number as a two-octet field carries it: itself, or AS_TRANS.
    pub fn to_two_octets(self) -> u16 {
        u16::try_from(self.get()).unwrap_or(23456)
    }

    /// Set aside for private use (RFC 6996).
    pub const fn is_private(self) -> bool {
        matches!(self.get(), 64512..=65534 | 4_200_000_000..=4_294_967_294)
    }
}

impl TryFrom<u32> for Asn {
    type Error = InvalidAsn;

    fn try_from(number: u32) -> Result<Asn, InvalidAsn> {
        Asn::new(number).ok_or_else(|| InvalidAsn(number.to_string()))
    }
}

impl From<Asn> for u32 {
    fn from(asn: Asn) -> u32 {
        asn.get()
    }
}

impl FromStr for Asn {
    type Err = InvalidAsn;

    /// Reads `asplain` ("65010") and `asdot` ("1.10"), RFC 5396.
    fn from_str(text: &str) -> Result<Asn, InvalidAsn> {
        let number = match text.split_once('.') {
            Some((high, low)) => match (high.parse::<u16>(), low.parse::<u16>()) {
                (Ok(high), Ok(low)) => Some(u32::from(high) << 16 | u32::from(low)),
                _ => None,
            },
            None => text.parse().ok(),
        };
        number.and_then(Asn::new).ok_or_else(|| InvalidAsn(text.to_owned()))
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.get())
    }
}

/// The BGP identifier: four octets, never 0 (RFC 6286), written like an IPv4 address. Ordered as a number, which is how
/// a connection collision is decided (RFC 4271 section 6.8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(NonZeroU32);

/// 0.0.0.0, or text that is no IPv4 address, was given as a router identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no router ID: expected an IPv4 address other than 0.0.0.0")]
pub struct InvalidRouterId(String);

impl RouterId {
    /// The identifier, or `None` for 0.0.0.0.
    pub const fn new(address: Ipv4Addr) -> Option<RouterId> {
        match NonZeroU32::new(address.to_bits()) {
            Some(number) => Some(RouterId(number)),
            None => None,
        }
    }

    /// The identifier as a number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The identifier as it is written.
    pub const fn address(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.get())
    }
}

impl TryFrom<Ipv4Addr> for RouterId {
    type Error = InvalidRouterId;

    fn try_from(address: Ipv4Addr) -> Result<RouterId, InvalidRouterId> {
        RouterId::new(address).ok_or_else(|| InvalidRouterId(address.to_string()))
    }
}

impl FromStr for RouterId {
    type Err = InvalidRouterId;

    fn from_str(text: &str) -> Result<RouterId, InvalidRouterId> {
        text.parse().ok().and_then(RouterId::new).ok_or_else(|| InvalidRouterId(text.to_owned()))
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RouterId({})", self.address())
    }
}

/// Seconds of silence after which a peer is dead: 0 (never) or at least 3 (RFC 4271 section 4.2). Ordered by the number,
/// so that `min` of two is what RFC 4271 negotiates, also when one of them is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldTime(u16);

/// A hold time of 1 or 2 seconds was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hold time of {0} s is not allowed: expected 0 (off) or 3..65535")]
pub struct InvalidHoldTime(u16);

impl HoldTime {
    /// No hold timer and no keepalives.
    pub const OFF: HoldTime = HoldTime(0);

    /// The time, or `None` for 1 and 2 seconds.
    pub const fn new(seconds: u16) -> Option<HoldTime> {
        match seconds {
            1 | 2 => None,
            _ => Some(HoldTime(seconds)),
        }
    }

    /// In seconds; 0 means off.
    pub const fn seconds(self) -> u16 {
        self.0
    }

    /// Both the hold timer and keepalives are off.
    pub const fn is_off(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<u16> for HoldTime {
    type Error = InvalidHoldTime;

    fn try_from(seconds: u16) -> Result<HoldTime, InvalidHoldTime> {
        HoldTime::new(seconds).ok_or(InvalidHoldTime(seconds))
    }
}

impl fmt::Display for HoldTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
