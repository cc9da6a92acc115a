//! The maps of the object, as `causeway-datapath-abi` describes them. Sizes here are defaults; the loader sets its own.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LpmTrie, LruHashMap, PerCpuArray};
use causeway_datapath_abi::{
    Addr, COUNTERS_LEN, Count, EncryptEntry, Endpoint, Flow, FragmentKey, FragmentPorts, IpcacheEntry, NodeConfig,
    Service, ServiceKey, Slot, SlotKey, Tuple,
};
use causeway_datapath_logic::Scratch;

#[map]
pub static ENDPOINTS: HashMap<Addr, Endpoint> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

#[map]
pub static IPCACHE: LpmTrie<Addr, IpcacheEntry> = LpmTrie::with_max_entries(512_000, BPF_F_NO_PREALLOC);

/// A node has one or two rows per other node, and a few for whole clusters.
#[map]
pub static ENCRYPT: LpmTrie<Addr, EncryptEntry> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

#[map]
pub static SLOTS: HashMap<SlotKey, Slot> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// LRU, so that a flood of new connections makes room at the cost of the longest unused row instead of failing.
#[map]
pub static FLOWS: LruHashMap<Tuple, Flow> = LruHashMap::with_max_entries(262_144, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(8192, 0);

#[map]
pub static COUNTERS: PerCpuArray<Count> = PerCpuArray::with_max_entries(COUNTERS_LEN, 0);

/// Working memory of one run, per CPU; too big for the stack.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Overridden by the loader before the object is loaded, frozen from then on.
#[unsafe(no_mangle)]
pub static NODE_CONFIG: Global<NodeConfig> = Global::new(NodeConfig {
    node_v4: Addr::ZERO,
    node_v6: Addr::ZERO,
    hairpin_v4: Addr::ZERO,
    hairpin_v6: Addr::ZERO,
    snat_port_min: 0,
    snat_port_max: 0,
    seed: 0,
    flags: 0,
    wireguard_port: 0,
    wireguard_ports: 0,
});
