//! Super-packets from the kernel into packets: what a network card with TSO and USO does.
//!
//! The TUN device is opened with `IFF_VNET_HDR`: every packet comes behind a [`VnetHeader`] that says what the kernel has
//! left undone, segmentation and checksums.
#![allow(clippy::cast_possible_truncation, reason = "lengths within packets, which end at 65,535")]

use bytes::{BufMut as _, BytesMut};

use crate::checksum::{fold, pseudo, sum};
use crate::packet::{TCP, UDP, Version};

/// Padding of WireGuard's payloads (white paper section 5.4.6).
const PADDING: usize = 16;

/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h), in the CPU's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub header_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHeader {
    pub const LEN: usize = 10;

    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified.
    pub const DATA_VALID: u8 = 2;

    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation offload, since Linux 6.2.
    pub const GSO_UDP_L4: u8 = 5;
    /// A bit beside the type: the first segment alone carries CWR (RFC 3168 section 6.1.2).
    pub const GSO_ECN: u8 = 0x80;

    /// `None` if there are not [`Self::LEN`] bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_ne_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        Some(Self {
            flags: *bytes.first()?,
            gso_type: *bytes.get(1)?,
            header_len: word(2)?,
            gso_size: word(4)?,
            csum_start: word(6)?,
            csum_offset: word(8)?,
        })
    }

    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

/// A header that does not fit its packet. The kernel does not send such; the packet is dropped and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet and its offload header do not fit each other")]
pub struct Malformed;

/// Gives `emit` the packets that `packet` stands for, in order, with checksums, each padded with zeros to a multiple of 16
/// as WireGuard wants its payloads.
pub fn split(header: VnetHeader, packet: &[u8], mut emit: impl FnMut(BytesMut)) -> Result<(), Malformed> {
    match header.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_NONE => {
            let length = packet.len().next_multiple_of(PADDING);
            let mut whole = BytesMut::with_capacity(length);
            whole.extend_from_slice(packet);
            whole.put_bytes(0, length - packet.len());
            if header.flags & VnetHeader::NEEDS_CSUM != 0 {
                finish_checksum(header, &mut whole[..packet.len()])?;
            }
            emit(whole);
            Ok(())
        }
        VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6 => Frame::new(header, packet, TCP)?.segments(emit),
        VnetHeader::GSO_UDP_L4 => Frame::new(header, packet, UDP)?.segments(emit),
        _ => Err(Malformed),
    }
}

/// The field holds the pseudo-header's sum already.
fn finish_checksum(header: VnetHeader, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    let covered = packet.get(start..).filter(|_| at + 2 <= packet.len()).ok_or(Malformed)?;
    let mut checksum = !fold(sum(covered, 0));
    // RFC 768: a UDP checksum of zero means none.
    if checksum == 0 && header.csum_offset == 6 {
        checksum = 0xffff;
    }
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

/// One super-packet.
struct Frame<'p> {
    packet: &'p [u8],
    version: Version,
    protocol: u8,
    /// Where the TCP or UDP header begins, and where the payload does.
    transport: usize,
    payload: usize,
    size: usize,
}

impl<'p> Frame<'p> {
    fn new(header: VnetHeader, packet: &'p [u8], protocol: u8) -> Result<Self, Malformed> {
        let version = Version::of(packet).ok_or(Malformed)?;
        let transport = usize::from(header.csum_start);
        let length = match protocol {
            TCP => usize::from(packet.get(transport + 12).ok_or(Malformed)? >> 4) * 4,
            _ => 8,
        };
        let payload = transport + length;
        let least = if protocol == TCP { 20 } else { 8 };
        let size = usize::from(header.gso_size);
        let fits = transport >= version.header() && length >= least && payload < packet.len() && size > 0;
        if fits { Ok(Self { packet, version, protocol, transport, payload, size }) } else { Err(Malformed) }
    }

    fn segments(&self, mut emit: impl FnMut(BytesMut)) -> Result<(), Malformed> {
        let payloads = self.packet[self.payload..].chunks(self.size);
        let (headers, count) = (&self.packet[..self.payload], payloads.len());
        for (index, payload) in payloads.enumerate() {
            let length = self.payload + payload.len();
            let padded = length.next_multiple_of(PADDING);
            let mut segment = BytesMut::with_capacity(padded);
            segment.extend_from_slice(headers);
            segment.extend_from_slice(payload);
            segment.put_bytes(0, padded - length);
            self.finish(&mut segment[..length], index, index + 1 == count)?;
            emit(segment);
        }
        Ok(())
    }

    fn finish(&self, segment: &mut [u8], index: usize, last: bool) -> Result<(), Malformed> {
        let length = u16::try_from(segment.len()).map_err(|_| Malformed)?;
        match self.version {
            Version::V4 { header } => {
                segment[2..4].copy_from_slice(&length.to_be_bytes());
                // As the kernel's own segmentation does (inet_gso_segment): identifications go up by one.
                let id = u16::from_be_bytes([segment[4], segment[5]]).wrapping_add(index as u16);
                segment[4..6].copy_from_slice(&id.to_be_bytes());
                segment[10..12].fill(0);
                let checksum = !fold(sum(&segment[..header], 0));
                segment[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            Version::V6 => segment[4..6].copy_from_slice(&(length - 40).to_be_bytes()),
        }
        let field = match self.protocol {
            TCP => {
                self.finish_tcp(&mut segment[self.transport..], index, last);
                self.transport + 16
            }
            _ => {
                let udp = length - self.transport as u16;
                segment[self.transport + 4..self.transport + 6].copy_from_slice(&udp.to_be_bytes());
                self.transport + 6
            }
        };
        segment[field..field + 2].fill(0);
        let pseudo = pseudo(&segment[self.version.addresses()], self.protocol, segment.len() - self.transport);
        let mut checksum = !fold(sum(&segment[self.transport..], pseudo));
        if checksum == 0 && self.protocol == UDP {
            checksum = 0xffff;
        }
        segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        Ok(())
    }

    fn finish_tcp(&self, tcp: &mut [u8], index: usize, last: bool) {
        const FIN: u8 = 1;
        const PSH: u8 = 8;
        const CWR: u8 = 0x80;
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let sequence = sequence.wrapping_add((index * self.size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !last {
            tcp[13] &= !(FIN | PSH);
        }
        if index > 0 {
            tcp[13] &= !CWR;
        }
    }
}
