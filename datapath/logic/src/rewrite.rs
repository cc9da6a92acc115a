//! Turns a packet of one tuple into a packet of another, and forwards it one hop.
//!
//! Checksums change by differences only, through the kernel's helpers, so that packets whose checksum the device still
//! has to compute, and offloaded packets of many segments, stay right.

use causeway_datapath_abi::{Addr, Counter, Endpoint, Tuple};

use crate::checksum::{Diff, quarter};
use crate::packet::{L4Sum, Packet, Unwritable};
use crate::parse::{Frag, Headers, L4};

impl From<Unwritable> for Counter {
    fn from(_: Unwritable) -> Counter {
        Counter::WriteError
    }
}

/// Equality of tuples, word by word.
#[inline(always)]
pub(crate) fn same(a: &Tuple, b: &Tuple) -> bool {
    let (as0, as1) = halves(&a.src);
    let (bs0, bs1) = halves(&b.src);
    let (ad0, ad1) = halves(&a.dst);
    let (bd0, bd1) = halves(&b.dst);
    let ends = u64::from(ports(a) ^ ports(b)) | u64::from(a.proto ^ b.proto);
    (as0 ^ bs0) | (as1 ^ bs1) | (ad0 ^ bd0) | (ad1 ^ bd1) | ends == 0
}

#[inline(always)]
pub(crate) fn same_addr(a: &Addr, b: &Addr) -> bool {
    let (a0, a1) = halves(a);
    let (b0, b1) = halves(b);
    (a0 ^ b0) | (a1 ^ b1) == 0
}

#[inline(always)]
pub(crate) const fn halves(addr: &Addr) -> (u64, u64) {
    let a = &addr.0;
    let first = u64::from_le_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let last = u64::from_le_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    (first, last)
}

#[inline(always)]
pub(crate) const fn ports(t: &Tuple) -> u32 {
    u32::from_le_bytes([t.sport[0], t.sport[1], t.dport[0], t.dport[1]])
}

/// The echo identifier, which a request carries as its source port and a reply as its destination port.
#[inline(always)]
pub(crate) const fn echo_id(t: &Tuple, is_request: bool) -> [u8; 2] {
    if is_request { t.sport } else { t.dport }
}

/// The last four bytes of source and destination, as they lie in an IPv4 header.
#[inline(always)]
pub(crate) const fn v4_pair(t: &Tuple) -> [u8; 8] {
    let s = quarter(&t.src, 3);
    let d = quarter(&t.dst, 3);
    [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]]
}

/// Rewrites addresses, ports or echo identifier, and their checksums, from `h.tuple` to `to`.
#[inline(never)]
pub(crate) fn translate<P: Packet>(pkt: &mut P, h: &Headers, to: &Tuple) -> Result<(), Counter> {
    let addrs = Diff::NONE.replace_addr(&h.tuple.src, &to.src).replace_addr(&h.tuple.dst, &to.dst).folded();
    let pseudo = if h.is_v6 {
        pkt.store(h.l3 + 8, &to.src.0)?;
        pkt.store(h.l3 + 24, &to.dst.0)?;
        L4Sum::PseudoV6
    } else {
        pkt.store(h.l3 + 12, &v4_pair(to))?;
        pkt.add_ip_sum(h.l3 + 10, addrs)?;
        L4Sum::PseudoV4
    };
    if matches!(h.frag, Frag::Later) {
        return Ok(());
    }
    let (ports_at, sum_at, has_pseudo) = match h.kind {
        L4::Tcp => (0, 16, true),
        L4::Udp => (0, 6, true),
        L4::Echo => (4, 2, h.is_v6),
        L4::Error if h.is_v6 => (0, 2, true),
        // SCTP's checksum has no pseudo-header (RFC 9260 section 6.8); the others have no checksum of ours.
        L4::Error | L4::Opaque | L4::Fixed | L4::Later | L4::Discovery => return Ok(()),
    };
    let zero_is_none = matches!(h.kind, L4::Udp);
    if has_pseudo {
        pkt.add_l4_sum(h.l4 + sum_at, addrs, pseudo, zero_is_none)?;
    }
    if ports(&h.tuple) == ports(to) {
        return Ok(());
    }
    let change = if matches!(h.kind, L4::Echo) {
        let new = echo_id(to, h.is_request);
        pkt.store(h.l4 + ports_at, &new)?;
        Diff::NONE.replace2(echo_id(&h.tuple, h.is_request), new)
    } else {
        pkt.store(h.l4 + ports_at, &ports(to).to_le_bytes())?;
        Diff::NONE.replace4(ports(&h.tuple).to_le_bytes(), ports(to).to_le_bytes())
    };
    pkt.add_l4_sum(h.l4 + sum_at, change.folded(), L4Sum::Body, zero_is_none)?;
    Ok(())
}

/// Takes one hop off. The caller has seen that at least one remains.
#[inline(always)]
pub(crate) fn take_hop<P: Packet>(pkt: &mut P, h: &Headers) -> Result<(), Counter> {
    let ttl = h.ttl.wrapping_sub(1);
    if h.is_v6 {
        pkt.store_unsummed(h.l3 + 7, ttl)?;
    } else {
        pkt.store(h.l3 + 8, &[ttl])?;
        pkt.add_ip_sum(h.l3 + 10, Diff::NONE.replace2([h.ttl, 0], [ttl, 0]).folded())?;
    }
    Ok(())
}

/// Addresses the frame to a pod.
#[inline(always)]
pub(crate) fn set_macs<P: Packet>(pkt: &mut P, ep: &Endpoint) -> Result<(), Counter> {
    let (d, s) = (&ep.mac, &ep.host_mac);
    pkt.store(0, &[d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5]])?;
    Ok(())
}
