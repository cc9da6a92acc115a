//! TCP's maximum segment size (RFC 9293 section 3.7.1) is lowered to what the packet's way takes. Who opens a connection
//! from a pod whose MTU is greater (it was there before encryption was switched on, say) then needs no packet-too-big, which
//! somebody on the way might swallow.
//!
//! SYN segments alone say it, one in each direction, each on its own way out.

use causeway_datapath_abi::Counter;

use crate::checksum::Diff;
use crate::packet::{L4Sum, Packet};
use crate::parse::{Frag, Headers, L4, TCP_HEADER_LEN, tcp};

/// Options that are looked at. Linux puts the segment size first.
const MAX_OPTIONS: u32 = 10;

/// Kinds of options (RFC 9293 section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const SEGMENT_SIZE: u8 = 2;
const SEGMENT_SIZE_LEN: u8 = 4;

/// RFC 791: every host takes 576 bytes. Below it nothing is lowered: so the 65,536 of a loopback, of which the kernel's lookup
/// gives the low half, is no limit either.
const LEAST_MTU: u32 = 576;

/// Whether the packet says a segment size that may have to be lowered.
#[inline(always)]
pub(crate) fn says_size(h: &Headers) -> bool {
    matches!(h.kind, L4::Tcp) && matches!(h.frag, Frag::Whole) && h.tcp_flags & tcp::SYN != 0
}

/// Lowers the segment size of a SYN to what fits into `mtu` bytes of an IP packet; never raises it. The ports and addresses
/// may have been rewritten before.
#[inline(never)]
pub(crate) fn clamp<P: Packet>(pkt: &mut P, h: &Headers, mtu: u32) -> Result<(), Counter> {
    if mtu < LEAST_MTU {
        return Ok(());
    }
    let Some(at) = find(pkt, h) else {
        return Ok(());
    };
    let Some(old) = pkt.load::<2>(at) else {
        return Ok(());
    };
    // The option counts neither IP's nor TCP's options (RFC 6691).
    let headers = if h.is_v6 { 40 } else { 20 } + TCP_HEADER_LEN;
    let most = ((mtu - headers) & 0xffff) as u16;
    if u16::from_be_bytes(old) <= most {
        return Ok(());
    }
    let new = most.to_be_bytes();
    pkt.store(at, &new)?;
    // At an odd place the two bytes are halves of two words of the sum: the other halves.
    let is_odd = at.wrapping_sub(h.l4) & 1 != 0;
    let diff =
        if is_odd { Diff::NONE.replace2([old[1], old[0]], [new[1], new[0]]) } else { Diff::NONE.replace2(old, new) };
    pkt.add_l4_sum(h.l4 + 16, diff.folded(), L4Sum::Body, false)?;
    Ok(())
}

/// Where the two bytes of the segment size are.
#[inline(always)]
fn find<P: Packet>(pkt: &P, h: &Headers) -> Option<u32> {
    let end = h.l4.wrapping_add(u32::from(h.l4_len));
    if end > h.end {
        return None;
    }
    let mut at = h.l4.wrapping_add(TCP_HEADER_LEN);
    for _ in 0..MAX_OPTIONS {
        if at.wrapping_add(u32::from(SEGMENT_SIZE_LEN)) > end {
            return None;
        }
        let [kind, len] = pkt.load(at)?;
        match kind {
            END => return None,
            NO_OPERATION => at += 1,
            SEGMENT_SIZE if len == SEGMENT_SIZE_LEN => return Some(at + 2),
            _ if len < 2 => return None,
            _ => at += u32::from(len),
        }
    }
    None
}
