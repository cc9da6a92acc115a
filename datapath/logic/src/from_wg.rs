//! Packets that WireGuard has decrypted, in front of which the program has put a link-layer header: from other nodes and
//! their pods. They go the same way as packets from the wire, and no guard asks where they come from: that WireGuard
//! takes a source address from one peer only is its own guard.

use crate::node::Node;
use crate::packet::Packet;
use crate::service::From;
use crate::{Scratch, Verdict, counted, way};

/// Decides about a decrypted packet, rewrites it, and counts the outcome.
#[inline(always)]
pub fn from_wg<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Verdict {
    let verdict = way::walk(pkt, node, s, From::Wire);
    counted(node, pkt.size(), verdict)
}
