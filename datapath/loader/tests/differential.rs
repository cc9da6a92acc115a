//! The same packets through the logic on the host and through the programs in the kernel, compared byte for byte.
//!
//! Both start from the same tables; after every packet the verdicts, the packets, the flow rows and the counters must
//! agree. A difference is a mistake of the compiler, of the map and helper glue, or of the model of the kernel.

mod programs;

use causeway_datapath_abi::{Addr, Counter, Flow, IpcacheKey, Tuple, config_flag, mark};
use causeway_datapath_loader::boot_time_s;
use causeway_datapath_logic::model::world::*;
use causeway_datapath_logic::model::{MemoryNode, Spec};
use causeway_datapath_logic::{Frag, L4};
use programs::{Kernel, MAC, Program, enter_world, model};

/// Conversations, and packets in each.
const ROUNDS: u32 = 400;
const PACKETS: u32 = 40;

/// A small generator (splitmix64), so that a failure is repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0);
        high % below.max(1)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.next(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.next(u32::try_from(from.len()).unwrap_or(1))).unwrap_or(0)]
    }
}

/// A packet of a conversation: a new request, an answer to something seen, or an ICMP error about it.
fn packet(r: &mut Random, seen: &[Tuple]) -> Spec {
    let f = Family { is_v6: r.one_in(2) };
    let any_seen = if seen.is_empty() { None } else { Some(r.pick(seen)) };
    let (tuple, about) = match (r.next(10), any_seen) {
        (0..=3, Some(t)) => (t.reversed(), None),
        (4, Some(t)) => (t, None),
        (5..=6, Some(t)) => {
            let f = Family { is_v6: t.src.as_v4().is_none() };
            let src = if r.one_in(2) { t.dst } else { f.router() };
            (f.tuple(f.icmp(), src, 0, t.src, 0), Some(t))
        }
        _ => (request(r, f), None),
    };
    let is_v6 = tuple.src.as_v4().is_none();
    let mut spec = Spec::new(tuple);
    spec.ttl = r.pick(&[1, 2, 64, 255]);
    spec.tcp_flags = r.pick(&[2, 2, 0x12, 0x10, 0x10, 0x11, 0x04, 0x14, 0]);
    let options: [&[u8]; 8] = [
        &[],
        &[],
        &[2, 4, 0x05, 0xb4],
        &[2, 4, 0x22, 0xd8, 1, 3, 3, 7],
        &[1, 2, 4, 0xff, 0xff, 1, 1, 0],
        &[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 0x22, 0xd8],
        &[0, 0, 0, 0, 2, 4, 0xff, 0xff],
        &[30, 0, 0, 0],
    ];
    spec.tcp_options = r.pick(&options).to_vec();
    let size = r.pick(&[0, 1, 20, 100, 1400, 1600]);
    spec.payload = vec![7; size];
    spec.options = if r.one_in(6) { 8 } else { 0 };
    spec.dont_fragment = r.one_in(2);
    spec.no_udp_sum = !is_v6 && r.one_in(5);
    if r.one_in(8) {
        spec.fragment = Some((r.next(4), r.pick(&[0, 0, 5]), r.one_in(2)));
    }
    if about.is_none() && matches!(tuple.proto, 1 | 58) && r.one_in(4) {
        // Neighbour discovery, or what has its numbers.
        spec.icmp = Some((u8::try_from(132 + r.next(7)).unwrap_or(135), 0));
    }
    if let Some(about) = about {
        let kinds: &[(u8, u8)] =
            if is_v6 { &[(1, 4), (2, 0), (3, 0), (4, 1)] } else { &[(3, 3), (3, 4), (11, 0), (12, 0)] };
        spec.icmp = Some(r.pick(kinds));
        let mut inside =
            Spec { options: if r.one_in(4) { 4 * u8::from(!is_v6) } else { 0 }, ..Spec::new(about) }.build_ip();
        if r.one_in(3) {
            inside.truncate(usize::try_from(28 + r.next(40)).unwrap_or(28));
        }
        spec.payload = inside;
        spec.fragment = None;
    }
    spec
}

fn request(r: &mut Random, f: Family) -> Tuple {
    let src = r.pick(&[
        f.pod_a(),
        f.pod_a(),
        f.pod_b(),
        f.outside(),
        f.router(),
        f.node(),
        f.remote_pod(),
        f.remote_pod(),
        f.remote_node(),
    ]);
    let vip = f.vip(u8::try_from(1 + r.next(11)).unwrap_or(1));
    let dst = r.pick(&[
        vip,
        vip,
        vip,
        f.pod_a(),
        f.pod_b(),
        f.outside(),
        f.outside(),
        f.remote_pod(),
        f.remote_node(),
        f.node(),
        f.nowhere(1),
        f.nowhere(2),
    ]);
    let proto = r.pick(&[TCP, TCP, UDP, UDP, f.icmp(), 132, 50]);
    let sport = r.pick(&[40000, 40001, 2000, 80]);
    let dport = if proto == f.icmp() {
        0
    } else {
        r.pick(&[80, 80, 80, 8080, 53, WG_PORT, WG_PORT + WG_PORTS - 1, WG_PORT + WG_PORTS])
    };
    f.tuple(proto, src, sport, dst, dport)
}

/// Where such a packet comes in; now and then where it should not.
fn entrance(r: &mut Random, t: &Tuple) -> (Program, u32) {
    let f = Family { is_v6: t.src.as_v4().is_none() };
    let wrong = r.one_in(12);
    if t.src == f.pod_a() && !wrong {
        (Program::FromPod, IF_A)
    } else if t.src == f.pod_b() && !wrong {
        (Program::FromPod, IF_B)
    } else if t.src == f.node() && !wrong {
        (Program::ToNet, IF_UPLINK)
    } else if t.dst == f.pod_a() && r.one_in(3) {
        (Program::ToPod, IF_A)
    } else {
        r.pick(&[
            (Program::FromNet, IF_UPLINK),
            (Program::FromNet, IF_UPLINK),
            (Program::FromNet, IF_UPLINK),
            (Program::FromPod, IF_A),
            (Program::ToPod, IF_B),
            (Program::ToNet, IF_UPLINK),
        ])
    }
}

/// Rows of `ENCRYPT` of all kinds and lengths, sensible or not.
fn encrypt_rows(r: &mut Random) -> std::collections::HashMap<IpcacheKey, u32> {
    let mut rows = std::collections::HashMap::new();
    for f in BOTH {
        let addrs = [f.pod_a(), f.pod_b(), f.remote_pod(), f.node(), f.remote_node(), f.outside(), f.vip(VIP_REMOTE)];
        for addr in addrs {
            for prefix_len in [128, if f.is_v6 { 64 } else { 120 }, if f.is_v6 { 40 } else { 108 }] {
                if r.one_in(3) {
                    rows.insert(truncated(addr, prefix_len), 1 << r.next(5) | 1 << r.next(5));
                }
            }
        }
    }
    rows
}

fn truncated(addr: Addr, prefix_len: u32) -> IpcacheKey {
    let mask = u128::MAX.checked_shl(128 - prefix_len).unwrap_or(0);
    IpcacheKey { prefix_len, addr: Addr((u128::from_be_bytes(addr.0) & mask).to_be_bytes()) }
}

/// Replaces some bytes that are not the outer addresses, whose routes the model does not know all.
fn mangle(r: &mut Random, bytes: &mut [u8]) {
    let addresses = if bytes[12] == 0x86 { 22..54 } else { 26..34 };
    for _ in 0..r.next(4) {
        let at = usize::try_from(14 + r.next(u32::try_from(bytes.len() - 14).unwrap_or(1))).unwrap_or(14);
        if at < bytes.len() && !addresses.contains(&at) {
            bytes[at] = u8::try_from(r.next(256)).unwrap_or(0);
        }
    }
}

fn same_row(a: &Flow, b: &Flow) -> bool {
    // The model's clock is read before the kernel's.
    a.expires_s.abs_diff(b.expires_s) <= 1 && (a.to, a.service_id, a.flags) == (b.to, b.service_id, b.flags)
}

fn compare_rows(kernel: &mut Kernel, node: &MemoryNode, what: &str) {
    let rows = kernel.flows();
    for (key, row) in &node.flows {
        let have = rows.get(key).unwrap_or_else(|| panic!("{what}: the kernel lacks {key:?}"));
        assert!(same_row(have, row), "{what}: {key:?}: kernel {have:?}, model {row:?}");
    }
    assert_eq!(rows.len(), node.flows.len(), "{what}: the kernel has more rows");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn the_programs_do_what_the_logic_does() {
    enter_world();
    let (plain, mut encrypting) = (world(), world());
    encrypting.config.flags |= config_flag::ENCRYPT;
    let mut kernels = [Kernel::new(&plain), Kernel::new(&encrypting)];
    let mut kinds = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..ROUNDS {
        let mut r = Random(u64::from(round));
        // The rows are there with encryption off as well, and mean nothing then.
        let is_encrypting = !round.is_multiple_of(3);
        let kernel = &mut kernels[usize::from(is_encrypting)];
        let mut node = if is_encrypting { encrypting.clone() } else { plain.clone() };
        node.encrypt = encrypt_rows(&mut r);
        kernel.encrypt(&node.encrypt);
        kernel.forget();
        let mut seen: Vec<Tuple> = Vec::new();
        for number in 0..PACKETS {
            let spec = packet(&mut r, &seen);
            let (program, ifindex) = entrance(&mut r, &spec.tuple);
            let mut bytes = spec.build();
            bytes[..6].copy_from_slice(&MAC);
            if r.one_in(4) {
                mangle(&mut r, &mut bytes);
            }
            let mark = r.pick(&[0, 0, 0, 0, mark::DONE, mark::ENCRYPTED, mark::ENCRYPTED | 1]);
            node.now_s = boot_time_s();
            let counted =
                |kernel: &mut Kernel| Counter::ALL.iter().map(|c| kernel.counted(*c).packets).collect::<Vec<_>>();
            let counters = counted(kernel);
            let mut counters_of_model = node.counters.clone();
            let what = format!("round {round} packet {number} {program:?}.{ifindex} mark {mark:x} {spec:?}");
            let (verdict, expected) = model(&mut node, program, ifindex, &bytes, mark);
            let ran = kernel.run_marked(program, ifindex, &bytes, mark);
            assert_eq!(ran.action, expected.action, "{what}: the model says {verdict:?}");
            assert_eq!(ran.bytes, expected.bytes, "{what}: bytes, {verdict:?}");
            for ((counter, before), after) in Counter::ALL.iter().zip(counters).zip(counted(kernel)) {
                let of_model = node.counted(*counter) - counters_of_model.remove(counter).map_or(0, |c| c.packets);
                assert_eq!(after - before, of_model, "{what}: counter {counter:?}");
            }
            compare_rows(kernel, &node, &what);
            *kinds.entry(format!("{program:?} {}", verdict.counter().name())).or_default() += 1;
            let headers = parsed(&expected.bytes);
            if expected.action != 2
                && matches!(headers.kind, L4::Tcp | L4::Udp | L4::Echo)
                && headers.frag == Frag::Whole
            {
                seen.push(headers.tuple);
            }
        }
    }
    eprintln!("{kinds:#?}");
    for guard in ["ToNet unencrypted-traffic", "FromNet plaintext-refused"] {
        assert!(kinds.get(guard).is_some_and(|n| *n > 100), "too few for {guard}: {kinds:?}");
    }
    assert!(kinds.len() >= 20, "the packets are too much alike: {kinds:?}");
}

/// The headers of a packet, by way of a node that knows nothing.
fn parsed(bytes: &[u8]) -> causeway_datapath_logic::Headers {
    let mut pkt = causeway_datapath_logic::model::MemoryPacket::new(bytes.to_vec(), 0);
    let mut scratch = causeway_datapath_logic::Scratch::default();
    causeway_datapath_logic::to_pod(&mut pkt, &mut MemoryNode::default(), &mut scratch);
    scratch.headers
}
