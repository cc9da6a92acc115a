//! Fragments: the first one opens the way for the others.

mod common;

use causeway_datapath_abi::{Counter, Tuple};
use causeway_datapath_logic::Verdict;
use causeway_datapath_logic::model::Spec;
use causeway_datapath_logic::model::world::*;
use common::Program::{FromNet, FromPod};
use common::{Program, run, send};

/// The `n`th of three fragments.
fn fragment(tuple: Tuple, id: u32, n: u16) -> Spec {
    // The first has eight bytes of UDP header and 24 of payload: the second starts at unit 4.
    Spec { payload: vec![b'0'; 24], fragment: Some((id, n * 4, n < 2)), ..Spec::new(tuple) }
}

#[test]
fn follow_the_first_one() {
    for f in BOTH {
        let cases: [(Program, u32, Tuple, Verdict); 4] = [
            (FromPod, IF_A, f.tuple(UDP, f.pod_a(), 40000, f.vip(VIP_LOCAL), 80), Verdict::Peer { ifindex: IF_B }),
            (FromPod, IF_A, f.tuple(UDP, f.pod_a(), 40000, f.outside(), 53), Verdict::Neighbour { ifindex: IF_UPLINK }),
            (FromNet, IF_UPLINK, f.tuple(UDP, f.outside(), 5, f.vip(VIP_LOCAL), 80), Verdict::Peer { ifindex: IF_B }),
            (
                FromNet,
                IF_UPLINK,
                f.tuple(UDP, f.outside(), 5, f.vip(VIP_REMOTE), 80),
                Verdict::Neighbour { ifindex: IF_UPLINK },
            ),
        ];
        for (program, ifindex, t, verdict) in cases {
            let mut node = world();
            // The checksum of the first fragment covers the others, so only the addresses are checked here; `broken_sum`
            // would not understand it.
            let first = run(&mut node, program, ifindex, fragment(t, 7, 0).build());
            assert_eq!(first.verdict, verdict);
            for n in [1, 2] {
                let later = send(&mut node, program, ifindex, &fragment(t, 7, n));
                assert_eq!(later.verdict, verdict);
                let (a, b) = (later.tuple(), first.tuple());
                assert_eq!((a.src, a.dst), (b.src, b.dst));
                let payload = &later.bytes[later.bytes.len() - 24..];
                assert_eq!(payload, [b'0'; 24], "a later fragment has no ports to rewrite");
            }
            let other = send(&mut node, program, ifindex, &fragment(t, 8, 1));
            assert!(other.is_drop(Counter::FragmentNotFound));
            node.now_s += 31;
            assert!(send(&mut node, program, ifindex, &fragment(t, 7, 1)).is_drop(Counter::FragmentNotFound));
        }
    }
}

#[test]
fn the_first_ones_checksum_changes_as_that_of_the_whole() {
    for f in BOTH {
        let t = f.tuple(UDP, f.pod_a(), 40000, f.vip(VIP_LOCAL), 80);
        let mut node = world();
        let whole = send(&mut node, FromPod, IF_A, &Spec { payload: vec![9; 40], ..Spec::new(t) });
        // The same datagram in two: the header has the checksum of the whole.
        let (before, after) = (Spec { payload: vec![9; 40], ..Spec::new(t) }.build(), whole.bytes);
        let l4 = before.len() - 48;
        let mut first = Spec { payload: vec![9; 24], fragment: Some((1, 0, true)), ..Spec::new(t) }.build();
        let at = first.len() - 32;
        first[at + 6..at + 8].copy_from_slice(&before[l4 + 6..l4 + 8]);
        let out = run(&mut world(), FromPod, IF_A, first);
        assert_eq!(out.bytes[at..at + 4], after[l4..l4 + 4]);
        assert_eq!(out.bytes[at + 6..at + 8], after[l4 + 6..l4 + 8]);
    }
}

#[test]
fn without_a_first_one_only_untranslated_traffic_passes() {
    for f in BOTH {
        let mut node = world();
        let later = |src, dst| fragment(f.tuple(UDP, src, 1, dst, 2), 9, 1);
        let out = send(&mut node, FromPod, IF_A, &later(f.pod_a(), f.pod_b()));
        assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_B });
        let out = send(&mut node, FromPod, IF_A, &later(f.pod_a(), f.remote_pod()));
        assert_eq!(out.verdict, Verdict::Neighbour { ifindex: IF_UPLINK });
        let out = send(&mut node, FromNet, IF_UPLINK, &later(f.outside(), f.node()));
        assert_eq!(out.verdict, Verdict::Stack);
        for dst in [f.outside(), f.vip(VIP_LOCAL)] {
            let out = send(&mut node, FromPod, IF_A, &later(f.pod_a(), dst));
            assert!(out.is_drop(Counter::FragmentNotFound));
        }
        assert!(node.flows.is_empty());
    }
}

#[test]
fn a_first_one_too_short_for_its_checksum_is_refused() {
    let mut node = world();
    let t = V4.tuple(TCP, V4.pod_a(), 40000, V4.vip(VIP_LOCAL), 80);
    let mut bytes = Spec { payload: Vec::new(), ..Spec::new(t) }.build();
    bytes.truncate(14 + 20 + 8);
    bytes[16..18].copy_from_slice(&28u16.to_be_bytes());
    bytes[20] = 0x20;
    assert!(run(&mut node, FromPod, IF_A, bytes).is_drop(Counter::InvalidPacket));
}
