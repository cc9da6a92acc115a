//! The way of a packet after its tuple is known: into a pod of this node, out by the routing table, or to the stack.

use causeway_datapath_abi::{Addr, Counter};

use crate::checksum::quarter;
use crate::node::{Node, Route, RouteQuery};
use crate::packet::Packet;
use crate::parse::{Headers, L4};
use crate::rewrite::{same, same_addr, set_macs, take_hop, translate};
use crate::{Scratch, Verdict, icmp, segment};

/// Where `Scratch::to` leads.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Path {
    /// The stack: an address of this host, or nobody knows.
    #[default]
    Host = 0,
    /// A pod of this node; its row is in `Scratch::endpoint`.
    Endpoint,
    /// A next hop; it is in `Scratch::next_hop`.
    Forward,
    /// The stack has to tell the sender that the packet is too big.
    TooBig,
    /// The stack has to tell the sender that there is no way.
    Unreachable,
    /// Nobody is to be told.
    Refused,
    /// No hop is left: the stack has to tell the sender.
    Expired,
}

/// What is rewritten beside the tuple.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Job {
    /// Nothing.
    #[default]
    Outer = 0,
    /// The packet inside an ICMP error: `Scratch::inner` becomes the reverse of `Scratch::flow.to`.
    Inside,
    /// An echo request becomes a reply.
    Answer,
}

/// Finds the way for `s.to` without touching the packet.
#[inline(never)]
pub(crate) fn resolve<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) {
    let path = if node.endpoint(&s.to.dst, &mut s.endpoint) {
        Path::Endpoint
    } else {
        let len = segment_len(pkt, &s.headers);
        let asks_mtu = segment::says_size(&s.headers);
        let query = RouteQuery {
            tuple: &s.to,
            is_v6: s.headers.is_v6,
            ifindex: pkt.ifindex(),
            len: if asks_mtu { 0 } else { len },
        };
        match node.route(&query, &mut s.next_hop) {
            Route::Forward if asks_mtu && s.next_hop.mtu != 0 && u32::from(len) > s.next_hop.mtu => Path::TooBig,
            Route::Forward => Path::Forward,
            Route::Host => Path::Host,
            Route::TooBig => Path::TooBig,
            Route::Unreachable => Path::Unreachable,
            Route::Refused => Path::Refused,
        }
    };
    s.path = match path {
        Path::Endpoint | Path::Forward | Path::TooBig if s.headers.ttl <= 1 => Path::Expired,
        _ => path,
    };
}

/// Bytes of one IP packet on the wire; 0 if that cannot be told.
#[inline(always)]
fn segment_len<P: Packet>(pkt: &P, h: &Headers) -> u16 {
    let gso = pkt.gso_size();
    let len = if gso == 0 {
        h.end.wrapping_sub(h.l3)
    } else if matches!(h.kind, L4::Tcp | L4::Udp) {
        h.l4.wrapping_sub(h.l3).wrapping_add(u32::from(h.l4_len)).wrapping_add(gso)
    } else {
        0
    };
    u16::try_from(len).unwrap_or(0)
}

/// Translates the packet to `s.to` and sends it on its way `s.path`.
///
/// The stack gets either the packet as it came or a consistent translated one, and never one that it would forward
/// under a source address of this node: it would take it for a martian.
#[inline(never)]
pub(crate) fn send<P: Packet, N: Node>(pkt: &mut P, node: &mut N, s: &mut Scratch) -> Result<(), Counter> {
    let plain = is_plain(s);
    let way = match s.path {
        Path::Endpoint => Verdict::Peer { ifindex: s.endpoint.ifindex },
        Path::Forward => Verdict::Neighbour { ifindex: s.next_hop.ifindex },
        Path::Refused => return Err(Counter::FibLookupFailed),
        Path::Expired => Verdict::Stack,
        Path::Host | Path::TooBig | Path::Unreachable => Verdict::Stack,
    };
    s.verdict = way;
    if matches!(way, Verdict::Stack) && (plain || matches!(s.path, Path::Expired) || is_answered(s)) {
        return Ok(());
    }
    // Translated towards the host itself, or for the stack to answer; `to_pod` translates what it says then.
    if matches!(way, Verdict::Stack) && same_addr(&s.to.src, &node.node_addr(s.headers.is_v6)) {
        return Err(Counter::FibLookupFailed);
    }
    if !plain {
        translate_all(pkt, s)?;
    }
    if !matches!(way, Verdict::Stack) {
        take_hop(pkt, &s.headers)?;
    }
    if matches!(way, Verdict::Neighbour { .. }) {
        fit(pkt, s)?;
    }
    if matches!(way, Verdict::Peer { .. }) {
        set_macs(pkt, &s.endpoint)?;
    }
    Ok(())
}

/// Lowers the segment size that a SYN says to what its next hop's interface takes.
#[inline(always)]
pub(crate) fn fit<P: Packet>(pkt: &mut P, s: &Scratch) -> Result<(), Counter> {
    if segment::says_size(&s.headers) { segment::clamp(pkt, &s.headers, s.next_hop.mtu) } else { Ok(()) }
}

/// Whether the stack answers the untouched packet: it finds the same route for it, and does not forward it.
#[inline(always)]
fn is_answered(s: &Scratch) -> bool {
    let answers = match s.path {
        Path::TooBig => s.headers.dont_fragment,
        Path::Unreachable => true,
        Path::Endpoint | Path::Forward | Path::Host | Path::Refused | Path::Expired => false,
    };
    answers && same_addr(&s.headers.tuple.dst, &s.to.dst)
}

/// Whether the packet stays as it is.
#[inline(always)]
pub(crate) fn is_plain(s: &Scratch) -> bool {
    same(&s.headers.tuple, &s.to) && (!matches!(s.job, Job::Inside) || same(&s.key, &s.flow.to))
}

/// Rewrites everything that is to be rewritten.
#[inline(always)]
pub(crate) fn translate_all<P: Packet>(pkt: &mut P, s: &mut Scratch) -> Result<(), Counter> {
    match s.job {
        Job::Outer => {}
        Job::Inside => {
            s.key = s.flow.to.reversed();
            icmp::translate_inner(pkt, &s.headers, &s.inner, &s.key)?;
        }
        Job::Answer => icmp::turn(pkt, &s.headers)?,
    }
    translate(pkt, &s.headers, &s.to)
}

/// Link-local, multicast, broadcast and unspecified addresses: between neighbours, a matter of the stack.
#[inline(always)]
pub(crate) fn is_local_scope(addr: &Addr, is_v6: bool) -> bool {
    if is_v6 {
        let [a, b, ..] = addr.0;
        // RFC 4291: ff00::/8, fe80::/10, and :: itself.
        return a == 0xff || (a == 0xfe && b & 0xc0 == 0x80) || same_addr(addr, &Addr::ZERO);
    }
    // RFC 1112 and RFC 919: 224.0.0.0/4 and 240.0.0.0/4 with the limited broadcast.
    quarter(addr, 3)[0] >= 224
}

/// Whether the address is in 169.254.0.0/16 (RFC 3927). Not of local scope here: the hairpin address may be one of
/// them, and connections with it are known by the flow table.
#[inline(always)]
pub(crate) const fn is_v4_link_local(addr: &Addr, is_v6: bool) -> bool {
    let [a, b, ..] = quarter(addr, 3);
    !is_v6 && a == 169 && b == 254
}
