//! Where things are in an IP packet; nothing is trusted to be as long as it says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A whole IPv4 or IPv6 header at the front of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4 { header: usize },
    V6,
}

impl Version {
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                (header >= 20 && packet.len() >= header).then_some(Self::V4 { header })
            }
            6 => (packet.len() >= 40).then_some(Self::V6),
            _ => None,
        }
    }

    /// Source and destination, one after the other.
    pub(crate) const fn addresses(self) -> Range<usize> {
        match self {
            Self::V4 { .. } => 12..20,
            Self::V6 => 8..40,
        }
    }

    /// Bytes of the header, without IPv6's extensions.
    pub(crate) const fn header(self) -> usize {
        match self {
            Self::V4 { header } => header,
            Self::V6 => 40,
        }
    }

    /// The length that the header says, of the whole packet.
    pub(crate) fn total(self, packet: &[u8]) -> usize {
        match self {
            Self::V4 { .. } => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            Self::V6 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        }
    }
}

pub(crate) fn source(packet: &[u8]) -> Option<IpAddr> {
    Some(match Version::of(packet)? {
        Version::V4 { .. } => IpAddr::V4(Ipv4Addr::from(octets::<4>(packet, 12))),
        Version::V6 => IpAddr::V6(Ipv6Addr::from(octets::<16>(packet, 8))),
    })
}

pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    Some(match Version::of(packet)? {
        Version::V4 { .. } => IpAddr::V4(Ipv4Addr::from(octets::<4>(packet, 16))),
        Version::V6 => IpAddr::V6(Ipv6Addr::from(octets::<16>(packet, 24))),
    })
}

/// `N` bytes at `at`, which [`Version::of`] has found to be there.
fn octets<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut octets = [0; N];
    octets.copy_from_slice(&packet[at..at + N]);
    octets
}
