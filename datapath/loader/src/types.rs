//! Plain types of the [`Datapath`](crate::Datapath) interface, in the agent's words; `abi` has the kernel's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use causeway_datapath_abi::Counter;

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Proto {
    Tcp,
    Udp,
    Sctp,
}

impl Proto {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
            Proto::Sctp => 132,
        }
    }

    pub const fn from_number(number: u8) -> Option<Proto> {
        match number {
            6 => Some(Proto::Tcp),
            17 => Some(Proto::Udp),
            132 => Some(Proto::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "TCP",
            Proto::Udp => "UDP",
            Proto::Sctp => "SCTP",
        })
    }
}

impl FromStr for Proto {
    type Err = String;

    /// Accepts Kubernetes' spelling in any case.
    fn from_str(s: &str) -> Result<Self, String> {
        [Proto::Tcp, Proto::Udp, Proto::Sctp]
            .into_iter()
            .find(|p| p.to_string().eq_ignore_ascii_case(s))
            .ok_or_else(|| format!("protocol {s:?} is not one of TCP, UDP, SCTP"))
    }
}

/// Where a service is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Frontend {
    pub addr: IpAddr,
    pub port: u16,
    pub proto: Proto,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.addr, self.port), self.proto)
    }
}

/// Where a frontend leads to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LbService {
    pub backends: Vec<Backend>,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// Reachable from the wire: LoadBalancer and external IPs, not ClusterIPs.
    pub external: bool,
}

/// Local ones sort before remote ones, because the programs want them first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Backend {
    pub addr: SocketAddr,
    /// A pod of this node.
    pub local: bool,
}

impl Ord for Backend {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.local.cmp(&self.local).then(self.addr.cmp(&other.addr))
    }
}

impl PartialOrd for Backend {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is known of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct IpcacheEntry {
    /// Security identity.
    pub identity: u32,
    /// Natively routed: traffic from pods to it keeps its source address.
    pub in_cluster: bool,
}

/// Whose addresses a prefix holds, as far as encryption between nodes goes. The longest prefix decides; an address without a
/// row is not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum EncryptEntry {
    /// Pods of other nodes: their traffic is encrypted.
    RemotePods,
    /// Other nodes themselves: their traffic with pods is encrypted, and with `hosts_too` that between the hosts as well.
    RemoteNode { hosts_too: bool },
    /// Pods of this node.
    LocalPods,
    /// An exception: may be spoken with in plaintext.
    Plain,
}

/// A pod of this node, as the programs know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Endpoint {
    /// Interface index of the host side of its veth.
    pub ifindex: u32,
    pub identity: u32,
    /// Node-local endpoint id.
    pub id: u16,
    /// MAC address of the pod's side.
    pub mac: [u8; 6],
    /// MAC address of the host's side.
    pub host_mac: [u8; 6],
}

/// A place where one of our programs runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// tcx ingress of the host side of a pod's veth: what the pod sends.
    FromPod,
    /// tcx egress of the host side of a pod's veth: what the pod gets from the host's stack.
    ToPod,
    /// tcx ingress of an uplink.
    FromNet,
    /// tcx egress of an uplink: what the host's stack sends.
    ToNet,
    /// tcx ingress of the WireGuard device: what it decrypted.
    FromWg,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

impl Hook {
    pub const ALL: [Hook; 5] = [Hook::FromPod, Hook::ToPod, Hook::FromNet, Hook::ToNet, Hook::FromWg];

    /// Name of the program in the object.
    pub const fn program(self) -> &'static str {
        use causeway_datapath_abi::program;
        match self {
            Hook::FromPod => program::FROM_POD,
            Hook::ToPod => program::TO_POD,
            Hook::FromNet => program::FROM_NET,
            Hook::ToNet => program::TO_NET,
            Hook::FromWg => program::FROM_WG,
        }
    }
}

/// A pinned link of ours.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AttachedLink {
    /// The interface it was made for.
    pub ifindex: u32,
    /// Its present name; `None` when the interface has vanished.
    pub interface: Option<String>,
    pub hook: Hook,
    /// Kernel id of the program that runs there now.
    pub program_id: u32,
}

/// A counter, summed over CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CounterReading {
    pub counter: Counter,
    pub packets: u64,
    pub bytes: u64,
}

/// One direction of a connection. Ports carry the identifier in ICMP echo flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tuple {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    /// IP protocol number.
    pub proto: u8,
}

/// A row of the flow table: packets of `from` become `to`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowRow {
    pub from: Tuple,
    pub to: Tuple,
    /// Seconds of CLOCK_BOOTTIME at which the row may go.
    pub expires_s: u32,
    /// Service that chose the backend, 0 if none.
    pub service_id: u32,
    /// Bits of `abi::flow_flag`.
    pub flags: u32,
}

impl FlowRow {
    pub const fn is_reply(&self) -> bool {
        self.flags & causeway_datapath_abi::flow_flag::REPLY != 0
    }
}

/// What a garbage collection did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GcStats {
    pub seen: usize,
    pub deleted: usize,
}

/// How full a map is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapUsage {
    pub map: &'static str,
    pub rows: usize,
    pub limit: usize,
}

/// Something the kernel offers or refuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Feature {
    pub name: &'static str,
    pub available: bool,
    /// Why not, or what it is used for.
    pub detail: String,
}
