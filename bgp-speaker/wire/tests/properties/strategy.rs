//! Any message that a session of ours could send, for property tests.

use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_bgp_wire::{
    Afi, Aggregator, AsPath, AsSegment, Asn, Capability, Community, ExtendedCommunity, ExtendedNextHop, Family,
    GracefulFamily, GracefulRestart, HoldTime, LargeCommunity, Message, NextHop, Notification, NotificationCode, Open,
    Origin, PathAttributes, Prefix, Reach, RefreshKind, RouteRefresh, RouterId, Safi, SegmentKind, UnknownAttribute,
    Update, Withdrawn,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        2 => open().prop_map(Message::Open),
        4 => update().prop_map(|update| Message::Update(Box::new(update))),
        1 => notification().prop_map(Message::Notification),
        1 => route_refresh().prop_map(Message::RouteRefresh),
        1 => Just(Message::Keepalive),
    ]
}

pub(crate) fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..=u32::from(u16::MAX), 1..=u32::MAX].prop_map(|number| Asn::new(number).unwrap())
}

fn any_family() -> impl Strategy<Value = Family> {
    prop_oneof![
        Just(Family::IPV4_UNICAST),
        Just(Family::IPV6_UNICAST),
        (any::<u16>(), any::<u8>()).prop_map(|(afi, safi)| Family { afi: Afi(afi), safi: Safi(safi) }),
    ]
}

pub(crate) fn open() -> impl Strategy<Value = Open> {
    let hold_time = any::<u16>().prop_filter_map("1 and 2", HoldTime::new);
    (asn(), hold_time, 1..=u32::MAX, vec(capability(), 0..20)).prop_map(
        |(asn, hold_time, router_id, mut capabilities)| {
            capabilities.retain(|capability| !matches!(capability, Capability::FourOctetAs(_)));
            // Without it the number would be cut to AS_TRANS.
            capabilities.push(Capability::FourOctetAs(asn));
            Open { asn, hold_time, router_id: RouterId::new(Ipv4Addr::from_bits(router_id)).unwrap(), capabilities }
        },
    )
}

fn capability() -> impl Strategy<Value = Capability> {
    let pair =
        (any_family(), any::<u16>()).prop_map(|(family, next_hop)| ExtendedNextHop { family, next_hop: Afi(next_hop) });
    let graceful = (any_family(), any::<bool>())
        .prop_map(|(family, forwarding_preserved)| GracefulFamily { family, forwarding_preserved });
    let unknown_code = prop_oneof![Just(3u8), Just(69), Just(71), 128..=255u8];
    prop_oneof![
        any_family().prop_map(Capability::Multiprotocol),
        Just(Capability::RouteRefresh),
        vec(pair, 0..5).prop_map(Capability::ExtendedNextHop),
        Just(Capability::ExtendedMessage),
        (any::<bool>(), any::<bool>(), 0..4096u16, vec(graceful, 0..5)).prop_map(
            |(restarting, notification, restart_time_s, families)| {
                Capability::GracefulRestart(GracefulRestart { restarting, notification, restart_time_s, families })
            }
        ),
        Just(Capability::EnhancedRouteRefresh),
        ("[a-z0-9.-]{0,30}", "\\PC{0,8}").prop_map(|(host, domain)| Capability::Fqdn { host, domain }),
        "\\PC{0,12}".prop_map(Capability::SoftwareVersion),
        (unknown_code, prop_oneof![9 => vec(any::<u8>(), 0..12), 1 => vec(any::<u8>(), 0..256)])
            .prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

fn notification() -> impl Strategy<Value = Notification> {
    (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..600))
        .prop_map(|(code, subcode, data)| Notification { code: NotificationCode::from_wire(code, subcode), data })
}

fn route_refresh() -> impl Strategy<Value = RouteRefresh> {
    let kind = prop_oneof![
        Just(RefreshKind::Request),
        Just(RefreshKind::Begin),
        Just(RefreshKind::End),
        (3..=u8::MAX).prop_map(RefreshKind::Other),
    ];
    (any_family(), kind).prop_map(|(family, kind)| RouteRefresh { family, kind })
}

pub(crate) fn prefix(family: Family) -> BoxedStrategy<Prefix> {
    if family == Family::IPV4_UNICAST {
        (any::<u32>(), 0..=32u8).prop_map(|(bits, len)| Prefix::v4(Ipv4Addr::from_bits(bits), len).unwrap()).boxed()
    } else {
        (any::<u128>(), 0..=128u8).prop_map(|(bits, len)| Prefix::v6(Ipv6Addr::from_bits(bits), len).unwrap()).boxed()
    }
}

fn ipv4_next_hop() -> impl Strategy<Value = NextHop> {
    (0x0100_0000..0xdfff_ffff_u32).prop_map(|bits| NextHop::V4(Ipv4Addr::from_bits(bits)))
}

fn ipv6_next_hop() -> impl Strategy<Value = NextHop> {
    let address = |high: u128| any::<u64>().prop_map(move |low| Ipv6Addr::from_bits(high << 112 | u128::from(low)));
    (address(0x2001), option::of(address(0xfe80))).prop_map(|(global, link_local)| NextHop::V6 { global, link_local })
}

/// Announcements, withdrawals, both, or an End-of-RIB marker; each family at most once on either side.
pub(crate) fn update() -> impl Strategy<Value = Update> {
    let v4 = Family::IPV4_UNICAST;
    let v6 = Family::IPV6_UNICAST;
    let prefixes = |family| vec(prefix(family), 1..20);
    let withdrawn = |family| option::of(prefixes(family).prop_map(move |prefixes| Withdrawn { family, prefixes }));
    let reach_v4 =
        (ipv4_next_hop(), prefixes(v4)).prop_map(move |(next_hop, prefixes)| Reach { family: v4, next_hop, prefixes });
    let mp_v4 =
        (ipv6_next_hop(), prefixes(v4)).prop_map(move |(next_hop, prefixes)| Reach { family: v4, next_hop, prefixes });
    let mp_v6 =
        (ipv6_next_hop(), prefixes(v6)).prop_map(move |(next_hop, prefixes)| Reach { family: v6, next_hop, prefixes });
    let parts =
        (withdrawn(v4), withdrawn(v6), option::of(reach_v4), option::of(prop_oneof![mp_v4, mp_v6]), path_attributes());
    parts.prop_map(|(withdrawn_v4, withdrawn_v6, classic, mp, attributes)| {
        let withdrawn: Vec<Withdrawn> = withdrawn_v4.into_iter().chain(withdrawn_v6).collect();
        let reach: Vec<Reach> = classic.into_iter().chain(mp).collect();
        if reach.is_empty() {
            return if withdrawn.is_empty() {
                Update::end_of_rib(Family::IPV4_UNICAST)
            } else {
                Update { withdrawn, ..Update::default() }
            };
        }
        Update { withdrawn, reach, attributes, end_of_rib: None }
    })
}

fn as_path(kinds: Vec<SegmentKind>) -> impl Strategy<Value = AsPath> {
    let segment = (proptest::sample::select(kinds), vec(asn(), 1..8)).prop_map(|(kind, asns)| AsSegment { kind, asns });
    vec(segment, 0..4).prop_map(|segments| AsPath { segments })
}

/// What an internal peer may send; lists of communities sorted and without doubles, as the encoder sends them.
pub(crate) fn path_attributes() -> impl Strategy<Value = PathAttributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let kinds = vec![SegmentKind::Sequence, SegmentKind::Set, SegmentKind::ConfedSequence, SegmentKind::ConfedSet];
    let aggregator =
        (asn(), any::<u32>()).prop_map(|(asn, bits)| Aggregator { asn, router_id: Ipv4Addr::from_bits(bits) });
    let unknown = (100..=255u8, any::<bool>(), vec(any::<u8>(), 0..300));
    let head = (origin, as_path(kinds), option::of(any::<u32>()), option::of(any::<u32>()));
    let middle = (any::<bool>(), option::of(aggregator), btree_set(any::<u32>(), 0..9));
    let lists = (
        btree_set(any::<[u8; 8]>(), 0..9),
        btree_set((any::<u32>(), any::<u32>(), any::<u32>()), 0..9),
        option::of(any::<u32>()),
        vec(any::<u32>(), 0..4),
    );
    (head, middle, lists, option::of(unknown)).prop_map(|(head, middle, lists, unknown)| {
        let (origin, as_path, med, local_pref) = head;
        let (atomic_aggregate, aggregator, communities) = middle;
        let (extended, large, originator_id, cluster_list) = lists;
        PathAttributes {
            origin,
            as_path,
            med,
            local_pref,
            atomic_aggregate,
            aggregator,
            communities: communities.into_iter().map(Community).collect(),
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            large_communities: large
                .into_iter()
                .map(|(global, local1, local2)| LargeCommunity { global, local1, local2 })
                .collect(),
            originator_id: originator_id.map(Ipv4Addr::from_bits),
            cluster_list: cluster_list.into_iter().map(Ipv4Addr::from_bits).collect(),
            unknown: unknown
                .into_iter()
                .map(|(code, _, value)| UnknownAttribute { code, flags: 0xe0, value })
                .collect(),
        }
    })
}

/// For next hops in [`causeway_bgp_wire::pack`].
pub(crate) fn next_hop() -> impl Strategy<Value = NextHop> {
    prop_oneof![ipv4_next_hop(), ipv6_next_hop()]
}
