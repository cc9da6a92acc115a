//! Nothing in plaintext: what leaves or enters by an uplink is looked at once more, whatever routes and programs decided.
//!
//! Only addresses count, so fragments, ICMP and protocols that nobody knows are covered. Rows of `ENCRYPT` say whose
//! traffic must be encrypted; what WireGuard itself sends is known by its mark. The guard asks nothing of the flow table and
//! changes nothing, so it holds also while everything else is being set up. Without `config_flag::ENCRYPT` it is not there.
//!
//! It sees packets as they are on the wire: a pod's connection that is masqueraded is the host's here.

use causeway_datapath_abi::{Addr, Counter, config_flag, encrypt_flag, mark};

use crate::Scratch;
use crate::deliver::is_local_scope;
use crate::node::Node;
use crate::packet::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Packet};
use crate::parse::proto;

/// What the guard says of a packet that may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    /// WireGuard sends it.
    Encrypted,
    /// It needs no encryption.
    Plain,
}

/// Addresses and a little more of a packet.
#[derive(Clone, Copy)]
struct Ends {
    src: Addr,
    dst: Addr,
    is_v6: bool,
}

/// Whether a packet may leave by an uplink.
#[inline(always)]
pub(crate) fn leaves<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> Result<Leave, Counter> {
    if node.flags() & config_flag::ENCRYPT == 0 {
        return Ok(Leave::Plain);
    }
    if pkt.mark() == mark::ENCRYPTED {
        return Ok(Leave::Encrypted);
    }
    if may_leave(pkt, node, s) { Ok(Leave::Plain) } else { Err(Counter::NotEncrypted) }
}

/// Whether a packet may come in by an uplink.
#[inline(always)]
pub(crate) fn arrives<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> Result<(), Counter> {
    // What a bridge floods to other hosts is not received.
    if node.flags() & config_flag::ENCRYPT == 0 || pkt.is_for_other_host() || may_arrive(pkt, node, s) {
        return Ok(());
    }
    Err(Counter::PlaintextRefused)
}

#[inline(never)]
fn may_leave<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> bool {
    let Some(is_v6) = family(pkt) else {
        return true;
    };
    // Said to be IP, and is not where we look: it cannot be shown that it may leave.
    let Some(ends) = ends(pkt, is_v6) else {
        return false;
    };
    let to = node.encrypt_flags(&ends.dst);
    if to & (encrypt_flag::REMOTE_POD | encrypt_flag::REMOTE_NODE) == 0 || to & encrypt_flag::PLAIN != 0 {
        return true;
    }
    let from = node.encrypt_flags(&ends.src);
    if from & encrypt_flag::PLAIN != 0 {
        return true;
    }
    if to & encrypt_flag::REMOTE_POD != 0 || is_pod(node, s, &ends.src, from) {
        return false;
    }
    to & encrypt_flag::NODE_TOO == 0 || is_between_neighbours(pkt, &ends)
}

#[inline(never)]
fn may_arrive<P: Packet, N: Node>(pkt: &P, node: &mut N, s: &mut Scratch) -> bool {
    // What cannot be read is refused by what follows, or by the stack.
    let Some(ends) = family(pkt).and_then(|is_v6| ends(pkt, is_v6)) else {
        return true;
    };
    let from = node.encrypt_flags(&ends.src);
    if from & (encrypt_flag::REMOTE_POD | encrypt_flag::REMOTE_NODE) == 0 || from & encrypt_flag::PLAIN != 0 {
        return true;
    }
    let to = node.encrypt_flags(&ends.dst);
    if to & encrypt_flag::PLAIN != 0 {
        return true;
    }
    if from & encrypt_flag::REMOTE_POD != 0 || is_pod(node, s, &ends.dst, to) {
        return false;
    }
    from & encrypt_flag::NODE_TOO == 0 || is_between_neighbours(pkt, &ends) || is_wireguard(pkt, node, &ends)
}

/// `None` if the packet is not IP.
#[inline(always)]
fn family<P: Packet>(pkt: &P) -> Option<bool> {
    match pkt.ether_type() {
        ETHERTYPE_IPV4 => Some(false),
        ETHERTYPE_IPV6 => Some(true),
        _ => None,
    }
}

#[inline(always)]
fn ends<P: Packet>(pkt: &P, is_v6: bool) -> Option<Ends> {
    let [first] = pkt.load(ETHERNET_LEN)?;
    if first >> 4 != if is_v6 { 6 } else { 4 } {
        return None;
    }
    if is_v6 {
        let (src, dst) = (pkt.load(ETHERNET_LEN + 8)?, pkt.load(ETHERNET_LEN + 24)?);
        return Some(Ends { src: Addr(src), dst: Addr(dst), is_v6 });
    }
    let (src, dst) = (pkt.load(ETHERNET_LEN + 12)?, pkt.load(ETHERNET_LEN + 16)?);
    Some(Ends { src: Addr::v4(src), dst: Addr::v4(dst), is_v6 })
}

/// Whether the address, of which `ENCRYPT` says `flags`, is a pod's of this node.
#[inline(always)]
fn is_pod<N: Node>(node: &N, s: &mut Scratch, addr: &Addr, flags: u32) -> bool {
    flags & encrypt_flag::LOCAL_POD != 0 || node.endpoint(addr, &mut s.endpoint)
}

/// What hosts on one link say to each other and no router carries on: neighbour discovery, which finds the way that the
/// encrypted packets take, and everything of local scope.
#[inline(always)]
fn is_between_neighbours<P: Packet>(pkt: &P, ends: &Ends) -> bool {
    if is_local_scope(&ends.dst, ends.is_v6) {
        return true;
    }
    if !ends.is_v6 {
        return false;
    }
    let Some([next, hop_limit]) = pkt.load(ETHERNET_LEN + 6) else {
        return false;
    };
    let Some([kind]) = pkt.load(ETHERNET_LEN + 40) else {
        return false;
    };
    // RFC 4861 section 4: router and neighbour solicitation and advertisement, redirect. Section 11.2: 255 hops are left,
    // so that no router has carried it.
    next == proto::ICMPV6 && hop_limit == 255 && matches!(kind, 133..=137)
}

/// Whether the packet is for WireGuard, which makes sure itself whose it is. Of a fragmented one the later fragments have
/// no port; alone they are nothing, and only one whose first fragment has passed here is put together.
#[inline(always)]
fn is_wireguard<P: Packet, N: Node>(pkt: &P, node: &N, ends: &Ends) -> bool {
    let place = if ends.is_v6 { udp_v6(pkt) } else { udp_v4(pkt) };
    match place {
        Some(0) => true,
        Some(at) => pkt.load(at).is_some_and(|port| {
            let (first, count) = node.wireguard_ports();
            u16::from_be_bytes(port).wrapping_sub(first) < count
        }),
        None => false,
    }
}

/// Where the destination port of a UDP packet is; 0 in a later fragment.
#[inline(always)]
fn udp_v4<P: Packet>(pkt: &P) -> Option<u32> {
    let b: [u8; 10] = pkt.load(ETHERNET_LEN)?;
    if b[9] != proto::UDP {
        return None;
    }
    let is_later = b[6] & 0x1f != 0 || b[7] != 0;
    Some(if is_later { 0 } else { ETHERNET_LEN + u32::from(b[0] & 0x0f) * 4 + 2 })
}

#[inline(always)]
fn udp_v6<P: Packet>(pkt: &P) -> Option<u32> {
    let [next] = pkt.load(ETHERNET_LEN + 6)?;
    if next == proto::UDP {
        return Some(ETHERNET_LEN + 42);
    }
    if next != proto::FRAGMENT {
        return None;
    }
    let f: [u8; 4] = pkt.load(ETHERNET_LEN + 40)?;
    if f[0] != proto::UDP {
        return None;
    }
    let is_later = f[2] != 0 || f[3] & 0xf8 != 0;
    Some(if is_later { 0 } else { ETHERNET_LEN + 50 })
}
