//! Values of path attributes, each with what RFC 7606 section 7 asks for when it is malformed.

use std::net::Ipv4Addr;

use crate::codes::{attribute as code, flag};
use crate::reader::Reader;
use crate::{
    Aggregator, AsPath, AsSegment, Asn, Community, ExtendedCommunity, LargeCommunity, Origin, Remedy, SegmentKind,
    UpdateError,
};

/// The Optional and Transitive bits that an attribute must have; `None` for a code that is not known here.
pub(super) fn expected_flags(attribute: u8) -> Option<u8> {
    match attribute {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF | code::ATOMIC_AGGREGATE => {
            Some(flag::TRANSITIVE)
        }
        code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::MP_REACH_NLRI | code::MP_UNREACH_NLRI => {
            Some(flag::OPTIONAL)
        }
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::LARGE_COMMUNITIES => Some(flag::OPTIONAL | flag::TRANSITIVE),
        _ => None,
    }
}

/// What is wrong with a value. The subcode is for the case that the session must be reset after all (RFC 7606 section 5.2).
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) remedy: Remedy,
    pub(super) subcode: UpdateError,
    pub(super) what: String,
}

fn withdraw(subcode: UpdateError, what: impl Into<String>) -> Bad {
    Bad { remedy: Remedy::TreatAsWithdraw, subcode, what: what.into() }
}

fn discard(subcode: UpdateError, what: impl Into<String>) -> Bad {
    Bad { remedy: Remedy::AttributeDiscard, subcode, what: what.into() }
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Bad> {
    value
        .try_into()
        .map_err(|_| withdraw(UpdateError::AttributeLength, format!("a value of {} octets, expected {N}", value.len())))
}

/// Entries of `N` octets each, at least one.
fn list<const N: usize>(value: &[u8]) -> Result<&[[u8; N]], Bad> {
    match value.as_chunks::<N>() {
        (entries, []) if !entries.is_empty() => Ok(entries),
        _ => Err(withdraw(
            UpdateError::OptionalAttribute,
            format!("a value of {} octets, expected a multiple of {N}, not 0", value.len()),
        )),
    }
}

/// RFC 7606 section 7.1.
pub(super) fn origin(value: &[u8]) -> Result<Origin, Bad> {
    match fixed::<1>(value)? {
        [0] => Ok(Origin::Igp),
        [1] => Ok(Origin::Egp),
        [2] => Ok(Origin::Incomplete),
        [other] => Err(withdraw(UpdateError::InvalidOrigin, format!("origin {other} is not defined"))),
    }
}

/// RFC 7606 section 7.2. Sets are taken, although RFC 9774 would have their routes withdrawn: what a peer still aggregates
/// into a set is better seen than lost, and we never send one. Numbers have four or two octets; 0 is not allowed (RFC 7607); confederation segments are, only
/// inside of one (RFC 5065 section 5).
pub(super) fn as_path(value: &[u8], four_octets: bool, confederation: bool) -> Result<AsPath, Bad> {
    let malformed = |what: String| withdraw(UpdateError::MalformedAsPath, what);
    let path = segments(value, four_octets).map_err(malformed)?;
    let foreign = path.segments.iter().any(|segment| is_confederation(segment.kind));
    if foreign && !confederation {
        return Err(malformed("a confederation segment from outside of a confederation".to_owned()));
    }
    Ok(path)
}

/// RFC 6793 section 6: malformed is discarded; confederation segments are dropped.
pub(super) fn as4_path(value: &[u8]) -> Result<AsPath, Bad> {
    let mut path = segments(value, true).map_err(|what| discard(UpdateError::MalformedAsPath, what))?;
    path.segments.retain(|segment| !is_confederation(segment.kind));
    if path.is_empty() {
        return Err(discard(UpdateError::MalformedAsPath, "no segment"));
    }
    Ok(path)
}

fn is_confederation(kind: SegmentKind) -> bool {
    matches!(kind, SegmentKind::ConfedSequence | SegmentKind::ConfedSet)
}

fn segments(value: &[u8], four_octets: bool) -> Result<AsPath, String> {
    let mut reader = Reader::new(value);
    let mut path = AsPath::default();
    while let Some(kind) = reader.u8() {
        let kind = match kind {
            1 => SegmentKind::Set,
            2 => SegmentKind::Sequence,
            3 => SegmentKind::ConfedSequence,
            4 => SegmentKind::ConfedSet,
            other => return Err(format!("segment type {other} is not defined")),
        };
        let count = reader.u8().ok_or("a stray octet behind the last segment")?;
        if count == 0 {
            return Err("a segment without numbers".to_owned());
        }
        let size = usize::from(count) * if four_octets { 4 } else { 2 };
        let octets = reader.take(size).ok_or_else(|| format!("a segment of {count} numbers is cut short"))?;
        let asns: Option<Vec<Asn>> = if four_octets {
            octets.as_chunks::<4>().0.iter().map(|octets| Asn::new(u32::from_be_bytes(*octets))).collect()
        } else {
            octets.as_chunks::<2>().0.iter().map(|octets| Asn::new(u16::from_be_bytes(*octets).into())).collect()
        };
        let asns = asns.ok_or("AS number 0 (RFC 7607)")?;
        path.segments.push(AsSegment { kind, asns });
    }
    Ok(path)
}

/// RFC 7606 section 7.3. Addresses that no host can have are refused with the same remedy.
pub(super) fn next_hop(value: &[u8]) -> Result<Ipv4Addr, Bad> {
    let address = Ipv4Addr::from(fixed::<4>(value)?);
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Err(withdraw(UpdateError::InvalidNextHop, format!("{address} is no host's address")));
    }
    Ok(address)
}

/// RFC 7606 sections 7.4 (MULTI_EXIT_DISC) and 7.5 (LOCAL_PREF).
pub(super) fn number(value: &[u8]) -> Result<u32, Bad> {
    fixed::<4>(value).map(u32::from_be_bytes)
}

/// RFC 7606 section 7.6.
pub(super) fn atomic_aggregate(value: &[u8]) -> Result<bool, Bad> {
    if value.is_empty() {
        return Ok(true);
    }
    let what = format!("a value of {} octets, expected none", value.len());
    Err(discard(UpdateError::AttributeLength, what))
}

/// RFC 7606 section 7.7, and RFC 6793 section 6 for AS4_AGGREGATOR.
pub(super) fn aggregator(value: &[u8], four_octets: bool) -> Result<Aggregator, Bad> {
    let mut reader = Reader::new(value);
    let asn = if four_octets { reader.u32() } else { reader.u16().map(u32::from) };
    match (asn, reader.u32(), reader.is_empty()) {
        (Some(asn), Some(router_id), true) => match Asn::new(asn) {
            Some(asn) => Ok(Aggregator { asn, router_id: Ipv4Addr::from_bits(router_id) }),
            None => Err(discard(UpdateError::OptionalAttribute, "AS number 0 (RFC 7607)")),
        },
        _ => {
            let expected = if four_octets { 8 } else { 6 };
            let what = format!("a value of {} octets, expected {expected}", value.len());
            Err(discard(UpdateError::AttributeLength, what))
        }
    }
}

/// RFC 7606 section 7.8.
pub(super) fn communities(value: &[u8]) -> Result<Vec<Community>, Bad> {
    Ok(list::<4>(value)?.iter().map(|octets| Community(u32::from_be_bytes(*octets))).collect())
}

/// RFC 7606 section 7.9.
pub(super) fn originator_id(value: &[u8]) -> Result<Ipv4Addr, Bad> {
    fixed::<4>(value).map(Ipv4Addr::from)
}

/// RFC 7606 section 7.10.
pub(super) fn cluster_list(value: &[u8]) -> Result<Vec<Ipv4Addr>, Bad> {
    Ok(list::<4>(value)?.iter().copied().map(Ipv4Addr::from).collect())
}

/// RFC 7606 section 7.14.
pub(super) fn extended_communities(value: &[u8]) -> Result<Vec<ExtendedCommunity>, Bad> {
    Ok(list::<8>(value)?.iter().copied().map(ExtendedCommunity).collect())
}

/// RFC 8092 section 5.
pub(super) fn large_communities(value: &[u8]) -> Result<Vec<LargeCommunity>, Bad> {
    let part =
        |octets: &[u8; 12], at: usize| u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    Ok(list::<12>(value)?
        .iter()
        .map(|octets| LargeCommunity { global: part(octets, 0), local1: part(octets, 4), local2: part(octets, 8) })
        .collect())
}
