//! Communities: labels on routes (RFC 1997, RFC 4360, RFC 8092).

use std::fmt;
use std::str::FromStr;

/// A standard community, `65000:100`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// "Soon to be withdrawn, prefer another" (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xffff_0000);
    /// Deprioritised stale route of long-lived graceful restart (RFC 9494).
    pub const LLGR_STALE: Community = Community(0xffff_0006);
    /// Not to be kept by long-lived graceful restart (RFC 9494).
    pub const NO_LLGR: Community = Community(0xffff_0007);
    /// Discard traffic (RFC 7999).
    pub const BLACKHOLE: Community = Community(0xffff_029a);
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
    /// RFC 3765.
    pub const NO_PEER: Community = Community(0xffff_ff04);

    /// `high:low`.
    pub const fn new(high: u16, low: u16) -> Community {
        Community((high as u32) << 16 | low as u32)
    }
}

/// Text that is no community of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no community: expected {expected}")]
pub struct InvalidCommunity {
    text: String,
    expected: &'static str,
}

impl FromStr for Community {
    type Err = InvalidCommunity;

    /// Reads `high:low` and the plain number.
    fn from_str(text: &str) -> Result<Community, InvalidCommunity> {
        let value = match text.split_once(':') {
            Some((high, low)) => match (high.parse(), low.parse()) {
                (Ok(high), Ok(low)) => Some(Community::new(high, low)),
                _ => None,
            },
            None => text.parse().ok().map(Community),
        };
        value.ok_or_else(|| InvalidCommunity { text: text.to_owned(), expected: "0..65535:0..65535 or 0..4294967295" })
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A large community, `64496:1:2` (RFC 8092).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// The AS that defined the meaning.
    pub global: u32,
    pub local1: u32,
    pub local2: u32,
}

impl FromStr for LargeCommunity {
    type Err = InvalidCommunity;

    fn from_str(text: &str) -> Result<LargeCommunity, InvalidCommunity> {
        let invalid =
            || InvalidCommunity { text: text.to_owned(), expected: "three numbers 0..4294967295 joined by colons" };
        let mut parts = text.split(':').map(str::parse);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(global)), Some(Ok(local1)), Some(Ok(local2)), None) => {
                Ok(LargeCommunity { global, local1, local2 })
            }
            _ => Err(invalid()),
        }
    }
}

impl fmt::Debug for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local1, self.local2)
    }
}

/// An extended community, its eight octets as sent (RFC 4360). Not interpreted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub [u8; 8]);

impl ExtendedCommunity {
    /// May pass AS borders: the T bit is clear.
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}
