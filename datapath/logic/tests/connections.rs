//! Services, masquerade and delivery, in both families and in both directions.

mod common;

use causeway_datapath_abi::{Counter, flow_flag};
use causeway_datapath_logic::Verdict;
use causeway_datapath_logic::model::Spec;
use causeway_datapath_logic::model::world::*;
use common::Program::{FromNet, FromPod, ToNet, ToPod};
use common::{Out, send};

const SYN: u8 = 2;
const ACK: u8 = 16;
const FIN: u8 = 1;
const RST: u8 = 4;

fn with_flags(tuple: causeway_datapath_abi::Tuple, flags: u8) -> Spec {
    Spec { tcp_flags: flags, ..Spec::new(tuple) }
}

fn to_wire(out: &Out) -> bool {
    out.verdict == Verdict::Neighbour { ifindex: IF_UPLINK }
}

#[test]
fn pod_to_pod_on_this_node() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.pod_a(), 40000, f.pod_b(), 80);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_B });
        assert_eq!(out.tuple(), t);
        assert_eq!(out.ttl(), 63);
        assert_eq!(&out.bytes[..12], &[2, 0, 0, 0, 0, 0xb, 6, 0, 0, 0, 0, 0xb]);
        let back = send(&mut node, FromPod, IF_B, &Spec::new(t.reversed()));
        assert_eq!(back.verdict, Verdict::Peer { ifindex: IF_A });
        assert_eq!(back.tuple(), t.reversed());
        assert_eq!(node.counted(Counter::ToEndpoint), 2);
    }
}

#[test]
fn a_pod_cannot_use_anothers_address() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(UDP, f.pod_a(), 40000, f.outside(), 53);
        assert!(send(&mut node, FromPod, IF_B, &Spec::new(t)).is_drop(Counter::InvalidSourceIp));
        let t = f.tuple(UDP, f.router(), 40000, f.outside(), 53);
        assert!(send(&mut node, FromPod, IF_B, &Spec::new(t)).is_drop(Counter::InvalidSourceIp));
        assert!(node.flows.is_empty());
        assert_eq!(node.counted(Counter::InvalidSourceIp), 2);
    }
}

#[test]
fn a_service_reached_by_a_pod_answers_from_its_own_address() {
    for f in BOTH {
        for proto in [TCP, UDP] {
            for (vip, backend, ifindex) in [(VIP_LOCAL, f.pod_b(), Some(IF_B)), (VIP_REMOTE, f.remote_pod(), None)] {
                let mut node = world();
                let t = f.tuple(proto, f.pod_a(), 40000, f.vip(vip), 80);
                let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
                let expected = f.tuple(proto, f.pod_a(), 40000, backend, 8080);
                assert_eq!(out.tuple(), expected);
                assert_eq!(out.ttl(), 63);
                let back = match ifindex {
                    Some(ifindex) => {
                        assert_eq!(out.verdict, Verdict::Peer { ifindex });
                        send(&mut node, FromPod, ifindex, &Spec::new(expected.reversed()))
                    }
                    None => {
                        assert!(to_wire(&out));
                        send(&mut node, FromNet, IF_UPLINK, &Spec::new(expected.reversed()))
                    }
                };
                assert_eq!(back.tuple(), t.reversed());
                assert_eq!(back.verdict, Verdict::Peer { ifindex: IF_A });
                assert_eq!(node.counted(Counter::ServiceChosen), 1);
            }
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_a_service() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.pod_a(), 40000, f.vip(VIP_A), 80);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        let hairpin = f.tuple(TCP, f.hairpin(), 40000, f.pod_a(), 8080);
        assert_eq!(out.tuple(), hairpin);
        assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_A });
        let back = send(&mut node, FromPod, IF_A, &Spec::new(hairpin.reversed()));
        assert_eq!(back.tuple(), t.reversed());
        assert_eq!(back.verdict, Verdict::Peer { ifindex: IF_A });
    }
}

#[test]
fn one_backend_behind_two_services_and_directly_from_one_port() {
    for f in BOTH {
        let mut node = world();
        let mut seen = Vec::new();
        for (dst, port) in [(f.vip(VIP_LOCAL), 80), (f.vip(VIP_TWIN), 80), (f.pod_b(), 8080)] {
            let t = f.tuple(TCP, f.pod_a(), 40000, dst, port);
            let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
            assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_B });
            seen.push((t, out.tuple()));
        }
        assert_ne!(seen[0].1, seen[1].1);
        assert_ne!(seen[1].1, seen[2].1);
        for (t, inside) in seen {
            let back = send(&mut node, FromPod, IF_B, &Spec::new(inside.reversed()));
            assert_eq!(back.tuple(), t.reversed());
        }
    }
}

#[test]
fn what_a_pod_cannot_reach() {
    for f in BOTH {
        let mut node = world();
        for (dst, port, why) in [
            (f.vip(VIP_LOCAL), 81, Counter::NoService),
            (f.vip(VIP_EMPTY), 80, Counter::ServiceBackendNotFound),
            (f.vip(VIP_ITP_LOCAL), 80, Counter::ServiceBackendNotFound),
        ] {
            let t = f.tuple(TCP, f.pod_a(), 40000, dst, port);
            assert!(send(&mut node, FromPod, IF_A, &Spec::new(t)).is_drop(why), "{why:?}");
        }
        assert!(node.flows.is_empty());
    }
}

#[test]
fn traffic_that_leaves_the_cluster_is_masqueraded() {
    for f in BOTH {
        for (proto, sport) in [(TCP, 40000), (UDP, 40000), (UDP, 2000), (f.icmp(), 77)] {
            let mut node = world();
            let dport = if proto == f.icmp() { 0 } else { 443 };
            let t = f.tuple(proto, f.pod_a(), sport, f.outside(), dport);
            let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
            assert!(to_wire(&out));
            let outer = out.tuple();
            assert_eq!((outer.src, outer.dst, outer.dport), (f.node(), t.dst, t.dport));
            let port = u16::from_be_bytes(outer.sport);
            assert!((1024..=32767).contains(&port), "port {port}");
            if (1024..=32767).contains(&sport) {
                assert_eq!(port, sport, "a fitting port is kept");
            }
            assert_eq!(node.counted(Counter::Masqueraded), 1);
            let back = send(&mut node, FromNet, IF_UPLINK, &Spec::new(outer.reversed()));
            assert_eq!(back.tuple(), t.reversed());
            assert_eq!(back.verdict, Verdict::Peer { ifindex: IF_A });
        }
    }
}

#[test]
fn two_pods_with_one_port_get_two() {
    for f in BOTH {
        let mut node = world();
        let a = send(&mut node, FromPod, IF_A, &Spec::new(f.tuple(UDP, f.pod_a(), 2000, f.outside(), 53)));
        let b = send(&mut node, FromPod, IF_B, &Spec::new(f.tuple(UDP, f.pod_b(), 2000, f.outside(), 53)));
        assert_eq!(a.tuple().sport, 2000u16.to_be_bytes());
        assert_ne!(a.tuple().sport, b.tuple().sport);
        let back = send(&mut node, FromNet, IF_UPLINK, &Spec::new(b.tuple().reversed()));
        assert_eq!(back.verdict, Verdict::Peer { ifindex: IF_B });
        assert_eq!(back.tuple().dport, 2000u16.to_be_bytes());
    }
}

#[test]
fn no_port_left_is_said() {
    let mut node = world();
    (node.config.snat_port_min, node.config.snat_port_max) = (5000, 5001);
    let mut refused = 0;
    for sport in 40000..40010 {
        let t = V4.tuple(UDP, V4.pod_a(), sport, V4.outside(), 53);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        refused += u32::from(out.is_drop(Counter::NoMappingForNat));
    }
    assert_eq!(refused, 8);
}

#[test]
fn a_full_table_is_said_and_leaves_no_half_connection() {
    let mut node = world();
    node.flows_limit = Some(1);
    let t = V4.tuple(UDP, V4.pod_a(), 40000, V4.outside(), 53);
    assert!(send(&mut node, FromPod, IF_A, &Spec::new(t)).is_drop(Counter::FlowInsertFailed));
    assert!(node.flows.is_empty());
}

#[test]
fn an_expired_mapping_is_given_away() {
    let mut node = world();
    let a = V4.tuple(UDP, V4.pod_a(), 2000, V4.outside(), 53);
    let b = V4.tuple(UDP, V4.pod_b(), 2000, V4.outside(), 53);
    send(&mut node, FromPod, IF_A, &Spec::new(a));
    node.now_s += 61;
    let out = send(&mut node, FromPod, IF_B, &Spec::new(b));
    assert_eq!(out.tuple().sport, b.sport);
    // The first connection comes back and gets another port.
    let again = send(&mut node, FromPod, IF_A, &Spec::new(a));
    assert_ne!(again.tuple().sport, a.sport);
}

#[test]
fn masquerade_can_be_off() {
    for f in BOTH {
        let mut node = world();
        node.config.flags = 0;
        let t = f.tuple(TCP, f.pod_a(), 40000, f.outside(), 443);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        assert!(to_wire(&out));
        assert_eq!(out.tuple(), t);
    }
}

#[test]
fn a_service_outside_of_the_cluster_is_masqueraded_too() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.pod_a(), 40000, f.vip(VIP_OUTSIDE), 80);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        assert!(to_wire(&out));
        assert_eq!((out.tuple().src, out.tuple().dst), (f.node(), f.outside()));
        let back = send(&mut node, FromNet, IF_UPLINK, &Spec::new(out.tuple().reversed()));
        assert_eq!(back.tuple(), t.reversed());
    }
}

#[test]
fn a_service_whose_backend_is_the_node() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.pod_a(), 40000, f.vip(VIP_NODE), 80);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        assert_eq!(out.verdict, Verdict::Stack);
        let inside = f.tuple(TCP, f.pod_a(), 40000, f.node(), 8080);
        assert_eq!(out.tuple(), inside);
        let back = send(&mut node, ToPod, IF_A, &Spec::new(inside.reversed()));
        assert_eq!(back.verdict, Verdict::Stack);
        assert_eq!(back.tuple(), t.reversed());
    }
}

#[test]
fn from_the_wire_to_a_backend_in_the_hosts_namespace() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.outside(), 50000, f.vip(VIP_NODE), 80);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t));
        let inside = f.tuple(TCP, f.outside(), 50000, f.node(), 8080);
        assert_eq!((out.verdict, out.tuple()), (Verdict::Stack, inside));
        let back = send(&mut node, ToNet, IF_UPLINK, &Spec::new(inside.reversed()));
        assert_eq!((back.verdict, back.tuple(), back.ttl()), (Verdict::Stack, t.reversed(), 64));
    }
}

#[test]
fn the_host_reaches_services() {
    for f in BOTH {
        for proto in [TCP, UDP] {
            let mut node = world();
            let t = f.tuple(proto, f.node(), 40000, f.vip(VIP_INTERNAL), 80);
            let out = send(&mut node, ToNet, IF_UPLINK, &Spec::new(t));
            let inside = f.tuple(proto, f.node(), 40000, f.pod_b(), 8080);
            assert_eq!((out.verdict, out.tuple()), (Verdict::Device { ifindex: IF_B }, inside));
            assert_eq!(&out.bytes[..12], &[2, 0, 0, 0, 0, 0xb, 6, 0, 0, 0, 0, 0xb]);
            assert_eq!(send(&mut node, ToPod, IF_B, &Spec::new(inside)).tuple(), inside);
            let back = send(&mut node, FromPod, IF_B, &Spec::new(inside.reversed()));
            assert_eq!((back.verdict, back.tuple()), (Verdict::Stack, t.reversed()));
            let t = f.tuple(proto, f.node(), 40000, f.vip(VIP_REMOTE), 80);
            let out = send(&mut node, ToNet, IF_UPLINK, &Spec::new(t));
            assert!(to_wire(&out));
            let inside = f.tuple(proto, f.node(), 40000, f.remote_pod(), 8080);
            assert_eq!(out.tuple(), inside);
            let back = send(&mut node, FromNet, IF_UPLINK, &Spec::new(inside.reversed()));
            assert_eq!((back.verdict, back.tuple()), (Verdict::Stack, t.reversed()));
        }
    }
}

#[test]
fn what_the_host_cannot_reach_and_what_is_not_for_us() {
    for f in BOTH {
        let mut node = world();
        for (vip, port, why) in [
            (VIP_LOCAL, 81, Counter::NoService),
            (VIP_EMPTY, 80, Counter::ServiceBackendNotFound),
            (VIP_NODE, 80, Counter::ServiceBackendNotFound),
        ] {
            let t = f.tuple(TCP, f.node(), 40000, f.vip(vip), port);
            assert!(send(&mut node, ToNet, IF_UPLINK, &Spec::new(t)).is_drop(why));
        }
        let spec = Spec::new(f.tuple(TCP, f.node(), 40000, f.outside(), 443));
        let out = send(&mut node, ToNet, IF_UPLINK, &spec);
        assert_eq!((out.verdict, out.bytes), (Verdict::Stack, spec.build()));
        assert!(node.flows.is_empty());
    }
}

#[test]
fn from_the_wire_to_a_local_backend_the_client_stays_visible() {
    for f in BOTH {
        for vip in [VIP_LOCAL, VIP_ETP_LOCAL] {
            let mut node = world();
            let t = f.tuple(TCP, f.outside(), 50000, f.vip(vip), 80);
            let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t));
            let inside = f.tuple(TCP, f.outside(), 50000, f.pod_b(), 8080);
            assert_eq!(out.tuple(), inside);
            assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_B });
            let back = send(&mut node, FromPod, IF_B, &Spec::new(inside.reversed()));
            assert!(to_wire(&back));
            assert_eq!(back.tuple(), t.reversed());
            assert_eq!(node.counted(Counter::Masqueraded), 0);
        }
    }
}

#[test]
fn from_the_wire_to_a_remote_backend_answers_come_back_here() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(UDP, f.outside(), 50000, f.vip(VIP_REMOTE), 80);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t));
        assert!(to_wire(&out));
        let inside = out.tuple();
        assert_eq!((inside.src, inside.dst, inside.dport), (f.node(), f.remote_pod(), 8080u16.to_be_bytes()));
        let back = send(&mut node, FromNet, IF_UPLINK, &Spec::new(inside.reversed()));
        assert!(to_wire(&back));
        assert_eq!(back.tuple(), t.reversed());
        assert_eq!(back.ttl(), 63);
    }
}

#[test]
fn what_the_wire_cannot_reach() {
    for f in BOTH {
        let mut node = world();
        for (vip, port, why) in [
            (VIP_INTERNAL, 80, Counter::NoService),
            (VIP_LOCAL, 81, Counter::NoService),
            (VIP_EMPTY, 80, Counter::ServiceBackendNotFound),
        ] {
            let t = f.tuple(TCP, f.outside(), 50000, f.vip(vip), port);
            assert!(send(&mut node, FromNet, IF_UPLINK, &Spec::new(t)).is_drop(why));
        }
        let t = f.tuple(f.icmp(), f.outside(), 5, f.vip(VIP_INTERNAL), 0);
        assert!(send(&mut node, FromNet, IF_UPLINK, &Spec::new(t)).is_drop(Counter::NoService));
    }
}

#[test]
fn a_connection_from_outside_to_a_pod_is_not_masqueraded_on_its_way_back() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.outside(), 50000, f.pod_a(), 9000);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t));
        assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_A });
        assert_eq!(out.tuple(), t);
        let back = send(&mut node, FromPod, IF_A, &Spec::new(t.reversed()));
        assert!(to_wire(&back));
        assert_eq!(back.tuple(), t.reversed());
    }
}

#[test]
fn the_host_and_its_pod_talk_untranslated() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.node(), 50000, f.pod_a(), 9000);
        assert_eq!(send(&mut node, ToPod, IF_A, &Spec::new(t)).tuple(), t);
        let back = send(&mut node, FromPod, IF_A, &Spec::new(t.reversed()));
        assert_eq!((back.verdict, back.tuple(), back.ttl()), (Verdict::Stack, t.reversed(), 64));
        // A client behind an interface without a program: its connection came through the stack.
        let t = f.tuple(TCP, f.router(), 50000, f.pod_a(), 9000);
        send(&mut node, ToPod, IF_A, &Spec::new(t));
        let back = send(&mut node, FromPod, IF_A, &Spec::new(t.reversed()));
        assert_eq!((to_wire(&back), back.tuple()), (true, t.reversed()));
    }
}

#[test]
fn what_is_the_hosts_passes_untouched() {
    for f in BOTH {
        let mut node = world();
        let spec = Spec::new(f.tuple(TCP, f.outside(), 50000, f.node(), 22));
        let out = send(&mut node, FromNet, IF_UPLINK, &spec);
        assert_eq!((out.verdict, out.bytes), (Verdict::Stack, spec.build()));
        assert!(node.flows.is_empty());
        let spec = Spec::new(f.tuple(TCP, f.pod_a(), 50000, f.node(), 22));
        let out = send(&mut node, FromPod, IF_A, &spec);
        assert_eq!((out.verdict, out.bytes), (Verdict::Stack, spec.build()));
    }
}

#[test]
fn the_last_hop_is_the_stacks() {
    for f in BOTH {
        for (dst, port) in [(f.outside(), 443), (f.pod_b(), 80), (f.vip(VIP_LOCAL), 80)] {
            let mut node = world();
            let spec = Spec { ttl: 1, ..Spec::new(f.tuple(TCP, f.pod_a(), 40000, dst, port)) };
            let out = send(&mut node, FromPod, IF_A, &spec);
            assert_eq!((out.verdict, out.bytes), (Verdict::Stack, spec.build()));
            assert!(node.flows.is_empty());
        }
    }
}

#[test]
fn too_big_for_the_wire() {
    for f in BOTH {
        let mut node = world();
        let big = |dst, port, dont_fragment| Spec {
            payload: vec![0; 1600],
            dont_fragment,
            ..Spec::new(f.tuple(UDP, f.pod_a(), 40000, dst, port))
        };
        // The stack answers the untouched packet.
        let out = send(&mut node, FromPod, IF_A, &big(f.outside(), 53, true));
        assert_eq!((out.verdict, out.bytes), (Verdict::Stack, big(f.outside(), 53, true).build()));
        // To a remote backend the stack gets what it can answer, and `to_pod` translates the answer.
        let out = send(&mut node, FromPod, IF_A, &big(f.vip(VIP_REMOTE), 80, true));
        assert_eq!((out.verdict, out.tuple().dst), (Verdict::Stack, f.remote_pod()));
        if !f.is_v6 {
            // The stack would fragment and forward it under an address that is the node's.
            let out = send(&mut node, FromPod, IF_A, &big(f.outside(), 54, false));
            assert!(out.is_drop(Counter::FibLookupFailed));
        }
    }
}

#[test]
fn routes_that_refuse() {
    let mut node = world();
    let to = |last| Spec::new(V4.tuple(TCP, V4.pod_a(), 40000, causeway_datapath_abi::Addr::v4([203, 0, last, 1]), 80));
    assert_eq!(send(&mut node, FromPod, IF_A, &to(1)).verdict, Verdict::Stack);
    assert!(send(&mut node, FromPod, IF_A, &to(2)).is_drop(Counter::FibLookupFailed));
    assert!(node.flows.is_empty());
}

#[test]
fn a_service_address_answers_echo_requests() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(f.icmp(), f.outside(), 5, f.vip(VIP_LOCAL), 0);
        let out = send(&mut node, FromNet, IF_UPLINK, &Spec::new(t));
        assert!(to_wire(&out));
        assert_eq!(out.tuple(), t.reversed());
        let t = f.tuple(f.icmp(), f.pod_a(), 5, f.vip(VIP_INTERNAL), 0);
        let out = send(&mut node, FromPod, IF_A, &Spec::new(t));
        assert_eq!(out.verdict, Verdict::Peer { ifindex: IF_A });
        assert_eq!(out.tuple(), t.reversed());
        assert!(node.flows.is_empty());
    }
}

#[test]
fn neighbours_and_groups_are_the_stacks() {
    let mut node = world();
    let link_local = causeway_datapath_abi::Addr([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    let group = causeway_datapath_abi::Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for (src, dst) in [(link_local, V6.node()), (V6.pod_a(), link_local), (V6.pod_a(), group)] {
        let out = send(&mut node, FromPod, IF_A, &Spec::new(V6.tuple(UDP, src, 1, dst, 2)));
        assert_eq!(out.verdict, Verdict::Stack);
    }
    // A neighbour solicitation between global addresses.
    let spec = Spec { icmp: Some((135, 0)), ..Spec::new(V6.tuple(58, V6.pod_a(), 0, V6.pod_b(), 0)) };
    assert_eq!(send(&mut node, FromPod, IF_A, &spec).verdict, Verdict::Stack);
    let mut arp = vec![0xff; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(common::run(&mut node, FromPod, IF_A, arp).verdict, Verdict::Stack);
}

#[test]
fn the_life_of_a_tcp_connection() {
    let mut node = world();
    let t = V4.tuple(TCP, V4.pod_a(), 40000, V4.vip(VIP_LOCAL), 80);
    let inside = V4.tuple(TCP, V4.pod_a(), 40000, V4.pod_b(), 8080);
    let forward = |node: &mut _, flags| send(node, FromPod, IF_A, &with_flags(t, flags));
    let reply = |node: &mut _, flags| send(node, FromPod, IF_B, &with_flags(inside.reversed(), flags));
    let lives = |node: &causeway_datapath_logic::model::MemoryNode| {
        let (a, b) = (node.flows[&t].expires_s, node.flows[&inside.reversed()].expires_s);
        assert_eq!(a, b, "both rows expire together");
        a - node.now_s
    };
    forward(&mut node, SYN);
    assert_eq!(lives(&node), 60);
    reply(&mut node, SYN | ACK);
    assert_eq!(lives(&node), 8000);
    node.now_s += 3;
    forward(&mut node, ACK);
    assert_eq!(lives(&node), 7997, "small changes are not written");
    node.now_s += 300;
    forward(&mut node, ACK);
    assert_eq!(lives(&node), 8000);
    forward(&mut node, FIN | ACK);
    assert_eq!(lives(&node), 8000, "half-closed connections may last");
    assert_ne!(node.flows[&t].flags & flow_flag::CLOSING, 0);
    assert_ne!(node.flows[&inside.reversed()].flags & flow_flag::PEER_CLOSING, 0);
    reply(&mut node, FIN | ACK);
    assert_eq!(lives(&node), 10);
    node.now_s += 8;
    forward(&mut node, ACK);
    assert_eq!(lives(&node), 2, "an ended connection is not kept alive");
    forward(&mut node, SYN);
    assert_eq!(lives(&node), 60, "the port is used again");
    assert_eq!(node.counted(Counter::ServiceChosen), 2);
    forward(&mut node, RST);
    assert_eq!(lives(&node), 10);
}

#[test]
fn a_syn_that_nobody_answered_finds_the_backend_that_took_over() {
    for f in BOTH {
        let mut node = world();
        let t = f.tuple(TCP, f.pod_a(), 40000, f.vip(VIP_REMOTE), 80);
        let syn = |node: &mut _| send(node, FromPod, IF_A, &with_flags(t, SYN)).tuple();
        let before = syn(&mut node);
        assert_eq!(before.dst, f.remote_pod());
        assert_eq!(syn(&mut node), before, "the backends are the same, and so is the choice");
        let take_over = |node: &mut causeway_datapath_logic::model::MemoryNode| {
            for slot in node.slots.values_mut().filter(|s| s.addr == f.remote_pod()) {
                slot.addr = f.pod_b();
            }
        };
        take_over(&mut node);
        let after = syn(&mut node);
        assert_eq!(after.dst, f.pod_b());
        assert!(!node.flows.contains_key(&before.reversed()), "nothing is left of the first try");
        // Once it is answered, neither a stray SYN nor a change of backends moves the connection.
        send(&mut node, FromPod, IF_B, &with_flags(after.reversed(), SYN | ACK));
        node.slots.values_mut().for_each(|s| s.addr = f.remote_pod());
        assert_eq!(syn(&mut node), after);
    }
}

#[test]
fn a_port_used_again_keeps_its_translation() {
    let mut node = world();
    let t = V4.tuple(TCP, V4.pod_a(), 40000, V4.outside(), 443);
    let outer = send(&mut node, FromPod, IF_A, &with_flags(t, SYN)).tuple();
    send(&mut node, FromNet, IF_UPLINK, &with_flags(outer.reversed(), SYN | ACK));
    send(&mut node, FromPod, IF_A, &with_flags(t, FIN | ACK));
    assert_eq!(send(&mut node, FromPod, IF_A, &with_flags(t, SYN)).tuple(), outer);
    for key in [t, outer.reversed()] {
        let row = node.flows[&key];
        assert_eq!(row.expires_s, node.now_s + 60);
        let old = flow_flag::CLOSING | flow_flag::PEER_CLOSING | flow_flag::ESTABLISHED;
        assert_eq!(row.flags & old, 0);
    }
}

#[test]
fn a_lost_row_is_put_back_by_the_other_direction() {
    let mut node = world();
    let t = V4.tuple(UDP, V4.pod_a(), 40000, V4.outside(), 53);
    let out = send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple();
    node.flows.remove(&t);
    node.now_s += 20;
    send(&mut node, FromNet, IF_UPLINK, &Spec::new(out.reversed()));
    assert_eq!(send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple(), out);
    node.flows.remove(&out.reversed());
    node.now_s += 20;
    send(&mut node, FromPod, IF_A, &Spec::new(t));
    assert_eq!(send(&mut node, FromNet, IF_UPLINK, &Spec::new(out.reversed())).tuple(), t.reversed());
}

#[test]
fn an_update_between_two_lookups_finds_the_new_backends() {
    let mut node = world();
    let t = V4.tuple(TCP, V4.pod_a(), 40000, V4.vip(VIP_LOCAL), 80);
    // The slots of the generation that the service row names are gone, and stay so.
    node.slots.clear();
    assert!(send(&mut node, FromPod, IF_A, &Spec::new(t)).is_drop(Counter::ServiceBackendNotFound));
}

#[test]
fn backends_are_chosen_evenly_and_alike() {
    let mut node = world();
    let key = causeway_datapath_abi::ServiceKey { addr: V4.vip(50), port: [0, 80], proto: TCP, zero: 0 };
    let slots: Vec<_> = (0..10u16)
        .map(|n| causeway_datapath_abi::Slot { addr: V4.pod_b(), port: (1000 + n).to_be_bytes(), flags: 1 })
        .collect();
    node.add_service(key, causeway_datapath_abi::Service { id: 1, local_count: 10, ..Default::default() }, &slots);
    let mut chosen = [0u32; 10];
    for sport in 20000..30000 {
        let t = V4.tuple(TCP, V4.pod_a(), sport, V4.vip(50), 80);
        let port = u16::from_be_bytes(send(&mut node, FromPod, IF_A, &Spec::new(t)).tuple().dport);
        chosen[usize::from(port - 1000)] += 1;
        node.flows.clear();
    }
    for n in chosen {
        assert!((850..1150).contains(&n), "{chosen:?}");
    }
}
