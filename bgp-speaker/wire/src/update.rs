//! UPDATE: routes that come and routes that go (RFC 4271 section 4.3, RFC 4760).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Family, PathAttributes, Prefix};

/// An UPDATE message. A decoder has already applied RFC 7606: prefixes of a bad UPDATE stand in `withdrawn`, and
/// attributes to be discarded are gone. Withdrawals come before reachability, also when a prefix is in both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// At most one entry for the IPv4 field, one for MP_UNREACH_NLRI, and those that treat-as-withdraw made.
    pub withdrawn: Vec<Withdrawn>,
    /// At most one entry for the IPv4 field and one for MP_REACH_NLRI. Empty: `attributes` mean nothing.
    pub reach: Vec<Reach>,
    pub attributes: PathAttributes,
    /// The message is the End-of-RIB marker of this family; nothing else is in it (RFC 4724 section 2).
    pub end_of_rib: Option<Family>,
}

/// Prefixes that can be reached through `next_hop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub family: Family,
    pub next_hop: NextHop,
    /// All of `family`.
    pub prefixes: Vec<Prefix>,
}

/// Prefixes that can no longer be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    pub family: Family,
    /// All of `family`.
    pub prefixes: Vec<Prefix>,
}

/// Where to send packets to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    V4(Ipv4Addr),
    /// For IPv6 routes, and for IPv4 routes where RFC 8950 was negotiated. `link_local` goes with it if both speakers share
    /// a link (RFC 2545 section 3).
    V6 {
        global: Ipv6Addr,
        link_local: Option<Ipv6Addr>,
    },
}

impl NextHop {
    /// The address that is not link-local only.
    pub fn address(self) -> IpAddr {
        match self {
            NextHop::V4(address) => IpAddr::V4(address),
            NextHop::V6 { global, .. } => IpAddr::V6(global),
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> NextHop {
        match address {
            IpAddr::V4(address) => NextHop::V4(address),
            IpAddr::V6(global) => NextHop::V6 { global, link_local: None },
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NextHop::V4(address) => address.fmt(f),
            NextHop::V6 { global, link_local: None } => global.fmt(f),
            NextHop::V6 { global, link_local: Some(link_local) } => write!(f, "{global} ({link_local})"),
        }
    }
}

impl Update {
    /// The End-of-RIB marker of a family.
    pub fn end_of_rib(family: Family) -> Update {
        Update { end_of_rib: Some(family), ..Update::default() }
    }
}
