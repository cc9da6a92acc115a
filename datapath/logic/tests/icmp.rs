//! ICMP errors about translated connections: the packet inside must be one that its sender knows.

mod common;

use causeway_datapath_abi::{Addr, Counter, Tuple};
use causeway_datapath_logic::Verdict;
use causeway_datapath_logic::model::world::*;
use causeway_datapath_logic::model::{MemoryNode, Spec};
use common::Program::{FromNet, FromPod, ToPod};
use common::{Out, Program, send};

/// The errors of a family: unreachable, time exceeded, parameter problem, and packet too big for IPv6.
fn kinds(f: Family) -> &'static [(u8, u8)] {
    if f.is_v6 { &[(1, 4), (2, 0), (3, 0), (4, 0)] } else { &[(3, 3), (3, 4), (11, 0), (12, 0)] }
}

/// An error of `kind` from `src` about `inside`, to the sender of `inside`.
fn error(f: Family, src: Addr, inside: &Spec, kind: (u8, u8), keep: usize) -> Spec {
    let mut body = inside.build_ip();
    body.truncate(keep);
    let outer = f.tuple(f.icmp(), src, 0, inside.tuple.src, 0);
    Spec { icmp: Some(kind), payload: body, ..Spec::new(outer) }
}

/// The tuple of the packet inside the error that came out.
fn inside(out: &Out) -> Tuple {
    let v6 = out.bytes[12] != 8;
    let at = if v6 { 14 + 40 + 8 } else { 14 + 20 + 8 };
    let mut frame = out.bytes[..14].to_vec();
    frame.extend(&out.bytes[at..]);
    Out { verdict: out.verdict, bytes: frame }.tuple()
}

/// Sends an error about `about`, as it looks on the far side, and expects it to arrive speaking of `known`.
fn check(
    node: &mut MemoryNode,
    program: Program,
    ifindex: u32,
    f: Family,
    about: Tuple,
    known: Tuple,
    verdict: Verdict,
) {
    for &kind in kinds(f) {
        for (src, seen_as) in [(about.dst, known.dst), (f.router(), f.router())] {
            if program == FromPod && src == f.router() {
                continue;
            }
            let out = send(node, program, ifindex, &error(f, src, &Spec::new(about), kind, usize::MAX));
            assert_eq!(out.verdict, verdict, "{kind:?}");
            assert_eq!((out.tuple().src, out.tuple().dst), (seen_as, known.src), "{kind:?}");
            assert_eq!(inside(&out), known, "{kind:?}");
        }
    }
}

#[test]
fn about_masqueraded_connections() {
    for f in BOTH {
        for (proto, dport) in [(TCP, 443), (UDP, 53), (f.icmp(), 0)] {
            let mut node = world();
            let t = f.tuple(proto, f.pod_a(), 40000, f.outside(), dport);
            let outer = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
            assert_ne!(outer.sport, t.sport);
            check(&mut node, FromNet, IF_UPLINK, f, outer, t, Verdict::Peer { ifindex: IF_A });
        }
    }
}

#[test]
fn no_route_to_a_backend_that_never_answered_is_kept_from_the_client() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.pod_a(), 40000, f.vip(VIP_REMOTE), 80);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
        let (no_route, refused) = if f.is_v6 { ((1, 0), (1, 1)) } else { ((3, 0), (3, 13)) };
        let say = |node: &mut _, kind| {
            send(node, FromNet, IF_UPLINK, &error(f, f.router(), &Spec::new(out), kind, usize::MAX))
        };
        let circle = if f.is_v6 { (3, 0) } else { (11, 0) };
        assert!(say(&mut node, no_route).is_drop(Counter::BackendUnreachable));
        assert!(say(&mut node, circle).is_drop(Counter::BackendUnreachable));
        assert_eq!(say(&mut node, refused).verdict, Verdict::Peer { ifindex: IF_A }, "a refusal is told");
        assert!(
            send(&mut node, ToPod, IF_A, &error(f, f.router(), &Spec::new(out), no_route, usize::MAX))
                .is_drop(Counter::BackendUnreachable)
        );
        // Once a backend has answered, the connection is its own, and so is the error.
        send(&mut node, FromNet, IF_UPLINK, &Spec::new(out.reversed()));
        assert_eq!(say(&mut node, no_route).verdict, Verdict::Peer { ifindex: IF_A });
        // No service chose here, so there is no other way to take.
        let t = f.tuple(TCP, f.pod_a(), 40001, f.outside(), 443);
        let outer = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
        let spec = error(f, f.router(), &Spec::new(outer), no_route, usize::MAX);
        assert_eq!(send(&mut node, FromNet, IF_UPLINK, &spec).verdict, Verdict::Peer { ifindex: IF_A });
    }
}

#[test]
fn about_connections_of_pods_to_services() {
    for f in BOTH {
        for proto in [TCP, UDP] {
            let mut node = world();
            let t = f.tuple(proto, f.pod_a(), 40000, f.vip(VIP_REMOTE), 80);
            let out = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
            send(&mut node, FromNet, IF_UPLINK, &Spec::new(out.reversed()));
            check(&mut node, FromNet, IF_UPLINK, f, out, t, Verdict::Peer { ifindex: IF_A });
            let t = f.tuple(proto, f.pod_a(), 40000, f.vip(VIP_LOCAL), 80);
            let out = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
            send(&mut node, FromPod, IF_B, &Spec::new(out.reversed()));
            check(&mut node, FromPod, IF_B, f, out, t, Verdict::Peer { ifindex: IF_A });
            // The host's stack complains about the translated packet.
            check(&mut node, ToPod, IF_A, f, out, t, Verdict::Stack);
        }
    }
}

#[test]
fn about_connections_from_the_wire_to_services() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(UDP, f.outside(), 50000, f.vip(VIP_LOCAL), 80);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t)).tuple();
        check(&mut node, FromPod, IF_B, f, out, t, Verdict::Neighbour { ifindex: IF_UPLINK });
        let t = f.tuple(UDP, f.outside(), 50000, f.vip(VIP_REMOTE), 80);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t)).tuple();
        check(&mut node, FromNet, IF_UPLINK, f, out, t, Verdict::Neighbour { ifindex: IF_UPLINK });
        // A router on the way to the client complains about an answer: it goes to the backend, as the backend knows it.
        check(
            &mut node,
            FromNet,
            IF_UPLINK,
            f,
            t.reversed(),
            out.reversed(),
            Verdict::Neighbour { ifindex: IF_UPLINK },
        );
    }
}

#[test]
fn eight_bytes_of_the_packet_inside_are_enough() {
    for f in BOTH {
        for proto in [TCP, UDP] {
            let mut node = world();
            let t = f.tuple(proto, f.pod_a(), 40000, f.outside(), 53);
            let outer = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
            let header = if f.is_v6 { 40 } else { 20 };
            let spec = error(f, f.router(), &Spec::new(outer), kinds(f)[0], header + 8);
            let bytes = spec.build();
            let out = common::run(&mut node, FromNet, IF_UPLINK, bytes);
            assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_A });
            assert_eq!(out.tuple().dst, f.pod_a());
            // The ports inside are the pod's again, and the error's own checksum holds.
            let at = 14 + header + 8 + header;
            assert_eq!(out.bytes[at..at + 2], t.sport);
            let again = error(f, f.router(), &Spec::new(t), kinds(f)[0], header + 8);
            if proto == TCP {
                let mut expected = Spec { ttl: 63, ..again }.build();
                expected[..12].copy_from_slice(&out.bytes[..12]);
                assert_eq!(out.bytes, expected);
            }
        }
    }
}

#[test]
fn about_unknown_connections() {
    for f in BOTH {
        let mut node = world();
        let about = |src| Spec::new(f.tuple(UDP, src, 1, f.outside(), 2));
        let spec = error(f, f.outside(), &about(f.node()), kinds(f)[0], usize::MAX);
        let out = send(&mut node, FromNet, IF_UPLINK, &spec);
        assert_eq!((out.verdict, out.bytes), (Verdict::Stack, spec.build()), "it is the host's own");
        let spec = error(f, f.outside(), &about(f.pod_a()), kinds(f)[0], usize::MAX);
        assert_eq!(send(&mut node, FromNet, IF_UPLINK, &spec).verdict, Verdict::Peer { ifindex: IF_A });
        let spec = error(f, f.outside(), &about(f.vip(VIP_LOCAL)), kinds(f)[0], usize::MAX);
        assert!(send(&mut node, FromNet, IF_UPLINK, &spec).is_drop(Counter::NoService));
        // From a pod to the outside it would carry the pod's address there.
        let about = Spec::new(f.tuple(UDP, f.outside(), 1, f.pod_a(), 2));
        let spec = error(f, f.pod_a(), &about, kinds(f)[0], usize::MAX);
        assert!(send(&mut node, FromPod, IF_A, &spec).is_drop(Counter::NoMappingForNat));
        // An error to somebody who did not send the packet inside is not a known connection's.
        let t = f.tuple(UDP, f.pod_a(), 40000, f.outside(), 53);
        let outer = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
        let mut spec = error(f, f.router(), &Spec::new(outer), kinds(f)[0], usize::MAX);
        spec.tuple.dst = f.pod_b();
        let out = send(&mut node, FromNet, IF_UPLINK, &spec);
        assert_eq!((out.verdict, inside(&out)), (Verdict::Peer { ifindex: IF_B }, outer));
    }
}
