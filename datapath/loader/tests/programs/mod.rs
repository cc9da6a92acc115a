//! What the tests of the programs share: the object loaded without pins, the world of the logic's tests copied into its
//! maps, and a network namespace with the world's routes.
#![allow(dead_code, reason = "each test file uses a part")]

use std::process::Command;

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use causeway_datapath_abi as abi;
use causeway_datapath_loader::object;
use causeway_datapath_logic::model::world::{IF_A, IF_B, IF_UPLINK};
use causeway_datapath_logic::model::{MemoryNode, MemoryPacket};
use causeway_datapath_logic::{Scratch, Verdict, from_net, from_pod, from_wg, to_net, to_pod};

/// Link-layer address of all interfaces of the namespace.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    FromPod,
    ToPod,
    FromNet,
    ToNet,
    FromWg,
}

impl Program {
    pub(crate) const ALL: [Program; 5] =
        [Program::FromPod, Program::ToPod, Program::FromNet, Program::ToNet, Program::FromWg];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Program::FromPod => abi::program::FROM_POD,
            Program::ToPod => abi::program::TO_POD,
            Program::FromNet => abi::program::FROM_NET,
            Program::ToNet => abi::program::TO_NET,
            Program::FromWg => abi::program::FROM_WG,
        }
    }
}

/// What a run gave.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ran {
    /// `TC_ACT_OK`, `TC_ACT_SHOT` or `TC_ACT_REDIRECT`.
    pub(crate) action: u32,
    pub(crate) bytes: Vec<u8>,
}

/// The action of a verdict.
pub(crate) const fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Stack => 0,
        Verdict::Drop(_) => 2,
        Verdict::Peer { .. } | Verdict::Device { .. } | Verdict::Neighbour { .. } => 7,
    }
}

/// The programs of one object, with maps of their own.
pub(crate) struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the object and fills its maps like `node`.
    pub(crate) fn new(node: &MemoryNode) -> Kernel {
        let mut loader = EbpfLoader::new();
        loader.override_global(abi::map::NODE_CONFIG, &node.config, true);
        let mut ebpf = loader.load(object()).expect("the object is well-formed");
        for program in Program::ALL {
            classifier(&mut ebpf, program).load().expect("the verifier accepts the program");
        }
        let mut kernel = Kernel { ebpf };
        for (addr, row) in &node.endpoints {
            kernel.put(abi::map::ENDPOINTS, addr, row);
        }
        for (key, row) in &node.services {
            kernel.put(abi::map::SERVICES, key, row);
        }
        for (key, row) in &node.slots {
            kernel.put(abi::map::SLOTS, key, row);
        }
        let mut ipcache: LpmTrie<&mut MapData, abi::Addr, abi::IpcacheEntry> =
            LpmTrie::try_from(kernel.map(abi::map::IPCACHE)).expect("IPCACHE is a trie");
        for (key, flags) in &node.ipcache {
            let row = abi::IpcacheEntry { identity: 0, flags: *flags };
            ipcache.insert(&Key::new(key.prefix_len, key.addr), row, 0).expect("the trie has room");
        }
        kernel.encrypt(&node.encrypt);
        kernel
    }

    /// Makes these the rows of `ENCRYPT`.
    pub(crate) fn encrypt(&mut self, rows: &std::collections::HashMap<abi::IpcacheKey, u32>) {
        let mut encrypt: LpmTrie<&mut MapData, abi::Addr, abi::EncryptEntry> =
            LpmTrie::try_from(self.map(abi::map::ENCRYPT)).expect("ENCRYPT is a trie");
        let old: Vec<_> = encrypt.keys().collect::<Result<_, _>>().expect("keys can be listed");
        for key in old {
            encrypt.remove(&key).expect("the row is there");
        }
        for (key, flags) in rows {
            let row = abi::EncryptEntry { flags: *flags, zero: 0 };
            encrypt.insert(&Key::new(key.prefix_len, key.addr), row, 0).expect("the trie has room");
        }
    }

    fn map(&mut self, name: &str) -> &mut Map {
        self.ebpf.map_mut(name).expect("the object has the map")
    }

    pub(crate) fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> HashMap<&mut MapData, K, V> {
        HashMap::try_from(self.map(name)).expect("the map is a hash")
    }

    pub(crate) fn put<K: Pod, V: Pod>(&mut self, name: &str, key: &K, row: &V) {
        self.hash::<K, V>(name).insert(key, row, 0).expect("the map has room");
    }

    pub(crate) fn program(&mut self, program: Program) -> &mut SchedClassifier {
        classifier(&mut self.ebpf, program)
    }

    /// Empties the tables that the programs write.
    pub(crate) fn forget(&mut self) {
        let mut flows = self.hash::<abi::Tuple, abi::Flow>(abi::map::FLOWS);
        let keys: Vec<_> = flows.keys().collect::<Result<_, _>>().expect("keys can be listed");
        for key in keys {
            flows.remove(&key).expect("the row is there");
        }
        let mut fragments = self.hash::<abi::FragmentKey, abi::FragmentPorts>(abi::map::FRAGMENTS);
        let keys: Vec<_> = fragments.keys().collect::<Result<_, _>>().expect("keys can be listed");
        for key in keys {
            fragments.remove(&key).expect("the row is there");
        }
    }

    pub(crate) fn flows(&mut self) -> std::collections::HashMap<abi::Tuple, abi::Flow> {
        self.hash::<abi::Tuple, abi::Flow>(abi::map::FLOWS)
            .iter()
            .collect::<Result<_, _>>()
            .expect("rows can be listed")
    }

    pub(crate) fn counted(&mut self, counter: abi::Counter) -> abi::Count {
        let counters: PerCpuArray<&mut MapData, abi::Count> =
            PerCpuArray::try_from(self.map(abi::map::COUNTERS)).expect("COUNTERS is an array");
        let rows = counters.get(&(counter as u32), 0).expect("every counter has a row");
        rows.iter().fold(abi::Count::default(), |sum, row| abi::Count {
            packets: sum.packets + row.packets,
            bytes: sum.bytes + row.bytes,
        })
    }

    /// Runs a program on a packet that comes in on `ifindex`.
    pub(crate) fn run(&mut self, program: Program, ifindex: u32, bytes: &[u8]) -> Ran {
        self.run_marked(program, ifindex, bytes, 0)
    }

    pub(crate) fn run_marked(&mut self, program: Program, ifindex: u32, bytes: &[u8], mark: u32) -> Ran {
        let mut out = vec![0u8; bytes.len() + 64];
        let context = context(ifindex, 0, mark);
        let options = TestRunOptions {
            data_in: Some(bytes),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let ran = self.program(program).test_run(options).expect("the kernel runs the program");
        let size = usize::try_from(ran.data_size_out).expect("a packet's size fits");
        out.truncate(size);
        Ran { action: ran.return_value, bytes: out }
    }
}

fn classifier(ebpf: &mut Ebpf, program: Program) -> &mut SchedClassifier {
    let program = ebpf.program_mut(program.name()).expect("the object has the program");
    program.try_into().expect("the program is a classifier")
}

/// `struct __sk_buff` (include/uapi/linux/bpf.h) with its interface, segment size and mark; the rest must be zero.
pub(crate) fn context(ifindex: u32, gso_size: u32, mark: u32) -> [u8; 192] {
    let mut context = [0; 192];
    context[8..12].copy_from_slice(&mark.to_ne_bytes());
    context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
    context[176..180].copy_from_slice(&gso_size.to_ne_bytes());
    context
}

/// The logic's own answer.
pub(crate) fn model(node: &mut MemoryNode, program: Program, ifindex: u32, bytes: &[u8], mark: u32) -> (Verdict, Ran) {
    let mut pkt = MemoryPacket::new(bytes.to_vec(), ifindex);
    pkt.mark = mark;
    pkt.is_for_host = bytes[..6] == MAC;
    let mut scratch = Scratch::default();
    let verdict = match program {
        Program::FromPod => from_pod(&mut pkt, node, &mut scratch),
        Program::ToPod => to_pod(&mut pkt, node, &mut scratch),
        Program::FromNet => from_net(&mut pkt, node, &mut scratch),
        Program::ToNet => to_net(&mut pkt, node, &mut scratch),
        Program::FromWg => from_wg(&mut pkt, node, &mut scratch),
    };
    (verdict, Ran { action: action(verdict), bytes: pkt.bytes })
}

/// Moves this thread into a new network namespace that has the interfaces and routes of the world. It vanishes with
/// the thread.
pub(crate) fn enter_world() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root can make network namespaces");
    sh("ip link set lo up");
    sh("sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1");
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    for (name, ifindex) in [("up", IF_UPLINK), ("a", IF_A), ("b", IF_B)] {
        sh(&format!(
            "ip link add cw{name} index {ifindex} address {mac} type veth peer name peer{name} index {}",
            ifindex + 100
        ));
        sh(&format!("ip link set cw{name} up"));
        sh(&format!("ip link set peer{name} up"));
    }
    for line in [
        "ip addr add 10.0.0.11/32 dev lo",
        "ip addr add fd00:a::b/128 dev lo",
        "ip addr add 172.16.1.11/24 dev cwup",
        "ip addr add fd00:ac:10:1::b/64 dev cwup nodad",
        "ip route add default via 172.16.1.1",
        "ip route add default via fd00:ac:10:1::1",
        "ip route add unreachable 203.0.1.0/24",
        "ip route add unreachable fd00:cb:0:1::/64",
        "ip route add blackhole 203.0.2.0/24",
        "ip route add blackhole fd00:cb:0:2::/64",
    ] {
        sh(line);
    }
}

fn sh(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("iproute2 and procps are installed");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
