//! Packets that a pod sends: services, masquerade, delivery.

use crate::node::Node;
use crate::packet::Packet;
use crate::service::From;
use crate::{Scratch, Verdict, counted, way};

/// Decides about a packet from the pod behind `pkt.ifindex()`, rewrites it, and counts the outcome.
#[inline(always)]
pub fn from_pod<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Verdict {
    let verdict = way::walk(pkt, node, s, From::Pod);
    counted(node, pkt.size(), verdict)
}
