//! rustbgpd-wire as a second opinion: it reads what we send, and where both of us accept bytes, we see the same routes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;
use causeway_bgp_wire::{Decoded, Message, NextHop, PathAttributes, Remedy, SegmentKind, SessionContext, Update};
use proptest::collection::vec;
use proptest::prelude::*;
use rustbgpd_wire::{ErrorDisposition, NlriEntry, ParsedUpdate, PathAttribute, Prefix};

use crate::common::{frame, internal, session, update_body};
use crate::{attribute, strategy};

/// What matters of an UPDATE, in one shape for both.
#[derive(Debug, Default, PartialEq, Eq)]
struct Routes {
    withdrawn: BTreeSet<String>,
    /// With next hop.
    announced: BTreeSet<(String, IpAddr)>,
    med: Option<u32>,
    local_pref: Option<u32>,
    communities: BTreeSet<u32>,
    large: BTreeSet<(u32, u32, u32)>,
    as_path: Vec<u32>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Routes(Routes),
    Withdraw,
    Reset,
}

fn ours(octets: &[u8], context: &SessionContext) -> Verdict {
    match Message::decode(octets, context) {
        Err(_) => Verdict::Reset,
        Ok(Decoded { malformed, .. }) if malformed.iter().any(|fault| fault.remedy == Remedy::TreatAsWithdraw) => {
            Verdict::Withdraw
        }
        Ok(Decoded { message: Message::Update(update), .. }) => Verdict::Routes(our_routes(&update)),
        Ok(other) => panic!("not an UPDATE: {other:?}"),
    }
}

fn our_routes(update: &Update) -> Routes {
    let PathAttributes { med, local_pref, communities, large_communities, as_path, .. } = &update.attributes;
    Routes {
        withdrawn: update.withdrawn.iter().flat_map(|list| &list.prefixes).map(ToString::to_string).collect(),
        announced: update
            .reach
            .iter()
            .flat_map(|reach| reach.prefixes.iter().map(|prefix| (prefix.to_string(), global(reach.next_hop))))
            .collect(),
        med: *med,
        local_pref: *local_pref,
        communities: communities.iter().map(|community| community.0).collect(),
        large: large_communities.iter().map(|large| (large.global, large.local1, large.local2)).collect(),
        as_path: as_path.asns().map(u32::from).collect(),
    }
}

fn global(next_hop: NextHop) -> IpAddr {
    next_hop.address()
}

fn theirs(octets: &[u8], is_internal: bool) -> Verdict {
    let mut bytes = Bytes::copy_from_slice(octets);
    let Ok(rustbgpd_wire::Message::Update(update)) = rustbgpd_wire::decode_message(&mut bytes, 4096) else {
        return Verdict::Reset;
    };
    let Ok(parsed) = update.parse_revised(true, is_internal, false, &[]) else {
        return Verdict::Reset;
    };
    match parsed.malformed.iter().map(|fault| fault.disposition).max() {
        Some(ErrorDisposition::SessionReset) => Verdict::Reset,
        Some(ErrorDisposition::TreatAsWithdraw) => Verdict::Withdraw,
        Some(ErrorDisposition::AttributeDiscard) | None => Verdict::Routes(their_routes(&parsed.update)),
    }
}

fn their_routes(update: &ParsedUpdate) -> Routes {
    let mut routes = Routes::default();
    let mut next_hop = IpAddr::from([0; 4]);
    let name = |entry: &NlriEntry| match entry.prefix {
        Prefix::V4(prefix) => format!("{}/{}", prefix.addr, prefix.len),
        Prefix::V6(prefix) => format!("{}/{}", prefix.addr, prefix.len),
    };
    routes.withdrawn =
        update.withdrawn.iter().map(|entry| format!("{}/{}", entry.prefix.addr, entry.prefix.len)).collect();
    for attribute in &update.attributes {
        match attribute {
            PathAttribute::NextHop(address) => next_hop = (*address).into(),
            PathAttribute::Med(med) => routes.med = Some(*med),
            PathAttribute::LocalPref(local_pref) => routes.local_pref = Some(*local_pref),
            PathAttribute::Communities(list) | PathAttribute::CommunitiesPartial(list) => {
                routes.communities = list.iter().copied().collect();
            }
            PathAttribute::LargeCommunities(list) | PathAttribute::LargeCommunitiesPartial(list) => {
                routes.large =
                    list.iter().map(|large| (large.global_admin, large.local_data1, large.local_data2)).collect();
            }
            PathAttribute::AsPath(path) => {
                routes.as_path =
                    path.segments
                        .iter()
                        .flat_map(|segment| match segment {
                            rustbgpd_wire::AsPathSegment::AsSet(asns)
                            | rustbgpd_wire::AsPathSegment::AsSequence(asns) => asns.clone(),
                        })
                        .collect();
            }
            PathAttribute::MpReachNlri(mp) => {
                routes.announced.extend(mp.announced.iter().map(|entry| (name(entry), mp.next_hop)));
            }
            PathAttribute::MpUnreachNlri(mp) => routes.withdrawn.extend(mp.withdrawn.iter().map(name)),
            _ => {}
        }
    }
    let classic = update.announced.iter().map(|entry| format!("{}/{}", entry.prefix.addr, entry.prefix.len));
    routes.announced.extend(classic.map(|prefix| (prefix, next_hop)));
    if routes.announced.is_empty() {
        // Attributes of no route mean nothing, and we give none.
        return Routes { withdrawn: routes.withdrawn, ..Routes::default() };
    }
    routes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_our_updates(update in strategy::update()) {
        let mut update = update;
        // It knows no confederations, refuses sets (RFC 9774, where we are milder), and knows codes that are unknown here.
        update.attributes.as_path.segments.retain(|segment| segment.kind == SegmentKind::Sequence);
        update.attributes.unknown.clear();
        let mut octets = Vec::new();
        Message::Update(Box::new(update.clone())).encode(&internal(), &mut octets).unwrap();
        prop_assert_eq!(theirs(&octets, true), Verdict::Routes(our_routes(&update)));
    }

    #[test]
    fn sees_the_same_routes(attributes in vec(attribute(), 0..8), announced in prefixes(), withdrawn in prefixes()) {
        let octets = frame(2, &update_body(&withdrawn, &attributes.concat(), &announced));
        if let (Verdict::Routes(ours), Verdict::Routes(theirs)) = (ours(&octets, &session()), theirs(&octets, false)) {
            prop_assert_eq!(ours, theirs);
        }
    }
}

fn prefixes() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![Just(vec![24, 192, 0, 2]), Just(vec![0]), Just(vec![32, 10, 0, 0, 1]), vec(0..40u8, 0..6)];
    vec(one, 0..4).prop_map(|all| all.concat())
}
