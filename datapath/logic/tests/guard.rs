//! Nothing in plaintext: the guard's whole table, and the ways by which a packet could get past it.

mod common;

use std::collections::HashMap;

use causeway_datapath_abi::{Addr, Counter, IpcacheKey, Service, ServiceKey, config_flag, encrypt_flag, mark};
use causeway_datapath_logic::Verdict;
use causeway_datapath_logic::model::world::*;
use causeway_datapath_logic::model::{MemoryNode, MemoryPacket, Spec};
use common::Program::{self, FromNet, FromPod, FromWg, ToNet};
use common::{run, run_packet, send};
use proptest::prelude::*;

use encrypt_flag::{LOCAL_POD, NODE_TOO, PLAIN, REMOTE_NODE, REMOTE_POD};

/// The fixture with encryption on, and the rows that an agent would write.
fn encrypting(hosts_too: bool) -> MemoryNode {
    let mut node = world();
    node.config.flags |= config_flag::ENCRYPT;
    let remote_node = REMOTE_NODE | if hosts_too { NODE_TOO } else { 0 };
    for f in BOTH {
        node.encrypt.insert(f.prefix([10, 1, 1, 0], 24), LOCAL_POD);
        node.encrypt.insert(f.prefix([10, 1, 2, 0], 24), REMOTE_POD);
        node.encrypt.insert(exactly(f.remote_node()), remote_node);
    }
    node
}

fn exactly(addr: Addr) -> IpcacheKey {
    IpcacheKey { prefix_len: 128, addr }
}

fn marked(node: &mut MemoryNode, program: Program, bytes: Vec<u8>, mark: u32) -> Verdict {
    let mut pkt = MemoryPacket::new(bytes, IF_UPLINK);
    pkt.mark = mark;
    run_packet(node, program, pkt).verdict
}

/// Packets that the guard tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Tcp,
    Udp,
    /// UDP to WireGuard's first port, to its last one, and to the one behind that.
    Wg,
    WgLast,
    NextToWg,
    WgFirstFragment,
    /// A later fragment of UDP, whose port nobody can see.
    UdpLater,
    TcpLater,
    Ping,
    /// A neighbour solicitation, or for IPv4 an ICMP type of that number.
    Solicitation,
    /// The same after a router.
    OldSolicitation,
}

const KINDS: [Kind; 11] = [
    Kind::Tcp,
    Kind::Udp,
    Kind::Wg,
    Kind::WgLast,
    Kind::NextToWg,
    Kind::WgFirstFragment,
    Kind::UdpLater,
    Kind::TcpLater,
    Kind::Ping,
    Kind::Solicitation,
    Kind::OldSolicitation,
];

fn packet(f: Family, kind: Kind, src: Addr, dst: Addr) -> Vec<u8> {
    let (proto, dport) = match kind {
        Kind::Tcp | Kind::TcpLater => (TCP, 80),
        Kind::Udp => (UDP, 80),
        Kind::Wg | Kind::WgFirstFragment | Kind::UdpLater => (UDP, WG_PORT),
        Kind::WgLast => (UDP, WG_PORT + WG_PORTS - 1),
        Kind::NextToWg => (UDP, WG_PORT + WG_PORTS),
        Kind::Ping | Kind::Solicitation | Kind::OldSolicitation => (f.icmp(), 0),
    };
    let fragment = match kind {
        Kind::WgFirstFragment => Some((7, 0, true)),
        Kind::UdpLater | Kind::TcpLater => Some((7, 5, false)),
        _ => None,
    };
    let icmp = matches!(kind, Kind::Solicitation | Kind::OldSolicitation).then_some((135, 0));
    let ttl = if kind == Kind::Solicitation { 255 } else { 64 };
    Spec { fragment, icmp, ttl, ..Spec::new(f.tuple(proto, src, 40000, dst, dport)) }.build()
}

/// What must happen, said from the rows of the packet's two ends. `near` is a pod of this node by the endpoint table.
fn is_refused(f: Family, leaving: bool, far: u32, near: u32, near_is_pod: bool, kind: Kind) -> bool {
    let host_to_host = match kind {
        Kind::Wg | Kind::WgLast | Kind::WgFirstFragment | Kind::UdpLater => leaving,
        Kind::Solicitation => !f.is_v6,
        _ => true,
    };
    if (far | near) & PLAIN != 0 {
        false
    } else if far & REMOTE_POD != 0 {
        true
    } else if far & REMOTE_NODE == 0 {
        false
    } else if near & LOCAL_POD != 0 || near_is_pod {
        true
    } else {
        far & NODE_TOO != 0 && host_to_host
    }
}

/// Flags of either end x direction x mark x kind of packet x endpoint or not x family x on or off.
#[test]
fn the_whole_table() {
    let mut refused = 0_u32;
    for f in BOTH {
        let (far, near) = (f.remote_node(), f.pod_a());
        let mut node = MemoryNode::default();
        (node.config.wireguard_port, node.config.wireguard_ports) = (WG_PORT, WG_PORTS);
        for kind in KINDS {
            let (out, back) = (packet(f, kind, near, far), packet(f, kind, far, near));
            for case in 0..(32_u32 * 32 * 2) {
                let (far_flags, near_flags, near_is_pod) = (case & 31, case >> 5 & 31, case >> 10 & 1 != 0);
                node.encrypt = HashMap::from([(exactly(far), far_flags), (exactly(near), near_flags)]);
                node.endpoints = HashMap::new();
                if near_is_pod {
                    node.endpoints.insert(near, causeway_datapath_abi::Endpoint::default());
                }
                for (leaving, program, bytes, why) in
                    [(true, ToNet, &out, Counter::NotEncrypted), (false, FromNet, &back, Counter::PlaintextRefused)]
                {
                    for mark in [0, mark::DONE, mark::ENCRYPTED, mark::ENCRYPTED | 1] {
                        node.config.flags = 0;
                        node.flows.clear();
                        node.fragments.clear();
                        let today = marked(&mut node, program, bytes.clone(), mark);
                        node.config.flags = config_flag::ENCRYPT;
                        node.flows.clear();
                        node.fragments.clear();
                        let have = marked(&mut node, program, bytes.clone(), mark);
                        let is_ours = leaving && mark == mark::ENCRYPTED;
                        let drop = !is_ours && is_refused(f, leaving, far_flags, near_flags, near_is_pod, kind);
                        let want = if drop { Verdict::Drop(why) } else { today };
                        let what =
                            format!("{f:?} {kind:?} {program:?} mark {mark:x} far {far_flags} near {near_flags}");
                        assert_eq!(have, want, "{what} pod {near_is_pod}");
                        refused += u32::from(drop);
                    }
                }
            }
        }
    }
    // Of 360,448: neither all nor nothing, so the expectation itself is alive.
    assert_eq!(refused, 56_048);
}

#[test]
fn what_the_agent_writes_means_what_it_should() {
    for f in BOTH {
        let (pod, node_addr, far_pod, far_node) = (f.pod_a(), f.node(), f.remote_pod(), f.remote_node());
        for (hosts_too, src, dst, refused) in [
            (false, pod, far_pod, true),
            (false, node_addr, far_pod, true),
            (false, f.outside(), far_pod, true),
            (false, pod, far_node, true),
            (false, node_addr, far_node, false),
            (true, node_addr, far_node, true),
            (true, pod, f.outside(), false),
            (true, node_addr, f.outside(), false),
            (true, f.outside(), pod, false),
        ] {
            let mut node = encrypting(hosts_too);
            let spec = Spec::new(f.tuple(UDP, src, 40000, dst, 53));
            assert_eq!(
                send(&mut node, ToNet, IF_UPLINK, &spec).is_drop(Counter::NotEncrypted),
                refused,
                "{hosts_too} {spec:?}"
            );
            let spec = Spec::new(f.tuple(UDP, dst, 53, src, 40000));
            assert_eq!(
                send(&mut node, FromNet, IF_UPLINK, &spec).is_drop(Counter::PlaintextRefused),
                refused,
                "{hosts_too} {spec:?}"
            );
        }
    }
}

#[test]
fn the_longest_prefix_decides_and_an_exception_is_one_prefix() {
    for f in BOTH {
        let mut node = encrypting(false);
        // A whole cluster's range around this node's own, with one address in it that may go.
        let wide = if f.is_v6 {
            IpcacheKey { prefix_len: 48, ..f.prefix([10, 1, 0, 0], 16) }
        } else {
            f.prefix([10, 1, 0, 0], 16)
        };
        node.encrypt.insert(wide, REMOTE_POD);
        node.encrypt.insert(exactly(f.remote_pod()), PLAIN);
        let is_refused = |node: &mut MemoryNode, dst| {
            let spec = Spec::new(f.tuple(TCP, f.outside(), 1, dst, 2));
            send(node, ToNet, IF_UPLINK, &spec).is_drop(Counter::NotEncrypted)
        };
        assert!(!is_refused(&mut node, f.remote_pod()));
        assert!(!is_refused(&mut node, f.pod_b()), "this node's pods are not remote");
        let mut neighbour = f.remote_pod();
        neighbour.0[15] += 1;
        assert!(is_refused(&mut node, neighbour));
        if !f.is_v6 {
            assert!(is_refused(&mut node, Addr::v4([10, 1, 77, 7])), "of a node that nobody has told of yet");
        }
        // The exception holds for the other direction and the other end as well.
        node.encrypt.insert(exactly(f.pod_a()), PLAIN);
        let spec = Spec::new(f.tuple(TCP, f.pod_a(), 1, neighbour, 2));
        assert!(!send(&mut node, ToNet, IF_UPLINK, &spec).is_drop(Counter::NotEncrypted));
        let spec = Spec::new(f.tuple(TCP, neighbour, 1, f.pod_a(), 2));
        assert!(!send(&mut node, FromNet, IF_UPLINK, &spec).is_drop(Counter::PlaintextRefused));
    }
}

/// What the programs translate and send comes by again, and is judged by what it has become.
#[test]
fn translated_packets_are_judged_by_what_they_become() {
    for f in BOTH {
        let mut node = encrypting(false);
        for (program, ifindex, src) in
            [(ToNet, IF_UPLINK, f.node()), (FromPod, IF_A, f.pod_a()), (FromNet, IF_UPLINK, f.outside())]
        {
            let spec = Spec::new(f.tuple(TCP, src, 40001, f.vip(VIP_REMOTE), 80));
            let out = send(&mut node, program, ifindex, &spec);
            assert_eq!(out.verdict, Verdict::Neighbour { ifindex: IF_UPLINK }, "{program:?}");
            assert_eq!(out.tuple().dst, f.remote_pod());
            let before = node.counted(Counter::NotEncrypted);
            let again = marked(&mut node, ToNet, out.bytes.clone(), mark::DONE);
            assert_eq!(again, Verdict::Drop(Counter::NotEncrypted), "{program:?}");
            assert_eq!(node.counted(Counter::NotEncrypted), before + 1);
        }
        // A pod's own packet to another pod, with a route that leads to the wire.
        let out = send(&mut node, FromPod, IF_A, &Spec::new(f.tuple(UDP, f.pod_a(), 1, f.remote_pod(), 2)));
        assert_eq!(out.verdict, Verdict::Neighbour { ifindex: IF_UPLINK });
        assert_eq!(marked(&mut node, ToNet, out.bytes, mark::DONE), Verdict::Drop(Counter::NotEncrypted));
    }
}

#[test]
fn marked_packets_pass_without_being_counted_or_translated() {
    for f in BOTH {
        let mut node = encrypting(true);
        let key = ServiceKey { addr: f.remote_node(), port: WG_PORT.to_be_bytes(), proto: UDP, zero: 0 };
        node.add_service(key, Service { id: 9999, generation: 1, ..Service::default() }, &[]);
        let spec = Spec::new(f.tuple(UDP, f.node(), WG_PORT, f.remote_node(), WG_PORT));
        assert_eq!(marked(&mut node, ToNet, spec.build(), mark::ENCRYPTED), Verdict::Stack);
        let spec = Spec::new(f.tuple(UDP, f.node(), 1, f.outside(), 2));
        assert_eq!(marked(&mut node, ToNet, spec.build(), mark::DONE), Verdict::Stack);
        assert!(node.counters.is_empty(), "{:?}", node.counters);
    }
}

#[test]
fn every_protocol_and_every_fragment_is_covered() {
    for f in BOTH {
        let mut node = encrypting(false);
        for proto in 0..=255 {
            for fragment in [None, Some((1, 0, true)), Some((1, 3, true)), Some((1, 9, false))] {
                for options in [0, 8] {
                    let t = f.tuple(proto, f.pod_a(), 0, f.remote_pod(), 0);
                    let bytes = Spec { fragment, options, ..Spec::new(t) }.build();
                    let drop = Verdict::Drop(Counter::NotEncrypted);
                    assert_eq!(marked(&mut node, ToNet, bytes.clone(), 0), drop, "{proto} {fragment:?}");
                    assert_eq!(marked(&mut node, ToNet, bytes, mark::DONE), drop, "{proto} {fragment:?}");
                    let t = f.tuple(proto, f.remote_pod(), 0, f.pod_a(), 0);
                    let bytes = Spec { fragment, options, ..Spec::new(t) }.build();
                    let drop = Verdict::Drop(Counter::PlaintextRefused);
                    assert_eq!(marked(&mut node, FromNet, bytes, 0), drop, "{proto} {fragment:?}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_ip_passes_and_what_only_says_so_does_not_leave() {
    let mut node = encrypting(true);
    // ARP (RFC 826), and an EtherType that nobody knows.
    for ether_type in [[0x08, 0x06], [0x88, 0xb5]] {
        let mut bytes = vec![0; 60];
        bytes[12..14].copy_from_slice(&ether_type);
        assert_eq!(marked(&mut node, ToNet, bytes.clone(), 0), Verdict::Stack);
        assert_eq!(marked(&mut node, FromNet, bytes, 0), Verdict::Stack);
    }
    for f in BOTH {
        let whole = Spec::new(f.tuple(TCP, f.pod_a(), 1, f.remote_pod(), 2)).build();
        let addresses_end = if f.is_v6 { 54 } else { 34 };
        for len in 14..addresses_end {
            let cut = whole[..len].to_vec();
            assert_eq!(marked(&mut node, ToNet, cut, 0), Verdict::Drop(Counter::NotEncrypted), "{len}");
        }
        // A device without link-layer headers: the addresses are not where they are looked for.
        let mut shifted = whole.clone();
        shifted[14] = 0;
        assert_eq!(marked(&mut node, ToNet, shifted, 0), Verdict::Drop(Counter::NotEncrypted));
    }
}

#[test]
fn neighbours_go_on_finding_each_other() {
    let mut node = encrypting(true);
    let f = V6;
    let link_local = |last| Addr([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let solicited = Addr([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0xb]);
    for (kind, src, dst) in [
        (135, f.remote_node(), solicited),
        (135, f.remote_node(), f.node()),
        (136, f.remote_node(), f.node()),
        (135, link_local(1), f.node()),
        (136, f.remote_node(), link_local(2)),
    ] {
        let spec = Spec { icmp: Some((kind, 0)), ttl: 255, ..Spec::new(f.tuple(f.icmp(), src, 0, dst, 0)) };
        assert_eq!(marked(&mut node, FromNet, spec.build(), 0), Verdict::Stack, "{kind} in");
        let t = f.tuple(f.icmp(), dst, 0, src, 0);
        let spec = Spec { icmp: Some((kind, 0)), ttl: 255, ..Spec::new(t) };
        if dst != solicited {
            assert_eq!(marked(&mut node, ToNet, spec.build(), 0), Verdict::Stack, "{kind} out");
        }
    }
    // A pod that pretends to be looking for somebody.
    let t = f.tuple(f.icmp(), f.pod_a(), 0, f.remote_node(), 0);
    let spec = Spec { icmp: Some((135, 0)), ttl: 255, ..Spec::new(t) };
    assert_eq!(marked(&mut node, ToNet, spec.build(), 0), Verdict::Drop(Counter::NotEncrypted));
}

#[test]
fn frames_for_other_hosts_are_not_ours_to_refuse() {
    for f in BOTH {
        let mut node = encrypting(false);
        let bytes = Spec::new(f.tuple(TCP, f.remote_pod(), 1, f.pod_a(), 2)).build();
        let mut pkt = MemoryPacket::new(bytes, IF_UPLINK);
        pkt.is_for_host = false;
        assert_eq!(run_packet(&mut node, FromNet, pkt).verdict, Verdict::Stack);
        assert_eq!(node.counted(Counter::PlaintextRefused), 0);
    }
}

#[test]
fn what_wireguard_decrypted_arrives() {
    for f in BOTH {
        let mut node = encrypting(true);
        let spec = Spec::new(f.tuple(TCP, f.remote_pod(), 40000, f.pod_a(), 8080));
        assert!(send(&mut node, FromNet, IF_UPLINK, &spec).is_drop(Counter::PlaintextRefused));
        assert_eq!(send(&mut node, FromWg, 77, &spec).verdict, Verdict::Peer { ifindex: IF_A });
        let spec = Spec::new(f.tuple(TCP, f.remote_node(), 40000, f.node(), 22));
        assert!(send(&mut node, FromNet, IF_UPLINK, &spec).is_drop(Counter::PlaintextRefused));
        assert_eq!(send(&mut node, FromWg, 77, &spec).verdict, Verdict::Stack);
    }
}

/// What the programs do elsewhere is the same with and without.
#[test]
fn pods_of_one_node_speak_in_plaintext() {
    for f in BOTH {
        let (mut on, mut off) = (encrypting(true), world());
        for dst in [f.pod_b(), f.vip(VIP_LOCAL), f.vip(VIP_A), f.outside(), f.node()] {
            let bytes = Spec::new(f.tuple(TCP, f.pod_a(), 4000, dst, 80)).build();
            let (a, b) = (run(&mut on, FromPod, IF_A, bytes.clone()), run(&mut off, FromPod, IF_A, bytes));
            assert_eq!((a.verdict, a.bytes), (b.verdict, b.bytes));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Whatever the bytes: nothing with a remote pod's address where its kind of packet has it passes unmarked.
    #[test]
    fn no_bytes_get_past(bytes in prop::collection::vec(any::<u8>(), 14..120), v6: bool, far: bool, mark: u32, leaving: bool) {
        let f = Family { is_v6: v6 };
        let mut bytes = bytes;
        bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        let (src_at, dst_at, len) = if v6 { (22, 38, 16) } else { (26, 30, 4) };
        let at = if leaving { dst_at } else { src_at };
        let is_there = far && bytes.len() >= dst_at + len;
        if is_there {
            bytes[at..at + len].copy_from_slice(&f.remote_pod().0[16 - len..]);
            bytes[14] = bytes[14] & 0x0f | if v6 { 0x60 } else { 0x40 };
        }
        let mut node = encrypting(true);
        let verdict = marked(&mut node, if leaving { ToNet } else { FromNet }, bytes, mark);
        if is_there && !(leaving && mark == mark::ENCRYPTED) {
            prop_assert_eq!(verdict, Verdict::Drop(if leaving { Counter::NotEncrypted } else { Counter::PlaintextRefused }));
        }
    }
}
