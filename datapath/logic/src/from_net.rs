//! Packets from the wire: what is in plaintext and must not be, replies, services that are open to the outside, pods.

use crate::node::Node;
use crate::packet::Packet;
use crate::service::From;
use crate::{Scratch, Verdict, counted, guard, way};

/// Decides about a packet from an uplink, rewrites it, and counts the outcome.
#[inline(always)]
pub fn from_net<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Verdict {
    let verdict = match guard::arrives(pkt, node, s) {
        Ok(()) => way::walk(pkt, node, s, From::Wire),
        Err(why) => Verdict::Drop(why),
    };
    counted(node, pkt.size(), verdict)
}
