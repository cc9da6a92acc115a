//! What the eBPF programs and user space agree on: map keys, map values, map names, counters.
//!
//! This crate is `no_std`, holds no logic and does no I/O. The programs (`datapath/ebpf`), the packet logic
//! (`datapath/logic`) and the loader (`datapath/loader`) all compile it. Rules of the layout:
//!
//! - Addresses are always 16 bytes, IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2), so that one map and one
//!   code path serve both families.
//! - Ports are big-endian bytes, as on the wire. Counts, ids and times are in the byte order of the CPU.
//! - Addresses are aligned to 4, tuples and endpoints to 8 bytes, so that the programs move them by words and not by bytes.
//! - There is no implicit padding: every hole is a named field that must be zero, and `size!` asserts the size.
#![no_std]
#![cfg_attr(feature = "user", allow(unsafe_code, reason = "aya::Pod is an unsafe marker trait"))]

mod counter;
pub use counter::{COUNTERS_LEN, Counter};

/// Version of this layout; the loader names the pin directory after it, so that a changed layout never adopts old maps.
pub const LAYOUT_VERSION: u32 = 1;

/// Names of the maps in the object and of their pins.
pub mod map {
    pub const ENDPOINTS: &str = "ENDPOINTS";
    pub const IPCACHE: &str = "IPCACHE";
    pub const ENCRYPT: &str = "ENCRYPT";
    pub const SERVICES: &str = "SERVICES";
    pub const SLOTS: &str = "SLOTS";
    pub const FLOWS: &str = "FLOWS";
    pub const COUNTERS: &str = "COUNTERS";
    /// Ports of IPv4 datagrams whose first fragment was seen; the programs' own, not pinned, never written by user space.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// The read-only global that holds [`crate::NodeConfig`].
    pub const NODE_CONFIG: &str = "NODE_CONFIG";
}

/// Names of the programs in the object.
pub mod program {
    /// tcx ingress of a pod's host-side veth: packets that a pod sends.
    pub const FROM_POD: &str = "from_pod";
    /// tcx egress of a pod's host-side veth: packets that the host's stack sends to a pod.
    pub const TO_POD: &str = "to_pod";
    /// tcx ingress of an uplink: packets from the wire.
    pub const FROM_NET: &str = "from_net";
    /// tcx egress of an uplink: packets that the host's stack sends to the wire.
    pub const TO_NET: &str = "to_net";
    /// tcx ingress of the WireGuard device: decrypted packets, which have no link-layer header.
    pub const FROM_WG: &str = "from_wg";
}

/// Marks of packets (`skb->mark`) that the programs set or know.
pub mod mark {
    /// A program has decided about the packet and sends it out of an uplink. Cilium uses the value for the same purpose
    /// (`MARK_MAGIC_SNAT_DONE`), and tools that know Cilium's marks leave it alone.
    pub const DONE: u32 = 0x0300;
    /// What WireGuard sends to the wire: the fwmark of its sockets, as in Cilium (`MARK_MAGIC_WG_ENCRYPTED`).
    pub const ENCRYPTED: u32 = 0x1e00;
}

macro_rules! size {
    ($t:ty, $n:expr) => {
        const _: () = assert!(core::mem::size_of::<$t>() == $n);
        #[cfg(feature = "user")]
        // SAFETY: repr(C), Copy, made of integers and byte arrays only, and the size assertion shows there is no padding.
        unsafe impl aya::Pod for $t {}
    };
}

/// An address of either family; IPv4 is mapped into `::ffff:0:0/96`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C, align(4))]
pub struct Addr(pub [u8; 16]);
size!(Addr, 16);

/// Key of `ENDPOINTS` is the pod's [`Addr`]. One row per address of a pod on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Endpoint {
    /// Interface index of the host-side veth.
    pub ifindex: u32,
    /// Security identity (CiliumIdentity number).
    pub identity: u32,
    /// Node-local endpoint id, as in CiliumEndpoint `.status.id`.
    pub id: u16,
    pub flags: u16,
    /// MAC address of the pod's interface.
    pub mac: [u8; 6],
    /// MAC address of the host-side veth.
    pub host_mac: [u8; 6],
}
size!(Endpoint, 24);

/// Key of `IPCACHE`, a longest-prefix-match trie. `prefix_len` counts bits of the 16-byte address: an IPv4 /24 is 120.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct IpcacheKey {
    pub prefix_len: u32,
    pub addr: Addr,
}
size!(IpcacheKey, 20);

/// What is known of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct IpcacheEntry {
    /// Security identity: reserved (1 host, 2 world, 6 remote-node, ...) or a CiliumIdentity number.
    pub identity: u32,
    /// Bits of [`ipcache_flag`].
    pub flags: u32,
}
size!(IpcacheEntry, 8);

pub mod ipcache_flag {
    /// The prefix belongs to the cluster or is natively routed to it: traffic from pods keeps its source address.
    pub const IN_CLUSTER: u32 = 1;
}

/// What must be encrypted between nodes. Key of `ENCRYPT`, a longest-prefix-match trie, is an [`IpcacheKey`]. An address
/// without a row is nobody's who encrypts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EncryptEntry {
    /// Bits of [`encrypt_flag`].
    pub flags: u32,
    pub zero: u32,
}
size!(EncryptEntry, 8);

pub mod encrypt_flag {
    /// Pods of other nodes: another node's pod CIDR, or a cluster's whole pod range. Their traffic is encrypted.
    pub const REMOTE_POD: u32 = 1;
    /// Another node's own address. Its traffic with pods is encrypted.
    pub const REMOTE_NODE: u32 = 2;
    /// Pods of this node: its pod CIDR.
    pub const LOCAL_POD: u32 = 4;
    /// On a row with [`REMOTE_NODE`]: traffic between the hosts is encrypted as well.
    pub const NODE_TOO: u32 = 8;
    /// An exception: traffic with this prefix may be in plaintext, whatever its other end.
    pub const PLAIN: u32 = 16;
}

/// Key of `SERVICES`. `port` and `proto` both zero is the address's catch-all row: what reaches it is not for the host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct ServiceKey {
    pub addr: Addr,
    /// Big-endian.
    pub port: [u8; 2],
    /// IP protocol number (6 TCP, 17 UDP).
    pub proto: u8,
    pub zero: u8,
}
size!(ServiceKey, 20);

/// A service frontend. Backends are the `SLOTS` rows `(id, generation, 0..count)`, local ones first.
///
/// An update writes all slots of a new generation, then replaces this row, then deletes the old slots, so that a
/// packet sees either all of the old backends or all of the new.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Service {
    pub id: u32,
    pub generation: u16,
    /// Number of backends.
    pub count: u16,
    /// Number of backends on this node; these occupy the first slots.
    pub local_count: u16,
    /// Bits of [`service_flag`].
    pub flags: u16,
}
size!(Service, 12);

pub mod service_flag {
    /// `externalTrafficPolicy: Local`: packets from the wire use local backends only, and keep their source address.
    pub const EXTERNAL_LOCAL: u16 = 1;
    /// `internalTrafficPolicy: Local`: packets from pods use local backends only.
    pub const INTERNAL_LOCAL: u16 = 2;
    /// Reachable from the wire (LoadBalancer IP, external IP); a ClusterIP without it is refused there.
    /// On a catch-all row: some frontend of the address is, so that the address answers echo requests from the wire.
    pub const EXTERNAL: u16 = 4;
}

/// Key of `SLOTS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct SlotKey {
    pub service_id: u32,
    pub generation: u16,
    pub slot: u16,
}
size!(SlotKey, 8);

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct Slot {
    pub addr: Addr,
    /// Big-endian.
    pub port: [u8; 2],
    /// Bits of [`slot_flag`].
    pub flags: u16,
}
size!(Slot, 20);

pub mod slot_flag {
    /// The backend is a pod of this node.
    pub const LOCAL: u16 = 1;
}

/// Key of `FLOWS`: one direction of a connection exactly as a packet of that direction looks when it reaches a program.
/// For ICMP echo, `sport` is the identifier in requests and `dport` in replies, the other port is zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C, align(8))]
pub struct Tuple {
    pub src: Addr,
    pub dst: Addr,
    /// Big-endian.
    pub sport: [u8; 2],
    /// Big-endian.
    pub dport: [u8; 2],
    pub proto: u8,
    pub zero: [u8; 3],
}
size!(Tuple, 40);

/// One direction of a connection: what a packet of this direction becomes.
///
/// A connection is two rows: `T -> T'` and `reverse(T') -> reverse(T)`. Either can be rebuilt from the other, so that
/// an eviction of one of them never breaks a live connection while packets of the other direction pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Flow {
    /// The packet's tuple after translation; equal to the key where nothing is translated.
    pub to: Tuple,
    /// Seconds of CLOCK_BOOTTIME at which the row may be collected.
    pub expires_s: u32,
    /// Service that chose the backend, 0 if none.
    pub service_id: u32,
    /// Bits of [`flow_flag`].
    pub flags: u32,
    pub zero: u32,
}
size!(Flow, 56);

pub mod flow_flag {
    /// This row is the reply direction.
    pub const REPLY: u32 = 1;
    /// Packets were seen in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// A FIN was seen in this direction, or an RST in either.
    pub const CLOSING: u32 = 4;
    /// The source was translated to an address of this node.
    pub const SNAT: u32 = 8;
    /// A FIN was seen in the other direction, or an RST in either. With [`CLOSING`] the connection is over.
    pub const PEER_CLOSING: u32 = 16;
}

/// Key of `FRAGMENTS`: what the fragments of one datagram have in common (RFC 791 section 2.3, RFC 8200 section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct FragmentKey {
    pub src: Addr,
    pub dst: Addr,
    /// Identification, big-endian; the IPv4 field fills the last two bytes.
    pub id: [u8; 4],
    pub proto: u8,
    pub zero: [u8; 3],
}
size!(FragmentKey, 40);

/// The ports that only the first fragment carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FragmentPorts {
    pub sport: [u8; 2],
    pub dport: [u8; 2],
    /// Seconds of CLOCK_BOOTTIME after which the identification may belong to another datagram.
    pub expires_s: u32,
}
size!(FragmentPorts, 8);

/// One row of `COUNTERS`, a per-CPU array indexed by [`Counter`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}
size!(Count, 16);

/// The programs' configuration: a read-only global, frozen at load. Zero addresses switch a family off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct NodeConfig {
    /// Source address of translated IPv4 traffic: the node's InternalIP.
    pub node_v4: Addr,
    /// Source address of translated IPv6 traffic.
    pub node_v6: Addr,
    /// Source address that a pod sees when it reaches itself through a service.
    pub hairpin_v4: Addr,
    pub hairpin_v6: Addr,
    /// First and last source port for translated traffic, in CPU byte order.
    pub snat_port_min: u16,
    pub snat_port_max: u16,
    /// Seed of the backend choice; equal on all nodes of a cluster.
    pub seed: u32,
    /// Bits of [`config_flag`].
    pub flags: u32,
    /// UDP ports of this node's WireGuard: the first one, in CPU byte order, and how many there are. Of no account without
    /// [`config_flag::ENCRYPT`].
    pub wireguard_port: u16,
    pub wireguard_ports: u16,
}
size!(NodeConfig, 80);

pub mod config_flag {
    /// Translate the source of IPv4 traffic that leaves the cluster (`enable-ipv4-masquerade`).
    pub const MASQUERADE_V4: u32 = 1;
    /// Translate the source of IPv6 traffic that leaves the cluster (`enable-ipv6-masquerade`).
    pub const MASQUERADE_V6: u32 = 2;
    /// Nothing that `ENCRYPT` names leaves or enters by an uplink in plaintext.
    pub const ENCRYPT: u32 = 4;
}

impl Addr {
    pub const ZERO: Addr = Addr([0; 16]);

    pub const fn v4(octets: [u8; 4]) -> Addr {
        // By way of a number, for the programs: two words are stored instead of sixteen bytes.
        let mapped = 0xffff_u128 << 80;
        Addr((mapped | (u32::from_le_bytes(octets) as u128) << 96).to_le_bytes())
    }

    /// The IPv4 address inside, if this is one.
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        match self.0 {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }
}

impl Tuple {
    /// The tuple of the answer to a packet of this tuple.
    pub const fn reversed(&self) -> Tuple {
        Tuple { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, proto: self.proto, zero: self.zero }
    }
}
