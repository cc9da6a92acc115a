//! How the logic touches a packet.

/// Bytes of an Ethernet header, before the IP header.
pub(crate) const ETHERNET_LEN: u32 = 14;
pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The packet could not be made writable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unwritable;

/// How a change counts in a layer 4 checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L4Sum {
    /// Bytes of the segment itself. Where the device still has to sum (CHECKSUM_PARTIAL) there is nothing to do.
    Body,
    /// Addresses of the IPv4 pseudo-header.
    PseudoV4,
    /// Addresses of the IPv6 pseudo-header; the kernel must know, for IPv6 headers have no checksum of their own.
    PseudoV6,
}

/// One packet with its link-layer header. Offsets count from the first byte of that header.
pub trait Packet {
    /// Bytes of the whole packet; of an offloaded (GSO) one the sum of its segments.
    fn size(&self) -> u32;
    /// Interface on which the program runs.
    fn ifindex(&self) -> u32;
    /// EtherType behind all tags.
    fn ether_type(&self) -> u16;
    /// Whether its link-layer destination is this host.
    fn is_for_host(&self) -> bool;
    /// Whether its link-layer destination is another host; neither holds for broadcast and multicast.
    fn is_for_other_host(&self) -> bool;
    /// The packet's mark (`abi::mark`).
    fn mark(&self) -> u32;
    /// Payload bytes per segment if this is an offloaded packet, else 0.
    fn gso_size(&self) -> u32;
    /// Reads bytes; `None` when they are not all there.
    fn load<const LEN: usize>(&self, offset: u32) -> Option<[u8; LEN]>;
    /// Writes bytes that a checksum inside the packet accounts for.
    fn store<const LEN: usize>(&mut self, offset: u32, bytes: &[u8; LEN]) -> Result<(), Unwritable>;
    /// Writes a byte that no checksum inside the packet accounts for (the IPv6 hop limit).
    fn store_unsummed(&mut self, offset: u32, byte: u8) -> Result<(), Unwritable>;
    /// Adds a difference (see `checksum`) to the IPv4 header checksum at `offset`.
    fn add_ip_sum(&mut self, offset: u32, diff: u32) -> Result<(), Unwritable>;
    /// Adds a difference to a layer 4 checksum at `offset`. `zero_is_none` holds for UDP: a zero checksum means that
    /// there is none and stays, and a sum of zero is written as 0xffff (RFC 768).
    fn add_l4_sum(&mut self, offset: u32, diff: u32, sum: L4Sum, zero_is_none: bool) -> Result<(), Unwritable>;
}
