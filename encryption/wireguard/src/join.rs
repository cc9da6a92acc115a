//! Packets into super-packets for the kernel: what a network card with GRO does. Only TCP is joined.
//!
//! What is joined is what the kernel's own GRO would join (net/ipv4/tcp_offload.c): segments of one flow that follow each
//! other and differ in nothing but sequence number and payload, and whose checksums are right.
#![allow(clippy::cast_possible_truncation, reason = "lengths within packets, which end at 65,535")]

use std::io::IoSlice;

use crate::checksum::{fold, pseudo, sum};
use crate::packet::{TCP, Version};
use crate::split::VnetHeader;

/// Flows that are open for joining at one time; more than that in one batch are written one by one.
const MAX_OPEN: usize = 8;
/// Pieces of a super-packet: the kernel takes 1,024 (`UIO_MAXIOV`), and one is the header.
const MAX_PIECES: usize = 128;
/// IPv4's length field ends here, and so does the kernel's GRO by default.
const MAX_TOTAL: usize = 65_535;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Packets of one batch, in the order in which they came, some of them joined.
#[derive(Debug, Default)]
pub struct Joiner<P> {
    groups: Vec<Group<P>>,
    /// Indexes into `groups`.
    open: Vec<usize>,
}

/// One packet to write: a header, and the packets that it stands for.
#[derive(Debug)]
struct Group<P> {
    vnet: VnetHeader,
    /// The first is whole, of the others the payload counts, which begins at `payload`.
    packets: Vec<P>,
    payload: usize,
    total: usize,
    next_sequence: u32,
    next_id: u16,
}

/// A TCP segment that may be joined.
struct Segment {
    version: Version,
    transport: usize,
    payload: usize,
    sequence: u32,
    id: u16,
    pushed: bool,
}

impl<P: AsRef<[u8]> + AsMut<[u8]>> Joiner<P> {
    pub fn new() -> Self {
        Self { groups: Vec::new(), open: Vec::new() }
    }

    /// `packet` has no padding behind it.
    pub fn push(&mut self, packet: P) {
        let bytes = packet.as_ref();
        let Some(segment) = Segment::of(bytes) else {
            // What is not joined must not overtake its flow: everything before it is closed.
            self.open.clear();
            return self.groups.push(Group::alone(packet, VnetHeader::default()));
        };
        let found = self.open.iter().position(|&at| self.groups[at].is_flow_of(bytes, &segment));
        if let Some(at) = found {
            let index = self.open[at];
            let group = &mut self.groups[index];
            if group.takes(bytes, &segment) {
                if group.append(packet, &segment) {
                    self.open.swap_remove(at);
                }
                return;
            }
            self.open.swap_remove(at);
        }
        if self.open.len() == MAX_OPEN {
            self.open.remove(0);
        }
        if !segment.pushed {
            self.open.push(self.groups.len());
        }
        let mut group = Group::alone(packet, VnetHeader { flags: VnetHeader::DATA_VALID, ..VnetHeader::default() });
        group.payload = segment.payload;
        group.next_sequence = segment.sequence.wrapping_add((group.total - segment.payload) as u32);
        group.next_id = segment.id.wrapping_add(1);
        self.groups.push(group);
    }

    /// Writes each packet by `write`, which gets the pieces of one, and gives all that was pushed to `done`.
    pub fn flush(&mut self, mut write: impl FnMut(&[IoSlice<'_>]), mut done: impl FnMut(P)) {
        self.open.clear();
        for mut group in self.groups.drain(..) {
            group.close();
            let vnet = group.vnet.to_bytes();
            let mut pieces: [IoSlice<'_>; MAX_PIECES + 1] = [IoSlice::new(&[]); MAX_PIECES + 1];
            pieces[0] = IoSlice::new(&vnet);
            for (index, packet) in group.packets.iter().enumerate() {
                let from = if index == 0 { 0 } else { group.payload };
                pieces[index + 1] = IoSlice::new(&packet.as_ref()[from..]);
            }
            write(&pieces[..=group.packets.len()]);
            group.packets.into_iter().for_each(&mut done);
        }
    }

    /// Whether a packet that comes next could be joined to one of these.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

impl Segment {
    fn of(packet: &[u8]) -> Option<Self> {
        let version = Version::of(packet)?;
        let (protocol, plain) = match version {
            // No options, no fragment.
            Version::V4 { header } => (packet[9], header == 20 && packet[6] & 0x3f == 0 && packet[7] == 0),
            Version::V6 => (packet[6], true),
        };
        let transport = version.header();
        let tcp = packet.get(transport..)?;
        if !plain || protocol != TCP || tcp.len() < 20 || version.total(packet) != packet.len() {
            return None;
        }
        let payload = transport + usize::from(tcp[12] >> 4) * 4;
        if payload < transport + 20 || payload >= packet.len() || tcp[13] & !PSH != ACK {
            return None;
        }
        let pseudo = pseudo(&packet[version.addresses()], TCP, tcp.len());
        if fold(sum(tcp, pseudo)) != 0xffff {
            return None;
        }
        if let Version::V4 { header } = version
            && fold(sum(&packet[..header], 0)) != 0xffff
        {
            return None;
        }
        Some(Self {
            version,
            transport,
            payload,
            sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
            id: u16::from_be_bytes([packet[4], packet[5]]),
            pushed: tcp[13] & PSH != 0,
        })
    }
}

impl<P: AsRef<[u8]> + AsMut<[u8]>> Group<P> {
    fn alone(packet: P, vnet: VnetHeader) -> Self {
        let total = packet.as_ref().len();
        Self { vnet, packets: vec![packet], payload: 0, total, next_sequence: 0, next_id: 0 }
    }

    fn first(&self) -> &[u8] {
        self.packets[0].as_ref()
    }

    fn is_flow_of(&self, packet: &[u8], segment: &Segment) -> bool {
        let first = self.first();
        let ports = segment.transport..segment.transport + 4;
        Version::of(first) == Some(segment.version)
            && first[segment.version.addresses()] == packet[segment.version.addresses()]
            && first[ports.clone()] == packet[ports]
    }

    /// Whether `packet`, of the same flow, is the next piece.
    fn takes(&self, packet: &[u8], segment: &Segment) -> bool {
        let first = self.first();
        let size = first.len() - self.payload;
        let same_ip = match segment.version {
            // Version, length of the header, TOS; flags; TTL and protocol.
            Version::V4 { .. } => {
                let unfragmentable = packet[6] & 0x40 != 0;
                first[..2] == packet[..2]
                    && first[6..10] == packet[6..10]
                    && (unfragmentable || segment.id == self.next_id)
            }
            Version::V6 => first[..4] == packet[..4] && first[6..8] == packet[6..8],
        };
        // Acknowledgement and data offset, window, options. Flags are ACK, and PSH, which ends a group.
        let tcp = segment.transport;
        same_ip
            && segment.payload == self.payload
            && segment.sequence == self.next_sequence
            && first[tcp + 8..tcp + 13] == packet[tcp + 8..tcp + 13]
            && first[tcp + 14..tcp + 16] == packet[tcp + 14..tcp + 16]
            && first[tcp + 18..self.payload] == packet[tcp + 18..segment.payload]
            && packet.len() - segment.payload <= size
            && self.total + packet.len() - segment.payload <= MAX_TOTAL
            && self.packets.len() < MAX_PIECES
    }

    /// Whether the group is complete by it.
    fn append(&mut self, packet: P, segment: &Segment) -> bool {
        let length = packet.as_ref().len() - segment.payload;
        let size = self.first().len() - self.payload;
        if segment.pushed {
            self.packets[0].as_mut()[segment.transport + 13] |= PSH;
        }
        self.packets.push(packet);
        self.total += length;
        self.next_sequence = self.next_sequence.wrapping_add(length as u32);
        self.next_id = segment.id.wrapping_add(1);
        segment.pushed || length < size
    }

    /// Makes the first packet's headers those of the whole.
    fn close(&mut self) {
        if self.packets.len() < 2 {
            return;
        }
        let (total, payload) = (self.total, self.payload);
        let first = self.packets[0].as_mut();
        let size = first.len() - payload;
        let Some(version) = Version::of(first) else { return };
        let transport = version.header();
        // Cannot be cut: `takes` has kept the sum within MAX_TOTAL.
        match version {
            Version::V4 { header } => {
                first[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                first[10..12].fill(0);
                let checksum = !fold(sum(&first[..header], 0));
                first[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Version::V6 => first[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes()),
        }
        // Left to the kernel, or to the card behind it: the field holds the pseudo-header's sum.
        let partial = fold(pseudo(&first[version.addresses()], TCP, total - transport));
        first[transport + 16..transport + 18].copy_from_slice(&partial.to_be_bytes());
        self.vnet = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: if version == Version::V6 { VnetHeader::GSO_TCPV6 } else { VnetHeader::GSO_TCPV4 },
            header_len: payload as u16,
            gso_size: size as u16,
            csum_start: transport as u16,
            csum_offset: 16,
        };
    }
}
