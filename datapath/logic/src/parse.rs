//! From bytes to headers: IPv4 with options, IPv6 with a bounded chain of extension headers, and what is needed of
//! TCP, UDP, SCTP, ICMP and ICMPv6. Total: any bytes give headers or a refusal.

use causeway_datapath_abi::{Addr, Counter, Tuple};

use crate::packet::Packet;

/// Protocol numbers (IANA, Assigned Internet Protocol Numbers).
pub(crate) mod proto {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const AUTH: u8 = 51;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const DEST_OPTS: u8 = 60;
    pub(crate) const SCTP: u8 = 132;
}

/// TCP flags (RFC 9293 section 3.1).
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;
}

/// Bytes of a TCP header without options (RFC 9293 section 3.1).
pub(crate) const TCP_HEADER_LEN: u32 = 20;

/// Extension headers that are followed. RFC 8200 section 4.1 lists seven, each once; longer chains are not translated.
const MAX_EXTENSIONS: u32 = 7;

/// What layer 4 is, as far as translation goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum L4 {
    /// Ports unknown or absent and nothing to track: other ICMP, fragments whose first one was not seen, odd chains.
    #[default]
    Opaque = 0,
    Tcp,
    Udp,
    /// ICMP or ICMPv6 echo request or reply; the identifier acts as a port.
    Echo,
    /// ICMP or ICMPv6 error, with a packet inside.
    Error,
    /// A protocol whose ports, if it has any, cannot be rewritten (SCTP's checksum covers them, others have none).
    Fixed,
    /// A later fragment whose ports are known.
    Later,
    /// Neighbour or multicast listener discovery: between pod and host, never forwarded.
    Discovery,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(u8)]
pub enum Frag {
    #[default]
    Whole = 0,
    First,
    Later,
}

/// A parsed packet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Headers {
    pub tuple: Tuple,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of layer 4.
    pub l4: u32,
    /// Offset of the first byte behind the IP packet.
    pub end: u32,
    /// Fragment identification.
    pub frag_id: [u8; 4],
    pub ttl: u8,
    pub tcp_flags: u8,
    /// Bytes of the TCP or UDP header.
    pub l4_len: u8,
    pub kind: L4,
    pub frag: Frag,
    pub is_v6: bool,
    /// The sender forbids fragmentation on the way (always so in IPv6).
    pub dont_fragment: bool,
    /// Echo request, as opposed to reply.
    pub is_request: bool,
}

/// Where a header chain stands.
#[derive(Clone, Copy)]
enum Place {
    /// The packet itself: lengths must agree.
    Outer,
    /// Inside an ICMP error: cut anywhere after eight bytes of layer 4 (RFC 792).
    Inner,
}

/// Parses the packet of this EtherType at `l3`.
#[inline(always)]
pub(crate) fn outer<P: Packet>(pkt: &P, l3: u32, is_v6: bool, h: &mut Headers) -> Result<(), Counter> {
    parse(pkt, l3, is_v6, h, Place::Outer)
}

/// Parses the packet inside an ICMP error.
#[inline(always)]
pub(crate) fn inner<P: Packet>(pkt: &P, l3: u32, is_v6: bool, h: &mut Headers) -> Result<(), Counter> {
    parse(pkt, l3, is_v6, h, Place::Inner)
}

#[inline(never)]
fn parse<P: Packet>(pkt: &P, l3: u32, is_v6: bool, h: &mut Headers, place: Place) -> Result<(), Counter> {
    h.l3 = l3;
    h.is_v6 = is_v6;
    h.kind = L4::Opaque;
    h.frag = Frag::Whole;
    h.frag_id = [0; 4];
    h.tcp_flags = 0;
    h.l4_len = 0;
    h.is_request = false;
    h.tuple.sport = [0; 2];
    h.tuple.dport = [0; 2];
    if is_v6 {
        ipv6(pkt, h, place)?;
    } else {
        ipv4(pkt, h, place)?;
    }
    if matches!(h.frag, Frag::Later) {
        return Ok(());
    }
    layer4(pkt, h, place)
}

#[inline(always)]
fn ipv4<P: Packet>(pkt: &P, h: &mut Headers, place: Place) -> Result<(), Counter> {
    let b: [u8; 20] = pkt.load(h.l3).ok_or(Counter::InvalidPacket)?;
    let header_len = u32::from(b[0] & 0x0f) * 4;
    if b[0] >> 4 != 4 || header_len < 20 {
        return Err(Counter::InvalidPacket);
    }
    let total = u32::from(u16::from_be_bytes([b[2], b[3]]));
    set_end(pkt, h, total, header_len, place)?;
    h.l4 = h.l3 + header_len;
    h.ttl = b[8];
    h.tuple.proto = b[9];
    h.tuple.src = Addr::v4([b[12], b[13], b[14], b[15]]);
    h.tuple.dst = Addr::v4([b[16], b[17], b[18], b[19]]);
    h.dont_fragment = b[6] & 0x40 != 0;
    let more = b[6] & 0x20 != 0;
    let later = b[6] & 0x1f != 0 || b[7] != 0;
    set_frag(h, more, later, [0, 0, b[4], b[5]]);
    Ok(())
}

#[inline(always)]
fn ipv6<P: Packet>(pkt: &P, h: &mut Headers, place: Place) -> Result<(), Counter> {
    let b: [u8; 8] = pkt.load(h.l3).ok_or(Counter::InvalidPacket)?;
    if b[0] >> 4 != 6 {
        return Err(Counter::InvalidPacket);
    }
    h.tuple.src = Addr(pkt.load(h.l3 + 8).ok_or(Counter::InvalidPacket)?);
    h.tuple.dst = Addr(pkt.load(h.l3 + 24).ok_or(Counter::InvalidPacket)?);
    let payload = u32::from(u16::from_be_bytes([b[4], b[5]]));
    // A payload length of zero is a jumbogram's (RFC 2675), which the stack makes of big offloaded packets.
    set_end(pkt, h, if payload == 0 { 0 } else { payload + 40 }, 40, place)?;
    h.ttl = b[7];
    h.dont_fragment = true;
    let mut next = b[6];
    let mut l4 = h.l3 + 40;
    for _ in 0..MAX_EXTENSIONS {
        let unit = match next {
            proto::HOP_BY_HOP | proto::ROUTING | proto::DEST_OPTS => 8,
            proto::AUTH => 4,
            proto::FRAGMENT => {
                let f: [u8; 8] = pkt.load(l4).ok_or(Counter::InvalidPacket)?;
                let more = f[3] & 1 != 0;
                let later = f[2] != 0 || f[3] & 0xf8 != 0;
                set_frag(h, more, later, [f[4], f[5], f[6], f[7]]);
                next = f[0];
                l4 += 8;
                if later {
                    break;
                }
                continue;
            }
            _ => break,
        };
        let x: [u8; 2] = pkt.load(l4).ok_or(Counter::InvalidPacket)?;
        next = x[0];
        l4 += if unit == 8 { (u32::from(x[1]) + 1) * 8 } else { (u32::from(x[1]) + 2) * 4 };
    }
    h.l4 = l4;
    h.tuple.proto = next;
    Ok(())
}

/// Sets `end` from the length that the IP header tells; zero means that the whole rest belongs to it.
#[inline(always)]
fn set_end<P: Packet>(pkt: &P, h: &mut Headers, told: u32, header_len: u32, place: Place) -> Result<(), Counter> {
    h.end = pkt.size();
    if told == 0 {
        return Ok(());
    }
    if told < header_len {
        return Err(Counter::InvalidPacket);
    }
    match place {
        Place::Outer if h.l3 + told > pkt.size() => return Err(Counter::InvalidPacket),
        Place::Inner if h.l3 + told > pkt.size() => {}
        Place::Outer | Place::Inner => h.end = h.l3 + told,
    }
    Ok(())
}

#[inline(always)]
fn set_frag(h: &mut Headers, more: bool, later: bool, id: [u8; 4]) {
    h.frag_id = id;
    h.frag = match (more, later) {
        (_, true) => Frag::Later,
        (true, false) => Frag::First,
        (false, false) => Frag::Whole,
    };
}

#[inline(always)]
fn layer4<P: Packet>(pkt: &P, h: &mut Headers, place: Place) -> Result<(), Counter> {
    match h.tuple.proto {
        proto::TCP => match place {
            // The checksum must be there: a first fragment that ends before it is an attack (RFC 1858).
            Place::Outer => {
                let b: [u8; 20] = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
                h.tcp_flags = b[13];
                h.l4_len = (b[12] >> 4) * 4;
                ports(h, [b[0], b[1], b[2], b[3]], L4::Tcp);
            }
            Place::Inner => {
                let b = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
                ports(h, b, L4::Tcp);
            }
        },
        proto::UDP => {
            let b: [u8; 8] = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
            h.l4_len = 8;
            ports(h, [b[0], b[1], b[2], b[3]], L4::Udp);
        }
        proto::SCTP => {
            let b = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
            ports(h, b, L4::Fixed);
        }
        proto::ICMP if !h.is_v6 => {
            let b: [u8; 8] = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
            // RFC 792: 8 echo, 0 echo reply, 3 unreachable, 11 time exceeded, 12 parameter problem.
            icmp(h, b, 8, 0, matches!(b[0], 3 | 11 | 12));
        }
        proto::ICMPV6 if h.is_v6 => {
            let b: [u8; 8] = pkt.load(h.l4).ok_or(Counter::InvalidPacket)?;
            // RFC 4443: 128 echo, 129 echo reply, 1..=4 errors. RFC 4861 and RFC 2710, RFC 3810: discovery.
            icmp(h, b, 128, 129, matches!(b[0], 1..=4));
            if matches!(b[0], 130..=137 | 143) {
                h.kind = L4::Discovery;
            }
        }
        proto::HOP_BY_HOP | proto::ROUTING | proto::DEST_OPTS | proto::AUTH | proto::FRAGMENT if h.is_v6 => {}
        _ => h.kind = L4::Fixed,
    }
    let least = match h.kind {
        L4::Tcp => 20,
        L4::Udp | L4::Echo | L4::Error => 8,
        L4::Opaque | L4::Fixed | L4::Later | L4::Discovery => 0,
    };
    match place {
        // What was read must not have been padding.
        Place::Outer if h.l4 + least > h.end => Err(Counter::InvalidPacket),
        Place::Outer | Place::Inner => Ok(()),
    }
}

#[inline(always)]
fn ports(h: &mut Headers, b: [u8; 4], kind: L4) {
    h.tuple.sport = [b[0], b[1]];
    h.tuple.dport = [b[2], b[3]];
    h.kind = kind;
}

#[inline(always)]
fn icmp(h: &mut Headers, b: [u8; 8], request: u8, reply: u8, is_error: bool) {
    let id = [b[4], b[5]];
    if b[0] == request {
        h.tuple.sport = id;
        h.is_request = true;
        h.kind = L4::Echo;
    } else if b[0] == reply {
        h.tuple.dport = id;
        h.kind = L4::Echo;
    } else if is_error {
        h.kind = L4::Error;
    }
}
