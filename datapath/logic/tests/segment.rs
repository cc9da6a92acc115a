//! The segment size that TCP says, lowered to what the way takes.

mod common;

use causeway_datapath_logic::Verdict;
use causeway_datapath_logic::model::Spec;
use causeway_datapath_logic::model::world::*;
use common::Program::{FromNet, FromPod, ToNet};
use common::send;
use proptest::prelude::*;

const SYN: u8 = 2;
const ACK: u8 = 16;

fn option(size: u16) -> Vec<u8> {
    let [high, low] = size.to_be_bytes();
    vec![2, 4, high, low]
}

/// The segment size that a frame without IP options says at this place behind the TCP header.
fn said(frame: &[u8], f: Family, at: usize) -> u16 {
    let tcp = 14 + if f.is_v6 { 40 } else { 20 };
    u16::from_be_bytes([frame[tcp + 20 + at], frame[tcp + 21 + at]])
}

fn syn(f: Family, options: Vec<u8>) -> Spec {
    let t = f.tuple(TCP, f.pod_a(), 40000, f.outside(), 443);
    Spec { tcp_options: options, payload: vec![], ..Spec::new(t) }
}

/// What fits into the 1,500 bytes of the uplink.
fn most(f: Family) -> u16 {
    if f.is_v6 { 1440 } else { 1460 }
}

#[test]
fn a_greater_size_is_lowered_and_a_smaller_one_stays() {
    for f in BOTH {
        for (size, want) in [(8960, most(f)), (most(f) + 1, most(f)), (most(f), most(f)), (536, 536), (0, 0)] {
            let out = send(&mut world(), FromPod, IF_A, &syn(f, option(size)));
            assert_eq!(out.verdict, Verdict::Neighbour { ifindex: IF_UPLINK });
            assert_eq!(said(&out.bytes, f, 2), want);
        }
    }
}

#[test]
fn both_directions_and_services_are_covered_and_only_the_way_out() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.outside(), 40000, f.vip(VIP_LOCAL), 80);
        let jumbo = |t, tcp_flags| Spec { tcp_options: option(8960), tcp_flags, payload: vec![], ..Spec::new(t) };
        let inside = send(&mut node, FromNet, IF_UPLINK, &jumbo(t, SYN));
        assert_eq!(inside.verdict, Verdict::Peer { ifindex: IF_B });
        assert_eq!(said(&inside.bytes, f, 2), 8960);
        let answer = send(&mut node, FromPod, IF_B, &jumbo(inside.tuple().reversed(), SYN | ACK));
        assert_eq!(answer.tuple(), t.reversed());
        assert_eq!(said(&answer.bytes, f, 2), most(f));
        let host = f.tuple(TCP, f.node(), 40000, f.vip(VIP_REMOTE), 80);
        let host = send(&mut node, ToNet, IF_UPLINK, &jumbo(host, SYN));
        assert_eq!(host.verdict, Verdict::Neighbour { ifindex: IF_UPLINK });
        assert_eq!(said(&host.bytes, f, 2), most(f));
    }
}

#[test]
fn other_segments_and_unknown_sizes_stay() {
    for f in BOTH {
        let mut node = world();
        send(&mut node, FromPod, IF_A, &syn(f, vec![]));
        let ack = Spec { tcp_flags: ACK, ..syn(f, option(8960)) };
        assert_eq!(said(&send(&mut node, FromPod, IF_A, &ack).bytes, f, 2), 8960);
        for mtu in [0, 464] {
            let mut node = world();
            node.routes.iter_mut().for_each(|route| route.mtu = mtu);
            let out = send(&mut node, FromPod, IF_A, &syn(f, option(8960)));
            assert_eq!(said(&out.bytes, f, 2), 8960, "MTU {mtu}");
        }
    }
}

#[test]
fn a_syn_that_is_too_big_itself_is_still_refused() {
    for f in BOTH {
        let spec = Spec { payload: vec![0; 1500], ..syn(f, option(8960)) };
        let out = send(&mut world(), FromPod, IF_A, &spec);
        assert_eq!(out.verdict, Verdict::Stack, "the stack answers");
        assert_eq!(out.bytes, spec.build());
    }
}

#[test]
fn options_in_front_are_stepped_over() {
    for f in BOTH {
        let cases: [(&[u8], usize); 4] =
            [(&[1, 1, 1, 1], 6), (&[4, 2, 1, 1], 6), (&[3, 3, 7], 5), (&[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1], 13)];
        for (before, at) in cases {
            let mut options = [before, &option(8960)].concat();
            options.resize(options.len().next_multiple_of(4), 0);
            let out = send(&mut world(), FromPod, IF_A, &syn(f, options));
            assert_eq!(said(&out.bytes, f, at), most(f), "behind {before:?}");
        }
    }
}

#[test]
fn a_list_that_is_broken_or_has_ended_is_left_alone() {
    for f in BOTH {
        let cases: [&[u8]; 4] = [&[0, 0, 0, 0], &[30, 0, 0, 0], &[30, 1, 0, 0], &[30, 39, 0, 0]];
        for before in cases {
            let options = [before, &option(8960)].concat();
            let out = send(&mut world(), FromPod, IF_A, &syn(f, options.clone()));
            assert_eq!(said(&out.bytes, f, 6), 8960, "behind {before:?}");
        }
    }
}

proptest! {
    /// Whatever the options are: checksums stay right (`send` looks), and at most two bytes of them change.
    #[test]
    fn any_options(mut options in prop::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..40), is_v6: bool) {
        options.truncate(options.len() / 4 * 4);
        let f = Family { is_v6 };
        let out = send(&mut world(), FromPod, IF_A, &syn(f, options.clone()));
        let tcp = 34 + if is_v6 { 40 } else { 20 };
        let changed = out.bytes[tcp..].iter().zip(&options).filter(|(a, b)| a != b).count();
        prop_assert!(changed <= 2);
    }
}
