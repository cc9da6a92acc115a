//! Path attributes, all but the MP ones.

use std::net::{IpAddr, Ipv4Addr};

use zettabgp::prelude::{
    BgpAttr, BgpAttrOrigin, BgpClusterList, BgpCommunity, BgpCommunityList, BgpExtCommunity, BgpExtCommunityList,
    BgpLargeCommunity, BgpLargeCommunityList, BgpLocalpref, BgpMED, BgpNextHop, BgpOrigin, BgpOriginatorID,
};

use super::zetta_params;
use crate::codes::{attribute as code, flag};
use crate::{Aggregator, AsPath, Asn, EncodeError, ExtendedCommunity, Origin, PathAttributes, SegmentKind};

const WELL_KNOWN: u8 = flag::TRANSITIVE;
const OPTIONAL: u8 = flag::OPTIONAL;
const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

/// Most numbers in one AS_PATH segment: its count is one octet.
const MAX_SEGMENT: usize = 255;

/// Appends the attributes in the order of their codes, unknown ones last. Communities are sent sorted and each once.
/// `next_hop` is for the IPv4 field.
pub(crate) fn write(
    attributes: &PathAttributes,
    next_hop: Option<Ipv4Addr>,
    four_octet_as: bool,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let origin = match attributes.origin {
        Origin::Igp => BgpAttrOrigin::Igp,
        Origin::Egp => BgpAttrOrigin::Egp,
        Origin::Incomplete => BgpAttrOrigin::Incomplete,
    };
    write_value(WELL_KNOWN, code::ORIGIN, 1, &BgpOrigin::new(origin), out)?;
    write_as_path(&attributes.as_path, four_octet_as, out)?;
    if let Some(next_hop) = next_hop {
        write_value(WELL_KNOWN, code::NEXT_HOP, 4, &BgpNextHop::new(IpAddr::V4(next_hop)), out)?;
    }
    if let Some(med) = attributes.med {
        write_value(OPTIONAL, code::MED, 4, &BgpMED::new(med), out)?;
    }
    if let Some(value) = attributes.local_pref {
        write_value(WELL_KNOWN, code::LOCAL_PREF, 4, &BgpLocalpref { value }, out)?;
    }
    if attributes.atomic_aggregate {
        write_octets(WELL_KNOWN, code::ATOMIC_AGGREGATE, &[], out)?;
    }
    if let Some(aggregator) = attributes.aggregator {
        write_aggregator(aggregator, four_octet_as, out)?;
    }
    write_communities(attributes, out)?;
    write_reflection(attributes, out)?;
    write_extended_communities(&attributes.extended_communities, out)?;
    write_as4(attributes, four_octet_as, out)?;
    write_large_communities(attributes, out)?;
    for unknown in &attributes.unknown {
        let flags = (unknown.flags | flag::PARTIAL) & !flag::EXTENDED_LENGTH;
        write_octets(flags, unknown.code, &unknown.value, out)?;
    }
    Ok(())
}

/// Appends flags, code and length; two octets of length only if they are needed.
pub(crate) fn write_header(flags: u8, code: u8, len: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len), _) => out.extend_from_slice(&[flags, code, len]),
        (_, Ok(len)) => {
            out.extend_from_slice(&[flags | flag::EXTENDED_LENGTH, code]);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => return Err(EncodeError::TooLong { what: "path attribute", len, max: 65535 }),
    }
    Ok(())
}

/// Appends an attribute whose value is at hand.
pub(crate) fn write_octets(flags: u8, code: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    write_header(flags, code, value.len(), out)?;
    out.extend_from_slice(value);
    Ok(())
}

/// Appends an attribute whose value zettabgp writes; `len` is what the value must come to.
fn write_value(flags: u8, code: u8, len: usize, value: &impl BgpAttr, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    write_header(flags, code, len, out)?;
    let start = out.len();
    out.resize(start + len, 0);
    match value.encode_to(&zetta_params(), &mut out[start..]) {
        Ok(written) if written == len => Ok(()),
        Ok(written) => Err(EncodeError::Encoder {
            what: "path attribute",
            why: format!("attribute {code} came to {written} octets instead of {len}"),
        }),
        Err(error) => Err(EncodeError::Encoder { what: "path attribute", why: format!("attribute {code}: {error}") }),
    }
}

fn write_as_path(path: &AsPath, four_octet_as: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut value = Vec::new();
    write_segments(path, four_octet_as, |_| true, &mut value);
    write_octets(WELL_KNOWN, code::AS_PATH, &value, out)
}

fn write_segments(path: &AsPath, four_octet_as: bool, wanted: impl Fn(SegmentKind) -> bool, out: &mut Vec<u8>) {
    for segment in path.segments.iter().filter(|segment| wanted(segment.kind)) {
        let kind = match segment.kind {
            SegmentKind::Set => 1,
            SegmentKind::Sequence => 2,
            SegmentKind::ConfedSequence => 3,
            SegmentKind::ConfedSet => 4,
        };
        for asns in segment.asns.chunks(MAX_SEGMENT) {
            let count = u8::try_from(asns.len()).expect("chunks of at most 255");
            out.extend_from_slice(&[kind, count]);
            for asn in asns {
                if four_octet_as {
                    out.extend_from_slice(&asn.get().to_be_bytes());
                } else {
                    out.extend_from_slice(&asn.to_two_octets().to_be_bytes());
                }
            }
        }
    }
}

fn write_aggregator(aggregator: Aggregator, four_octet_as: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let router_id = aggregator.router_id.octets();
    let value = if four_octet_as {
        [&aggregator.asn.get().to_be_bytes(), router_id.as_slice()].concat()
    } else {
        [&aggregator.asn.to_two_octets().to_be_bytes(), router_id.as_slice()].concat()
    };
    write_octets(OPTIONAL_TRANSITIVE, code::AGGREGATOR, &value, out)
}

fn write_communities(attributes: &PathAttributes, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if attributes.communities.is_empty() {
        return Ok(());
    }
    let communities = attributes.communities.iter().map(|community| BgpCommunity::new(community.0));
    let list = BgpCommunityList { value: communities.collect() };
    write_value(OPTIONAL_TRANSITIVE, code::COMMUNITIES, list.value.len() * 4, &list, out)
}

fn write_large_communities(attributes: &PathAttributes, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if attributes.large_communities.is_empty() {
        return Ok(());
    }
    let communities = attributes.large_communities.iter().map(|community| BgpLargeCommunity {
        ga: community.global,
        ldp1: community.local1,
        ldp2: community.local2,
    });
    let list = BgpLargeCommunityList { value: communities.collect() };
    write_value(OPTIONAL_TRANSITIVE, code::LARGE_COMMUNITIES, list.value.len() * 12, &list, out)
}

fn write_extended_communities(communities: &[ExtendedCommunity], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if communities.is_empty() {
        return Ok(());
    }
    let communities = communities.iter().map(|ExtendedCommunity([kind, subtype, a0, a1, b @ ..])| {
        BgpExtCommunity::new(*kind, *subtype, u16::from_be_bytes([*a0, *a1]), u32::from_be_bytes(*b))
    });
    let list = BgpExtCommunityList { value: communities.collect() };
    write_value(OPTIONAL_TRANSITIVE, code::EXTENDED_COMMUNITIES, list.value.len() * 8, &list, out)
}

/// ORIGINATOR_ID and CLUSTER_LIST.
fn write_reflection(attributes: &PathAttributes, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if let Some(originator_id) = attributes.originator_id {
        let value = BgpOriginatorID::new(IpAddr::V4(originator_id));
        write_value(OPTIONAL, code::ORIGINATOR_ID, 4, &value, out)?;
    }
    if !attributes.cluster_list.is_empty() {
        let list = BgpClusterList { value: attributes.cluster_list.iter().copied().map(IpAddr::V4).collect() };
        write_value(OPTIONAL, code::CLUSTER_LIST, list.value.len() * 4, &list, out)?;
    }
    Ok(())
}

/// AS4_PATH and AS4_AGGREGATOR, for a peer of two-octet numbers, if a number does not fit (RFC 6793 section 4.2.2).
fn write_as4(attributes: &PathAttributes, four_octet_as: bool, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if four_octet_as {
        return Ok(());
    }
    let is_long = |asn: Asn| asn.get() > u32::from(u16::MAX);
    if attributes.as_path.asns().any(is_long) {
        let mut value = Vec::new();
        let wanted = |kind| matches!(kind, SegmentKind::Sequence | SegmentKind::Set);
        write_segments(&attributes.as_path, true, wanted, &mut value);
        if !value.is_empty() {
            write_octets(OPTIONAL_TRANSITIVE, code::AS4_PATH, &value, out)?;
        }
    }
    if let Some(aggregator) = attributes.aggregator.filter(|aggregator| is_long(aggregator.asn)) {
        let value = [aggregator.asn.get().to_be_bytes(), aggregator.router_id.octets()].concat();
        write_octets(OPTIONAL_TRANSITIVE, code::AS4_AGGREGATOR, &value, out)?;
    }
    Ok(())
}
