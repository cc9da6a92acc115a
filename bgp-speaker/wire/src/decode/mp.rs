//! MP_REACH_NLRI and MP_UNREACH_NLRI (RFC 4760, RFC 2545, RFC 8950).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::nlri;
use crate::reader::Reader;
use crate::{Afi, Family, NextHop, Prefix, Safi, SessionContext};

/// The value of an MP attribute.
pub(super) enum Mp<T> {
    /// Routes of a family that both sides announced.
    Routes(T),
    /// Of a family that is not used on this session: ignored (RFC 4760 section 7 has no word for it, all do it).
    /// `empty`: it carries no prefix.
    Unused { family: Family, empty: bool },
}

pub(super) struct MpReach {
    pub(super) family: Family,
    pub(super) next_hop: NextHop,
    pub(super) prefixes: Vec<Prefix>,
}

pub(super) struct MpUnreach {
    pub(super) family: Family,
    pub(super) prefixes: Vec<Prefix>,
}

/// # Errors
/// What is wrong, for people. The prefixes cannot be found then (RFC 7606 section 7.11 and 5.3).
pub(super) fn reach(value: &[u8], context: &SessionContext) -> Result<Mp<MpReach>, String> {
    let mut reader = Reader::new(value);
    let family = family(&mut reader)?;
    let next_hop = reader.counted_u8().ok_or("the next hop is longer than the attribute")?;
    // Once the count of SNPAs, now reserved and ignored.
    reader.u8().ok_or("the attribute ends behind its next hop")?;
    if !is_used(family, context) {
        return Ok(Mp::Unused { family, empty: reader.is_empty() });
    }
    let next_hop = read_next_hop(family, next_hop, context)
        .ok_or_else(|| format!("a next hop of {} octets for {family}", next_hop.len()))?;
    let prefixes = nlri::prefixes(family.afi, reader.rest())?;
    Ok(Mp::Routes(MpReach { family, next_hop, prefixes }))
}

/// # Errors
/// As for [`reach`]. An End-of-RIB marker is told for any family.
pub(super) fn unreach(value: &[u8], context: &SessionContext) -> Result<Mp<MpUnreach>, String> {
    let mut reader = Reader::new(value);
    let family = family(&mut reader)?;
    if !is_used(family, context) {
        return Ok(Mp::Unused { family, empty: reader.is_empty() });
    }
    let prefixes = nlri::prefixes(family.afi, reader.rest())?;
    Ok(Mp::Routes(MpUnreach { family, prefixes }))
}

fn family(reader: &mut Reader<'_>) -> Result<Family, String> {
    match (reader.u16(), reader.u8()) {
        (Some(afi), Some(safi)) => Ok(Family { afi: Afi(afi), safi: Safi(safi) }),
        _ => Err("the attribute is too short for an address family".to_owned()),
    }
}

fn is_used(family: Family, context: &SessionContext) -> bool {
    family.is_supported() && context.families.contains(&family)
}

/// `None` if the length does not fit the family and what was negotiated.
fn read_next_hop(family: Family, octets: &[u8], context: &SessionContext) -> Option<NextHop> {
    let next_hop = match octets.len() {
        4 => NextHop::V4(Ipv4Addr::from(octets.first_chunk::<4>().copied()?)),
        16 => NextHop::V6 { global: Ipv6Addr::from(octets.first_chunk::<16>().copied()?), link_local: None },
        32 => {
            let global = Ipv6Addr::from(octets.first_chunk::<16>().copied()?);
            let link_local = Ipv6Addr::from(octets.last_chunk::<16>().copied()?);
            // Speakers on a link without global addresses send `::` or the link-local address twice.
            let global = if global.is_unspecified() { link_local } else { global };
            NextHop::V6 { global, link_local: Some(link_local) }
        }
        _ => return None,
    };
    let afi = match next_hop {
        NextHop::V4(_) => Afi::IPV4,
        NextHop::V6 { .. } => Afi::IPV6,
    };
    context.allows_next_hop(family, afi).then_some(next_hop)
}
