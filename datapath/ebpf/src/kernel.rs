//! The kernel as the logic's [`Node`]: maps, the frozen configuration, clock and routing table.

use core::mem::size_of;

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_ktime_get_boot_ns};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use causeway_datapath_abi::{
    Addr, Count, Counter, EncryptEntry, Endpoint, Flow, FragmentKey, FragmentPorts, IpcacheEntry, IpcacheKey,
    NodeConfig, Service, ServiceKey, Slot, SlotKey, Tuple,
};
use causeway_datapath_logic::{Inserted, NextHop, Node, Route, RouteQuery};

use crate::maps::{COUNTERS, ENCRYPT, ENDPOINTS, FLOWS, FRAGMENTS, IPCACHE, NODE_CONFIG, SERVICES, SLOTS};

/// `EEXIST` (include/uapi/asm-generic/errno-base.h), negative as helpers return it.
const EXISTS: i32 = -17;
const NS_PER_S: u64 = 1_000_000_000;
/// Longest prefix of a 16-byte address.
const HOST_PREFIX: u32 = 128;

/// `AF_INET` and `AF_INET6` (include/linux/socket.h).
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

/// `BPF_FIB_LOOKUP_SKIP_NEIGH` (include/uapi/linux/bpf.h): the neighbour is resolved when the packet leaves.
const SKIP_NEIGH: u32 = 4;

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h) with its unions as we use them.
#[repr(C, align(4))]
struct FibLookup {
    family: u8,
    l4_protocol: u8,
    sport: [u8; 2],
    dport: [u8; 2],
    /// In: bytes of the packet; out: MTU.
    tot_len: u16,
    ifindex: u32,
    tos: u32,
    src: Addr,
    /// In: destination; out: next hop, of the family that `family` then names.
    dst: Addr,
    vlan: u32,
    macs: [u8; 12],
}
const _: () = assert!(size_of::<FibLookup>() == 64);

/// Results of the lookup (`BPF_FIB_LKUP_RET_*`, include/uapi/linux/bpf.h).
mod fib {
    pub(super) const SUCCESS: i64 = 0;
    pub(super) const UNREACHABLE: i64 = 2;
    pub(super) const PROHIBIT: i64 = 3;
    pub(super) const NOT_FWDED: i64 = 4;
    pub(super) const NO_NEIGH: i64 = 7;
    pub(super) const FRAG_NEEDED: i64 = 8;
}

pub struct Kernel {
    ctx: *mut core::ffi::c_void,
}

impl Kernel {
    pub fn new(ctx: &TcContext) -> Kernel {
        Kernel { ctx: ctx.skb.skb.cast() }
    }
}

/// A field of the configuration. Volatile, since user space replaces the value before the object is loaded.
macro_rules! config {
    ($field:ident) => {{
        let config = (&raw const NODE_CONFIG).cast::<NodeConfig>();
        // SAFETY: `Global` is a transparent wrapper, the value is initialised and nobody writes it after the load.
        unsafe { core::ptr::read_volatile(&raw const (*config).$field) }
    }};
}

impl Node for Kernel {
    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: the helper takes nothing and reads a clock.
        (unsafe { bpf_ktime_get_boot_ns() } / NS_PER_S) as u32
    }

    #[inline(always)]
    fn node_addr(&self, is_v6: bool) -> Addr {
        if is_v6 { config!(node_v6) } else { config!(node_v4) }
    }

    #[inline(always)]
    fn hairpin_addr(&self, is_v6: bool) -> Addr {
        if is_v6 { config!(hairpin_v6) } else { config!(hairpin_v4) }
    }

    #[inline(always)]
    fn snat_ports(&self) -> (u16, u16) {
        (config!(snat_port_min), config!(snat_port_max))
    }

    #[inline(always)]
    fn seed(&self) -> u32 {
        config!(seed)
    }

    #[inline(always)]
    fn flags(&self) -> u32 {
        config!(flags)
    }

    #[inline(always)]
    fn wireguard_ports(&self) -> (u16, u16) {
        (config!(wireguard_port), config!(wireguard_ports))
    }

    #[inline(always)]
    fn endpoint(&self, addr: &Addr, out: &mut Endpoint) -> bool {
        match ENDPOINTS.get_ptr(addr) {
            Some(row) => {
                // SAFETY: the row is 24 bytes of plain data, aligned to 8, in memory that stays the map's.
                unsafe { copy::<Endpoint, { size_of::<Endpoint>() / 8 }>(row, out) };
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn ipcache_flags(&self, addr: &Addr) -> u32 {
        let key = IpcacheKey { prefix_len: HOST_PREFIX, addr: *addr };
        // SAFETY: both are a u32 and sixteen bytes in this order; `Key` only asks for less alignment.
        let key = unsafe { &*(&raw const key).cast::<Key<Addr>>() };
        match IPCACHE.get(key) {
            Some(&IpcacheEntry { flags, .. }) => flags,
            None => 0,
        }
    }

    #[inline(always)]
    fn encrypt_flags(&self, addr: &Addr) -> u32 {
        let key = IpcacheKey { prefix_len: HOST_PREFIX, addr: *addr };
        // SAFETY: as in `ipcache_flags`.
        let key = unsafe { &*(&raw const key).cast::<Key<Addr>>() };
        match ENCRYPT.get(key) {
            Some(&EncryptEntry { flags, .. }) => flags,
            None => 0,
        }
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: rows are plain data in memory that stays the map's while the program runs; any bytes are valid.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<Slot> {
        // SAFETY: rows are plain data in memory that stays the map's while the program runs; any bytes are valid.
        unsafe { SLOTS.get(key) }.copied()
    }

    #[inline(always)]
    fn flow(&self, key: &Tuple, out: &mut Flow) -> bool {
        match FLOWS.get_ptr(key) {
            Some(row) => {
                // SAFETY: the row is 56 bytes of plain data, aligned to 8, in memory that stays the map's while the program
                // runs. It can be reused under the copy: any mixture is a valid `Flow`, and at worst misdirects a packet
                // of a connection that was being evicted.
                unsafe { copy::<Flow, { size_of::<Flow>() / 8 }>(row, out) };
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, only_new: bool) -> Inserted {
        let flags = if only_new { BPF_NOEXIST } else { BPF_ANY };
        match FLOWS.insert(key, flow, flags.into()) {
            Ok(()) => Inserted::Done,
            Err(EXISTS) => Inserted::Exists,
            Err(_) => Inserted::Failed,
        }
    }

    #[inline(always)]
    fn touch_flow(&mut self, key: &Tuple, expires_s: u32, flags: u32) -> bool {
        match FLOWS.get_ptr_mut(key) {
            Some(row) => {
                // SAFETY: the pointer is a row's, valid until the program ends; both fields are aligned words whose
                // writers may race, and any order of them is a right one.
                unsafe {
                    (&raw mut (*row).expires_s).write_volatile(expires_s);
                    (&raw mut (*row).flags).write_volatile(flags);
                }
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    fn remove_flow(&mut self, key: &Tuple) {
        // A row that is gone already is what is wanted.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: as in `flow`.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        // If it fails, later fragments are counted as fragment-not-found.
        let _ = FRAGMENTS.insert(key, ports, BPF_ANY.into());
    }

    #[inline(always)]
    fn route(&mut self, query: &RouteQuery<'_>, out: &mut NextHop) -> Route {
        let t = query.tuple;
        let mut p = FibLookup {
            family: if query.is_v6 { AF_INET6 } else { AF_INET },
            l4_protocol: t.proto,
            sport: t.sport,
            dport: t.dport,
            tot_len: query.len,
            ifindex: query.ifindex,
            tos: 0,
            src: t.src,
            dst: t.dst,
            vlan: 0,
            macs: [0; 12],
        };
        if !query.is_v6 {
            head(&mut p.src);
            head(&mut p.dst);
        }
        // SAFETY: the helper reads and writes the 64 bytes of the struct.
        let ret = unsafe { bpf_fib_lookup(self.ctx, (&raw mut p).cast(), size_of::<FibLookup>() as i32, SKIP_NEIGH) };
        match ret {
            fib::SUCCESS | fib::NO_NEIGH => {
                out.ifindex = p.ifindex;
                out.mtu = if query.len == 0 { p.tot_len.into() } else { 0 };
                if p.family == AF_INET {
                    let [a, b, c, d, ..] = p.dst.0;
                    p.dst = Addr::v4([a, b, c, d]);
                }
                out.addr = p.dst;
                Route::Forward
            }
            fib::NOT_FWDED => Route::Host,
            fib::FRAG_NEEDED => Route::TooBig,
            fib::UNREACHABLE | fib::PROHIBIT => Route::Unreachable,
            _ => Route::Refused,
        }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter, bytes: u32) {
        if let Some(row) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the row is this CPU's, and programs on one CPU do not interrupt each other.
            let row: &mut Count = unsafe { &mut *row };
            row.packets += 1;
            row.bytes += u64::from(bytes);
        }
    }
}

/// Moves an IPv4 address to the start of the field, where `struct bpf_fib_lookup` has it.
#[inline(always)]
fn head(addr: &mut Addr) {
    let [.., a, b, c, d] = addr.0;
    [addr.0[0], addr.0[1], addr.0[2], addr.0[3]] = [a, b, c, d];
}

/// Copies a row of a map by words. An ordinary assignment becomes a call of `memmove`, which goes byte by byte.
///
/// # Safety
/// Both places are valid for `WORDS` words of plain data without padding; the kernel aligns rows of maps to 8 bytes,
/// and `Scratch` aligns its fields.
#[inline(always)]
unsafe fn copy<T, const WORDS: usize>(row: *const T, out: &mut T) {
    const { assert!(WORDS * 8 == size_of::<T>()) };
    let (from, to) = (row.cast::<u64>(), (&raw mut *out).cast::<u64>());
    for word in 0..WORDS {
        // SAFETY: within both places, as the caller promises.
        unsafe { to.add(word).write(from.add(word).read_volatile()) };
    }
}
