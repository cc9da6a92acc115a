//! What the datapath decides about a packet, without a kernel: parsing, service choice, translation, delivery.
//!
//! It is compiled twice: into the eBPF programs, where [`Packet`] is an skb and [`Node`] is made of BPF maps and
//! helpers, and into host tests, where both are memory ([`model`]). There is no I/O, clock, allocation or panic here.
//! Whatever is bigger than a word lives in [`Scratch`], because a BPF program has 512 bytes of stack for all its frames.
//!
//! The entries are [`from_pod`], [`to_pod`], [`from_net`], [`to_net`] and [`from_wg`]; `causeway-datapath-abi` says what the tables mean.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "model")]
extern crate std;

mod checksum;
mod deliver;
mod flows;
mod fragments;
mod from_net;
mod from_pod;
mod from_wg;
mod guard;
mod icmp;
#[cfg(feature = "model")]
pub mod model;
mod node;
mod packet;
mod parse;
mod rewrite;
mod segment;
mod service;
mod to_net;
mod to_pod;
mod way;

pub use deliver::{Job, Path};
pub use flows::Opening;
pub use from_net::from_net;
pub use from_pod::from_pod;
pub use from_wg::from_wg;
pub use node::{Inserted, NextHop, Node, Route, RouteQuery};
pub use packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, L4Sum, Packet, Unwritable};
pub use parse::{Frag, Headers, L4};
pub use to_net::to_net;
pub use to_pod::to_pod;

use causeway_datapath_abi::{Counter, Endpoint, Flow, Slot, Tuple};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Verdict {
    /// The host's stack goes on with it.
    #[default]
    Stack,
    /// Into the pod behind this host-side veth. MAC addresses are already the pod's.
    Peer { ifindex: u32 },
    /// Out of this interface as it is. MAC addresses are already the pod's.
    Device { ifindex: u32 },
    /// Out of this interface; next hop in [`Scratch::next_hop`].
    Neighbour { ifindex: u32 },
    /// Refused, for the reason that is counted.
    Drop(Counter),
}

impl Verdict {
    /// The counter of this verdict.
    pub const fn counter(self) -> Counter {
        match self {
            Verdict::Stack => Counter::ToStack,
            Verdict::Peer { .. } | Verdict::Device { .. } => Counter::ToEndpoint,
            Verdict::Neighbour { .. } => Counter::ToNetwork,
            Verdict::Drop(counter) => counter,
        }
    }
}

/// The working memory of one packet. All zero is a valid initial state, and stale contents are harmless.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Scratch {
    /// The packet's headers.
    pub headers: Headers,
    /// The packet inside an ICMP error.
    pub inner: Headers,
    /// What the packet's tuple becomes.
    pub to: Tuple,
    /// A key of `FLOWS` that is not the packet's tuple.
    pub key: Tuple,
    pub flow: Flow,
    pub other: Flow,
    pub endpoint: Endpoint,
    /// The backend that was chosen, and by which service.
    pub slot: Slot,
    pub service_id: u32,
    /// Seconds of CLOCK_BOOTTIME.
    pub now_s: u32,
    pub opening: Opening,
    pub verdict: Verdict,
    pub claim: Inserted,
    pub path: Path,
    pub job: Job,
    /// The connection is not in the flow table.
    pub is_new: bool,
    /// An error that its receiver is better off without.
    pub is_muted: bool,
    pub next_hop: NextHop,
}

/// Counts the verdict of a program, and gives it back.
#[inline(always)]
fn counted<N: Node>(node: &mut N, bytes: u32, verdict: Verdict) -> Verdict {
    node.count(verdict.counter(), bytes);
    verdict
}
