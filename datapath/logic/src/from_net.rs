//! Packets from the wire: replies, services that are open to the outside, and pods.

use crate::node::Node;
use crate::packet::Packet;
use crate::service::From;
use crate::{Scratch, Verdict, counted, way};

/// Decides about a packet from an uplink, rewrites it, and counts the outcome.
#[inline(always)]
pub fn from_net<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Verdict {
    let verdict = way::walk(pkt, node, s, From::Wire);
    counted(node, pkt.size(), verdict)
}
