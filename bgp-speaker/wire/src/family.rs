//! Address families (RFC 4760): what kind of destination a route is for.

use std::fmt;
use std::str::FromStr;

/// Address family identifier, by its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Afi(pub u16);

impl Afi {
    pub const IPV4: Afi = Afi(1);
    pub const IPV6: Afi = Afi(2);
}

/// Subsequent address family identifier, by its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Safi(pub u8);

impl Safi {
    pub const UNICAST: Safi = Safi(1);
}

/// An address family as capabilities and MP attributes name it. Any pair of numbers is a value, so that what a peer
/// announces is kept as it was said; routes exist for the two families below only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    pub afi: Afi,
    pub safi: Safi,
}

impl Family {
    pub const IPV4_UNICAST: Family = Family { afi: Afi::IPV4, safi: Safi::UNICAST };
    pub const IPV6_UNICAST: Family = Family { afi: Afi::IPV6, safi: Safi::UNICAST };

    /// Whether this crate carries routes of the family.
    pub fn is_supported(self) -> bool {
        self == Family::IPV4_UNICAST || self == Family::IPV6_UNICAST
    }
}

/// Text is not one of the two families that have a name here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address family: expected ipv4-unicast or ipv6-unicast")]
pub struct InvalidFamily(String);

impl FromStr for Family {
    type Err = InvalidFamily;

    fn from_str(text: &str) -> Result<Family, InvalidFamily> {
        match text {
            "ipv4-unicast" => Ok(Family::IPV4_UNICAST),
            "ipv6-unicast" => Ok(Family::IPV6_UNICAST),
            _ => Err(InvalidFamily(text.to_owned())),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Family::IPV4_UNICAST => f.pad("ipv4-unicast"),
            Family::IPV6_UNICAST => f.pad("ipv6-unicast"),
            Family { afi, safi } => f.pad(&format!("afi {} safi {}", afi.0, safi.0)),
        }
    }
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
