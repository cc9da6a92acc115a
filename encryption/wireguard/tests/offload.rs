//! Super-packets into packets and back.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod flow;

use std::collections::BTreeMap;
use std::io::IoSlice;

use causeway_wireguard::{Joiner, Malformed, VnetHeader, split};
use flow::{ACK, CWR, FIN, Flow, Kind, PSH};
use proptest::prelude::*;

const ECN: u8 = VnetHeader::GSO_ECN;

/// What `split` makes of a packet, without the padding, which must be there.
fn cut(header: VnetHeader, packet: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut packets = Vec::new();
    split(header, packet, |packet| {
        assert_eq!(packet.len() % 16, 0);
        let total = flow::total(&packet);
        assert!(total <= packet.len() && packet.len() < total + 16, "{total} of {}", packet.len());
        assert!(packet[total..].iter().all(|byte| *byte == 0));
        packets.push(packet[..total].to_vec());
    })?;
    Ok(packets)
}

/// What the joiner writes: headers and packets.
fn joined(packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut joiner = Joiner::new();
    packets.iter().for_each(|packet| joiner.push(packet.clone()));
    let (mut written, mut done) = (Vec::new(), 0);
    let write = |pieces: &[IoSlice<'_>]| {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let (header, packet) = bytes.split_at(VnetHeader::LEN);
        written.push((VnetHeader::read(header).unwrap(), packet.to_vec()));
    };
    joiner.flush(write, |_| done += 1);
    assert!(joiner.is_empty());
    assert_eq!(done, packets.len(), "all buffers come back");
    written
}

/// Sizes of what the joiner writes, in payload bytes.
fn sizes(flow: &Flow, packets: &[Vec<u8>]) -> Vec<usize> {
    joined(packets).iter().map(|(_, packet)| packet.len() - flow.header()).collect()
}

fn flow(kind: Kind) -> Flow {
    Flow { kind, ..Flow::default() }
}

fn flows() -> impl Strategy<Value = Flow> {
    let kind = prop_oneof![Just(Kind::V4 { df: true }), Just(Kind::V4 { df: false }), Just(Kind::V6)];
    // No option, timestamps (RFC 7323, padded), the longest.
    let options = prop_oneof![Just(0), Just(12), Just(40)];
    let numbers = (any::<u16>(), any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>());
    (kind, options, numbers).prop_map(|(kind, options, (id, sequence, acknowledgement, window, ports))| Flow {
        kind,
        options: (0..options).collect(),
        id,
        sequence,
        acknowledgement,
        window,
        source_port: ports,
        ..Flow::default()
    })
}

/// Length of a payload and of its pieces.
fn lengths() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        (1..5_000usize, 1..3_000usize),
        (1..64_000usize, 520..9_000usize),
        // As many whole pieces as fit.
        (1..40usize, 520..1_500usize).prop_map(|(pieces, size)| (pieces * size, size)),
    ]
}

proptest! {
    #[test]
    fn a_super_packet_is_cut_and_joined_again(
        flow in flows(),
        (length, size) in lengths(),
        flags in prop_oneof![Just(0), Just(PSH), Just(FIN), Just(FIN | PSH)],
    ) {
        let payload = flow::payload(length);
        let (header, whole) = flow.super_packet(&payload, size, flags);
        let pieces = cut(header, &whole).unwrap();
        prop_assert_eq!(&pieces, &flow.pieces(&payload, size, flags));
        for piece in &pieces {
            flow::check(piece);
        }
        if size < 520 {
            // More pieces than one write takes.
            return Ok(());
        }
        let written = joined(&pieces);
        let last = if flags & FIN == 0 { 0 } else { pieces.last().unwrap().len() - flow.header() };
        let front = length - last;
        let expected_front = match front.div_ceil(size) {
            0 => None,
            1 => Some((VnetHeader { flags: VnetHeader::DATA_VALID, ..VnetHeader::default() }, pieces[0].clone())),
            _ => Some(flow.super_packet(&payload[..front], size, flags & !FIN & if last == 0 { 0xff } else { !PSH })),
        };
        // A segment that ends the flow goes alone.
        let expected_last = (last > 0).then(|| (VnetHeader::default(), pieces.last().unwrap().clone()));
        let expected: Vec<_> = expected_front.into_iter().chain(expected_last).collect();
        prop_assert_eq!(written, expected);
    }

    #[test]
    fn a_udp_super_packet_is_cut((length, size) in lengths(), v6: bool) {
        let flow = Flow { udp: true, ..flow(if v6 { Kind::V6 } else { Kind::V4 { df: false } }) };
        let payload = flow::payload(length);
        let (header, whole) = flow.super_packet(&payload, size, 0);
        let pieces = cut(header, &whole).unwrap();
        prop_assert_eq!(&pieces, &flow.pieces(&payload, size, 0));
        pieces.iter().for_each(|piece| flow::check(piece));
    }

    /// Whatever is joined, and whatever is lost or odd in between: cut again, each flow is what it was, in its order.
    #[test]
    fn no_packet_overtakes_its_flow(
        script in prop::collection::vec((0..12u16, 0..20u8, 0..3usize), 1..200),
    ) {
        let mut sent = Vec::new();
        let mut flows: BTreeMap<u16, Flow> = BTreeMap::new();
        for (port, oddity, length) in script {
            let kind = [Kind::V4 { df: true }, Kind::V4 { df: false }, Kind::V6][usize::from(port % 3)];
            let flow = flows.entry(port).or_insert_with(|| Flow { source_port: port, ..flow(kind) });
            let payload = flow::payload([1_000, 1_000, 700][length]);
            let mut packet = flow.packet(&payload, ACK | if oddity == 0 { PSH } else { 0 });
            flow.advance(payload.len());
            match oddity {
                // Lost.
                1 => continue,
                // Its checksum is wrong.
                2 => *packet.last_mut().unwrap() ^= 1,
                3 => packet = flow.packet(&[], ACK),
                4 => packet = flow.packet(&payload, ACK | FIN),
                5 => flow.acknowledgement += 1,
                6 => flow.window += 1,
                7 => flow.options = vec![1; 4],
                _ => {}
            }
            sent.push(packet);
        }
        let mut came = Vec::new();
        for (header, packet) in joined(&sent) {
            came.extend(cut(header, &packet).unwrap());
        }
        prop_assert_eq!(by_flow(came), by_flow(sent));
    }

    #[test]
    fn nothing_is_too_strange_to_be_cut(
        header in any::<[u8; VnetHeader::LEN]>(),
        kind in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), Just(1 | ECN), any::<u8>()],
        size in prop_oneof![Just(0u16), Just(1), Just(u16::MAX), any::<u16>()],
        start in prop_oneof![Just(20u16), Just(40), Just(u16::MAX), 0..100u16, any::<u16>()],
        packet in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), bent()],
    ) {
        let header = VnetHeader { gso_type: kind, gso_size: size, csum_start: start, ..VnetHeader::read(&header).unwrap() };
        let mut count = 0;
        let done = split(header, &packet, |packet| {
            assert_eq!(packet.len() % 16, 0);
            count += 1;
        });
        prop_assert_eq!(done.is_ok(), count > 0);
    }

    #[test]
    fn nothing_is_too_strange_to_be_written(
        packets in prop::collection::vec(prop_oneof![prop::collection::vec(any::<u8>(), 0..100), bent()], 0..40),
    ) {
        let written = joined(&packets);
        let bytes: usize = written.iter().map(|(_, packet)| packet.len()).sum();
        prop_assert!(bytes <= packets.iter().map(Vec::len).sum());
        if written.iter().all(|(header, _)| header.gso_type == VnetHeader::GSO_NONE) {
            let alone: Vec<_> = written.into_iter().map(|(_, packet)| packet).collect();
            prop_assert_eq!(alone, packets);
        }
    }
}

/// A TCP packet with a few bytes changed, and maybe cut short.
fn bent() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(Kind::V4 { df: true }), Just(Kind::V6)];
    let changes = prop::collection::vec((0..80usize, any::<u8>()), 0..4);
    (kind, 0..300usize, changes, prop::option::weighted(0.3, 0..300usize)).prop_map(|(kind, length, changes, cut)| {
        let mut packet = flow(kind).packet(&flow::payload(length), ACK);
        for (at, value) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(cut.unwrap_or(usize::MAX));
        packet
    })
}

fn by_flow(packets: Vec<Vec<u8>>) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
        flows.entry(u16::from_be_bytes([packet[at], packet[at + 1]])).or_default().push(packet);
    }
    flows
}

#[test]
fn flows_are_joined_side_by_side() {
    let mut flows: Vec<_> = (0..8).map(|port| Flow { source_port: port, ..flow(Kind::V4 { df: true }) }).collect();
    let mut packets = Vec::new();
    for _ in 0..5 {
        for flow in &mut flows {
            packets.push(flow.packet(&flow::payload(1_000), ACK));
            flow.advance(1_000);
        }
    }
    assert_eq!(sizes(&flows[0], &packets), [5_000; 8]);
}

#[test]
fn more_flows_than_are_kept_open_are_all_written() {
    let mut flows: Vec<_> = (0..20).map(|port| Flow { source_port: port, ..flow(Kind::V6) }).collect();
    let mut packets = Vec::new();
    for _ in 0..3 {
        for flow in &mut flows {
            packets.push(flow.packet(&flow::payload(100), ACK));
            flow.advance(100);
        }
    }
    assert_eq!(joined(&packets).into_iter().map(|(_, packet)| packet).collect::<Vec<_>>(), packets);
}

/// Two segments that follow each other are joined, unless something about the second is changed.
#[test]
fn what_differs_is_not_joined() {
    type Change = fn(&mut Flow);
    let v4 = Flow { options: vec![1; 12], ..flow(Kind::V4 { df: true }) };
    let fragile = Flow { kind: Kind::V4 { df: false }, ..v4.clone() };
    let v6 = Flow { kind: Kind::V6, ..v4.clone() };
    let changes: [(&str, Change); 11] = [
        ("a gap", |flow| flow.sequence += 1),
        ("the past", |flow| flow.sequence -= 1_000),
        ("another ACK", |flow| flow.acknowledgement += 1),
        ("another window", |flow| flow.window += 1),
        ("another option", |flow| flow.options[11] = 2),
        ("fewer options", |flow| flow.options.truncate(8)),
        ("no options", |flow| flow.options.clear()),
        ("another TTL", |flow| flow.ttl += 1),
        ("another class", |flow| flow.class = 4),
        ("another port", |flow| flow.source_port += 1),
        ("an urgent pointer", |flow| flow.urgent = 1),
    ];
    for flow in [&v4, &fragile, &v6] {
        assert_eq!(pair(flow, |_| {}, |_| {}), 1);
        for (what, change) in &changes {
            assert_eq!(pair(flow, change, |_| {}), 2, "{what}");
        }
        let tcp = if flow.kind == Kind::V6 { 40 } else { 20 };
        for flags in [FIN, 0x02, 0x04, 0x20, 0x40, CWR] {
            assert_eq!(pair(flow, |_| {}, |packet| packet[tcp + 13] |= flags), 2, "{flags:#x}");
        }
        assert_eq!(pair(flow, |_| {}, |packet| packet[tcp + 13] &= !ACK), 2);
        assert_eq!(pair_raw(flow, |packet| packet[tcp + 16] ^= 1), 2, "a wrong checksum");
        assert_eq!(pair_raw(flow, |packet| *packet.last_mut().unwrap() ^= 1), 2, "a changed payload");
        assert_eq!(pair_raw(flow, |packet| packet.push(0)), 2, "something behind the packet");
    }
    assert_eq!(pair(&fragile, |flow| flow.id ^= 1, |_| {}), 2, "a gap in the identifications");
    assert_eq!(pair(&v4, |flow| flow.id ^= 1, |_| {}), 1, "which say nothing without fragments (RFC 6864)");
    assert_eq!(pair(&v4, |flow| flow.kind = Kind::V4 { df: false }, |_| {}), 2);
    assert_eq!(pair(&v4, |_| {}, |packet| packet[6] |= 0x20), 2, "a first fragment");
    assert_eq!(pair(&v4, |_| {}, |packet| packet[7] = 1), 2, "a later fragment");
    assert_eq!(pair_raw(&v4, |packet| packet[10] ^= 1), 2, "a wrong checksum of the header");
    assert_eq!(pair(&v6, |_| {}, |packet| packet[3] ^= 1), 2, "another flow label");
    assert_eq!(pair(&v6, |_| {}, |packet| packet[6] = 17), 2, "another protocol");
}

/// How many packets are written for two: the second of the flow as `change` makes it, with `bend` done to it.
fn pair(flow: &Flow, change: impl Fn(&mut Flow), bend: impl Fn(&mut Vec<u8>)) -> usize {
    let mut flow = flow.clone();
    let first = flow.packet(&flow::payload(1_000), ACK);
    flow.advance(1_000);
    change(&mut flow);
    let mut second = flow.packet(&flow::payload(1_000), ACK);
    bend(&mut second);
    flow::finish(&mut second, 0);
    joined(&[first, second]).len()
}

/// As [`pair`], with what is done to it left unmended.
fn pair_raw(flow: &Flow, bend: impl Fn(&mut Vec<u8>)) -> usize {
    let mut flow = flow.clone();
    let first = flow.packet(&flow::payload(1_000), ACK);
    flow.advance(1_000);
    let mut second = flow.packet(&flow::payload(1_000), ACK);
    bend(&mut second);
    joined(&[first, second]).len()
}

#[test]
fn options_of_ipv4_are_left_alone() {
    let with_option = |flow: &Flow| {
        let mut packet = flow.packet(&flow::payload(1_000), ACK);
        packet.splice(20..20, [1, 1, 1, 0]);
        packet[0] = 0x46;
        let [high, low] = u16::try_from(packet.len()).unwrap().to_be_bytes();
        packet[2..4].copy_from_slice(&[high, low]);
        flow::finish(&mut packet, 0);
        packet
    };
    let mut flow = flow(Kind::V4 { df: true });
    let first = with_option(&flow);
    flow.advance(1_000);
    let second = with_option(&flow);
    let packets = [first, second];
    let header = VnetHeader::default();
    assert_eq!(joined(&packets), packets.clone().map(|packet| (header, packet)));
    // Cut they are: the kernel may send such.
    let header = VnetHeader { gso_type: VnetHeader::GSO_TCPV4, gso_size: 600, csum_start: 24, ..header };
    let cut = cut(header, &packets[0]).unwrap();
    assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [644, 444]);
    cut.iter().for_each(|packet| flow::check(packet));
}

#[test]
fn a_piece_ends_a_group_when_it_is_short_or_pushed_and_never_starts_one_when_it_is_longer() {
    for (lengths, push, expected) in [
        (&[1_000, 1_000, 500, 1_000, 1_000][..], 9, &[2_500, 2_000][..]),
        (&[1_000, 1_000, 1_000, 1_000], 1, &[2_000, 2_000]),
        (&[1_000, 1_000, 1_000], 0, &[1_000, 2_000]),
        (&[500, 1_000, 1_000], 9, &[500, 2_000]),
        (&[1_000, 1_001], 9, &[1_000, 1_001]),
        // A bare acknowledgement in between.
        (&[1_000, 0, 1_000, 1_000], 9, &[1_000, 0, 2_000]),
    ] {
        let mut flow = flow(Kind::V6);
        let mut packets = Vec::new();
        for (index, length) in lengths.iter().enumerate() {
            packets.push(flow.packet(&flow::payload(*length), ACK | if index == push { PSH } else { 0 }));
            flow.advance(*length);
        }
        assert_eq!(sizes(&flow, &packets), expected, "{lengths:?}");
    }
}

#[test]
fn a_group_ends_where_a_packet_must() {
    for (size, expected) in [
        // 65,535 bytes with headers.
        (1_000, &[65_000, 35_000][..]),
        (
            8_000,
            &[64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 64_000, 32_000],
        ),
        // Pieces of one write.
        (10, &[1_000]),
        (100, &[10_000]),
    ] {
        let mut flow = flow(Kind::V4 { df: true });
        let packets: Vec<_> = (0..100)
            .map(|_| {
                let packet = flow.packet(&flow::payload(size), ACK);
                flow.advance(size);
                packet
            })
            .collect();
        assert_eq!(sizes(&flow, &packets), expected, "{size}");
    }
    let mut flow = flow(Kind::V4 { df: true });
    let packets: Vec<_> = (0..300)
        .map(|_| {
            let packet = flow.packet(b"x", ACK);
            flow.advance(1);
            packet
        })
        .collect();
    assert_eq!(sizes(&flow, &packets), [128, 128, 44]);
}

#[test]
fn congestion_window_reduced_is_said_once() {
    let flow = flow(Kind::V4 { df: true });
    let (header, whole) = flow.super_packet(&flow::payload(3_000), 1_000, CWR | PSH);
    let pieces = cut(VnetHeader { gso_type: header.gso_type | ECN, ..header }, &whole).unwrap();
    assert_eq!(pieces.iter().map(|piece| piece[33]).collect::<Vec<_>>(), [ACK | CWR, ACK, ACK | PSH]);
    pieces.iter().for_each(|piece| flow::check(piece));
}

#[test]
fn a_checksum_that_the_kernel_left_open_is_finished() {
    for udp in [false, true] {
        for kind in [Kind::V4 { df: true }, Kind::V6] {
            let flow = Flow { udp, ..flow(kind) };
            for length in [1, 2, 999, 1_000] {
                let payload = flow::payload(length);
                let (header, open) = flow.super_packet(&payload, 2_000, 0);
                let header = VnetHeader { gso_type: 0, gso_size: 0, ..header };
                let flags = if udp { 0 } else { ACK };
                assert_eq!(cut(header, &open).unwrap(), [flow.packet(&payload, flags)]);
                // Without the flag nothing is touched.
                assert_eq!(cut(VnetHeader::default(), &open), Ok(vec![open]));
            }
        }
    }
}

/// RFC 768: a sum of zero is sent as all ones, since zero means that there is none.
#[test]
fn a_udp_checksum_is_never_zero() {
    let flow = Flow { udp: true, ..flow(Kind::V6) };
    // Two bytes that bring the sum to where its complement is zero.
    let without = flow.packet(&[0, 0], 0);
    let fill = u16::from_be_bytes([without[46], without[47]]).to_be_bytes();
    let expected = flow.packet(&fill, 0);
    assert_eq!(expected[46..48], [0xff, 0xff]);
    for gso_type in [0, VnetHeader::GSO_UDP_L4] {
        let (header, open) = flow.super_packet(&fill, 2_000, 0);
        assert_eq!(cut(VnetHeader { gso_type, ..header }, &open).unwrap(), [&expected[..]]);
    }
}

#[test]
fn headers_that_do_not_fit_are_malformed() {
    let tcp = flow(Kind::V4 { df: true });
    let (header, packet) = tcp.super_packet(&flow::payload(3_000), 1_000, 0);
    assert!(cut(header, &packet).is_ok());
    let with = |change: fn(&mut VnetHeader)| {
        let mut header = header;
        change(&mut header);
        split(header, &packet, |_| panic!("nothing can come of it"))
    };
    for (what, change) in [
        ("pieces of nothing", (|header| header.gso_size = 0) as fn(&mut VnetHeader)),
        ("a kind that nobody knows", |header| header.gso_type = 3),
        ("transport inside the header", |header| header.csum_start = 19),
        ("transport behind the packet", |header| header.csum_start = 3_040),
        ("transport far behind the packet", |header| header.csum_start = u16::MAX),
        ("a checksum behind the packet", |header| (header.gso_type, header.csum_start) = (0, 3_023)),
        ("a checksum across the end", |header| (header.gso_type, header.csum_offset) = (0, 3_019)),
        ("a checksum far behind the packet", |header| (header.gso_type, header.csum_offset) = (0, u16::MAX)),
    ] {
        assert_eq!(with(change), Err(Malformed), "{what}");
    }
    for (what, at, value) in
        [("no version", 0, 0x55), ("a header too short", 0, 0x44), ("a TCP header too short", 32, 0x40)]
    {
        let mut packet = packet.clone();
        packet[at] = value;
        assert_eq!(split(header, &packet, |_| {}), Err(Malformed), "{what}");
    }
    for length in 0..=40 {
        assert_eq!(split(header, &packet[..length], |_| {}), Err(Malformed), "{length} bytes");
    }
    // Longer than a packet can say.
    let long = [&packet[..], &vec![0; 70_000]].concat();
    assert_eq!(split(VnetHeader { gso_size: u16::MAX, ..header }, &long, |_| {}), Err(Malformed));
}

#[test]
fn a_header_is_what_its_bytes_say() {
    let header = VnetHeader { flags: 1, gso_type: 4, header_len: 74, gso_size: 1_400, csum_start: 40, csum_offset: 16 };
    assert_eq!(VnetHeader::read(&header.to_bytes()), Some(header));
    assert_eq!(VnetHeader::read(&header.to_bytes()[..9]), None);
    assert_eq!(header.to_bytes()[2..4], 74u16.to_ne_bytes());
}
