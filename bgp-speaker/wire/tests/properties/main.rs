//! Properties of the codec: values come back as they went, packing loses and adds nothing, no bytes do harm, and other
//! codecs read the same.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "../common/mod.rs"]
mod common;
mod netgauze;
mod rustbgpd;
mod strategy;
mod zettabgp;

use std::collections::BTreeSet;

use causeway_bgp_wire::{
    Decoded, EncodeError, Family, FrameSplitter, MAX_EXTENDED_MESSAGE_LEN, Message, NextHop, PathAttributes, Prefix,
    SegmentKind, SessionContext, Update, pack,
};
use common::{frame, internal, session, two_octets};
use proptest::collection::vec;
use proptest::prelude::*;

fn encode(message: &Message, context: &SessionContext) -> Vec<u8> {
    let mut octets = Vec::new();
    message.encode(context, &mut octets).unwrap();
    octets
}

fn decode_all(stream: &[u8], context: &SessionContext) -> Vec<Update> {
    let mut splitter = FrameSplitter::default();
    splitter.push(stream);
    let mut updates = Vec::new();
    while let Some(frame) = splitter.next_frame(context.max_receive_len).unwrap() {
        assert!(frame.len() <= usize::from(context.max_send_len), "a message of {} octets", frame.len());
        let Decoded { message, malformed } = Message::decode(frame, context).unwrap();
        assert_eq!(malformed, []);
        match message {
            Message::Update(update) => updates.push(*update),
            other => panic!("not an UPDATE: {other:?}"),
        }
    }
    assert_eq!(splitter.pending(), 0);
    updates
}

proptest! {
    // A failure prints its smallest input, which then becomes a case of a table test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_come_back(message in strategy::message()) {
        let context = internal();
        let octets = encode(&message, &context);
        let decoded = Message::decode(&octets, &context).unwrap();
        prop_assert_eq!(decoded.malformed, []);
        prop_assert_eq!(decoded.message, message);
    }

    #[test]
    fn long_as_numbers_pass_a_session_of_two_octets(update in strategy::update()) {
        let context = SessionContext { peer: internal().peer, ..two_octets() };
        let mut update = update;
        // A confederation cannot say them: AS4_PATH has no such segments (RFC 6793 section 3).
        update.attributes.as_path.segments.retain(|segment| {
            matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set)
        });
        let octets = encode(&Message::Update(Box::new(update.clone())), &context);
        let decoded = Message::decode(&octets, &context).unwrap();
        prop_assert_eq!(decoded.malformed, []);
        let Message::Update(decoded) = decoded.message else { panic!("not an UPDATE") };
        prop_assert_eq!(decoded.attributes, update.attributes);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(body in vec(any::<u8>(), 0..400), code in 0..8u8) {
        for context in [session(), internal(), two_octets(), SessionContext::before_open()] {
            let _ = Message::decode(&frame(code, &body), &context);
            let _ = Message::decode(&body, &context);
        }
    }

    #[test]
    fn arbitrary_attributes_do_no_harm(attributes in vec(attribute(), 0..12), announced in vec(any::<u8>(), 0..12)) {
        let octets: Vec<u8> = attributes.concat();
        let octets = frame(2, &common::update_body(&[], &octets, &announced));
        for context in [session(), internal(), two_octets()] {
            if let Ok(decoded) = Message::decode(&octets, &context) {
                if decoded.message == Message::Update(Box::default()) {
                    let nothing = decoded.message.encode(&context, &mut Vec::new());
                    prop_assert_eq!(nothing, Err(EncodeError::Empty));
                    continue;
                }
                // What was understood can be said again, and is understood the same.
                let again = encode(&decoded.message, &SessionContext { max_send_len: 65535, ..context.clone() });
                let context = SessionContext { max_receive_len: 65535, ..context };
                let twice = Message::decode(&again, &context).unwrap();
                prop_assert_eq!(sorted(twice.message), sorted(decoded.message));
            }
        }
    }

    #[test]
    fn the_splitter_never_loses_or_invents(pieces in vec(vec(any::<u8>(), 0..60), 0..20)) {
        let mut splitter = FrameSplitter::default();
        let mut taken = 0;
        let mut pushed = 0;
        'stream: for piece in &pieces {
            splitter.push(piece);
            pushed += piece.len();
            loop {
                match splitter.next_frame(4096) {
                    Ok(Some(frame)) => taken += frame.len(),
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            prop_assert_eq!(taken + splitter.pending(), pushed);
        }
    }

    #[test]
    fn packing_keeps_every_prefix(
        attributes in strategy::path_attributes(),
        next_hop in strategy::next_hop(),
        count in 0..3000_usize,
        seed in any::<u32>(),
        extended in any::<bool>(),
    ) {
        let mut context = internal();
        if extended {
            context.max_send_len = MAX_EXTENDED_MESSAGE_LEN;
            context.max_receive_len = MAX_EXTENDED_MESSAGE_LEN;
        }
        for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
            packing(&context, family, &attributes, next_hop, &prefixes(family, count, seed));
        }
    }
}

/// An attribute with any code that has a meaning, right or wrong flags, and a value that may be right.
fn attribute() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![1..=10u8, 14..=18u8, Just(32u8), any::<u8>()];
    let flags = prop_oneof![Just(0x40u8), Just(0x80), Just(0xc0), Just(0x50), Just(0x90), Just(0xd0), any::<u8>()];
    let value = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(0..3u8, 0..12),
        Just(vec![0, 0, 0, 1]),
        Just(vec![2, 1, 0, 0, 0xfe, 0x4d]),
        Just(vec![0, 1, 1, 4, 10, 0, 0, 1, 0, 24, 192, 0, 2]),
        Just(vec![0, 2, 1, 32, 32, 1, 13, 184]),
    ];
    (flags, code, value).prop_map(|(flags, code, value)| {
        let mut octets = vec![flags, code];
        if flags & 0x10 != 0 {
            octets.push(0);
        }
        octets.push(u8::try_from(value.len()).unwrap());
        octets.extend(value);
        octets
    })
}

/// The encoder sorts communities and marks unknown attributes as partial.
fn sorted(message: Message) -> Message {
    let Message::Update(mut update) = message else { return message };
    let attributes = &mut update.attributes;
    attributes.communities = attributes.communities.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    attributes.large_communities =
        attributes.large_communities.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    attributes.extended_communities =
        attributes.extended_communities.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    for unknown in &mut attributes.unknown {
        unknown.flags |= 0x20;
    }
    // One list a family, as the encoder writes them.
    let mut withdrawn: Vec<causeway_bgp_wire::Withdrawn> = Vec::new();
    for more in std::mem::take(&mut update.withdrawn) {
        match withdrawn.iter_mut().find(|list| list.family == more.family) {
            Some(list) => list.prefixes.extend(more.prefixes),
            None => withdrawn.push(more),
        }
    }
    for list in &mut withdrawn {
        list.prefixes.sort();
    }
    withdrawn.sort_by_key(|list| list.family);
    update.withdrawn = withdrawn;
    Message::Update(update)
}

/// As many different prefixes, of lengths that mix.
fn prefixes(family: Family, count: usize, seed: u32) -> Vec<Prefix> {
    let mut state = u128::from(seed) | 1;
    let mut set = BTreeSet::new();
    for _ in 0..count {
        state = state.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645).wrapping_add(0x1405_7b7e_f767_814f);
        let len = u8::try_from((state >> 100) % 33).unwrap();
        let prefix = if family == Family::IPV4_UNICAST {
            Prefix::v4(u32::try_from(state >> 96).unwrap().into(), len)
        } else {
            Prefix::v6(state.into(), len * 4)
        };
        set.insert(prefix.unwrap());
    }
    set.into_iter().collect()
}

fn packing(
    context: &SessionContext,
    family: Family,
    attributes: &PathAttributes,
    next_hop: NextHop,
    prefixes: &[Prefix],
) {
    let mut out = Vec::new();
    let announced = pack::announce(context, family, attributes, next_hop, prefixes.iter().copied(), &mut out);
    if family == Family::IPV6_UNICAST && matches!(next_hop, NextHop::V4(_)) {
        assert_eq!(announced, Err(EncodeError::NextHopNotNegotiated { family }));
        assert!(out.is_empty());
        return;
    }
    let updates = decode_all(&out, context);
    assert_eq!(updates.len(), announced.unwrap());
    let mut got = Vec::new();
    for update in updates {
        assert_eq!(&update.attributes, attributes);
        assert_eq!((update.reach.len(), update.withdrawn.len()), (1, 0));
        assert_eq!((update.reach[0].family, update.reach[0].next_hop), (family, next_hop));
        got.extend_from_slice(&update.reach[0].prefixes);
    }
    assert_eq!(got, prefixes, "in the order given");

    let mut out = Vec::new();
    let messages = pack::withdraw(context, family, prefixes.iter().copied(), &mut out).unwrap();
    let updates = decode_all(&out, context);
    assert_eq!(updates.len(), messages);
    let got: Vec<Prefix> = updates.into_iter().flat_map(|mut update| update.withdrawn.remove(0).prefixes).collect();
    assert_eq!(got, prefixes);
}
