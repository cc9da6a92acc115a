//! ICMP and ICMPv6 errors about translated connections, and answers to echo requests for service addresses.
//!
//! An error travels against the packet that it speaks of. So the row that translates its way is the one of a reply to
//! the packet inside, and the packet inside becomes what that reply answers (RFC 5508 section 4.2).

use causeway_datapath_abi::{Counter, Tuple, flow_flag};

use crate::Scratch;
use crate::checksum::{self, Diff};
use crate::node::Node;
use crate::packet::{L4Sum, Packet};
use crate::parse::{self, Frag, Headers, L4};
use crate::rewrite::{echo_id, ports, same_addr, v4_pair};

/// Finds the connection of the packet inside an error. If it is known, `s.to` is what the outer tuple becomes.
#[inline(never)]
pub(crate) fn find<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> bool {
    if parse::inner(pkt, s.headers.l4 + 8, s.headers.is_v6, &mut s.inner).is_err() {
        return false;
    }
    let tracked = matches!(s.inner.kind, L4::Tcp | L4::Udp | L4::Echo | L4::Fixed);
    if !tracked || matches!(s.inner.frag, Frag::Later) || !same_addr(&s.headers.tuple.dst, &s.inner.tuple.src) {
        return false;
    }
    s.key = s.inner.tuple.reversed();
    if !node.flow(&s.key, &mut s.flow) || s.flow.expires_s < s.now_s {
        return false;
    }
    s.is_muted = is_about_silent_backend(s) && says_no_route(pkt, &s.headers);
    s.to = s.headers.tuple;
    s.to.dst = s.flow.to.dst;
    // The error comes from the other end itself, which has another address on the other side; a router has not.
    if same_addr(&s.headers.tuple.src, &s.inner.tuple.dst) {
        s.to.src = s.flow.to.src;
    }
    true
}

/// Whether the error is about a TCP connection to a service that no backend has answered.
#[inline(always)]
fn is_about_silent_backend(s: &Scratch) -> bool {
    matches!(s.inner.kind, L4::Tcp) && s.flow.service_id != 0 && s.flow.flags & flow_flag::ESTABLISHED == 0
}

/// Whether the error says that the network has no way to the destination, or led the packet in a circle while routes change,
/// as opposed to a refusal of whoever is there (RFC 792 and RFC 1812 section 5.2.7.1; RFC 4443 sections 3.1 and 3.3).
#[inline(always)]
fn says_no_route<P: Packet>(pkt: &P, h: &Headers) -> bool {
    match (h.is_v6, pkt.load(h.l4)) {
        (false, Some([11, 0])) | (true, Some([3, 0])) => true,
        (false, Some([3, code])) => matches!(code, 0 | 1 | 5 | 6 | 7 | 11 | 12),
        (true, Some([1, code])) => matches!(code, 0 | 2 | 3),
        _ => false,
    }
}

/// Rewrites the packet inside an error to `to`: addresses, ports, its checksums as far as they are there, and the
/// error's own checksum.
#[inline(never)]
pub(crate) fn translate_inner<P: Packet>(
    pkt: &mut P,
    outer: &Headers,
    inner: &Headers,
    to: &Tuple,
) -> Result<(), Counter> {
    let from = &inner.tuple;
    let addrs = Diff::NONE.replace_addr(&from.src, &to.src).replace_addr(&from.dst, &to.dst);
    let mut body = addrs;
    if inner.is_v6 {
        pkt.store(inner.l3 + 8, &to.src.0)?;
        pkt.store(inner.l3 + 24, &to.dst.0)?;
    } else {
        pkt.store(inner.l3 + 12, &v4_pair(to))?;
        body = replace_sum(pkt, inner.l3 + 10, addrs, body, false)?;
    }
    let change = match inner.kind {
        L4::Tcp | L4::Udp => {
            pkt.store(inner.l4, &ports(to).to_le_bytes())?;
            Diff::NONE.replace4(ports(from).to_le_bytes(), ports(to).to_le_bytes())
        }
        L4::Echo => {
            let new = echo_id(to, inner.is_request);
            pkt.store(inner.l4 + 4, &new)?;
            Diff::NONE.replace2(echo_id(from, inner.is_request), new)
        }
        L4::Opaque | L4::Error | L4::Fixed | L4::Later | L4::Discovery => Diff::NONE,
    };
    body = body.and(change);
    let (sum_at, all) = match inner.kind {
        L4::Tcp => (16, addrs.and(change)),
        L4::Udp => (6, addrs.and(change)),
        // ICMP alone has no pseudo-header.
        L4::Echo if !inner.is_v6 => (2, change),
        L4::Echo => (2, addrs.and(change)),
        L4::Opaque | L4::Error | L4::Fixed | L4::Later | L4::Discovery => (0, Diff::NONE),
    };
    let at = inner.l4 + sum_at;
    if sum_at != 0 && at + 2 <= outer.end {
        body = replace_sum(pkt, at, all, body, matches!(inner.kind, L4::Udp))?;
    }
    pkt.add_l4_sum(outer.l4 + 2, body.folded(), L4Sum::Body, false)?;
    Ok(())
}

/// Updates a checksum inside the error, and gives `body` with this change added.
#[inline(always)]
fn replace_sum<P: Packet>(pkt: &mut P, at: u32, diff: Diff, body: Diff, zero_is_none: bool) -> Result<Diff, Counter> {
    let Some(old) = pkt.load::<2>(at) else {
        return Ok(body);
    };
    if zero_is_none && old == [0; 2] {
        return Ok(body);
    }
    let mut new = checksum::apply(old, diff.folded());
    if zero_is_none && new == [0; 2] {
        new = [0xff; 2];
    }
    pkt.store(at, &new)?;
    Ok(body.replace2(old, new))
}

/// Makes a reply of an echo request, but for its addresses.
#[inline(always)]
pub(crate) fn turn<P: Packet>(pkt: &mut P, h: &Headers) -> Result<(), Counter> {
    let [kind, code] = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
    // RFC 792: 8 becomes 0. RFC 4443: 128 becomes 129.
    let reply = if h.is_v6 { 129 } else { 0 };
    pkt.store(h.l4, &[reply, code])?;
    let diff = Diff::NONE.replace2([kind, code], [reply, code]);
    pkt.add_l4_sum(h.l4 + 2, diff.folded(), L4Sum::Body, false)?;
    Ok(())
}
