//! What the logic asks of the node it runs on: tables, configuration, clock, routes, counters.

use causeway_datapath_abi::{
    Addr, Counter, Endpoint, Flow, FragmentKey, FragmentPorts, Service, ServiceKey, Slot, SlotKey, Tuple,
};

/// Outcome of writing a row of `FLOWS`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Inserted {
    #[default]
    Done = 0,
    /// The key is taken, and only a new row was wanted.
    Exists,
    Failed,
}

/// What the routing table says of a packet that would be forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// To be forwarded; the next hop is in the [`NextHop`].
    Forward,
    /// Not to be forwarded: an address of this host, or no route. Only the stack knows more.
    Host,
    /// Forwarding would need fragments.
    TooBig,
    /// The route is of type unreachable or prohibit: the sender must hear of it.
    Unreachable,
    /// A blackhole route, or the lookup is impossible.
    Refused,
}

/// Whereto a packet leaves.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct NextHop {
    pub ifindex: u32,
    pub addr: Addr,
    /// The interface's MTU; told only if the question says no length, and 0 if it is not known.
    pub mtu: u32,
}

/// A question to the routing table.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery<'a> {
    /// The packet's tuple as it would leave.
    pub tuple: &'a Tuple,
    pub is_v6: bool,
    /// Interface where the packet came in.
    pub ifindex: u32,
    /// Bytes of the IP packet, of one segment if it is an offloaded one. 0: the answer says what the interface takes.
    pub len: u16,
}

/// The node. Lookups copy rows out, so that no borrow outlives a write.
pub trait Node {
    /// Seconds of CLOCK_BOOTTIME.
    fn now_s(&self) -> u32;
    /// Address for translated sources of a family; zero if the family is off.
    fn node_addr(&self, is_v6: bool) -> Addr;
    fn hairpin_addr(&self, is_v6: bool) -> Addr;
    /// First and last port for translated sources.
    fn snat_ports(&self) -> (u16, u16);
    fn seed(&self) -> u32;
    /// Bits of `config_flag`.
    fn flags(&self) -> u32;
    /// UDP ports of this node's WireGuard: the first one, in CPU byte order, and how many there are.
    fn wireguard_ports(&self) -> (u16, u16);

    fn endpoint(&self, addr: &Addr, out: &mut Endpoint) -> bool;
    /// `ipcache_flag` bits of the longest prefix that holds the address; 0 if there is none.
    fn ipcache_flags(&self, addr: &Addr) -> u32;
    /// `encrypt_flag` bits of the longest prefix that holds the address; 0 if there is none.
    fn encrypt_flags(&self, addr: &Addr) -> u32;
    fn service(&self, key: &ServiceKey) -> Option<Service>;
    fn slot(&self, key: &SlotKey) -> Option<Slot>;

    fn flow(&self, key: &Tuple, out: &mut Flow) -> bool;
    fn insert_flow(&mut self, key: &Tuple, flow: &Flow, only_new: bool) -> Inserted;
    /// Sets expiry and flags of a row; `false` if there is none.
    fn touch_flow(&mut self, key: &Tuple, expires_s: u32, flags: u32) -> bool;
    fn remove_flow(&mut self, key: &Tuple);

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    fn insert_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts);

    fn route(&mut self, query: &RouteQuery<'_>, out: &mut NextHop) -> Route;
    fn count(&mut self, counter: Counter, bytes: u32);
}
