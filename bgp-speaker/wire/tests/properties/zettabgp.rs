//! zettabgp, held to the wire: why its decoders never see a peer's bytes and some of its encoders are not used, and what
//! it reads when it is given our own output.
//!
//! The tests of the first kind fail when a newer zettabgp is right; then the code in `src/encode` that stands in for it
//! can go.

use causeway_bgp_wire::{Family, Message, NextHop, PathAttributes, Prefix, SegmentKind, SessionContext, pack};

use crate::common::{hex, session};
use crate::strategy;
use proptest::collection::vec;
use proptest::prelude::*;
use zettabgp::prelude::{
    BgpASpath, BgpAddr, BgpAddrs, BgpAggregatorAS, BgpAtomicAggregate, BgpAttr, BgpAttrItem, BgpLargeCommunity,
    BgpLargeCommunityList, BgpMessage, BgpNotificationMessage, BgpSessionParams, BgpTransportMode, BgpUpdateMessage,
};

fn params() -> BgpSessionParams {
    let mut params =
        BgpSessionParams::new(65010, 90, BgpTransportMode::IPv4, std::net::Ipv4Addr::new(10, 0, 0, 1), vec![]);
    params.fuzzy_pathid = false;
    params
}

fn written(attribute: &BgpAttrItem) -> Vec<u8> {
    let mut octets = vec![0xaa; 256];
    let len = attribute.encode_to(&params(), &mut octets).unwrap();
    octets.truncate(len);
    octets
}

#[test]
fn as_sequence_is_written_as_a_set() {
    let path = BgpAttrItem::ASPath(BgpASpath::from(vec![65010_u32]));
    assert_eq!(written(&path), hex("50 02 0006 01 01 0000fdf2"), "type 2 would be right");
}

#[test]
fn long_as_numbers_are_cut_for_a_peer_of_two_octets() {
    let mut octets = [0; 16];
    let two_octets = BgpSessionParams { has_as32bit: false, ..params() };
    let len = BgpASpath::from(vec![4_200_000_001_u32]).encode_to(&two_octets, &mut octets).unwrap();
    assert_eq!(octets[..len], hex("01 01 ea01"), "5ba0, AS_TRANS, would be right");
}

#[test]
fn aggregator_is_not_written() {
    let aggregator = BgpAggregatorAS { asn: 65010, addr: std::net::Ipv4Addr::new(10, 0, 0, 1) };
    assert_eq!(written(&BgpAttrItem::AggregatorAS(aggregator)), hex("40 07 04 aaaaaaaa"));
}

#[test]
fn atomic_aggregate_is_written_with_an_address() {
    let attribute = BgpAtomicAggregate { value: std::net::Ipv4Addr::UNSPECIFIED };
    assert_eq!(written(&BgpAttrItem::AtomicAggregate(attribute)), hex("40 06 04 00000000"));
}

#[test]
fn large_communities_are_written_as_partial() {
    let list = BgpLargeCommunityList { value: [BgpLargeCommunity { ga: 1, ldp1: 2, ldp2: 3 }].into() };
    assert_eq!(written(&BgpAttrItem::LargeCommunityList(list))[0], 0xf0, "c0 would be right");
}

#[test]
fn notification_data_is_two_octets() {
    let mut octets = [0; 300];
    let message = BgpNotificationMessage { error_code: 6, error_subcode: 2, data: 0 };
    assert_eq!(message.encode_to(&params(), &mut octets).unwrap(), 4, "no data would be right");
}

#[test]
fn ipv4_through_ipv6_is_read_wrongly() {
    let octets = hex("0001 01 10 fd000000000000000000000000000001 00 18 c00002");
    let read = BgpAttrItem::decode_from(&params(), 14, 0x80, octets.len(), &octets);
    let Ok(BgpAttrItem::MPUpdates(updates)) = read else { panic!("{read:?}") };
    assert!(matches!(updates.nexthop, BgpAddr::V4(address) if address.octets()[0] == 0xfd), "{:?}", updates.nexthop);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// As far as zettabgp can read: IPv4 through IPv4, IPv6 through a global address, no confederations.
    #[test]
    fn reads_our_updates(
        attributes in strategy::path_attributes(),
        v4 in vec(strategy::prefix(Family::IPV4_UNICAST), 1..50),
        v6 in vec(strategy::prefix(Family::IPV6_UNICAST), 1..50),
    ) {
        let mut attributes = attributes;
        attributes.as_path.segments.retain(|segment| {
            matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set)
        });
        // 128 is ATTR_SET to zettabgp, and it does not know all others either.
        attributes.unknown.clear();
        for (family, next_hop, prefixes) in [
            (Family::IPV4_UNICAST, NextHop::V4([10, 0, 0, 1].into()), v4),
            (Family::IPV6_UNICAST, NextHop::V6 { global: "fd00::1".parse().unwrap(), link_local: None }, v6),
        ] {
            let read = read(&session(), family, &attributes, next_hop, &prefixes);
            prop_assert_eq!(announced(&read), prefixes);
            prop_assert_eq!(next_hop_of(&read), next_hop);
            compare(&read, &attributes);
        }
    }
}

fn read(
    context: &SessionContext,
    family: Family,
    attributes: &PathAttributes,
    next_hop: NextHop,
    prefixes: &[Prefix],
) -> BgpUpdateMessage {
    let mut out = Vec::new();
    let messages = pack::announce(context, family, attributes, next_hop, prefixes.iter().copied(), &mut out).unwrap();
    assert_eq!(messages, 1);
    Message::decode(&out, context).unwrap();
    let mut update = BgpUpdateMessage::new();
    update.decode_from(&params(), &out[19..]).unwrap();
    update
}

fn announced(update: &BgpUpdateMessage) -> Vec<Prefix> {
    match (&update.updates, update.get_mpupdates()) {
        (BgpAddrs::IPV4U(list), None) => {
            list.iter().map(|prefix| Prefix::v4(prefix.addr, prefix.prefixlen).unwrap()).collect()
        }
        (_, Some(mp)) => match &mp.addrs {
            BgpAddrs::IPV6U(list) => {
                list.iter().map(|prefix| Prefix::v6(prefix.addr, prefix.prefixlen).unwrap()).collect()
            }
            other => panic!("{other:?}"),
        },
        (other, None) => panic!("{other:?}"),
    }
}

fn next_hop_of(update: &BgpUpdateMessage) -> NextHop {
    match (update.get_attr_nexthop(), update.get_mpupdates()) {
        (Some(next_hop), None) => next_hop.value.into(),
        (None, Some(mp)) => match mp.nexthop {
            BgpAddr::V6(global) => NextHop::V6 { global, link_local: None },
            ref other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn compare(update: &BgpUpdateMessage, attributes: &PathAttributes) {
    let mut med = None;
    let mut local_pref = None;
    let mut aggregator = None;
    let mut atomic_aggregate = false;
    let mut numbers = Vec::new();
    let mut extended = Vec::new();
    for attribute in &update.attrs {
        match attribute {
            BgpAttrItem::MED(value) => med = Some(value.value),
            BgpAttrItem::LocalPref(value) => local_pref = Some(value.value),
            BgpAttrItem::AggregatorAS(value) => aggregator = Some((value.asn, value.addr)),
            BgpAttrItem::AtomicAggregate(_) => atomic_aggregate = true,
            BgpAttrItem::ASPath(path) => numbers = path.value.iter().map(|item| item.len()).collect(),
            BgpAttrItem::ExtCommunityList(list) => {
                extended = list.value.iter().map(|entry| (entry.ctype, entry.subtype, entry.a, entry.b)).collect();
            }
            _ => {}
        }
    }
    assert_eq!((med, local_pref), (attributes.med, attributes.local_pref));
    assert_eq!(aggregator, attributes.aggregator.map(|value| (value.asn.get(), value.router_id)));
    assert_eq!(atomic_aggregate, attributes.atomic_aggregate);
    // A set counts doubles once here.
    assert_eq!(numbers.len(), attributes.as_path.segments.len());
    assert_eq!(extended.len(), attributes.extended_communities.len());
    let communities: Vec<u32> = update
        .get_attr_communitylist()
        .map(|list| list.value.iter().map(|community| community.value).collect())
        .unwrap_or_default();
    assert_eq!(communities, attributes.communities.iter().map(|community| community.0).collect::<Vec<_>>());
    let large = update.get_attr_largecommunitylist().map(|list| list.value.len()).unwrap_or_default();
    assert_eq!(large, attributes.large_communities.len());
}
