//! netgauze-bgp-pkt as another opinion: what we send goes through its reader and its writer, and comes back the same.

use std::collections::HashMap;

use causeway_bgp_wire::{Afi, Capability, Message, PathAttributes, SegmentKind, Update};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;

use crate::common::internal;
use crate::strategy;

/// Type and sub-type of the extended communities whose reserved octets it clears, or whose number it narrows.
const NOT_KEPT: [(u8, u8); 7] = [(0, 9), (2, 9), (3, 9), (3, 13), (6, 0), (6, 1), (6, 4)];

fn through(octets: &[u8]) -> Vec<u8> {
    let mut context = BgpParsingContext::new(true, HashMap::new(), HashMap::new(), true, true, true, true);
    let message = BgpMessage::parse(&mut SliceReader::new(octets), &mut context).expect("it reads what we send");
    let mut again = Vec::new();
    message.write(&mut again).expect("it writes what it has read");
    again
}

fn comes_back(message: &Message) {
    let mut octets = Vec::new();
    message.encode(&internal(), &mut octets).unwrap();
    let again = Message::decode(&through(&octets), &internal()).unwrap();
    assert_eq!(&again.message, message);
    assert_eq!(again.malformed, []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_our_updates(update in strategy::update()) {
        let mut update = update;
        // It knows no confederations, and codes that are unknown here; prefixes that are not unicast are errors to it.
        update.attributes.as_path.segments.retain(|segment| {
            matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set)
        });
        update.attributes.unknown.clear();
        update.attributes.extended_communities.retain(|community| !NOT_KEPT.contains(&(community.0[0], community.0[1])));
        for reach in &mut update.reach {
            reach.prefixes.retain(|prefix| !prefix.address().is_multicast());
        }
        for withdrawn in &mut update.withdrawn {
            withdrawn.prefixes.retain(|prefix| !prefix.address().is_multicast());
        }
        update.reach.retain(|reach| !reach.prefixes.is_empty());
        update.withdrawn.retain(|withdrawn| !withdrawn.prefixes.is_empty());
        if update.reach.is_empty() {
            update.attributes = PathAttributes::default();
        }
        prop_assume!(update != Update::default());
        comes_back(&Message::Update(Box::new(update)));
    }

    #[test]
    fn reads_our_opens(open in strategy::open()) {
        let mut open = open;
        prop_assume!(open.router_id.get() < 0xe000_0000);
        // It wants an identifier to be a unicast address (RFC 6286 does not), and refuses families and codes that are not assigned.
        open.capabilities.retain(|capability| match capability {
            Capability::Multiprotocol(family) => family.is_supported(),
            Capability::ExtendedNextHop(pairs) => {
                pairs.iter().all(|pair| pair.family.is_supported() && matches!(pair.next_hop, Afi::IPV4 | Afi::IPV6))
            }
            Capability::GracefulRestart(restart) => restart.families.iter().all(|entry| entry.family.is_supported()),
            Capability::Unknown { .. } => false,
            _ => true,
        });
        // Nor does it know RFC 9072, which long lists need.
        let mut octets = Vec::new();
        let message = Message::Open(open);
        message.encode(&internal(), &mut octets).unwrap();
        prop_assume!(octets.get(29) != Some(&255));
        comes_back(&message);
    }
}
