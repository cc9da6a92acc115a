//! Prefixes and MP attributes.

use std::net::IpAddr;

use zettabgp::prelude::{BgpAddrV4, BgpAddrV6, BgpItem};

use crate::{Afi, EncodeError, Family, NextHop, Prefix, SessionContext};

/// Octets that a prefix takes: its length and the octets that count.
pub(crate) fn prefix_len(prefix: Prefix) -> usize {
    1 + usize::from(prefix.len()).div_ceil(8)
}

/// Appends one prefix of `family`.
pub(crate) fn write_prefix(family: Family, prefix: Prefix, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if prefix.family() != family {
        return Err(EncodeError::WrongFamily { family, what: format!("the prefix {prefix}") });
    }
    // `set_bits_to` indexes without asking, so it gets room for the longest prefix.
    let mut octets = [0; 17];
    let written = match prefix.address() {
        IpAddr::V4(address) => BgpAddrV4::new(address, prefix.len()).set_bits_to(&mut octets[1..]),
        IpAddr::V6(address) => BgpAddrV6::new(address, prefix.len()).set_bits_to(&mut octets[1..]),
    };
    let (bits, count) = written.map_err(|error| EncodeError::Encoder { what: "prefix", why: error.to_string() })?;
    octets[0] = bits;
    out.extend_from_slice(&octets[..=count]);
    Ok(())
}

/// Appends family, next hop and the reserved octet: all of MP_REACH_NLRI's value before its prefixes.
pub(crate) fn write_reach_head(
    context: &SessionContext,
    family: Family,
    next_hop: NextHop,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let afi = match next_hop {
        NextHop::V4(_) => Afi::IPV4,
        NextHop::V6 { .. } => Afi::IPV6,
    };
    if !context.allows_next_hop(family, afi) {
        return Err(EncodeError::NextHopNotNegotiated { family });
    }
    write_family(family, out);
    match next_hop {
        NextHop::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        NextHop::V6 { global, link_local } => {
            out.push(if link_local.is_some() { 32 } else { 16 });
            out.extend_from_slice(&global.octets());
            if let Some(link_local) = link_local {
                out.extend_from_slice(&link_local.octets());
            }
        }
    }
    out.push(0);
    Ok(())
}

/// Appends AFI and SAFI: all of MP_UNREACH_NLRI's value before its prefixes.
pub(crate) fn write_family(family: Family, out: &mut Vec<u8>) {
    out.extend_from_slice(&family.afi.0.to_be_bytes());
    out.push(family.safi.0);
}
