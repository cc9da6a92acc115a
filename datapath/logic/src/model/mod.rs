//! A packet and a node in memory. Here the logic runs without a kernel: for its own tests, and as the oracle to which
//! the programs are compared.

mod build;
pub mod world;

use std::collections::HashMap;
use std::vec::Vec;

pub use build::{Spec, broken_sum};
use causeway_datapath_abi::{
    Addr, Count, Counter, Endpoint, Flow, FragmentKey, FragmentPorts, IpcacheKey, NodeConfig, Service, ServiceKey,
    Slot, SlotKey, Tuple, ipcache_flag,
};

use crate::checksum;
use crate::{ETHERTYPE_IPV6, Inserted, L4Sum, NextHop, Node, Packet, Route, RouteQuery, Unwritable};

/// A packet with its link-layer header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPacket {
    pub bytes: Vec<u8>,
    pub ifindex: u32,
    pub is_for_host: bool,
    pub gso_size: u32,
    pub mark: u32,
}

impl MemoryPacket {
    pub fn new(bytes: Vec<u8>, ifindex: u32) -> MemoryPacket {
        MemoryPacket { bytes, ifindex, is_for_host: true, gso_size: 0, mark: 0 }
    }

    fn at<const LEN: usize>(&mut self, offset: u32) -> Result<&mut [u8; LEN], Unwritable> {
        let start = usize::try_from(offset).map_err(|_| Unwritable)?;
        self.bytes.get_mut(start..).and_then(|rest| rest.first_chunk_mut()).ok_or(Unwritable)
    }
}

impl Packet for MemoryPacket {
    fn size(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn ether_type(&self) -> u16 {
        self.load(12).map_or(0, u16::from_be_bytes)
    }

    fn is_for_host(&self) -> bool {
        self.is_for_host
    }

    fn is_for_other_host(&self) -> bool {
        !self.is_for_host
    }

    fn mark(&self) -> u32 {
        self.mark
    }

    fn gso_size(&self) -> u32 {
        self.gso_size
    }

    fn load<const LEN: usize>(&self, offset: u32) -> Option<[u8; LEN]> {
        self.bytes.get(usize::try_from(offset).ok()?..)?.first_chunk().copied()
    }

    fn store<const LEN: usize>(&mut self, offset: u32, bytes: &[u8; LEN]) -> Result<(), Unwritable> {
        *self.at(offset)? = *bytes;
        Ok(())
    }

    fn store_unsummed(&mut self, offset: u32, byte: u8) -> Result<(), Unwritable> {
        self.store(offset, &[byte])
    }

    fn add_ip_sum(&mut self, offset: u32, diff: u32) -> Result<(), Unwritable> {
        let field = self.at(offset)?;
        *field = checksum::apply(*field, diff);
        Ok(())
    }

    fn add_l4_sum(&mut self, offset: u32, diff: u32, _sum: L4Sum, zero_is_none: bool) -> Result<(), Unwritable> {
        let field = self.at(offset)?;
        if zero_is_none && *field == [0; 2] {
            return Ok(());
        }
        *field = checksum::apply(*field, diff);
        if zero_is_none && *field == [0; 2] {
            *field = [0xff; 2];
        }
        Ok(())
    }
}

/// A route of the model: the longest prefix wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRoute {
    pub prefix: IpcacheKey,
    pub route: Route,
    pub next_hop: NextHop,
    /// Greatest IP packet; 0 means no limit.
    pub mtu: u16,
}

/// A node whose tables are hash maps.
#[derive(Clone, Default, Debug)]
pub struct MemoryNode {
    pub config: NodeConfig,
    pub now_s: u32,
    pub endpoints: HashMap<Addr, Endpoint>,
    pub ipcache: HashMap<IpcacheKey, u32>,
    pub encrypt: HashMap<IpcacheKey, u32>,
    pub services: HashMap<ServiceKey, Service>,
    pub slots: HashMap<SlotKey, Slot>,
    pub flows: HashMap<Tuple, Flow>,
    /// Rows that `flows` takes; the kernel's map is an LRU and takes all.
    pub flows_limit: Option<usize>,
    pub fragments: HashMap<FragmentKey, FragmentPorts>,
    pub routes: Vec<MemoryRoute>,
    pub counters: HashMap<Counter, Count>,
}

/// Whether `prefix` holds `addr`.
fn holds(prefix: &IpcacheKey, addr: &Addr) -> bool {
    let bits = u128::from_be_bytes(prefix.addr.0) ^ u128::from_be_bytes(addr.0);
    bits.leading_zeros() >= prefix.prefix_len
}

/// The flags of the longest prefix that holds the address.
fn longest(rows: &HashMap<IpcacheKey, u32>, addr: &Addr) -> u32 {
    let of = rows.iter().filter(|(prefix, _)| holds(prefix, addr));
    of.max_by_key(|(prefix, _)| prefix.prefix_len).map_or(0, |(_, flags)| *flags)
}

impl MemoryNode {
    /// Packets counted so far.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.get(&counter).map_or(0, |count| count.packets)
    }

    /// Marks a prefix as one of the cluster's.
    pub fn add_cluster(&mut self, prefix_len: u32, addr: Addr) {
        self.ipcache.insert(IpcacheKey { prefix_len, addr }, ipcache_flag::IN_CLUSTER);
    }

    /// Adds a service of one address and port, with its catch-all row.
    pub fn add_service(&mut self, key: ServiceKey, mut service: Service, slots: &[Slot]) {
        for (slot, number) in slots.iter().zip(0u16..) {
            let at = SlotKey { service_id: service.id, generation: service.generation, slot: number };
            self.slots.insert(at, *slot);
            service.count = number + 1;
        }
        self.services.insert(key, service);
        let all = ServiceKey { port: [0; 2], proto: 0, ..key };
        self.services.insert(all, Service { flags: service.flags, ..Service::default() });
    }
}

impl Node for MemoryNode {
    fn now_s(&self) -> u32 {
        self.now_s
    }

    fn node_addr(&self, is_v6: bool) -> Addr {
        if is_v6 { self.config.node_v6 } else { self.config.node_v4 }
    }

    fn hairpin_addr(&self, is_v6: bool) -> Addr {
        if is_v6 { self.config.hairpin_v6 } else { self.config.hairpin_v4 }
    }

    fn snat_ports(&self) -> (u16, u16) {
        (self.config.snat_port_min, self.config.snat_port_max)
    }

    fn seed(&self) -> u32 {
        self.config.seed
    }

    fn flags(&self) -> u32 {
        self.config.flags
    }

    fn wireguard_ports(&self) -> (u16, u16) {
        (self.config.wireguard_port, self.config.wireguard_ports)
    }

    fn endpoint(&self, addr: &Addr, out: &mut Endpoint) -> bool {
        self.endpoints.get(addr).map(|row| *out = *row).is_some()
    }

    fn ipcache_flags(&self, addr: &Addr) -> u32 {
        longest(&self.ipcache, addr)
    }

    fn encrypt_flags(&self, addr: &Addr) -> u32 {
        longest(&self.encrypt, addr)
    }

    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn slot(&self, key: &SlotKey) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    fn flow(&self, key: &Tuple, out: &mut Flow) -> bool {
        self.flows.get(key).map(|row| *out = *row).is_some()
    }

    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, only_new: bool) -> Inserted {
        let exists = self.flows.contains_key(key);
        if exists && only_new {
            return Inserted::Exists;
        }
        if !exists && self.flows_limit.is_some_and(|limit| self.flows.len() >= limit) {
            return Inserted::Failed;
        }
        self.flows.insert(*key, *flow);
        Inserted::Done
    }

    fn touch_flow(&mut self, key: &Tuple, expires_s: u32, flags: u32) -> bool {
        let row = self.flows.get_mut(key);
        row.map(|row| (row.expires_s, row.flags) = (expires_s, flags)).is_some()
    }

    fn remove_flow(&mut self, key: &Tuple) {
        self.flows.remove(key);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.get(key).copied()
    }

    fn insert_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        self.fragments.insert(*key, *ports);
    }

    fn route(&mut self, query: &RouteQuery<'_>, out: &mut NextHop) -> Route {
        let of = self.routes.iter().filter(|route| holds(&route.prefix, &query.tuple.dst));
        let Some(best) = of.max_by_key(|route| route.prefix.prefix_len) else {
            return Route::Host;
        };
        if matches!(best.route, Route::Forward) {
            if best.mtu != 0 && query.len > best.mtu {
                return Route::TooBig;
            }
            *out = best.next_hop;
            out.mtu = if query.len == 0 { best.mtu.into() } else { 0 };
            if same_zero(&best.next_hop.addr) {
                out.addr = query.tuple.dst;
            }
        }
        best.route
    }

    fn count(&mut self, counter: Counter, bytes: u32) {
        let row = self.counters.entry(counter).or_default();
        row.packets += 1;
        row.bytes += u64::from(bytes);
    }
}

/// A route without gateway: the next hop is the destination.
fn same_zero(addr: &Addr) -> bool {
    *addr == Addr::ZERO
}

/// Whether the packet is IPv6.
pub(crate) fn is_v6(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&ETHERTYPE_IPV6.to_be_bytes()[..])
}
