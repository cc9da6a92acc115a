//! Packets for tests, with every checksum right, and a check that finds a wrong one.

use std::vec;
use std::vec::Vec;

use causeway_datapath_abi::Tuple;

use super::is_v6;
use crate::checksum::fold16;
use crate::parse::proto;
use crate::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// A packet to be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// Ports are the echo identifier for ICMP: `sport` in a request, `dport` in a reply.
    pub tuple: Tuple,
    pub ttl: u8,
    pub tcp_flags: u8,
    /// A multiple of four bytes, at most 40.
    pub tcp_options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Bytes of IPv4 options, a multiple of four; for IPv6 a destination options header of eight bytes if not zero.
    pub options: u8,
    /// Identification, offset in units of eight bytes, and whether more follow.
    pub fragment: Option<(u32, u16, bool)>,
    pub dont_fragment: bool,
    /// UDP over IPv4 without a checksum.
    pub no_udp_sum: bool,
    /// ICMP type and code other than echo; the payload then is the message's body after the first eight bytes.
    pub icmp: Option<(u8, u8)>,
}

impl Spec {
    pub fn new(tuple: Tuple) -> Spec {
        Spec {
            tuple,
            ttl: 64,
            tcp_flags: 2,
            tcp_options: Vec::new(),
            payload: vec![0x61; 20],
            options: 0,
            fragment: None,
            dont_fragment: true,
            no_udp_sum: false,
            icmp: None,
        }
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let l4 = match self.fragment {
            Some((_, offset, _)) if offset != 0 => self.payload.clone(),
            _ => self.layer4(),
        };
        let mut frame = vec![0u8; 12];
        match self.tuple.src.as_v4() {
            Some(_) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(self.ipv4(l4.len()));
            }
            None => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend(self.ipv6(l4.len()));
            }
        }
        frame.extend(l4);
        frame
    }

    /// The IP packet without its frame, as ICMP errors carry it.
    pub fn build_ip(&self) -> Vec<u8> {
        self.build().split_off(14)
    }

    fn ipv4(&self, l4_len: usize) -> Vec<u8> {
        let header_len = 20 + self.options;
        let mut h = vec![0x40 | (header_len / 4), 0];
        h.extend(to_u16(usize::from(header_len) + l4_len).to_be_bytes());
        let (id, offset, more) = self.fragment.unwrap_or((0x1234, 0, false));
        h.extend(to_u16(usize::try_from(id & 0xffff).unwrap_or(0)).to_be_bytes());
        let df = u16::from(self.dont_fragment && self.fragment.is_none());
        h.extend((df << 14 | u16::from(more) << 13 | offset).to_be_bytes());
        h.extend([self.ttl, self.tuple.proto, 0, 0]);
        h.extend(self.tuple.src.as_v4().unwrap_or_default());
        h.extend(self.tuple.dst.as_v4().unwrap_or_default());
        // Option 1 is "no operation" (RFC 791 section 3.1).
        h.extend(core::iter::repeat_n(1, usize::from(self.options)));
        let sum = complement(sum_of(&h));
        h[10..12].copy_from_slice(&sum);
        h
    }

    fn ipv6(&self, l4_len: usize) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut next = self.tuple.proto;
        if let Some((id, offset, more)) = self.fragment {
            extensions.extend([next, 0]);
            extensions.extend((offset << 3 | u16::from(more)).to_be_bytes());
            extensions.extend(id.to_be_bytes());
            next = proto::FRAGMENT;
        }
        if self.options != 0 {
            // One PadN option (RFC 8200 section 4.2) in front of whatever follows.
            let mut header = vec![next, 0, 1, 4, 0, 0, 0, 0];
            header.extend(extensions);
            extensions = header;
            next = proto::DEST_OPTS;
        }
        let mut h = vec![0x60, 0, 0, 0];
        h.extend(to_u16(extensions.len() + l4_len).to_be_bytes());
        h.extend([next, self.ttl]);
        h.extend(self.tuple.src.0);
        h.extend(self.tuple.dst.0);
        h.extend(extensions);
        h
    }

    fn layer4(&self) -> Vec<u8> {
        let t = &self.tuple;
        let mut l4 = Vec::new();
        let sum_at = match t.proto {
            proto::TCP => {
                l4.extend([t.sport[0], t.sport[1], t.dport[0], t.dport[1], 0, 0, 0, 1, 0, 0, 0, 1]);
                let words = u8::try_from(5 + self.tcp_options.len() / 4).unwrap_or(5);
                l4.extend([words << 4, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
                l4.extend(&self.tcp_options);
                16
            }
            proto::UDP => {
                l4.extend([t.sport[0], t.sport[1], t.dport[0], t.dport[1]]);
                l4.extend(to_u16(8 + self.payload.len()).to_be_bytes());
                l4.extend([0, 0]);
                6
            }
            proto::ICMP | proto::ICMPV6 => {
                let (kind, code, id) = self.icmp_head();
                l4.extend([kind, code, 0, 0, id[0], id[1], 0, 1]);
                2
            }
            _ => {
                l4.extend([t.sport[0], t.sport[1], t.dport[0], t.dport[1]]);
                l4.extend(&self.payload);
                return l4;
            }
        };
        l4.extend(&self.payload);
        if self.no_udp_sum && t.proto == proto::UDP {
            return l4;
        }
        let mut sum = complement(sum_of(&l4) + pseudo(t, l4.len()));
        if t.proto == proto::UDP && sum == [0; 2] {
            sum = [0xff; 2];
        }
        l4[sum_at..sum_at + 2].copy_from_slice(&sum);
        l4
    }

    fn icmp_head(&self) -> (u8, u8, [u8; 2]) {
        let v6 = self.tuple.proto == proto::ICMPV6;
        if let Some((kind, code)) = self.icmp {
            return (kind, code, [0; 2]);
        }
        if self.tuple.dport == [0; 2] {
            (if v6 { 128 } else { 8 }, 0, self.tuple.sport)
        } else {
            (if v6 { 129 } else { 0 }, 0, self.tuple.dport)
        }
    }
}

fn to_u16(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// Sum of 16-bit words, an odd byte padded with zero.
fn sum_of(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|c| u64::from(u16::from_ne_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum()
}

fn complement(sum: u64) -> [u8; 2] {
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    (!fold16(u32::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(0))).to_ne_bytes()
}

/// Sum of the pseudo-header; nothing for ICMP, which has none.
fn pseudo(t: &Tuple, l4_len: usize) -> u64 {
    if t.proto == proto::ICMP {
        return 0;
    }
    let addrs = match (t.src.as_v4(), t.dst.as_v4()) {
        (Some(s), Some(d)) => sum_of(&s) + sum_of(&d),
        _ => sum_of(&t.src.0) + sum_of(&t.dst.0),
    };
    addrs + sum_of(&[0, t.proto]) + sum_of(&to_u16(l4_len).to_be_bytes())
}

/// Names the first wrong checksum of a whole packet, looking into ICMP errors too; `None` if all are right.
pub fn broken_sum(frame: &[u8]) -> Option<&'static str> {
    let ip = frame.get(14..)?;
    broken_ip(ip, is_v6(frame), true)
}

fn broken_ip(ip: &[u8], v6: bool, whole: bool) -> Option<&'static str> {
    let (t, mut at, end) = if v6 {
        let mut t = Tuple::default();
        t.src.0.copy_from_slice(ip.get(8..24)?);
        t.dst.0.copy_from_slice(ip.get(24..40)?);
        t.proto = *ip.get(6)?;
        (t, 40, 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])))
    } else {
        let len = usize::from(ip.first()? & 15) * 4;
        if complement(sum_of(ip.get(..len)?)) != [0; 2] {
            return Some(if whole { "IPv4 header" } else { "IPv4 header inside" });
        }
        if ip[6] & 0x3f != 0 || ip[7] != 0 {
            return None;
        }
        let mut t = Tuple { proto: ip[9], ..Tuple::default() };
        t.src = causeway_datapath_abi::Addr::v4(*ip.get(12..16)?.first_chunk()?);
        t.dst = causeway_datapath_abi::Addr::v4(*ip.get(16..20)?.first_chunk()?);
        (t, len, usize::from(u16::from_be_bytes([ip[2], ip[3]])))
    };
    let mut t = t;
    if t.proto == proto::DEST_OPTS {
        t.proto = *ip.get(at)?;
        at += 8;
    }
    let l4 = ip.get(at..end)?;
    let wrong = complement(sum_of(l4) + pseudo(&t, l4.len())) != [0; 2];
    match t.proto {
        proto::TCP if wrong => Some(if whole { "TCP" } else { "TCP inside" }),
        proto::UDP if l4.get(6..8) == Some(&[0, 0]) => None,
        proto::UDP if wrong => Some(if whole { "UDP" } else { "UDP inside" }),
        proto::ICMP | proto::ICMPV6 if wrong => Some(if whole { "ICMP" } else { "ICMP inside" }),
        proto::ICMP if matches!(l4.first(), Some(3 | 11 | 12)) => broken_ip(l4.get(8..)?, v6, false),
        proto::ICMPV6 if matches!(l4.first(), Some(1..=4)) => broken_ip(l4.get(8..)?, v6, false),
        _ => None,
    }
}
