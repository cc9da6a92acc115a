//! The flow table: finding a connection, keeping it alive, opening a new one.
//!
//! Both rows of a connection always expire together: whoever writes one writes the other, and puts it back if it was
//! evicted. A row past its expiry counts as absent, so that its translated port can be given to another connection
//! before the collector comes.

use causeway_datapath_abi::{Counter, Flow, Tuple, flow_flag};

use crate::Scratch;
use crate::node::{Inserted, Node};
use crate::parse::{Headers, L4, proto, tcp};
use crate::rewrite::{halves, ports, same};

/// A connection that is being opened. RFC 5382 REQ-5 wants at least 4 minutes, but for packets that a SYN flood could
/// not send; Cilium's `--bpf-ct-timeout-regular-tcp-syn` is 60 s and is followed.
const TCP_SYN_S: u32 = 60;
/// An open connection: 2 h 4 min is the least that RFC 5382 REQ-5 allows; 8000 s is Cilium's `regular-tcp` default.
const TCP_ESTABLISHED_S: u32 = 8000;
/// After both FINs or an RST: Cilium's `--bpf-ct-timeout-regular-tcp-fin`.
const TCP_CLOSING_S: u32 = 10;
/// RFC 4787 REQ-5 recommends more than 2 minutes for unknown uses; Cilium's `regular-any` default is 60 s.
const UDP_S: u32 = 60;
/// RFC 5508 REQ-2: at least 60 s is for NATs before the Internet; an echo that was not answered in 30 s will not be.
const ICMP_S: u32 = 30;
/// Rows are written again only when their expiry moves by more than this, which keeps the hot path free of writes.
const REFRESH_S: u32 = 5;
/// Makes the walk through the ports independent of the choice of the backend.
const PROBE_SEED: u32 = 0x706f_7274;
/// Ports tried for one new connection. With half of the range taken, 16 fail once in 65,000 times.
const PORT_ATTEMPTS: u32 = 16;

/// Looks the packet's tuple up. On a hit `s.to` is what it becomes, `s.flow` its row, and both rows are kept alive.
#[inline(never)]
pub(crate) fn find<N: Node>(node: &mut N, s: &mut Scratch) -> bool {
    if !node.flow(&s.headers.tuple, &mut s.flow) || s.flow.expires_s < s.now_s {
        return false;
    }
    s.to = s.flow.to;
    let before = s.flow.flags;
    if restarts(&s.headers, &s.flow) {
        if s.flow.service_id != 0 || before & flow_flag::REPLY != 0 {
            s.key = s.to.reversed();
            node.remove_flow(&s.headers.tuple);
            node.remove_flow(&s.key);
            return false;
        }
        // Only a service could choose another way; any other translation begins anew in its rows.
        s.flow.flags &= flow_flag::SNAT;
    }
    refresh(node, s, before);
    true
}

/// A first SYN on a connection that is ending opens a new one, which may get another backend. So does one that is sent
/// again because a service's backend never answered: the choice is the same as long as the backends are, and another one
/// once the silent backend has been taken out.
#[inline(always)]
fn restarts(h: &Headers, flow: &Flow) -> bool {
    let ending = flow.flags & (flow_flag::CLOSING | flow_flag::PEER_CLOSING) != 0;
    let unanswered = flow.service_id != 0 && flow.flags & (flow_flag::REPLY | flow_flag::ESTABLISHED) == 0;
    matches!(h.kind, L4::Tcp) && h.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN && (ending || unanswered)
}

#[inline(always)]
fn refresh<N: Node>(node: &mut N, s: &mut Scratch, before: u32) {
    let flags = step(s.flow.flags, &s.headers);
    let expires_s = s.now_s.saturating_add(timeout_s(s.headers.tuple.proto, flags));
    let over = flow_flag::CLOSING | flow_flag::PEER_CLOSING;
    let moved = before & over != over && expires_s > s.flow.expires_s.saturating_add(REFRESH_S);
    if flags == before && !moved {
        return;
    }
    s.flow.flags = flags;
    s.flow.expires_s = expires_s;
    node.touch_flow(&s.headers.tuple, expires_s, flags);
    s.key = s.to.reversed();
    if !node.touch_flow(&s.key, expires_s, mirrored(flags)) {
        s.other = s.flow;
        s.other.to = s.headers.tuple.reversed();
        s.other.flags = mirrored(flags);
        node.insert_flow(&s.key, &s.other, true);
    }
}

/// The flags of a row after a packet of its direction.
#[inline(always)]
const fn step(flags: u32, h: &Headers) -> u32 {
    let mut flags = flags;
    if matches!(h.kind, L4::Tcp) {
        if h.tcp_flags & tcp::RST != 0 {
            return flags | flow_flag::CLOSING | flow_flag::PEER_CLOSING;
        }
        if h.tcp_flags & tcp::FIN != 0 {
            flags |= flow_flag::CLOSING;
        }
    }
    if flags & flow_flag::REPLY != 0 {
        flags |= flow_flag::ESTABLISHED;
    }
    flags
}

/// The flags of the other row of the same connection.
#[inline(always)]
pub(crate) const fn mirrored(flags: u32) -> u32 {
    let over = flow_flag::CLOSING | flow_flag::PEER_CLOSING;
    let swapped = match (flags & flow_flag::CLOSING != 0, flags & flow_flag::PEER_CLOSING != 0) {
        (true, false) => flow_flag::PEER_CLOSING,
        (false, true) => flow_flag::CLOSING,
        (true, true) | (false, false) => flags & over,
    };
    (flags & !over | swapped) ^ flow_flag::REPLY
}

#[inline(always)]
const fn timeout_s(protocol: u8, flags: u32) -> u32 {
    let over = flow_flag::CLOSING | flow_flag::PEER_CLOSING;
    match protocol {
        proto::TCP | proto::SCTP if flags & over == over => TCP_CLOSING_S,
        proto::TCP | proto::SCTP if flags & flow_flag::ESTABLISHED != 0 => TCP_ESTABLISHED_S,
        proto::TCP | proto::SCTP => TCP_SYN_S,
        proto::ICMP | proto::ICMPV6 => ICMP_S,
        _ => UDP_S,
    }
}

/// A connection to be opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Opening {
    /// Service that chose the backend, 0 if none.
    pub service_id: u32,
    /// Bits of `flow_flag` beside what is implied.
    pub flags: u32,
    /// Whether the source port must lie in the node's range, because the source is an address of the node.
    pub in_range: bool,
    /// Whether there is anything to open.
    pub wanted: bool,
    /// Whether the packet's source port can be changed.
    pub can_remap: bool,
    /// State of the walk through the ports.
    pub probe: u32,
}

/// Opens the connection `s.headers.tuple -> s.to`. Its source port changes if it must lie in the node's range, or if
/// another connection already has the same reply tuple (one backend reached by two services from one port).
#[inline(never)]
pub(crate) fn open<N: Node>(node: &mut N, s: &mut Scratch) -> Result<(), Counter> {
    let is_port = matches!(s.headers.kind, L4::Tcp | L4::Udp);
    s.opening.can_remap = is_port || (matches!(s.headers.kind, L4::Echo) && s.headers.is_request);
    s.opening.probe = hash(&s.headers.tuple, node.seed() ^ PROBE_SEED);
    let (first, last) = node.snat_ports();
    let own = u16::from_be_bytes(s.to.sport);
    if s.opening.in_range && s.opening.can_remap && (own < first || own > last) {
        next_port(node, s);
    }
    // Everything but the count goes through memory, so that the verifier sees that all rounds are alike.
    for _ in 0..PORT_ATTEMPTS {
        s.claim = claim_reply(node, s);
        if !matches!(s.claim, Inserted::Exists) || !s.opening.can_remap {
            break;
        }
        next_port(node, s);
    }
    match s.claim {
        Inserted::Done => insert_forward(node, s),
        Inserted::Exists => Err(Counter::NoMappingForNat),
        Inserted::Failed => Err(Counter::FlowInsertFailed),
    }
}

/// The next port of the connection's random walk through the node's range.
#[inline(always)]
fn next_port<N: Node>(node: &N, s: &mut Scratch) {
    let (first, last) = node.snat_ports();
    let span = u32::from(last.wrapping_sub(first)) + 1;
    s.to.sport = first.wrapping_add(low16(scale(s.opening.probe, span))).to_be_bytes();
    // Full period over 2^32 and good high bits (Steele and Vigna, "Computationally easy, spectrally good multipliers").
    s.opening.probe = s.opening.probe.wrapping_mul(0x915f_77f5).wrapping_add(1);
}

/// Writes the reply row if it is free, expired, or what is left of this very connection.
#[inline(never)]
fn claim_reply<N: Node>(node: &mut N, s: &mut Scratch) -> Inserted {
    s.key = s.to.reversed();
    let flags = step(s.opening.flags, &s.headers);
    s.flow = Flow {
        to: s.headers.tuple.reversed(),
        expires_s: s.now_s.saturating_add(timeout_s(s.headers.tuple.proto, flags)),
        service_id: s.opening.service_id,
        flags: mirrored(flags),
        zero: 0,
    };
    let inserted = node.insert_flow(&s.key, &s.flow, true);
    if !matches!(inserted, Inserted::Exists) || !node.flow(&s.key, &mut s.other) {
        return inserted;
    }
    if s.other.expires_s >= s.now_s && !same(&s.other.to, &s.flow.to) {
        return Inserted::Exists;
    }
    node.insert_flow(&s.key, &s.flow, false)
}

#[inline(always)]
fn insert_forward<N: Node>(node: &mut N, s: &mut Scratch) -> Result<(), Counter> {
    s.flow.to = s.to;
    s.flow.flags = step(s.opening.flags, &s.headers);
    match node.insert_flow(&s.headers.tuple, &s.flow, false) {
        Inserted::Done => Ok(()),
        Inserted::Exists | Inserted::Failed => {
            node.remove_flow(&s.key);
            Err(Counter::FlowInsertFailed)
        }
    }
}

/// Notes an untranslated connection that came through the stack, so that its replies are known for replies. A reply
/// tuple that is taken stays: the packet is then the translated form of a connection that is known already.
#[inline(always)]
pub(crate) fn note<N: Node>(node: &mut N, s: &mut Scratch) {
    s.to = s.headers.tuple;
    s.opening = Opening::default();
    s.key = s.to.reversed();
    let flags = step(s.opening.flags, &s.headers);
    s.flow = Flow {
        to: s.key,
        expires_s: s.now_s.saturating_add(timeout_s(s.headers.tuple.proto, flags)),
        service_id: 0,
        flags: mirrored(flags),
        zero: 0,
    };
    if matches!(node.insert_flow(&s.key, &s.flow, true), Inserted::Done) {
        // A failure only means that replies are translated as if they opened connections; the table is full then.
        let _ = insert_forward(node, s);
    }
}

/// Spreads a hash evenly over `0..span` without a division.
#[inline(always)]
pub(crate) const fn scale(hash: u32, span: u32) -> u32 {
    ((hash as u64 * span as u64) >> 32) as u32
}

#[inline(always)]
const fn low16(n: u32) -> u16 {
    (n & 0xffff) as u16
}

/// A seeded hash of a tuple: multiply and fold, as in wyhash and FxHash. Equal on all machines.
#[inline(never)]
pub(crate) fn hash(t: &Tuple, seed: u32) -> u32 {
    /// 2^64 divided by the golden ratio, odd: spreads neighbouring inputs (Knuth, TAOCP 6.4).
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let (s0, s1) = halves(&t.src);
    let (d0, d1) = halves(&t.dst);
    let mut h = u64::from(seed).wrapping_add(1).wrapping_mul(MULTIPLIER);
    let ends = u64::from(ports(t)) << 8 | u64::from(t.proto);
    let mut mix = |word: u64| {
        h = (h ^ word).wrapping_mul(MULTIPLIER);
        h ^= h >> 29;
    };
    mix(s0);
    mix(s1);
    mix(d0);
    mix(d1);
    mix(ends);
    mix(0);
    (h >> 32) as u32
}
