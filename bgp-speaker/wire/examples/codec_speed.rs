//! How long the codec takes, beside rustbgpd-wire in the same run: `cargo run --release -p causeway-bgp-wire --example
//! codec_speed`. Prints nanoseconds a prefix, the median of several rounds. No part of the tests: the numbers depend on what
//! else the machine does, which is why both codecs take turns.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a stopwatch, not the codec"
)]

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use causeway_bgp_wire::{
    AsPath, Asn, Community, Family, FrameSplitter, MAX_MESSAGE_LEN, Message, NextHop, PathAttributes, PeerKind, Prefix,
    SessionContext, pack,
};
use rustbgpd_wire as other;

const PREFIXES: u32 = 100_000;
const ROUNDS: usize = 15;

fn main() {
    let context = SessionContext {
        peer: PeerKind::External,
        four_octet_as: true,
        families: vec![Family::IPV4_UNICAST],
        extended_next_hops: Vec::new(),
        max_send_len: MAX_MESSAGE_LEN,
        max_receive_len: MAX_MESSAGE_LEN,
    };
    let prefixes: Vec<Prefix> = (0..PREFIXES).map(|at| Prefix::v4((0x0a00_0000 + at).into(), 32).unwrap()).collect();
    let stream = encode_ours(&context, &prefixes);
    let theirs = encode_theirs(&prefixes);
    println!("{PREFIXES} IPv4 /32, one attribute set; {} octets ours, {} octets theirs", stream.len(), theirs.len());

    let mut rows = vec![("encode", Vec::new(), Vec::new()), ("decode", Vec::new(), Vec::new())];
    for _ in 0..ROUNDS {
        rows[0].1.push(time(|| black_box(encode_ours(&context, &prefixes)).len()));
        rows[0].2.push(time(|| black_box(encode_theirs(&prefixes)).len()));
        rows[1].1.push(time(|| decode_ours(&context, &stream)));
        rows[1].2.push(time(|| decode_theirs(&stream)));
    }
    println!("{:8} {:>12} {:>12}", "", "causeway", "rustbgpd");
    for (name, ours, theirs) in rows {
        println!("{name:8} {:>9.1} ns {:>9.1} ns", median(ours), median(theirs));
    }
    let single = (0..ROUNDS).map(|_| time(|| one_by_one(&context, &prefixes))).collect();
    println!("{:8} {:>9.1} ns   one UPDATE a prefix", "encode", median(single));
}

fn attributes() -> PathAttributes {
    PathAttributes {
        as_path: AsPath::sequence([65010, 65020, 65030].map(|number| Asn::new(number).unwrap())),
        communities: vec![Community::new(65010, 100), Community::GRACEFUL_SHUTDOWN],
        ..PathAttributes::default()
    }
}

fn encode_ours(context: &SessionContext, prefixes: &[Prefix]) -> Vec<u8> {
    let mut out = Vec::new();
    let next_hop = NextHop::V4([10, 0, 0, 11].into());
    pack::announce(context, Family::IPV4_UNICAST, &attributes(), next_hop, prefixes.iter().copied(), &mut out).unwrap();
    out
}

fn one_by_one(context: &SessionContext, prefixes: &[Prefix]) -> usize {
    let mut out = Vec::new();
    let attributes = attributes();
    let next_hop = NextHop::V4([10, 0, 0, 11].into());
    for prefix in prefixes {
        pack::announce(context, Family::IPV4_UNICAST, &attributes, next_hop, [*prefix], &mut out).unwrap();
    }
    black_box(out).len()
}

fn decode_ours(context: &SessionContext, stream: &[u8]) -> usize {
    let mut splitter = FrameSplitter::default();
    splitter.push(stream);
    let mut count = 0;
    while let Some(frame) = splitter.next_frame(MAX_MESSAGE_LEN).unwrap() {
        if let Message::Update(update) = black_box(Message::decode(frame, context).unwrap()).message {
            count += update.reach.iter().map(|reach| reach.prefixes.len()).sum::<usize>();
        }
    }
    assert_eq!(count, PREFIXES as usize);
    count
}

fn encode_theirs(prefixes: &[Prefix]) -> Vec<u8> {
    let attributes = [
        other::PathAttribute::Origin(other::Origin::Igp),
        other::PathAttribute::AsPath(other::AsPath {
            segments: vec![other::AsPathSegment::AsSequence(vec![65010, 65020, 65030])],
        }),
        other::PathAttribute::NextHop([10, 0, 0, 11].into()),
        other::PathAttribute::Communities(vec![65010 << 16 | 100, 0xffff_0000]),
    ];
    let mut out = BytesMut::new();
    // It does not pack; the caller counts. This is what fills its messages for this set.
    for chunk in prefixes.chunks(805) {
        let entries: Vec<other::Ipv4NlriEntry> = chunk
            .iter()
            .map(|prefix| match prefix.address() {
                std::net::IpAddr::V4(address) => {
                    other::Ipv4NlriEntry { path_id: 0, prefix: other::Ipv4Prefix::new(address, prefix.len()) }
                }
                std::net::IpAddr::V6(_) => unreachable!("IPv4 only"),
            })
            .collect();
        let update = other::UpdateMessage::build(&entries, &[], &attributes, true, false, other::Ipv4UnicastMode::Body);
        update.encode(&mut out).unwrap();
    }
    out.to_vec()
}

fn decode_theirs(stream: &[u8]) -> usize {
    let mut bytes = Bytes::copy_from_slice(stream);
    let mut count = 0;
    while !bytes.is_empty() {
        if let other::Message::Update(update) = other::decode_message(&mut bytes, MAX_MESSAGE_LEN).unwrap() {
            count += black_box(update.parse_revised(true, false, false, &[]).unwrap()).update.announced.len();
        }
    }
    assert_eq!(count, PREFIXES as usize);
    count
}

/// Nanoseconds a prefix.
fn time(work: impl FnOnce() -> usize) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_nanos() as f64 / f64::from(PREFIXES)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
