//! Ports of fragments: the first one carries them, the others borrow them.

use causeway_datapath_abi::{FragmentKey, FragmentPorts};

use crate::node::Node;
use crate::parse::{Frag, Headers, L4};

/// How long fragments may be apart. RFC 8200 section 4.5 lets a receiver wait 60 s, Linux waits 30 s.
const FRAGMENT_S: u32 = 30;

#[inline(always)]
fn key(h: &Headers) -> FragmentKey {
    FragmentKey { src: h.tuple.src, dst: h.tuple.dst, id: h.frag_id, proto: h.tuple.proto, zero: [0; 3] }
}

/// Gives a later fragment the ports of the first one, if that was seen.
#[inline(always)]
pub(crate) fn borrow_ports<N: Node>(node: &N, h: &mut Headers, now_s: u32) {
    if !matches!(h.frag, Frag::Later) {
        return;
    }
    if let Some(ports) = node.fragment(&key(h))
        && ports.expires_s >= now_s
    {
        h.tuple.sport = ports.sport;
        h.tuple.dport = ports.dport;
        h.kind = L4::Later;
    }
}

/// Keeps the ports of a first fragment that goes on.
#[inline(always)]
pub(crate) fn lend_ports<N: Node>(node: &mut N, h: &Headers, now_s: u32) {
    if !matches!(h.frag, Frag::First) {
        return;
    }
    let ports =
        FragmentPorts { sport: h.tuple.sport, dport: h.tuple.dport, expires_s: now_s.saturating_add(FRAGMENT_S) };
    node.insert_fragment(&key(h), &ports);
}
