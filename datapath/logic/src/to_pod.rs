//! Packets that the host's stack sends to a pod: answers of backends in the host's namespace, errors of the stack
//! about translated packets, and connections of the host itself.

use causeway_datapath_abi::Counter;

use crate::deliver::{is_local_scope, is_plain, translate_all};
use crate::flows;
use crate::node::Node;
use crate::packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use crate::parse::{self, L4};
use crate::way::find;
use crate::{Scratch, Verdict, counted, fragments};

/// Decides about a packet on its way into a pod, rewrites it, and counts the outcome.
#[inline(always)]
pub fn to_pod<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Verdict {
    let verdict = decide(pkt, node, s).unwrap_or_else(Verdict::Drop);
    counted(node, pkt.size(), verdict)
}

#[inline(always)]
fn decide<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Result<Verdict, Counter> {
    if !recognise(pkt, node, s) {
        return Ok(Verdict::Stack);
    }
    if !find(pkt, node, s) {
        if matches!(s.headers.kind, L4::Tcp | L4::Udp | L4::Echo | L4::Fixed) {
            flows::note(node, s);
        }
    } else if s.is_muted {
        return Err(Counter::BackendUnreachable);
    } else if !is_plain(s) {
        fragments::lend_ports(node, &s.headers, s.now_s);
        translate_all(pkt, s)?;
    }
    Ok(Verdict::Stack)
}

/// Parses a packet of the host's stack; `false` if it is not for the programs.
#[inline(never)]
pub(crate) fn recognise<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> bool {
    let is_v6 = match pkt.ether_type() {
        ETHERTYPE_IPV4 => false,
        ETHERTYPE_IPV6 => true,
        _ => return false,
    };
    // The stack knows better than we what it sends; what we cannot read is not ours to translate.
    if parse::outer(pkt, ETHERNET_LEN, is_v6, &mut s.headers).is_err() {
        return false;
    }
    let t = &s.headers.tuple;
    if matches!(s.headers.kind, L4::Discovery) || is_local_scope(&t.dst, is_v6) || is_local_scope(&t.src, is_v6) {
        return false;
    }
    s.now_s = node.now_s();
    fragments::borrow_ports(node, &mut s.headers, s.now_s);
    true
}
