//! Properties: any bytes are survived, and what is translated comes back as it went.

mod common;

use causeway_datapath_abi::{Counter, Tuple};
use causeway_datapath_logic::Verdict;
use causeway_datapath_logic::model::world::*;
use causeway_datapath_logic::model::{MemoryNode, Spec};
use common::Program::{self, FromNet, FromPod, ToNet, ToPod};
use common::{run, send};
use proptest::prelude::*;

fn family() -> impl Strategy<Value = Family> {
    any::<bool>().prop_map(|is_v6| Family { is_v6 })
}

fn program() -> impl Strategy<Value = (Program, u32)> {
    prop_oneof![
        Just((FromPod, IF_A)),
        Just((FromPod, IF_B)),
        Just((FromNet, IF_UPLINK)),
        Just((ToPod, IF_A)),
        Just((ToNet, IF_UPLINK))
    ]
}

/// A destination that a pod or an outside client could try.
fn target(f: Family, n: u8) -> (causeway_datapath_abi::Addr, u16) {
    match n % 14 {
        0 => (f.outside(), 443),
        1 => (f.pod_b(), 8080),
        2 => (f.remote_pod(), 8080),
        3 => (f.pod_a(), 8080),
        n => (f.vip(n - 3), 80),
    }
}

/// A built packet with some of its bytes replaced.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (family(), any::<u8>(), any::<u8>(), 0u8..5, bytes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(f, to, proto, options, changes, cut, cuts)| {
            let (dst, port) = target(f, to);
            let proto = [TCP, UDP, f.icmp(), 132, 50][usize::from(proto % 5)];
            let t = f.tuple(proto, f.pod_a(), 40000, dst, if proto == f.icmp() { 0 } else { port });
            let mut bytes = Spec { options: options * 4 * u8::from(!f.is_v6) + options / 4, ..Spec::new(t) }.build();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cuts {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        },
    )
}

fn check_rows(node: &MemoryNode) {
    for (key, row) in &node.flows {
        let pair = node.flows.get(&row.to.reversed()).expect("every row has its counterpart");
        assert_eq!(pair.to, key.reversed());
        assert_eq!(pair.expires_s, row.expires_s);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), (program, ifindex) in program(), v6: bool) {
        let mut bytes = bytes;
        if bytes.len() > 15 {
            bytes[12..15].copy_from_slice(if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
        }
        let mut node = world();
        let out = run(&mut node, program, ifindex, bytes.clone());
        prop_assert_eq!(out.bytes.len(), bytes.len());
        check_rows(&node);
    }

    #[test]
    fn mangled_packets_never_panic_and_pass_untouched_or_as_a_whole(packets in prop::collection::vec((mangled(), program()), 1..6)) {
        let mut node = world();
        for (bytes, (program, ifindex)) in packets {
            let before = bytes.clone();
            let out = run(&mut node, program, ifindex, bytes);
            if matches!(out.verdict, Verdict::Drop(Counter::InvalidPacket | Counter::InvalidSourceIp | Counter::NoService)) {
                prop_assert_eq!(out.bytes, before);
            }
            check_rows(&node);
        }
        let packets: u64 = Counter::ALL.iter().filter(|c| !matches!(c, Counter::ServiceChosen | Counter::Masqueraded)).map(|c| node.counted(*c)).sum();
        prop_assert!(packets >= 1, "every packet is counted once");
    }

    #[test]
    fn replies_come_back_to_who_asked(
        f in family(),
        requests in prop::collection::vec((any::<bool>(), any::<u8>(), 1u16..=65535, any::<bool>(), any::<bool>()), 1..12),
        seed: u32,
    ) {
        let mut node = world();
        node.config.seed = seed;
        let mut inside = std::collections::HashMap::<Tuple, Tuple>::new();
        for (from_pod, to, sport, udp, options) in requests {
            let (dst, dport) = target(f, to);
            let (program, ifindex, src) = if from_pod { (FromPod, IF_A, f.pod_a()) } else { (FromNet, IF_UPLINK, f.outside()) };
            let t = f.tuple(if udp { UDP } else { TCP }, src, sport, dst, dport);
            let out = send(&mut node, program, ifindex, &Spec { options: if options { 8 } else { 0 }, ..Spec::new(t) });
            if matches!(out.verdict, Verdict::Drop(_) | Verdict::Stack) || src == dst {
                continue;
            }
            let seen = out.tuple();
            if let Some(other) = inside.insert(seen, t) {
                prop_assert_eq!(other, t, "two connections look alike to the far side");
            }
        }
        for (seen, t) in inside {
            let reply = Spec { tcp_flags: 0x12, ..Spec::new(seen.reversed()) };
            let (program, ifindex) = if seen.dst == f.pod_b() {
                (FromPod, IF_B)
            } else if seen.dst == f.pod_a() {
                (FromPod, IF_A)
            } else {
                (FromNet, IF_UPLINK)
            };
            let back = send(&mut node, program, ifindex, &reply);
            prop_assert_eq!(back.tuple(), t.reversed());
            check_rows(&node);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without(sport in 1u16..=65535, vip in prop_oneof![Just(VIP_LOCAL), Just(VIP_REMOTE)]) {
        let mut node = world();
        let t = V4.tuple(UDP, V4.outside(), sport, V4.vip(vip), 80);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec { no_udp_sum: true, ..Spec::new(t) });
        prop_assert_eq!(&out.bytes[40..42], &[0, 0]);
        prop_assert_ne!(out.tuple().dst, t.dst);
    }
}
