//! TCP and UDP packets made the plain way: every field set, every checksum summed word by word.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(clippy::cast_possible_truncation, reason = "lengths within packets")]

use causeway_wireguard::VnetHeader;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    V4 { df: bool },
    V6,
}

/// What stands in the headers of a flow's next packet.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) kind: Kind,
    pub(crate) udp: bool,
    pub(crate) class: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) source_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// Whole words.
    pub(crate) options: Vec<u8>,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            kind: Kind::V6,
            udp: false,
            class: 0,
            ttl: 63,
            id: 0xfffe,
            source_port: 4242,
            sequence: 0xffff_f000,
            acknowledgement: 7,
            window: 512,
            urgent: 0,
            options: Vec::new(),
        }
    }
}

/// Bytes that differ from their neighbours.
pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 256) as u8).collect()
}

impl Flow {
    fn ip(&self) -> usize {
        if self.kind == Kind::V6 { 40 } else { 20 }
    }

    /// Bytes of all headers.
    pub(crate) fn header(&self) -> usize {
        self.ip() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    /// One packet with right checksums.
    pub(crate) fn packet(&self, payload: &[u8], flags: u8) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        let transport = (self.header() - self.ip() + payload.len()) as u16;
        let mut packet = Vec::new();
        match self.kind {
            Kind::V4 { df } => {
                packet.extend([0x45, self.class]);
                packet.extend((transport + 20).to_be_bytes());
                packet.extend(self.id.to_be_bytes());
                packet.extend([if df { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
                packet.extend([10, 0, 1, 1, 10, 0, 2, 1]);
            }
            Kind::V6 => {
                packet.extend([0x60 | self.class >> 4, self.class << 4, 0x12, 0x34]);
                packet.extend(transport.to_be_bytes());
                packet.extend([protocol, self.ttl]);
                packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            }
        }
        packet.extend(self.source_port.to_be_bytes());
        packet.extend(443u16.to_be_bytes());
        if self.udp {
            packet.extend(transport.to_be_bytes());
            packet.extend([0, 0]);
        } else {
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(self.acknowledgement.to_be_bytes());
            packet.extend([((20 + self.options.len()) as u8 / 4) << 4, flags]);
            packet.extend(self.window.to_be_bytes());
            packet.extend([0, 0]);
            packet.extend(self.urgent.to_be_bytes());
            packet.extend(&self.options);
        }
        packet.extend(payload);
        finish(&mut packet, protocol);
        packet
    }

    /// What follows a packet of `length` bytes.
    pub(crate) fn advance(&mut self, length: usize) {
        self.sequence = self.sequence.wrapping_add(length as u32);
        self.id = self.id.wrapping_add(1);
    }

    /// As the kernel gives a payload that is to be cut into pieces of `size`; `flags` beside ACK.
    pub(crate) fn super_packet(&self, payload: &[u8], size: usize, flags: u8) -> (VnetHeader, Vec<u8>) {
        let mut packet = self.packet(payload, ACK | flags);
        let ip = self.ip();
        let offset = if self.udp { 6 } else { 16 };
        let partial = naive(&pseudo(&packet, if self.udp { 17 } else { 6 }));
        packet[ip + offset..ip + offset + 2].copy_from_slice(&partial.to_be_bytes());
        let gso_type = match self.kind {
            _ if self.udp => VnetHeader::GSO_UDP_L4,
            Kind::V4 { .. } => VnetHeader::GSO_TCPV4,
            Kind::V6 => VnetHeader::GSO_TCPV6,
        };
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type,
            header_len: self.header() as u16,
            gso_size: size as u16,
            csum_start: ip as u16,
            csum_offset: offset as u16,
        };
        (header, packet)
    }

    /// The packets that a payload is to become; `flags`, beside ACK, on the last.
    pub(crate) fn pieces(&self, payload: &[u8], size: usize, flags: u8) -> Vec<Vec<u8>> {
        let mut flow = self.clone();
        let count = payload.len().div_ceil(size);
        let pieces = payload.chunks(size).enumerate().map(|(index, piece)| {
            let packet = flow.packet(piece, if index + 1 == count { ACK | flags } else { ACK });
            flow.advance(piece.len());
            packet
        });
        pieces.collect()
    }
}

/// The length that a packet's header says.
pub(crate) fn total(packet: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 { word(2) } else { 40 + word(4) }
}

fn ip_header(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 }
}

/// Puts right checksums into a packet; `protocol` 0: whatever it says, TCP in any case but UDP.
pub(crate) fn finish(packet: &mut [u8], protocol: u8) {
    let ip = ip_header(packet);
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let sum = !naive(&packet[..ip]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let field = ip + if protocol == 17 { 6 } else { 16 };
    packet[field..field + 2].fill(0);
    let protocol = if protocol == 17 { 17 } else { 6 };
    let mut sum = !naive(&[pseudo(packet, protocol), packet[ip..].to_vec()].concat());
    if sum == 0 && protocol == 17 {
        sum = 0xffff;
    }
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A packet is as long as it says, and its checksums are right.
#[track_caller]
pub(crate) fn check(packet: &[u8]) {
    assert_eq!(total(packet), packet.len());
    let (ip, v4) = (ip_header(packet), packet[0] >> 4 == 4);
    if v4 {
        assert_eq!(naive(&packet[..ip]), 0xffff);
    }
    let protocol = if v4 { packet[9] } else { packet[6] };
    assert_eq!(naive(&[pseudo(packet, protocol), packet[ip..].to_vec()].concat()), 0xffff);
    if protocol == 17 {
        assert_eq!(usize::from(u16::from_be_bytes([packet[ip + 4], packet[ip + 5]])), packet.len() - ip);
    }
}

/// Of RFC 9293 section 3.1 and RFC 8200 section 8.1.
fn pseudo(packet: &[u8], protocol: u8) -> Vec<u8> {
    let ip = ip_header(packet);
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let [a, b, c, d] = ((packet.len() - ip) as u32).to_be_bytes();
    [addresses, &[a, b, c, d, 0, 0, 0, protocol]].concat()
}

/// RFC 1071, a word at a time.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    for word in bytes.chunks(2) {
        let (added, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
        sum = added + u16::from(carry);
    }
    sum
}
